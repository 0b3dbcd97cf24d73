"""What a step gets of the environment that sbatch handed on."""

from __future__ import annotations

import os

import pytest

from hpc.runtime.rendezvous import of_slurm_step
from hpc.slurm.variables import for_steps

JOB = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "8", "SLURM_NNODES": "1", "PATH": "/bin",
       "SLURM_CONF": "/etc/slurm.conf", "SRUN_CPUS_PER_TASK": "8", "NCCL_DEBUG": "INFO", "SLURM_GPUS_ON_NODE": "8",
       "SLURM_JOB_GPUS": "0,1", "CUDA_VISIBLE_DEVICES": "0,1", "SLURM_JOB_NODELIST": "n1"}  # fmt: skip
LEFT_BEHIND = (
    "SLURM_GPUS", "SLURM_GPUS_PER_TASK", "SLURM_GPU_BIND", "SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_MEM_BIND",
    "SLURM_CPU_BIND", "SLURM_CPU_BIND_TYPE", "SLURM_NTASKS_PER_TRES", "SLURM_TRES_PER_TASK", "SLURM_DISTRIBUTION",
    "SLURM_EXPORT_ENV", "SRUN_EXPORT_ENV", "SLURM_STEP_ID", "SLURM_KILL_BAD_EXIT", "SLURM_EXACT", "RANK", "LOCAL_RANK",
    "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE", "OMPI_COMM_WORLD_SIZE", "PMI_RANK",
)  # fmt: skip


def test_the_jobs_own_stays_and_what_another_left_goes() -> None:
    assert for_steps({**JOB, **dict.fromkeys(LEFT_BEHIND, "1")}) == JOB


def test_a_choice_of_gpus_counts_only_where_slurm_made_it() -> None:
    without = {k: v for k, v in JOB.items() if k not in ("SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE")}
    assert "CUDA_VISIBLE_DEVICES" not in for_steps(without)
    assert for_steps({"CUDA_VISIBLE_DEVICES": "1"}) == {"CUDA_VISIBLE_DEVICES": "1"}, (
        "on this machine it is a person's"
    )


STEP = {"SLURM_PROCID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_TASK_PID": "1"}
TORCHRUN = {"RANK": "9", "WORLD_SIZE": "16", "TORCHELASTIC_RUN_ID": "x", "GROUP_WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("environ", "slurms"),
    [
        ({}, False),
        ({"SLURM_PROCID": "0"}, False),  # a batch script
        (STEP, True),
        (STEP | {"RANK": "0", "WORLD_SIZE": "1"}, True),  # of the shell
        (STEP | TORCHRUN, False),  # srun started torchrun, one a node
        (STEP | TORCHRUN | {"GROUP_WORLD_SIZE": "1"}, True),  # that torchrun was in the shell
        (STEP | TORCHRUN | {"SLURM_TASK_PID": str(os.getpid())}, True),  # this is the task itself
    ],
)
def test_whose_place_counts(environ: dict[str, str], slurms: bool) -> None:
    assert of_slurm_step(environ) is slurms
