"""The dev cluster itself: up, down, half dead, long names, an ordinary user; nodes that are what they pretend to be."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from hpc.core.errors import BadInput, NotFit
from hpc.devcluster import DevCluster, Options
from hpc.devcluster.daemon_process import Process
from hpc.slurm import client as slurm
from hpc.slurm.client import JobState

pytestmark = pytest.mark.slurm


def _cli(*args: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hpc.devcluster", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **kwargs)


def test_command_line_from_up_to_down(tmp_path: Path, cluster: DevCluster, repo: Path) -> None:
    """The four commands, beside another cluster that must not notice."""
    before = cluster.status()
    where = ["--dir", str(tmp_path / "dc")]
    assert _cli("env", *where, cwd=repo).returncode == 3
    assert _cli("status", *where, cwd=repo).returncode == 1
    up = _cli("up", "--nodes", "1", "--gpus", "4", *where, cwd=repo)
    try:
        assert up.returncode == 0, up.stderr
        again = _cli("up", "--nodes", "1", "--gpus", "4", *where, cwd=repo)
        assert again.returncode == 0 and again.stdout.startswith("already up")
        other = _cli("up", "--nodes", "2", *where, cwd=repo)
        assert other.returncode == 2 and other.stderr.count("\n") == 1 and "other options" in other.stderr
        status = json.loads(_cli("status", "--json", *where, cwd=repo).stdout)
        assert status["up"] and status["nodes"] == {"node1": "idle"}
        env = f"{shlex.quote(sys.executable)} -m hpc.devcluster env {shlex.join(where)}"
        command = f'eval "$({env})"; sinfo -h -o "%D %G"'
        seen = subprocess.run(["bash", "-c", command], cwd=repo, capture_output=True, text=True, check=True)
        assert seen.stdout.split() == ["1", "gpu:a100:4"]
        pids = [daemon["pid"] for daemon in status["daemons"].values()]
    finally:
        down = _cli("down", *where, cwd=repo)
    assert down.returncode == 0
    assert _cli("down", *where, cwd=repo).stdout.startswith("nothing is up")
    assert not [pid for pid in pids if Process.of(pid)]
    assert sorted(path.name for path in (tmp_path / "dc").iterdir()) == ["lock", "log"]
    assert cluster.status() == before


def test_refuses_a_directory_with_other_things(tmp_path: Path, cluster: DevCluster) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(BadInput, match="holds other things"):
        DevCluster(tmp_path).up()
    assert (tmp_path / "thesis.tex").read_text() == "precious"
    assert DevCluster(tmp_path).down() is False
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_missing_daemons_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("hpc.devcluster.commands.SBIN", ())
    with pytest.raises(NotFit) as caught:
        DevCluster(tmp_path / "dc", accounting=True).up()
    line = str(caught.value)
    assert "\n" not in line and caught.value.exit_code == 3
    packages = line.partition("--no-install-recommends ")[2].split()
    assert packages == ["slurmctld", "slurmd", "slurm-client", "munge", "slurmdbd", "mariadb-server"]


@pytest.mark.parametrize("fields", [{"nodes": 0}, {"nodes": 1000}, {"gpus": -1}, {"partitions": {}}])
def test_bad_options_are_one_line(fields: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as caught:
        Options(**fields)
    assert "\n" not in str(caught.value)


def test_half_dead_is_said_and_cleaned(make_cluster: Callable[..., Any]) -> None:
    with make_cluster(nodes=1, gpus=1) as own:
        own.kill("munged")
        assert own.status()["up"] is False
        with pytest.raises(NotFit, match="half dead \\(munged\\)"):
            own.up()
        pids = [daemon["pid"] for daemon in own.status()["daemons"].values()]
        assert own.down() is True
        assert not [pid for pid in pids if Process.of(pid)]
        assert own.up() is True, "a cleaned directory starts afresh"


def test_wholly_dead_starts_afresh(make_cluster: Callable[..., Any]) -> None:
    """As after a restart of the machine: the state file is there, no process is."""
    with make_cluster(nodes=1, gpus=1) as own:
        for name in own.status()["daemons"]:
            own.kill(name)
        assert own.up() is True
        assert own.status()["nodes"] == {"node1": "idle"}


def test_a_recycled_pid_is_left_alone(make_cluster: Callable[..., Any]) -> None:
    """A pid in the state file that now belongs to somebody else is neither believed nor signalled."""
    with make_cluster(nodes=1, gpus=1) as own, subprocess.Popen(["sleep", "600"]) as bystander:
        state = json.loads((own.root / "state.json").read_text())
        own.kill("munged")
        state["daemons"]["munged"]["pid"] = bystander.pid
        (own.root / "state.json").write_text(json.dumps(state))
        assert own.status()["daemons"]["munged"]["alive"] is False
        own.down()
        assert bystander.poll() is None
        bystander.kill()


def test_a_long_directory_name(tmp_path: Path, cluster: DevCluster) -> None:
    """Unix sockets end at 107 bytes; directories do not."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    with DevCluster(deep, nodes=1, gpus=1) as own:
        out = subprocess.run(
            ["srun", "-N1", "hostname"], env=own.environ(), capture_output=True, text=True, timeout=60
        )
        assert out.returncode == 0, out.stderr
        short = own.where.short
        assert short.is_dir()
    assert not short.exists()


