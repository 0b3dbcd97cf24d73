"""Where rows come from: a file of JSON or CSV, a parquet or arrow table, a Hugging Face data set, the generator.

A source says what it is (``name``), what it holds (``digest``: equal for equal content) and gives its
records.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from glmjobs.data.delimited import delimiter, read_delimited
from glmjobs.data.reading import Problem, Record, read_json
from glmjobs.data.rows import CONTEXT, Columns
from glmjobs.data.synthetic import GENERATOR, make_problems
from hpc.core.errors import BadInput, NotFit
from hpc.core.files import sha256_file

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_FILE_ENDINGS = (".json", ".jsonl", ".gz", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".ndjson")
_BATCH = 2048


class Source(Protocol):
    """What :func:`glmjobs.data.prepared.prepare` reads from."""

    @property
    def name(self) -> str:
        """What a person calls it: a path or a hub id."""
        ...

    def digest(self, columns: Columns) -> str:
        """A hash of the content."""
        ...

    def records(self, columns: Columns | None) -> Iterator[Record | Problem]:
        """Every record, in order: the wanted columns and those of :data:`~glmjobs.data.rows.CONTEXT`; None: all."""
        ...

    @property
    def left_out(self) -> list[str]:
        """Files under the source's name that are not read, and why, a line each."""
        ...


def open_source(source: str | Path | Source, split: str = "train") -> Source:
    """The source that a path or a hub id names.

    Args:
        split: which to read where there are several.

    Raises:
        BadInput: there is no such file, and it cannot be a hub id.
    """
    if not isinstance(source, (str, Path)):
        return source
    path = Path(source).expanduser()
    try:
        path.stat()
    except PermissionError as error:
        raise BadInput(f"{source}: cannot be read: {error.strerror}") from None
    except OSError:
        pass  # there is none, or it is a hub's id
    if path.is_dir():
        files, left_out = table_files(path, split)
        return TableSource(str(source), files, path, left_out)
    if path.exists():
        if not path.is_file():
            raise BadInput(
                f"{source}: a pipe or device, which can be read only once; save it as a file first"
            )
        try:
            with path.open("rb") as file:
                magic = file.read(6)
        except OSError as error:
            raise BadInput(f"{source}: cannot be read: {error.strerror or error}") from None
        if magic.startswith((b"PAR1", b"ARROW1")) or path.suffix == ".arrow":
            return TableSource(str(source), [path], path)
        return TextSource(path)
    text = str(source)
    if _HUB_ID.fullmatch(text) and not text.endswith(_FILE_ENDINGS):
        return HubSource(text, split)
    raise BadInput(f"{source}: no such file")


@dataclass(frozen=True)
class TextSource:
    """JSON lines, a JSON array, CSV or TSV, plain or gzip."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def digest(self, columns: Columns) -> str:
        try:
            return sha256_file(self.path)
        except OSError as error:
            raise BadInput(f"{self.path}: cannot be read: {error.strerror or error}") from None

    def records(self, columns: Columns | None) -> Iterator[Record | Problem]:
        mark = delimiter(self.path)
        return read_json(self.path) if mark is None else read_delimited(self.path, mark)

    @property
    def left_out(self) -> list[str]:
        return []


@dataclass(frozen=True)
class MadeSource:
    """The generated word problems. ``knobs`` are make_problems' keywords."""

    rows: int
    seed: int = 0
    knobs: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"generated problems ({self.rows} rows, seed {self.seed})"

    def digest(self, columns: Columns) -> str:
        settings = json.dumps([GENERATOR, self.rows, self.seed, self.knobs], sort_keys=True)
        return hashlib.sha256(settings.encode()).hexdigest()

    def records(self, columns: Columns | None) -> Iterator[Record | Problem]:
        prompt, query, response = columns or Columns()
        names = {"instruction": prompt, "input": query or "input", "output": response}
        for number, problem in enumerate(make_problems(self.rows, self.seed, **self.knobs), 1):
            yield Record(number, number, {names[key]: value for key, value in problem.items()})

    @property
    def left_out(self) -> list[str]:
        return []


