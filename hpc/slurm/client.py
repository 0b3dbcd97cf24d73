"""Slurm's commands. The only file that runs them.

Every function takes ``env`` (default: this process's environment), so that a caller can talk to another
Slurm by its ``SLURM_CONF``. Calls are bounded in time; those that only read are tried again where the
controller does not answer. What goes wrong is an error of :mod:`hpc.core.errors` carrying Slurm's own message
in one line.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hpc.core.errors import BadInput, NotFit
from hpc.slurm.hostlist import expand_hosts
from hpc.slurm.records import (
    SACCT_DELIMITER,
    SACCT_FIELDS,
    SQUEUE_FORMAT,
    JobInfo,
    JobState,
    parse_gres,
    parse_gres_names,
    parse_sacct,
    parse_show,
    parse_shown,
    parse_squeue,
    parse_submitted,
    summary,
)
from hpc.slurm.variables import clean_env
from hpc.slurm.waiting import announced

__all__ = [
    "JobInfo", "JobState", "SlurmRefused", "SlurmUnreachable", "SubmitUncertain", "accounted", "available", "cancel",
    "clean_env", "cluster_name", "controller_up", "expand_hosts", "find", "find_by_comment", "gres", "gres_names",
    "jobs", "joined_lines", "kill_steps", "listed", "node_states", "not_submitted", "release", "requeue", "run", "show",
    "shown", "submit", "test_only", "unreachable", "update_dependency", "update_excluded", "update_node",
    "usable_nodes",
]  # fmt: skip

# Seconds one call may take. Slurm's own MessageTimeout (10 s by default) ends most of them long before.
TIMEOUT = 60.0
# Pauses before trying again where the controller does not answer: a restarting slurmctld is back within
# seconds.
PAUSES = (1.0, 2.0, 4.0)

_UNREACHABLE = (
    "unable to contact slurm controller",
    "socket timed out",
    "connection refused",
    "connect failure",
    "communication connection failure",
    "zero bytes were transmitted",
    "unexpected message received",
    "slurm_persist_conn",
    "could not establish a configuration source",
    "can't be reached now",
)
# sbatch's words for a connection that was never made. A broken one ("timed out", "zero bytes") proves nothing.
_NEVER_ARRIVED = (
    "not found on path",
    "connect failure",
    "connection refused",
    "configuration source",
    "configuration file",
    "can't be reached now",
)
# Variables that change what the commands print or whom they ask; our parsers need the plain form.
_FORMATTING = (
    "SQUEUE_",
    "SACCT_",
    "SINFO_",
    "SCANCEL_",
    "SCONTROL_",
    "SLURM_TIME_FORMAT",
    "SLURM_BITSTR_LEN",
)
_USABLE = ("idle", "mixed", "allocated", "completing", "planned", "reserved")


class SlurmRefused(BadInput):
    """Slurm answered, and said no: unknown partition, invalid job id, bad dependency … (exit 2)."""


class SlurmUnreachable(NotFit):
    """Slurm did not answer: commands absent, no configuration, controller down (exit 3)."""


class SubmitUncertain(SlurmUnreachable):
    """``sbatch`` ended without an answer: the job may have been accepted. Look it up before trying again."""


@announced
def run(
    args: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
    pauses: Sequence[float] = PAUSES,
) -> str:
    """Run one Slurm command and return its stdout.

    A call that finds no controller is repeated after each of ``pauses`` (seconds); pass ``()`` for a
    command that must not run twice.

    Raises:
        SlurmRefused: Slurm answered with an error.
        SlurmUnreachable: the command is absent, was killed, or the controller did not answer in time.
    """
    environ = dict(os.environ if env is None else env)
    program = shutil.which(args[0], path=environ.get("PATH"))
    if program is None:
        raise SlurmUnreachable(f"{args[0]}: not found on PATH: this machine has no Slurm client commands")
    environ = {k: v for k, v in environ.items() if not k.startswith(_FORMATTING)} | {"LC_ALL": "C.UTF-8"}
    if "SLURM_JOB_ID" in environ and several_clusters(environ):
        del environ["SLURM_CLUSTERS"]  # the choice that sbatch had: this job's own cluster is meant now
    for pause in (*pauses, None):
        code, out, err = _call([program, *args[1:]], environ, timeout)
        if code == 0:
            return out
        said = joined_lines(err or out) or f"exit code {code}"
        killed = by_signal(code)
        if killed:
            said = f"{args[0]} was killed ({said})"
        if code is not None and not killed and not unreachable(said):
            raise SlurmRefused(said if said.startswith(args[0]) else f"{args[0]}: {said}")
        if pause is None:
            break
        time.sleep(pause)
    raise SlurmUnreachable(f"{said} (is slurmctld running? `scontrol ping` tells)")


def several_clusters(env: Mapping[str, str]) -> bool:
    """Whether ``SLURM_CLUSTERS`` leaves a choice: sbatch makes one, squeue lists all, scontrol refuses."""
    clusters = env.get("SLURM_CLUSTERS", "")
    return "," in clusters or clusters == "all"


def by_signal(code: int | None) -> bool:
    """Whether a command's exit code means that a signal ended it, in a wrapper's shell too (128 + its number). 255 is
    what Slurm's commands say of wrong options."""
    return code is not None and (code < 0 or 128 < code <= 192)


