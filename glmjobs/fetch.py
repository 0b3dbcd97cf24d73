"""`python -m glmjobs.fetch model|data SOURCE --into DIR`: put a model or data set where every node sees it.

    python -m glmjobs.fetch model THUDM/chatglm-6b --into models/chatglm-6b
    HF_ENDPOINT=https://mirror.example python -m glmjobs.fetch data BelleGroup/school_math_0.25M --into data
    python -m glmjobs.fetch model /archive/chatglm-6b --into models/chatglm-6b

SOURCE is a hub id or a local path. Compute nodes have no network: everything is fetched once, on the login node, and
jobs run with the hub switched off. Broken off, it goes on with the file that it was at. Each file
is checked against the checksum that its source gives, and ``fetched.json`` lists size and SHA-256 of all of them;
``--verify`` checks a directory again.

A model's ``.bin`` weights become safetensors, which all processes of a node map from one copy in its memory; an output
matrix that is the embedding again, bit by bit, is left out where config.json ties them. The
list keeps the originals' checksums, and ``--keep-bin`` the originals.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmjobs.cli import run_command
from glmjobs.zero.directories import FILES as ADAPTER_FILES
from glmjobs.zero.directories import MODEL_FILES, WEIGHT_FILES
from glmjobs.zero.guarded_files import errors_in_one_line, named
from glmjobs.zero.safetensors_copy import bin_files, write_safetensors
from glmjobs.zero.write import check_space
from hpc.core import timestamps
from hpc.core.errors import BadInput, NotFit, WorkFailed
from hpc.core.files import Json, read_json, sha256_file, write_json

LIST = "fetched.json"
BEGUN = ".fetching.json"
"""What is being fetched, ``source`` and the names of its ``files``: there from before the first of them to the list."""
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
BLOCK = 1 << 22
UNWANTED = ("*.msgpack", "*.h5", "*.ot", "*.onnx", "*.tflite", ".git*")
"""Weights of other frameworks, which nothing here reads."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m glmjobs.fetch", description="Stage a model or a data set.")
    p.add_argument("kind", choices=("model", "data"))
    p.add_argument(
        "source", nargs="?", metavar="SOURCE", help="hub id (owner/name), or a local file or directory"
    )
    p.add_argument(
        "--into", required=True, metavar="DIR", help="on a file system that all nodes see"
    )
    p.add_argument("--revision", metavar="REV", help="branch, tag or commit on the hub (default: main)")
    p.add_argument(
        "--keep-bin", action="store_true", help="keep a model's .bin weights beside their copy as safetensors"
    )
    p.add_argument(
        "--verify", action="store_true", help="check what is in DIR against its list; fetch nothing"
    )
    return p


@errors_in_one_line()
def main(argv: list[str] | None = None) -> int:
    """The command; see the module's text."""
    args = parser().parse_args(argv)
    args.into = named(args.into)
    if args.verify:
        count = verify(args.into)
        print(f"{args.into}: {count} files as fetched", file=sys.stderr)
        return 0
    if args.source is None:
        raise BadInput("name the SOURCE: a hub id such as THUDM/chatglm-6b, or a local path")
    local = Path(args.source)
    if local.exists():
        found = copy(args.kind, local, args.into, keep=args.keep_bin)
    elif HUB_ID.fullmatch(args.source):
        found = from_hub(args.kind, args.source, args.revision, args.into, keep=args.keep_bin)
    else:
        raise BadInput(f"{args.source}: neither a path that exists nor a hub id such as THUDM/chatglm-6b")
    record = finish(args.into, found, convert=args.kind == "model", keep=args.keep_bin)
    size = sum(entry["bytes"] for entry in record["files"])
    print(f"{args.into}: {len(record['files'])} files, {size / 1e9:,.2f} GB", file=sys.stderr)
    return 0


@dataclass(frozen=True)
class Fetched:
    """What was put in place.

    Attributes:
        files: ``path``, ``bytes`` and ``sha256`` of each file that is there.
        formed: names of the source's files that stand here as safetensors already, and were not fetched again.
    """

    source: str
    revision: str | None
    files: list[Json]
    formed: list[str]


