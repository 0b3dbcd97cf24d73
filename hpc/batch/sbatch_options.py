"""Options of sbatch that a site or a person wants besides those that a chain gives its jobs itself."""

from __future__ import annotations

import re
from collections.abc import Mapping

OWN = {
    name: why
    for why, names in (
        ("by it a chain's jobs wait for each other and are found again",
         "array comment dependency output error open-mode wrap kill-on-invalid-dep"),
        ("a chain submits its jobs in its own way",
         "parsable quiet test-only wait clusters chdir export export-file get-user-env input"),
        ("the job's own fields say it",
         "nodes ntasks ntasks-per-node ntasks-per-gpu cpus-per-task overcommit time signal job-name"),
        ("gpu_request, gpu_type and gpu_gres say it", "gres gpus gpus-per-node gpus-per-task"),
        ("memory_request and the job's memory say it", "mem mem-per-cpu mem-per-gpu"),
        ("the profile's field requeue says it", "requeue no-requeue"),
        ("it is a field of the profile", "partition account qos constraint reservation exclude"),
    )
    for name in names.split()
}  # fmt: skip
"""Options that would break what a chain needs, or that have a field of their own; and why."""


def read(value: object) -> dict[str, str | dict[str, str]]:
    """Options by name, of every job or under a job's name of that job; "" for one without a value.

    Args:
        value: a mapping, or a list of words as sbatch takes them.

    Raises:
        ValueError: no option, a value that is none, or one of :data:`OWN`.
    """
    if isinstance(value, (list, tuple)):
        return {name: text for word in value for name, text in [_word(word)]}
    if not isinstance(value, Mapping):
        raise ValueError('options of sbatch by name, such as {licenses: "scratch:1"}')
    found: dict[str, str | dict[str, str]] = {}
    for name, given in value.items():
        if isinstance(given, Mapping):
            found[str(name)] = {option: text for n, g in given.items() for option, text in _pair(n, g)}
        else:
            found.update(_pair(name, given))
    return found


def _word(word: object) -> tuple[str, str]:
    name, equals, text = str(word).partition("=")
    if not name.startswith("--") or (equals and not text):
        raise ValueError(f'{str(word)!r} is not one option such as "--licenses=scratch:1"')
    return _checked(name, text)


def _pair(name: object, given: object) -> list[tuple[str, str]]:
    if given is False:
        return []
    return [_checked(str(name), "" if given is None or given is True else str(given))]


def _checked(name: str, text: str) -> tuple[str, str]:
    option = name.removeprefix("--")
    if not re.fullmatch(r"[a-z][a-z-]*", option) or re.search(r"[\s\x00\"'\\]", text):
        raise ValueError(f"{name}={text!r} is no option of sbatch with one word as its value")
    if option in OWN:
        raise ValueError(f"--{option}: {OWN[option]}")
    if len(option) == 1:
        raise ValueError(f"--{option} is one letter; options are written by their whole names")
    if (
        meant := next((own for own in OWN if own.startswith(option)), None)
    ) is not None:  # sbatch takes it so
        raise ValueError(f"--{option}: cut short, it is --{meant}: {OWN[meant]}")
    return option, text
