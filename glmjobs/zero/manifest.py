"""A model directory's manifest: every file with size and SHA-256, and where the weights came from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from glmjobs.zero.guarded_files import inside, open_regular, read_json, reading
from hpc.core.errors import BadInput, WorkFailed
from hpc.core.files import sha256_of

MANIFEST = "manifest.json"


def file_sha256(path: Path) -> str:
    """SHA-256 of a regular file, in hexadecimal; constant memory."""
    with open_regular(path, buffering=0) as file:
        return sha256_of(file)


def describe(directory: Path, name: str) -> dict[str, str | int]:
    """A manifest's entry for one file."""
    path = directory / name
    return {"path": name, "bytes": path.stat().st_size, "sha256": file_sha256(path)}


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
    with reading(path, "a manifest lists files with path, bytes and sha256", BadInput):
        inside(directory, MANIFEST)
        manifest = read_json(path)
        entries = [(entry["path"], entry["bytes"], entry["sha256"]) for entry in manifest["files"]]
        for entry in entries:
            if [type(value) for value in entry] != [str, int, str]:
                raise TypeError
    if any(Path(name).name != name or "\0" in name for name, _, _ in entries):
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
            for entry, found in zip(manifest["files"], pool.map(file_sha256, paths), strict=True):
                if found != entry["sha256"]:
                    raise WorkFailed(
                        f"{directory / entry['path']}: its content changed (SHA-256 {found[:12]}…, the "
                        f"manifest says {entry['sha256'][:12]}…)"
                    )
    return manifest