def test_down_leaves_no_process_of_any_job(
    make_cluster: Callable[..., Any], tmp_path: Path, wait_for: Any, sbatch: Any
) -> None:
    with make_cluster(nodes=1, gpus=1) as own:
        # A daemon of its own session that has washed its environment: only the namespace tells whose it is.
        sbatch(own, f"setsid env -i sleep 987654 & sleep 987655 & echo $! > {tmp_path}/pids; wait")
        wait_for((tmp_path / "pids").exists)
        wanted = [["sleep", "987654"], ["sleep", "987655"]]

        def running() -> list[int]:
            return [p.pid for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] in wanted]

        sleepers = wait_for(lambda: running() if len(running()) == 2 else None)
        namespaces = not own.status()["notes"]
    left = [pid for pid in sleepers if Process.of(pid)]
    assert not left or not namespaces, left


def test_as_an_ordinary_user(cluster: DevCluster, repo: Path, ordinary_user: str) -> None:
    """munged, slurmctld, slurmd all as one user who is not root; jobs run as that user on two nodes."""
    user, python = ordinary_user, shutil.which("python3", path="/usr/bin:/bin")
    home = Path("/tmp") / f"hpc-user-{os.getpid()}"
    if python is None:
        pytest.skip("no /usr/bin/python3, the only one that an ordinary user can surely run")
    shutil.copytree(repo / "hpc", home / "code" / "hpc", ignore=shutil.ignore_patterns("__pycache__"))
    state = home / "state"
    state.mkdir()
    for path in (home, state):
        shutil.chown(path, user)
    run = f"{python} -m hpc.devcluster"
    script = f"""set -e; cd {home}/code
{run} up --nodes 2 --gpus 8 --dir {state}/dc
trap '{run} down --dir {state}/dc' EXIT
eval "$({run} env --dir {state}/dc)"
cat > {state}/job.sh <<'END'
#!/bin/bash
srun --gpus-per-task=1 bash -c 'echo $SLURM_PROCID $SLURMD_NODENAME $(id -u) gpu=$CUDA_VISIBLE_DEVICES'
END
sbatch --wait -N2 --ntasks-per-node=2 --gres=gpu:a100:8 -o {state}/out {state}/job.sh
cat {state}/out
"""
    try:
        ran = subprocess.run(
            ["runuser", "-u", user, "--", "env", "-i", "PATH=/usr/bin:/bin", f"HOME={state}", "bash", "-c",
             script],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    finally:
        shutil.rmtree(home, ignore_errors=True)
    uid = pwd.getpwnam(user).pw_uid
    assert ran.returncode == 0, ran.stderr
    lines = sorted(line for line in ran.stdout.splitlines() if "gpu=" in line)
    assert lines == [
        f"0 node1 {uid} gpu=0",
        f"1 node1 {uid} gpu=1",
        f"2 node2 {uid} gpu=0",
        f"3 node2 {uid} gpu=1",
    ]
    theirs = [p.pid for p in psutil.process_iter(["username"]) if p.info["username"] == user]
    assert not [pid for pid in theirs if Process.of(pid)]


@pytest.fixture
def ordinary_user() -> Iterator[str]:
    """The name of a user made for one test."""
    if os.geteuid() != 0:
        pytest.skip(
            "only root can become another user; as an ordinary user every other test here checks this"
        )
    if shutil.which("useradd") is None or shutil.which("runuser") is None:
        pytest.skip("no useradd or runuser here")
    name = f"hpcdev{os.getpid()}"
    subprocess.run(["useradd", "--no-create-home", "--system", name], check=True, capture_output=True)
    yield name
    subprocess.run(["userdel", "--force", name], check=True, capture_output=True)


def test_gpus_ranks_and_names_over_two_nodes(
    cluster: DevCluster, sbatch: Any, wait_job: Any, tmp_path: Path, clean_queue: Any
) -> None:
    clean_queue(cluster)
    job = sbatch(
        cluster,
        'echo "batch $(hostname) $CUDA_VISIBLE_DEVICES"\n'
        "srun --gpus-per-task=1 bash -c 'echo rank $SLURM_PROCID $(hostname) $CUDA_VISIBLE_DEVICES'",
        "--nodes=2", "--ntasks-per-node=8", "--gres=gpu:a100:8",
    )  # fmt: skip
    info = wait_job(cluster, job)
    assert info.state is JobState.COMPLETED and slurm.expand_hosts(info.node_list) == ["node1", "node2"]
    lines = (tmp_path / f"{job}.out").read_text().splitlines()
    if cluster.status()["notes"]:
        pytest.skip(cluster.status()["notes"][0])
    assert lines[0] == "batch node1 0,1,2,3,4,5,6,7"
    ranks = sorted((int(rank), node, gpu) for _, rank, node, gpu in map(str.split, lines[1:]))
    assert ranks == [(i, f"node{1 + i // 8}", str(i % 8)) for i in range(16)]


def test_two_small_jobs_share_a_node(
    cluster: DevCluster, sbatch: Any, wait_job: Any, clean_queue: Any
) -> None:
    clean_queue(cluster)
    first = sbatch(cluster, "sleep 600", "--gres=gpu:1", "--nodelist=node1")
    second = sbatch(cluster, "sleep 600", "--gres=gpu:1", "--nodelist=node1")
    wait_job(cluster, first, {JobState.RUNNING})
    wait_job(cluster, second, {JobState.RUNNING})
    seen = slurm.jobs([first, second], env=cluster.environ())
    assert {(job.state, job.node_list) for job in seen.values()} == {(JobState.RUNNING, "node1")}
    assert len(seen) == 2


def test_out_of_memory_where_cgroups_are_allowed(
    make_cluster: Callable[..., Any], sbatch: Any, wait_job: Any
) -> None:
    with make_cluster(nodes=1, gpus=1, cgroups=True, node_prefix="oom") as own:
        if own.status()["notes"]:
            pytest.skip(own.status()["notes"][0])
        job = sbatch(own, "python3 -c 'x = bytearray(400 << 20); x[:] = x'", "--mem=64")
        assert wait_job(own, job).state is JobState.OUT_OF_MEMORY
    assert not list(Path("/sys/fs/cgroup").glob("*/slurm_oom1"))


def test_signal_of_a_dead_process_is_harmless() -> None:
    with subprocess.Popen(["true"]) as child:
        gone = Process(child.pid, 1, "other boot")
    assert not gone.alive
    gone.signal(signal.SIGKILL)
