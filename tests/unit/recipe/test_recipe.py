"""Recipes: the mission's numbers, overrides, and every mistake in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glmjobs import consolidate, reshard, score
from glmjobs.recipe import loading as recipes
from hpc.batch import profile as profiles
from hpc.core.errors import BadInput
from tests.support.paths import REPO

RECIPES = sorted((REPO / "configs").glob("*.yaml"))
PROFILES = sorted((REPO / "configs" / "clusters").glob("*.yaml"))


def test_chatglm6b_carries_the_missions_numbers() -> None:
    recipe = recipes.load(REPO / "configs" / "chatglm6b.yaml")
    train, data = recipe.train, recipe.data
    assert (train.learning_rate, train.epochs, train.per_device_batch_size) == (1e-5, 1, 16)
    assert (train.precision, train.zero_stage, train.method) == ("fp16", 2, "full")
    assert (train.save_steps, train.logging_steps) == (1000, 10)
    assert (data.max_source_length, data.max_target_length) == (512, 512)
    assert (data.prompt_column, data.query_column, data.response_column) == ("instruction", "input", "output")
    assert (data.dev_rows, data.train_rows) == ("1-10000", "rest")


def test_the_tutorials_own_split_stays_selectable() -> None:
    recipe = recipes.load(REPO / "configs" / "chatglm6b.yaml", ["data.train_rows=100001-"])
    assert recipe.data.train_rows == "100001-"


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_is_valid(path: Path) -> None:
    assert recipes.load(path).name


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_every_profile_is_valid(path: Path) -> None:
    assert profiles.load(path).name


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("train.learning_rate=2e-5", "learning_rate", 2e-5),
        ("train.learning_rate=1E-6", "learning_rate", 1e-6),
        ("train.epochs=3", "epochs", 3.0),
        ("train.packing=false", "packing", False),
        ("train.deepspeed=configs/deepspeed/zero3.json", "deepspeed", "configs/deepspeed/zero3.json"),
        ("train.deepspeed=", "deepspeed", None),
    ],
)
def test_an_override_is_read_as_yaml(override: str, field: str, value: object) -> None:
    recipe = recipes.load(REPO / "configs" / "tiny.yaml", [override])
    assert getattr(recipe.train, field) == value


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.learning_rat=1", "did you mean train.learning_rate?"),
        ("trian.epochs=1", "did you mean train"),
        ("epochs=1", "did you mean train.epochs?"),
        ("train.learning_rate=fast", "train.learning_rate = 'fast': should be a number"),
        ("train.zero_stage=4", "train.zero_stage = 4: should be 1, 2 or 3"),
        (
            "score.sets=cmath",
            "score.sets = 'cmath': should be a list of sections with name, path, form, judge, rows",
        ),
        ("score.sets=[cmath]", "score.sets.0 = 'cmath': should be a section with name, path, form"),
        ("score.sets={name: a}", "score.sets: should be a list of sections with name"),
        ("data=", "data is empty: should be a section with path, make, sources"),
        ("data.dev_rows=", "data.dev_rows is empty: should be a text"),
        ("train.compile=maybe", "train.compile = 'maybe': should be true or false, or auto"),
        (
            "train.activation_checkpointing=3",
            "train.activation_checkpointing = 3: should be true or false, or auto",
        ),
        ("data.deduplicate=[true]", "data.deduplicate = [true]: should be true or false"),
        ("train.max_steps=many", "train.max_steps = 'many': should be a whole number"),
        ("train.lora.targets=query", "train.lora.targets = 'query': should be a list"),
        ("score.sets=[{name: a/b, path: x}]", "score.sets.0.name = 'a/b': a name is letters, digits, dots"),
        ("train.save_steps=1.5", "train.save_steps = 1.5"),
        ("train.epochs=0", "greater than 0"),
        ("train=3", "train = 3"),
        ("train", "section.field=value"),
        ("train..epochs=1", "section.field=value"),
        ("train.epochs.more=1", "train.epochs is a value"),
        ("jobs.train.time=soon", "a Slurm time such as"),
        ("jobs.train.memory=lots", "a Slurm memory size such as"),
        ("name=../x", "name = '../x'"),
        ("consolidate.shard_size=big", "consolidate.shard_size = 'big': a number and a unit"),
        ("consolidate.shard_size=0GB", "a number and a unit, such as 5GB"),
        ("train.max_steps=0", "train.max_steps = 0: a number of steps from 1 on, or -1: epochs decide"),
        ("train.max_steps=-5", "train.max_steps = -5: a number of steps from 1 on, or -1"),
        ("train.seed=-1", "train.seed = -1"),
        ("model.make.seed=-1", "model.make.seed = -1"),
        ("data.make.seed=4294967296", "data.make.seed = 4294967296"),
        ("score.batch_size=0", "score.batch_size = 0: a number from 1 on, or auto"),
        ("score.shards=-2", "score.shards = -2: a number from 1 on, or auto"),
        ("score.rows=0", "score.rows = 0"),
        ("jobs.train.time=0", "more than 0, which to Slurm means no limit"),
        ("jobs.train.time=0-00:00:00", "more than 0, which to Slurm means no limit"),
    ],
)
def test_a_wrong_override_is_one_line(override: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        recipes.load(REPO / "configs" / "tiny.yaml", [override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_recipe_and_profile_mixed_up(tmp_path: Path) -> None:
    cluster, recipe = REPO / "configs/clusters/generic.yaml", REPO / "configs/tiny.yaml"
    for pair, said in (
        ((cluster, None), "generic.yaml: a cluster profile, not a recipe: name it with --cluster"),
        ((recipe, recipe), "tiny.yaml: a recipe, not a cluster profile: name it with --recipe"),
        ((recipe, tmp_path), "cannot read this cluster profile: Is a directory"),
    ):
        with pytest.raises(BadInput, match=said):
            recipes.load_both(str(pair[0]), pair[1] and str(pair[1]), [], "local")


@pytest.mark.parametrize("text", ["-1", "1", "60"])
def test_steps_are_all_or_some(text: str) -> None:
    assert recipes.load(REPO / "configs" / "tiny.yaml", [f"train.max_steps={text}"]).train.max_steps == int(
        text
    )


@pytest.mark.parametrize(
    "command",
    [
        (consolidate, ["run", "--workers", "0"]),
        (consolidate, ["run", "--workers", "-2"]),
        (reshard, ["checkpoint-1", "--world-size", "2", "--workers", "0"]),
        (score, ["model", "rows.jsonl", "--rows", "0"]),
        (score, ["model", "rows.jsonl", "--batch-size", "-1"]),
    ],
    ids=lambda c: " ".join([c[0].__name__, *c[1][-2:]]),
)
def test_options_that_count_start_at_one(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    module, words = command
    with pytest.raises(SystemExit) as ended:
        module.main(words)
    assert ended.value.code == 2 and "a whole number above 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "nothing in it; a recipe is a YAML mapping with sections"),
        (b"- 1\n- 2\n", "a recipe is a YAML mapping with sections, not a list"),
        (b"name: [\n", "not valid YAML"),
        (b"name: x\ntrain: {}\n", "missing field model"),
        (b"model: {path: a, make: {}}\ndata: {path: b}\n", "exactly one of model.path and model.make"),
        ("name: 数学\n".encode("gbk"), "cannot read this recipe: not UTF-8 text (byte 7)"),
        (b"model: {path: a}\ndata: {path: b}\nsecore: {}\n", "did you mean score?"),
        (
            b"model: {path: a, family: llama}\ndata: {path: b}\n",
            "none of the families here (chatglm, chatglm2, chatglm3, glm, glm4, glm4_0414, glm4_remote)",
        ),
        (b"model: {make: {heads: 5}}\ndata: {path: b}\n", "hidden_size = 128 and heads = 5"),
        (b"model: {make: {}, family: glm4}\ndata: {path: b}\n", "model.make.family chatglm: the same"),
        (
            b"model: {path: a}\ndata: {make: {rows: 30}, dev_rows: 1-31}\n",
            "data.make.rows makes 30 rows only",
        ),
        (b"model: {path: a}\ndata: {path: b}\ntrain: {max_steps: true}\n", "train.max_steps = true"),
        (b"model: {path: a}\ndata: {path: b}\ntrain: {epochs: yes}\n", "train.epochs = true"),
    ],
)
def test_a_broken_recipe_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        recipes.load(path)
    assert said in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["12:00:00", "08:00:00", "1-00:00:00", "90"])
def test_a_time_limit_is_what_was_typed(tmp_path: Path, text: str) -> None:
    """YAML 1.1 reads 12:00:00 as a number to the base 60."""
    path = tmp_path / "mine.yaml"
    path.write_text(f"model: {{path: a}}\ndata: {{path: b}}\njobs: {{train: {{time: {text}}}}}\n")
    assert recipes.load(path).jobs.train.time == text
    assert recipes.load(path, [f"jobs.score.time={text}"]).jobs.score.time == text


@pytest.mark.parametrize(("family", "half"), [("glm4", "bf16"), ("glm4_0414", "bf16"), ("chatglm3", "fp16")])
def test_a_type_that_is_not_named_is_the_familys(family: str, half: str) -> None:
    """GLM-4's weights are bfloat16: in float16 its activations overflow. What is named holds."""
    raw: dict[str, Any] = {"model": {"path": "m", "family": family}, "data": {"path": "d", "dev_rows": "1-9"}}
    recipe = recipes.parse(raw)
    assert recipe.train.precision == half
    assert {recipe.consolidate.dtype, recipe.score.dtype} == {{"bf16": "bfloat16", "fp16": "float16"}[half]}
    assert recipes.parse(recipe.model_dump(mode="json")) == recipe
    named = recipes.parse({**raw, "train": {"precision": "fp32"}, "score": {"dtype": "float32"}})
    assert (named.train.precision, named.score.dtype) == ("fp32", "float32")