def _call(args: Sequence[str], env: Mapping[str, str], timeout: float) -> tuple[int | None, str, str]:
    """Exit code (None: no answer in time), stdout and stderr.

    What does not end in time is killed with its children: the command may be a site's wrapper script.
    """
    child = subprocess.Popen(
        args, env=dict(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        encoding="utf-8", errors="replace", start_new_session=True,
    )  # fmt: skip
    with child:
        try:
            out, err = child.communicate(timeout=timeout)
            return child.returncode, out, err
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return None, "", f"{Path(args[0]).name}: no answer within {timeout:g} s"


def joined_lines(text: str) -> str:
    """The lines of ``text`` joined by "; ", without Slurm's ``error:`` prefixes and without repetitions."""
    lines = [line.strip().replace("error: ", "") for line in text.splitlines() if line.strip()]
    return "; ".join(dict.fromkeys(lines))


def available(env: Mapping[str, str] | None = None) -> bool:
    """Whether jobs can be submitted from here: ``sbatch`` on PATH, and a configuration it can read."""
    environ = os.environ if env is None else env
    if shutil.which("sbatch", path=environ.get("PATH")) is None:
        return False
    try:
        run(["scontrol", "ping"], env=environ, pauses=(), timeout=20)
    except SlurmRefused:
        return True  # configured, but the controller is away: that is for the submission to say
    except SlurmUnreachable:
        return False
    return True


def submit(
    script: Path,
    *,
    dependency: str | None = None,
    extra: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> str:
    """Submit a batch script and return its job id.

    Never tried twice: whether an unanswered submission is repeated, after a look by
    :func:`find_by_comment`, is the caller's to decide. The job sees ``env`` without the variables of a
    surrounding job.

    Raises:
        SlurmRefused: Slurm said no; the message is sbatch's own.
        SubmitUncertain: no answer; the job may be in the queue.
        SlurmUnreachable: nothing was submitted.
    """
    args = ["sbatch", "--parsable", *([f"--dependency={dependency}"] if dependency else []), *extra]
    environ = clean_env(os.environ if env is None else env)
    try:
        out = run([*args, str(Path(script).absolute())], env=environ, pauses=())
    except SlurmUnreachable as error:
        if not_submitted(str(error)):
            raise
        raise SubmitUncertain(f"{error}; the job may have been accepted all the same") from None
    answer = parse_submitted(out)
    if answer is None:
        raise SubmitUncertain(
            f"sbatch printed no job id but {joined_lines(out)!r}; the job may have been accepted"
        )
    return answer[0]


def not_submitted(said: str) -> bool:
    """Whether an unanswered sbatch's words make sure that nothing was accepted: it never reached a controller."""
    return any(sign in said.lower() for sign in _NEVER_ARRIVED)


def unreachable(said: str) -> bool:
    """Whether a command's words mean that Slurm did not answer, rather than that it said no."""
    words = said.lower()
    return any(sign in words for sign in _UNREACHABLE) and "known by database" not in words


def test_only(script: Path, *, extra: Sequence[str] = (), env: Mapping[str, str] | None = None) -> None:
    """Ask whether the script could ever run as it is; submits nothing.

    Raises:
        SlurmRefused: a partition, account, limit or request is wrong; the message is sbatch's own.
    """
    environ = clean_env(os.environ if env is None else env)
    run(["sbatch", "--test-only", *extra, str(Path(script).absolute())], env=environ)


def jobs(
    ids: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
    pauses: Sequence[float] = PAUSES,
) -> dict[str, JobInfo]:
    """What Slurm knows about job numbers: one squeue call and, for those it has forgotten, one sacct call.

    Whose jobs they are is another question: numbers are given anew (:mod:`hpc.slurm.identity`).

    Of a job array there is one record for each element (``12_3``) and, if ``12`` was asked for, a summary
    under ``12``. A job that neither knows (purged, and no accounting) is absent: that says nothing about
    how it ended. ``timeout`` and ``pauses``: of the squeue call, as for :func:`run`.

    Raises:
        BadInput: an id is no job id.
        SlurmUnreachable: the controller does not answer.
    """
    wanted = list(dict.fromkeys(ids))
    for job in wanted:
        if not re.fullmatch(r"\d+(_\d+)?", job):
            raise BadInput(f"{job!r} is no Slurm job id: right is 1234 or, in an array, 1234_5")
    if not wanted:
        return {}
    found = {info.id: info for info in listed(wanted, env=env, timeout=timeout, pauses=pauses)}
    arrays = {job.partition("_")[0] for job in found if "_" in job}
    unknown = [job for job in wanted if job not in found and job not in arrays]
    # Elements of an array that is partly forgotten are in sacct only.
    if ask := unknown + sorted(arrays & set(wanted)):
        found = {info.id: info for info in accounted(ask, env=env)} | found
    for job in wanted:
        elements = [info for info in found.values() if info.id.startswith(f"{job}_")]
        if elements and job not in found:
            found[job] = summary(job, elements)
    return found


def listed(
    ids: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
    pauses: Sequence[float] = PAUSES,
) -> list[JobInfo]:
    """What squeue lists under these numbers: fast, and at some sites a list that is up to a minute old.

    Raises:
        SlurmUnreachable: the controller does not answer.
    """
    return _squeue(["-j", ",".join(ids)], env, timeout, pauses) if ids else []


def shown(
    job: str,
    *,
    env: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
    pauses: Sequence[float] = PAUSES,
) -> list[JobInfo]:
    """What the controller itself has under this number now, one record for each element of an array; empty where it
    knows none.

    Raises:
        SlurmUnreachable: the controller does not answer.
    """
    return parse_shown(_show_job([job], env, timeout, pauses))


def accounted(ids: Sequence[str], *, env: Mapping[str, str] | None = None) -> list[JobInfo]:
    """sacct's records of these numbers, oldest first: one for each time such a job came into a queue. None where
    accounting is off or slurmdbd does not answer."""
    return _sacct(["-j", ",".join(ids)], env) if ids else []


def find_by_comment(key: str, *, env: Mapping[str, str] | None = None) -> list[JobInfo]:
    """This user's jobs whose comment is ``key`` or holds it as a word, oldest first: queued, running or
    ended and not yet forgotten.

    Raises:
        SlurmUnreachable: the controller does not answer, so nothing can be said.
    """
    return find(lambda job: key == job.comment or key in job.comment.split(), env=env)


def find(
    wanted: Callable[[JobInfo], bool], *, thorough: bool = False, env: Mapping[str, str] | None = None
) -> list[JobInfo]:
    """This user's jobs that are wanted, oldest first: queued, running or ended and not yet forgotten.

    Args:
        thorough: where squeue lists none, the controller is asked for all its jobs: squeue's list may be an old one.

    Raises:
        SlurmUnreachable: the controller does not answer, so nothing can be said.
    """
    found = [job for job in _squeue(["-u", str(os.getuid())], env) if wanted(job)]
    if not found and thorough and not several_clusters(os.environ if env is None else env):
        found = [job for job in parse_shown(_show_job([], env)) if wanted(job)]
    return sorted(found, key=_by_number)


def cluster_name(env: Mapping[str, str] | None = None) -> str:
    """The name of the cluster that Slurm's commands talk to here; "" where the controller does not say.

    Asked once a process for each configuration.
    """
    environ = os.environ if env is None else env
    which = (environ.get("SLURM_CONF", ""), environ.get("SLURM_CLUSTERS", ""))
    if which not in _CLUSTERS:
        try:
            text = run(["scontrol", "show", "config"], env=environ, pauses=(), timeout=20)
        except (SlurmRefused, SlurmUnreachable):
            return ""
        named = re.search(r"^ClusterName\s*=\s*(\S+)", text, re.M)
        _CLUSTERS[which] = named[1] if named else ""
    return _CLUSTERS[which]


_CLUSTERS: dict[tuple[str, str], str] = {}


def show(job: str, *, env: Mapping[str, str] | None = None) -> dict[str, str] | None:
    """``scontrol show job`` as a dict, or None if Slurm does not know the job (any more)."""
    text = _show_job([job], env)
    return parse_show(text) if text.strip() else None


def cancel(ids: Sequence[str], *, env: Mapping[str, str] | None = None) -> None:
    """Cancel jobs; those already over or unknown are passed over in silence."""
    if ids:
        try:
            run(["scancel", *ids], env=env)
        except SlurmRefused as error:
            if "invalid job id" not in str(error).lower() and "already" not in str(error).lower():
                raise


def requeue(job: str, *, hold: bool = False, env: Mapping[str, str] | None = None) -> None:
    """Put a running or ended job (or array element, ``12_3``) back into the queue under its id.

    ``hold``: it waits there until :func:`release`.
    """
    run(["scontrol", "requeuehold" if hold else "requeue", job], env=env)


def release(job: str, *, env: Mapping[str, str] | None = None) -> None:
    """Let a held job start when its turn comes."""
    run(["scontrol", "release", job], env=env)


def kill_steps(job: str, *, env: Mapping[str, str] | None = None) -> None:
    """Kill (SIGKILL) the steps that a job has running; its batch script goes on."""
    steps = run(["squeue", "-h", "-s", "-j", job, "-o", "%i"], env=env).split()
    numbered = [step for step in steps if step.rpartition(".")[2].isdigit()]  # not .batch, not .extern
    if numbered:
        run(["scancel", "--signal=KILL", *numbered], env=env)


def update_dependency(job: str, dependency: str, *, env: Mapping[str, str] | None = None) -> None:
    """Replace a pending job's dependency; "" removes it."""
    run(["scontrol", "update", f"JobId={job}", f"Dependency={dependency}"], env=env)


def update_excluded(job: str, nodes: Sequence[str], *, env: Mapping[str, str] | None = None) -> None:
    """Replace the list of nodes that a pending job will not be given."""
    run(["scontrol", "update", f"JobId={job}", f"ExcNodeList={','.join(nodes)}"], env=env)


def usable_nodes(partition: str | None = None, *, env: Mapping[str, str] | None = None) -> set[str]:
    """Nodes that can be given to jobs, now or when they are free again."""
    chosen = ["-p", partition] if partition else []
    text = run(["sinfo", "-h", "-N", "-o", "%N %T", *chosen], env=env)
    states = [line.split() for line in text.splitlines() if line.strip()]
    return {
        node for node, state in states if state.rstrip("*~#!%$@^-+") in _USABLE and not state.endswith("*")
    }


def update_node(node: str, state: str, *, reason: str = "", env: Mapping[str, str] | None = None) -> None:
    """Set a node's state: drain, down, resume … (needs an operator's rights)."""
    run(
        [
            "scontrol",
            "update",
            f"NodeName={node}",
            f"State={state}",
            *([f"Reason={reason}"] if reason else []),
        ],
        env=env,
    )


def controller_up(*, env: Mapping[str, str] | None = None, timeout: float = TIMEOUT) -> bool:
    """Whether slurmctld answers, asked once."""
    try:
        return "is UP" in run(["scontrol", "ping"], env=env, pauses=(), timeout=timeout)
    except (SlurmRefused, SlurmUnreachable):
        return False


def node_states(
    *, env: Mapping[str, str] | None = None, timeout: float = TIMEOUT, pauses: Sequence[float] = PAUSES
) -> dict[str, str]:
    """Node → state as sinfo writes it (idle, mixed, allocated, down, drained …; ``*``: it does not
    answer)."""
    text = run(["sinfo", "-h", "-N", "-o", "%N %T"], env=env, timeout=timeout, pauses=pauses)
    return dict(line.split() for line in text.splitlines() if line.strip())


def gres(
    partition: str | None = None, *, name: str = "gpu", env: Mapping[str, str] | None = None
) -> list[tuple[str, str, int]]:
    """(node, GPU type, count) of every kind of GPU of every node, as configured; the type may be "". ``name``: the
    site's for GPUs."""
    rows = _gres_of_nodes(partition, env)
    return [(node, kind, count) for node, words in rows for kind, count in parse_gres(words, name)]


def gres_names(partition: str | None = None, *, env: Mapping[str, str] | None = None) -> list[str]:
    """What nodes have besides ``gpu``, by name: one of them may be the site's name for GPUs."""
    names = {name for _, words in _gres_of_nodes(partition, env) for name in parse_gres_names(words)}
    return sorted(names - {"gpu", "mps", "shard", "nic"})  # those that Slurm gives a meaning of its own


def _gres_of_nodes(partition: str | None, env: Mapping[str, str] | None) -> list[tuple[str, str]]:
    """(node, its GRES as sinfo writes them), once each."""
    chosen = ["-p", partition] if partition else []
    text = run(["sinfo", "-h", "-N", "-o", "%N %G", *chosen], env=env)
    rows = [line.split(None, 1) for line in text.splitlines()]
    return list(dict.fromkeys((row[0], row[1]) for row in rows if len(row) == 2))


def _squeue(
    selection: Sequence[str],
    env: Mapping[str, str] | None,
    timeout: float = TIMEOUT,
    pauses: Sequence[float] = PAUSES,
) -> list[JobInfo]:
    words = ["squeue", "-h", "-r", "-t", "all", *selection, "-O", SQUEUE_FORMAT]
    try:
        return parse_squeue(run(words, env=env, timeout=timeout, pauses=pauses))
    except SlurmRefused as error:
        if "invalid job id" in str(error).lower():
            return []
        raise


def _show_job(
    job: Sequence[str],
    env: Mapping[str, str] | None,
    timeout: float = TIMEOUT,
    pauses: Sequence[float] = PAUSES,
) -> str:
    """``scontrol show job``, a record a line; "" where it knows no such job (any more)."""
    try:
        return run(["scontrol", "show", "job", "-o", *job], env=env, timeout=timeout, pauses=pauses)
    except SlurmRefused as error:
        if "invalid job id" in str(error).lower():
            return ""
        raise


def _sacct(selection: Sequence[str], env: Mapping[str, str] | None) -> list[JobInfo]:
    """sacct's records; none where accounting is off or slurmdbd does not answer.

    -D: without it a number that was given twice shows its newest job only.
    """
    fields = ["-n", "-X", "-D", "-P", f"--delimiter={SACCT_DELIMITER}", "-o", ",".join(SACCT_FIELDS)]
    clusters = (os.environ if env is None else env).get("SLURM_CLUSTERS")  # which sacct alone doesn't heed
    which = ["-M", clusters] if clusters else []
    try:
        return parse_sacct(run(["sacct", *fields, *which, *selection], env=env, pauses=(), timeout=20))
    except (SlurmRefused, SlurmUnreachable):
        return []


def _by_number(info: JobInfo) -> tuple[int, int]:
    job, _, element = info.id.partition("_")
    return int(job), int(element or -1)
