"""CUDA, NCCL and cuDNN as PyTorch would load them here, asked for their versions: not as a module is named.

``python -m hpc.health.libraries`` prints them as JSON. It runs as a process of its own, since a broken library ends
whoever loads it. torch is looked at, not imported: its wheels' own libraries come first (their run path points there),
then the loader's (LD_LIBRARY_PATH).
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from hpc.core.resources import TOP

OLDEST_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
"""CUDA's major version → oldest Linux driver for any of its minor versions (CUDA Toolkit release notes, table "CUDA
Toolkit and Minimum Required Driver Version for CUDA Minor Version Compatibility")."""


def loaded() -> dict[str, str]:
    """Versions by name (``torch``, ``torch_cuda``, ``driver_cuda``, ``cuda``, ``nccl``, ``cudnn``; absent: not found),
    and ``<name>_file``: which file answered. Found out in a process of its own."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "hpc.health.libraries"], capture_output=True, encoding="utf-8", timeout=60,
            check=True, cwd=TOP,
        )  # fmt: skip
        found = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
    return {str(k): str(v) for k, v in found.items()}


def look() -> dict[str, str]:
    """The same in this process."""
    found: dict[str, str] = {}
    root = torch_directory()
    if root is not None:
        text = _read(root / "version.py")
        for name, pattern in (
            ("torch", r"__version__ = '([^']+)'"),
            ("torch_cuda", r"cuda: .*= '([^']+)'|cuda = '([^']+)'"),
        ):
            if match := re.search(pattern, text):
                found[name] = next(group for group in match.groups() if group)
    _ask(found, "driver_cuda", ["libcuda.so.1"], "cuDriverGetVersion", cuda_version)
    major = found.get("torch_cuda", "").partition(".")[0]
    _ask(found, "cuda", _files(root, "libcudart", major), "cudaRuntimeGetVersion", cuda_version)
    _ask(found, "nccl", _files(root, "libnccl", "2"), "ncclGetVersion", nccl_version)
    for file in _files(root, "libcudnn", ""):
        try:
            library = ctypes.CDLL(file)
            library.cudnnGetVersion.restype = ctypes.c_size_t
            found["cudnn"], found["cudnn_file"] = cudnn_version(int(library.cudnnGetVersion())), file
            break
        except (OSError, AttributeError):
            continue
    return found


def torch_directory() -> Path | None:
    """Where torch is installed, without importing it."""
    try:
        spec = importlib.util.find_spec("torch")
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) if places else None


def _files(root: Path | None, name: str, major: str) -> list[str]:
    """Candidates for a library, in the order in which torch's loader would find them."""
    found: list[str] = []
    if root is not None:
        folders = [*sorted(root.parent.glob("nvidia/*/lib")), root / "lib"]
        for folder in folders:
            found += sorted(
                str(p) for p in folder.glob(f"{name}*.so*") if re.match(rf"{name}(-[0-9a-f]+)?\.so", p.name)
            )
    suffixes = {"libcudart": (f"{major}.0", major), "libnccl": ("2",), "libcudnn": ("9", "8")}[name]
    return found + [f"{name}.so.{suffix}" for suffix in suffixes if suffix.strip(".0")] + [f"{name}.so"]


def _ask(
    found: dict[str, str], name: str, files: list[str], function: str, words: Callable[[int], str]
) -> None:
    for file in files:
        try:
            value = ctypes.c_int(0)
            if getattr(ctypes.CDLL(file), function)(ctypes.byref(value)) == 0 and value.value:
                found[name], found[f"{name}_file"] = words(value.value), file
                return
        except (OSError, AttributeError):
            continue


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def cuda_version(number: int) -> str:
    """CUDA's number as people write it (1000 x major + 10 x minor).

    >>> cuda_version(11070)
    '11.7'
    """
    return f"{number // 1000}.{number % 1000 // 10}"


def nccl_version(number: int) -> str:
    """NCCL's (nccl.h: two digits each for minor and patch from 2.9 on, else one place).

    >>> nccl_version(21403), nccl_version(2804)
    ('2.14.3', '2.8.4')
    """
    base = 10000 if number >= 10000 else 1000
    return f"{number // base}.{number % base // 100}.{number % 100}"


def cudnn_version(number: int) -> str:
    """cuDNN's (cudnn_version.h: 1000 x major up to 8, 10000 x major from 9 on).

    >>> cudnn_version(8801), cudnn_version(90100)
    ('8.8.1', '9.1.0')
    """
    base = 10000 if number >= 90000 else 1000
    return f"{number // base}.{number % base // 100}.{number % 100}"


def numbers(version: str) -> tuple[int, ...]:
    """A version's leading numbers, to compare.

    >>> numbers("515.65.01") < numbers("515.105.01")
    True
    """
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def is_version(found: str, wanted: str) -> bool:
    """Whether ``found`` is ``wanted`` or a more exact form of it: 11.7.99 is 11.7; of 8.8.1.3 cuDNN itself says 8.8.1.

    >>> is_version("11.7.99", "11.7"), is_version("8.8.1", "8.8.1.3"), is_version("11.8", "11.7")
    (True, True, False)
    """
    have, want = numbers(found), numbers(wanted)
    shorter = min(len(have), len(want))
    return bool(shorter) and have[:shorter] == want[:shorter]


if __name__ == "__main__":
    print(json.dumps(look()))
