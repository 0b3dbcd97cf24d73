"""BLEU-4 and ROUGE as the classical ChatGLM-6B evaluation counts them, for any pair of texts, the empty one
included.

* BLEU-4: sentence BLEU over single characters, smoothing method 3 (``nltk``).
* ROUGE-1, -2, -L: F1 over the words that ``jieba`` finds (``rouge_chinese``).

Both texts are folded by NFKC first: the tokenizer folds what a model writes (``，`` becomes ``,``), so a
reference left as it stands would lose points for its punctuation alone. The libraries are imported on first
use.
"""

from __future__ import annotations

import functools
import logging
import unicodedata
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

MAX_CHARACTERS = 2048
"""Texts are compared up to here: ROUGE-L takes time and memory in proportion to the product of both
lengths."""


@dataclass(frozen=True)
class TextScores:
    """All in percent (0 to 100)."""

    bleu4: float = 0.0
    rouge1: float = 0.0
    rouge2: float = 0.0
    rougeL: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """By name, as ``summary.json`` holds them."""
        return asdict(self)


def text_scores(prediction: str, reference: str) -> TextScores:
    """Compare one prediction with its reference. Never raises; an empty side scores 0."""
    prediction, reference = _folded(prediction), _folded(reference)
    if not prediction or not reference:
        return TextScores()
    rouge = _rouge(" ".join(_words(prediction)), " ".join(_words(reference)))
    return TextScores(_bleu(prediction, reference), rouge["rouge-1"], rouge["rouge-2"], rouge["rouge-l"])


def mean_text_scores(pairs: Iterable[tuple[str, str]]) -> TextScores:
    """The mean over ``(prediction, reference)`` pairs; all 0 without pairs."""
    scores = [text_scores(prediction, reference) for prediction, reference in pairs]
    if not scores:
        return TextScores()
    return TextScores(
        *(sum(column) / len(scores) for column in zip(*(s.as_dict().values() for s in scores), strict=True))
    )


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())[:MAX_CHARACTERS]


def _bleu(prediction: str, reference: str) -> float:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nltk warns where no 4-gram matches; the smoothing has dealt with it
        score = sentence_bleu(
            [list(reference)], list(prediction), smoothing_function=SmoothingFunction().method3
        )
    return 100.0 * float(score)


def _rouge(prediction: str, reference: str) -> dict[str, float]:
    from rouge_chinese import Rouge

    try:
        scores = Rouge().get_scores(prediction, reference)[0]
    except (
        ValueError,
        ZeroDivisionError,
        RecursionError,
    ):  # nothing left to compare, such as blanks or dots alone
        return {"rouge-1": 0.0, "rouge-2": 0.0, "rouge-l": 0.0}
    return {name: 100.0 * float(score["f"]) for name, score in scores.items()}


@functools.lru_cache(maxsize=1)
def _segmenter() -> Any:
    """A jieba segmenter of our own: words a program adds to jieba's global one must not change a score."""
    import jieba

    jieba.setLogLevel(logging.WARNING)
    return jieba.Tokenizer()


def _words(text: str) -> list[str]:
    return [word for word in _segmenter().cut(text, HMM=True) if word.strip()]
