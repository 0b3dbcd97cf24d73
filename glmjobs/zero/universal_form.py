"""A ZeRO checkpoint's universal form, which DeepSpeed loads on any number of ranks; written beside the original.

The checkpoint is checked as consolidation checks it, then DeepSpeed's ds_to_universal takes it apart by
parameter. That needs torch and DeepSpeed, and unpickles the files: it is given those that were checked and no
others, and only where their pickles, as torch finds them, are the ones that were checked and call nothing but
what rebuilds tensors, plain objects and enumerations. The result is ``global_stepN_universal``, named by
``latest_universal``.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import functools
import hashlib
import importlib
import inspect
import io
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from glmjobs.zero import committed
from glmjobs.zero.checkpoint import open_checkpoint, zero_folder
from glmjobs.zero.checksums import check_whole
from glmjobs.zero.cross_check import cross_check
from glmjobs.zero.guarded_files import errors_in_one_line
from glmjobs.zero.publish import publishing
from glmjobs.zero.torch_file import INERT_PACKAGES, TorchFile
from glmjobs.zero.write import check_space
from hpc.core.errors import BadInput, NotFit, WorkFailed
from hpc.core.process import available_memory, die_with_parent

# float32 weight and Adam's two moments of every element, and once more for the fragments before they are
# merged.
BYTES_PER_ELEMENT = 2 * 12
MOST_RANKS = 1 << 16


@errors_in_one_line()
def reshard(path: Path, world_size: int, workers: int = 2) -> Path:
    """Write the universal form of the checkpoint at ``path``; its folder. Done already: returned at once.

    Raises:
        BadInput: no ZeRO checkpoint there, or ``world_size`` or ``workers`` is no sensible number.
        NotFit: torch or DeepSpeed is missing, or disk space or memory is.
        WorkFailed: the checkpoint is damaged, mixed or not only data, DeepSpeed's converter stopped, or there is
            a universal form that is not whole.
    """
    if not 1 <= world_size <= MOST_RANKS:
        raise BadInput(f"world size {world_size}: a number of ranks, 1 to {MOST_RANKS}")
    if not 1 <= workers <= 64:
        raise BadInput(f"workers {workers}: 1 to 64")
    checkpoint = open_checkpoint(path)
    if checkpoint.kind != "zero":
        raise BadInput(
            f"{path}: no sharded training state here, only weights; nothing can be resumed from it"
        )
    cross_check(checkpoint)
    _check_parameter_names([*checkpoint.tensors, *checkpoint.aliases], path)
    folder = zero_folder(path)
    assert folder is not None  # a checkpoint of kind zero has one
    target = folder.with_name(f"{folder.name}_universal")
    pointer = target.with_name("latest_universal")
    if pointer.is_dir():
        raise WorkFailed(f"{pointer}: a directory, where a file should name the universal form; remove it")
    if os.path.lexists(target):
        _check_whole(target)
    else:
        largest = max((tensor.numel for tensor in checkpoint.tensors.values()), default=0)
        _check_memory(checkpoint.files, largest, workers)
        with publishing(target) as new:
            check_space(new, checkpoint.numel * BYTES_PER_ELEMENT, target.parent)
            _check_checksums(checkpoint.files, workers)
            given = new.parent / folder.name
            given.mkdir()
            for file in checkpoint.files:
                (given / file.name).symlink_to(file.resolve())
            _convert(folder, given, new, workers)
            committed.sync(new)
            committed.commit(new)
    aside = pointer.with_name(f".{pointer.name}.{os.getpid()}")
    aside.write_text(target.name, encoding="utf-8")
    aside.replace(pointer)
    return target


def memory_needed(files: Iterable[Path], largest: int, workers: int) -> int:
    """Bytes of memory that the conversion takes at most, the libraries' own aside.

    Args:
        files: of the checkpoint.
        largest: elements of its largest parameter: a worker puts its pieces together and writes the whole.
    """
    together = workers * 2 * 4 * largest
    if _maps():
        return together
    sizes = sorted(file.stat().st_size for file in files)
    return together + sum(sizes[-workers:])  # a worker's own file, read whole


def _check_memory(files: Sequence[Path], largest: int, workers: int) -> None:
    needed, room = memory_needed(files, largest, workers), available_memory()
    if needed > room:
        least = memory_needed(files, largest, 1)
        fewer = (
            "--workers 1" if workers > 1 and least <= room else f"a node with {least / 1e9:.1f} GB or more"
        )
        raise NotFit(
            f"resharding takes {needed / 1e9:.1f} GB of memory with {workers} workers, and {room / 1e9:.1f} GB can be "
            f"had here; take {fewer}"
        )


def _maps() -> bool:
    """Whether this torch can map a file into memory instead of reading it (from 2.1 on)."""
    try:
        import torch
    except ImportError as error:
        raise NotFit(f"resharding needs torch and DeepSpeed here: {error}") from None
    return "mmap" in inspect.signature(torch.load).parameters


def _check_parameter_names(names: Iterable[str], where: Path) -> None:
    """That no parameter's name leads out of the universal form: DeepSpeed makes a folder of each."""
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
            raise WorkFailed(f"{where}: a parameter named {name[:80]!r}, which is no folder's name")


