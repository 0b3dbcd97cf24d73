"""Which of Slurm's and other launchers' variables are handed on: to Slurm's commands, and to a job's steps."""

from __future__ import annotations

from collections.abc import Mapping

from hpc.core.launchers import of_a_launcher

OF_A_JOB = ("SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "SALLOC_")
WHICH_CLUSTER = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SBATCH_CLUSTERS")
"""Those that say which cluster is meant rather than which job this process belongs to."""

OPTIONS_OF_SRUN = frozenset(
    f"SLURM_{name}"
    for name in (
        "ACCOUNT", "BCAST", "BCAST_EXCLUDE", "CLUSTER_CONSTRAINT", "COMPRESS", "CONSTRAINT", "CONTAINER",
        "CONTAINER_ID", "CORE_SPEC", "CPUS_PER_GPU", "CPU_FREQ_REQ", "DEBUG", "DELAY_BOOT", "DEPENDENCY",
        "DISABLE_STATUS", "DISTRIBUTION", "DIST_LLLP", "DIST_PLANESIZE", "EPILOG", "EXACT", "EXCLUSIVE",
        "EXPORT_ENV", "GPUS", "GPUS_PER_NODE", "GPUS_PER_SOCKET", "GPUS_PER_TASK", "GPU_BIND", "GPU_FREQ", "GRES",
        "GRES_FLAGS", "HINT", "IMMEDIATE", "KILL_BAD_EXIT", "LABELIO", "MPI_TYPE", "MULTI_PROG",
        "NCORES_PER_SOCKET", "NO_KILL", "NTASKS_PER_CORE", "NTASKS_PER_GPU", "NTASKS_PER_SOCKET",
        "NTASKS_PER_TRES", "OPEN_MODE", "OVERCOMMIT", "OVERLAP", "PARTITION", "PLANESIZE", "POWER", "PROFILE",
        "PROLOG", "QOS", "REMOTE_CWD", "REQ_SWITCH", "RESERVATION", "RESV_PORTS", "SIGNAL", "SPREAD_JOB",
        "SRUN_REDUCE_TASK_EXIT_MSG", "STDERRMODE", "STDINMODE", "STDOUTMODE", "STEP_GRES", "THREADS",
        "THREADS_PER_CORE", "THREAD_SPEC", "TIMELIMIT", "UNBUFFEREDIO", "USE_MIN_NODES", "WAIT", "WAIT4SWITCH",
        "WCKEY", "WORKING_DIR",
    )
)  # fmt: skip
OPTIONS_OF_SRUN_PREFIXES = ("SLURM_CPU_BIND", "SLURM_MEM_", "SLURM_TRES_")
"""srun's manual, INPUT ENVIRONMENT VARIABLES: each is an option of srun's that its command line can leave out."""

OF_A_STEP = ("SLURM_STEP_", "SLURM_STEPID", "SLURM_SRUN_COMM_", "SLURM_LAUNCH_NODE_IPADDR", "SRUN_")


def clean_env(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` without the variables of a surrounding job (SLURM_*, SBATCH_*, SRUN_*).

    A job submitted from inside a job inherits them: SLURM_MEM_PER_NODE was seen to reach the child, and SBATCH_*
    overrides the script's own directives. Which cluster is meant (:data:`WHICH_CLUSTER`) stays.
    """
    return {k: v for k, v in environ.items() if k in WHICH_CLUSTER or not k.startswith(OF_A_JOB)}


def for_steps(environ: Mapping[str, str]) -> dict[str, str]:
    """A batch script's ``environ`` as its steps are to have it: their places and options are those of their own srun.

    sbatch hands the submitting shell's variables on: RANK or TORCHELASTIC_* of a torchrun there, SLURM_GPUS or
    SLURM_MEM_PER_NODE of an ``salloc`` there, which srun takes for its own options; and ``--export`` leaves
    SLURM_EXPORT_ENV, by which srun would keep PATH from the steps. A step gets all of its job's CPUs, memory and GPUs
    without any of them. CUDA_VISIBLE_DEVICES stays only where Slurm gave GPUs out.
    """
    kept = {k: v for k, v in environ.items() if not (of_a_launcher(k) or _of_srun(k))}
    if "SLURM_JOB_ID" in environ and not (kept.get("SLURM_JOB_GPUS") or kept.get("SLURM_GPUS_ON_NODE")):
        kept.pop("CUDA_VISIBLE_DEVICES", None)
    return kept


def _of_srun(name: str) -> bool:
    if name == "SRUN_CPUS_PER_TASK":  # since 22.05 the batch script has to say it
        return False
    return name in OPTIONS_OF_SRUN or name.startswith((*OPTIONS_OF_SRUN_PREFIXES, *OF_A_STEP))