@dataclass(frozen=True)
class TableSource:
    """Parquet or arrow files, in the order of their names; also a directory that ``save_to_disk`` wrote."""

    name: str
    files: list[Path]
    path: Path
    left_out: list[str] = field(default_factory=list)

    def digest(self, columns: Columns) -> str:
        parts = [f"{file.name} {sha256_file(file)}" for file in self.files]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def records(self, columns: Columns | None) -> Iterator[Record | Problem]:
        row = 0
        for file in self.files:
            with _unreadable_as(str(file), "cannot be read as a table"):
                for batch in _table_batches(file, columns):
                    for values in batch.to_pylist():
                        row += 1
                        yield Record(row, row, values)


@dataclass(frozen=True)
class HubSource:
    """A data set of the Hugging Face hub (its cache, where the hub is switched off); one split of it."""

    name: str
    split: str = "train"

    def digest(self, columns: Columns) -> str:
        digest = hashlib.sha256()
        for record in self.records(columns):
            digest.update(json.dumps(record.value if isinstance(record, Record) else record.reason).encode())
        return digest.hexdigest()

    def records(self, columns: Columns | None) -> Iterator[Record | Problem]:
        table = self._load()
        wanted = _wanted(table.column_names, columns) or table.column_names
        row = 0
        for batch in table.select_columns(wanted).iter(batch_size=_BATCH):
            for values in zip(*(batch[name] for name in wanted), strict=True):
                row += 1
                yield Record(row, row, dict(zip(wanted, values, strict=True)))

    def _load(self) -> Any:
        datasets = _datasets()
        with _unreadable_as(
            self.name, "neither a file here nor a data set that the hub (or its cache) gives"
        ):
            logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries are not news
            loaded = datasets.load_dataset(self.name)
        return _one_split(self.name, loaded, self.split)

    @property
    def left_out(self) -> list[str]:
        return []


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise NotFit("reading this needs the package datasets: pip install datasets") from None
    return datasets


def _one_split(name: str, loaded: Any, split: str) -> Any:
    """The split to read, or the only one."""
    if not isinstance(loaded, dict):
        return loaded
    if split in loaded or len(loaded) == 1:
        return loaded.get(split, next(iter(loaded.values())))
    raise BadInput(
        f"{name}: has the splits {', '.join(loaded)}, but no {split!r}; save the one you mean as a file"
    )


@contextmanager
def _unreadable_as(name: str, what: str) -> Iterator[None]:
    """Errors of the table libraries (they have dozens of kinds), as one line."""
    try:
        yield
    except (BadInput, NotFit, GeneratorExit):
        raise
    except Exception as error:
        message = " ".join(str(error).split())
        raise BadInput(f"{name}: {what}: {message[:200] or type(error).__name__}") from None


_SPLITS = {
    "train": "train|training",
    "validation": "validation|valid|val|dev",
    "test": "test|testing|eval|evaluation",
}
"""A split's names in files and folders, as the hub reads them: https://huggingface.co/docs/hub/datasets-file-names-and-splits"""
_SPLIT_NAME = {
    split: re.compile(rf"(?:^|[-._ \d])(?:{words})(?:[-._ \d]|$)", re.IGNORECASE)
    for split, words in _SPLITS.items()
}


def split_of(name: Path) -> str | None:
    """The split that a table file belongs to by its own name, else by the nearest folder's; None where none says so.

    >>> split_of(Path("data/test-00000-of-00001.parquet"))
    'test'
    """
    for part in (name.stem, *reversed(name.parent.parts)):
        for split, pattern in _SPLIT_NAME.items():
            if pattern.search(part):
                return split
    return None


