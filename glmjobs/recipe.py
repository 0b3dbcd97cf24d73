"""The recipe: what to train, on what, how, and how to score it. One YAML, checked against one schema.

Read it as a newcomer would: :class:`Recipe` holds one section per stage; every field is documented where it stands,
with its unit. ``load`` reads a file and applies ``--set a.b=c`` overrides; anything unknown or of the wrong type is
one line that names the file, the field and the nearest valid one.
"""

from __future__ import annotations

import contextlib
import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from glmjobs.errors import BadInput
from glmjobs.sizes import SHARD_SIZE, parse_size

DEFAULT_RECIPE = "configs/chatglm6b.yaml"


class Section(BaseModel):
    """A part of the recipe: keyword-only, closed (no unknown fields), immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class TinyModel(Section):
    """A small model of a family's architecture, made from a seed: for demos and tests, never for results."""

    family: Literal["chatglm"] = "chatglm"
    hidden_size: int = Field(default=128, ge=16)
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    vocab_size: int = Field(default=800, ge=400, description="pieces of the sentencepiece model made for it")
    max_positions: int = Field(default=512, ge=64)
    alpha: float = Field(
        default=56**0.5, gt=0, description="factor of the residual; sqrt(2 * 28) in ChatGLM-6B"
    )
    seed: int = 0


class ModelSection(Section):
    """Which base model. Give ``path`` (a model directory) or ``make`` (a small one made on the spot)."""

    family: str = Field(default="chatglm", description="architecture: chatglm, glm or glm4")
    path: str | None = Field(default=None, description="model directory, reachable from every node")
    make: TinyModel | None = None

    @model_validator(mode="after")
    def _one_source(self) -> ModelSection:
        if (self.path is None) == (self.make is None):
            raise ValueError("give exactly one of model.path and model.make")
        return self


class MadeProblems(Section):
    """A seeded set of Chinese arithmetic word problems in BELLE's form, for demos and tests."""

    rows: int = Field(default=6000, ge=20)
    seed: int = 0


class DataSection(Section):
    """Which rows, and which of them are for training and for scoring (rows count from 1, as lines of the file)."""

    path: str | None = Field(
        default=None, description="JSON lines (.json, .jsonl, .gz), a .json array, or hub id"
    )
    make: MadeProblems | None = None
    prompt_column: str = "instruction"
    query_column: str = Field(default="input", description="appended to the prompt where not empty")
    response_column: str = "output"
    dev_rows: str = Field(default="1-10000", description='rows scored, never trained on: "1-10000"')
    train_rows: str = Field(default="rest", description='"rest" (all rows not in dev_rows) or "100001-"')
    max_source_length: int = Field(default=512, ge=8, description="tokens of the prompt")
    max_target_length: int = Field(default=512, ge=8, description="tokens of the response")
    too_long: Literal["drop", "keep_end"] = Field(
        default="drop", description="over-long examples: leave out (counted), or keep the end of the question"
    )
    deduplicate: bool = Field(
        default=True, description="leave train rows out whose question is also a dev row's"
    )

    @model_validator(mode="after")
    def _row_ranges(self) -> DataSection:
        from glmjobs.data.splitting import Split

        Split.parse(self.dev_rows, self.train_rows)
        return self

    @model_validator(mode="after")
    def _one_source(self) -> DataSection:
        if (self.path is None) == (self.make is None):
            raise ValueError("give exactly one of data.path and data.make")
        return self


class LoraSection(Section):
    """Adapters, with ``train.method: lora``: W + alpha / rank * B A on the named linear maps."""

    rank: int = Field(default=8, ge=1, le=1024)
    alpha: float = Field(default=32.0, gt=0, description="the update is scaled by alpha / rank")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of what goes into the adapters, in training")
    targets: list[str] | None = Field(
        default=None, min_length=1, description="names of linear maps; null: all of a block, see the family"
    )


