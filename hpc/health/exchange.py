"""The nodes of a job meet before its work: each hands in its report, node 0 decides, all learn what comes next.

Files in ``jobs/<stage>`` carry it, named after this start of this job (the tag), so that those of an earlier one are
never mistaken for it. A node that hands in nothing in time cannot see the run directory, or cannot start Python: it is
named like any other bad node.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpc.chain import ledger
from hpc.core import timestamps
from hpc.core.errors import WorkFailed
from hpc.core.files import Json, read_json, write_json
from hpc.health.checks import Finding, NodeReport, node_name
from hpc.slurm.hostlist import expand_hosts

VERDICT = "verdict.json"
POLL_SECONDS = 0.05


def job_tag() -> str:
    """This start of this job, the same on all its nodes."""
    env = os.environ
    words = [env.get("SLURM_JOB_ID") or f"local{os.getppid()}", env.get("SLURM_RESTART_COUNT", "0")]
    return "-".join([*words, env["SLURM_STEP_ID"]] if "SLURM_STEP_ID" in env else words)


def step_nodes(count: int) -> list[str]:
    """The step's nodes in the order of its ranks, one task on each."""
    names = expand_hosts(
        os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST") or node_name()
    )
    return names if len(names) == count else [f"node of rank {rank}" for rank in range(count)]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What node 0 decided: ``bad`` node → what is wrong with it; ``configuration``: what no other node would mend."""

    bad: dict[str, list[str]] = field(default_factory=dict)
    configuration: list[str] = field(default_factory=list)

    @property
    def fit(self) -> bool:
        """Everything is well."""
        return not self.bad and not self.configuration


def judge(reports: Sequence[NodeReport]) -> Verdict:
    """Whom to blame. What all of several nodes say is the configuration's fault; what some say is those nodes'."""
    failing = {r.node: [f for f in r.findings if not f.ok] for r in reports}
    common = (
        set.intersection(*({f.what for f in found} for found in failing.values()))
        if len(reports) > 1
        else set()
    )
    bad: dict[str, list[str]] = {}
    configuration: dict[str, str] = {}
    for node, found in failing.items():
        for f in found:
            said = f"{f.what}: found {f.found}" + (f", needed {f.needed}" if f.needed else "")
            if f.what in common or (
                f.blame == "cluster" or (f.blame == "configuration" and len(reports) == 1)
            ):
                configuration.setdefault(f.what, f"{said}; {f.remedy}")
            else:
                bad.setdefault(node, []).append(said)
    return Verdict(bad=bad, configuration=list(configuration.values()))


class NodeExchange:
    """One meeting. ``folder``: ``jobs/<stage>``, seen by all nodes."""

    def __init__(self, folder: Path, rank: int, nodes: int, *, tag: str | None = None) -> None:
        self.folder, self.rank, self.nodes = folder, rank, nodes
        self.tag = tag or job_tag()

    def report_file(self, rank: int) -> Path:
        """Where a rank's report goes."""
        return self.folder / f"node-{rank}.json"

    def hand_in(self, report: NodeReport) -> None:
        """This node's report."""
        write_json(self.report_file(self.rank), report.to_json())

    def gather(self, seconds: float) -> list[NodeReport]:
        """All reports, in the order of the ranks; of a node that is silent for ``seconds``, one that says so."""
        names = step_nodes(self.nodes)
        found: dict[int, NodeReport] = {}
        end = time.monotonic() + seconds
        while len(found) < self.nodes and time.monotonic() < end:
            for rank in set(range(self.nodes)) - set(found):
                data = read_json(self.report_file(rank))
                if data and data.get("tag") == self.tag:
                    found[rank] = NodeReport.from_json(data)
            if len(found) < self.nodes:
                time.sleep(POLL_SECONDS)
        return [found.get(rank) or self._silent(names[rank], seconds) for rank in range(self.nodes)]

    def _silent(self, node: str, seconds: float) -> NodeReport:
        finding = Finding(
            what="report", ok=False, found=f"none within {seconds:g} s", needed="one",
            remedy=f"it cannot see {self.folder}, or cannot start Python there: see its rank's log",
        )  # fmt: skip
        return NodeReport(node=node, time=timestamps.now(), findings=[finding], tag=self.tag)

    def tell(self, what: str, **fields: object) -> None:
        """Node 0: what all do next, ``what`` being the name of the next act."""
        write_json(self.folder / f".next-{self.tag}.json", {"what": what, **fields})

    def hear(self, seconds: float) -> Json:
        """The other nodes: what node 0 told.

        Raises:
            WorkFailed: nothing within ``seconds``; node 0 is gone.
        """
        file = self.folder / f".next-{self.tag}.json"
        said = poll(lambda: read_json(file), seconds)
        if said is None:
            raise WorkFailed(f"{node_name()}: node 0 decided nothing within {seconds:g} s")
        return said

    def record(
        self, run: Path, verdict: Verdict, reports: Sequence[NodeReport], *, requeues: int, table: str
    ) -> None:
        """Node 0: the verdict, for the batch process (:mod:`hpc.runtime.exclude_nodes`) and for people."""
        document = {"tag": self.tag, "bad": verdict.bad, "configuration": verdict.configuration,
                    "requeues": requeues, "nodes": [r.node for r in reports], "table": table}  # fmt: skip
        write_json(self.folder / VERDICT, document)
        for node, reasons in verdict.bad.items():
            ledger.append(
                run,
                "bad_node",
                stage=self.folder.name,
                job=os.environ.get("SLURM_JOB_ID"),
                node=node,
                reasons=reasons,
            )


def poll(look: Callable[[], Json | None], seconds: float) -> Json | None:
    """What ``look`` finds, asked again until then; no event crosses a shared file system."""
    end = time.monotonic() + seconds
    while (found := look()) is None and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    return found
