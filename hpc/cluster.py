"""The cluster profile: where to run. Partition, account, GPU type, modules, environment, limits; nothing of GLM.

One YAML in ``configs/clusters/``. Nothing about a site lives in code: what differs between clusters is a field here.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

PLAIN = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.,:@%+=/\[\]-]*$")


class Part(BaseModel):
    """A part of the profile: closed (no unknown fields) and immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Environment(Part):
    """What a job's shell must have before Python starts."""

    module_init: str | None = Field(
        default="/etc/profile.d/modules.sh", description="script that defines `module` in a batch shell"
    )
    modules: tuple[str, ...] = Field(
        default=(), description="loaded in this order, each checked to be loaded"
    )
    python: str | None = Field(
        default=None,
        description="virtual environment or prefix with bin/python; null: the submitting Python's",
    )
    variables: dict[str, str] = Field(default_factory=dict, description="exported as they are, quoted")

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
            if re.search(r"TOKEN|SECRET|PASSWORD|API_?KEY", name, re.I):
                raise ValueError(
                    f"{name}: secrets never go into a profile; stage what needs them on the login node"
                )
        return value


class ClusterProfile(Part):
    """Where to run."""

    name: str = Field(default="generic", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    exclude: str | None = Field(
        default=None, description='nodes never to use, as Slurm writes them: "node[3,7]"'
    )
    gpu_type: str | None = Field(default=None, description="GRES type, as in gpu:a100:8; null: any")
    gpu_request: Literal["gres", "gpus-per-node"] = Field(
        default="gres", description="--gres works on every release; --gpus-per-node needs cons_tres"
    )
    gpu_memory_gb: int = Field(default=80, ge=1, description="memory of one GPU, GB; the plan is made for it")
    cpu_partition: str | None = Field(default=None, description="where jobs without GPUs go; null: partition")
    environment: Environment = Environment()

    @field_validator(
        "partition", "account", "qos", "constraint", "reservation", "exclude", "gpu_type", "cpu_partition"
    )
    @classmethod
    def _plain(cls, value: str | None) -> str | None:
        if value is not None and not PLAIN.match(value):
            raise ValueError(f"{value!r} is not a name Slurm could have")
        return value
