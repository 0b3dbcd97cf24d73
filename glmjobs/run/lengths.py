"""How many training examples are too long, estimated before a job waits for its GPUs: no torch, a second or two.

A sample of the train rows is tokenised by the base model's own tokenizer in a process of its own
(``python -m glmjobs.run.lengths``), in which torch is not to be had: transformers' tokenizers need none, and importing
it takes longer than all else. Where the tokenizer cannot be had here, nothing is known, and nothing is said.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from glmjobs.data.framing import BEYOND, LEFT_OUT
from glmjobs.data.rows import Asked, Columns, Row, answers
from glmjobs.data.sources import TextSource, open_source
from glmjobs.data.splitting import Split
from glmjobs.data.validating import Validator, allow_setting
from glmjobs.recipe.schema import DataSection, Recipe
from hpc.core.errors import BadInput, HpcError

SAMPLE = 500
SECONDS = 60.0
"""Longest wait for the tokenizer's process; a file server may be slow."""

READ_BYTES = 64 << 20
"""Of a larger file, rows are taken from evenly spaced places instead of reading all of it."""

SIGMAS = 3.0
"""Refused is a share that is above the allowed one by so many standard errors of the sample."""


@dataclass(frozen=True)
class Lengths:
    """What a sample of the train rows says.

    Attributes:
        tokens: of an example that is not too long, its frame included, on average.
        exact: the sample is all of them.
    """

    rows: int
    too_long: dict[str, int]
    cut: int
    tokens: float
    exact: bool = False

    @property
    def share(self) -> float:
        """Of the rows, that are too long."""
        return sum(self.too_long.values()) / max(1, self.rows)

    @property
    def surely(self) -> float:
        """The share that the sample leaves little doubt of."""
        error = 0.0 if self.exact else math.sqrt(self.share * (1 - self.share) / max(1, self.rows))
        return self.share - SIGMAS * error

    @property
    def source(self) -> str:
        """From how many rows it is known."""
        return f"of {self.rows:,} rows" if self.exact else f"estimated from {self.rows:,} rows"

    def words(self) -> str:
        """What is too long; "" where nothing is."""
        said = [f"{what}: {n / self.rows:.1%}" for what, n in self.too_long.items() if n]
        said += [f"questions cut to their end: {self.cut / self.rows:.1%}"] if self.cut else []
        return f"too long, {self.source}: {', '.join(said)}" if said else ""


def check_left_out(data: DataSection, too_long: dict[str, int], kept: int) -> None:
    """Refuse to train on the remains of a data set.

    Raises:
        BadInput: more examples are too long than ``data.allow_dropped`` allows.
    """
    count = sum(too_long.values())
    share = count / max(1, kept + count)
    if share > data.allow_dropped:
        what = ", ".join(f"{reason}: {n:,}" for reason, n in too_long.items() if n)
        of = f"{count:,} of {kept + count:,} training examples"
        raise BadInput(_refusal(data, f"{of} would be left out ({what})", share, too_long))


def _refusal(data: DataSection, what: str, share: float, too_long: dict[str, int]) -> str:
    help_is = (
        f"raise data.max_source_length ({data.max_source_length} tokens) or data.max_target_length "
        f"({data.max_target_length})"
    )
    if too_long.get(BEYOND, 0) * 2 > sum(too_long.values()):  # no setting gives a model more positions
        help_is = "take another model, or shorter examples"
    return f"{what}: {help_is}, or go on without them: {allow_setting(share)}"


def check_estimate(data: DataSection, found: Lengths) -> None:
    """Refuse what training would refuse, where the sample leaves little doubt of it.

    Raises:
        BadInput: as :func:`check_left_out`; the share to allow is estimated high enough.
    """
    if found.surely > data.allow_dropped:
        what = ", ".join(f"{reason}: {n / found.rows:.0%}" for reason, n in found.too_long.items() if n)
        said = f"about {found.share:.0%} of the training examples would be left out ({what}; {found.source})"
        raise BadInput(_refusal(data, said, min(1.0, 2 * found.share - found.surely), found.too_long))


