"""A sweep's record: one file beside the runs that says which settings each of its runs has.

``NAME.sweep.json`` names the runs ``NAME-1``, ``NAME-2`` … (as many digits as the last one has). It is written before
the first of them is made, so that the same command, given again, makes those that are missing and no other.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from glmjobs.run import locate
from glmjobs.run.locate import RunPath
from hpc.core.errors import BadInput
from hpc.core.files import exclusive, read_json, write_json

MOST = 1000
"""Runs of a sweep: Slurm's MaxArraySize, and more than anybody reads."""


@dataclass(frozen=True)
class Sweep:
    """A sweep as planned.

    Attributes:
        folder: where its runs are.
        settings: of each run in turn, ``field=value`` as --set takes them.
    """

    name: str
    folder: Path
    settings: tuple[tuple[str, ...], ...]

    @property
    def runs(self) -> dict[str, tuple[str, ...]]:
        """Run name → its settings."""
        digits = len(str(len(self.settings)))
        return {f"{self.name}-{n:0{digits}}": own for n, own in enumerate(self.settings, 1)}

    def check_name(self) -> bool:
        """Whether it is on record already.

        Raises:
            BadInput: the name is a run's, or that of a sweep with other settings, or those of its runs are taken.
        """
        if (self.folder / self.name).exists():
            raise BadInput(
                f"{self.folder / self.name} is there: a sweep needs a name of its own; --name NAME"
            )
        before = read(self.folder, self.name)
        if before is not None and before != self:
            raise BadInput(
                f"{record(self.folder, self.name)}: a sweep of this name is there with other settings; --name NAME"
            )
        taken = [name for name in self.runs if (self.folder / name).exists()]
        if before is None and taken:
            raise BadInput(
                f"{self.folder / taken[0]} is there and of no sweep; give the sweep another name: --name NAME"
            )
        return before is not None

    def keep(self) -> None:
        """Put it on record; once there, it stays as it is. (Whoever calls this holds :func:`lock`.)

        Raises:
            BadInput: as :meth:`check_name`; or the folder cannot be written.
        """
        if self.check_name():
            return
        try:
            write_json(record(self.folder, self.name), {"sweep": 1, "name": self.name, "runs": self.runs})
        except OSError as error:
            raise BadInput(f"{self.folder}: cannot write the sweep's record: {error.strerror}") from None


@contextlib.contextmanager
def lock(folder: Path, name: str) -> Iterator[None]:
    """Hold the sweep's name while its runs are made.

    Raises:
        BadInput: another process does.
    """
    with exclusive(folder / f".{name}.sweep.lock") as held:
        if not held:
            raise BadInput(f"{name}: another sweep command of this name is at work")
        yield


def record(folder: Path, name: str) -> Path:
    """Where a sweep's record is."""
    return folder / f"{name}.sweep.json"


def read(folder: Path, name: str) -> Sweep | None:
    """The sweep of this name; None: there is none.

    Raises:
        BadInput: its record is broken.
    """
    path = record(folder, name)
    if not path.is_file():
        return None
    runs = (read_json(path) or {}).get("runs")
    if not isinstance(runs, dict) or not all(isinstance(own, list) for own in runs.values()):
        raise BadInput(f"{path}: no sweep's record; its runs are {name}-1, {name}-2 …, each by its own name")
    return Sweep(name, folder, tuple(tuple(map(str, own)) for own in runs.values()))


def members(word: str) -> list[RunPath] | None:
    """The runs of the sweep that ``word`` names, those that are there; None: it names none."""
    try:
        named = "/" not in word and not (locate.parent() / word / "run.yaml").is_file()
        sweep = read(locate.parent(), word) if named else None
    except OSError:  # no name that a file could have
        return None
    if sweep is None:
        return None
    found = [
        RunPath(sweep.folder / name) for name in sweep.runs if (sweep.folder / name / "run.yaml").is_file()
    ]
    if gone := [name for name in sweep.runs if not any(run.path.name == name for run in found)]:
        said = f"{', '.join(gone[:5])}{' …' if len(gone) > 5 else ''} of the sweep {word}"
        print(
            f"note: {said}: not there; the sweep's command, given again, makes what is missing",
            file=sys.stderr,
        )
    if not found:
        raise BadInput(
            f"{word}: none of this sweep's {len(sweep.settings)} runs is there; give its command again"
        )
    return found


def expand(words: Sequence[str]) -> list[RunPath]:
    """Runs by name or path, a sweep's name standing for all of its runs.

    Raises:
        BadInput: there is none of that name.
    """
    found: list[RunPath] = []
    for word in words:
        found += members(word) or [locate.locate(word)]
    return found


def combinations(items: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Every combination of the values of ``field=v1,v2,…``, the last field's changing fastest.

    >>> combinations(["train.epochs=1,2", "train.lora.targets=[dense,value]"])[0]
    ('train.epochs=1', 'train.lora.targets=[dense,value]')

    Raises:
        BadInput: no ``field=value``, a field twice, an empty value, or too many runs.
    """
    fields: dict[str, list[str]] = {}
    for item in items:
        field, equals, text = item.partition("=")
        values = [value.strip() for value in re.split(OUTSIDE, text)]
        if not equals or not field.strip():
            raise BadInput(
                f"--set {item!r}: write section.field=value,value, for example train.learning_rate=1e-5,2e-5"
            )
        if field.strip() in fields:
            raise BadInput(f"--set {item}: {field.strip()} is given twice; give all of its values at once")
        if not all(values):
            raise BadInput(f"--set {item}: a value between the commas is empty")
        if len(set(values)) < len(values):
            raise BadInput(f"--set {item}: a value is given twice")
        fields[field.strip()] = values
    count = 1
    for values in fields.values():
        count *= len(values)
    if count > MOST:
        raise BadInput(f"{count:,} combinations: {MOST:,} runs at most; give fewer values")
    each = ([f"{field}={value}" for value in values] for field, values in fields.items())
    return tuple(itertools.product(*each))


OUTSIDE = r""",(?![^\[]*\])(?![^{]*\})"""
"""A comma that is in no list and no mapping."""
