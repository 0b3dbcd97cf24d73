"""What is trained, and where: the recipe is chosen, the cluster profile drafted, and the doctor asked."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from glmjobs.doctor import SETTING
from glmjobs.models.family import family_for
from glmjobs.recipe import loading
from glmjobs.run import locate
from glmjobs.run.jobs import check_name
from glmjobs.setup.asking import FILE, one_of, whole_number
from glmjobs.setup.settled import Settled
from glmjobs.template import names
from hpc.core import hints
from hpc.core.errors import BadInput, NotFit
from hpc.doctor import draft, examine
from hpc.doctor.__main__ import write_new
from hpc.doctor.checklist import show
from hpc.doctor.scheduler import partitions


class ChooseRecipe:
    """Which model, trained how."""

    title = "recipe"

    def __init__(self, settled: Settled) -> None:
        self.settled = settled

    def found(self) -> str:
        """The recipe that was named."""
        answers = self.settled.answers
        if answers.known("recipe") is None:
            return ""
        self._drop()
        self.ask()
        kept = "" if "overrides" in answers.options else settings(self.settled.given)
        try:
            recipe = self.settled.recipe()
        except BadInput as error:
            more = f" (with {kept}, kept in {FILE}: a --set takes their place)" if kept else ""
            raise BadInput(f"{error}{more}") from None
        answers.keep("overrides")
        how = "LoRA" if recipe.train.method == "lora" else "all parameters"
        title = family_for(recipe.model.family).title
        what = title if recipe.model.make is None else f"a small model made for it, built as {title}"
        return f"{self.settled.recipe_name}: {what}, {how}" + (
            f"\nwith {kept}, kept in {FILE}" if kept else ""
        )

    def _drop(self) -> None:
        """Answers that were given for another recipe, and settings that others take the place of, are out."""
        answers = self.settled.answers
        given, before = answers.options.get("overrides"), answers.before.get("recipe")
        if before not in (None, answers.options.get("recipe", before)):
            out = answers.drop("overrides", "model", "data", "setting", "name")
        else:
            out = answers.drop("overrides") if given else {}
        words = [settings([item for item in out.pop("overrides", []) if item not in (given or [])])]
        words += [
            f"--{name} {shlex.quote(value)}" for name, value in out.items() if name not in answers.options
        ]
        if any(words):
            print(f"  no longer: {' '.join(filter(None, words))}, kept in {FILE} from an earlier call")

    def ask(self) -> None:
        """Which."""
        note = "\n".join(f"  {name:<28} {first_line(name)}" for name in names("configs"))
        self.settled.answers.ask(
            "recipe",
            "Recipe, one of these or a file of yours",
            loading.DEFAULT_RECIPE,
            recipe_file,
            note=note,
        )

    def would(self) -> str:
        """Nothing is left to do when it is chosen."""
        return "take the recipe"

    do = by_hand = would


def settings(overrides: list[str]) -> str:
    """``--set`` for each."""
    return " ".join(f"--set {shlex.quote(item)}" for item in overrides)


def check_options(options: Mapping[str, Any]) -> None:
    """What can be said of options by themselves is said before the first question.

    Raises:
        BadInput: one cannot be right.
    """
    count = whole_number(1, 4096)
    checks: dict[str, Callable[[str], object]] = {
        "nodes": count, "gpus": count, "gpu_memory": whole_number(1, 1000), "account": account_name,
    }  # fmt: skip
    for name, check in checks.items():
        if name in options:
            try:
                check(options[name])
            except BadInput as error:
                raise BadInput(f"--{name.replace('_', '-')} {shlex.quote(options[name])}: {error}") from None
    if "name" in options:
        check_name(options["name"])


def first_line(name: str) -> str:
    """What a recipe's first line says of it."""
    with loading.find_config(name).open(encoding="utf-8") as file:
        return file.readline().strip("# \n.:").partition(". ")[0]


def recipe_file(text: str) -> str:
    """A check: the name of a recipe that can be read."""
    if not text:
        raise BadInput(f"a file, or one of {', '.join(names('configs'))}")
    loading.load(loading.find_config(text))
    return text


