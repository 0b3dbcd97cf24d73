# Environment modules in a batch shell, proved to be loaded. Sourced by sbatch/*.sh, and part of every script that
# submit makes. The exit code of `module load` is no proof: Tcl Modules 3.2.10 (CentOS 7) returns 0 for a
# missing module, so LOADEDMODULES, which every implementation keeps, is asked; and a modulefile can name directories
# that this node has not mounted, so what it put on the paths is looked at.
load_modules() {  # INIT-SCRIPT ("": the usual places) MODULE ...
    local init=$1 flags=$- name entry added found path; shift
    local names=("$@"); set --
    if [ ${#names[@]} -eq 0 ]; then return 0; fi
    set +eu  # module systems were not written for -e and -u
    : "${LOGNAME:=$(id -un)}" "${USER:=$LOGNAME}"
    find_modules "$init"
    module purge >/dev/null 2>&1
    # What purge could not unload came with sbatch's environment and says nothing about this node.
    for name in "${names[@]}"; do
        if module_loaded "$name"; then unset LOADEDMODULES _LMFILES_; fi
    done
    for name in "${names[@]}"; do
        path="::${PATH:-}:${LD_LIBRARY_PATH:-}:" added="" found=""
        module load "$name"
        if ! module_loaded "$name"; then
            module_error "module $name did not load: $(module load "$name" 2>&1 | tr -s ' \n' ' ' | cut -c1-300);" \
                "available: $(module_available "${name%%[/@]*}")"
        fi
        while IFS= read -r -d : entry; do
            case $path in *":$entry:"*) continue ;; esac  # the empty entry is always among them
            added="$added $entry"; if [ -d "$entry" ]; then found=1; fi
        done <<<"${PATH:-}:${LD_LIBRARY_PATH:-}:"
        if [ -n "$added" ] && [ -z "$found" ]; then
            module_error "module $name loaded, but what it puts on the paths is not on this node:$added"
        fi
    done
    for name in "${names[@]}"; do
        if ! module_loaded "$name"; then
            module_error "module $name was unloaded again by a later one; loaded now: ${LOADEDMODULES:-none}"
        fi
    done
    case $flags in *e*) set -e ;; esac
    case $flags in *u*) set -u ;; esac
}
find_modules() {  # INIT-SCRIPT ("": the usual places): defines the command `module`
    local init=$1
    if ! type module >/dev/null 2>&1; then
        if [ -z "$init" ]; then
            for init in "${MODULESHOME:-/none}/init/bash" /etc/profile.d/{modules,lmod,z00_lmod,z01_lmod}.sh \
                /usr/share/{Modules,modules,lmod/lmod}/init/bash; do
                if [ -r "$init" ]; then break; fi
            done
        fi
        if [ ! -r "$init" ]; then module_error "has no environment modules (no $init)"; fi
        source "$init"
        if ! type module >/dev/null 2>&1; then module_error "$init does not define the command module"; fi
    fi
}
module_loaded() {
    case ":${LOADEDMODULES:-}:" in *":${1/@//}:"* | *":$1/"*) return 0 ;; esac
    return 1
}
module_available() {  # the modules of that name, else all; terse listings go to stdout or stderr
    local list
    list=$(module -t avail "$1" 2>&1 | sed -e '/:$/d' -e '/^ *$/d' -e 's/ *<[^>]*>$//' | sort -u | tr '\n' ' ')
    if [ -z "$list" ]; then
        list="no $1; all: $(module -t avail 2>&1 | sed -e '/[:/]$/d' -e '/^ *$/d' | sort -u | tr '\n' ' ')"
    fi
    printf '%s' "${list:-none}" | cut -c1-500
}
use_prefix() {  # PREFIX: its bin/python is Python from now on; a conda environment is also activated
    if [ ! -x "$1/bin/python" ]; then module_error "has no $1/bin/python (environment.python of the profile)"; fi
    export PATH="$1/bin:$PATH"
    if [ ! -d "$1/conda-meta" ]; then return 0; fi
    export CONDA_PREFIX="$1"
    local flags=$- script
    set +eu  # conda's packages were not written for -e and -u either
    for script in "$1"/etc/conda/activate.d/*.sh; do if [ -r "$script" ]; then source "$script"; fi; done
    case $flags in *e*) set -e ;; esac
    case $flags in *u*) set -u ;; esac
}
module_error() { echo "error: $(hostname): $*" >&2; exit 3; }