def table_files(directory: Path, split: str = "train") -> tuple[list[Path], list[str]]:
    """A directory's table files, and what is there besides and not read, a line each.

    Of a directory in the hub's layout, or saved with several splits, only ``split`` is read. Not read either are
    hidden folders, what ``datasets`` leaves there as its cache, and second copies of a file.

    Raises:
        BadInput: no tables; several splits, and none of them is ``split``.
    """
    root, left_out = directory, []
    if (directory / "dataset_dict.json").is_file():
        splits = [entry.name for entry in sorted(directory.iterdir()) if entry.is_dir()]
        root = directory / _one_split(str(directory), {name: name for name in splits}, split)
        left_out = [f"{name}/: another split" for name in splits if name != root.name]
    found = {
        ending: [file for file in sorted(root.rglob(f"*{ending}")) if not _is_cached(file.relative_to(root))]
        for ending in (".parquet", ".arrow")
    }
    files = found[".parquet"] or found[".arrow"]
    if not files:
        raise BadInput(
            f"{directory}: a directory without .parquet or .arrow files; name the data file itself{_nearest(directory)}"
        )
    if found[".parquet"]:
        left_out += [f"{file.relative_to(directory)}: beside .parquet files" for file in found[".arrow"]]
    if any(file.name.startswith("indices") for file in files):
        raise BadInput(f"{directory}: saved with an index (select, shuffle); save it after flatten_indices()")
    by_split: dict[str | None, list[Path]] = {}
    for file in files:
        by_split.setdefault(split_of(file.relative_to(root)), []).append(file)
    kind = split if split in by_split else next(iter(by_split))
    if len(by_split) > 1 and kind != split:
        names = ", ".join(sorted(name or "files of no split" for name in by_split))
        raise BadInput(
            f"{directory}: holds {names}, but no split {split!r}; name the file or folder that you mean"
        )
    for name, others in by_split.items():
        if name != kind:
            left_out += [f"{file.relative_to(directory)}: {name or 'of no split'}" for file in others]
    kept: list[Path] = []
    for file in by_split[kind]:
        first = next((other for other in kept if _same_content(file, other)), None)
        if first is None:
            kept.append(file)
        else:
            left_out.append(f"{file.relative_to(directory)}: a copy of {first.relative_to(directory)}")
    return kept, left_out


def _nearest(directory: Path) -> str:
    """A data file that is there, to be named."""
    found = sorted(p.name for p in directory.iterdir() if p.name.endswith(_FILE_ENDINGS))
    return f", for example {directory / found[0]}" if found else ""


def _same_content(one: Path, other: Path) -> bool:
    """Files of different sizes, the usual case, are not read for this: submit opens a source, too."""
    return one.stat().st_size == other.stat().st_size and sha256_file(one) == sha256_file(other)


def _is_cached(name: Path) -> bool:
    """What ``datasets`` and the hub keep beside data: ``cache-….arrow`` of a map, ``.cache/``."""
    hidden = any(part.startswith(".") for part in name.parts)
    return hidden or (name.suffix == ".arrow" and name.name.startswith(("cache-", "tmp")))


def _refuse_twice(file: Path, names: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput(f"{file}: has the column {twice!r} twice; leave one of them")


def _wanted(names: list[str], columns: Columns | None) -> list[str]:
    return [name for name in names if columns is None or name in (*columns, *CONTEXT)]


def _table_batches(file: Path, columns: Columns | None) -> Iterator[Any]:
    """Record batches of one parquet or arrow file, only with the wanted columns where it has them."""
    try:
        pa, pq = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise NotFit(f"{file}: parquet and arrow need the package pyarrow: pip install pyarrow") from None
    with file.open("rb") as raw:
        magic = raw.read(6)
    if magic.startswith(b"PAR1"):
        table = pq.ParquetFile(file)
        wanted = _wanted(table.schema_arrow.names, columns)
        _refuse_twice(file, wanted)
        yield from table.iter_batches(batch_size=_BATCH, columns=wanted or None)
        return
    with pa.memory_map(str(file)) as mapped:
        reader = pa.ipc.open_file(mapped) if magic == b"ARROW1" else pa.ipc.open_stream(mapped)
        count = getattr(reader, "num_record_batches", None)
        batches = reader if count is None else (reader.get_batch(at) for at in range(count))
        for batch in batches:
            wanted = _wanted(batch.schema.names, columns)
            _refuse_twice(file, wanted)
            yield batch.select(wanted) if wanted else batch
