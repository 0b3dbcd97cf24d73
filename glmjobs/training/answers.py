"""Answers to the first dev questions by the model as it is trained, marked: how far it is in what it is trained for.

Where each rank has the whole model (ZeRO-1 and 2), the ranks share the questions. Under ZeRO-3 they gather each layer's
weights together, so all of them answer all questions in step, with the tokens that the first rank chooses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from glmjobs.generation.decoder import Engine, generate
from glmjobs.marking import judge
from glmjobs.models.family import Family, family_for
from glmjobs.recipe.schema import Recipe
from glmjobs.scoring.evaluate import prompts_of
from glmjobs.scoring.statistics import wilson
from glmjobs.scoring.test_sets import read_set
from glmjobs.training.agreement import Agreement

SLOTS = 16
"""Answers that are made at a time: few, for the optimizer's state stays in memory."""


@dataclass(frozen=True)
class Probe:
    """The questions, ready to be continued.

    Attributes:
        prompts: token ids.
        texts: of each the question and its gold answer.
        limit: tokens of an answer.
    """

    prompts: list[list[int]]
    texts: list[tuple[str, str]]
    limit: int
    tokenizer: Any
    family: Family

    @classmethod
    def load(cls, recipe: Recipe, folder: Path, tokenizer: Any, positions: int | None) -> Probe | None:
        """The first ``train.eval_answers`` dev rows of the prepared rows in ``folder``, or None where that is 0.

        Asked as scoring asks them, of a model that has so many ``positions``.
        """
        if not recipe.train.eval_answers:
            return None
        family = family_for(recipe.model.family)
        rows = read_set(folder / "dev.jsonl", "alpaca", recipe.train.eval_answers).questions
        asked = prompts_of(
            family, tokenizer, rows, positions, recipe.data.max_source_length, recipe.score.max_new_tokens
        )
        return cls(asked.prompts, [(row.question, row.gold) for row in rows], asked.new, tokenizer, family)

    def ask(
        self, model: Any, agreement: Agreement, *, whole: bool, told: Callable[[], bool]
    ) -> dict[str, Any] | None:
        """Have ``model`` answer, on all ranks: how many of the answers are right.

        Args:
            whole: each rank has all of the weights.
            told: called before every token; whether this rank was told to stop.

        Returns:
            ``dev_answers`` (share of the marked answers that is right), ``dev_answers_marked`` (how many were marked)
            and ``dev_answers_interval`` (Wilson's, 95 %); None: a rank was told to stop.
        """
        rank, ranks = agreement.rank, agreement.ranks
        mine = list(range(rank, len(self.prompts), ranks)) if whole else list(range(len(self.prompts)))
        stop = told if whole else lambda: bool(agreement.all_reduce_max(int(told())))
        engine = Engine(
            model, self.family.stop_ids(self.tokenizer), banned_ids=self.family.banned_ids(self.tokenizer),
            trained=True, agree=None if whole or ranks == 1 else _of_first_rank,
        )  # fmt: skip
        counts = torch.zeros(2, dtype=torch.float64)
        for made in (
            generate(engine, [self.prompts[i] for i in mine], self.limit, SLOTS, stop=stop) if mine else ()
        ):
            question, gold = self.texts[mine[made.index]]
            text = self.tokenizer.decode(made.tokens, skip_special_tokens=True).strip()
            verdict = judge(question, gold, text)
            if (whole or rank == 0) and verdict.status == "marked":
                counts += torch.tensor([float(verdict.correct), 1.0])
        if agreement.all_reduce_max(int(told())):
            return None
        right, marked = (int(count) for count in agreement.add(counts).tolist())
        return {
            "dev_answers": right / marked if marked else None,
            "dev_answers_marked": marked,
            "dev_answers_interval": list(wilson(right, marked)),
        }


def _of_first_rank(tokens: torch.Tensor) -> torch.Tensor:
    dist.broadcast(tokens, src=0)
    return tokens
