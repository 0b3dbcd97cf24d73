"""The cluster profile: where to run. Partition, account, GPU type, modules, environment, limits.

One YAML in ``configs/clusters/``. Nothing about a site lives in code: what differs between clusters is a field here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, field_validator, model_validator

from hpc.batch import sbatch_options
from hpc.core import config_files
from hpc.core.config_files import NAME, Closed
from hpc.core.errors import BadInput
from hpc.core.files import write_atomic
from hpc.core.secrets import is_secret_name, looks_like_secret

FEATURES = re.compile(r"[A-Za-z0-9_.:@%+=/,&|*()\[\]-]+\Z")
"""What a constraint is made of: features, & and |, groups, counts (sbatch's manual, --constraint)."""

PLAIN = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.,:@%+=/\[\]-]*\Z")


OF_THE_SHELL = {
    f"SBATCH_{field.upper()}": field for field in ("partition", "account", "qos", "reservation", "constraint")
}
"""sbatch's input environment variables that stand for fields of a profile."""


class Nccl(Closed):
    """How the nodes reach each other, where NCCL and gloo would choose wrongly by themselves."""

    interface: str | None = Field(
        default=None, description='network interface(s) by prefix, "ib0" or "=eno1": NCCL_SOCKET_IFNAME'
    )
    hca: str | None = Field(default=None, description='InfiniBand adapters, "mlx5_0,mlx5_1": NCCL_IB_HCA')
    infiniband: bool | None = Field(default=None, description="false: NCCL_IB_DISABLE=1")
    debug: Literal["WARN", "INFO", "TRACE"] | None = Field(default=None, description="NCCL_DEBUG")

    @field_validator("interface", "hca")
    @classmethod
    def _list(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[\^=]{0,2}[A-Za-z0-9_.:,-]+", value):
            raise ValueError(f'{value!r} is not a list such as "ib0" or "mlx5_0,mlx5_1"')
        return value

    def variables(self) -> dict[str, str]:
        """As NCCL's and gloo's environment variables (NCCL user guide, "Environment Variables")."""
        found: dict[str, str] = {}
        if self.interface:
            found["NCCL_SOCKET_IFNAME"] = self.interface
            if not self.interface.startswith("^"):  # gloo takes one exact name
                found["GLOO_SOCKET_IFNAME"] = self.interface.lstrip("=").split(",")[0]
        if self.hca:
            found["NCCL_IB_HCA"] = self.hca
        if self.infiniband is not None:
            found["NCCL_IB_DISABLE"] = "0" if self.infiniband else "1"
        if self.debug:
            found["NCCL_DEBUG"] = self.debug
        return found


class Container(Closed):
    """The stages run inside an image; Slurm's commands and the batch script stay outside."""

    runtime: Literal["apptainer", "singularity", "pyxis"] = Field(
        description="apptainer/singularity: `apptainer exec` in front of each task; pyxis: `srun --container-image`"
    )
    image: str = Field(
        description="a .sif or .sqsh file by its absolute path, or a reference such as docker://…"
    )
    mounts: tuple[str, ...] = Field(
        default=(), description="SOURCE[:TARGET[:ro|rw]], besides the run directory and the project"
    )
    python: str = Field(default="python", description="Python inside the image")
    options: tuple[str, ...] = Field(default=(), description="further words for the runtime, as they are")

    @field_validator("image")
    @classmethod
    def _image(cls, value: str) -> str:
        reference = r"([a-z-]+://)?[A-Za-z0-9_][A-Za-z0-9_.:/@#+-]*"
        if "\n" in value or not (value.startswith("/") or re.fullmatch(reference, value)):
            raise ValueError(
                f"{value!r} is neither an absolute path nor a reference such as docker://org/name:tag"
            )
        return value

    @field_validator("mounts")
    @classmethod
    def _mounts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for mount in value:
            if not re.fullmatch(r"/[^:,\n]*(:/[^:,\n]*)?(:r[ow])?", mount):
                raise ValueError(f'{mount!r} is not a mount such as "/data" or "/scratch:/scratch:ro"')
        return value

    @field_validator("options")
    @classmethod
    def _options(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in value:
            if "\n" in word or "\0" in word:
                raise ValueError(f"{word!r}: an option is one line")
        return value


class Floor(Closed):
    """What a node must offer before the model loads (:mod:`hpc.health.checks`). null: reported, not demanded."""

    driver: str | None = Field(default=None, pattern=r"^\d+(\.\d+)*$", description="oldest driver, 515.65.01")
    cuda: str | None = Field(
        default=None, pattern=r"^\d+(\.\d+)*$", description="CUDA runtime as loaded; 11.7 takes 11.7.99 too"
    )
    nccl: str | None = Field(
        default=None, pattern=r"^\d+(\.\d+)*$", description="NCCL as loaded; 2.14 takes 2.14.3 too"
    )
    cudnn: str | None = Field(
        default=None, pattern=r"^\d+(\.\d+)*$", description="cuDNN as loaded; 8 takes any 8.x"
    )
    libraries: bool = Field(
        default=True, description="ask CUDA, NCCL and cuDNN for their versions on GPU nodes"
    )
    wait_seconds: float = Field(
        default=120, gt=0, description="how long node 0 waits for the other nodes' reports"
    )
    write_mb_s: float = Field(
        default=0, ge=0, description="writing to the run directory with fsync, MB/s a node"
    )
    scratch: str | None = Field(default=None, description="node-local directory that must be writable, /tmp")
    scratch_gb: float = Field(default=1, ge=0, description="room there, GB")
    clock_seconds: float = Field(
        default=5, gt=0, description="largest difference of a node's clock from node 0's"
    )
    allreduce_gb_s: float | None = Field(
        default=None, gt=0, description="all-reduce bus bandwidth over all ranks, GB/s; null: only measured"
    )
    allreduce_mb: int = Field(
        default=256, ge=1, le=16384, description="message size of that measurement, MiB"
    )
    requeues: int = Field(default=3, ge=0, description="how often a job starts again without nodes found bad")

    @field_validator("scratch")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith("/"):
            raise ValueError(f"{value!r}: an absolute path")
        return value


class Environment(Closed):
    """What a job's shell must have before Python starts."""

    module_init: str | None = Field(
        default=None,
        description="script that defines `module` in a batch shell; null: the usual places are looked through",
    )
    modules: tuple[str, ...] = Field(
        default=(), description="loaded in this order, each checked to be loaded"
    )
    python: str | None = Field(
        default=None,
        description="virtual environment or prefix with bin/python; null: the submitting Python's",
    )
    variables: dict[str, str] = Field(default_factory=dict, description="exported as they are, quoted")
    nccl: Nccl | None = None
    container: Container | None = None

    @field_validator("module_init", "python")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        if value is not None and not (value.startswith("/") and "\n" not in value):
            raise ValueError(f"{value!r}: an absolute path (of a prefix with bin/python; of a script)")
        return value

    @field_validator("modules")
    @classmethod
    def _module_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not PLAIN.match(name):
                raise ValueError(f'{name!r} is not a module name such as "cuda/11.7"')
        return value

    @field_validator("variables")
    @classmethod
    def _variable_names(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"{name!r} is not a variable name")
            if "\n" in text or "\0" in text:
                raise ValueError(f"{name}: a value is one line")
            if is_secret_name(name) or looks_like_secret(text):
                raise ValueError(
                    f"{name}: secrets never go into a profile; stage what needs them on the login node"
                )
        return value


class Measured(Closed):
    """What a job found the cluster to do; :func:`add_measured` appends it, whoever plans reads it."""

    time: str = Field(description="when it was measured")
    what: str = Field(description="of which work: a model's name")
    nodes: int = Field(ge=1)
    gpus: int = Field(ge=1, description="on each node")
    layers: int | None = Field(
        default=None,
        ge=1,
        description="of the model's layers, the first so many ran; the rest is what all of them would take",
    )
    utilisation: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="share of a GPU's peak at which it computes, recomputation included",
    )
    mfu: float | None = Field(default=None, gt=0, description="the same without it: model FLOPs utilisation")
    tokens_per_s: float | None = Field(default=None, gt=0, description="of all GPUs together")
    peak_gpu_gb: float | None = Field(default=None, gt=0, description="of the fullest GPU")
    load_seconds: float | None = Field(
        default=None, gt=0, description="from a process' start to its first step"
    )
    write_gb_s: float | None = Field(default=None, gt=0, description="a checkpoint's bytes over its seconds")
    allreduce_gb_s: float | None = Field(default=None, gt=0, description="bus bandwidth over all ranks")


class Profile(Closed):
    """Where to run."""

    name: str = Field(default="generic", pattern=NAME)
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    exclude: str | None = Field(
        default=None, description='nodes never to use, as Slurm writes them: "node[3,7]"'
    )
    gpu_type: str | None = Field(default=None, description="GRES type, as in gpu:a100:8; null: any")
    gpu_request: Literal["gres", "gpus-per-node", "gpus", "none"] = Field(
        default="gres",
        description="--gres works on every release; --gpus-per-node and --gpus (of all nodes together) need cons_tres; "
        "none: Slurm knows no GPUs here, whole nodes are asked for (--exclusive)",
    )
    gpu_gres: str = Field(
        default="gpu",
        pattern=r"^[A-Za-z0-9_-]+$",
        description='the GRES that stands for GPUs, where the site has named it otherwise: "dcu" (gpu_request: gres)',
    )
    memory_request: Literal["mem", "mem-per-cpu", "mem-per-gpu", "none"] = Field(
        default="mem", description="how a job's memory of a node is asked for; none: the site's own limit"
    )
    gpu_memory_gb: int = Field(default=80, ge=1, description="memory of one GPU, GB; the plan is made for it")
    requeue: bool = Field(
        default=True,
        description="jobs put themselves back into the queue, to go on after their time limit; false: the site refuses "
        "that (--no-requeue), and such a job waits for a repair, or for the next of its queued attempts",
    )
    cpu_partition: str | None = Field(default=None, description="where jobs without GPUs go; null: partition")
    cpu_job_gpus: int = Field(
        default=0,
        ge=0,
        description="GPUs that a job which needs none asks for, where its partition refuses it otherwise; nothing "
        "where there is a cpu_partition",
    )
    mail: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_.+-]+(@[A-Za-z0-9.-]+)?$",
        description="whom Slurm writes to when the chain has ended, or a job of it has failed and waits for somebody",
    )
    sbatch: dict[str, str | dict[str, str]] = Field(
        default_factory=dict,
        description='further options of sbatch: {licenses: "scratch:1", exclusive: true}; of one job under its name: '
        "{train: {nice: 100}}",
    )
    login: str | None = Field(
        default=None,
        description="user@host, or a host of ~/.ssh/config: what is typed here is done there, over ssh",
    )
    remote_dir: str | None = Field(
        default=None,
        description="with login: the directory there in which commands run, such as a checkout; from the home "
        "directory, or absolute. Python is environment.python, else .venv there, else python3",
    )
    environment: Environment = Environment()
    preflight: Floor = Floor()
    measured: tuple[Measured, ...] = Field(
        default=(), description="what rehearsals found it to do, oldest first; written by them"
    )

    @field_validator("login")
    @classmethod
    def _login(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(
            r"([A-Za-z0-9_][^@\s:/]*@)?[A-Za-z0-9_][A-Za-z0-9_.-]*", value
        ):
            raise ValueError(
                f"{value!r} is not a login such as me@cluster.example.org (a port: in ~/.ssh/config)"
            )
        return value

    @field_validator("remote_dir")
    @classmethod
    def _remote_dir(cls, value: str | None) -> str | None:
        if value is not None and (not value.strip() or "\n" in value):
            raise ValueError(f"{value!r} is not a directory")
        return None if value is None else value.removeprefix("~/") or "."

    @model_validator(mode="after")
    def _login_and_place(self) -> Profile:
        if self.login is not None and self.remote_dir is None:
            raise ValueError(f"login = {self.login!r}: name the directory there as well: remote_dir: glmjobs")
        return self

    @model_validator(mode="after")
    def _name_of_gpus(self) -> Profile:
        """Slurm counts GPUs for these options by the GRES ``gpu``; under another name it refuses each such job."""
        asked = (("gpu_request", self.gpu_request, "gres"), ("memory_request", self.memory_request, "mem"))
        for name, value, instead in asked:
            if self.gpu_gres != "gpu" and value in ("gpus", "gpus-per-node", "mem-per-gpu"):
                raise ValueError(
                    f"gpu_gres = {self.gpu_gres!r}: {name} = {value!r} counts GPUs that are called gpu; "
                    f"{name}: {instead} fits"
                )
        return self

    @field_validator("gpu_type")
    @classmethod
    def _gres_type(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9_.-]+", value):
            raise ValueError(f"{value!r} is not the type of a GPU, such as a100")
        return value

    @field_validator("sbatch", mode="before")
    @classmethod
    def _options(cls, value: object) -> object:
        """A mapping; also a list as a command line has it: ["--licenses=scratch:1"]."""
        return sbatch_options.read(value)

    def options_of(self, job: str) -> dict[str, str]:
        """The further options of one job by its stage; "" for those without a value."""
        own = self.sbatch.get(job)
        common = {name: text for name, text in self.sbatch.items() if isinstance(text, str)}
        return {**common, **own} if isinstance(own, dict) else common

    @field_validator("constraint")
    @classmethod
    def _features(cls, value: str | None) -> str | None:
        if value is None:
            return None
        pairs = all(value.count(left) == value.count(right) for left, right in ("()", "[]"))
        if not FEATURES.match(value) or not pairs or value.startswith("-"):
            raise ValueError(f'{value!r} is not a constraint such as "a100", "gpu&hbm80g" or "[rack1|rack2]"')
        return value

    @field_validator("partition", "account", "qos", "reservation", "exclude", "gpu_type", "cpu_partition")
    @classmethod
    def _plain(cls, value: str | None) -> str | None:
        if value is not None and not PLAIN.match(value):
            raise ValueError(f"{value!r} is not a name Slurm could have")
        return value


def load(path: Path, overrides: Sequence[str] = ()) -> Profile:
    """A cluster profile from a file, with ``field=value`` overrides.

    Raises:
        BadInput: one line naming the file, the field and what would be right.
    """
    return config_files.load(Profile, path, "cluster profile", overrides)


def add_measured(path: Path, found: Measured) -> None:
    """Append to a profile's file what was measured, in one line; all else in it stays as it is, comments too.

    Raises:
        BadInput: the file cannot be written, or is not in the usual form (top-level fields at the line's start).
    """
    values = found.model_dump(mode="json", exclude_none=True)
    entry = "- " + json.dumps(values, ensure_ascii=False)  # JSON is YAML, on one line
    lines = path.read_text(encoding="utf-8").splitlines()
    at = next((n for n, line in enumerate(lines) if line.startswith("measured:")), None)
    if at is None:
        lines += ["", "measured:  # by rehearsals, oldest first", entry]
    else:
        end = at + 1
        while end < len(lines) and lines[end][:1] in ("-", " "):
            end += 1
        lines.insert(end, entry)
    text = "\n".join(lines) + "\n"
    try:
        config_files.validate(Profile, yaml.safe_load(text), source=f"{path} with what was measured")
        write_atomic(path, text)
    except yaml.YAMLError:
        raise BadInput(f"{path}: what was measured cannot be appended to it; the line: {entry}") from None
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; the line for its measured: {entry}") from None


def from_shell(profile: Profile, environ: Mapping[str, str]) -> tuple[Profile, list[str]]:
    """The profile with what it leaves open taken from sbatch's own variables, and notes about those that are not used.

    sbatch's order of precedence: what is given (here: the profile) wins over the environment.

    Raises:
        BadInput: a value is no name that Slurm could have.
    """
    found = {name: environ[name] for name in OF_THE_SHELL if environ.get(name)}
    taken = {OF_THE_SHELL[n]: v for n, v in found.items() if getattr(profile, OF_THE_SHELL[n]) is None}
    notes = [
        f"{name}={value} of this shell is not used: the profile says {OF_THE_SHELL[name]}: {said}"
        for name, value in found.items()
        if (said := getattr(profile, OF_THE_SHELL[name])) not in (None, value)
    ]
    others = sorted(
        n for n in environ if n.startswith("SBATCH_") and n not in OF_THE_SHELL and n != "SBATCH_CLUSTERS"
    )
    if others:
        notes.append(f"{', '.join(others)} of this shell: not used, recipe and profile say what jobs ask for")
    raw = {**profile.model_dump(mode="json"), **taken}
    return config_files.validate(Profile, raw, source="SBATCH_* of this shell"), notes