def copy(kind: str, source: Path, into: Path, *, keep: bool = False) -> Fetched:
    """Copy a file or a directory; files that are there whole are not copied again.

    Args:
        kind: "model" or "data".
        keep: also those that stand there as safetensors.

    Raises:
        BadInput: it is no model, or ``into`` holds what was not fetched, or fetched from elsewhere.
    """
    source, into = source.resolve(), into.absolute()
    if source.is_dir() and into.resolve().is_relative_to(source):
        raise BadInput(f"--into {into}: lies inside {source}")
    files = {source.name: source} if source.is_file() else dict(relative_files(source))
    if not files:
        raise BadInput(f"{source}: no files there")
    refuse_no_model(kind, str(source), files)
    refuse_another_source(into, str(source))
    digests = {name: sha256_file(file) for name, file in sorted(files.items())}
    known = {} if keep else originals_here(into)
    formed = list(known) if known and known.items() <= digests.items() else []
    wanted = {name: files[name] for name in digests if name not in formed}
    whole = {name for name, f in wanted.items() if is_whole(f, into / name, digests[name])}
    refuse_to_replace(into, wanted.keys() - whole)
    make_room(into, sum(f.stat().st_size for name, f in wanted.items() if not same_size(f, into / name)))
    begin(into, str(source), wanted)
    entries = []
    for name, file in wanted.items():
        target, digest = into / name, digests[name]
        if name not in whole:
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}.part")
            shutil.copyfile(file, part)
            if sha256_file(part) != digest:
                raise WorkFailed(f"{file}: the copy differs from it; is the disk sound?")
            part.replace(target)
        entries.append({"path": name, "bytes": file.stat().st_size, "sha256": digest})
    return Fetched(str(source), None, entries, formed)


def relative_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file below ``folder`` but hidden ones and lists of ours, by its name from there."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and name.name != LIST and not any(part.startswith(".") for part in name.parts):
            yield name.as_posix(), path


def from_hub(kind: str, source: str, revision: str | None, into: Path, *, keep: bool = False) -> Fetched:
    """Download a repository of the hub (of ``$HF_ENDPOINT``), resuming what was begun; see :func:`copy`.

    Raises:
        NotFit: huggingface_hub is not installed, or the hub cannot be reached.
        BadInput: there is no such repository or revision; or as :func:`copy`.
        WorkFailed: a file is not what the hub says it is.
    """
    os.environ.pop("HF_HUB_OFFLINE", None)
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")  # plain HTTP: resumable, and mirrors have nothing else
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
    except ImportError:
        raise NotFit("fetching from the hub needs the package huggingface_hub (in both stacks)") from None
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    repository = "model" if kind == "model" else "dataset"
    try:
        api = HfApi(endpoint=endpoint)
        info: Any = api.repo_info(source, repo_type=repository, revision=revision, files_metadata=True)
        refuse_no_model(kind, source, [f.rfilename for f in info.siblings])
        refuse_another_source(into, source)
        promised = promises(info)
        known = {} if keep else originals_here(into)
        # of a small file (an index) the hub gives no checksum; it goes with the weights that it is of
        same = all(promised.get(name, digest) == digest for name, digest in known.items())
        formed = [f.rfilename for f in info.siblings if same and f.rfilename in known]
        wanted = [f for f in info.siblings if f.rfilename not in formed]
        refuse_to_replace(into, (f.rfilename for f in wanted))
        remove_left(into, "*.????????.incomplete", quiet_seconds=600)
        make_room(into, sum(f.size or 0 for f in wanted if not has_size(into / f.rfilename, f.size)))
        begin(into, f"{endpoint}/{source}", (f.rfilename for f in wanted))
        with ending_at_once():
            api.snapshot_download(
                source,
                repo_type=repository,
                revision=info.sha,
                local_dir=str(into),
                ignore_patterns=[*UNWANTED, *formed],
            )
        remove_left(into, "*.incomplete")
    except RepositoryNotFoundError:
        raise BadInput(f"{source}: {endpoint} has no such {repository} (or it is private)") from None
    except RevisionNotFoundError:
        raise BadInput(f"--revision {revision}: {source} has no such revision") from None
    except (HfHubHTTPError, OSError) as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise WorkFailed(
                f"--into {into}: {error.strerror}; make room and run it again to go on"
            ) from None
        raise NotFit(f"{endpoint}: {' '.join(str(error).split())[:200]}; run it again to go on") from None
    except Exception as error:  # the HTTP library's own errors, which differ between releases
        if type(error).__module__.split(".")[0] not in (
            "httpx",
            "httpx2",
            "httpcore",
            "httpcore2",
            "requests",
        ):
            raise
        why = " ".join(str(error).split())[:200]
        raise NotFit(f"{endpoint} cannot be reached ({why}); a mirror can be named in HF_ENDPOINT") from None
    expected = {f.rfilename for f in info.siblings}
    entries = []
    for name, path in relative_files(into):
        if name not in expected or name in formed:
            continue
        digest = sha256_file(path)
        if promised.get(name, digest) != digest:
            path.unlink()
            raise WorkFailed(f"{path}: its SHA-256 is not the hub's; deleted: run it again")
        entries.append({"path": name, "bytes": path.stat().st_size, "sha256": digest})
    return Fetched(f"{endpoint}/{source}", str(info.sha), entries, formed)


