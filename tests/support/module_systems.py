"""Real module systems for tests, without installing them: Debian's packages unpacked beside each other.

environment-modules and lmod exclude each other as packages, so both are unpacked (``dpkg -x``) into folders of their
own and told where they are. Tcl Modules 3.2.10, CentOS 7's, is in no Debian: where a real one is named by
HPC_MODULES_3_2 (its init/bash) it is used, else :data:`MODULECMD_3_2` stands in, which does what the real one was seen
to do: errors on stderr, exit code 0, terse listings on stderr.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

PACKAGES = {
    "modules5": ("environment-modules",),
    "lmod": (
        "lmod",
        "lua5.3",
        "lua-filesystem",
        "lua-json",
        "lua-lpeg",
        "lua-posix",
        "lua-bit32",
        "lua-term",
    ),
}
INIT = {"modules5": "etc/profile.d/modules.sh", "lmod": "etc/profile.d/lmod.sh"}
OWN = ("/usr/share/modules", "/usr/share/lmod", "/usr/share/lua", "/usr/bin/lua5.3", "/usr/bin/modulecmd",
       "/usr/lib/x86_64-linux-gnu", "/etc/lmod", "/etc/environment-modules")  # fmt: skip

MODULECMD_3_2 = r"""#!/bin/bash
# modulecmd bash SUBCOMMAND ...: prints shell code; errors to stderr; always exits 0.
shift
quote() { printf '%s=%q; export %s;\n' "$1" "$2" "$1"; }
find_file() {
    local dir
    IFS=: read -ra dirs <<<"$MODULEPATH"
    for dir in "${dirs[@]}"; do
        if [ -f "$dir/$1" ]; then echo "$dir/$1"; return; fi
        if [ -d "$dir/$1" ]; then ls "$dir/$1"/* | tail -1; return; fi
    done
}
loaded() { case ":$LOADEDMODULES:" in *":$1:"*) return 0 ;; esac; return 1; }
load() {
    local file name word one two code=""
    file=$(find_file "$1")
    if [ -z "$file" ]; then
        echo "ModuleCmd_Load.c(208):ERROR:105: Unable to locate a modulefile for '$1'" >&2; return
    fi
    name=$(basename "$(dirname "$file")")/$(basename "$file")
    if loaded "$name"; then return; fi
    while read -r word one two; do
        case $word in
            prereq) loaded "$one" || {
                echo "$name(2):ERROR:151: Module '$name' depends on one of the module(s) '$one'" >&2
                echo "$name(2):ERROR:102: Tcl command execution failed: prereq $one" >&2; return; } ;;
            conflict) ! loaded "$one" || {
                echo "$name(2):ERROR:150: Module '$name' conflicts with the currently loaded module(s) '$one'" >&2
                echo "$name(2):ERROR:102: Tcl command execution failed: conflict $one" >&2; return; } ;;
            setenv) code+=$(quote "$one" "$two")$'\n' ;;
            prepend-path) code+=$(quote "$one" "$two${!one:+:${!one}}")$'\n' ;;
            '#%'*|'') ;;
            *) echo "$name(2):ERROR:102: Tcl command execution failed: $word $one $two" >&2; return ;;
        esac
    done <"$file"
    printf '%s' "$code"
    quote LOADEDMODULES "${LOADEDMODULES:+$LOADEDMODULES:}$name"
}
case $1 in
    load|add) load "$2" ;;
    purge) echo "LOADEDMODULES=; export LOADEDMODULES;" ;;
    -t) IFS=: read -ra dirs <<<"$MODULEPATH"
        for dir in "${dirs[@]}"; do
            echo "$dir:" >&2
            (cd "$dir" && ls -d "${3:-}"*/* 2>/dev/null) >&2
        done ;;
esac
exit 0
"""


def unpack(kind: str, into: Path) -> Path | str:
    """The init script of a module system unpacked below ``into``, or why there is none."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        return "no apt-get and dpkg here to unpack Debian's package with"
    folder = into / kind
    folder.mkdir()
    try:
        subprocess.run(
            ["apt-get", "-qq", "download", *PACKAGES[kind]],
            cwd=folder,
            check=True,
            capture_output=True,
            timeout=120,
        )
    except (subprocess.SubprocessError, OSError) as error:
        said = getattr(error, "stderr", b"") or b""
        return f"Debian's {kind} cannot be downloaded here: {said.decode(errors='replace').strip()[-200:]}"
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True)
    relocate(folder)
    return folder / INIT[kind]


def relocate(folder: Path) -> None:
    """Make the unpacked files name themselves where they are."""
    for path in folder.rglob("*"):
        if path.suffix == ".deb" or path.is_symlink() or not path.is_file():
            continue
        data = path.read_bytes()
        if b"\0" in data:
            continue
        new = data
        for own in OWN:
            new = new.replace(own.encode(), f"{folder}{own}".encode())
        if new != data:
            path.write_bytes(new)


def stand_in_for_3_2(into: Path) -> Path:
    """Tcl Modules 3.2.10, or what behaves like it: its init script."""
    if real := os.environ.get("HPC_MODULES_3_2"):
        return Path(real)
    command = into / "modulecmd"
    command.write_text(MODULECMD_3_2)
    command.chmod(0o755)
    init = into / "init-bash"
    init.write_text(f"module() {{ eval `{command} bash $*`; }}\nMODULESHOME={into}\nexport MODULESHOME\n")
    return init


def modulefiles(folder: Path) -> Path:
    """The modules of the mission's cluster, and some that go wrong; the directories that they name beside them."""
    opt = folder / "opt"
    for name in ("cuda-11.7/lib64", "nccl-2.14.3/lib", "cudnn-8.8.1/lib"):
        (opt / name).mkdir(parents=True)
    files = {
        "cuda/11.7": f"setenv CUDA_HOME {opt}/cuda-11.7\nprepend-path LD_LIBRARY_PATH {opt}/cuda-11.7/lib64",
        "cuda/12.1": f"setenv CUDA_HOME {opt}/cuda-12.1",
        "nccl/2.14.3-1": f"prereq cuda/11.7\nprepend-path LD_LIBRARY_PATH {opt}/nccl-2.14.3/lib",
        "cudnn/8.8.1.3": f"prereq cuda/11.7\nprepend-path LD_LIBRARY_PATH {opt}/cudnn-8.8.1/lib",
        "cudnn/8.5.0": "conflict cuda/11.7",
        "broken/1.0": "licence_server_away",
        "unmounted/1.0": "prepend-path LD_LIBRARY_PATH /nowhere/unmounted/lib",
    }
    for name, body in files.items():
        path = folder / "modulefiles" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#%Module1.0\n{body}\n")
    return folder / "modulefiles"
