"""What Slurm prints, and what we read out of it. Recorded from Slurm 22.05.8 where not said otherwise."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc.core.errors import BadInput, HpcError
from hpc.slurm import client as slurm
from hpc.slurm import executor
from hpc.slurm.hostlist import expand_hosts
from hpc.slurm.records import (
    SACCT_DELIMITER,
    SQUEUE_FIELDS,
    JobInfo,
    JobState,
    parse_duration,
    parse_gres,
    parse_gres_names,
    parse_sacct,
    parse_show,
    parse_squeue,
    parse_time,
    summary,
)
from hpc.slurm.variables import clean_env


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("COMPLETED", JobState.COMPLETED),
        ("CANCELLED by 0", JobState.CANCELLED),
        ("CANCELLED by 1001", JobState.CANCELLED),
        ("CANCELLED+", JobState.CANCELLED),
        ("OUT_OF_MEMORY", JobState.OUT_OF_MEMORY),
        ("OOM", JobState.OUT_OF_MEMORY),
        ("PD", JobState.PENDING),
        ("R", JobState.RUNNING),
        ("completing", JobState.COMPLETING),
        ("RUNNING,COMPLETING", JobState.RUNNING),
        ("NODE_FAIL ", JobState.NODE_FAIL),
        ("", JobState.UNKNOWN),
        ("SOMETHING_NEW", JobState.UNKNOWN),
    ],
)
def test_state_in_every_spelling(text: str, state: JobState) -> None:
    assert JobState.parse(text) is state


def test_each_state_is_of_one_kind() -> None:
    for state in JobState:
        kinds = [state.is_pending, state.is_active, state.is_final]
        assert sum(kinds) == (0 if state is JobState.UNKNOWN else 1), state
        assert JobState.parse(state.name) is state
        assert JobState.parse(state.value) is state
    assert [s for s in JobState if s.is_success] == [JobState.COMPLETED]
    assert JobState.PREEMPTED.is_final
    assert JobState.COMPLETING.is_active
    assert JobState.REQUEUED.is_pending


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("node[1-3,07-09],gpu-a", ["node1", "node2", "node3", "node07", "node08", "node09", "gpu-a"]),
        ("node1", ["node1"]),
        ("", []),
        ("a[098-101]", ["a098", "a099", "a100", "a101"]),
        ("r[1-2]n[01-02]", ["r1n01", "r1n02", "r2n01", "r2n02"]),
        ("n[1,5]-ib0,login", ["n1-ib0", "n5-ib0", "login"]),
        ("n[1-2].cluster.example", ["n1.cluster.example", "n2.cluster.example"]),
    ],
)
def test_expand_hosts(text: str, hosts: list[str]) -> None:
    assert expand_hosts(text) == hosts


@pytest.mark.parametrize(
    "text", ["node[1-", "node]1[", "n[3-1]", "n[a-b]", "n[]", "n[1-99999999]", "n[1-9]]", "n[[1]]"]
)
def test_bad_host_list_is_one_line(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        expand_hosts(text)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=60))
def test_expand_hosts_never_fails_otherwise(text: str) -> None:
    with contextlib.suppress(BadInput):
        assert all(isinstance(host, str) for host in expand_hosts(text))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7-00:00:00", 604800),
        ("1:02:03", 3723),
        ("30:00", 1800),
        ("1-12:00:00", 129600),
        ("UNLIMITED", None),
        ("", None),
    ],
)
def test_durations(text: str, seconds: int | None) -> None:
    assert parse_duration(text) == seconds


def test_times() -> None:
    moment = parse_time("2026-11-24T20:41:18")
    assert moment is not None and moment.tzinfo is not None and moment.second == 18
    assert parse_time("N/A") is parse_time("Unknown") is parse_time("") is None


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("gpu:a100:8", [("a100", 8)]),
        ("gpu:8", [("", 8)]),
        ("gpu", [("", 1)]),
        ("gpu:a100:4(S:0-1),gpu:v100:2(S:0,1),shard:16", [("a100", 4), ("v100", 2)]),
        ("gpu:nvidia_a100-sxm4-80gb:8(IDX:0-7)", [("nvidia_a100-sxm4-80gb", 8)]),
        ("gpu:a100_3g.20gb:2", [("a100_3g.20gb", 2)]),
        ("(null)", []),
        ("", []),
    ],
)
def test_gres(text: str, gpus: list[tuple[str, int]]) -> None:
    assert parse_gres(text) == gpus


def test_names_of_gres() -> None:
    assert parse_gres_names("gpu:a100:4(S:0-1,2),lscratch:900G,dcu") == ["gpu", "lscratch", "dcu"]
    assert parse_gres_names("(null)") == []


def _squeue_line(**cells: str) -> str:
    defaults = {
        "JobArrayID": "1",
        "State": "RUNNING",
        "Reason": "None",
        "exit_code": "0",
        "RestartCnt": "0",
        "SubmitTime": "2026-11-24T20:41:18",
        "StartTime": "N/A",
        "EndTime": "N/A",
        "TimeLimit": "7-00:00:00",
        "Partition": "gpu",
        "Dependency": "(null)",
        "Name": "wrap",
        "Comment": "(null)",
    }
    row = defaults | cells
    raw = b"".join(row.get(name, "").encode()[:width].ljust(width) for name, width in SQUEUE_FIELDS)
    return raw.decode()


def test_squeue_rows() -> None:
    text = "\n".join(
        [
            _squeue_line(
                JobArrayID="1",
                State="FAILED",
                Reason="NonZeroExitCode",
                NodeList="node[1-2]",
                exit_code="768",
                RestartCnt="2",
                Comment="glmjobs:日本 | x",
            ),
            _squeue_line(
                JobArrayID="3_0",
                State="PENDING",
                Reason="Dependency",
                Dependency="afterok:2(unfulfilled)",
                Comment="a\nb JobState=COMPLETED",
            ),
            _squeue_line(JobArrayID="5", State="FAILED", exit_code="9"),
        ]
    )
    failed, element, killed = parse_squeue(text)
    assert (failed.exit_code, failed.exit_signal, failed.restarts) == (3, 0, 2)
    assert (
        failed.comment == "glmjobs:日本 | x"
        and failed.node_list == "node[1-2]"
        and failed.time_limit == 604800
    )
    assert element.id == "3_0" and element.state is JobState.PENDING and element.reason == "Dependency"
    assert element.dependency == "afterok:2(unfulfilled)" and element.comment == "a\nb JobState=COMPLETED"
    assert element.started is None
    assert (killed.exit_code, killed.exit_signal, killed.reason, killed.comment) == (0, 9, "", "")


def test_sacct_rows() -> None:
    rows = [
        [
            "1",
            "CANCELLED by 0",
            "None",
            "node1",
            "0:15",
            "3:0",
            "2026-11-24T20:41:18",
            "Unknown",
            "Unknown",
            "10080",
            "gpu",
            "train",
            "key",
        ],
        ["7_[2-3]", "PENDING", "None", "None assigned", "0:0", "0:0", "", "", "", "", "gpu", "x", ""],
        [
            "7_1",
            "OUT_OF_MEMORY",
            "None",
            "node2",
            "0:125",
            "0:0",
            "",
            "",
            "",
            "Partition_Limit",
            "gpu",
            "x",
            "",
        ],
    ]
    first, second = parse_sacct("\n".join(SACCT_DELIMITER.join(row) for row in rows) + "\n")
    assert first.state is JobState.CANCELLED and (first.exit_code, first.exit_signal) == (0, 15)
    assert first.derived_exit_code == 3 and first.time_limit == 604800 and first.source == "sacct"
    assert second.id == "7_1" and second.state is JobState.OUT_OF_MEMORY and second.time_limit is None


def test_show_takes_the_first_of_repeated_keys() -> None:
    said = parse_show(
        "JobId=3 ArrayJobId=3 JobName=my job JobState=PENDING Reason=Dependency "
        "Dependency=afterok:2(unfulfilled) "
        "NodeList= TRES=cpu=1,mem=8000M Comment=a\nb JobState=COMPLETED  StdErr=/dev/null Power= \n"
    )
    assert said["JobState"] == "PENDING" and said["JobName"] == "my job" and said["NodeList"] == ""
    assert said["TRES"] == "cpu=1,mem=8000M" and said["Comment"] == "a\nb"


def test_array_summary() -> None:
    def element(i: int, state: JobState) -> JobInfo:
        return JobInfo(id=f"9_{i}", state=state)

    done, failed = element(0, JobState.COMPLETED), element(1, JobState.FAILED)
    waiting, running = element(2, JobState.PENDING), element(3, JobState.RUNNING)
    assert summary("9", [done, failed, waiting, running]).state is JobState.RUNNING
    assert summary("9", [done, failed, waiting]).state is JobState.PENDING
    assert summary("9", [done, failed]).state is JobState.FAILED
    assert summary("9", [done]).state is JobState.COMPLETED
    assert summary("9", [done]).id == "9"


def test_clean_env_keeps_only_which_cluster() -> None:
    dirty = {
        "SLURM_JOB_ID": "1",
        "SLURM_MEM_PER_NODE": "0",
        "SBATCH_PARTITION": "x",
        "SRUN_CPUS_PER_TASK": "4",
        "SLURMD_NODENAME": "n",
        "SALLOC_PARTITION": "x",
        **WHICH,
        "PATH": "/bin",
        "HOME": "/root",
    }
    assert clean_env(dirty) == {**WHICH, "PATH": "/bin", "HOME": "/root"}


WHICH = {
    "SLURM_CONF": "/etc/slurm/slurm.conf", "SLURM_CONF_SERVER": "control:6817", "SLURM_CLUSTERS": "north",
}  # fmt: skip


def test_every_way_to_slurm_asks_the_same_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sbatch through submitit, sbatch by itself, squeue, and the scripts of a local chain, from inside another job."""
    told = f'env >"{tmp_path}/of-$(basename "$0")"'
    environ = _pretend(tmp_path, "sbatch", f"{told}; echo Submitted batch job 7")
    for name, body in (("squeue", told), ("srun", told)):
        _pretend(tmp_path, name, body)
    inside = {
        "SLURM_JOB_ID": "1",
        "SLURM_MEM_PER_NODE": "0",
        "SBATCH_PARTITION": "x",
        "SALLOC_PARTITION": "x",
    }
    for name, value in {**environ, **WHICH, **inside}.items():
        monkeypatch.setenv(name, value)

    def seen(command: str) -> dict[str, str]:
        pairs = (line.partition("=") for line in (tmp_path / f"of-{command}").read_text().splitlines())
        return {name: value for name, _, value in pairs if name.startswith(("SLURM", "SBATCH", "SALLOC"))}

    assert executor.to_slurm("#!/bin/sh\n", [], tmp_path / "submitit") == ("7", "")
    assert seen("sbatch") == WHICH
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\n{told}; echo 8\n")
    assert slurm.submit(tmp_path / "job.sh") == "8"
    assert seen("sbatch") == WHICH
    slurm.jobs(["7"])
    assert WHICH.items() <= seen("squeue").items()
    (tmp_path / "run" / "jobs" / "work").mkdir(parents=True)
    (tmp_path / "run" / "jobs" / "work" / "script.sh").write_text(f'env >"{tmp_path}/of-local"\n')
    command = [sys.executable, "-m", "hpc.chain.local", str(tmp_path / "run"), "work"]
    assert subprocess.run(command, check=False).returncode == 0
    assert seen("local") == WHICH


