"""Runs in the `thudm` stack (transformers 4.27.1), never imported by the tests: THUDM's own code on a model
directory.

    python thudm_driver.py MODEL_DIR PROMPTS.json OUT.pt

MODEL_DIR holds THUDM's Python files beside our weights, and is loaded as its users do. Written to OUT.pt: the
logits of every prompt alone, greedy tokens alone and in a left-padded batch, logits of a right-padded batch,
chat's answers, and of the texts in PROMPTS.json (where there are any) the ids, and what these decode to.
"""

import json
import sys

import torch
from transformers import AutoModel, AutoTokenizer

NEW_TOKENS = 24


def main(directory: str, prompts_file: str, out_file: str) -> None:
    with open(prompts_file, encoding="utf-8") as file:  # noqa: PTH123 (one idea, no helpers)
        given = json.load(file)
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=True)
    model = AutoModel.from_pretrained(directory, trust_remote_code=True).float().eval()
    rows = given["rows"]
    options = {"do_sample": False, "num_beams": 1}
    result = {"logits": [], "alone": [], "chat": []}
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([row])
            result["logits"].append(model(input_ids=ids).logits[0])
            out = model.generate(ids, max_length=len(row) + NEW_TOKENS, **options)
            result["alone"].append(out[0, len(row) :].tolist())
        batch = tokenizer.pad({"input_ids": rows}, padding=True, return_tensors="pt")
        longest = batch["input_ids"].shape[1]
        out = model.generate(**batch, max_length=longest + NEW_TOKENS, **options)
        result["batch"] = out[:, longest:].tolist()
        right = torch.full((len(rows), longest), model.config.pad_token_id)
        for i, row in enumerate(rows):
            right[i, : len(row)] = torch.tensor(row)
        logits = model(input_ids=right).logits
        result["right"] = [logits[i, : len(row)] for i, row in enumerate(rows)]
        for query, history in given["chats"]:
            answer, _ = model.chat(
                tokenizer, query, history=[tuple(t) if isinstance(t, list) else t for t in history],
                max_length=given.get("max_length", 128), do_sample=False,
            )  # fmt: skip
            result["chat"].append(answer)
    texts = given.get("texts", [])
    result["ids"] = [tokenizer(text)["input_ids"] for text in texts]
    # 4.27.1 takes this from the call alone, later ones from the tokenizer, which says False
    options = {"clean_up_tokenization_spaces": False}
    result["decoded"] = [tokenizer.decode(ids, **options) for ids in given.get("ids", [])]
    torch.save(result, out_file)


if __name__ == "__main__":
    main(*sys.argv[1:])
