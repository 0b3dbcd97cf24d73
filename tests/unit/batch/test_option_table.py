"""The table of options in docs/your-cluster.md has all that a job's script and submission say to Slurm, and no more."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from hpc.batch.jobs import Chain, Job, Step
from hpc.batch.profile import Profile
from hpc.batch.script import directives, launcher
from hpc.chain.submission import options
from tests.support.paths import REPO


def emitted() -> set[str]:
    """Every option, over all ways of asking that a profile has."""
    requests = ("gres", "gpus-per-node", "gpus", "none")
    memories = ("mem", "mem-per-cpu", "mem-per-gpu", "none")
    found: set[str] = set()
    for request, memory, requeue in itertools.product(requests, memories, (True, False)):
        profile = Profile.model_validate(
            {
                **dict.fromkeys(("partition", "account", "qos", "constraint", "reservation", "exclude"), "a"),
                "mail": "me", "gpu_request": request, "memory_request": memory, "requeue": requeue,
            }
        )  # fmt: skip
        step = Step(stage="train", command=("python",), tasks_per_node=2)
        for several in ({"attempts": 2}, {"array": 2}, {}):
            job = Job(
                stage="train", steps=(step,), gpus_per_node=2, memory="8G", signal_seconds=60, after=("x",), **several
            )  # fmt: skip
            chain = Chain(run=Path("/run"), jobs=(job,), profile=profile)
            said = [*directives(job, profile, Path("/log")), *options(chain, job, ["1"])]
            found |= {word.partition("=")[0] for word in said}
            found |= set(re.findall(r"--[a-z-]+", launcher(step, job, local=False)))
    return found


def test_the_table_is_whole() -> None:
    page = (REPO / "docs" / "your-cluster.md").read_text(encoding="utf-8")
    section = page.split("### Slurm's releases")[1].split("\n### ")[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| ")][1:]
    named = {word for row in rows for word in re.findall(r"`(--[a-z-]+)", row[0])}
    assert named == emitted() | {"--parsable"}
    assert all(re.match(r" (before 20\.11|19\.05)", since) for _, since in rows[1:])
