"""The recipe: what to train, on what, how, and how to score it. One YAML, checked against one schema.

Read it as a newcomer would: :class:`Recipe` holds one section per stage; every field is documented where it stands,
with its unit.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, field_validator, model_validator

from glmjobs.scoring.judges import JUDGES, Endpoint, JudgeName, Judging
from glmjobs.scoring.judges.options import wrong_names, wrong_url
from glmjobs.text import SHARD_SIZE, parse_size
from hpc.core.config_files import NAME, Closed
from hpc.core.errors import BadInput
from hpc.core.sizes import slurm_seconds


class Section(Closed):
    """A part of the recipe: keyword-only, closed (no unknown fields), immutable."""

    model_config = ConfigDict(coerce_numbers_to_str=True)  # to YAML a column called 0 is a number


Tracker = Literal["wandb", "swanlab", "mlflow"]
TRACKERS: tuple[Tracker, ...] = get_args(Tracker)

LONGEST_WARNING = 65_535
"""Seconds that sbatch takes in ``--signal`` (its manual)."""

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

    rows: int = Field(default=6000, ge=20, le=1_000_000)
    seed: Seed = 0


class SourceSection(Section):
    """One of several sources of data."""

    name: str = Field(pattern=NAME, description="what it is called in counts and scores")
    path: str = Field(description="as data.path")
    form: str = Field(default="auto", description="as data.form")
    dev_rows: str | None = Field(
        default=None, description='rows scored, never trained on: "1-500"; null: none'
    )
    weight: float = Field(
        default=1.0, gt=0, le=100,
        description="how often each of its train rows is read in an epoch; 0.5: a seeded half of them, 2: each twice",
    )  # fmt: skip
    rows: int | None = Field(
        default=None, ge=1, description="so many of its train rows instead, a seeded choice"
    )

    @field_validator("form")
    @classmethod
    def _known_form(cls, name: str) -> str:
        return _training_form(name)

    @model_validator(mode="after")
    def _one_amount(self) -> SourceSection:
        from glmjobs.data.splitting import Split

        Split.parse(self.dev_rows)
        if self.rows is not None and self.weight != 1.0:
            raise ValueError(f"data.sources: {self.name}: give weight or rows, not both")
        return self


class DataSection(Section):
    """Which rows, and which of them are for training and for scoring (rows count from 1, as lines of the file)."""

    path: str | None = Field(
        default=None,
        description="JSON lines, a JSON array, CSV or TSV (each also .gz), parquet, arrow, a directory that datasets "
        "saved, or hub id",
    )
    make: MadeProblems | None = None
    sources: tuple[SourceSection, ...] = Field(
        default=(),
        description="several at once, instead of path: [{name: belle, path: …, dev_rows: 1-500, weight: 1}, …]",
    )
    form: str = Field(
        default="auto",
        description="auto: found by looking, and said; or belle, alpaca, messages, sharegpt, … (docs/data.md)",
    )
    loss_on: Literal["all", "last"] = Field(
        default="all", description="of a conversation, learn all answers, or the last alone"
    )
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

    @field_validator("form")
    @classmethod
    def _known_form(cls, name: str) -> str:
        return _training_form(name)

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
        if sum((self.path is not None, self.make is not None, bool(self.sources))) != 1:
            raise ValueError("give exactly one of data.path, data.make and data.sources")
        return self

    def apart(self) -> tuple[DataSection, ...]:
        """Each source as a section of its own; this one, where there is one source."""
        own = (
            {"path": one.path, "form": one.form, "dev_rows": one.dev_rows, "sources": ()}
            for one in self.sources
        )
        return tuple(self.model_copy(update=changes) for changes in own) or (self,)

    @model_validator(mode="after")
    def _sources_agree(self) -> DataSection:
        if not self.sources:
            return self
        names = [source.name for source in self.sources]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"data.sources: two are called {twice!r}: give each a name of its own")
        if all(source.dev_rows is None for source in self.sources):
            raise ValueError("data.sources: none has dev_rows: name some rows to be scored")
        for name, value, default in (
            ("dev_rows", self.dev_rows, "1-10000"), ("train_rows", self.train_rows, "rest"),
            ("form", self.form, "auto"),
        ):  # fmt: skip
            if value != default:
                raise ValueError(f"data.{name} = {value}: with data.sources, say it of a source")
        return self


def _training_form(name: str) -> str:
    from glmjobs.data.forms import AUTO, TRAINING

    if name not in (AUTO, *TRAINING):
        raise ValueError(f"none of the forms of training data ({', '.join((AUTO, *TRAINING))})")
    return name


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
    freeze: tuple[str, ...] = Field(
        default=(),
        description="parts that stay as they are: embeddings, output, layers.0-15 (from 0), and names of linear maps "
        "as in lora.targets, in every block",
    )
    init_from: str | None = Field(
        default=None,
        description="an earlier run, by name or path: its consolidated model is where training starts, and the base "
        "model of this run, instead of model.path",
    )
    learning_rate: float = Field(default=1e-5, gt=0)
    epochs: float = Field(default=1.0, gt=0, le=100_000)
    max_steps: int = Field(default=-1, description="stop after so many steps; -1: epochs decide")
    per_device_batch_size: int = Field(
        default=16, ge=1, description="examples a GPU and micro-step; packed, on average"
    )
    gradient_accumulation: int = Field(default=1, ge=1)
    precision: Literal["fp32", "fp16", "bf16"] = Field(
        default="fp16",
        description="not named: the half precision that the family's weights were published in",
    )
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
    attention: Literal["auto", "pieces", "whole", "flex"] = Field(
        default="auto",
        description="of packed rows: a call an example, one call under the whole mask, or FlexAttention (GPU, torch "
        "2.5); auto: by piece on a CPU; on a GPU one layer is timed in each way when a training begins, and the run "
        "keeps the fastest",
    )
    compile: bool | Literal["auto"] = Field(
        default="auto",
        description="norms and MLPs by torch.compile (torch 2.5, packed rows, ZeRO-1 or 2); auto: on a GPU, where a "
        "layer that is compiled when a training begins is 5 % faster; the run keeps to it",
    )
    scheduler: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of each target that is spread over the whole vocabulary; dev losses are without it",
    )
    neftune_alpha: float | None = Field(
        default=None,
        gt=0,
        description="uniform noise on the embeddings in training, at most alpha / sqrt(positions of a row * hidden "
        "size) (NEFTune, arXiv:2310.05914, which has 5 to 15)",
    )
    label_sop: bool = Field(default=False, description="the original's labels: <sop> is a target too")
    save_steps: int | Literal["auto"] = Field(
        default=1000,
        description="a committed checkpoint every so many steps, and at the end; auto: as often as is best, from the "
        "time that a save takes and jobs.mean_time_between_failures_hours",
    )
    save_total_limit: int = Field(default=2, ge=1)
    keep: Literal["last", "best"] = Field(
        default="last",
        description="the checkpoint that becomes the model; best: by train.metric; it is kept beside the newest, and "
        "saved where no save was due",
    )
    metric: Literal["dev_loss", "dev_token_accuracy", "dev_answers"] = Field(
        default="dev_loss", description="what train.keep: best and train.early_stop go by"
    )
    eval_steps: int | float | Literal["auto"] | None = Field(
        default=None,
        description="loss and token accuracy on dev rows every so many steps (1000), or parts of the training (0.1), "
        "before it and at its end; auto: with every save, or ten times where save_steps is auto; null: never",
    )
    eval_rows: int | None = Field(
        default=1000, ge=1, description="the first so many dev rows; null: all of them"
    )
    eval_answers: int = Field(
        default=0,
        ge=0,
        description="at each evaluation also answer the first so many dev rows, and mark the answers",
    )
    early_stop: int | None = Field(
        default=None,
        ge=1,
        description="end the training after so many evaluations in a row without a better one",
    )
    logging_steps: int = Field(default=10, ge=1)
    seed: Seed = 42

    @model_validator(mode="after")
    def _flex_needs_a_gpu(self) -> TrainSection:
        if self.attention == "flex" and self.device == "cpu":
            raise ValueError("train.attention is flex, which trains on GPUs alone, and train.device is cpu")
        return self

    @model_validator(mode="after")
    def _what_is_compiled(self) -> TrainSection:
        if self.compile is True and (self.zero_stage == 3 or not self.packing):
            raise ValueError("train.compile is true, which takes packed rows (train.packing) and ZeRO-1 or 2")
        return self

    @field_validator("freeze", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _lora_freezes_all(self) -> TrainSection:
        if self.freeze and self.method == "lora":
            raise ValueError(
                "train.freeze: with train.method = lora everything but the adapters is frozen already"
            )
        return self

    @property
    def kept_checkpoints(self) -> int:
        """Checkpoints that stay on disk: the newest, and the best where it is wanted."""
        return self.save_total_limit + (self.keep == "best")

    @field_validator("max_steps")
    @classmethod
    def _all_or_some(cls, value: int) -> int:
        if value == -1 or value >= 1:
            return value
        raise ValueError("a number of steps from 1 on, or -1: epochs decide")

    @field_validator("eval_steps", mode="before")
    @classmethod
    def _steps_share_or_auto(cls, value: Any) -> Any:
        if value is None or _count_or_auto(value) or (isinstance(value, float) and 0 < value < 1):
            return value
        raise ValueError("a number of steps from 1 on, a part of the training between 0 and 1, auto, or null")

    @model_validator(mode="after")
    def _evaluated(self) -> TrainSection:
        wants = "keep = best" if self.keep == "best" else f"early_stop = {self.early_stop}"
        if self.eval_steps is None and (self.keep == "best" or self.early_stop is not None):
            raise ValueError(f"train.{wants} needs evaluations: set train.eval_steps, such as auto")
        if self.metric == "dev_answers" and not self.eval_answers:
            raise ValueError("train.metric = dev_answers needs answers: set train.eval_answers, such as 200")
        return self

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


def _one_or_two_judges(value: Any) -> Any:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not names or not all(name in JUDGES for name in names):
        raise ValueError(f"one of {', '.join(JUDGES)}, or a list of two")
    if why := wrong_names(tuple(names)):
        raise ValueError(why)
    return names


class VerifierSection(Section):
    """The model that the judge ``verifier`` asks, behind an OpenAI-compatible server (vLLM, SGLang, an API).

    Its key, where it wants one, is read from the environment variable GLMJOBS_VERIFIER_KEY of the score job, and is
    never in a recipe.
    """

    url: str = Field(
        description="up to and with the version: http://HOST:PORT/v1; reachable from the score job"
    )
    model: str = Field(min_length=1, description="its name there, as CompassVerifier-7B")
    prompt: str | None = Field(
        default=None,
        description="that of the verifier's model card, with {question}, {gold} and {prediction} where they go; null: "
        "one for any chat model",
    )
    timeout_seconds: float = Field(default=60.0, gt=0, le=3600, description="for one reply")
    attempts: int = Field(default=5, ge=1, le=20, description="for one row; after that it is not marked")
    at_once: int = Field(default=8, ge=1, le=256, description="rows asked for side by side")

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        if why := wrong_url(value):
            raise ValueError(why)
        return value

    @field_validator("prompt")
    @classmethod
    def _has_places(cls, value: str | None) -> str | None:
        lacking = [name for name in ("{question}", "{gold}", "{prediction}") if value and name not in value]
        if lacking or value == "":
            raise ValueError(
                f"lacks {', '.join(lacking) or 'everything'}: these places are filled in for each row"
            )
        return value


class TestSetSection(Section):
    """A further test set, on which base and fine-tuned model are scored beside the dev rows: what was gained, and what
    was forgotten."""

    name: str = Field(pattern=NAME, description="what it is called in the report")
    path: str = Field(description="a test set's file or directory (docs/data.md), reachable from every node")
    form: str = Field(default="auto", description="auto: found by looking; or its name (docs/data.md)")
    judge: tuple[JudgeName, ...] | None = Field(
        default=None, description="null: the form's own (choice), else score.judge"
    )
    rows: int | None = Field(default=None, ge=1, description="the first so many; null: all of them")
    content: str | None = Field(
        default=None, description="digest of the questions as submit read them, which writes it here"
    )

    @field_validator("form")
    @classmethod
    def _known_form(cls, name: str) -> str:
        from glmjobs.data.forms import AUTO, NAMES

        if name not in (AUTO, *NAMES):
            raise ValueError(f"none of the forms of test sets ({', '.join((AUTO, *NAMES))})")
        return name

    @field_validator("judge", mode="before")
    @classmethod
    def _judges(cls, value: Any) -> Any:
        return value if value is None else _one_or_two_judges(value)


class ScoreSection(Section):
    """Greedy answers on the dev rows and further test sets, judged; base and fine-tuned model."""

    rows: int | None = Field(default=1000, description="the first so many dev rows; null: all of them", ge=1)
    base: bool = Field(default=True, description="score the base model too")
    max_new_tokens: int = Field(default=512, ge=1)
    batch_size: int | Literal["auto"] = "auto"
    shards: int | Literal["auto"] = Field(
        default="auto", description="parts scored side by side; auto: one a GPU"
    )
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    judge: tuple[JudgeName, ...] = Field(
        default=("meaning",),
        description="who marks: meaning, exact, choice, math-verify or verifier (docs/scoring.md); of two, [meaning, "
        "exact], the first decides the accuracy and the report shows where they disagree",
    )
    verifier: VerifierSection | None = Field(default=None, description="what the judge verifier asks")
    sets: tuple[TestSetSection, ...] = Field(
        default=(), description="further test sets: [{name: cmath, path: data/cmath.jsonl}, …]"
    )

    @field_validator("batch_size", "shards", mode="before")
    @classmethod
    def _number_or_auto(cls, value: Any) -> Any:
        if _count_or_auto(value):
            return value
        raise ValueError("a number from 1 on, or auto")

    @field_validator("judge", mode="before")
    @classmethod
    def _one_or_two(cls, value: Any) -> Any:
        return _one_or_two_judges(value)

    @model_validator(mode="after")
    def _verifier_is_told(self) -> ScoreSection:
        judges = {*self.judge, *(name for given in self.sets for name in given.judge or ())}
        if "verifier" in judges and self.verifier is None:
            raise ValueError(
                "score.judge: verifier asks a model: give score.verifier.url and score.verifier.model"
            )
        return self

    @model_validator(mode="after")
    def _sets_differ(self) -> ScoreSection:
        names = [given.name for given in self.sets]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"score.sets: two are called {twice!r}: give each a name of its own")
        if "dev" in names:
            raise ValueError("score.sets: dev is what the run's own dev rows are called: choose another name")
        return self

    def judging_of(self, given: TestSetSection, own: str) -> Judging:
        """The judges of a test set: those it names, else its form's ``own``, where that is another than by meaning."""
        of_form = tuple(name for name in JUDGES if name == own and own != "meaning")
        return Judging(given.judge or of_form or self.judge, self._endpoint)

    @property
    def judging(self) -> Judging:
        """The judges, as :mod:`glmjobs.scoring.evaluate` takes them."""
        return Judging(self.judge, self._endpoint)

    @property
    def _endpoint(self) -> Endpoint | None:
        return Endpoint(**self.verifier.model_dump()) if self.verifier else None


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
        """The time limit."""
        return slurm_seconds(self.time)


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
    lane: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$",
        description="of all your trainings in the lane of this name one runs at a time, in the order of submission",
    )
    signal_seconds: int = Field(
        default=600,
        ge=5,
        le=LONGEST_WARNING,
        description="warning before the time limit: one save must fit",
    )
    mean_time_between_failures_hours: float = Field(
        default=24, gt=0, description="of the whole job, all its nodes together; for train.save_steps: auto"
    )
    max_attempts_without_progress: int = Field(default=3, ge=1)
    heartbeat_seconds: int = Field(
        default=900,
        ge=5,
        description="a rank silent for so long hangs: a step, reading the data must fit; a save that grows is none",
    )


