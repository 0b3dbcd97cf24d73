"""jobs.share: who may read a run, by modes, by group, and by being somebody else."""

from __future__ import annotations

import grp
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from glmjobs import heal, submit
from glmjobs.cli import run_command
from glmjobs.recipe.loading import load
from glmjobs.run import sharing
from glmjobs.run.directory import Run, Shape, rewrite
from hpc.batch.profile import Profile
from hpc.chain import ledger
from hpc.core import timestamps
from hpc.core.errors import BadInput
from hpc.core.files import write_json
from tests.support.paths import CONFIGS

GROUP, COLLEAGUE, STRANGER = 54321, 54322, 54323
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs other users to be")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A project's folder on a shared disk; the umask is as closed as can be, and put back."""
    before = os.umask(0o077)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        if os.geteuid() == 0:
            os.chown(path, -1, GROUP)
        path.chmod(0o755)
        yield path
    os.umask(before)


def make(folder: Path, *settings: str) -> Run:
    recipe = load(CONFIGS / "tiny.yaml", list(settings))
    return Run.create(folder / "run", recipe, Profile(name="x"), Shape(nodes=1, gpus=1))


def fill(run: Run) -> None:
    """As stages and libraries do: some files come from temporary folders, which are closed to all."""
    write_json(run.jobs("train") / "heartbeat" / "rank-0.json", {"phase": "training"})
    ledger.append(run.path, "attempt", stage="train", job="local-1", nodes="n")
    (run.jobs("train") / "local.out").write_text("step 1\n")
    run.checkpoints.mkdir()
    closed = Path(tempfile.mkdtemp(dir=run.checkpoints))
    descriptor, _ = tempfile.mkstemp(dir=closed)
    os.close(descriptor)
    closed.rename(run.checkpoints / "checkpoint-1")
    run.mark("train", started=timestamps.now())


def modes(run: Run) -> set[tuple[bool, int, int]]:
    """(is a folder, mode, group) of everything in a run."""
    found = [run.path, *run.path.rglob("*")]
    return {(p.is_dir(), stat.S_IMODE(p.stat().st_mode), p.stat().st_gid) for p in found}


def test_private_is_the_default(folder: Path) -> None:
    run = make(folder)
    fill(run)
    assert run.recipe.jobs.share == "private"
    assert stat.S_IMODE(run.path.stat().st_mode) == 0o700
    assert not any(mode & 0o077 for _, mode, _ in modes(run)), "nor does anything in it say otherwise"


def test_a_shared_run_is_the_groups_to_read(folder: Path) -> None:
    run = make(folder, "jobs.share=group")
    fill(run)
    gid = folder.stat().st_gid
    assert modes(run) == {(True, 0o2750, gid), (False, 0o640, gid)}


def test_heal_shares_what_is_there_and_takes_it_back(folder: Path) -> None:
    run = make(folder)
    fill(run)
    shared = rewrite(run, load(CONFIGS / "tiny.yaml", ["jobs.share=group"]), run.cluster)
    assert all(mode & (0o050 if is_dir else 0o040) for is_dir, mode, _ in modes(shared))
    assert {gid for *_, gid in modes(shared)} == {folder.stat().st_gid}
    private = rewrite(shared, load(CONFIGS / "tiny.yaml", []), run.cluster)
    assert stat.S_IMODE(private.path.stat().st_mode) == 0o700


@pytest.mark.parametrize("value", ["all", "groups", "group:", "0750", "group:a b"])
def test_other_words_are_refused(value: str) -> None:
    with pytest.raises(BadInput, match=r"jobs\.share"):
        load(CONFIGS / "tiny.yaml", [f"jobs.share={value}"])


def test_a_group_that_is_not_there_is_one_line_at_submit(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GLMJOBS_RUNS", str(folder / "runs"))
    words = ["--recipe", "configs/tiny.yaml", "--executor", "local", "--gpus", "1"]
    assert run_command(submit.main, [*words, "--set", "jobs.share=group:nobodys-group"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "there is no group 'nobodys-group' here; yours: " in said
    assert not (folder / "runs").exists()


def test_a_group_one_is_not_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getgroups", lambda: [os.getegid()])
    other = next(g for g in grp.getgrall() if g.gr_gid != os.getegid())
    with pytest.raises(BadInput, match=f"you are not in the group '{other.gr_name}'"):
        sharing.group_id(f"group:{other.gr_name}", folder)
    mine = grp.getgrgid(os.getegid()).gr_name
    assert sharing.group_id(f"group:{mine}", folder) == os.getegid()


READS = """
import os, sys
from pathlib import Path
from glmjobs import status, report, logs, runs, chat
from glmjobs.cli import run_command
import glmjobs.terminal.tables, glmjobs.reporting.html, rich.table, rich.live
run = Path(sys.argv[1])
os.setgroups([]); os.setgid(int(sys.argv[3])); os.setuid(int(sys.argv[2]))
codes = [run_command(c.main, [str(run)]) for c in (status, report, logs)]
read = [p for p in run.rglob("*") if p.is_file() and p.read_bytes() is not None]
assert len(read) > 5, read
print(codes, chat.model_directory(run))
try:
    (run / "mine").touch()
except PermissionError:
    sys.exit(0 if codes == [0, 0, 0] else 9)
"""


@as_root
def test_a_colleague_reads_everything_and_writes_nothing(folder: Path) -> None:
    run = make(folder, "jobs.share=group")
    fill(run)
    write_json(run.model / "config.json", {})
    sharing.apply(run.path, "group")
    for uid, gid, code in ((COLLEAGUE, GROUP, 0), (STRANGER, STRANGER, 2)):
        done = subprocess.run(
            [sys.executable, "-c", READS, str(run.path), str(uid), str(gid)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if code == 0:
            assert done.returncode == 0, done.stdout + done.stderr
            assert str(run.model) in done.stdout
        else:
            assert done.returncode != 0 and "this run cannot be read" in done.stderr, done.stderr


@as_root
def test_a_way_that_is_closed_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "home").mkdir(mode=0o700)
    run = Run.create(
        folder / "home" / "run", load(CONFIGS / "tiny.yaml", ["jobs.share=group"]), Profile(name="x"), Shape()
    )
    submit.announce(run, {}, as_json=False)
    assert f"note  {folder / 'home'} is closed to the run's group" in capsys.readouterr().err
    (folder / "home").chmod(0o755)
    submit.announce(run, {}, as_json=False)
    assert "note" not in capsys.readouterr().err


def test_heal_takes_the_field(folder: Path) -> None:
    """Documented in changing-a-run.md."""
    assert heal.parser().parse_args(["run", "--set", "jobs.share=group"]).overrides == ["jobs.share=group"]
