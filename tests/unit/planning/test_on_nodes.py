"""What a training takes, demanded of the nodes: a save by the rate just measured, and the settings that would fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmjobs.planning import demands
from glmjobs.planning.on_nodes import needs, with_save, with_settings
from glmjobs.recipe.loading import load_both
from glmjobs.run.directory import Run, Shape
from hpc.batch.profile import Measured
from hpc.health.checks import Finding, NodeReport
from hpc.health.exchange import judge
from hpc.health.writing import MOST_BYTES

GB = 10**9


def made(folder: Path, *overrides: str, nodes: int = 2, measured: float | None = None) -> Run:
    """ChatGLM-6B, of which neither model nor data are here: the published sizes count."""
    recipe, profile = load_both(
        "configs/chatglm6b.yaml", None, ["train.activation_checkpointing=true", *overrides], "local"
    )
    if measured:
        of = Measured(time="2026-01-01", what="tiny", nodes=nodes, gpus=8, write_gb_s=measured)
        profile = profile.model_copy(update={"measured": (of,)})
    return Run.create(folder / "run", recipe, profile, Shape(nodes=nodes, gpus=8))


def reports(*rates: float) -> list[NodeReport]:
    fine = Finding(what="GPUs", ok=True, found="8")
    return [NodeReport(node=f"n{at}", time="", findings=[fine], write_rate=r) for at, r in enumerate(rates)]


@pytest.fixture(autouse=True)
def of_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "7")


def test_a_node_is_asked_for_what_submit_demands(tmp_path: Path) -> None:
    run = made(tmp_path)
    need, takes = needs(run), demands.demands_of(run.recipe, run.shape)
    assert (need.disk, need.host_memory) == (takes.least, takes.host)
    assert need.writers == 8 and need.write_most == MOST_BYTES


@pytest.mark.parametrize(
    ("rates", "measured", "said"),
    [
        ((0.1 * GB, 0.1 * GB), None, None),
        ((0.5 * GB, 0.05 * GB), None, "takes 864 s at the 0.1 GB/s that the nodes just wrote"),
        ((0.5 * GB, 0.05 * GB), 5.0, None),
        ((5.0 * GB, 5.0 * GB), 0.1, "takes 864 s at the 0.1 GB/s that were measured here (cluster.measured)"),
    ],
)
def test_a_save(
    rates: tuple[float, ...], measured: float | None, said: str | None, tmp_path: Path
) -> None:
    """All nodes end with the slowest; what a rehearsal has measured counts for more. No node is to blame."""
    verdict = judge(with_save(made(tmp_path, measured=measured), reports(*rates)))
    assert not verdict.bad and verdict.fit == (said is None)
    for line in verdict.configuration:
        assert str(said) in line and line.startswith("a save: found a checkpoint of 86.4 GB ")
        assert line.endswith("has 600 s before the time limit (jobs.signal_seconds); --set jobs.signal_seconds=1297")


def test_no_save_is_demanded_where_no_job_has_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(tmp_path)
    assert with_save(run, reports(0.0, 1.0)) == reports(0.0, 1.0), "a node that cannot write is said by itself"
    monkeypatch.delenv("SLURM_JOB_ID")
    assert with_save(run, reports(1.0, 1.0)) == reports(1.0, 1.0)


@pytest.mark.parametrize(
    ("what", "overrides", "remedy"),
    [
        ("GPU memory", ("cluster.gpu_memory_gb=24",), "--set train."),
        ("host memory", ("jobs.train.memory=16G",), "--set jobs.train.memory=29G"),
        ("host memory", (), "as it was"),
        ("driver", (), "as it was"),
    ],
)
def test_the_settings_that_would_fit(
    what: str, overrides: tuple[str, ...], remedy: str, tmp_path: Path
) -> None:
    found = with_settings(
        made(tmp_path, *overrides, nodes=1), Finding(what=what, ok=False, found="little", remedy="as it was")
    )
    assert found.remedy.startswith(remedy)


def test_room_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demands, "free_bytes", lambda path: 90 * GB)
    found = with_settings(made(tmp_path), Finding(what="free disk", ok=False, found="83.8 GiB"))
    assert found.remedy.endswith("--set train.method=lora")
