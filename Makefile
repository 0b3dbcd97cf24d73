# make demo    the whole chain on this machine, in minutes      make test    every everyday test
# make lint    ruff, mypy, layers                               make bench   the side-by-side measurements, short form
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Python 3.10 is served by the older stack, 3.11 and later by the current one.
STACK := $(shell $(PYTHON) -c 'import sys; print("centos7-cu117" if sys.version_info < (3, 11) else "current")')
PINS := configs/stacks/$(STACK).txt
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-unit test-slurm test-slow lint bench slurm browser clean

$(VENV)/.ready: pyproject.toml $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "error: Python 3.10 or later is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	@# DeepSpeed's build imports torch, so torch comes first and nothing is built in isolation.
	$(PY) -m pip install -q -c $(PINS) setuptools wheel ninja torch
	$(PY) -m pip install -q -c $(PINS) --no-build-isolation deepspeed
	$(PY) -m pip install -q -c $(PINS) --no-build-isolation -e '.[train,dev]'
	@touch $@

demo: $(VENV)/.ready
	$(PY) -m glmjobs.submit --recipe configs/tiny.yaml --nodes 1 --gpus 2 --executor local --follow

test: $(VENV)/.ready slurm browser
	$(PY) -m pytest -m "not slow"

test-unit: $(VENV)/.ready
	$(PY) -m pytest tests/unit -m "not slow"

test-slurm: $(VENV)/.ready slurm
	$(PY) -m pytest tests/slurm

test-slow: $(VENV)/.ready slurm
	$(PY) -m pytest -m slow

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: $(VENV)/.ready
	@for b in benchmarks/*.py; do echo "== $$b"; $(PY) $$b --quick || exit 1; done

# The Slurm daemons and a browser that some tests need: installed where that is possible without asking (root, apt).
slurm:
	@command -v slurmctld >/dev/null && command -v munged >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && { apt-get update -qq; DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge slurmdbd mariadb-server >/dev/null; }; } || \
	  echo "no Slurm daemons here: the tests that need them will be skipped"

browser:
	@command -v chromium >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && { apt-get update -qq; DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; }; } || \
	  echo "no chromium here: the report's browser test will be skipped"

clean:
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