def estimate(recipe: Recipe) -> Lengths | None:
    """What a sample of the train rows says of their lengths; None where that cannot be known here.

    Raises:
        BadInput: the tokenizer cannot be used, or does not fit the model.
    """
    model = recipe.model.path
    if (
        model is None
        or recipe.data.make is not None
        or find_spec("tokenizers") is None
        or find_spec("transformers") is None
    ):
        return None
    apart = [sample(data) for data in recipe.data.apart()]
    given, exact = [row for rows, _ in apart for row in rows], all(whole for _, whole in apart)
    if not given:
        return None
    document = {
        "model": model, "family": recipe.model.family, "label_sop": recipe.train.label_sop,
        "limits": [recipe.data.max_source_length, recipe.data.max_target_length, recipe.data.too_long],
        "asked": [asked for row in given for asked in answers(row, recipe.data.loss_on)],
    }  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__], input=json.dumps(document), capture_output=True, text=True,
            encoding="utf-8", timeout=SECONDS, check=False,
        )  # fmt: skip
        answer = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None
    if "error" in answer:
        raise BadInput(answer["error"])
    return Lengths(**{**answer, "exact": exact})


def spread(rows: Sequence[Row], data: DataSection) -> list[Row]:
    """So many of the train rows, evenly."""
    split = Split.parse(data.dev_rows, data.train_rows)
    mine = [row for row in rows if split.part(row.id) == "train"]
    step = max(1.0, len(mine) / SAMPLE)
    return [mine[int(at * step)] for at in range(min(SAMPLE, len(mine)))]


def sample(data: DataSection) -> tuple[list[Row], bool]:
    """Train rows (of a large file of JSON lines, from all over it, dev rows too), and whether they are all of them."""
    path, columns = Path(str(data.path)), Columns(data.prompt_column, data.query_column, data.response_column)
    source = open_source(path)
    if not isinstance(source, TextSource) or path.stat().st_size <= READ_BYTES or not _json_lines(path):
        first = Split.parse(data.dev_rows, data.train_rows).highest + SAMPLE
        limit = max(first, 4 * SAMPLE)
        check = Validator(source, columns, form=data.form)
        rows = [row for row in check.rows_and_problems(limit) if isinstance(row, Row)]
        taken = spread(rows, data)
        return taken, check.rows < limit and len(taken) < SAMPLE
    check = Validator(source, columns, form=data.form)
    return [row for record in _anywhere(path) if isinstance(row := check.check(record), Row)], False


def _json_lines(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"{"


def _anywhere(path: Path) -> list[Any]:
    """Records of lines behind random places of a file, the same ones each time; rows of unknown number."""
    from glmjobs.data.reading import Record

    found, places = [], random.Random(0)
    size = path.stat().st_size
    with path.open("rb") as file:
        for part in range(SAMPLE):
            file.seek(int((part + places.random()) * size / SAMPLE))
            file.readline()
            try:
                found.append(Record(0, 0, json.loads(file.readline())))
            except ValueError:  # the end of the file, or a broken line: counted elsewhere
                continue
    return found


def measure(given: dict[str, Any]) -> Lengths:
    """What the child process does.

    Raises:
        BadInput: the tokenizer cannot be used, or does not fit the model.
    """
    from glmjobs.data.framing import Frame, Limits, examples
    from glmjobs.models.family import family_for, read_config

    family, directory = family_for(given["family"]), Path(given["model"])
    try:
        tokenizer = family.load_tokenizer(family.tokenizer_home(directory))
        frame = Frame.of(family, tokenizer, given["label_sop"])
    except HpcError:
        raise
    except Exception as error:
        raise BadInput(
            f"{directory}: its tokenizer cannot be used: {' '.join(str(error).split())[:300]}"
        ) from None
    config = read_config(directory)
    known = config.get("vocab_size")
    highest = max(tokenizer.get_vocab().values(), default=0)
    if isinstance(known, int) and highest >= known:
        raise BadInput(
            f"{directory}: its tokenizer has ids up to {highest:,}, its config.json a vocab_size of {known:,}: it is "
            "another model's tokenizer; copy both from one place"
        )
    names = ("max_source_length", "max_target_length", "too_long")
    limits = Limits(
        **dict(zip(names, given["limits"], strict=True)),
        positions=family.positions(config),
        apart=family.positions_apart,
    )
    asked = [Asked(*one) for one in given["asked"]]
    too_long, cut, tokens, kept = dict.fromkeys(LEFT_OUT, 0), 0, 0, 0
    for example in examples(asked, tokenizer, family, frame, limits):
        source, target = example.asked(frame), len(example.target)
        if why := limits.left_out(frame, source, target, example.talk):
            too_long[why] += 1
            continue
        cut += example.shortened or source > limits.source()
        tokens, kept = tokens + min(source, limits.source()) + target + frame.tokens, kept + 1
    return Lengths(len(asked), too_long, cut, tokens / max(1, kept))


def main() -> int:
    """A document on stdin, another on stdout."""
    sys.modules["torch"] = None  # type: ignore[assignment] # transformers then takes it for not installed
    try:
        answer: dict[str, Any] = asdict(measure(json.load(sys.stdin)))
    except HpcError as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
