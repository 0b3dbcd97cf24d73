"""What a wheel's name says: for which Python, which glibc and which CUDA it was built."""

from __future__ import annotations

import os
import re

from hpc.health.libraries import numbers


def split_wheel(file: str) -> tuple[str, str, list[str]]:
    """A wheel's name, version and tags from its file name (PEP 427).

    >>> split_wheel("torch-1.10.1+cu111-cp39-cp39-linux_x86_64.whl")
    ('torch', '1.10.1+cu111', ['cp39-cp39-linux_x86_64'])
    """
    parts = file.removesuffix(".whl").split("-")
    if len(parts) < 5:
        return file, "", []
    python, abi, platform = parts[-3:]
    return (
        parts[0],
        parts[1],
        [f"{p}-{a}-{q}" for p in python.split(".") for a in abi.split(".") for q in platform.split(".")],
    )


def fits_python(tag: str, python: tuple[int, int]) -> bool:
    """Whether a wheel's tag fits a CPython (PEP 425): its own version, the stable ABI of an older one, or any."""
    interpreter, abi, _ = tag.split("-", 2)
    match = re.fullmatch(r"(cp|py)(\d)(\d*)", interpreter)
    if match is None:
        return False
    version = (int(match[2]), int(match[3] or 0))
    if match[1] == "py" or abi == "abi3":
        return version <= python and version[0] == python[0]
    return version == python or (abi == "none" and version <= python)


def fits_glibc(tag: str, libc: tuple[int, int]) -> bool:
    """Whether a wheel's platform tag fits this glibc (PEP 600; manylinux1, 2010 and 2014 are 2.5, 2.12 and 2.17)."""
    platform = tag.rsplit("-", 1)[-1]
    if match := re.match(r"manylinux_(\d+)_(\d+)_", platform):
        return (int(match[1]), int(match[2])) <= libc
    old = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
    if (name := platform.split("_")[0]) in old:
        return old[name] <= libc
    return platform == "any" or platform.startswith("linux_")


def glibc() -> tuple[int, int]:
    """This system's glibc."""
    words = (os.confstr("CS_GNU_LIBC_VERSION") or "glibc 0.0") if hasattr(os, "confstr") else "glibc 0.0"
    major, minor = (*numbers(words.split()[-1]), 0, 0)[:2]
    return major, minor


def local_cuda(version: str) -> str | None:
    """The CUDA version in a local version label.

    >>> local_cuda("1.10.1+cu111"), local_cuda("2.0.1+cu117"), local_cuda("2.13.0+cu130"), local_cuda("2.0.1")
    ('11.1', '11.7', '13.0', None)
    """
    match = re.search(r"\+cu(\d+)(\d)", version)
    return f"{match[1]}.{match[2]}" if match else None
