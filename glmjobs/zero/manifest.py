"""A model directory's manifest: every file with size and hash, and where the weights came from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from glmjobs.zero.file_hashes import HASHES, file_hash, noted
from glmjobs.zero.guarded_files import inside, read_json, reading
from hpc.core.errors import BadInput, WorkFailed

MANIFEST = "manifest.json"


def write_manifest(
    directory: Path, files: Iterable[dict[str, str | int]], fsync: bool = True, **facts: Any
) -> None:
    """Write manifest.json: ``facts`` about the model, then its files by name."""
    ordered = sorted(files, key=lambda entry: str(entry["path"]))
    text = json.dumps({**facts, "files": ordered}, indent=1, ensure_ascii=False) + "\n"
    with (directory / MANIFEST).open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        if fsync:
            os.fsync(file.fileno())


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a model directory.

    Raises:
        BadInput: there is none, or it is not one.
    """
    path = directory / MANIFEST
    if not os.path.lexists(path):
        raise BadInput(f"{directory}: no {MANIFEST} here; glmjobs.consolidate writes one")
    with reading(path, f"a manifest lists files with path, bytes and {' or '.join(HASHES)}", BadInput):
        inside(directory, MANIFEST)
        manifest = read_json(path)
        names = [entry["path"] for entry in manifest["files"]]
        for entry in manifest["files"]:
            noted(entry)
            if [type(entry["path"]), type(entry["bytes"])] != [str, int]:
                raise TypeError
    if any(Path(name).name != name or "\0" in name for name in names):
        raise BadInput(f"{path}: names a file outside the model directory")
    return dict(manifest)


def verify(directory: Path, *, hashes: bool = True, workers: int = 2) -> dict[str, Any]:
    """Hold a model directory against its manifest; the manifest.

    Raises:
        BadInput: no manifest.
        WorkFailed: the first file that is missing, of another size or content; or weights that the manifest
            does not list.
    """
    manifest = read_manifest(directory)
    listed = {entry["path"] for entry in manifest["files"]}
    if not any(name.endswith(".safetensors") for name in listed):
        raise WorkFailed(f"{directory / MANIFEST}: lists no weights (*.safetensors)")
    for path in sorted(directory.glob("*.safetensors")):
        if path.name not in listed:
            raise WorkFailed(f"{path}: not in the manifest; a loader may take it for the model's")
    for entry in manifest["files"]:
        path = directory / entry["path"]
        if not path.is_file():
            raise WorkFailed(f"{path}: missing, though the manifest lists it")
        if path.is_symlink():
            raise WorkFailed(f"{path}: a link, not the file that was written")
        if path.stat().st_size != entry["bytes"]:
            raise WorkFailed(f"{path}: has {path.stat().st_size} bytes, the manifest says {entry['bytes']}")
    if hashes:
        with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
            paths = [directory / entry["path"] for entry in manifest["files"]]
            kinds, expected = zip(*map(noted, manifest["files"]), strict=True)
            for path, kind, known, found in zip(
                paths, kinds, expected, pool.map(file_hash, paths, kinds), strict=True
            ):
                if found != known:
                    raise WorkFailed(
                        f"{path}: its content changed ({kind} {found[:12]}…, the manifest says {known[:12]}…)"
                    )
    return manifest
