"""This machine by the same checks as preflight's on the nodes: its GPUs and libraries where it has some, memory, disk.

A login node usually has no GPU, and that is well; one that has some is judged as a node of the profile would be.
"""

from __future__ import annotations

from pathlib import Path

from hpc.batch.profile import Profile
from hpc.core.room import there
from hpc.doctor.checklist import Row
from hpc.health import checks, libraries
from hpc.health import gpus as devices
from hpc.health.gpus import visible_gpus

SECTION = "This machine"


def check(profile: Profile, runs: Path) -> list[Row]:
    """GPUs, driver, CUDA, NCCL and cuDNN as loaded, leftover processes, memory, and writing where runs go."""
    gpus = visible_gpus(devices.query_gpus())
    need = checks.Need(
        gpus=len(gpus), gpu_memory=profile.gpu_memory_gb * 10**9, gpu_type=profile.gpu_type,
        host_memory=2 << 30, disk=1 << 30, floor=profile.preflight,
    )  # fmt: skip
    findings: list[checks.Finding] = []
    if gpus:
        findings += checks.check_gpus(gpus, need) + checks.check_errors(gpus)
        findings.append(checks.check_leftovers(gpus))
        if profile.preflight.libraries:
            findings += checks.check_libraries(libraries.loaded(), profile.preflight, gpus)
    findings.append(checks.check_memory(need))
    findings += checks.check_run_directory(there(runs), need)[0]
    none = (
        [] if gpus else [Row(SECTION, "GPUs", "ok", "none (nvidia-smi lists none)", "none on a login node")]
    )
    return none + [as_row(f) for f in findings]


def as_row(finding: checks.Finding) -> Row:
    """One of preflight's findings as a row of doctor's."""
    return Row(
        SECTION, finding.what, "ok" if finding.ok else "bad", finding.found, finding.needed, finding.remedy
    )
