"""Room within quotas, from the words of the commands that know them; and sizes as Slurm writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc.core import room
from hpc.core.sizes import slurm_bytes

# as lfs-quota(1) -q shows it: file system, kbytes, quota, limit, grace, files, …; * where it is over the soft limit
LUSTRE = "    /lustre 83886080* 94371840 104857600       -      12       0       0       -\n"
# as quota(1) --no-wrap shows it
NFS = """Disk quotas for user anna (uid 1001):
     Filesystem   blocks   quota   limit   grace   files   quota   limit   grace
nfs:/export/home 5242880       0 7340032       0      40       0       0       0
       /dev/sdb1       4       0       0       0       1       0       0       0
"""


def test_what_the_commands_say() -> None:
    assert room.rooms(LUSTRE, "/lustre") == [20 << 30]
    assert room.rooms(NFS, "nfs:/export/home") == [2 << 30]
    assert room.rooms(NFS, "/dev/sdb1") == [], "0 is no limit"
    assert room.rooms("Disk quotas for user anna (uid 1001): none\n", "/lustre") == []


@pytest.mark.parametrize("tool", ["lfs", "quota"])
def test_a_quota_counts(tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command of the machine is asked; less than the disk's free space is what can be written."""
    kind = "lustre" if tool == "lfs" else "nfs"
    mounts = [("/dev/root", "/", "ext4"), ("nfs:/export/home", str(tmp_path), kind)]
    monkeypatch.setattr(room, "_mounts", lambda: mounts)
    text = LUSTRE.replace("/lustre", str(tmp_path)) if tool == "lfs" else NFS
    limit = (20 if tool == "lfs" else 2) << 20  # kilobytes
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / tool).write_text(
        f"#!/bin/sh\ncat <<'END'\n{text.replace('104857600', str(limit + 83886080))}END\n"
    )
    (tools / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setattr(room, "_disk", lambda path: 1 << 50)
    assert room.free_bytes(tmp_path / "runs" / "not" / "there yet") == limit << 10
    (tools / tool).write_text("#!/bin/sh\nexit 1\n")
    assert room.free_bytes(tmp_path) == 1 << 50


def test_slurms_sizes() -> None:
    wanted = {"200G": 200 << 30, "512": 512 << 20, "1T": 1 << 40, "0": None, None: None}
    assert {text: slurm_bytes(text) for text in wanted} == wanted
