"""How a finding about a node is mended, in this toolkit's words (:attr:`hpc.health.checks.Need.remedies`)."""

from __future__ import annotations

from hpc.core import hints

REMEDIES = {
    "GPUs": "ask for a node that has them (gpu_type, partition), or leave this one out: cluster.exclude",
    "GPU memory": f"a larger GPU, or ZeRO-3: {hints.setting('train.zero_stage', 3)}",
    "host memory": f"all that the node has: {hints.setting('jobs.train.memory', 0)}; or find what else runs on it",
    "free disk": "make room, or put runs elsewhere (GLMJOBS_RUNS)",
    "quota": "remove old checkpoints, or GLMJOBS_RUNS elsewhere",
}
"""What is checked → remedy, by the first words of the check's name."""
