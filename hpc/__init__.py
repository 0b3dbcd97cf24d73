"""Jobs on a Slurm cluster: chains that survive preemption, time limits, bad nodes and people. Stands alone.

From outside, take the names below from here::

    from hpc import Chain, Job, Profile, Step, repair, status, submit

They are loaded when they are first used: :mod:`hpc.bootstrap` runs on a bare Python, and a login node loads no more
than it needs. Inside this package and in packages built on it, names come from their own modules, so that the layers
can be checked.

The rooms, bottom to top; a room imports only those before it::

    core      errors, files, processes, time, configuration files
    slurm     Slurm's commands and what they answer
    batch     what becomes a batch script: profile, jobs, environment, script
    chain     jobs that depend on each other, and what happened to them: submission, ledger, repair, status
    health    is a node fit
    runtime   inside a job: attempt, stop, heartbeat, rendezvous
    doctor, devcluster, lint, bootstrap   what people type
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - said by whichever Python is called; so this file is read by Python 2, too
    sys.stderr.write("error: Python 3.10 or later is needed; %s is %s\n" % (sys.executable, sys.version.split()[0]))  # noqa: UP031
    sys.exit(3)

from importlib import import_module
from typing import TYPE_CHECKING, Any  # noqa: F401 - in type comments

from hpc.core.interrupted import quietly

if TYPE_CHECKING:
    from hpc.batch.jobs import Chain, Job, Step
    from hpc.batch.profile import Profile
    from hpc.chain import ledger
    from hpc.chain.repair import repair
    from hpc.chain.status import status
    from hpc.chain.submission import submit
    from hpc.core.errors import BadInput, HpcError, NotFit, WorkFailed
    from hpc.devcluster import DevCluster
    from hpc.health.checks import Need, check_node
    from hpc.runtime.failures import record_failure
    from hpc.runtime.heartbeat import Heartbeat
    from hpc.runtime.rendezvous import Rank, discover_rank
    from hpc.runtime.stop import EXIT_FATAL, EXIT_REQUEUE, StopFlag

_HOME = {
    "BadInput": "core.errors",
    "Chain": "batch.jobs",
    "DevCluster": "devcluster",
    "EXIT_FATAL": "runtime.stop",
    "EXIT_REQUEUE": "runtime.stop",
    "Heartbeat": "runtime.heartbeat",
    "HpcError": "core.errors",
    "Job": "batch.jobs",
    "Need": "health.checks",
    "NotFit": "core.errors",
    "Profile": "batch.profile",
    "Rank": "runtime.rendezvous",
    "Step": "batch.jobs",
    "StopFlag": "runtime.stop",
    "WorkFailed": "core.errors",
    "check_node": "health.checks",
    "discover_rank": "runtime.rendezvous",
    "record_failure": "runtime.failures",
    "repair": "chain.repair",
    "status": "chain.status",
    "submit": "chain.submission",
}

__all__ = [
    "BadInput", "Chain", "DevCluster", "EXIT_FATAL", "EXIT_REQUEUE", "Heartbeat", "HpcError", "Job", "Need", "NotFit",
    "Profile", "Rank", "Step", "StopFlag", "WorkFailed", "check_node", "discover_rank", "ledger", "record_failure",
    "repair", "status", "submit",
]  # fmt: skip


def __getattr__(name):  # type: (str) -> Any
    if name == "ledger":  # a module of functions: a run directory is a path, and a class would only hold it
        return import_module("hpc.chain.ledger")
    if name in _HOME:
        return getattr(import_module("hpc." + _HOME[name]), name)
    raise AttributeError("module 'hpc' has no attribute " + repr(name))


def __dir__():  # type: () -> list[str]
    return sorted(set(globals()) | set(__all__))


quietly()
