# make demo    the whole chain on this machine, in minutes      make test    every everyday test
# make lint    ruff, mypy, layers                               make bench   the side-by-side measurements, short form
# make docs    the documentation as a site, in build/site
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PYTHON310 ?= python3.10
# Python 3.10 is served by the older stack, 3.11 and later by the current one.
STACK := $(shell $(PYTHON) -c 'import sys; print("centos7-cu117" if sys.version_info < (3, 11) else "current")')
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-unit test-slurm test-slow test-chaos test-cluster-stack lint docs bench bench-size gpu-acceptance slurm sshd browser clean

$(VENV)/.ready: pyproject.toml configs/stacks/$(STACK).txt configs/stacks/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "error: Python 3.10 or later is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m hpc.bootstrap --stack $(STACK) --into $(VENV) --dev
	@touch $@

demo: $(VENV)/.ready
	$(PY) -m glmjobs.submit --recipe configs/tiny.yaml --nodes 1 --gpus 2 --executor local --follow

test: $(VENV)/.ready slurm sshd browser
	$(PY) -m pytest -m "not slow"

test-unit: $(VENV)/.ready
	$(PY) -m pytest tests/unit -m "not slow"

test-slurm: $(VENV)/.ready slurm sshd
	$(PY) -m pytest tests/slurm

test-slow: $(VENV)/.ready slurm sshd
	$(PY) -m pytest -m slow

# Sixty faults on a rehearsal cluster, and fifteen at each strict site (tests/support/strict_sites.py); CHAOS_SEED and
# CHAOS_FAULTS change which and how many, CHAOS_SITE=attempts,gpus has it go to those sites alone.
test-chaos: $(VENV)/.ready slurm
	$(PY) -m pytest tests/chaos $(if $(CHAOS_SITE),-k strict_site)

# The mission's stack (Python 3.10, torch 2.0.1), on the CPU: losses of two ranks against one, gradient
# accumulation with and without offload, the whole chain, resharding, the models.
CLUSTER_VENV := .venv-centos7-cu117
test-cluster-stack:
	@$(PYTHON310) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' 2>/dev/null || \
	  { echo "error: $(PYTHON310) starts no Python 3.10 (not here, or a pyenv shim of another version); name one: make $@ PYTHON310=/path/to/bin/python3.10" >&2; exit 3; }
	$(PYTHON310) -m hpc.bootstrap --stack centos7-cu117 --into $(CLUSTER_VENV) --dev
	$(CLUSTER_VENV)/bin/python -m pytest tests/e2e/test_rank_equality.py tests/e2e/test_accumulation.py \
	  tests/e2e/test_local_chain.py tests/e2e/test_pretended_gpus.py tests/unit/bootstrap/test_stacks.py tests/unit/zero/test_reshard.py tests/unit/models/test_chatglm.py tests/unit/models/test_glm10b.py tests/unit/models/test_one_device.py

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# mkdocs says at every build what configs/stacks/docs.txt says of its future; NO_MKDOCS_2_WARNING keeps it short.
DOCS_VENV := .venv-docs
$(DOCS_VENV)/.ready: configs/stacks/docs.txt
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

docs: $(DOCS_VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build

# Everything that only a GPU can show, in nine minutes: on the machine that has it, with the Python that sees it.
gpu-acceptance:
	$(PYTHON) benchmarks/gpu_acceptance.py

bench: $(VENV)/.ready
	@for b in benchmarks/*.py; do echo "== $$b"; $(PY) $$b --quick || exit 1; done

# ChatGLM-6B's sizes without its weights, in files with holes: up to 25 GB of disk for what is written.
bench-size: $(VENV)/.ready
	$(PY) benchmarks/size.py

# The Slurm daemons and a browser that some tests need: installed where that is possible without asking (root, apt).
slurm:
	@command -v slurmctld >/dev/null && command -v munged >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && { apt-get update -qq; DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge slurmdbd mariadb-server >/dev/null; }; } || \
	  echo "no Slurm daemons here: the tests that need them will be skipped"

# Never started but by tests, on a port of their own. (A Debian image's policy-rc.d starts no services.)
sshd:
	@command -v sshd >/dev/null || test -x /usr/sbin/sshd || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && { apt-get update -qq; RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends openssh-server >/dev/null; }; } || \
	  echo "no sshd here: the tests of commands over ssh will be skipped"

browser:
	@command -v chromium >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && { apt-get update -qq; DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; }; } || \
	  echo "no chromium here: the report's browser test will be skipped"

clean:
	rm -rf $(VENV) $(DOCS_VENV) runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
