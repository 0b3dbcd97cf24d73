"""`python -m glmjobs.heal RUN [--set A.B=C]`: a run that failed, was cut off or has a hole goes on where it stands.

Stages that are done are not done again. On Slurm, a job that Slurm still holds keeps its id, and so do those that wait
for it; what Slurm has forgotten is submitted anew. Here, the chain is started again with what is missing. Healing a
run that is in order changes nothing; healing twice is healing once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from glmjobs import submit
from glmjobs.cli import add_overrides, error_line, run_command
from glmjobs.recipe.loading import override
from glmjobs.run import kept_code, sweeps
from glmjobs.run.directory import Run, rewrite
from glmjobs.run.jobs import CHAIN, chain_of
from glmjobs.run.longer import LENGTH, check_length, reopen
from glmjobs.run.reached import REST_ON_TRAINING, behind, reached, redo
from glmjobs.run.read_state import read_state
from glmjobs.run.state import RUNNING, RunState
from glmjobs.zero import committed
from hpc.batch.profile import Profile
from hpc.chain import ledger, submission
from hpc.chain.repair import DONE, KEEP, Action, repair
from hpc.core import hints
from hpc.core.config_files import flat
from hpc.core.errors import BadInput, HpcError
from hpc.core.files import exclusive

ROWS_OF_A_STEP = (
    "model", "data", "train.init_from", "train.method", "train.per_device_batch_size", "train.gradient_accumulation",
    "train.packing", "train.pack_length", "train.seed", "train.label_sop",
)  # fmt: skip
"""What decides which rows a training step reads. Changed half-way, rows would be left out or read twice."""

FORM_OF_A_CHECKPOINT = (
    "train.precision", "train.zero_stage", "train.optimizer_offload", "train.deepspeed", "train.device",
    "train.weight_decay", "train.freeze", "train.lora.rank", "train.lora.alpha", "train.lora.targets",
)  # fmt: skip
"""What the optimizer's saved state is made for: its files' names, its shapes, or values that it keeps. Changed
half-way, the state would not load, or the new value would have no effect."""


WHO_MARKS = ("score.judge", "score.verifier")
"""Answers that are there are marked anew by another judge, without a job."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m glmjobs.heal",
        description="Let a run that failed, was cut off or has a hole go on where it stands.",
        epilog="Exit codes: 0 done, 1 the work failed, 2 bad input, 3 this machine or cluster is not fit for it.",
    )
    p.add_argument("run", help="run directory, its name under runs/, or a sweep's")
    add_overrides(
        p, "change a field of the run's recipe, or of its profile as cluster.field=value, first; repeatable"
    )
    p.add_argument(
        "--update-code",
        action="store_true",
        help="go on with today's code, not with the copy that was kept when the run was submitted",
    )
    p.add_argument("--follow", action="store_true", help="stay and show progress until the chain ends")
    p.add_argument("--json", action="store_true", help="one JSON document on stdout, nothing else there")
    return p


def main(argv: list[str] | None = None) -> int:
    """Heal; with --follow, the exit code is the chain's."""
    args = parser().parse_args(argv)
    several = sweeps.members(args.run)
    if several is None:
        return heal_one(Run.open(args.run), args)
    if args.follow:
        raise BadInput(
            f"--follow: {args.run} is a sweep; follow it with {hints.command('glmjobs.status', args.run)}"
        )
    for place in several:
        if not args.json:
            print(f"{place.path.name}:", file=sys.stderr)
        heal_one(Run.open(place.path), args)
    return 0


def heal_one(run: Run, args: argparse.Namespace) -> int:
    """Heal a run; the exit code."""
    with exclusive(run.path / "jobs" / "heal.lock", patience=submission.LOCK_SECONDS) as held:
        if not held:
            raise BadInput(f"{run.path}: another heal of this run is at work")
        said = Said(run, quiet=args.json and not args.follow)
        try:
            heal(run, args.overrides, said, update_code=args.update_code)
        except HpcError as error:
            said.end(error_line(error))
            raise
    said.end()
    if args.follow:
        from glmjobs.terminal.follow import follow

        return follow(run, as_json=args.json)
    return 0


def heal(run: Run, overrides: Sequence[str], said: Said, *, update_code: bool = False) -> None:
    """Repair the run's chain, and say what is done while it is done.

    Args:
        update_code: its jobs are to run today's code.

    Raises:
        BadInput: an override that is wrong, or that cannot be honoured any more.
        NotFit: Slurm is away, or the cluster does not have what the run asks for.
    """
    state = read_state(run)
    local = executor(run) == "local"
    if overrides:
        run = change(run, state, overrides, "local" if local else "slurm", said.line)
    stages = wanted(run)
    if outdated := out_of_date(run):
        redo(run.path, outdated)
    if all(run.done(stage) for stage in stages):
        for stage in stages:
            said.did(Action(stage=stage, what=DONE))
        return
    if not local:
        refuse_unknown(state)
        refuse_shards(run, stages)
    if not run.done("train"):
        said.passed_over(run)
    renew_code(run, said, wanted=update_code)
    why = {s.stage: s.error or s.reason for s in state.stages}
    repair(chain_of(run, stages, local=local), why, intend=said.will, tell=said.did)


