"""A chain in order, healed from another place, is left alone; what is replaced, and what a refused heal has done, is
said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glmjobs import heal, submit
from glmjobs.cli import run_command
from glmjobs.run import jobs
from glmjobs.run.directory import Run
from hpc.batch import environment
from hpc.batch.jobs import Job, Step
from hpc.chain import ledger
from hpc.slurm import client as slurm
from tests.support import small_chain
from tests.support.paths import REPO
from tests.support.small_chain import done, healed, ids, start, with_key, words

pytestmark = pytest.mark.slurm


@pytest.fixture
def drained(slurm_env: dict[str, str]) -> Any:
    """No node takes a job."""
    for node in ("node1", "node2"):
        slurm.update_node(node, "drain", reason="busy")
    yield
    for node in ("node1", "node2"):
        slurm.update_node(node, "resume")


def other_checkout(*args: Any, **options: Any) -> list[Job]:
    """The same jobs by another checkout's file and another environment's Python."""
    program = ("/opt/env/bin/python3", "/opt/co/stand_in.py", "$RUN")
    made = small_chain.requests(*args, **options)
    return [replace(job, steps=(Step(stage=job.stage, command=(*program, job.stage)),)) for job in made]


def test_from_another_place_nothing_changes(
    drained: None, place: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = start(place, "order")
    before = ids(run)
    (tmp_path / "link").symlink_to(place)
    (tmp_path / "elsewhere").mkdir()
    lines = (run.path / "ledger.jsonl").read_text()

    def unchanged(spelling: Path | str) -> None:
        capsys.readouterr()
        assert heal.main([str(spelling)]) == 0
        assert capsys.readouterr().err.startswith("nothing to heal: train: "), spelling
        assert ids(run) == before and (run.path / "ledger.jsonl").read_text() == lines

    unchanged(tmp_path / "link" / "order")
    unchanged(f"{run.path}/")
    unchanged(f"{run.path}/../order")
    monkeypatch.chdir(tmp_path)
    unchanged("runs/order")
    unchanged("order")
    monkeypatch.chdir(tmp_path / "elsewhere")
    unchanged("../link/order")
    monkeypatch.setenv("SLURM_CONF", str(Path(os.environ["SLURM_CONF"]).parent / ".." / "etc" / "slurm.conf"))
    unchanged(run.path)
    previous = os.umask(0o077)
    unchanged(run.path)
    os.umask(previous)
    monkeypatch.setattr(jobs, "checkout", lambda: Path("/opt/co"))
    monkeypatch.setattr(environment.sys, "prefix", "/opt/env")
    monkeypatch.setattr(jobs, "requests", other_checkout)
    unchanged(run.path)
    assert {j.restarts for j in slurm.jobs(list(before.values())).values()} == {0}


def test_a_run_of_before_is_known_by_its_scripts_directives(drained: None, place: Path, capsys: Any) -> None:
    run = start(place, "older")
    events = [{k: v for k, v in e.items() if k != "asks"} for e in ledger.read(run.path)]
    (run.path / "ledger.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    script = run.jobs("train") / "script.sh"
    script.write_text(script.read_text() + "# as an older version wrote it\n")
    assert {how for how, _ in healed(capsys, run).values()} == {"keep"}
    assert healed(capsys, run, "--set", "jobs.train.time=00:20:00")["train"][0] == "replace"


def test_what_changes_is_said_before_it_is_done(drained: None, place: Path, capsys: Any) -> None:
    run = start(place, "changed")
    before = ids(run)
    capsys.readouterr()
    assert heal.main([str(run.path), "--set", "jobs.train.time=00:20:00"]) == 0
    first, second, *rest = capsys.readouterr().err.splitlines()
    why = "it asks for other things now: time: 00:10:00 → 00:20:00"
    assert first.split(maxsplit=1) == ["train", f"job {before['train']} is replaced: {why}"]
    assert second.split(maxsplit=4) == ["train", "submitted", "new", ids(run)["train"], why]
    assert "waits again" in rest[0], "the next waits for the new one"
    assert with_key(run) == sorted({*before.values(), *ids(run).values()}, key=int)


REFUSES = """#!/bin/bash
grep -q gres=gpu "${@: -1}" || { echo "sbatch: error: jobs here must ask for a GPU" >&2; exit 1; }
exec "$REAL_SBATCH" "$@"
"""


def sbatch_as(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on sbatch is the script, which finds the real one in REAL_SBATCH."""
    shim = folder / "bin" / "sbatch"
    shim.parent.mkdir()
    shim.write_text(script)
    shim.chmod(0o755)
    monkeypatch.setenv("REAL_SBATCH", str(shutil.which("sbatch")))
    monkeypatch.setenv("PATH", f"{shim.parent}:{os.environ['PATH']}")


