#!/bin/bash
# One run's newest committed ZeRO checkpoint becomes a model directory (RUN/model). Needs no GPU.
#
#   RUN=runs/chatglm6b-1 sbatch sbatch/consolidate.sh
#
# Environment: RUN, MODULES, VENV, PROJECT as in chatglm6b.sh. The chain submits this job by itself; by hand it is for
# a run whose consolidate job is gone.
#
#SBATCH --job-name=chatglm6b-consolidate
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=01:00:00
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
#SBATCH --requeue

set -euo pipefail
case ${SLURM_EXPORT_ENV:-ALL} in ALL*) ;; *)  # sbatch --export=NONE, or a list; SBATCH_EXPORT
    absent=""; for name in RUN MODULES MODULE_INIT VENV PROJECT; do [ -n "${!name+set}" ] || absent="$absent $name"; done
    echo "note: sbatch --export=$SLURM_EXPORT_ENV keeps your shell's variables from this job; not set here:$absent" >&2 ;;
esac
cd "${PROJECT:-$SLURM_SUBMIT_DIR}"
RUN=${RUN:?name the run directory: RUN=runs/NAME sbatch sbatch/consolidate.sh}
case $RUN in /*) ;; *) RUN=$PWD/$RUN ;; esac

TOOLS=hpc/batch  # of the checkout; else of the package that is installed in VENV
[ -d "$TOOLS" ] || TOOLS=$("${VENV:-$PWD/.venv}/bin/python" -c 'import hpc.batch; print(hpc.batch.__path__[0])') || {
    echo "error: neither hpc/batch nor ${VENV:-.venv} with glmjobs in $PWD: sbatch from the project's directory, or set PROJECT or VENV" >&2; exit 2; }
source "$TOOLS/modules.sh"
load_modules "${MODULE_INIT-}" ${MODULES-cuda/11.7 nccl/2.14.3-1 cudnn/8.8.1.3}
export PATH="${VENV:-$PWD/.venv}/bin:$PATH" PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONUTF8=1

exec python -m glmjobs.attach "$RUN" --exec --stage consolidate
