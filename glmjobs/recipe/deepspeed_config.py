"""From a recipe to DeepSpeed's configuration. No torch: plans read it too."""

from __future__ import annotations

import json
from typing import Any

from glmjobs.recipe.loading import find_config
from glmjobs.recipe.schema import TrainSection
from hpc.core.errors import BadInput
from hpc.core.resources import resource


def deepspeed_config(train: TrainSection) -> dict[str, Any]:
    """The DeepSpeed configuration: the recipe's own file, or ``configs/deepspeed/zeroN.json`` with its offload choice.

    Raises:
        BadInput: the file is absent or not a JSON object.
    """
    own = resource(f"configs/deepspeed/zero{train.zero_stage}.json", "glmjobs")
    path = find_config(train.deepspeed) if train.deepspeed else own
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such DeepSpeed configuration (train.deepspeed)") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read (train.deepspeed): {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not valid JSON (train.deepspeed): {error}") from None
    if not isinstance(config, dict):
        raise BadInput(f"{path}: a DeepSpeed configuration is a JSON object")
    if train.optimizer_offload:
        config.setdefault("zero_optimization", {})["offload_optimizer"] = {
            "device": "cpu",
            "pin_memory": True,
        }
    return config