class DraftProfile:
    """The cluster profile: the user's own where there is one, as it is; else drafted."""

    title = "profile"

    def __init__(self, settled: Settled) -> None:
        self.settled, self.answers, self.path = settled, settled.answers, settled.profile_path
        self.partition: str | None = None
        self.account: str | None = None
        self.gpu_memory: int | None = None

    def found(self) -> str:
        """The profile that is there."""
        if not self.path.exists():
            if not self.path.parent.is_dir():
                raise BadInput(f"cluster profile {self.path}: {self.path.parent}: no such directory")
            return ""
        profile = self.settled.profile()
        if profile.login:
            raise BadInput(
                f"{self.path}: setup is for a login node: log in to {profile.login} and start it there"
            )
        self.answers.keep("cluster")
        for name, own in (
            ("partition", profile.partition), ("account", profile.account), ("gpu_memory", profile.gpu_memory_gb),
        ):  # fmt: skip
            wanted = self.answers.options.get(name)
            if wanted not in (None, str(own or "none")):
                raise BadInput(
                    f"--{name.replace('_', '-')} {wanted}: {self.path} says {own}; change it there"
                )
        return f"{self.path}, as it is: {summary(self.settled)}"

    def ask(self) -> None:
        """What the draft cannot find out."""
        known, gpus = partitions(), draft.gpus()
        having = [name for name in known if gpus[name]]
        self.partition = proposed = draft.proposed_partition(known, having)
        if len(having) > 1 or self.answers.known("partition") is not None:
            question = f"Partition to train in ({', '.join(having or known)})"
            self.partition = self.answers.ask("partition", question, proposed, one_of(*known))
        if (account := draft.default_account()) is None or self.answers.known("account") is not None:
            self.account = self.answers.ask(
                "account", "Account that jobs are charged to", account or "", account_name
            )
        kind = draft.usual_kind(gpus.get(self.partition or "", []))
        memory = draft.memory_in_name(kind)
        if memory is None or self.answers.known("gpu_memory") is not None:
            question = f"Memory of one {kind or 'GPU'} in GB (nvidia-smi on a node tells)"
            self.gpu_memory = self.answers.ask("gpu_memory", question, memory or 80, whole_number(1, 1000))
        if self.settled.dry:
            self.settled.draft = self.text()

    def text(self) -> str:
        """The draft."""
        return draft.draft(partition=self.partition, account=self.account, gpu_memory_gb=self.gpu_memory)

    def would(self) -> str:
        """Draft it."""
        return f"draft {self.path} from sinfo, sacctmgr and module avail"

    def do(self) -> str:
        """Draft it."""
        try:
            write_new(self.path, self.text())
        except BadInput as error:  # the doctor's words name its own option
            raise BadInput(str(error).removeprefix("--write-profile ")) from None
        self.answers.keep("cluster")
        return f"drafted: {summary(self.settled)}; every field: hpc/batch/profile.py"

    def by_hand(self) -> str:
        """The doctor's draft."""
        return hints.command("glmjobs.doctor", "--write-profile", self.path)


def account_name(text: str) -> str:
    """A check: "" for none."""
    if any(not (c.isalnum() or c in "_.,-@+") for c in text):
        raise BadInput("a name as `sacctmgr show user` lists it; Enter for none")
    return "" if text == "none" else text


def summary(settled: Settled) -> str:
    """A profile in a line."""
    profile = settled.profile()
    modules = " ".join(profile.environment.modules) or "none"
    return (
        f"partition {profile.partition or 'the default'}, account {profile.account or 'none'}, "
        f"GPU {profile.gpu_type or 'of any type'} of {profile.gpu_memory_gb} GB, modules {modules}"
    )


class AskDoctor:
    """Is all that fit? Asked each time: it can change."""

    title = "doctor"

    def __init__(self, settled: Settled) -> None:
        self.settled = settled

    def found(self) -> str:
        """Nothing says that it is fit still."""
        return ""

    def ask(self) -> None:
        """No questions."""

    def would(self) -> str:
        """Look."""
        return f"check environment, Slurm, modules and disk against {self.settled.profile_path}"

    def do(self) -> str:
        """Look.

        Raises:
            NotFit: something that stops a run; the table says how it is mended.
        """
        rows = examine(self.settled.profile(), runs=locate.parent(), remedies=SETTING.remedies)
        bad = [row for row in rows if row.state == "bad"]
        if bad:
            show(bad, "what is not fit")
            own = settings([item for item in self.settled.given if item.startswith("cluster.")])
            how = f", with {own} ({self.by_hand()} looks without;" if own else f" ({self.by_hand()};"
            raise NotFit(f"{len(bad)} of {len(rows)} checks say NO{how} or --skip-doctor)")
        notes = sum(row.state == "warn" for row in rows)
        return f"fit: {len(rows)} checks" + (f", {notes} worth a look" if notes else "")

    def by_hand(self) -> str:
        """The doctor."""
        return hints.command("glmjobs.doctor", "--cluster", self.settled.profile_path)
