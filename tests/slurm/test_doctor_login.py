"""hpc.doctor on a login node of a real Slurm, and the profile that it drafts there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpc.batch import profile as profiles
from hpc.batch.profile import Profile
from hpc.devcluster import DevCluster
from hpc.doctor import scheduler
from hpc.doctor.__main__ import main

pytestmark = pytest.mark.slurm


def states(**fields: Any) -> dict[str, str]:
    rows = scheduler.check(Profile.model_validate({"name": "x", **fields}))
    return {row.what: row.state for row in rows}


def test_fit_and_drafted(
    slurm_env: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "drafted.yaml"
    assert main(["--write-profile", str(path)]) == 0
    drafted = profiles.load(path)
    assert (drafted.partition, drafted.gpu_type) == ("gpu", "a100")
    assert main(["--write-profile", str(path)]) == 2, "never over a file that is there"
    capsys.readouterr()
    main(["--cluster", str(path), "--json"])
    checks = {c["what"]: c for c in json.loads(capsys.readouterr().out)["checks"] if c["section"] == "Slurm"}
    assert [c for c in checks.values() if c["state"] == "bad"] == []
    assert checks["GPUs (GRES)"]["found"] == "2 nodes with a100 x 8"
    assert "--gres=gpu:a100:8" in checks["a job of this profile"]["needed"]


@pytest.mark.parametrize(
    ("fields", "what", "mend"),
    [
        ({"partition": "gup"}, "partition", "partition: gpu"),
        ({"cpu_partition": "cup"}, "cpu_partition", "cpu_partition: gpu"),
        ({"gpu_type": "h100"}, "GPUs (GRES)", "gpu_type: a100"),
        ({"constraint": "nvlink9"}, "a job of this profile", "constraint: `sinfo -o %f` lists what there is"),
        (
            {"reservation": "mine"},
            "a job of this profile",
            "reservation: `scontrol show reservation` lists them",
        ),
    ],
)
def test_what_the_cluster_has_not_is_named_with_what_it_has(
    slurm_env: dict[str, str], fields: dict[str, str], what: str, mend: str
) -> None:
    rows = scheduler.check(Profile.model_validate(fields))
    row = next(row for row in rows if row.what == what)
    assert (row.state, row.mend) == ("bad", mend), row


def test_an_account_that_is_not_this_users(
    accounting_cluster: DevCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, accounting_cluster.environ()[name])
    assert states(account="nobodys")["account"] == "bad"
    assert "account" not in {what for what, state in states().items() if state == "bad"}


@pytest.mark.slow
def test_a_controller_that_does_not_answer(
    make_cluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_cluster(nodes=1, gpus=1) as gone:
        environ = gone.environ()
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, environ[name])
    assert states() == {"controller": "bad"}
