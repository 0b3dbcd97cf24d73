#!/bin/bash
# Dev-set accuracy of one run's two models, base and fine-tuned, spread over 8 array tasks with a GPU each.
#
#   RUN=runs/chatglm6b-1 sbatch sbatch/score.sh
#   RUN=runs/chatglm6b-1 sbatch --array=0-3 sbatch/score.sh      on 4 GPUs
#
# Environment: RUN, MODULES, VENV, PROJECT as in chatglm6b.sh. What was scored before is kept; only missing rows run.
#
#SBATCH --job-name=chatglm6b-score
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:a100:1
#SBATCH --mem=64G
#SBATCH --time=06:00:00
#SBATCH --array=0-7
#SBATCH --signal=B:USR1@60
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.out
#SBATCH --requeue

set -euo pipefail
trap '' USR1  # the warning before the end: the job is not to die of it before there is something that listens
case ${SLURM_EXPORT_ENV:-ALL} in ALL*) ;; *)  # sbatch --export=NONE, or a list; SBATCH_EXPORT
    absent=""; for name in RUN MODULES MODULE_INIT VENV PROJECT; do [ -n "${!name+set}" ] || absent="$absent $name"; done
    echo "note: sbatch --export=$SLURM_EXPORT_ENV keeps your shell's variables from this job; not set here:$absent" >&2 ;;
esac
cd "${PROJECT:-$SLURM_SUBMIT_DIR}"
RUN=${RUN:?name the run directory: RUN=runs/NAME sbatch sbatch/score.sh}
case $RUN in /*) ;; *) RUN=$PWD/$RUN ;; esac

TOOLS=hpc/batch  # of the checkout; else of the package that is installed in VENV
[ -d "$TOOLS" ] || TOOLS=$("${VENV:-$PWD/.venv}/bin/python" -c 'import hpc.batch; print(hpc.batch.__path__[0])') || {
    echo "error: neither hpc/batch nor ${VENV:-.venv} with glmjobs in $PWD: sbatch from the project's directory, or set PROJECT or VENV" >&2; exit 2; }
source "$TOOLS/modules.sh"
load_modules "${MODULE_INIT-}" ${MODULES-cuda/11.7 nccl/2.14.3-1 cudnn/8.8.1.3}
export PATH="${VENV:-$PWD/.venv}/bin:$PATH" PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONUTF8=1
export HPC_JOB_GPUS=1

exec python -m glmjobs.attach "$RUN" --exec --stage score
