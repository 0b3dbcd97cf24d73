"""docs/when-things-fail.md quotes what the programs say, word for word."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from hpc.slurm.records import JobState
from tests.support.paths import REPO

PAGE = REPO / "docs" / "when-things-fail.md"


def symptoms() -> Iterator[str]:
    """What stands between backticks in the first column of the page's tables."""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| ") and not line.startswith(("| what you see", "| ---")):
            for double, single in re.findall(r"`` (.+?) ``|`([^`]+)`", line.split(" | ")[0]):
                yield double or single


@pytest.fixture(scope="module")
def said() -> str:
    """Every text in the sources; what is filled in shows as an ellipsis."""
    texts = [path.read_text(encoding="utf-8") for path in (REPO / "sbatch").glob("*.sh")]
    for path in [*(REPO / "hpc").rglob("*.py"), *(REPO / "glmjobs").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [v.value if isinstance(v, ast.Constant) else "…" for v in node.values]
                texts.append("".join(str(part) for part in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


@pytest.mark.parametrize("symptom", list(symptoms()))
def test_quoted_words_are_said(symptom: str, said: str) -> None:
    if match := re.search(r"\(Slurm: (\w+)\)", symptom):
        assert match.group(1) in JobState.__members__
        symptom = symptom.replace(match.group(0), "…")
    for piece in symptom.split("…"):
        words = piece.strip(" ();,")
        assert words in said, f"no program says {words!r}"