def remove_left(into: Path, pattern: str, *, quiet_seconds: float = 0.0) -> None:
    """Remove what killed downloads have left: newer releases of the hub's library begin such a file again under another
    name, with eight letters of its own. ``quiet_seconds``: only what nobody has written to for so long."""
    for left in (into / ".cache" / "huggingface").rglob(pattern):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime >= quiet_seconds:
                left.unlink()


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """Ctrl-C within ends the process: the hub's library would first wait for the files that it is at, all of them."""

    def end(*_: object) -> None:
        # Not by print: the library may be at a line on stderr, which takes no second writer meanwhile.
        os.write(2, b"\ninterrupted; the same command, given again, goes on\n")
        os._exit(130)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def promises(info: Any) -> dict[str, str]:
    """The SHA-256 that the hub gives of its large files, by name."""
    found = {}
    for file in info.siblings:
        lfs = file.lfs
        digest = (lfs or {}).get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)
        if digest:
            found[file.rfilename] = str(digest)
    return found


def listed_as_formed(into: Path) -> Json:
    """What the list has of ``originals`` and of the safetensors ``files`` that were formed of them; {}: nothing."""
    formed: Json = (read_json(into / LIST) or {}).get("formed") or {}
    return formed if all(has_size(into / e["path"], e["bytes"]) for e in formed.get("files", [])) else {}


def originals_here(into: Path) -> dict[str, str]:
    """Name and SHA-256 of the originals whose values stand here as safetensors."""
    return {str(e["path"]): str(e["sha256"]) for e in listed_as_formed(into).get("originals", [])}


def finish(into: Path, found: Fetched, *, convert: bool, keep: bool) -> Json:
    """Form safetensors where a model has none, write the list, and remove what they stand for.

    The list comes before the removal, so that a fetch broken off anywhere goes on from there.

    Args:
        convert: it is a model.
        keep: leave the originals.

    Returns:
        The record, as in ``fetched.json``.

    Raises:
        WorkFailed: an original is damaged.
        NotFit: too little space is free.
    """
    files = {str(entry["path"]): entry for entry in found.files}
    formed = listed_as_formed(into)
    originals = formed.get("originals", [])
    if not found.formed and any(files.get(e["path"]) != e for e in originals):
        for entry in formed["files"]:  # of another revision
            if entry["path"] not in files:
                (into / entry["path"]).unlink()
        formed = {}
    bins = bin_files(into) if convert and not formed else []
    if bins and all(file.name in files for file in bins):
        print(f"{into}: forming safetensors of {len(bins)} files of .bin weights", file=sys.stderr)
        new, tied = write_safetensors(into, min(8, os.cpu_count() or 1))
        for copy, original in tied.items():
            print(f"{into}: {copy} is {original} again, and written once", file=sys.stderr)
        formed = {"originals": [files[file.name] for file in bins], "files": new, "tied": tied}
    replaced = [] if keep else [str(e["path"]) for e in formed.get("originals", [])]
    rest = [entry for name, entry in files.items() if name not in replaced]
    record = write_list(into, found, [*rest, *formed.get("files", [])], formed)
    for name in replaced:
        (into / name).unlink(missing_ok=True)
    (into / BEGUN).unlink(missing_ok=True)
    return record


