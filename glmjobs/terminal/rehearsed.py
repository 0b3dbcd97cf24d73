"""The end of a rehearsal: its table, what will not hold, the command for the long job, a line in the profile."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from glmjobs.planning import rehearsed
from glmjobs.run import rehearsal
from glmjobs.run.directory import Run
from glmjobs.run.read_state import read_state
from glmjobs.run.state import DONE
from hpc.batch.profile import Measured, add_measured
from hpc.chain import ledger
from hpc.core import hints
from hpc.core.errors import BadInput
from hpc.core.resources import resource

SHIPPED = ("centos7-a100.yaml", "devcluster.yaml", "generic.yaml")
"""In ``configs/clusters``, where people's own may lie beside them."""


def conclude(run: Run, *, as_json: bool) -> int:
    """Show what a rehearsal has found and tell the profile, once; 0 where all holds, else 3.

    Raises:
        BadInput: the run is no rehearsal, or is not done.
    """
    of = rehearsal.read(run.path)
    if of is None:
        raise BadInput(f"{run.path}: no rehearsal; one is made by: {hints.command('glmjobs.rehearse')}")
    if (state := read_state(run).state) != DONE:
        raise BadInput(
            f"{run.path}: the rehearsal is not done, it is {state}; {hints.command('glmjobs.status', run.path)}"
        )
    found, measured = rehearsed.lines(run, of), rehearsed.measured(run, of)
    bad = [line for line in found if line.holds is False]
    if as_json:
        document = {"run": str(run.path), "holds": not bad, "lines": [asdict(line) for line in found]}
        print(json.dumps({**document, "measured": measured.model_dump(mode="json")}, ensure_ascii=False))
    else:
        show(run, found)
    tell(run, of.profile, measured)
    return 3 if bad else 0


def show(run: Run, found: list[rehearsed.Line]) -> None:
    """The table, and a line for each thing that will not hold."""
    table = Table(title=f"{run.name}: what the long job will meet", title_justify="left")
    for column in ("what", "measured", "needed, planned", ""):
        table.add_column(column, overflow="fold")
    words = {None: "", True: "holds", False: "WILL NOT HOLD"}
    for line in found:
        table.add_row(line.what, line.found, line.needed, words[line.holds])
    console = Console(highlight=False)
    console.print(table)
    bad = [line for line in found if line.holds is False]
    for line in bad:
        console.print(
            f"will not hold: {line.what}: {line.found} ({line.needed}); {line.remedy}", soft_wrap=True
        )
    if not bad:
        console.print("all that was measured holds")


def closed(profile: Path) -> str:
    """Why nothing is written to a profile; "" where it is."""
    if any(profile.resolve() == resource(f"configs/clusters/{name}").resolve() for name in SHIPPED):
        return "comes with the toolkit and stays as it is"
    return "" if os.access(profile, os.W_OK) else "is not yours to write"


def tell(run: Run, profile: Path | None, measured: Measured) -> None:
    """Append what was measured to the cluster profile, once a rehearsal; say where, or why not."""
    told = ledger.events(run.path, event="rehearsed")
    if profile is None or any(event.get("profile") for event in told):
        return
    if why := closed(profile):
        entry = json.dumps(measured.model_dump(mode="json", exclude_none=True), ensure_ascii=False)
        print(
            f"note: {profile} {why}; plan goes by it in a copy of yours with this line: measured: [{entry}]",
            file=sys.stderr,
        )
        if not told:
            ledger.append(run.path, "rehearsed")
        return
    try:
        add_measured(profile, measured)
    except BadInput as error:
        print(f"note: {error}", file=sys.stderr)
        return
    ledger.append(run.path, "rehearsed", profile=str(profile))
    print(f"profile {profile}: measured, for plan to go by", file=sys.stderr)
