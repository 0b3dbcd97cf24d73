"""The scripts, the rehearsal and the run itself."""

from __future__ import annotations

import contextlib
import sys
from functools import cached_property
from pathlib import Path

from glmjobs import heal, submit
from glmjobs.planning import rehearsed
from glmjobs.recipe.schema import Recipe
from glmjobs.run import kept_code, locate, rehearsal
from glmjobs.run.directory import Run, free_name, rewrite
from glmjobs.run.jobs import CHAIN, check_name, make_chain
from glmjobs.run.read_state import read_state
from glmjobs.run.rehearsal import KILL_STEP, Rehearsal
from glmjobs.run.state import DONE, FAILED
from glmjobs.run.submit_checks import check
from glmjobs.setup.asking import yes_or_no
from glmjobs.setup.settled import Settled
from glmjobs.setup.stepwise import tell
from glmjobs.terminal.follow import describe, finish, follow
from hpc.batch.jobs import Chain
from hpc.batch.profile import Profile
from hpc.batch.script import directives
from hpc.chain import ledger, submission
from hpc.core import hints
from hpc.core.config_files import flat
from hpc.core.errors import BadInput, HpcError, NotFit, WorkFailed


class Chains:
    """What the steps that send jobs have in common.

    Attributes:
        recipe, profile: as submit has checked them.
    """

    def __init__(self, settled: Settled) -> None:
        self.settled = settled

    @cached_property
    def profile(self) -> Profile:
        return self.settled.profile()

    @cached_property
    def recipe(self) -> Recipe:
        shape = self.settled.shape()
        return submit.checked(self.settled.recipe(), self.profile, shape, CHAIN, "slurm")

    @cached_property
    def name(self) -> str:
        """The run's: decided once, and kept; another where other answers are given than the run there has."""
        answers, parent = self.settled.answers, locate.parent()
        name = answers.known("name")
        path = parent / str(name)
        cut_off = path.exists() and not (path / "run.yaml").is_file()
        other = path.exists() and answers.changed - {"name", "rehearse"} and "name" not in answers.changed
        if name is None or cut_off or other:
            name = free_name(self.settled.recipe().name, parent)
        check_name(str(name))
        answers.keep(name=name)
        return str(name)

    def rehearsals(self) -> tuple[list[Run], list[Run]]:
        """The rehearsals of this very run that are there, and those of it with other settings; oldest first."""
        wanted, shape = rehearsal.short(self.recipe), self.settled.shape()
        found = []
        for place in locate.directories():
            with contextlib.suppress(HpcError):  # a run that cannot be read is none of these
                if place.path.name.startswith(wanted.name):
                    found.append(Run.open(place.path))
        same = [run for run in found if (run.recipe, run.shape) == (wanted, shape) and self._is_here(run)]
        return same, [run for run in found if run.recipe.name == wanted.name and run not in same]

    def _is_here(self, run: Run) -> bool:
        """Its cluster profile is today's, whatever was measured since."""
        return run.cluster.model_copy(update={"measured": self.profile.measured}) == self.profile

    def chain(self) -> Chain:
        """The run's, as it would be submitted; nothing is touched."""
        path, shape = locate.parent() / self.name, self.settled.shape()
        code = kept_code.place(path.parent)
        return make_chain(path, "KEY", self.settled.recipe(), self.settled.profile(), shape, code=code)

    def now(self, text: str) -> bool:
        """A check: yes or no; "show" shows the scripts, and asks again."""
        if text == "show":
            submit.dry_run(self.chain(), as_json=False)
            raise BadInput("these are the scripts; now yes or no")
        return yes_or_no(text)


class ShowScripts:
    """What the jobs will be, before any is sent."""

    title = "scripts"

    def __init__(self, settled: Settled, chains: Chains) -> None:
        self.settled, self.chains = settled, chains

    def found(self) -> str:
        """Nothing is to be shown any more of a run that is there."""
        there = (locate.parent() / self.chains.name / "run.yaml").is_file()
        return f"as submitted: {locate.parent() / self.chains.name / 'jobs'}" if there else ""

    def ask(self) -> None:
        """No questions."""

    def would(self) -> str:
        """Show them."""
        return "send these jobs, each after the one before"

    def do(self) -> str:
        """What each asks of Slurm."""
        chain = self.chains.chain()
        asked = {
            job.stage: directives(job, chain.profile, chain.run, last=job is chain.jobs[-1])
            for job in chain.jobs
        }
        unsaid = ("--output", "--open-mode", "--job-name", "--signal")
        lines = [
            f"{stage:<12} {' '.join(o for o in options if not o.startswith(unsaid))}"
            for stage, options in asked.items()
        ]
        return "\n".join(lines)

    def by_hand(self) -> str:
        """Submit's dry run has them in full."""
        return hints.command("glmjobs.submit", *self.settled.words("--name", self.chains.name, "--dry-run"))


