"""sbatch's variables and further options in a profile."""

from __future__ import annotations

import pytest

from hpc.batch.profile import Profile, from_shell
from hpc.core import config_files
from hpc.core.errors import BadInput


def test_what_the_profile_leaves_open_comes_from_the_shell() -> None:
    shell = {"SBATCH_ACCOUNT": "me", "SBATCH_QOS": "big", "SBATCH_RESERVATION": "course", "HOME": "/root"}
    profile, notes = from_shell(Profile(partition="gpu"), shell)
    assert (profile.partition, profile.account, profile.qos, profile.reservation) == (
        "gpu",
        "me",
        "big",
        "course",
    )
    assert notes == []


def test_the_profile_wins_and_what_is_not_used_is_named() -> None:
    shell = {"SBATCH_PARTITION": "cpu", "SBATCH_TIMELIMIT": "5", "SBATCH_CLUSTERS": "a"}
    profile, [first, second] = from_shell(Profile(partition="gpu"), shell)
    assert profile.partition == "gpu"
    assert "SBATCH_PARTITION=cpu" in first and "partition: gpu" in first
    assert second.startswith("SBATCH_TIMELIMIT of this shell")
    assert from_shell(Profile(partition="cpu"), {"SBATCH_PARTITION": "cpu"}) == (Profile(partition="cpu"), [])


def test_a_value_that_is_no_name_is_one_line() -> None:
    with pytest.raises(BadInput, match="SBATCH_") as caught:
        from_shell(Profile(), {"SBATCH_ACCOUNT": "a b;c"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "word", ["--array=1", "--comment=x", "licenses=x", "--mail-type=END --nice", "--x=a\nb"]
)
def test_options_that_would_break_the_chain_or_are_none(word: str) -> None:
    with pytest.raises(BadInput):
        config_files.validate(Profile, {"sbatch": [word]}, source="test")
