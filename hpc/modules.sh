# Environment modules in a batch shell, proved to be loaded. Sourced by sbatch/*.sh, and part of every script that
# glmjobs.submit makes. The exit code of `module load` is no proof: Tcl Modules 3.2.10 (CentOS 7) returns 0 for a
# missing module, so LOADEDMODULES, which every implementation keeps, is asked.
load_modules() {  # INIT-SCRIPT MODULE ...
    local init=$1 name; shift
    if [ $# -eq 0 ]; then return 0; fi
    if ! type module >/dev/null 2>&1; then
        if [ ! -r "$init" ]; then echo "error: $(hostname) has no environment modules (no $init)" >&2; exit 3; fi
        set +eu; source "$init"; set -eu
    fi
    set +eu; module purge >/dev/null 2>&1; set -eu
    for name in "$@"; do
        set +eu; module load "$name"; set -eu
        case ":${LOADEDMODULES:-}:" in
            *":$name:"* | *":$name/"*) ;;
            *)  echo "error: module $name did not load on $(hostname); available:" \
                     "$(module -t avail "${name%%/*}" 2>&1 | tr '\n' ' ' | cut -c1-500)" >&2
                exit 3 ;;
        esac
    done
}