# -- commands that answer what a real Slurm answered, for what a real one rarely does


def _pretend(directory: Path, name: str, body: str) -> dict[str, str]:
    """An environment in which command ``name`` is a shell script."""
    path = directory / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{directory}:{os.environ['PATH']}"}


def test_no_slurm_here(tmp_path: Path) -> None:
    env = {"PATH": str(tmp_path)}
    assert slurm.available(env) is False
    with pytest.raises(slurm.SlurmUnreachable, match="not found on PATH"):
        slurm.jobs(["1"], env=env)


def test_no_configuration(tmp_path: Path) -> None:
    said = "echo 'scontrol: fatal: Could not establish a configuration source' >&2; exit 1"
    env = _pretend(tmp_path, "scontrol", said) | _pretend(tmp_path, "sbatch", "exit 0")
    assert slurm.available(env) is False


def test_a_silent_controller_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm.time, "sleep", lambda _: None)
    env = _pretend(
        tmp_path,
        "scontrol",
        f"echo x >> {tmp_path}/calls; [ $(wc -l < {tmp_path}/calls) -ge 3 ] && exit 0\n"
        "echo 'slurm_update error: Unable to contact slurm controller (connect failure)' >&2; exit 1",
    )
    slurm.requeue("1", env=env)
    assert len((tmp_path / "calls").read_text().split()) == 3
    (tmp_path / "calls").write_text("")
    _pretend(
        tmp_path,
        "scontrol",
        f"echo x >> {tmp_path}/calls; echo 'Unable to contact slurm controller' >&2; exit 1",
    )
    with pytest.raises(slurm.SlurmUnreachable, match="Unable to contact slurm controller") as caught:
        slurm.requeue("1", env=env)
    assert "\n" not in str(caught.value)
    assert len((tmp_path / "calls").read_text().split()) == 1 + len(slurm.PAUSES)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (
            "echo 'sbatch: error: Batch job submission failed: "
            "Socket timed out on send/recv operation' >&2; exit 1",
            slurm.SubmitUncertain,
        ),
        (
            "echo 'sbatch: error: Batch job submission failed: "
            "Unable to contact slurm controller (connect failure)' >&2;"
            " exit 1",
            slurm.SlurmUnreachable,
        ),
        (
            "echo 'sbatch: error: invalid partition specified: nope' >&2;"
            "echo 'sbatch: error: Batch job submission failed: Invalid partition name specified' >&2; exit 1",
            slurm.SlurmRefused,
        ),
        ("echo nonsense", slurm.SubmitUncertain),
        ("true", slurm.SubmitUncertain),
        ("echo 12; kill -9 $$", slurm.SubmitUncertain),
        ("echo 'sbatch: error: Invalid --time specification' >&2; exit 255", slurm.SlurmRefused),
        ("exit 143", slurm.SubmitUncertain),  # a site's wrapper whose sbatch was terminated
    ],
)
def test_submission_is_tried_once(tmp_path: Path, body: str, error: type[HpcError]) -> None:
    env = _pretend(tmp_path, "sbatch", f"echo x >> {tmp_path}/calls\n{body}")
    with pytest.raises(error) as caught:
        slurm.submit(tmp_path / "x.sh", env=env)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    assert (tmp_path / "calls").read_text() == "x\n"


