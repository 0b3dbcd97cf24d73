"""Commands and settings in messages, quoted so that a shell takes them as they stand. Standard library only."""

from __future__ import annotations

import shlex
from collections.abc import Iterable


def command(module: str, *words: object) -> str:
    """``python -m MODULE WORD …``.

    >>> command("glmjobs.heal", "/data/my runs/one")
    "python -m glmjobs.heal '/data/my runs/one'"
    """
    return shlex.join(["python", "-m", module, *map(str, words)])


def setting(field: str, value: object) -> str:
    """A field of the recipe, or of the profile as ``cluster.field``, as a command takes it.

    >>> setting("data.prompt_column", "columns[0]")
    "--set 'data.prompt_column=columns[0]'"
    """
    return f"--set {shlex.quote(f'{field}={value}')}"


def settings(items: Iterable[str]) -> str:
    """Several of them.

    >>> settings(["train.zero_stage=3", "train.optimizer_offload=true"])
    '--set train.zero_stage=3 --set train.optimizer_offload=true'
    """
    return " ".join(setting(*item.split("=", 1)) for item in items)


def lfs_pull(directory: object) -> str:
    """What fetches the files that the Git LFS pointers of a directory stand for.

    >>> lfs_pull("models/chatglm 6b")
    "git -C 'models/chatglm 6b' lfs pull"
    """
    return shlex.join(["git", "-C", str(directory), "lfs", "pull"])