def renew_code(run: Run, said: Said, *, wanted: bool) -> None:
    """Take today's code where that is wanted, or where the kept copy is gone; and say so."""
    before = kept_code.kept(run.path)
    gone = before is not None and not before.is_dir()
    if not (wanted or gone):
        return
    now = kept_code.keep(run.path)
    why = f"{before} is gone" if gone else "as you asked"
    said.line(
        f"code         {'today' if now != before else 'the same as before'}: {kept_code.revision()} ({why})"
    )


def wanted(run: Run) -> tuple[str, ...]:
    """The jobs this run was meant to have, in order."""
    named = submission.intended(run.path)[0] or tuple(submission.current_jobs(run.path))
    return tuple(stage for stage in CHAIN if stage in named) or CHAIN


def out_of_date(run: Run) -> str:
    """Why a model that is there is made again with all that follows it: training goes on, or has gone on since."""
    if "train" in wanted(run) and not run.done("train"):
        return "training goes on"
    return behind(run.path)


def executor(run: Run) -> str:
    """Where the run's jobs run: as its newest submission says."""
    events = [e for e in ledger.read(run.path) if e.get("executor")]
    return str(events[-1]["executor"]) if events else submit.choose_executor("auto")


def refuse_unknown(state: RunState) -> None:
    """Refuse to submit a stage again that is alive in a job Slurm does not know."""
    for stage in state.stages:
        if stage.state == RUNNING and "does not know" in stage.reason:
            raise BadInput(
                f"{stage.stage} is alive: {stage.reason}; cancel it where it runs, or wait until it is silent"
            )


def refuse_shards(run: Run, stages: Sequence[str]) -> None:
    """Refuse a scoring that is to be submitted as an array that Slurm does not take, as submit does."""
    from glmjobs.run.submit_checks import check_shards

    if "score" in stages and not run.done("score") and "score" not in submission.current_jobs(run.path):
        check_shards(run.recipe.score, run.shape)


def change(
    run: Run,
    state: RunState,
    overrides: Sequence[str],
    where: str,
    told: Callable[[str], None] = lambda line: None,
) -> Run:
    """The run with its recipe or profile changed: checked, on record, and in its ``run.yaml``.

    Args:
        told: is given what is to be said of a training that was done and is made longer.

    Raises:
        BadInput: the field is unknown or the value wrong; a stage runs; or the change comes too late.
    """
    from glmjobs.planning import demands, on_nodes
    from glmjobs.run import submit_checks
    from glmjobs.tracking.check import check as check_trackers

    running = next((s for s in state.stages if s.state == RUNNING), None)
    if running is not None:
        raise BadInput(
            f"--set {overrides[0]}: {running.stage} is running (job {running.job}) with what run.yaml says; "
            f"end it first: {hints.command('glmjobs.cancel', run.path)}"
        )
    recipe, profile = override(run.recipe, run.cluster, overrides)
    at = reached(run.path)
    longer = at is not None and any(name in LENGTH for name in differences(run, recipe, profile))
    redone = CHAIN if longer else REST_ON_TRAINING if out_of_date(run) else ()
    done = tuple(stage for stage in CHAIN if run.done(stage) and stage not in redone)
    for item in overrides:
        too_late(run, item, done)
    stages = tuple(stage for stage in wanted(run) if stage not in done)
    recipe = submit_checks.check(recipe, profile, run.shape, stages, where)
    recipe = submit.decide(recipe, profile, run.shape)
    changed = differences(run, recipe, profile)
    if "track" in changed:
        check_trackers(recipe, profile, os.environ)
    keeps_the_form(run, changed)
    if "train" in stages and any(of(name, ("train", "jobs", "cluster")) for name in changed):
        there, limited = on_nodes.there(run), where == "slurm"
        for remark in demands.check(recipe, profile, run.shape, run.path.parent, limited=limited, there=there):
            told(f"{'note':<12} {remark}")
    if at is not None and longer:
        check_length(run, recipe, changed, at)
        if at.finished:
            told(f"train        {reopen(run, recipe, at)}")
    elif "score" in done and any(of(name, WHO_MARKS) for name in changed):
        again = hints.command("glmjobs.score", run.path, "--rejudge")
        told(f"score        is done by the old judge; by the new one: {again}")
        told(f"report       then: {hints.command('glmjobs.report', run.path)}")
    if any(of(name, ("model",)) for name in changed):
        shutil.rmtree(run.path / "base", ignore_errors=True)  # made for the old one
    ledger.append(run.path, "changed", set=list(overrides), differences=changed)
    return rewrite(run, recipe, profile)