class Recipe(Section):
    """All of it. Sections are named after what they configure."""

    name: str = Field(default="run", pattern=NAME)
    model: ModelSection
    data: DataSection
    train: TrainSection = TrainSection()
    consolidate: ConsolidateSection = ConsolidateSection()
    score: ScoreSection = ScoreSection()
    jobs: JobsSection = JobsSection()
    track: tuple[Tracker, ...] = Field(
        default=(),
        description="where curves and scores are shown too: [wandb, swanlab, mlflow] (docs/trackers.md)",
    )

    @field_validator("track", mode="before")
    @classmethod
    def _trackers(cls, value: Any) -> Any:
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, (list, tuple)) or not all(name in TRACKERS for name in names):
            raise ValueError(f"one or more of {', '.join(TRACKERS)}, as track: [wandb]; [] for none")
        return list(dict.fromkeys(names))

    @model_validator(mode="before")
    @classmethod
    def _half_precision(cls, raw: Any) -> Any:
        """A type that is not named is the family's."""
        from glmjobs.models.family import families

        model = raw.get("model") if isinstance(raw, dict) else None
        family = families().get(str(model.get("family"))) if isinstance(model, dict) else None
        if family is None or family.half != "bfloat16":
            return raw
        filled = dict(raw)
        for section, field, value in (
            ("train", "precision", "bf16"), ("consolidate", "dtype", "bfloat16"), ("score", "dtype", "bfloat16"),
        ):  # fmt: skip
            given = filled.get(section, {})
            if isinstance(given, dict):
                filled[section] = {field: value, **given}
        return filled
