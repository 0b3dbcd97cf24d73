"""What a training takes is demanded before it is queued: disk, memory of a node and of a GPU, each in one line."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import pytest

from glmjobs.planning import demands
from glmjobs.recipe.loading import load_both
from glmjobs.recipe.schema import Recipe
from glmjobs.run.directory import Shape
from glmjobs.run.submit_checks import check_warning
from hpc.batch.profile import Measured, Profile
from hpc.core.errors import NotFit

GB = 10**9
SHAPE = Shape(nodes=1, gpus=8)


def both(*overrides: str) -> tuple[Recipe, Profile]:
    """ChatGLM-6B on eight GPUs; neither model nor data are here, so the published sizes count."""
    return load_both("configs/chatglm6b.yaml", None, list(overrides), "local")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("free", "overrides", "said"),
    [
        (300 * GB, (), None),
        (200 * GB, (), "--set train.save_total_limit=1"),
        (90 * GB, (), "90.0 GB can be written there, and this training takes 172.9 GB (a checkpoint 86.4 GB, of "),
        (90 * GB, ("train.max_steps=100",), "this training takes 98.8 GB (a checkpoint 86.4 GB; the model 12.3 GB)"),
        (90 * GB, ("train.method=lora",), None),
        (300 * GB, ("jobs.train.memory=16G",), "--set jobs.train.memory=29G"),
        (300 * GB, ("jobs.train.memory=64G",), None),
        (300 * GB, ("cluster.gpu_memory_gb=24",), "a GPU of 24 GB (cluster.gpu_memory_gb), and this training takes "),
    ],
)  # fmt: skip
def test_a_6b_run(
    free: int, overrides: tuple[str, ...], said: str | None, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demands, "free_bytes", lambda path: free)
    recipe, profile = both(*overrides)
    try:
        remarks = demands.check(recipe, profile, SHAPE, elsewhere)
    except NotFit as error:
        assert said is not None and said in str(error) and "--set " in str(error) and "\n" not in str(error)
    else:
        assert (said is None and remarks == []) or (len(remarks) == 1 and str(said) in remarks[0])


def test_a_save_is_done_before_the_time_limit(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the newest rate that was measured on as many nodes; on this machine alone no job has a limit."""
    monkeypatch.setattr(demands, "free_bytes", lambda path: 10**13)
    recipe, profile = both()

    def measured(*rates: tuple[int, float | None]) -> Profile:
        found = [
            Measured(time="2024-01-01", what="tiny", nodes=n, gpus=8, write_gb_s=rate) for n, rate in rates
        ]
        return profile.model_copy(update={"measured": tuple(found)})

    slow = measured((1, 5.0), (1, 0.1), (1, None), (2, 5.0))
    with pytest.raises(
        NotFit, match=r"86\.4 GB takes 864 s at the 0\.1 GB/s .* 600 s before .* --set jobs\.signal_seconds=1297"
    ):
        demands.check(recipe, slow, SHAPE, elsewhere)
    enough = recipe.model_copy(update={"jobs": recipe.jobs.model_copy(update={"signal_seconds": 1297})})
    assert demands.check(enough, slow, SHAPE, elsewhere) == []
    assert demands.check(recipe, slow, SHAPE, elsewhere, limited=False) == []
    for profile_ in (measured((2, 0.1)), measured((1, 0.1), (1, 5.0))):
        assert demands.check(recipe, profile_, SHAPE, elsewhere) == []


def offered(line: str) -> list[str]:
    """What a line says to --set."""
    words = shlex.split(line.replace(";", " ").replace(",", " "))
    return [after for word, after in itertools.pairwise(words) if word == "--set"]


