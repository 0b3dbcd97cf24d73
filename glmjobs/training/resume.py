"""Where training goes on: the newest checkpoint that is committed, whole and readable; what is passed over is said.

Sizes are compared first (cheap, on rank 0). Then the ranks share the checkpoint's files out among themselves and read
each once against the CRC-32 that the zip container of torch's files carries: a disk that has gone bad is found here and
costs a checkpoint, rather than an attempt after the other. The pages read are those that DeepSpeed reads next.

Another number of ranks than saved it takes the checkpoint's universal form, where glmjobs.reshard has made one.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

from glmjobs.training.agreement import Agreement
from glmjobs.training.save import say
from glmjobs.zero import committed
from hpc.core import hints
from hpc.core.errors import BadInput


def resume_point(
    folder: Path,
    agreement: Agreement,
    world_size: int,
    passed_over: Callable[[str, str], object] = lambda name, why: None,
) -> Path | None:
    """The checkpoint to resume from, the same on all ranks; None: start at the beginning.

    Args:
        passed_over: told on the first rank of each newer checkpoint that does not count, and why.

    Raises:
        BadInput: the newest good one was saved by another number of ranks, and not resharded.
    """
    first = agreement.rank == 0
    candidates: list[tuple[str, str | None]] = agreement.broadcast(
        [(c.path.name, c.problem) for c in committed.scan(folder)]
    )
    for name, problem in candidates:
        path = folder / name
        if problem is None:
            damage = agreement.first_problem(unreadable(path, agreement.rank, world_size))
            problem = damage.text if damage is not None else None
        if problem is None:
            _same_world(path, world_size)
            if first:
                say(f"resuming from {name}")
            return path
        if first:
            say(f"passing over {name}: {problem}")
            passed_over(name, problem)
    if candidates and first:
        say("no checkpoint is good: starting at the beginning")
    return None


def unreadable(path: Path, rank: int, world_size: int) -> str | None:
    """What this rank's share of a checkpoint's files (every ``world_size``-th) has wrong; None: nothing."""
    files = sorted(f for f in path.rglob("*") if f.suffix in (".pt", ".pth", ".json"))
    for file in files[rank::world_size]:
        name = file.relative_to(path)
        try:
            if file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))
            elif zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    bad = archive.testzip()
                if bad is not None:
                    return f"{name} is damaged ({bad} does not match its checksum)"
            else:
                return f"{name} is damaged (no zip archive, as torch writes them)"
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            return f"{name} cannot be read: {error}"
    return None


def saved_ranks(path: Path) -> int | None:
    """The number of ranks that saved a checkpoint: DeepSpeed loads its own form on as many only."""
    commit = committed.read(path)
    return commit.world_size if commit is not None else None


def _same_world(path: Path, world_size: int) -> None:
    saved = saved_ranks(path)
    if saved != world_size and not (path / "latest_universal").is_file():
        raise BadInput(
            f"{path.name} was saved by {saved} ranks and this attempt has {world_size}: give it {saved} again, or "
            + hints.command("glmjobs.reshard", path, "--world-size", world_size)
        )