def too_late(run: Run, item: str, done: Collection[str]) -> None:
    """Refuse a change that would have no effect, or that would spoil what is there already.

    Args:
        done: the stages that are done, and are not done again.
    """
    field = item.partition("=")[0].strip()
    section = field.partition(".")[0]
    if section == "name":
        raise BadInput(f"--set {item}: a run keeps its name")
    if section in done and not of(field, WHO_MARKS):
        more = f", or train longer: {hints.setting('train.epochs', 'N')}" if section == "train" else ""
        raise BadInput(
            f"--set {item}: {section} is done, so this would change nothing; make a new run for it{more}"
        )
    step = ledger.progress(run.path, "train").get("checkpoint")
    if of(field, ROWS_OF_A_STEP) and (step or run.done("train")):
        raise BadInput(
            f"--set {item}: training has got to checkpoint-{step} with the rows that the old value gave it; "
            "make a new run for it"
        )


def keeps_the_form(run: Run, changed: Mapping[str, list[Any]]) -> None:
    """Refuse a change that the newest checkpoint's optimizer state could not take up; its weights can."""
    field = next((name for name in changed if of(name, FORM_OF_A_CHECKPOINT)), None)
    step = ledger.progress(run.path, "train").get("checkpoint")
    if field is None or not step:
        return
    before, after = (v if isinstance(v, str) else json.dumps(v) for v in changed[field])
    weights = run.path / f"model-{step}"
    made = hints.command("glmjobs.consolidate", run.path, weights, "--dtype", "float32")
    setting = hints.setting(field, after)
    raise BadInput(
        f"{setting}: checkpoint-{step}'s optimizer state is made for {before} and cannot go on otherwise; its "
        f"weights can, in a new run: {made}; then submit the recipe with "
        f"{hints.setting('model.path', weights)} {setting}"
    )


def of(field: str, names: Sequence[str]) -> bool:
    """Whether ``field`` is one of these, or part of a section that is."""
    return any(field == name or field.startswith(f"{name}.") for name in names)


def differences(run: Run, recipe: Any, profile: Profile) -> dict[str, list[Any]]:
    """Field → [before, after], of everything that changed."""
    before = flat(
        {"recipe": run.recipe.model_dump(mode="json"), "cluster": run.cluster.model_dump(mode="json")}
    )
    after = flat({"recipe": recipe.model_dump(mode="json"), "cluster": profile.model_dump(mode="json")})
    return {
        key.removeprefix("recipe."): [before.get(key), after.get(key)]
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    }


class Said:
    """What heal says: what is to be replaced before it is, a line a job as it is done, and how it came out."""

    def __init__(self, run: Run, *, quiet: bool) -> None:
        self.run, self.quiet = run, quiet
        self.actions: list[Action] = []
        self.shown = 0
        self.notes: list[str] = []

    def will(self, action: Action) -> None:
        """A waiting job is about to be cancelled and submitted anew."""
        self._print(f"{action.stage:<12} job {action.job} is replaced: {action.why}")

    def did(self, action: Action) -> None:
        """A job has been seen to. What is in order is worth a line only beside what is not."""
        self.actions.append(action)
        if action.what in (DONE, KEEP) and not self.shown:
            return
        while self.notes:
            self._print(f"{'train':<12} {self.notes.pop(0)}")
        for a in self.actions[self.shown :]:
            why = f"  {a.why}" if a.why else ""
            self._print(f"{a.stage:<12} {WORDS.get(a.what, a.what):<14} {a.job or '':<12}{why}".rstrip())
        self.shown = len(self.actions)

    def passed_over(self, run: Run) -> None:
        """The checkpoints that training will not go on from, as far as their files' sizes tell; and which it will."""
        bad = []
        for found in committed.scan(run.checkpoints):
            if found.problem is None:
                break
            bad.append(f"{found.path.name} is passed over: {found.problem}")
        self.notes = bad

    def line(self, text: str) -> None:
        """A line of its own."""
        self._print(text)

    def end(self, error: str = "") -> None:
        """What there is to say at the end. ``error``: what it broke off for, which follows as a line of its own."""
        if self.quiet:
            document = {
                "run": self.run.name,
                "path": str(self.run.path),
                "jobs": [vars(a) for a in self.actions],
                "passed_over": self.notes,
            }
            print(json.dumps(document | ({"error": error} if error else {}), ensure_ascii=False))
        elif error:
            if self.shown:
                self._print("this much was done; mend what follows, and heal again: it goes on from there")
        elif not self.shown:
            waiting = next((a for a in self.actions if a.what == KEEP), None)
            why = f"{waiting.stage}: {waiting.why} (job {waiting.job})" if waiting else "every stage is done"
            self._print(f"nothing to heal: {why}")
        else:
            self._print(f"watch {hints.command('glmjobs.status', self.run.path)}")

    def _print(self, line: str) -> None:
        if not self.quiet:
            print(line, file=sys.stderr, flush=True)


WORDS = {
    "requeue": "queued again", "re-arm": "waits again", "release": "released", "replace": "submitted new",
    "submit": "submitted new", "keep": "as it was", "done": "done", "start": "started again",
}  # fmt: skip

if __name__ == "__main__":
    raise SystemExit(run_command(main))
