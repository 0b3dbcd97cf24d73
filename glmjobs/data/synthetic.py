"""Made word problems: Chinese primary-school arithmetic in BELLE's form, with worked solutions, from a seed.

For demos and tests: a model of a few million parameters learns them in minutes, and the wording, names,
things and numbers combine into far more problems than it sees, so that the scored ones are new to it. All
questions of one set differ (after the normalisation that splitting uses). Example::

    {"instruction": "小红有7个苹果，妈妈又给了她5个，小红现在一共有多少个苹果？", "input": "",
     "output": "\\n7 + 5 = 12\\n因此，小红现在一共有12个苹果。"}
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from glmjobs.data.rows import question_key
from glmjobs.data.synthetic_templates import NAMES, THINGS, Template, templates
from hpc.core.errors import BadInput
from hpc.core.files import atomic_file

#: Part of the fingerprint of made data; raise it when the same arguments give other problems.
GENERATOR = 2
OPERATIONS = "+-*/"
_TRIES_PER_ROW = 200


class Difficulty(NamedTuple):
    """How hard the problems are.

    max_operand: largest number added or subtracted (from 2 to 49, so that no number has more than two
    digits).
    max_factor: largest factor and divisor of multiplication and division (2 to 9: the multiplication
    table).
    two_step: share of problems with two operations, 0 to 1.
    operations: which of "+", "-", "*", "/" occur.

    The defaults are what a ChatGLM of 0.9M parameters (hidden 128, 4 layers) learns from reading 12,000
    problems three times: it then solves most unseen ones. Numbers up to 20 were not learned in that time.
    """

    max_operand: int = 10
    max_factor: int = 6
    two_step: float = 0.1
    operations: str = OPERATIONS

    def check(self) -> None:
        """Raises BadInput where a value is outside its range."""
        if not 2 <= self.max_operand <= 49:
            raise BadInput(f"max_operand = {self.max_operand}: from 2 to 49")
        if not 2 <= self.max_factor <= 9:
            raise BadInput(f"max_factor = {self.max_factor}: from 2 to 9")
        if not 0 <= self.two_step <= 1:
            raise BadInput(f"two_step = {self.two_step}: a share from 0 to 1")
        if not self.operations or set(self.operations) - set(OPERATIONS):
            raise BadInput(f'operations = {self.operations!r}: some of "{OPERATIONS}"')


def make_problems(
    rows: int,
    seed: int = 0,
    *,
    max_operand: int = 10,
    max_factor: int = 6,
    two_step: float = 0.1,
    operations: str = OPERATIONS,
) -> list[dict[str, str]]:
    """``rows`` problems with different questions; the same arguments give the same problems.

    The keywords are those of :class:`Difficulty`.

    Raises:
        BadInput: a keyword is out of range, or so many different questions do not exist.
    """
    difficulty = Difficulty(max_operand, max_factor, two_step, operations)
    difficulty.check()
    return list(_distinct(rows, random.Random(f"problems {GENERATOR} {seed}"), difficulty))


def write_problems(path: str | Path, rows: int, seed: int = 0, **difficulty: Any) -> Path:
    """Write :func:`make_problems` as JSON lines, atomically; returns the path."""
    target = Path(path)
    problems = make_problems(rows, seed, **difficulty)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(target) as file:
        for problem in problems:
            file.write(json.dumps(problem, ensure_ascii=False).encode() + b"\n")
    return target


def _distinct(rows: int, chance: random.Random, difficulty: Difficulty) -> Iterator[dict[str, str]]:
    usable = [t for t in templates() if set(t.operations) <= set(difficulty.operations)]
    one = [template for template in usable if len(template.operations) == 1]
    two = [template for template in usable if len(template.operations) == 2]
    seen: set[bytes] = set()
    made = 0
    for _ in range(rows * _TRIES_PER_ROW):
        if made == rows:
            return
        problem = _problem(
            chance, chance.choice(two if two and chance.random() < difficulty.two_step else one), difficulty
        )
        key = question_key(problem["instruction"])
        if key not in seen:
            seen.add(key)
            made += 1
            yield problem
    if made < rows:
        raise BadInput(
            f"only {made} different problems found for these settings, {rows} asked for; widen them"
        )


def _problem(chance: random.Random, template: Template, difficulty: Difficulty) -> dict[str, str]:
    """One problem: draw numbers until they suit the operations, then write question, steps and conclusion."""
    numbers = _numbers(chance, template.operations, difficulty)
    results, steps = _solve(template.operations, numbers)
    first, second, third = chance.sample(NAMES, 3)
    thing, other = chance.sample(THINGS[template.things], 2)
    words = {
        "A": first, "B": second, "C": third,
        "u": thing.unit, "o": thing.name, "v": other.unit, "p": other.name,
        "a": numbers[0], "b": numbers[1], "c": numbers[-1], "r": results[-1],
    }  # fmt: skip
    conclusion = template.conclusion.format_map(words)
    return {
        "instruction": template.question.format_map(words),
        "input": "",
        "output": "\n" + "\n".join(steps) + f"\n因此，{conclusion}。",
    }


def _solve(operations: str, numbers: list[int]) -> tuple[list[int], list[str]]:
    """Results and written steps of a chain of operations, each on the result before it."""
    results, steps = [], []
    value = numbers[0]
    for operation, number in zip(operations, numbers[1:], strict=True):
        before = value
        if operation == "+":
            value += number
        elif operation == "-":
            value -= number
        elif operation == "*":
            value *= number
        else:
            value //= number
        results.append(value)
        steps.append(f"{before} {_SIGNS[operation]} {number} = {value}")
    return results, steps


_SIGNS = {"+": "+", "-": "-", "*": "×", "/": "÷"}


def _numbers(chance: random.Random, operations: str, difficulty: Difficulty) -> list[int]:
    """Numbers whose chain stays whole, positive and below 100, with each operation within the difficulty."""
    first = operations[0]
    if first in "*/":
        factor, by = chance.randint(2, difficulty.max_factor), chance.randint(2, difficulty.max_factor)
        numbers, value = ([factor, by], factor * by) if first == "*" else ([factor * by, by], factor)
    elif first == "+":
        numbers = [chance.randint(1, difficulty.max_operand), chance.randint(1, difficulty.max_operand)]
        value = sum(numbers)
    else:
        whole = chance.randint(2, difficulty.max_operand)
        numbers = [whole, chance.randint(1, whole - 1)]
        value = whole - numbers[1]
    for operation in operations[1:]:
        number = _next_number(chance, operation, value, difficulty)
        if number is None:  # for example a prime to divide: draw again
            return _numbers(chance, operations, difficulty)
        numbers.append(number)
        value = _solve(operation, [value, number])[0][-1]
    return numbers


def _next_number(chance: random.Random, operation: str, value: int, difficulty: Difficulty) -> int | None:
    if operation == "+":
        top = min(difficulty.max_operand, 99 - value)
        return chance.randint(1, top) if top >= 1 else None
    if operation == "-":
        top = min(difficulty.max_operand, value - 1)
        return chance.randint(1, top) if top >= 1 else None
    if operation == "*":
        return chance.randint(2, difficulty.max_factor) if 2 <= value <= difficulty.max_factor else None
    divisors = [
        n
        for n in range(2, difficulty.max_factor + 1)
        if value % n == 0 and 2 <= value // n <= difficulty.max_factor
    ]
    return chance.choice(divisors) if divisors else None
