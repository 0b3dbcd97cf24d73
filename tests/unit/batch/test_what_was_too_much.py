"""A refusal's words and the setting of the job that mends them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc.batch.jobs import Chain, Job
from hpc.chain import refused


@pytest.mark.parametrize(
    ("said", "mend"),
    [
        (
            "Memory specification can not be satisfied; Requested node configuration is not available",
            "(jobs.train.memory = 999T: `sinfo -o '%P %m'` lists what nodes have, in MB; or in the cluster profile, "
            "memory_request",
        ),
        ("CPU count per node can not be satisfied", "(jobs.train.cpus_per_task = 4: `sinfo"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "(jobs.train.time = 9-00:00:00)"),
        ("invalid partition specified: x", "(in the cluster profile, partition: "),
        ("something else entirely", ""),
    ],
)
def test_the_setting_is_named(said: str, mend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no sinfo to ask for the longest time
    job = Job(
        stage="train", steps=(), gpus_per_node=1, cpus_per_task=4, memory="999T", time="9-00:00:00",
        settings="jobs.train",
    )  # fmt: skip
    line = refused.with_mend(said, Chain(run=tmp_path, jobs=(job,)), job)
    assert line.startswith(f"{said} {mend}".rstrip()) and line.count("(") - said.count("(") <= 2
    assert (line == said) == (mend == "")