def test_refused_half_way_it_says_what_is_done_and_goes_on_later(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, wait_for: Any
) -> None:
    path = os.environ["PATH"]
    sbatch_as(tmp_path, REFUSES, monkeypatch)
    assert run_command(submit.main, words("half")) == 1
    run = Run.open(place / "half")
    train = ids(run)["train"]
    said = capsys.readouterr().err
    last = said.splitlines()[-1]
    assert last.startswith(
        "error: sbatch refused the job: jobs here must ask for a GPU (in the cluster profile, "
    )
    assert "cpu_job_gpus: 1" in last and f"; cancelled again: job {train}; the run directory stays:" in last
    wait_for(lambda: slurm.jobs([train])[train].state.is_final, 30)
    assert run_command(heal.main, [str(run.path)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].split()[:4] == ["train", "queued", "again", train]
    assert "this much was done" in lines[1] and lines[2].startswith("error: sbatch refused the job")
    assert run_command(heal.main, [str(run.path), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["jobs"][0]["job"] == train and "must ask for a GPU" in document["error"]
    monkeypatch.setenv("PATH", path)
    assert healed(capsys, run)["consolidate"][0] == "submit"
    wait_for(lambda: done(run), 60)
    assert ids(run)["train"] == train


FULL = """#!/bin/bash
grep -q gres=gpu "${@: -1}" || {
    echo "sbatch: error: AssocMaxSubmitJobLimit" >&2
    echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, …)" >&2
    exit 1; }
exec "$REAL_SBATCH" "$@"
"""


def test_where_slurm_takes_no_more_jobs_the_first_go_on(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, wait_for: Any
) -> None:
    path = os.environ["PATH"]
    sbatch_as(tmp_path, FULL, monkeypatch)
    assert run_command(submit.main, words("full")) == 1
    run = Run.open(place / "full")
    train = ids(run)["train"]
    last = capsys.readouterr().err.splitlines()[-1]
    assert "AssocMaxSubmitJobLimit" in last and "cpu_partition" not in last
    assert (
        f"the chain is 5 jobs (each element of an array is one); job {train} stays; when there is room: "
        in last
    )
    wait_for(lambda: run.done("train"), 60)
    monkeypatch.setenv("PATH", path)
    assert healed(capsys, run)["consolidate"][0] == "submit"
    wait_for(lambda: done(run), 60)
    assert ids(run)["train"] == train


def test_a_bind_mount_is_another_spelling(drained: None, place: Path, tmp_path: Path, wait_for: Any) -> None:
    run = start(place, "bound")
    before = ids(run)
    script = f"mount --bind {place} {tmp_path}/mounted && exec {sys.executable} -c '{DRIVER}' {tmp_path}/mounted/bound"
    (tmp_path / "mounted").mkdir()
    told = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script], cwd=REPO, capture_output=True, text=True, check=False
    )
    if "unshare" in told.stderr or "mount:" in told.stderr:
        pytest.skip(f"no mounts here: {told.stderr}")
    assert told.returncode == 0 and told.stderr.startswith("nothing to heal: train: "), told.stderr
    assert ids(run) == before


DRIVER = """
import sys
from tests.support import small_chain
from glmjobs.run import jobs
jobs.requests = small_chain.requests
from glmjobs import heal
raise SystemExit(heal.main(sys.argv[1:]))
"""
