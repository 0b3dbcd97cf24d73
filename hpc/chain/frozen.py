"""A chain's code as it was when the chain was submitted: a job that has waited for days runs what was submitted,
whatever the checkout holds by then.

Copies are kept by content, beside the runs: as many runs as there are share one, as long as the code stays the same.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hpc.core.errors import BadInput
from hpc.core.files import beside

DIGITS = 16


def freeze(folders: Sequence[Path], into: Path, notes: Mapping[str, str] | None = None) -> Path:
    """A copy of these folders, side by side, in a folder of ``into`` that is named after their content; its path.

    Args:
        notes: files to lie beside them, by name; not part of the content.

    Raises:
        BadInput: a folder cannot be read, or the copy not be written.
    """
    try:
        found = _read(folders)
        copy = into / _digest(found)
        if not copy.is_dir():
            _write({**found, **{name: text.encode() for name, text in (notes or {}).items()}}, copy)
    except OSError as error:
        raise BadInput(
            f"{error.filename or into}: cannot keep a copy of the code: {error.strerror}"
        ) from None
    return copy


def place(folders: Sequence[Path], into: Path) -> Path:
    """Where :func:`freeze` puts its copy of these folders. Writes nothing.

    Raises:
        BadInput: a folder cannot be read.
    """
    try:
        return into / _digest(_read(folders))
    except OSError as error:
        raise BadInput(f"{error.filename}: cannot read the code: {error.strerror}") from None


def _read(folders: Sequence[Path]) -> dict[str, bytes]:
    return {f"{top.name}/{name}": data for top in folders for name, data in _files(top)}


def _digest(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, data in sorted(files.items()):
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()[:DIGITS]


def _files(top: Path) -> Iterator[tuple[str, bytes]]:
    """Every file under a folder but what Python and editors leave there."""
    for folder, names, files in os.walk(top):
        names[:] = [name for name in names if name != "__pycache__" and not name.startswith(".")]
        for name in files:
            path = Path(folder) / name
            if not name.startswith(".") and path.suffix != ".pyc":
                yield path.relative_to(top).as_posix(), path.read_bytes()


def _write(files: Mapping[str, bytes], copy: Path) -> None:
    """All of it or nothing: another submission may be writing the same at this moment."""
    building = beside(copy)
    try:
        for name, data in files.items():
            (building / name).parent.mkdir(parents=True, exist_ok=True)
            (building / name).write_bytes(data)
        try:
            building.rename(copy)
        except OSError:
            if not copy.is_dir():  # else another was faster, with the same content
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
