"""How much of the cluster, and how the training fits it."""

from __future__ import annotations

from typing import Any

from glmjobs.planning.estimate import GB, plan
from glmjobs.setup.asking import whole_number
from glmjobs.setup.settled import Settled
from hpc.core import hints
from hpc.core.errors import BadInput, NotFit
from hpc.slurm import client as slurm


class ChooseSetting:
    """Nodes, GPUs, and how the training fits them: as plan proposes."""

    title = "plan"

    def __init__(self, settled: Settled) -> None:
        self.settled, self.answers = settled, settled.answers
        self.document: dict[str, Any] = {}

    def found(self) -> str:
        """The setting, once it is chosen: counted anew each time."""
        if self.answers.known("setting") is None or None in map(self.answers.known, ("nodes", "gpus")):
            return ""
        self.ask()
        shape = self.settled.shape()
        chosen = self.document["proposal" if self.answers.known("setting") == "proposed" else "setting"]
        changed = " ".join(hints.setting(*item.split("=", 1)) for item in self.settled.proposal)
        return (
            f"{shape.nodes} × {shape.gpus} GPUs, {chosen['name']}: {chosen['memory']['total'] / GB:.1f} GB of "
            f"{self.document['gpu']['memory_gb']}, {chosen['hours']:.1f} h{f'; {changed}' if changed else ''}\n"
            f"by hand: {self.by_hand()}"
        )

    def ask(self) -> None:
        """How many, and which setting."""
        profile = self.settled.profile()
        found = slurm.gres(profile.partition, name=profile.gpu_gres)
        counts = {node: count for node, kind, count in found if profile.gpu_type in (None, kind)}
        of_all = (
            " ".join(sorted({f"{kind or 'gpu'}:{count}" for _, kind, count in found}))
            or "none known to Slurm"
        )
        self.answers.ask("nodes", "Nodes", 1, whole_number(1, len(counts) or 4096))
        most = max(counts.values(), default=8)
        self.answers.ask("gpus", f"GPUs on each node (there: {of_all})", most, whole_number(1, most))
        self.settled.proposal = ()
        self.document = plan(self.settled.recipe(), profile, self.settled.shape())
        self.settled.proposal = tuple(self._choose())

    def _choose(self) -> list[str]:
        """The fields that the proposal changes, where it is taken."""
        best, given = self.document["proposal"], self.document["setting"]
        if best is None:
            other = hints.settings(self.document["with_lora"] or []) or "GPUs with more memory"
            raise NotFit(
                f"nothing fits {self.document['gpu']['memory_gb']} GB: more --gpus or --nodes, or {other}"
            )
        if not best["set"]:
            self.answers.keep(setting="proposed")
            return []
        fits = "" if given["fits"] else ", which does not fit"
        question = (
            f"Setting: proposed ({best['name']}, {best['hours']:.1f} h) or recipe ({given['name']}, "
            f"{given['hours']:.1f} h{fits})"
        )
        fields = {item.partition("=")[0] for item in best["set"]}
        own = fields & {item.partition("=")[0] for item in self.settled.given}  # what a person said holds
        proposal = "recipe" if own and given["fits"] else "proposed"
        chosen = self.answers.ask("setting", question, proposal, self._checked)
        return list(best["set"]) if chosen == "proposed" else []

    def _checked(self, text: str) -> str:
        if text not in ("proposed", "recipe"):
            raise BadInput("proposed or recipe")
        if text == "recipe" and not self.document["setting"]["fits"]:
            raise BadInput("the recipe as it is does not fit this GPU")
        return text

    def would(self) -> str:
        """Asked, it is settled."""
        return "take the setting"

    do = would

    def by_hand(self) -> str:
        """plan."""
        return hints.command("glmjobs.plan", *self.settled.words())
