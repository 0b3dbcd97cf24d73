"""The faults: each hurts one thing of a run or its cluster, and puts right what a person or an administrator would.

A fault takes a :class:`Scene` and returns in a word what it did, or None where it could not strike now. What the run
makes of it is the toolkit's affair.
"""

from __future__ import annotations

import io
import os
import random
import subprocess
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import psutil

from glmjobs import heal
from glmjobs.cli import run_command
from glmjobs.run.directory import Run
from hpc.chain import submission
from hpc.core.errors import HpcError
from hpc.devcluster import DevCluster
from hpc.slurm import client as slurm

EARLY_DEATH = "early-death"
"""A file of the run directory: the rank that dies at its next start (:mod:`tests.support.light_stage`)."""


@dataclass
class Scene:
    """What there is to hurt."""

    run: Run
    cluster: DevCluster
    disk: Path | None
    """Mount point of the small tmpfs the runs lie on; None where nothing may be mounted here."""
    dice: random.Random
    wait: Callable[[Callable[[], object], float, str], object]
    bystanders: list[str] = field(default_factory=list)
    """Jobs that are none of the run's, under numbers that were."""

    @property
    def a_gpu(self) -> list[str]:
        """What others' jobs ask for: a site may refuse them otherwise."""
        return ["--gres=gpu:1"] if self.cluster.options.gpus else []

    @property
    def jobs(self) -> dict[str, str]:
        return submission.current_jobs(self.run.path)

    def processes(self, word: str) -> list[psutil.Process]:
        """Processes of this run whose command line has ``word``."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or []
            if str(self.run.path) in line and word in line:
                found.append(process)
        return found

    def let_bystanders_go(self) -> None:
        """They have to be as they were; then they have done their part."""
        found = slurm.jobs(self.bystanders)
        assert all(info.state.is_pending and not info.restarts for info in found.values()), found
        slurm.cancel(self.bystanders)
        self.bystanders.clear()
        for line in {*slurm.run(["sinfo", "-h", "-N", "-o", "%N %E"]).splitlines()}:  # one for each partition
            node, _, why = line.partition(" ")
            if (
                why == "Duplicate jobid"
            ):  # it held a lost job as its number was given anew; Slurm leaves it to a person
                slurm.update_node(node, "resume")


def kill_rank(scene: Scene) -> str | None:
    ranks = scene.processes("glmjobs.train") + scene.processes("glmjobs.score")
    ranks = [p for p in ranks if p.name().startswith("python") and "hpc.runtime.attempt" not in p.cmdline()]
    if not ranks:
        return None
    victim = scene.dice.choice(ranks)
    victim.kill()
    return f"pid {victim.pid}"


def kill_slurmd(scene: Scene) -> str | None:
    node = _node(scene)
    if node is None:
        return None
    scene.cluster.kill_node(node)
    scene.cluster.restart_node(node)
    return node


def kill_slurmctld(scene: Scene) -> str | None:
    scene.cluster.kill_controller()
    scene.cluster.restart_controller()
    return "SIGTERM"


def kill_slurmdbd(scene: Scene) -> str | None:
    scene.cluster.kill("slurmdbd")
    scene.cluster.restart("slurmdbd")
    return "SIGKILL"


def drain(scene: Scene) -> str | None:
    """The node's jobs are sent elsewhere, as an administrator does before a repair."""
    node, job = _node(scene), _running(scene)
    if node is None or job is None:
        return None
    slurm.update_node(node, "drain", reason="chaos")
    slurm.requeue(job)
    scene.wait(lambda: _running(scene) is None, 60, "the node to be empty")
    slurm.update_node(node, "resume")
    return node


def preempt(scene: Scene) -> str | None:
    if _running(scene) is None:
        return None
    script = scene.cluster.root / "log" / "high.sh"
    script.write_text("#!/bin/bash\nsleep 2\n")
    options = ["-p", "high", "--exclusive", "--nodes=2", "--output=/dev/null", "--job-name=chaos-high"]
    job = slurm.submit(script, extra=[*options, *scene.a_gpu])
    scene.wait(lambda: slurm.jobs([job])[job].state.is_final, 120, "the preempting job to end")
    return f"job {job}"


