"""A ZeRO checkpoint's universal form, which DeepSpeed loads on any number of ranks; written beside the original.

It is what DeepSpeed's ds_to_universal makes, as far as its loaders read it: of every trained parameter the float32
weight and Adam's two moments, whole, in a file each (``zero/NAME/fp32.pt``, ``exp_avg.pt``, ``exp_avg_sq.pt``), the
optimizer's settings (``zero/optimizer_state.pt``), and the model states as they are. The checkpoint is opened and
checked as consolidation does; the numbers go from file to file in pieces, so memory does not depend on the model. The
result is ``global_stepN_universal``, named by ``latest_universal``.

Format: DeepSpeed 0.16 and 0.19, checkpoint/ds_to_universal.py and universal_checkpoint.py; of ZeRO-3
runtime/zero/stage3.py.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from glmjobs.zero import committed
from glmjobs.zero.checkpoint import Checkpoint, open_checkpoint, zero_folder
from glmjobs.zero.checksums import Checksums, check_whole, crc32
from glmjobs.zero.cross_check import cross_check
from glmjobs.zero.dtypes import SIZE
from glmjobs.zero.guarded_files import errors_in_one_line
from glmjobs.zero.layout import Tensor
from glmjobs.zero.partitions import setting, trained
from glmjobs.zero.progress_bar import ByteProgress
from glmjobs.zero.publish import publishing
from glmjobs.zero.shards import OptimizerShard
from glmjobs.zero.source_files import SourceFiles
from glmjobs.zero.torch_file import TorchFile
from glmjobs.zero.torch_writer import Content
from glmjobs.zero.write import check_space
from hpc.core.errors import BadInput, NotFit, WorkFailed, of_system
from hpc.core.files import write_atomic

STATES = ("fp32", "exp_avg", "exp_avg_sq")
SHARDED = ("base_optimizer_state", "single_partition_of_fp32_groups", "param_slice_mappings", "fp32_flat_groups")
"""What of a shard is its rank's alone."""
PIECE_BYTES = 4 << 20
FILE_BYTES = 4096  # of disk that a file takes besides its numbers
LOADS_ZERO3 = (0, 18)
"""DeepSpeed's first release that loads ZeRO-3's universal form whole: the older ones take the first flat group alone,
and a node's ranks for all."""
MOST_RANKS = 1 << 16


@errors_in_one_line()
def reshard(path: Path, world_size: int, workers: int = 2) -> Path:
    """Write the universal form of the checkpoint at ``path``; its folder. One that is there is read and checked.

    Args:
        workers: threads; each has a few megabytes of memory, however large the model.

    Raises:
        BadInput: no ZeRO checkpoint there, or ``world_size`` or ``workers`` is no sensible number.
        NotFit: disk space is missing, or the DeepSpeed that saved it could not load the result.
        WorkFailed: the checkpoint is damaged, mixed or of another kind than written here, or there is a universal form
            that is not whole, or damaged.
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
    _check_loadable(checkpoint)
    folder = zero_folder(path)
    assert folder is not None  # a checkpoint of kind zero has one
    target = folder.with_name(f"{folder.name}_universal")
    pointer = target.with_name("latest_universal")
    if pointer.is_dir():
        raise WorkFailed(f"{pointer}: a directory, where a file should name the universal form; remove it")
    if os.path.lexists(target):
        _check_whole(target, workers)
    else:
        files = _contents(checkpoint)
        with publishing(target) as new:
            needed = sum(content.numbers + FILE_BYTES for content in files.values())
            needed += sum(model.path.stat().st_size for model in checkpoint.models)
            check_space(new, needed, target.parent)
            _write(checkpoint, files, new, workers)
            committed.sync(new)
            committed.commit(new)
    try:
        if not pointer.is_file() or pointer.read_bytes() != target.name.encode():
            write_atomic(pointer, target.name)
    except OSError as error:
        words = f"{pointer}: cannot be written: {error.strerror}; it has to hold the word {target.name}"
        raise of_system(error, words) from None
    return target


def _check_loadable(checkpoint: Checkpoint) -> None:
    version = re.match(r"(\d+)\.(\d+)", checkpoint.version or "")
    if checkpoint.zero_stage == 3 and version and (int(version[1]), int(version[2])) < LOADS_ZERO3:
        raise NotFit(
            f"{checkpoint.path}: DeepSpeed {checkpoint.version} saved it under ZeRO-3, and loads of such a checkpoint "
            "one parameter group on one node alone, however it is resharded; go on with as many ranks as saved it, or "
            "with ZeRO-2 from the start"
        )
    if checkpoint.zero_stage != 3 and setting(checkpoint.models[0], "round_robin_gradients"):
        raise NotFit(
            f"{checkpoint.path}: saved with round_robin_gradients, with which DeepSpeed takes one parameter for "
            "another when it loads on another number of ranks; go on with as many as saved it"
        )
    for model in checkpoint.models:
        info = model.value.get("universal_checkpoint_info")
        if isinstance(info, dict) and any(info[key] for key in info if key != "universal_checkpoint_version"):
            raise WorkFailed(
                f"{model.path}: of a model that is split over ranks (its universal_checkpoint_info says how); only "
                "data-parallel checkpoints are resharded here"
            )


def _contents(checkpoint: Checkpoint) -> dict[str, Content]:
    """The files to write, by their path in the universal form."""
    ranks, models, stage = checkpoint.ranks, checkpoint.models, checkpoint.zero_stage
    assert stage is not None  # a checkpoint of kind zero has one
    files: dict[str, Content] = {}
    for what in STATES:
        for tensor in trained(ranks, models, stage, what):
            _check_name(tensor.name, checkpoint.path)
            flat = Tensor(tensor.name, (tensor.numel,), tensor.extents)
            value = flat if stage == 3 else {"cat_dim": 0, "param": tensor}
            files[f"zero/{tensor.name}/{what}.pt"] = Content(value)
    if stage != 3:  # of ZeRO-3 the steps are among the optimizer's settings
        for index, names in enumerate(models[0].value["param_shapes"]):
            held = ranks[0].base["state"][index]
            for name in names if "step" in held else ():
                files[f"zero/{name}/step.pt"] = Content(held["step"], ranks[0].file)
    files["zero/optimizer_state.pt"] = Content(_settings(ranks[0], stage), ranks[0].file)
    return files


def _check_name(name: str, where: Path) -> None:
    """That a parameter's name does not lead out of the universal form, in which it is a folder's."""
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise WorkFailed(f"{where}: a parameter named {name[:80]!r}, which is no folder's name")


def _settings(rank: OptimizerShard, stage: int) -> dict[Any, Any]:
    """What all ranks' optimizers have in common, as a shard holds it."""
    base = rank.base
    common = {key: value for key, value in rank.state.items() if key not in SHARDED}
    common["param_groups"] = base["param_groups"]
    if stage == 3:
        steps = {i: {"step": held["step"]} for i, held in base["state"].items() if "step" in held}
        common["optimizer_state_dict"] = {**base, "state": steps}
    if isinstance(common.get("group_paddings"), list):
        common["group_paddings"] = [0] * len(common["group_paddings"])
    return common


