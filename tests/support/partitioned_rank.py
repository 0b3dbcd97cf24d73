"""One rank that loads a model under ZeRO-3, for tests of it.

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=… MASTER_PORT=… python tests/support/partitioned_rank.py MODEL_DIR [MODEL_DIR …]

Prints a line of JSON for each directory: bytes of this rank's parts, of the whole and of its largest parameter; the
most anonymous memory that loading took; what differs from the model as it loads elsewhere; or why it does not load.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import torch

from glmjobs.compat import prepare_cpu_training
from glmjobs.models import load_model
from glmjobs.models.family import family_for
from hpc.core.errors import BadInput
from tests.support.memory import anonymous

CONFIG = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}


def main(directories: list[str]) -> None:
    torch.distributed.init_process_group("gloo")
    prepare_cpu_training()
    import deepspeed
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    deepspeed.init_distributed(dist_backend="gloo")
    for directory in directories:
        try:
            whole = load_model(directory, "float32") if "sparse" not in Path(directory).name else None
        except BadInput:
            whole = None
        partitions = HfDeepSpeedConfig(CONFIG)  # ZeRO-3 is on while it lives
        print(json.dumps(loaded(directory, whole)), flush=True)
        del partitions


def loaded(directory: str, whole: Any) -> dict[str, Any]:
    import deepspeed

    family_for(directory).model_class()  # what is imported takes memory, too
    before, peak, over = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.002):
            peak[0] = max(peak[0], anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        model = load_model(directory, "float32")
        held = anonymous()
    except BadInput as error:
        return {"refused": str(error)}
    finally:
        over.set()
        watcher.join()
    peak[0] = max(peak[0], held)
    differs = []
    wanted = dict(whole.named_parameters()) if whole is not None else {}
    for name, parameter in model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            if whole is not None and not torch.equal(parameter.data, wanted.pop(name).data):
                differs.append(name)
    sizes = [4 * parameter.ds_numel for parameter in model.parameters()]
    return {
        "share": sum(4 * parameter.ds_tensor.numel() for parameter in model.parameters()),
        "whole": sum(sizes), "largest": max(sizes), "peak": peak[0] - before,
        "differs": [*differs, *wanted], "tied": model.lm_head.weight is model.get_input_embeddings().weight,
    }  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # gloo's threads end some processes with SIGABRT