@pytest.mark.parametrize(
    ("rate", "overrides", "said"),
    [
        (0.1, (), "; --set jobs.signal_seconds=1297"),
        (0.1, ("jobs.train.time=00:30:00",), "; a faster disk, a longer job that is warned earlier: --set "),
        (0.01, ("jobs.train.time=04:00:00",), "warned earlier: --set jobs.signal_seconds=12964 --set "),
        (0.0015, (), "warned earlier: --set jobs.signal_seconds=65535 --set jobs.train.time=36:25:00"),
        (0.001, ("jobs.signal_seconds=2000",), "; a faster disk, or fewer bytes: --set train.method=lora"),
        (0.001, ("jobs.signal_seconds=2000", "train.freeze=layers.0-1"),
         "fewer bytes: --set train.method=lora --set 'train.freeze=[]'"),
        (1e-6, (), "; a faster disk"),
        (1e-6, ("train.method=lora",), "; a faster disk"),
    ],
)  # fmt: skip
def test_what_lets_a_save_be_done_can_be_and_does(
    rate: float, overrides: tuple[str, ...], said: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every setting that is offered is taken by submit, and enough; where none can be, none is."""
    monkeypatch.setattr(demands, "free_bytes", lambda path: 10**13)

    def at(*settings: str) -> tuple[Recipe, Profile]:
        recipe, profile = both(*overrides, *settings)
        figure = Measured(time="2026-01-01", what="x", nodes=1, gpus=8, write_gb_s=rate)
        return recipe, profile.model_copy(update={"measured": (figure,)})

    with pytest.raises(NotFit) as caught:
        demands.check(*at(), SHAPE, elsewhere)
    line = str(caught.value)
    assert said in line and (said != "; a faster disk" or line.endswith(said)), line
    ways = re.findall(r"(?:--set \S+ ?)+", line)
    assert bool(ways) == ("--set" in said)
    for way in ways:
        recipe, profile = at(*offered(way))
        check_warning(recipe.jobs)
        assert demands.check(recipe, profile, SHAPE, elsewhere) == []


@pytest.mark.parametrize(
    ("free", "overrides", "offers"),
    [
        (90, (), ["train.method=lora"]),
        (90, ("train.freeze=layers.0-1",), ["train.method=lora", "train.freeze=[]"]),
        (5, (), []),
        (5, ("train.method=lora",), []),
        (180, ("train.save_total_limit=1",), []),
        (180, ("train.save_total_limit=3",), []),
        (265, ("train.save_total_limit=3", "train.keep=best", "train.eval_steps=auto"), []),
        (370, ("train.save_total_limit=4", "train.keep=best", "train.eval_steps=auto"), ["train.save_total_limit=2"]),
        (10**4, ("cluster.gpu_memory_gb=6",), ["train.method=lora"]),
        (10**4, ("cluster.gpu_memory_gb=1",), []),
        (10**4, ("cluster.gpu_memory_gb=1", "train.method=lora"), []),
    ],
)  # fmt: skip
def test_no_setting_is_offered_that_is_so_already_or_does_not_fit_either(
    free: int, overrides: tuple[str, ...], offers: list[str], elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demands, "free_bytes", lambda path: free * GB)
    recipe, profile = both(*overrides)
    lines = [d.line for d in demands.held(recipe, profile, SHAPE, elsewhere) if d.remedy]
    assert len(lines) == 1 and offered(lines[0])[: len(offers)] == offers and bool(offers) == ("--set" in lines[0])
    again = both(*overrides, *offered(lines[0]))
    assert not offers or not any(d.remedy for d in demands.held(*again, SHAPE, elsewhere))


def test_the_way_that_a_gpu_is_offered_fits_it(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demands, "free_bytes", lambda path: 10**13)
    recipe, profile = both("cluster.gpu_memory_gb=24")
    with pytest.raises(NotFit) as caught:
        demands.check(recipe, profile, SHAPE, elsewhere)
    words = [w.strip(";") for w in str(caught.value).split() if w.startswith("train.")]
    recipe, profile = both("cluster.gpu_memory_gb=24", *words)
    assert words and demands.check(recipe, profile, SHAPE, elsewhere) == []


def test_float16_is_warned_of_where_the_weights_are_bfloat16(elsewhere: Path) -> None:
    """Before the start; ChatGLM3, which was published in float16, is trained in it without a word."""
    path = f"model.path={elsewhere / 'none'}"
    recipe, _ = load_both("configs/glm4_9b.yaml", None, ["train.precision=fp16", path], "local")
    (said,) = demands._check_precision(recipe)
    assert said.startswith("GLM-4's weights were made in bfloat16") and "train.precision=bf16" in said
    for config, words in (("glm4_9b", []), ("chatglm3_6b", ["train.precision=fp16"])):
        recipe, _ = load_both(f"configs/{config}.yaml", None, [*words, path], "local")
        assert demands._check_precision(recipe) == []