class Rehearse:
    """The real shapes for a few minutes."""

    title = "rehearsal"

    def __init__(self, settled: Settled, chains: Chains) -> None:
        self.settled, self.chains = settled, chains

    def found(self) -> str:
        """A rehearsal of just this that held; or that none is wanted."""
        if self.settled.answers.known("rehearse") is False:
            return "none, as you asked"
        if (locate.parent() / self.chains.name / "run.yaml").is_file():
            return "over: the run itself is there"
        if self.settled.dry:
            return ""
        held = [run for run in self.chains.rehearsals()[0] if holds(run)]
        return f"{held[-1].name}: all that was measured holds" if held else ""

    def ask(self) -> None:
        """Now?"""
        answers = self.settled.answers
        question = (
            "Rehearse first, a few minutes: 20 steps, a killed rank, all stages (yes, no, show: the scripts)"
        )
        if not answers.ask("rehearse", question, "yes", self.chains.now):
            answers.keep(rehearse=False)

    def would(self) -> str:
        """Rehearse, or go on with it."""
        return "rehearse; it can be left with Ctrl-C, and goes on"

    def do(self) -> str:
        """Send it, or pick it up, and stay until it has ended.

        Raises:
            WorkFailed: it failed.
            NotFit: something that it has shown will not hold.
        """
        short = rehearsal.short(self.chains.recipe)
        there, others = self.chains.rehearsals()
        for run in others:
            if read_state(run).state == FAILED:
                end = hints.command("glmjobs.cancel", run.path)
                tell(
                    "", f"{run.name} was of other settings; its other jobs wait for nothing; end them: {end}"
                )
        path = there[-1].path if there else locate.parent() / free_name(short.name, locate.parent())
        of = Rehearsal(self.settled.recipe(), KILL_STEP, self.settled.profile_path.absolute())
        submit.start(path, short, self.chains.profile, self.settled.shape(), local=False, rehearses=of)
        run = Run.open(path)
        now = read_state(run)
        if now.ended and now.state != DONE:
            heal.main([str(path)])
        if (code := follow(run)) == 130:
            raise KeyboardInterrupt
        if code:
            raise WorkFailed(f"the rehearsal {run.name} failed ({hints.command('glmjobs.logs', path)})")
        if submit.rehearsed(run, as_json=False):
            raise NotFit("change what will not hold (--set), or --no-rehearse to go without")
        return f"{run.name}: all that was measured holds"

    def by_hand(self) -> str:
        """rehearse."""
        return hints.command("glmjobs.rehearse", *self.settled.words())


def holds(run: Run) -> bool:
    """The rehearsal is done, its profile told, and nothing that it measured is too little."""
    of, told = rehearsal.read(run.path), ledger.events(run.path, event="rehearsed")
    if of is None or not told or read_state(run, ask_slurm=False).state != DONE:
        return False
    return all(line.holds is not False for line in rehearsed.lines(run, of))


class Submit:
    """The run itself."""

    title = "run"

    def __init__(self, settled: Settled, chains: Chains) -> None:
        self.settled, self.chains = settled, chains

    @property
    def path(self) -> Path:
        """Its directory."""
        return locate.parent() / self.chains.name

    def found(self) -> str:
        """Its chain was submitted as a whole."""
        whole = (self.path / "run.yaml").is_file() and set(CHAIN) <= set(submission.current_jobs(self.path))
        return f"{self.path}: submitted{self._otherwise()}" if whole else ""

    def _otherwise(self) -> str:
        """The fields that the recipe's file says otherwise by now, as a line more; "" where there are none.

        What it leaves open (null, auto) was decided when the run was submitted.
        """
        run = Run.open(self.path)
        try:  # with whole paths, as the run has them
            recipe = check(self.settled.recipe(), self.chains.profile, run.shape, (), "local")
        except HpcError:  # the run has all it needs; a new one is refused when it is made
            return ""
        says, has = (flat(one.model_dump(mode="json")) for one in (recipe, run.recipe))
        fields = [name for name, value in says.items() if value not in (None, "auto", has.get(name))]
        if not fields:
            return ""
        return (
            f"\nnote: {self.settled.recipe_name} has another {', '.join(fields)} by now than this run was made of; "
            f"a new run of it: --name {free_name(self.settled.recipe().name, locate.parent())}"
        )

    def ask(self) -> None:
        """Now? Not asked again where it was cut off."""
        answers = self.settled.answers
        if (self.path / "run.yaml").is_file():
            return
        question = f"Submit the run {self.chains.name} now (yes, no, show: the scripts)"
        if not answers.ask("submit", question, "yes", self.chains.now, keep=False):
            raise NotNow(f"not submitted; when you want it: {self.by_hand()}")

    def would(self) -> str:
        """Submit it."""
        return f"submit {self.path}"

    def do(self) -> str:
        """Submit it, or what is missing of it."""
        shape = self.settled.shape()
        recipe, profile = self.chains.recipe, self.chains.profile
        if (self.path / "run.yaml").is_file() and not submission.current_jobs(self.path):
            rewrite(Run.open(self.path), recipe, profile, shape)  # refused as it was, and maybe mended since
        ids = submit.start(self.path, recipe, profile, shape, local=False)
        return f"jobs  {'  '.join(f'{stage} {job}' for stage, job in ids.items())}"

    def by_hand(self) -> str:
        """submit."""
        return hints.command("glmjobs.submit", *self.settled.words("--name", self.chains.name))


class NotNow(Exception):
    """A person has said no; the line says how it is done later."""


def how_it_is(path: Path, *, stay: bool) -> int:
    """Show how a run is doing, or what came out; ``stay``: until it has ended. The exit code."""
    run = Run.open(path)
    now = read_state(run)
    if stay or now.ended:
        code = follow(run) if stay else finish(run, now, as_json=False)
        if code == 1:
            print(f"when that is mended: {hints.command('glmjobs.heal', run.name)}", file=sys.stderr)
        return code
    for line in filter(None, map(describe, now.submitted)):
        print(line)
    watch, end = hints.command("glmjobs.status", run.name), hints.command("glmjobs.cancel", run.name)
    print(f"watch {watch}   end it: {end}")
    return 0
