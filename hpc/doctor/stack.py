"""Is the environment one that can work: its Python, its packages together, its wheels on this system?

Judged by metadata, without importing a package: a broken one must not break the doctor. What fits with what was
measured (configs/stacks says how); pip allows much that then fails on the first step, or computes something else.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from hpc.batch.profile import Environment, Profile
from hpc.core import hints
from hpc.core.resources import LIGHT, default_stack, resource
from hpc.doctor.checklist import Row, State
from hpc.doctor.wheels import fits_glibc, fits_python, glibc, local_cuda, split_wheel
from hpc.health.libraries import is_version, numbers

SECTION = "Python environment"


@dataclass(frozen=True)
class Installed:
    """An environment as it lies on disk."""

    prefix: Path
    python: tuple[int, int]
    versions: dict[str, str] = field(default_factory=dict)
    tags: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Package → the tags of the wheel it came from."""
    torch_cuda: str | None = None


def look(environment: Environment) -> Installed:
    """The environment that the profile names, or the one that runs this."""
    prefix = Path(environment.python or sys.prefix)
    if environment.python is None or prefix.resolve() == Path(sys.prefix).resolve():
        python = (sys.version_info.major, sys.version_info.minor)
        folders = [Path(p) for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
    else:
        folders = sorted(prefix.glob("lib*/python3.*/site-packages"))
        match = re.search(r"python(3)\.(\d+)", str(folders[0])) if folders else None
        python = (int(match[1]), int(match[2])) if match else (0, 0)
    versions: dict[str, str] = {}
    tags: dict[str, tuple[str, ...]] = {}
    for package in metadata.distributions(path=[str(f) for f in folders]):
        name = normal(package.metadata["Name"] or "")
        versions.setdefault(name, package.version)
        wheel = package.read_text("WHEEL") or ""
        tags.setdefault(name, tuple(re.findall(r"^Tag: (\S+)$", wheel, re.M)))
    return Installed(prefix, python, versions, tags, torch_cuda(folders))


def torch_cuda(folders: Iterable[Path]) -> str | None:
    """The CUDA version torch was built for, as its version.py says; None: a CPU build, or none."""
    for folder in folders:
        try:
            text = (folder / "torch/version.py").read_text(encoding="utf-8")
        except OSError:
            continue
        found = re.search(r"^cuda(?:: [^=]+)? = '([\d.]+)'", text, re.M)
        return found[1] if found else None
    return None


def check(found: Installed, profile: Profile, *, pins: Path | None, remote_code: bool) -> list[Row]:
    """All about the environment."""
    if found.python == (0, 0):
        stack = pins or default_stack()
        made = hints.command("hpc.bootstrap", "--stack", stack, "--into", found.prefix)
        return [
            Row(
                SECTION,
                "Python",
                "bad",
                f"no environment at {found.prefix}",
                "bin/python and packages",
                f"make it: {made}, or correct environment.python",
            )
        ]
    rows = [
        Row(
            SECTION,
            "Python",
            "ok" if found.python >= (3, 10) else "bad",
            f"{found.python[0]}.{found.python[1]} in {found.prefix}",
            "3.10 or later",
            "a newer Python",
        )
    ]
    missing = [name for name in LIGHT if name not in found.versions]
    rows.append(
        Row(
            SECTION,
            "to submit",
            "bad" if missing else "ok",
            f"{', '.join(missing)} missing" if missing else "complete",
            ", ".join(LIGHT),
            f"pip install {' '.join(missing or LIGHT)}",
        )
    )
    rows.append(against_pins(found, pins or default_pins(found.python)))
    rows += check_tags(found)
    if "torch" in found.versions:
        rows += [check_cuda(found, profile), *together(found)]
        rows += check_remote_code(found, asked=remote_code)
    else:
        rows.append(
            Row(SECTION, "torch", "warn", "not installed", "on the nodes that train", "fine on a login node")
        )
    return rows


def default_pins(python: tuple[int, int]) -> Path:
    """The pins of the stack for a Python."""
    return resource(f"configs/stacks/{default_stack(python)}.txt")


def read_pins(path: Path) -> dict[str, str]:
    """``name==version`` lines of a requirements file."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return {normal(n): v for n, v in re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)", text, re.M)}


def against_pins(found: Installed, path: Path) -> Row:
    """Installed versions against a stack's."""
    pins = read_pins(path)
    if not pins:
        return Row(SECTION, "stack", "warn", f"no pins in {path}", "a file of configs/stacks", "--stack FILE")
    other = {n: v for n, v in pins.items() if n in found.versions and base(found.versions[n]) != base(v)}
    said = ", ".join(f"{n} {found.versions[n]} (pinned {v})" for n, v in list(other.items())[:5])
    shared = sum(n in found.versions for n in pins)
    return Row(
        SECTION,
        f"stack {path.stem}",
        "warn" if other else "ok",
        said or f"{shared} of {len(pins)} installed, as pinned",
        "the pinned versions",
        f"pip install -r {shlex.quote(os.path.relpath(path))}: others were not measured together",
    )


def check_tags(found: Installed) -> list[Row]:
    """Packages whose wheel was built for another Python or a newer glibc."""
    libc = glibc()
    foreign = [
        f"{n} ({tags[0]})"
        for n, tags in found.tags.items()
        if tags and not any(fits_python(t, found.python) for t in tags)
    ]
    newer = [
        f"{n} ({tags[0]})"
        for n, tags in found.tags.items()
        if tags and not any(fits_glibc(t, libc) for t in tags)
    ]
    return [
        Row(
            SECTION,
            "wheels for this Python",
            "bad" if foreign else "ok",
            ", ".join(foreign[:5]) or "all",
            f"cp{found.python[0]}{found.python[1]}, abi3 or py3",
            "install them again with this Python's own pip",
        ),
        Row(
            SECTION,
            "wheels for this glibc",
            "bad" if newer else "ok",
            ", ".join(newer[:5]) or "all",
            f"glibc {'.'.join(map(str, libc))} or older",
            "configs/stacks/centos7-cu117.txt has wheels for glibc 2.17",
        ),
    ]


def check_cuda(found: Installed, profile: Profile) -> Row:
    """The CUDA that torch was built for against the cluster's."""
    built = found.torch_cuda or local_cuda(found.versions["torch"])
    wanted = cluster_cuda(profile)
    text = f"torch {found.versions['torch']}, built for {f'CUDA {built}' if built else 'CPUs only'}"
    mend = (
        "an environment from configs/stacks/centos7-cu117.txt" if wanted == "11.7" else "a torch built for it"
    )
    if wanted is None:
        return Row(SECTION, "torch and CUDA", "ok", text)
    if built is None:
        return Row(SECTION, "torch and CUDA", "warn", text, f"CUDA {wanted} on the nodes that train", mend)
    state: State = "ok" if is_version(built, wanted) else "bad"
    return Row(SECTION, "torch and CUDA", state, text, f"CUDA {wanted} (profile {profile.name})", mend)


def cluster_cuda(profile: Profile) -> str | None:
    """The cluster's CUDA: what preflight demands, else the version in its module's name."""
    if profile.preflight.cuda:
        return profile.preflight.cuda
    names = (
        re.fullmatch(r"(?i)(?:.*/)?cuda(?:toolkit)?/(\d+\.\d+).*", name)
        for name in profile.environment.modules
    )
    return next((match[1] for match in names if match), None)


def together(found: Installed) -> list[Row]:
    """Releases that install side by side and do not work together, as measured (configs/stacks)."""
    v = {name: numbers(version) for name, version in found.versions.items()}
    torch = v["torch"]
    rows = []

    def row(what: str, bad: bool, names: tuple[str, str], why: str, mend: str) -> None:
        if all(n in v for n in names):
            text = ", ".join(f"{n} {found.versions[n]}" for n in names)
            rows.append(Row(SECTION, what, "bad" if bad else "ok", text, why, mend))

    new = v.get("transformers", ())
    row(
        "transformers with torch",
        (torch < (2, 1) and new >= (4, 50)) or (torch < (2, 6) and new >= (5,)),
        ("transformers", "torch"),
        "torch < 2.1: up to 4.49; 5.x: torch 2.6",
        "transformers 4.49.0 for torch 2.0.1",
    )
    row(
        "DeepSpeed with torch",
        torch < (2, 1) and v.get("deepspeed", ()) > (0, 16, 4),
        ("deepspeed", "torch"),
        "torch < 2.1: up to 0.16.4",
        "0.16.4: 0.16.9 computes other losses, 0.17 and later do not run",
    )
    row(
        "numpy with torch",
        torch < (2, 3) and v.get("numpy", ()) >= (2,),
        ("numpy", "torch"),
        "torch < 2.3: numpy 1.x",
        "pip install 'numpy<2'",
    )
    row(
        "setuptools with torch",
        torch < (2, 1) and v.get("setuptools", ()) >= (81,),
        ("setuptools", "torch"),
        "torch < 2.1: below 81 (pkg_resources)",
        "pip install 'setuptools<81'",
    )
    return rows


def check_remote_code(found: Installed, *, asked: bool) -> list[Row]:
    """A model's own modeling code (``trust_remote_code``) was written for one transformers: that of the stack whose
    head has a line ``# remote-code:``."""
    rows = []
    for path in sorted(resource("configs/stacks").glob("*.txt")):
        if not re.search(r"^# remote-code:", path.read_text(encoding="utf-8"), re.M):
            continue
        version, pinned = found.versions.get("transformers", "none"), read_pins(path)["transformers"]
        rows.append(
            Row(
                SECTION,
                "transformers for remote code",
                "ok" if version == pinned else ("bad" if asked else "warn"),
                version,
                f"{pinned}, only for trust_remote_code",
                f"this toolkit's own code needs none; else: configs/stacks/{path.name}",
            )
        )
    return rows


def check_wheels(folder: Path, found: Installed, profile: Profile) -> list[Row]:
    """A folder of wheels that somebody is about to install."""
    files = sorted(folder.glob("*.whl")) if folder.is_dir() else []
    if not files:
        return [Row("Wheels", str(folder), "bad", "no wheels there", "*.whl", "--wheels DIR")]
    rows, wanted, libc = [], cluster_cuda(profile), glibc()
    for file in files:
        name, version, tags = split_wheel(file.name)
        cuda = local_cuda(version)
        why = ""
        if not tags:
            why = "no wheel's name (PEP 427): NAME-VERSION-PYTHON-ABI-PLATFORM.whl"
        elif not any(fits_python(t, found.python) for t in tags):
            why = f"built for {tags[0].split('-')[0]}, this Python is cp{found.python[0]}{found.python[1]}"
        elif not any(fits_glibc(t, libc) for t in tags):
            why = f"needs a newer glibc than {'.'.join(map(str, libc))}"
        elif cuda and wanted and not is_version(cuda, wanted):
            why = f"built for CUDA {cuda}, the cluster has {wanted}"
        if why:
            rows.append(
                Row("Wheels", f"{name} {version}", "bad", why, "", "take the versions of configs/stacks")
            )
    return rows or [Row("Wheels", str(folder), "ok", f"{len(files)} wheels fit")]


def base(version: str) -> str:
    """A version without its local label."""
    return version.partition("+")[0]


def normal(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
