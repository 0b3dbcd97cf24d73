"""Slurm's lists of hosts, such as ``node[01-03,7]``, expanded."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

from hpc.core.errors import BadInput

# A host list longer than this is a typing error (node[1-99999999]), not a cluster.
MAX_HOSTS = 100_000


def expand_hosts(text: str) -> list[str]:
    """Host names of a Slurm host list: ``node[1-3,07-09],gpu-a`` → node1 node2 node3 node07 node08 node09
    gpu-a.

    Raises:
        BadInput: unbalanced brackets, a range that is none, or more than ``MAX_HOSTS`` names.
    """
    hosts: list[str] = []
    for word in _split_outside_brackets(text):
        parts = re.split(r"\[([^\[\]]*)\]", word)
        if any(c in part for part in parts[::2] for c in "[]"):
            raise BadInput(f"host list {text!r}: brackets do not match; right is node[1-3,07],other")
        choices = [[part] if i % 2 == 0 else list(_numbers(part, text)) for i, part in enumerate(parts)]
        for combination in itertools.product(*choices):
            hosts.append("".join(combination))
            _check_size(len(hosts), text)
    return hosts


def _split_outside_brackets(text: str) -> list[str]:
    return [word for word in re.split(r",(?![^\[]*\])", text.strip()) if word]


def _numbers(ranges: str, whole: str) -> Iterable[str]:
    for part in ranges.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise BadInput(f"host list {whole!r}: {part!r} is no range; right is node[1-3,07]")
        low, high = int(match[1]), int(match[2] or match[1])
        _check_size(high - low, whole)
        yield from (str(number).zfill(len(match[1])) for number in range(low, high + 1))


def _check_size(count: int, whole: str) -> None:
    if count > MAX_HOSTS:
        raise BadInput(f"host list {whole[:80]!r}: more than {MAX_HOSTS} hosts")
