"""The base model and the data: those that are there are used where they lie, others are fetched."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from glmjobs import fetch
from glmjobs.models.family import family_for
from glmjobs.run.submit_checks import check_data, check_model
from glmjobs.setup.settled import Settled
from glmjobs.zero.directories import is_model
from hpc.core import hints
from hpc.core.errors import BadInput, NotFit

OWNER = "THUDM"
"""Of the published models on the hub, which leads on to where they have moved."""

BELLE = "BelleGroup/school_math_0.25M"


ROWS = (".json", ".jsonl", ".csv", ".tsv")


class FetchInput:
    """What model and data have in common: a place that the recipe names, and a source that a person names.

    Attributes:
        title: "model" or "data"; also the option's name, and the recipe's section.
        example: a hub's id of one.
    """

    title: str
    example: str

    def __init__(self, settled: Settled) -> None:
        self.settled, self.answers = settled, settled.answers

    def proposal(self, named: Path) -> str | None:
        """Where what the recipe names can be fetched from; None: that is not known."""
        raise NotImplementedError

    def home(self, named: Path) -> tuple[Path, Path]:
        """Where :attr:`source` lies once it is fetched, and the directory that it is fetched into."""
        raise NotImplementedError

    def exactly(self, place: Path) -> Path:
        """What the recipe is to name, of what lies at a place."""
        return place

    def whole(self, place: Path) -> str:
        """What is there and can be used, in words; "" where nothing is."""
        raise NotImplementedError

    def use(self, place: Path) -> None:
        """Refuse what a run would be refused for.

        Raises:
            BadInput: its form, family or files are not the recipe's.
        """
        raise NotImplementedError

    @property
    def named(self) -> Path | None:
        """Where the recipe says it is; None: the run makes its own."""
        path = getattr(self.settled.recipe(as_given=True), self.title).path
        return None if path is None else Path(path)

    @property
    def source(self) -> str:
        """A hub's id, or a path; "" where nothing was answered."""
        return str(self.answers.known(self.title) or "")

    def found(self) -> str:
        """What is there, whole."""
        if (named := self.named) is None:
            if (given := self.answers.options.get(self.title)) is not None:
                raise BadInput(
                    f"--{self.title} {shlex.quote(given)}: {self.settled.recipe_name} has no {self.title}.path that it "
                    f"could stand for; leave it out, or take another recipe"
                )
            return "as the recipe says, without a file"
        if not self.source:
            return "" if broken_off(named) else self.whole(named)
        if there := Path(self.source).exists():
            place = Path(self.source)
        else:
            place, into = self.home(named)
        place = self.exactly(place)
        if place != named:
            self.settled.paths[f"{self.title}.path"] = str(place.absolute())
        whole = self.whole(place) if there or self.fetched(into) else ""
        if whole:
            self.answers.keep(self.title)
        return whole

    def fetched(self, into: Path) -> bool:
        """It was fetched to the end.

        Raises:
            BadInput: something else was.
        """
        fetch.refuse_another_source(into, self.source)
        return (into / fetch.LIST).exists() and not broken_off(into)

    def ask(self) -> None:
        """Where it comes from."""
        named = self._place()
        question = f"{self.title.capitalize()} ({named} is not there): hub id to fetch, or path of yours"
        self.answers.ask(self.title, question, self.proposal(named), self.checked)

    def checked(self, text: str) -> str:
        """A check: a hub's id, or what is there and can be used."""
        if not text or not (Path(text).exists() or fetch.HUB_ID.fullmatch(text)):
            raise BadInput(f"neither a path that exists nor a hub id such as {self.example}")
        if Path(text).exists():
            self.use(self.exactly(Path(text)))
        return text

    @property
    def words(self) -> list[str]:
        """fetch's."""
        return [self.title, self.source, "--into", str(self.home(self._place())[1])]

    def _place(self) -> Path:
        named = self.named
        assert named is not None, "found() has said that there is nothing to fetch"
        return named

    def would(self) -> str:
        """Fetch it."""
        return f"fetch {self.source} into {self.words[-1]}"

    def do(self) -> str:
        """Fetch it, or go on fetching it."""
        if hub := self.answers.known("hub"):
            os.environ["HF_ENDPOINT"] = str(hub)
        try:
            fetch.main(self.words)
        except NotFit as error:
            raise NotFit(f"{error} (or --{self.title} PATH, if you have it; --hub URL, a mirror)") from None
        self.answers.keep("hub")
        found = self.found()
        if not found:
            raise BadInput(f"{self.words[-1]}: fetched, but what the recipe names is not in it: {self.named}")
        return found

    def by_hand(self) -> str:
        """fetch."""
        hub = self.answers.known("hub")
        return f"{f'HF_ENDPOINT={hub} ' if hub else ''}{hints.command('glmjobs.fetch', *self.words)}"


def broken_off(place: Path) -> bool:
    """A fetch was begun there and not ended."""
    return (place / fetch.BEGUN).exists()


class FetchModel(FetchInput):
    """The base model."""

    title = "model"
    example = f"{OWNER}/chatglm-6b"

    def proposal(self, named: Path) -> str:
        """As it is published."""
        return f"{OWNER}/{named.name}"

    def home(self, named: Path) -> tuple[Path, Path]:
        """A directory, as it is fetched."""
        return named, named

    def whole(self, place: Path) -> str:
        """A model that can be used."""
        if not is_model(place) and place == self.named:
            return ""
        self.use(place)
        return f"{place}: {family_for(place).title}"

    def use(self, place: Path) -> None:
        """A model of the recipe's family with all that belongs to it."""
        check_model(place, self.settled.recipe(as_given=True).model.family)


class FetchData(FetchInput):
    """The data: the recipe's file, or what is named instead."""

    title = "data"
    example = BELLE

    def proposal(self, named: Path) -> str | None:
        """BELLE, whose file is called as it is itself."""
        return BELLE if named.stem == BELLE.partition("/")[2] else None

    def home(self, named: Path) -> tuple[Path, Path]:
        """The recipe's file within its directory; of other data, all files in a directory of their own."""
        if self.source == self.proposal(named):
            return named, named.parent
        other = named.parent / self.source.partition("/")[2]
        return other, other

    def exactly(self, place: Path) -> Path:
        """The one file of rows in a directory; a directory of tables as it is."""
        if not place.is_dir() or any(f.suffix in (".parquet", ".arrow") for f in place.rglob("*")):
            return place
        rows = [
            f
            for f in sorted(place.iterdir())
            if f.name.removesuffix(".gz").endswith(ROWS) and f.name != fetch.LIST
        ]
        return rows[0] if len(rows) == 1 else place

    def whole(self, place: Path) -> str:
        """A file or directory."""
        if not place.exists():
            return ""
        self.use(place)
        return f"{place}, {place.stat().st_size / 1e6:,.1f} MB" if place.is_file() else str(place)

    def use(self, place: Path) -> None:
        """Rows as the recipe reads them."""
        recipe = self.settled.recipe(as_given=True)
        check_data(recipe.data.model_copy(update={"path": str(place)}), recipe.score)
