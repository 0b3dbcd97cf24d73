"""What a training takes, demanded of the nodes that preflight looks at: in the words and by the figures of submit
(:mod:`glmjobs.planning.demands`)."""

from __future__ import annotations

import os
from dataclasses import replace

from glmjobs.planning import demands
from glmjobs.planning.demands import demands_of
from glmjobs.planning.estimate import gpu_memory_needed
from glmjobs.run.directory import Run
from glmjobs.run.remedies import REMEDIES
from glmjobs.zero import committed
from hpc.health.checks import Finding, Need, NodeReport
from hpc.health.writing import MOST_BYTES


def needs(run: Run) -> Need:
    """What each node of this run must have."""
    takes = demands_of(run.recipe, run.shape)
    gpus = run.shape.gpus if run.recipe.train.device == "cuda" else 0
    return Need(
        gpus=gpus,
        gpu_memory=gpu_memory_needed(run.recipe, run.cluster, run.shape) if gpus else 0,
        gpu_type=run.cluster.gpu_type,
        host_memory=max(2 << 30, takes.host),
        disk=max(1 << 30, takes.least - there(run)),
        writers=run.shape.gpus,
        write_most=min(MOST_BYTES, takes.checkpoint // run.shape.nodes),
        libraries=run.cluster.preflight.libraries,
        floor=run.cluster.preflight,
        remedies=REMEDIES,
    )


def there(run: Run) -> int:
    """Bytes of the newest checkpoint of an earlier attempt."""
    last = committed.newest(run.checkpoints)
    return committed.size(last.path) if last else 0


def with_settings(run: Run, finding: Finding) -> Finding:
    """What is too small, with the settings that would fit: what submit would say."""
    recipe, shape = run.recipe, run.shape
    if finding.what == "GPU memory":
        remedy = demands.way(recipe, run.cluster, shape)
    elif finding.what == "host memory":
        remedy = demands.host_memory(demands_of(recipe, shape), recipe).remedy
    elif finding.what == "free disk":
        remedy = demands.disk(demands_of(recipe, shape), recipe, shape, run.path.parent, there(run)).remedy
    else:
        remedy = ""
    return replace(finding, remedy=remedy or finding.remedy)


def with_save(run: Run, reports: list[NodeReport]) -> list[NodeReport]:
    """Reports with a finding about the last save before a time limit: by the rate in the profile, else by that at which
    the nodes have just written. All end with the slowest, so it is about the cluster."""
    slowest = min(report.write_rate for report in reports)
    if not slowest or "SLURM_JOB_ID" not in os.environ:  # a node is not fit anyway; here no job has a limit
        return reports
    rate, how = demands.measured_rate(run.cluster, run.shape), demands.MEASURED
    if rate is None:
        rate, how = len(reports) * slowest, "the nodes just wrote" if len(reports) > 1 else "this node just wrote"
    d = demands.save(demands_of(run.recipe, run.shape).checkpoint, rate, run.recipe, run.shape, how)
    finding = Finding(
        what=d.what, ok=d.holds, found=d.found, needed=d.needed, remedy=d.remedy, blame="cluster"
    )
    return [replace(reports[0], findings=[*reports[0].findings, finding]), *reports[1:]]