def _check_checksums(files: Iterable[Path], workers: int) -> None:
    """That every number has the checksum it was saved with: DeepSpeed looks at none."""
    storages = [member for file in files for member in TorchFile(file).storages()]
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(lambda member: check_whole([member]), storages):
            pass


def _check_whole(target: Path) -> None:
    """That the universal form which is there already was finished by this command, and nothing is gone since."""
    again = "remove it and run this again"
    try:
        whole = not target.is_symlink() and committed.check(target) is not None
    except WorkFailed as error:
        raise WorkFailed(f"{error}; {target.name} is not whole: {again}") from None
    if not whole:
        raise WorkFailed(
            f"{target}: not a whole universal form of this command (no {committed.COMMITTED}); {again}"
        )


def _convert(source: Path, folder: Path, into: Path, workers: int) -> None:
    """DeepSpeed's converter on a folder of links to the files of ``source``, its prints kept for the error."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # nothing here needs a GPU
    try:
        from deepspeed.checkpoint import ds_to_universal
    except ImportError as error:
        raise NotFit(f"resharding needs torch and DeepSpeed here: {error}") from None
    for file in sorted(folder.iterdir()):
        _check_unpickling(TorchFile(file.resolve()))
    options = argparse.Namespace(
        input_folder=str(folder), output_folder=str(into), num_extract_workers=workers,
        num_merge_workers=workers, keep_temp_folder=False, strict=True, inject_missing_state=True,
    )  # fmt: skip
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), children_end_with_this(), mapped_loads():
            ds_to_universal.main(options)
    except Exception as error:  # the converter raises whatever it meets; one line for the person
        raise WorkFailed(
            f"{source}: DeepSpeed's converter stopped: {type(error).__name__}: {error}"
        ) from None
    shutil.rmtree(into / "tmp", ignore_errors=True)


@contextlib.contextmanager
def mapped_loads() -> Iterator[None]:
    """torch.load maps files into memory, here and in processes forked meanwhile: the page cache holds them, and gives
    them up where memory is short, instead of each process. torch before 2.1 cannot."""
    import torch

    original = torch.load
    if _maps():
        torch.load = functools.partial(original, mmap=True)
    try:
        yield
    finally:
        torch.load = original


def _check_unpickling(file: TorchFile) -> None:
    """That torch's own unpickling of a checked file runs nothing that the check did not see.

    Raises:
        WorkFailed: torch finds another pickle in it, or the pickle calls something of a package it names.
    """
    import torch

    try:
        program = bytes(torch._C.PyTorchFileReader(str(file.path)).get_record("data.pkl"))
    except RuntimeError as error:
        raise WorkFailed(f"{file.path}: torch cannot read it: {str(error).splitlines()[0]}") from None
    if hashlib.sha256(program).digest() != file.pickle_sha256:
        raise WorkFailed(f"{file.path}: two contents in one file; refused")
    state = file.value.get("optimizer_state_dict")
    for group in (state.get("param_slice_mappings") or []) if isinstance(state, dict) else []:
        _check_parameter_names(map(str, group), file.path)
    for name, called in file.names.items():
        if not name.startswith(INERT_PACKAGES):
            continue
        module, _, attribute = name.rpartition(".")
        try:
            kind = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # whatever the package's module raises
            raise WorkFailed(f"{file.path}: its pickle names {name}, which is not here: {error}") from None
        plain = isinstance(kind, type) and kind.__module__.startswith(INERT_PACKAGES)
        if not plain or (called and not issubclass(kind, enum.Enum)):
            raise WorkFailed(f"{file.path}: refused, its pickle calls {name}, which is no data")


class _Children:
    """Whether processes forked from here are killed when this one is, and who forks at the moment."""

    bound = False
    watched = False
    parent = 0

    @classmethod
    def before(cls) -> None:
        cls.parent = os.getpid()

    @classmethod
    def after(cls) -> None:
        if cls.bound:
            die_with_parent()
            if os.getppid() != cls.parent:  # killed in between
                os._exit(1)


@contextlib.contextmanager
def children_end_with_this() -> Iterator[None]:
    """Processes forked meanwhile are killed when this one is: else they wait forever, and keep its locks."""
    if not _Children.watched:
        os.register_at_fork(before=_Children.before, after_in_child=_Children.after)
    _Children.watched = _Children.bound = True
    try:
        yield
    finally:
        _Children.bound = False
