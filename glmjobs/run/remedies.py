"""How a finding about a node is mended, in this toolkit's words (:attr:`hpc.health.checks.Need.remedies`)."""

from __future__ import annotations

REMEDIES = {
    "GPUs": "ask for a node that has them (gpu_type, partition), or leave this one out: cluster.exclude",
    "GPU memory": "a larger GPU, or ZeRO-3 (--set train.zero_stage=3)",
    "host memory": "ask for more (--set jobs.train.memory=…), or find what else runs on this node",
    "free disk": "make room, or put runs elsewhere (GLMJOBS_RUNS)",
    "quota": "remove old checkpoints, or GLMJOBS_RUNS elsewhere",
}
"""What is checked → remedy, by the first words of the check's name."""
