#!/bin/bash
# ChatGLM-6B, all parameters, on one node with 8 A100s: training runs here; consolidating the checkpoint, scoring
# and the report follow as jobs of their own, each waiting for the one before.
#
#   sbatch sbatch/chatglm6b.sh                                  from the project's directory
#   sbatch --partition=gpu --account=me sbatch/chatglm6b.sh     sbatch's options win over the lines below
#   RECIPE=my.yaml RUN=/scratch/my-run sbatch sbatch/chatglm6b.sh
#
# Environment: RECIPE, CLUSTER (profile), RUN (run directory), SET (overrides, "train.epochs=2 score.rows=500"),
# MODULES ("" where there are none), MODULE_INIT (script that defines `module`; default: found), VENV, PROJECT (this
# checkout; default: where sbatch was called; with glmjobs installed in VENV, none is needed).
#
#SBATCH --job-name=chatglm6b-train
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:a100:8
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@600
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
#SBATCH --requeue

set -euo pipefail
trap '' USR1  # the warning before the end: the job is not to die of it before there is something that listens
case ${SLURM_EXPORT_ENV:-ALL} in ALL*) ;; *)  # sbatch --export=NONE, or a list; SBATCH_EXPORT
    absent=""; for name in RECIPE CLUSTER RUN SET MODULES MODULE_INIT VENV PROJECT; do [ -n "${!name+set}" ] || absent="$absent $name"; done
    echo "note: sbatch --export=$SLURM_EXPORT_ENV keeps your shell's variables from this job; not set here:$absent" >&2 ;;
esac
cd "${PROJECT:-$SLURM_SUBMIT_DIR}"
RECIPE=${RECIPE:-configs/chatglm6b.yaml}
RUN=${RUN:-$PWD/runs/chatglm6b-job$SLURM_JOB_ID}
case $RUN in /*) ;; *) RUN=$PWD/$RUN ;; esac

# The module environment: CUDA 11.7, NCCL 2.14.3, cuDNN 8.8. A module that doesn't load ends the job here.
TOOLS=hpc/batch  # of the checkout; else of the package that is installed in VENV
[ -d "$TOOLS" ] || TOOLS=$("${VENV:-$PWD/.venv}/bin/python" -c 'import hpc.batch; print(hpc.batch.__path__[0])') || {
    echo "error: neither hpc/batch nor ${VENV:-.venv} with glmjobs in $PWD: sbatch from the project's directory, or set PROJECT or VENV" >&2; exit 2; }
source "$TOOLS/modules.sh"
load_modules "${MODULE_INIT-}" ${MODULES-cuda/11.7 nccl/2.14.3-1 cudnn/8.8.1.3}
export PATH="${VENV:-$PWD/.venv}/bin:$PATH" PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONUTF8=1
export HPC_JOB_GPUS=${SLURM_NTASKS:-$((${SLURM_NNODES:-1} * ${SLURM_NTASKS_PER_NODE:-8}))} SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

# The run directory and the jobs that follow this one are made (only once: a requeued job finds them). Then each node is
# checked, and one task per GPU trains with DeepSpeed: `srun` as in the script that `glmjobs submit --dry-run` prints.
# `exec`: Slurm's warning before the time limit reaches hpc.runtime.attempt, which has all ranks save one checkpoint and
# requeues this job.
overrides=(); for item in ${SET:-}; do overrides+=(--set "$item"); done
exec python -m glmjobs.attach "$RUN" --exec --recipe "$RECIPE" ${CLUSTER:+--cluster "$CLUSTER"} "${overrides[@]}"
