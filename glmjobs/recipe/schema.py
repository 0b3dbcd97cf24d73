"""The recipe: what to train, on what, how, and how to score it. One YAML, checked against one schema.

Read it as a newcomer would: :class:`Recipe` holds one section per stage; every field is documented where it stands,
with its unit.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from glmjobs.text import SHARD_SIZE, parse_size
from hpc.core.config_files import Closed
from hpc.core.errors import BadInput


class Section(Closed):
    """A part of the recipe: keyword-only, closed (no unknown fields), immutable."""

    model_config = ConfigDict(coerce_numbers_to_str=True)  # to YAML a column called 0 is a number


Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What numpy takes for a seed."""


def _count_or_auto(value: Any) -> bool:
    return value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1)


class TinyModel(Section):
    """A small model of a family's architecture, made from a seed: for demos and tests, never for results."""

    family: str = Field(default="chatglm", description="one that makes small models, as chatglm")
    hidden_size: int = Field(default=128, ge=16)
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    vocab_size: int = Field(default=800, ge=400, description="pieces of the sentencepiece model made for it")
    max_positions: int = Field(default=512, ge=64)
    alpha: float = Field(
        default=56**0.5, gt=0, description="factor of the residual; sqrt(2 * 28) in ChatGLM-6B"
    )
    seed: Seed = 0

    @model_validator(mode="after")
    def _whole_heads(self) -> TinyModel:
        if self.hidden_size % (4 * self.heads):
            raise ValueError(
                f"model.make: hidden_size = {self.hidden_size} and heads = {self.heads}: a head has a multiple of 4"
            )
        return self

    @field_validator("family")
    @classmethod
    def _makes_small(cls, name: str) -> str:
        from glmjobs.models.family import families

        known = [family.name for family in families().values() if family.makes_small]
        if name not in known:
            raise ValueError(f"no family that makes small models; there is {', '.join(known)}")
        return name


class ModelSection(Section):
    """Which base model. Give ``path`` (a model directory) or ``make`` (a small one made on the spot)."""

    family: str = Field(
        default="chatglm", description="architecture: chatglm, glm, glm4, or one that was added"
    )
    path: str | None = Field(default=None, description="model directory, reachable from every node")
    make: TinyModel | None = None

    @model_validator(mode="after")
    def _one_source(self) -> ModelSection:
        if (self.path is None) == (self.make is None):
            raise ValueError("give exactly one of model.path and model.make")
        if self.make is not None and self.make.family != self.family:
            raise ValueError(f"model.family is {self.family}, model.make.family {self.make.family}: the same")
        return self

    @field_validator("family")
    @classmethod
    def _known(cls, name: str) -> str:
        from glmjobs.models.family import families

        if name not in families():
            raise ValueError(f"none of the families here ({', '.join(families())})")
        return name


class MadeProblems(Section):
    """A seeded set of Chinese arithmetic word problems in BELLE's form, for demos and tests."""

    rows: int = Field(default=6000, ge=20)
    seed: Seed = 0


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
    allow_dropped: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="share of the rows that may be unusable, too long, or lose a column such as history; above it "
        "nothing is trained",
    )

    @field_validator("query_column", mode="before")
    @classmethod
    def _none_is_empty(cls, value: Any) -> Any:
        return "" if value is None else value

    @model_validator(mode="after")
    def _row_ranges(self) -> DataSection:
        from glmjobs.data.splitting import Split

        split = Split.parse(self.dev_rows, self.train_rows)
        if self.make is not None and split.dev.highest > self.make.rows:
            raise ValueError(
                f"data.dev_rows = {self.dev_rows}: data.make.rows makes {self.make.rows} rows only"
            )
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
    activation_checkpointing: bool | Literal["auto"] = Field(
        default="auto",
        description="compute activations anew in the backward pass: a third more work, less memory; auto: only where "
        "plan finds no room for them, decided and said when a run is submitted",
    )
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
    seed: Seed = 42

    @field_validator("max_steps")
    @classmethod
    def _all_or_some(cls, value: int) -> int:
        if value == -1 or value >= 1:
            return value
        raise ValueError("a number of steps from 1 on, or -1: epochs decide")

    @field_validator("save_steps", mode="before")
    @classmethod
    def _steps_or_auto(cls, value: Any) -> Any:
        if _count_or_auto(value):
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

    @field_validator("batch_size", "shards", mode="before")
    @classmethod
    def _number_or_auto(cls, value: Any) -> Any:
        if _count_or_auto(value):
            return value
        raise ValueError("a number from 1 on, or auto")


class Limits(Section):
    """What one job asks of Slurm."""

    time: str = Field(
        default="24:00:00",
        coerce_numbers_to_str=True,
        description="Slurm's time form: D-HH:MM:SS, HH:MM:SS, MM",
    )
    cpus_per_task: int = Field(default=8, ge=1)
    memory: str | None = Field(
        default=None,
        description="memory a node, as Slurm writes it; null: the node's share; 0: all that the node has",
    )

    @field_validator("time")
    @classmethod
    def _time_form(cls, value: str) -> str:
        import re

        if not re.fullmatch(r"(\d+-)?\d{1,4}(:\d{2}){0,2}", value):
            raise ValueError('a Slurm time such as "24:00:00", "2-00:00:00" or "90" (minutes)')
        if not value.strip("0:-"):
            raise ValueError("more than 0, which to Slurm means no limit")
        return value

    @field_validator("memory")
    @classmethod
    def _memory_form(cls, value: str | None) -> str | None:
        import re

        if value is not None and not re.fullmatch(r"\d+[KMGT]?", value):
            raise ValueError('a Slurm memory size such as "200G"')
        return value

    @property
    def seconds(self) -> int:
        """The time limit, in the forms of sbatch's manual (--time): M, M:S, H:M:S, D-H, D-H:M, D-H:M:S."""
        days, dash, rest = self.time.rpartition("-")
        parts = [int(part) for part in rest.split(":")]
        if not dash and len(parts) < 3:
            parts = [0, *parts]
        hours, minutes, seconds = (*parts, 0, 0)[:3]
        return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


class TrainLimits(Limits):
    """What the train job asks of Slurm."""

    attempts: int = Field(
        default=1,
        ge=1,
        le=100,
        description="so many are queued from the start, one after the other, each going on where the one before "
        "stopped; those left over are cancelled. For clusters where no job may be queued again (cluster.requeue: "
        "false); 1: the job is queued again",
    )


class JobsSection(Section):
    """Time and memory of each job, and when to give up."""

    train: TrainLimits = TrainLimits(time="24:00:00", cpus_per_task=8)
    consolidate: Limits = Limits(time="01:00:00", cpus_per_task=8, memory="16G")
    score: Limits = Limits(time="06:00:00", cpus_per_task=8)
    report: Limits = Limits(time="00:15:00", cpus_per_task=1, memory="4G")
    share: str = Field(
        default="private",
        pattern=r"^(private|group(:[A-Za-z0-9_.-]+)?)$",
        description="who may read the run: private; group: also the group of the folder it is in, where you are in it, "
        "else your own; group:NAME",
    )
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
