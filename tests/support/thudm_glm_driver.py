"""Runs in the `thudm` stack (transformers 4.27.1), never imported by the tests: GLM-10B's remote code.

    PYTHONPATH=CODE python thudm_glm_driver.py MODEL_DIR PROMPTS.json OUT.pt

CODE holds modeling_glm.py and configuration_glm.py. Written to OUT.pt: logits and greedy tokens, by
whole rows with positions and masks as the original's tokenizer makes them.
"""

import json
import sys

import torch
from modeling_glm import GLMForConditionalGeneration

NEW_TOKENS = 24


def layout(context: int, mask_at: int, length: int) -> tuple:
    """Positions [1, 2, length] and visibility [1, 1, length, length]; <sop> stands at ``context``."""
    positions = [*range(context), *([mask_at] * (length - context))]
    blocks = [*([0] * context), *range(1, length - context + 1)]
    visible = torch.ones(length, length).tril()
    visible[:, :context] = 1
    return torch.tensor([[positions, blocks]]), visible[None, None]


def main(directory: str, prompts_file: str, out_file: str) -> None:
    with open(prompts_file, encoding="utf-8") as file:  # noqa: PTH123 (one idea, no helpers)
        given = json.load(file)
    model = GLMForConditionalGeneration.from_pretrained(directory).float().eval()
    result = {"logits": [], "alone": []}
    with torch.no_grad():
        for row in given["rows"]:
            context = row.index(given["sop"])
            mask_at = next(i for i, token in enumerate(row) if token in given["masks"])
            ids = torch.tensor([row])
            for step in range(NEW_TOKENS):
                positions, visible = layout(context, mask_at, ids.shape[1])
                logits = model(input_ids=ids, position_ids=positions, attention_mask=visible).logits
                if step == 0:
                    result["logits"].append(logits[0])
                ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
            result["alone"].append(ids[0, len(row) :].tolist())
    torch.save(result, out_file)


if __name__ == "__main__":
    main(*sys.argv[1:])
