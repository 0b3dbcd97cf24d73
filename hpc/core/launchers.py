"""The variables by which launchers of parallel programs tell each process its place."""

from __future__ import annotations

OF_A_LAUNCHER = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "CROSS_RANK", "CROSS_SIZE", "GROUP_RANK",
    "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
OF_A_LAUNCHER_PREFIXES = ("TORCHELASTIC_", "OMPI_", "PMI_", "PMIX_", "PMI2_", "MV2_COMM_WORLD_")
"""torchrun, Open MPI, MPICH and its relatives, Intel MPI: what each tells its processes about their places."""


def of_a_launcher(name: str) -> bool:
    """Whether a variable tells a process its place among others."""
    return name in OF_A_LAUNCHER or name.startswith(OF_A_LAUNCHER_PREFIXES)
