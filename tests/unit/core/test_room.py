"""Room within quotas, from the words of the commands that know them; and sizes as Slurm writes them."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
from pathlib import Path

import pytest

from hpc.core import room
from hpc.core.room import Quota
from hpc.core.sizes import slurm_bytes

ME, MINE = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
GIB = 1 << 30

# As lfs of 2.15 prints it with -q (lfs.c, print_quota): the path it was given, on a line of its own where it has more
# than 15 characters; a star behind what is over a limit, brackets where a server did not answer.
LFS = """#!/bin/sh
case "$1 $2" in
"project -d") printf '%5u %c %s\\n' {project} "$3";;
"quota -q") case "$3" in
  -u) numbers="{user}"; [ "$4" = {me} ] || exit 1;;
  -g) numbers="{group}"; [ "$4" = {mine} ] || exit 1;;
  -p) numbers="{of_project}"; [ "$4" = 1001 ] || exit 1;;
  esac
  [ -n "$numbers" ] || {{ echo "lfs quota: cannot get quota: Permission denied" >&2; exit 1; }}
  if [ ${{#5}} -gt 15 ]; then printf '%s\\n%15s' "$5" ""; else printf '%15s' "$5"; fi
  printf ' %7s %7s %7s %7s %7s %7s %7s %7s\\n' $numbers - 12 0 0 -;;
esac
"""
FREE = "4 0 0"

# As quota(1) --no-wrap shows it
NFS = """Disk quotas for user anna (uid 1001):
     Filesystem   blocks   quota   limit   grace   files   quota   limit   grace
nfs:/export/home 5242880       0 7340032       0      40       0       0       0
       /dev/sdb1       4       0       0       0       1       0       0       0
"""

GPFS = (
    "mmlsquota::HEADER:version:reserved:reserved:filesystemName:quotaType:id:name:blockUsage:blockQuota:blockLimit:"
    "blockInDoubt:blockGrace:filesUsage:filesQuota:filesLimit:filesInDoubt:filesGrace:remarks:quota:defQuota:fid:"
    "filesetname:\n"
)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A disk without end; commands are stand-ins in the folder that is returned."""
    tools = tmp_path / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setattr(room, "_disk", lambda path: 1 << 50)
    return tools


def put(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o755)


def mounted(monkeypatch: pytest.MonkeyPatch, source: str, point: Path, kind: str) -> None:
    monkeypatch.setattr(room, "_mounts", lambda: [("/dev/root", "/", "ext4"), (source, str(point), kind)])


def test_what_the_commands_say() -> None:
    assert room.kilobytes(NFS, "nfs:/export/home", "u") == Quota("u", 5 * GIB, 0, 7 * GIB)
    none = room.kilobytes(NFS, "/dev/sdb1", "u")
    assert none is not None and none.limit == 0
    assert room.kilobytes("Disk quotas for user anna (uid 1001): none\n", "/lustre", "u") is None
    partly = room.kilobytes("   /lustre [83886080]* [94371840] [104857600] -", "/lustre", "u")
    assert partly is not None and partly.left == 20 * GIB


@pytest.mark.parametrize(
    ("values", "left", "unasked"),
    [
        ({"user": "83886080* 75497472 104857600"}, 20, ""),
        ({"group": "4 0 10485764"}, 10, ""),
        ({"of_project": "5242880 0 6291456"}, 1, ""),
        ({"of_project": "5242880 0 6291456", "project": "1001 -"}, None, ""),
        ({"of_project": "5242880 0 6291456", "project": "0 P"}, None, ""),
        ({"group": ""}, None, f"the quota of group {MINE} is not known: lfs says: lfs quota: cannot get quota: "
                              "Permission denied"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["l", "a mount point of some length"])
def test_lustre(
    values: dict[str, str], left: int | None, unasked: str, name: str, machine: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """User, group and project, asked of the mount point, whatever its length, for a directory far below it."""
    point = tmp_path / name
    runs = point / "home" / "anna"
    runs.mkdir(parents=True)
    mounted(monkeypatch, "mgs@tcp:/fs", point, "lustre")
    given = {"user": FREE, "group": FREE, "of_project": FREE, "project": "1001 P", **values}
    put(machine / "lfs", LFS.format(me=ME, mine=MINE, **given))
    assert room.free_bytes(runs / "not" / "there yet") == (1 << 50 if left is None else left * GIB)
    assert room.quotas(runs).unasked == unasked


def test_gpfs(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's, a group's and a fileset's quota on this device; what is in doubt counts as used."""
    mounted(monkeypatch, "gpfs1", tmp_path, "gpfs")
    row = "mmlsquota::0:1:::{}:{}:7:{}:1048576:{}:{}:1048576:none:1:0:0:0:none:e:on:off::{}:\n"
    own = GPFS + "".join(
        row.format(*cells)
        for cells in (
            ("gpfs1", "USR", "anna", 8 << 20, 9 << 20, ""), ("gpfs1", "USR", "anna", 0, 3 << 20, "lab"),
            ("gpfs1", "USR", "anna", 0, 1, "other"), ("gpfs0", "USR", "anna", 0, 1, ""),
            ("gpfs1", "GRP", "staff", 0, 0, ""),
        )
    )  # fmt: skip
    of_lab = GPFS + row.format("gpfs1", "FILESET", "lab", 0, 6 << 20, "")
    put(machine / "mmlsattr", "#!/bin/sh\necho 'file name:            '$2\necho 'fileset name:         lab'\n")
    put(machine / "mmlsquota",
        f"#!/bin/sh\ncase \"$*\" in\n'-Y gpfs1') cat <<'END'\n{own}END\n;;\n"
        f"'-Y -j lab gpfs1') cat <<'END'\n{of_lab}END\n;;\n*) exit 1;;\nesac\n")  # fmt: skip
    assert [(q.what, q.left // GIB) for q in room.quotas(tmp_path).found] == [
        ("user anna", 7), ("user anna", 1), ("fileset lab", 4),
    ]  # fmt: skip
    put(machine / "mmlsquota", "#!/bin/sh\necho 'mmlsquota: GPFS is down' >&2\nexit 1\n")
    asked = room.quotas(tmp_path)
    assert not asked.found and asked.unasked.count("mmlsquota says: mmlsquota: GPFS is down") == 2


def test_nfs(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted(monkeypatch, "nfs:/export/home", tmp_path, "nfs4")
    put(machine / "quota", f"#!/bin/sh\n[ $3 = -u ] && cat <<'END'\n{NFS}END\nexit 0\n")
    assert room.free_bytes(tmp_path / "runs") == 2 * GIB
    why = "quota: error while getting quota from nfs:/export/home: Connection refused"
    put(machine / "quota", f"#!/bin/sh\necho '{why}' >&2\nexit 1\n")
    assert room.free_bytes(tmp_path) == 1 << 50 and why in room.quotas(tmp_path).unasked


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("lustre", "quotas of lustre cannot be asked: no lfs here"),
        ("gpfs", "quotas of gpfs cannot be asked: no mmlsquota here"),
        ("nfs4", "quotas of nfs4 cannot be asked: no quota here"),
        ("beegfs", "quotas of beegfs are not asked here"),
        ("xfs", ""),
    ],
)
def test_what_cannot_be_asked_is_said(
    kind: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted(monkeypatch, "there", tmp_path, kind)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert room.quotas(tmp_path) == room.Quotas((), said)


def test_a_command_that_hangs_is_not_waited_for(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted(monkeypatch, "fs", tmp_path, "lustre")
    put(machine / "lfs", "#!/bin/sh\nexec tail -f /dev/null\n")
    monkeypatch.setattr(room, "SECONDS", 0.05)
    assert room.free_bytes(tmp_path) == 1 << 50
    assert "lfs gave no answer within 0.05 s" in room.quotas(tmp_path).unasked


@pytest.mark.skipif(shutil.which("quota") is None, reason="no quota(1) here")
def test_the_real_quota_is_asked_here(tmp_path: Path) -> None:
    """Of this machine's own file system: it takes the words it is given, and has nothing to complain of."""
    assert room.quotas(tmp_path).unasked == ""
    assert 0 < room.free_bytes(tmp_path) <= shutil.disk_usage(tmp_path).free


def test_slurms_sizes() -> None:
    wanted = {"200G": 200 << 30, "512": 512 << 20, "1T": 1 << 40, "0": None, None: None}
    assert {text: slurm_bytes(text) for text in wanted} == wanted