def _write(checkpoint: Checkpoint, files: dict[str, Content], new: Path, workers: int) -> None:
    """Write all into ``new``; every number of the checkpoint has the checksum it was saved with, or it is an error."""
    shards = [rank.file for rank in checkpoint.ranks]
    title = f"reshard {checkpoint.path.resolve().name}"
    with ByteProgress(title, sum(content.numbers for content in files.values())) as progress:
        copy = _Copy(progress.add)

        def write(name: str) -> None:
            file = new / name
            file.parent.mkdir(parents=True, exist_ok=True)
            files[name].write(file, copy.numbers)

        try:
            _in_threads(write, files, workers)
            copy.sums.check()
        finally:
            copy.sources.close()
    left = (member for shard in shards for member in shard.storages() if member not in copy.sums.pieces)
    check_whole(left)

    def carry(model: TorchFile) -> None:
        check_whole(model.storages())
        shutil.copyfile(model.path, new / model.path.name)

    _in_threads(carry, checkpoint.models, workers)


def _in_threads(work: Callable[[Any], None], items: Iterable[Any], workers: int) -> None:
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(work, items):
            pass


class _Copy:
    """Numbers from the checkpoint's files into a file that is open, with their checksums; from any thread."""

    def __init__(self, progress: Callable[[int, int], None]) -> None:
        self.sources, self.sums, self.progress = SourceFiles(), Checksums(), progress

    def numbers(self, tensor: Tensor, into: IO[bytes]) -> int:
        """All of a tensor, piece by piece; the CRC-32."""
        size, crc = SIZE[tensor.dtype], 0
        buffer = memoryview(bytearray(min(PIECE_BYTES, tensor.numel * size)))
        for extent in tensor.extents:
            for start in range(0, extent.count, PIECE_BYTES // size):
                piece = extent.part(start, min(PIECE_BYTES // size, extent.count - start))
                data = buffer[: piece.count * size]
                self.sources.read(piece, data)
                self.sums.add(piece, data)
                into.write(data)
                crc = crc32(data, crc)
                self.progress(len(data), len(data))
        return crc


def _check_whole(target: Path, workers: int) -> None:
    """That the universal form which is there already was finished by this command, and that it is as it was written:
    nothing checks the numbers when DeepSpeed loads them."""
    again = "remove it and run this again"
    try:
        whole = not target.is_symlink() and committed.check(target) is not None
    except WorkFailed as error:
        raise WorkFailed(f"{error}; {target.name} is not whole: {again}") from None
    if not whole:
        raise WorkFailed(
            f"{target}: not a whole universal form of this command (no {committed.COMMITTED}); {again}"
        )
    files = {path: path.stat().st_size for path in sorted(target.rglob("*.pt"))}
    with ByteProgress(f"check {target.name}", sum(files.values())) as progress:

        def check(path: Path) -> None:
            check_whole(TorchFile(path).storages())
            progress.add(files[path], 0)

        try:
            _in_threads(check, files, workers)
        except WorkFailed as error:
            raise WorkFailed(f"{error}; or remove {target} and run this again") from None
