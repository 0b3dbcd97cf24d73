"""The made problems: right, different, seeded, and as hard as asked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from glmjobs.data.rows import question_key
from glmjobs.data.synthetic import make_problems, write_problems
from glmjobs.data.synthetic_templates import Template, templates
from hpc.core.errors import BadInput

STEP = re.compile(r"(\d+) ([+×÷-]) (\d+) = (\d+)")


@pytest.fixture(scope="module")
def problems() -> list[dict[str, str]]:
    return make_problems(10_000, seed=3)


def test_ten_thousand_differ_and_repeat(problems: list[dict[str, str]]) -> None:
    assert len(problems) == 10_000
    assert len({question_key(problem["instruction"]) for problem in problems}) == 10_000
    assert make_problems(10_000, seed=3) == problems
    assert make_problems(200, seed=3) == problems[:200]
    assert make_problems(200, seed=4) != problems[:200]


def test_every_solution_is_right(problems: list[dict[str, str]]) -> None:
    for problem in problems:
        assert list(problem) == ["instruction", "input", "output"] and problem["input"] == ""
        first, *steps, conclusion = problem["output"].split("\n")
        assert first == "" and 1 <= len(steps) <= 2
        asked = re.findall(r"\d+", problem["instruction"])
        given = []
        result = None
        for step in steps:
            match = STEP.fullmatch(step)
            assert match, step
            a, sign, b, c = int(match[1]), match[2], int(match[3]), int(match[4])
            assert {"+": a + b, "-": a - b, "×": a * b, "÷": a / b if b else None}[sign] == c
            assert 0 < c < 100
            given += [match[3]] if result is not None else [match[1], match[3]]
            assert result is None or result == a
            result = c
        assert sorted(given) == sorted(asked), problem
        assert conclusion.startswith("因此，") and conclusion.endswith("。")
        assert re.findall(r"\d+", conclusion)[-1] == str(result)


def test_they_vary(problems: list[dict[str, str]]) -> None:
    signs = [tuple(match[2] for match in STEP.finditer(problem["output"])) for problem in problems]
    assert {sign for (sign, *_) in signs} == set("+-×÷")
    assert 0.07 < sum(len(sign) == 2 for sign in signs) / len(signs) < 0.13
    # A common answer would let a model score by always giving it.
    answers = [re.findall(r"\d+", problem["output"])[-1] for problem in problems]
    assert max(answers.count(answer) for answer in set(answers)) < 0.1 * len(answers)
    assert len(templates()) > 45


def test_difficulty() -> None:
    easy = make_problems(500, seed=0, max_operand=5, two_step=0, operations="+-")
    numbers = [int(n) for problem in easy for n in re.findall(r"\d+", problem["instruction"])]
    assert max(numbers) == 5
    assert all(
        problem["output"].count("\n") == 2 and not set("×÷") & set(problem["output"]) for problem in easy
    )
    table = make_problems(200, seed=0, max_factor=3, operations="*/")
    assert max(int(n) for p in table for n in re.findall(r"\d+", p["instruction"])) <= 27
    hard = make_problems(500, seed=0, max_operand=49, two_step=1)
    assert all(problem["output"].count("\n") == 3 for problem in hard)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"max_operand": 50}, "max_operand = 50"),
        ({"max_factor": 1}, "max_factor = 1"),
        ({"two_step": 1.5}, "two_step"),
        ({"operations": "+x"}, "operations = '\\+x'"),
    ],
)
def test_impossible_wishes(knobs: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make_problems(3000, **knobs)  # type: ignore[arg-type]


def test_more_than_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    few = Template("+", "people", "车上有{a}人，又上来{b}人，车上现在有多少人？", "车上现在有{r}人")
    monkeypatch.setattr("glmjobs.data.synthetic.templates", lambda: (few,))
    assert len(make_problems(9, max_operand=3)) == 9
    with pytest.raises(BadInput, match="only 9 different problems found for these settings, 10 asked for"):
        make_problems(10, max_operand=3)


def test_written(tmp_path: Path) -> None:
    path = write_problems(tmp_path / "new" / "p.jsonl", 50, 1, max_operand=9)
    assert [json.loads(line) for line in path.open(encoding="utf-8")] == make_problems(50, 1, max_operand=9)
    assert [entry.name for entry in path.parent.iterdir()] == ["p.jsonl"]
