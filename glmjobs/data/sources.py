"""Where rows come from: a JSON file, a parquet or arrow table, a Hugging Face data set, the generator.

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

from glmjobs.data.reading import Problem, Record, read_json
from glmjobs.data.rows import Columns
from glmjobs.data.synthetic import GENERATOR, make_problems
from hpc.core.errors import BadInput, NotFit
from hpc.core.files import sha256_file

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_FILE_ENDINGS = (".json", ".jsonl", ".gz", ".parquet", ".arrow", ".txt", ".ndjson")
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

    def records(self, columns: Columns) -> Iterator[Record | Problem]:
        """Every record, in order."""
        ...


def open_source(source: str | Path | Source) -> Source:
    """The source that a path or a hub id names.

    Raises:
        BadInput: there is no such file, and it cannot be a hub id.
    """
    if not isinstance(source, (str, Path)):
        return source
    path = Path(source).expanduser()
    if path.is_dir():
        return TableSource(str(source), _table_files(path), path)
    if path.exists():
        with path.open("rb") as file:
            magic = file.read(6)
        if magic.startswith((b"PAR1", b"ARROW1")) or path.suffix == ".arrow":
            return TableSource(str(source), [path], path)
        return JsonSource(path)
    text = str(source)
    if _HUB_ID.fullmatch(text) and not text.endswith(_FILE_ENDINGS):
        return HubSource(text)
    raise BadInput(f"{source}: no such file")


@dataclass(frozen=True)
class JsonSource:
    """JSON lines or a JSON array, plain or gzip."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def digest(self, columns: Columns) -> str:
        try:
            return sha256_file(self.path)
        except OSError as error:
            raise BadInput(f"{self.path}: cannot be read: {error.strerror or error}") from None

    def records(self, columns: Columns) -> Iterator[Record | Problem]:
        return read_json(self.path)


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

    def records(self, columns: Columns) -> Iterator[Record | Problem]:
        names = {"instruction": columns.prompt, "input": columns.query or "input", "output": columns.response}
        for number, problem in enumerate(make_problems(self.rows, self.seed, **self.knobs), 1):
            yield Record(number, number, {names[key]: value for key, value in problem.items()})


@dataclass(frozen=True)
class TableSource:
    """Parquet or arrow files, in the order of their names; also a directory that ``save_to_disk`` wrote."""

    name: str
    files: list[Path]
    path: Path

    def digest(self, columns: Columns) -> str:
        parts = [f"{file.name} {sha256_file(file)}" for file in self.files]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def records(self, columns: Columns) -> Iterator[Record | Problem]:
        row = 0
        for file in self.files:
            with _unreadable_as(str(file), "cannot be read as a table"):
                for batch in _table_batches(file, columns):
                    for values in batch.to_pylist():
                        row += 1
                        yield Record(row, row, values)


@dataclass(frozen=True)
class HubSource:
    """A data set of the Hugging Face hub (its cache, where the hub is switched off); the split ``train``."""

    name: str

    def digest(self, columns: Columns) -> str:
        digest = hashlib.sha256()
        for record in self.records(columns):
            digest.update(json.dumps(record.value if isinstance(record, Record) else record.reason).encode())
        return digest.hexdigest()

    def records(self, columns: Columns) -> Iterator[Record | Problem]:
        table = self._load()
        wanted = [name for name in table.column_names if name in columns] or table.column_names
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
        return _one_split(self.name, loaded)


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise NotFit("reading this needs the package `datasets`: pip install 'glmjobs[train]'") from None
    return datasets


def _one_split(name: str, loaded: Any) -> Any:
    """The split to read: ``train``, or the only one."""
    if not isinstance(loaded, dict):
        return loaded
    if "train" in loaded or len(loaded) == 1:
        return loaded.get("train", next(iter(loaded.values())))
    raise BadInput(
        f"{name}: has the splits {', '.join(loaded)}, but no 'train'; save the one you mean as a file"
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


def _table_files(directory: Path) -> list[Path]:
    """A directory's table files; of a saved data set with several splits, those of ``train``."""
    if (directory / "dataset_dict.json").is_file():
        splits = [entry.name for entry in sorted(directory.iterdir()) if entry.is_dir()]
        directory = directory / _one_split(str(directory), {name: name for name in splits})
    for ending in ("*.parquet", "*.arrow"):
        files = sorted(directory.rglob(ending))
        if files:
            break
    else:
        raise BadInput(
            f"{directory}: a directory without .parquet or .arrow files; name the data file itself"
        )
    if any(file.name.startswith("indices") for file in files):
        raise BadInput(f"{directory}: saved with an index (select, shuffle); save it after flatten_indices()")
    return files


def _table_batches(file: Path, columns: Columns) -> Iterator[Any]:
    """Record batches of one parquet or arrow file, only with the wanted columns where it has them."""
    try:
        pa, pq = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise NotFit(
            f"{file}: parquet and arrow need the package `pyarrow`: pip install 'glmjobs[train]'"
        ) from None
    with file.open("rb") as raw:
        magic = raw.read(6)
    if magic.startswith(b"PAR1"):
        table = pq.ParquetFile(file)
        wanted = [name for name in table.schema_arrow.names if name in columns]
        yield from table.iter_batches(batch_size=_BATCH, columns=wanted or None)
        return
    with pa.memory_map(str(file)) as mapped:
        reader = pa.ipc.open_file(mapped) if magic == b"ARROW1" else pa.ipc.open_stream(mapped)
        count = getattr(reader, "num_record_batches", None)
        batches = reader if count is None else (reader.get_batch(at) for at in range(count))
        for batch in batches:
            wanted = [name for name in batch.schema.names if name in columns]
            yield batch.select(wanted) if wanted else batch