class TrainSection(Section):
    """Optimisation. Batch sizes count per GPU; steps are optimizer steps."""

    method: Literal["full", "lora"] = "full"
    lora: LoraSection = LoraSection()
    learning_rate: float = Field(default=1e-5, gt=0)
    epochs: float = Field(default=1.0, gt=0)
    max_steps: int = Field(default=-1, description="stop after so many steps; -1: epochs decide")
    per_device_batch_size: int = Field(
        default=16, ge=1, description="examples a GPU and micro-step; packed, on average"
    )
    gradient_accumulation: int = Field(default=1, ge=1)
    precision: Literal["fp32", "fp16", "bf16"] = "fp16"
    device: Literal["cuda", "cpu", "auto"] = Field(
        default="cuda", description="auto: the CPU where a rank finds no GPU; for small recipes"
    )
    zero_stage: Literal[1, 2, 3] = 2
    deepspeed: str | None = Field(
        default=None, description="a DeepSpeed JSON of your own, instead of configs/deepspeed/"
    )
    optimizer_offload: bool = False
    activation_checkpointing: bool = True
    packing: bool = Field(default=True, description="several examples share a row, isolated from each other")
    pack_length: int = Field(default=1024, ge=16, description="positions of a packed row")
    scheduler: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    label_sop: bool = Field(default=False, description="the original's labels: <sop> is a target too")
    save_steps: int | Literal["auto"] = Field(
        default=1000,
        description="a committed checkpoint every so many steps, and at the end; auto: as often as is best, from the "
        "time that a save takes and jobs.mean_time_between_failures_hours",
    )
    save_total_limit: int = Field(default=2, ge=1)
    logging_steps: int = Field(default=10, ge=1)
    seed: int = 42

    @field_validator("save_steps", mode="before")
    @classmethod
    def _steps_or_auto(cls, value: Any) -> Any:
        if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
            return value
        raise ValueError("a number of steps from 1 on, or auto")


class ConsolidateSection(Section):
    """The ZeRO checkpoint becomes a model directory."""

    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    shard_size: str = Field(default=SHARD_SIZE, description="the largest weight file")
    allow_overflow: bool = Field(
        default=False, description="accept values that become inf in float16 (counted)"
    )
    adapter: Literal["merge", "keep"] = Field(
        default="merge",
        description="after LoRA: a whole model, or only the adapter beside the base model it names",
    )

    @field_validator("shard_size")
    @classmethod
    def _size(cls, value: str) -> str:
        try:
            parse_size(value)
        except BadInput:
            raise ValueError("a number and a unit, such as 5GB or 500MB") from None
        return value


class ScoreSection(Section):
    """Greedy answers on the dev rows, judged; base and fine-tuned model."""

    rows: int | None = Field(default=1000, description="the first so many dev rows; null: all of them", ge=1)
    base: bool = Field(default=True, description="score the base model too")
    max_new_tokens: int = Field(default=512, ge=1)
    batch_size: int | Literal["auto"] = "auto"
    shards: int | Literal["auto"] = Field(
        default="auto", description="parts scored side by side; auto: one a GPU"
    )
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"


class Limits(Section):
    """What one job asks of Slurm."""

    time: str = Field(
        default="24:00:00",
        coerce_numbers_to_str=True,
        description="Slurm's time form: D-HH:MM:SS, HH:MM:SS, MM",
    )
    cpus_per_task: int = Field(default=8, ge=1)
    memory: str | None = Field(
        default=None, description="memory a node, as Slurm writes it; null: the node's share"
    )

    @field_validator("time")
    @classmethod
    def _time_form(cls, value: str) -> str:
        import re

        if not re.fullmatch(r"(\d+-)?\d{1,4}(:\d{2}){0,2}", value):
            raise ValueError('a Slurm time such as "24:00:00", "2-00:00:00" or "90" (minutes)')
        return value

    @field_validator("memory")
    @classmethod
    def _memory_form(cls, value: str | None) -> str | None:
        import re

        if value is not None and not re.fullmatch(r"\d+[KMGT]?", value):
            raise ValueError('a Slurm memory size such as "200G"')
        return value


class JobsSection(Section):
    """Time and memory of each job, and when to give up."""

    train: Limits = Limits(time="24:00:00", cpus_per_task=8)
    consolidate: Limits = Limits(time="01:00:00", cpus_per_task=8, memory="16G")
    score: Limits = Limits(time="06:00:00", cpus_per_task=8)
    report: Limits = Limits(time="00:15:00", cpus_per_task=1, memory="4G")
    signal_seconds: int = Field(
        default=600, ge=5, description="warning before the time limit: one save must fit"
    )
    mean_time_between_failures_hours: float = Field(
        default=24, gt=0, description="of the whole job, all its nodes together; for train.save_steps: auto"
    )
    max_attempts_without_progress: int = Field(default=3, ge=1)
    heartbeat_seconds: int = Field(
        default=900,
        ge=5,
        description="a rank silent for so long hangs: a step, a save, reading the data must fit",
    )


