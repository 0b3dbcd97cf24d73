"""The README.md of a model directory: what it is, of which base, on which data, how well it does, by which recipe.

For those who get the directory alone: paths of the machine that made it are cut to their last part.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import yaml

from glmjobs.reporting import wording
from glmjobs.reporting.markdown import escape, fence, table

Json = dict[str, Any]

MARK = "<!-- written by glmjobs.report; a README.md without this line is left alone -->"


def render(doc: Json, title: str, licences: Sequence[str], *, adapter: bool) -> str:
    """The card.

    Args:
        doc: of :func:`glmjobs.reporting.document.document`.
        title: the family's.
        licences: names of the licence files in the directory, which came from the base model.
        adapter: it is a LoRA adapter alone.
    """
    summary = doc["summary"]
    base = last(summary["model"])
    method = summary["method"] or "fine-tuning"
    what = f"An adapter (PEFT) of {title}" if adapter else f"{title}"
    parts = [MARK, f"# {escape(doc['name'])}"]
    parts.append(f"{what}: {escape(base)} after {escape(method)}. Made {doc['made']}.")
    if doc["training"]["steps"]:
        parts += ["## Training", escape(wording.training_sentence(doc))]
    if pairs := [
        (name, last(value) if name == "Source" else value) for name, value in wording.data_pairs(doc)
    ]:
        parts += ["## Data", table(wording.Table(["Fact", "Value"], pairs))]
    scored = doc["accuracy"]["models"] or doc["accuracy"]["unmarked"]
    said = escape(" ".join(wording.accuracy_sentences(doc))) if scored else "It has not been scored."
    parts += ["## Scores", said, table(wording.metrics_table(doc))]
    parts += [
        "## Recipe",
        fence(yaml.safe_dump(shortened(doc["recipe"]), allow_unicode=True, sort_keys=False).rstrip()),
    ]
    found = ", ".join(map(escape, licences))
    terms = f"are in {found}" if found else "were not beside it: they stand where it was published"
    parts += ["## Licence", f"A model made of another keeps its terms. Those of {escape(base)} {terms}."]
    return "\n\n".join(part for part in parts if part) + "\n"


def last(path: Any) -> str:
    """The last part of a path; other text as it is."""
    return PurePath(str(path)).name or str(path)


def shortened(recipe: Any) -> Any:
    """The recipe, with what it names on the machine's disk cut to the last part."""
    recipe = copy.deepcopy(recipe)
    for section in recipe.values() if isinstance(recipe, dict) else ():
        for name, value in section.items() if isinstance(section, dict) else ():
            if isinstance(value, str) and value.startswith("/"):
                section[name] = last(value)
    return recipe