def refuse_no_model(kind: str, source: str, names: Iterable[str]) -> None:
    """That what is to be fetched as a model can be one, by the names of its files; of data nothing is asked.

    Raises:
        BadInput: it has no configuration, or no weights.
    """
    if kind != "model":
        return
    for what, wanted in (("configuration", MODEL_FILES), ("weights", (*WEIGHT_FILES, *ADAPTER_FILES))):
        if not set(wanted) & set(names):
            raise BadInput(f"{source}: no model, it has no {what} ({' or '.join(wanted)})")


def refuse_another_source(into: Path, source: str) -> None:
    """That a directory holds the files of one source, from whichever mirror of the hub.

    Raises:
        BadInput: another was fetched into it, or begun to be.
    """
    for name in (BEGUN, LIST):
        before = str((read_json(into / name) or {}).get("source", source))
        if before != source and not (HUB_ID.fullmatch(source) and before.endswith(f"/{source}")):
            raise BadInput(
                f"--into {into}: was fetched from {before}; name another directory for {source}, or move it away"
            )


def begin(into: Path, source: str, names: Iterable[str]) -> None:
    """Note what is going to be fetched: broken off, it may be gone on with, by nothing else."""
    write_json(into / BEGUN, {"source": source, "files": sorted(names)})


def refuse_to_replace(into: Path, names: Iterable[str]) -> None:
    """That nothing is replaced but what was fetched into this directory, or begun to be.

    Raises:
        BadInput: a file of such a name is there that was not.
    """
    known = {entry["path"] for entry in (read_json(into / LIST) or {}).get("files", [])}
    known |= set((read_json(into / BEGUN) or {}).get("files", []))
    for name in sorted(names):
        if (into / name).exists() and name not in known:
            raise BadInput(f"{into / name}: is there already and was not fetched; name another directory with --into")


def is_whole(source: Path, target: Path, digest: str) -> bool:
    """The target is the source's copy."""
    return same_size(source, target) and sha256_file(target) == digest


def make_room(into: Path, need: int) -> None:
    """Make the directory, and see that what comes fits.

    Raises:
        BadInput: the directory cannot be made.
        NotFit: too little space is free.
    """
    try:
        into.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--into {into}: cannot make this directory: {error.strerror}") from None
    check_space(into, need, f"--into {into}")


def same_size(one: Path, other: Path) -> bool:
    """Both are there and as long."""
    return has_size(other, one.stat().st_size)


def has_size(path: Path, size: int | None) -> bool:
    """The file is there and so long."""
    return path.is_file() and path.stat().st_size == size


def write_list(into: Path, found: Fetched, entries: Iterable[Json], formed: Json) -> Json:
    """Write ``fetched.json``."""
    files = sorted(entries, key=lambda entry: str(entry["path"]))
    record: Json = {
        "source": found.source, "revision": found.revision, "time": timestamps.now(), "files": files,
        **({"formed": formed} if formed else {}),
    }  # fmt: skip
    write_json(into / LIST, record)
    return record


def verify(into: Path) -> int:
    """Check a directory against its list; the number of files.

    Raises:
        BadInput: there is no list in it, or a later fetch was broken off: it was never whole, or never fetched.
        WorkFailed: a file is missing or another.
    """
    try:
        record = json.loads((into / LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise BadInput(f"{into}: no {LIST}: not fetched to the end; run the fetch again") from None
    if (into / BEGUN).exists():
        raise BadInput(f"{into}: {BEGUN} is there: not fetched to the end; run the fetch again")
    for entry in record["files"]:
        path = into / entry["path"]
        if not has_size(path, entry["bytes"]):
            raise WorkFailed(f"{path}: missing or of another size than fetched; run the fetch again")
        if sha256_file(path) != entry["sha256"]:
            raise WorkFailed(f"{path}: changed since it was fetched; delete it and run the fetch again")
    return len(record["files"])


if __name__ == "__main__":
    raise SystemExit(run_command(main))
