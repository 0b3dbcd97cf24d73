"""Which of Slurm's variables are handed on to its commands, and to a job that is started from inside another."""

from __future__ import annotations

from collections.abc import Mapping

OF_A_JOB = ("SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "SALLOC_")
WHICH_CLUSTER = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS")
"""Those that say which cluster is meant rather than which job this process belongs to."""


def clean_env(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` without the variables of a surrounding job (SLURM_*, SBATCH_*, SRUN_*).

    A job submitted from inside a job inherits them: SLURM_MEM_PER_NODE was seen to reach the child, and SBATCH_*
    overrides the script's own directives. Which cluster is meant (:data:`WHICH_CLUSTER`) stays.
    """
    return {k: v for k, v in environ.items() if k in WHICH_CLUSTER or not k.startswith(OF_A_JOB)}