def time_limit(scene: Scene) -> str | None:
    job = _running(scene)
    if job is None:
        return None
    end = datetime.now() + timedelta(seconds=15)
    try:
        slurm.run(["scontrol", "update", f"JobId={job}", f"EndTime={end:%Y-%m-%dT%H:%M:%S}"])
    except HpcError:
        return None
    scene.wait(lambda: _running(scene) is None, 150, "the time limit to be enforced")
    return f"job {job}"


def scancel_running(scene: Scene) -> str | None:
    job = _running(scene)
    if job is None:
        return None
    slurm.cancel([job])
    return f"job {job}"


def scancel_waiting(scene: Scene) -> str | None:
    """Jobs that wait are cancelled by somebody; the run has a hole."""
    pending = [j for j, info in slurm.jobs(list(scene.jobs.values())).items() if info.state.is_pending]
    waiting = sorted({job.partition("_")[0] for job in pending})
    if not waiting:
        return None
    some = scene.dice.sample(waiting, scene.dice.randint(1, len(waiting)))
    slurm.cancel(some)
    return f"jobs {' '.join(some)}"


def full_disk(scene: Scene) -> str | None:
    if scene.disk is None or _running(scene) is None:
        return None
    plug = scene.disk / "plug"
    started = time.monotonic()
    with plug.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * (1 << 20))
        except OSError:
            pass
    try:  # until something failed on it, or for long enough that a save was tried
        scene.wait(
            lambda: _running(scene) is None or time.monotonic() - started > 15, 60, "a save to be tried"
        )
    finally:
        plug.unlink()
    return "no byte left"


def read_only(scene: Scene) -> str | None:
    """The file system goes read-only under a run whose jobs are queued again (writers would keep it from going)."""
    job = _running(scene)
    if scene.disk is None or job is None:
        return None
    slurm.requeue(job)
    scene.wait(lambda: not _writers(scene), 60, "all writers to be gone")
    if subprocess.run(
        ["mount", "-o", "remount,ro", str(scene.disk)], check=False, capture_output=True
    ).returncode:
        return None
    try:
        scene.wait(lambda: _tried(job), 120, "the job to try")
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(scene.disk)], check=True)
    return "remounted"