class Recipe(Section):
    """All of it. Sections are named after what they configure."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    model: ModelSection
    data: DataSection
    train: TrainSection = TrainSection()
    consolidate: ConsolidateSection = ConsolidateSection()
    score: ScoreSection = ScoreSection()
    jobs: JobsSection = JobsSection()


def load(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file and apply ``a.b=c`` overrides (values are YAML).

    Raises:
        BadInput: one line naming the file, the field, and the nearest valid field or the value expected.
    """
    return parse(read_yaml(Path(path), "recipe"), source=str(path), overrides=overrides)


# libyaml's loader, where PyYAML was built with it: ten times faster
class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML 1.1 but for its numbers to the base 60: there 12:00:00 is 43200, and 08:00:00 a text."""

    def number(self, node: yaml.ScalarNode) -> Any:
        """A number, or the text where it has colons."""
        if ":" in node.value:
            return node.value
        floating = node.tag.endswith("float")
        return self.construct_yaml_float(node) if floating else self.construct_yaml_int(node)


for _tag in ("int", "float"):
    Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", Loader.number)


def parse(raw: dict[str, Any], source: str = "recipe", overrides: list[str] | None = None) -> Recipe:
    """Validate a mapping as a recipe. ``source`` is only named in errors."""
    for item in overrides or []:
        apply_override(raw, item)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise BadInput(f"{source}: {explain(error, Recipe)}") from None


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """A YAML mapping from a file; every way it can be wrong is one line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(f"{path}: no such {what} file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot read this {what}: {error}") from None
    try:
        raw = yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}" if where else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise BadInput(f"{path}:{line} not valid YAML: {problem}") from None
    if not isinstance(raw, dict):
        raise BadInput(f"{path}: a {what} is a YAML mapping with sections, not {type(raw).__name__}")
    return raw


def apply_override(raw: dict[str, Any], item: str) -> None:
    """Apply one ``a.b=value`` to a nested mapping, in place; the value is read as YAML."""
    dotted, eq, text = item.partition("=")
    keys = dotted.strip().split(".")
    if not eq or not all(keys):
        raise BadInput(f"--set {item!r}: write section.field=value, for example train.learning_rate=2e-5")
    if len(text.splitlines()) > 1 or any("\ud800" <= c <= "\udfff" for c in item):
        raise BadInput(f"--set {item[:80]!r}: a value is one line of UTF-8 text")
    try:
        value = yaml.load(text, Loader=Loader) if text else None
    except yaml.YAMLError:
        value = text
    if isinstance(value, str) and text.strip(" \t")[:1] not in ("'", '"'):
        value = text.strip(" \t")  # a # is no comment here, a ! no tag
    if isinstance(value, str):  # YAML 1.1 reads 2e-5 as text
        with contextlib.suppress(ValueError):
            value = float(value) if any(c in value for c in "eE.") else value
    here = raw
    for depth, key in enumerate(keys[:-1]):
        nested = here.get(key)
        if nested is None:
            nested = here[key] = {}
        if not isinstance(nested, dict):
            raise BadInput(f"--set {item!r}: {'.'.join(keys[: depth + 1])} is a value, not a section")
        here = nested
    here[keys[-1]] = value


def explain(error: ValidationError, schema: type[BaseModel]) -> str:
    """The first problem of a validation, in one line with the nearest valid field where one is unknown."""
    first = error.errors(include_url=False)[0]
    # A union adds the name of the branch it tried to the location; the schema has no field of that name.
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        names = list(field_names(schema))
        near = difflib.get_close_matches(where, names, n=1, cutoff=0.4)
        if not near:
            last = where.rsplit(".", 1)[-1]
            near = [
                n
                for n in names
                if n.rsplit(".", 1)[-1]
                in difflib.get_close_matches(last, [n.rsplit(".", 1)[-1] for n in names], n=1, cutoff=0.5)
            ][:1]
        hint = (
            f"; did you mean {near[0]}?" if near else f"; valid: {', '.join(list(schema.model_fields)[:12])}"
        )
        return f"unknown field {where}{hint}"
    if first["type"] == "missing":
        return f"missing field {where}"
    message = first["msg"].removeprefix("Value error, ")
    got = repr(first.get("input"))
    got = got if len(got) <= 60 else got[:57] + "..."
    prefix = f"{where} = {got}: " if where and not isinstance(first.get("input"), dict) else ""
    word = message.split(" ")[0]
    message = message[:1].lower() + message[1:] if word[1:].islower() or len(word) == 1 else message
    return f"{prefix}{message}"


def field_names(schema: type[BaseModel], prefix: str = "") -> list[str]:
    """Every field of a schema, dotted, sections included."""
    names: list[str] = []
    for name, field in schema.model_fields.items():
        names.append(prefix + name)
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                names += field_names(kind, f"{prefix}{name}.")
    return names
