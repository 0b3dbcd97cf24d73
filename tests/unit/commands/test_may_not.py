"""What may not be read or written: one line and exit 2, whichever command meets it.

Run without the rights of root that no permission stops; the file system's answer is a real one.
"""

from __future__ import annotations

from pathlib import Path

from glmjobs.recipe.loading import load
from glmjobs.run.directory import Run, Shape
from hpc.batch.profile import Profile
from tests.support.may_not import needs_setpriv, said
from tests.support.paths import CONFIGS

pytestmark = needs_setpriv

COMMANDS = (
    "status r",
    "logs r",
    "save r",
    "cancel r",
    "heal r",
    "report r",
    "track sync r --to mlflow",
    "score r",
    "reshard runs/r/checkpoints/checkpoint-6 --world-size 2",
)

def made(folder: Path) -> Path:
    recipe = load(CONFIGS / "tiny.yaml")
    return Run.create(folder / "runs" / "r", recipe, Profile(name="test"), Shape(nodes=1, gpus=1)).path


def test_a_closed_run(tmp_path: Path) -> None:
    run = made(tmp_path)
    run.chmod(0)
    for line, code, text in said(tmp_path, [*COMMANDS, "chat r --once x"]):
        assert code == 2 and text.count("\n") == 1 and "Permission denied" in text, (line, code, text)
        assert "runs/r" in text, (line, text)
    run.chmod(0o700)


def test_a_marker_that_may_not_be_read_is_not_an_absent_one(tmp_path: Path) -> None:
    run = made(tmp_path)
    marker = run / "stages" / "score.json"
    marker.parent.mkdir(exist_ok=True)
    marker.write_text('{"outcome": "done"}')
    marker.chmod(0)
    for line, code, text in said(tmp_path, ["status r", "heal r"]):
        assert (code, text) == (3, f"error: {marker}: Permission denied\n"), line
    ((_, code, text),) = said(tmp_path, ["runs"])
    assert (code, text) == (0, ""), "the others are listed all the same"


def test_a_place_that_may_not_be_written(tmp_path: Path) -> None:
    run = made(tmp_path)
    (run / "jobs").mkdir()
    tiny = f"--recipe {CONFIGS / 'tiny.yaml'} --executor local --gpus 1"
    lines = [
        f"sweep {tiny} --set train.seed=1,2",
        f"submit {tiny}",
        "heal r",
        "track sync r --to mlflow",
    ]
    for folder in (run / "jobs", run, run.parent):
        folder.chmod(0o500)
    for line, code, text in said(tmp_path, lines):
        last = "".join(text.splitlines()[-1:])
        assert code == 2 and last.startswith("error: ") and "Permission denied" in last, (line, code, text)
        assert str(run.parent) in last and ".beside-" not in last, (line, text)
    for folder in (run.parent, run, run / "jobs"):
        folder.chmod(0o700)