def test_submit_reads_the_id_with_a_cluster_name(tmp_path: Path) -> None:
    env = _pretend(tmp_path, "sbatch", "echo '123;dev'") | {"SLURM_JOB_ID": "7"}
    assert slurm.submit(tmp_path / "x.sh", env=env) == "123"


def test_a_hanging_command_is_ended_with_its_children(tmp_path: Path) -> None:
    env = _pretend(tmp_path, "squeue", "sleep 600 & sleep 600")
    with pytest.raises(slurm.SlurmUnreachable, match="no answer within"):
        slurm.run(["squeue"], env=env, timeout=0.3, pauses=())


def test_ids_are_checked(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no Slurm job id"):
        slurm.jobs(["1; rm -rf /"], env={"PATH": str(tmp_path)})
    assert slurm.jobs([], env={"PATH": str(tmp_path)}) == {}


def test_one_squeue_and_one_sacct_call(tmp_path: Path) -> None:
    """Accounting off and a job forgotten: absent, and not an error; a job known to squeue asks sacct
    nothing."""
    (tmp_path / "rows").write_text(_squeue_line(JobArrayID="1") + "\n")
    env = _pretend(tmp_path, "squeue", f"echo squeue >> {tmp_path}/calls; cat {tmp_path}/rows")
    env |= _pretend(
        tmp_path,
        "sacct",
        f"echo sacct >> {tmp_path}/calls; echo 'Slurm accounting storage is disabled' >&2; exit 1",
    )
    assert set(slurm.jobs(["1"], env=env)) == {"1"}
    assert (tmp_path / "calls").read_text().split() == ["squeue"]
    assert set(slurm.jobs(["1", "2", "3"], env=env)) == {"1"}
    assert (tmp_path / "calls").read_text().split() == ["squeue", "squeue", "sacct"]