def corrupt_checkpoint(scene: Scene) -> str | None:
    """The newest checkpoint loses the end of a file; then a rank dies, so that it is wanted."""
    folders = sorted(
        scene.run.checkpoints.glob("checkpoint-*/committed.json"), key=lambda p: p.stat().st_mtime
    )
    ranks = [p for p in scene.processes("glmjobs.train") if "hpc.runtime.attempt" not in p.cmdline()]
    if not folders or not ranks:
        return None
    files = [p for p in folders[-1].parent.rglob("*") if p.is_file() and p.stat().st_size > 1000]
    if not files:
        return None
    victim = scene.dice.choice(sorted(files))
    with victim.open("r+b") as file:
        file.truncate(victim.stat().st_size // 2)
    scene.dice.choice(ranks).kill()
    return f"{folders[-1].parent.name}/{victim.name}"


def early_death(scene: Scene) -> str | None:
    """The next start loses one rank before its first step, once; the others are told to end by srun."""
    ranks = [p for p in scene.processes("glmjobs.train") if "light_stage.py" in " ".join(p.cmdline())]
    ranks = [p for p in ranks if p.name().startswith("python") and "hpc.runtime.attempt" not in p.cmdline()]
    if not ranks:
        return None  # of a real training, too: only a stand-in can be told
    victim = scene.dice.randrange(2)
    (scene.run.path / EARLY_DEATH).write_text(str(victim))
    scene.dice.choice(ranks).kill()
    scene.wait(
        lambda: _running(scene) is None or not (scene.run.path / EARLY_DEATH).exists(), 120, "the next start"
    )
    return f"rank {victim}"


def reused_numbers(scene: Scene) -> str | None:
    """slurmctld comes back without its state, and gives the run's numbers to others."""
    job = _running(scene)
    if job is None:
        return None
    scene.cluster.lose_state()
    script = scene.cluster.root / "log" / "bystander.sh"
    script.write_text("#!/bin/bash\n")
    options = ["--hold", "--output=/dev/null", f"--job-name={scene.run.recipe.name}-train"]
    last = max(int(number) for number in scene.jobs.values())
    while not scene.bystanders or int(scene.bystanders[-1]) < last:
        scene.bystanders.append(slurm.submit(script, extra=[*options, *scene.a_gpu]))
    scene.wait(lambda: not scene.processes("hpc.runtime.attempt"), 60, "the lost job's processes to end")
    return f"up to job {last}"


def cached_squeue(scene: Scene) -> str | None:
    """A site's squeue that answers from an old list, while somebody heals: not a job more, none less."""
    if _running(scene) is None:
        return None
    folder, path = scene.cluster.root / "log" / "cached", os.environ["PATH"]
    folder.mkdir(exist_ok=True)
    old = scene.dice.choice(["", slurm.run(["squeue", "-h", "-r", "-t", "all", "-O", slurm.SQUEUE_FORMAT])])
    (folder / "list").write_text(old)
    (folder / "squeue").write_text(f'#!/bin/bash\ncat "{folder}/list"\n')
    (folder / "squeue").chmod(0o755)
    before = scene.jobs
    os.environ["PATH"] = f"{folder}:{path}"
    try:
        healed(scene.run)
    finally:
        os.environ["PATH"] = path
    assert scene.jobs == before, "heal submitted what there was"
    return "an old list" if old else "an empty list"


def second_cluster(scene: Scene) -> str | None:
    """Another cluster on the same file system, on whose login node somebody heals."""
    if _running(scene) is None:
        return None
    before, conf = scene.jobs, os.environ["SLURM_CONF"]
    beside = DevCluster(
        scene.cluster.root / "log" / "west", nodes=1, name="west", beside=str(scene.cluster.root)
    )
    with beside:
        os.environ["SLURM_CONF"] = beside.env()["SLURM_CONF"]
        try:
            healed(scene.run)
            assert not slurm.run(["squeue", "-h", "-t", "all"]).strip(), "nothing of the run went there"
        finally:
            os.environ["SLURM_CONF"] = conf
    assert scene.jobs == before
    return "west"


def healed(run: Run) -> None:
    """Heal, in silence."""
    with redirect_stderr(io.StringIO()) as said:
        assert run_command(heal.main, [str(run.path)]) == 0, said.getvalue()


FAULTS: dict[str, Callable[[Scene], str | None]] = {
    "kill a rank": kill_rank,
    "early death of one rank": early_death,
    "kill a slurmd with its jobs": kill_slurmd,
    "kill slurmctld": kill_slurmctld,
    "kill slurmdbd": kill_slurmdbd,
    "drain a node": drain,
    "preempt": preempt,
    "time limit": time_limit,
    "scancel what runs": scancel_running,
    "scancel what waits": scancel_waiting,
    "full disk": full_disk,
    "read-only run directory": read_only,
    "corrupt newest checkpoint": corrupt_checkpoint,
    "numbers given to others": reused_numbers,
    "cached squeue": cached_squeue,
    "second cluster": second_cluster,
}


def _running(scene: Scene) -> str | None:
    """The job of this run that holds a node, if any; of an array one element."""
    try:
        known = slurm.jobs(list(scene.jobs.values()))
    except HpcError:
        return None
    found = [j for j, info in known.items() if info.state.is_active and (j not in _arrays(known))]
    return found[0] if found else None


def _arrays(known: dict[str, slurm.JobInfo]) -> set[str]:
    return {job.partition("_")[0] for job in known if "_" in job}


def _node(scene: Scene) -> str | None:
    job = _running(scene)
    info = slurm.jobs([job]).get(job) if job else None
    nodes = slurm.expand_hosts(info.node_list) if info else []
    return nodes[0] if nodes else None


def _writers(scene: Scene) -> bool:
    return _running(scene) is not None or bool(scene.processes("hpc.runtime.attempt"))


def _tried(job: str) -> bool:
    """The job started and ended, or runs; a job that was requeued waits some seconds first."""
    info = slurm.jobs([job]).get(job)
    return info is None or info.state.is_final or (info.state.is_pending and info.restarts > 1)
