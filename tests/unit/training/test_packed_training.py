"""Packing changes nothing that is learned: the same gradients at any packing, in every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glmjobs.data.collate import PackedCollator, PaddedCollator, segment_sizes
from glmjobs.models import load_model
from glmjobs.models.common.attention import Pieces
from glmjobs.models.common.packed import packed_inputs
from tests.support.small_families import PROMPTS, small


def examples(name: str, count: int = 7) -> list[tuple[list[int], list[int]]]:
    """Framed examples of different lengths: ids and labels, as the family places them."""
    rng = np.random.default_rng(3)
    made = []
    for _ in range(count):
        question, answer = rng.integers(5, 240, rng.integers(2, 9)), rng.integers(5, 240, rng.integers(2, 8))
        prompt = [*question.tolist(), *PROMPTS[name]]
        if name == "glm":  # each label stands at the token that predicts it
            ids = [*prompt, *answer.tolist()[:-1]]
            labels = [-100] * (len(prompt) - 1) + answer.tolist()
        else:
            ids, labels = [*prompt, *answer.tolist()], [-100] * len(prompt) + answer.tolist()
        made.append((ids, labels))
    return made


def row(parts: list[tuple[list[int], list[int]]]) -> dict[str, Any]:
    """One packed row as the dataset gives it."""
    sizes = [len(ids) for ids, _ in parts]
    return {
        "input_ids": np.array([token for ids, _ in parts for token in ids], np.int32),
        "segment_ids": np.repeat(np.arange(1, len(parts) + 1, dtype=np.int32), sizes),
        "labels": np.array([label for _, labels in parts for label in labels], np.int32),
    }


def gradients(model: Any, batches: list[dict[str, Any]], items: int) -> dict[str, torch.Tensor]:
    """Accumulated over the batches, each loss divided by all targets together."""
    model.zero_grad()
    for batch in batches:
        model(**batch, num_items_in_batch=items).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", PROMPTS)
def test_the_same_gradients_at_any_packing(name: str, tmp_path: Path) -> None:
    """One example a row, all in a few rows, in another order, with and without what the collator adds, and with the
    whole mask instead of pieces: the gradients agree to 1e-5. The configuration's cache stays on."""
    small(name).save_pretrained(tmp_path)
    model: Any = load_model(tmp_path, "float32").train()
    with torch.no_grad():
        for p in model.parameters():  # fresh weights are so small that leaks hardly show
            p.mul_(4) if p.dim() == 2 else None
    all_of_them = examples(name)
    items = sum(label != -100 for _, labels in all_of_them for label in labels)
    padded = PaddedCollator(pad_id=0)
    singles = [padded([row([one])]) for one in all_of_them]
    wanted = gradients(model, singles, items)
    pack = PackedCollator(64, 0)
    packings = {
        "two rows": [pack([row(all_of_them[:4]), row(all_of_them[4:])])],
        "accumulated": [pack([row(all_of_them[3:5])]), pack([row(all_of_them[5:]), row(all_of_them[:3])])],
        "an empty row": [pack([row(all_of_them[:4]), row([]), row(all_of_them[4:])])],
        "an empty batch": [pack([row([])]), pack([row(all_of_them[:4]), row(all_of_them[4:])])],
        "padded together": [padded([row([one]) for one in all_of_them])],
    }
    whole = {
        k: v for k, v in packings["two rows"][0].items() if k not in ("target_positions", "segment_sizes")
    }
    packings["whole mask, all positions"] = [whole]
    for kind, batches in packings.items():
        found = gradients(model, batches, items)
        for parameter, gradient in wanted.items():
            torch.testing.assert_close(
                found[parameter], gradient, rtol=0, atol=1e-5 * max(1.0, float(gradient.abs().max())),
                msg=lambda text, kind=kind, parameter=parameter: f"{kind}: {parameter}: {text}",
            )  # fmt: skip
        if kind == "two rows":
            assert max(float(g.abs().max()) for g in found.values()) > 1e-2  # gradients, not zeros


def test_a_leak_would_be_seen(tmp_path: Path) -> None:
    """The test above can fail: GLM-4 on a packed row without its segments, as a plain causal model reads it."""
    small("glm4").save_pretrained(tmp_path)
    model: Any = load_model(tmp_path, "float32").train()
    batch = PackedCollator(64, 0)([row(examples("glm4")[:3])])
    told = model(**batch).loss
    untold = model(**{k: v for k, v in batch.items() if k != "segment_ids"}).loss
    assert abs((told - untold).item()) > 1e-4


def test_pieces_are_checked() -> None:
    mask = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    assert [None if m is None else m.shape[-1] for m in Pieces.of(mask, [3, -1, 4]).masks] == [3, None, 4]
    for sizes in ([3, 2, 3], [4], [4, 4, 4], [0, 4, 4]):
        with pytest.raises(ValueError, match="segment_sizes"):
            Pieces.of(mask, sizes)
    assert segment_sizes(np.array([[1, 1, 2, 0], [1, 1, 1, 1], [0, 0, 0, 0]])) == [2, 1, -1, 4, -4]


def test_glm4_positions_restart() -> None:
    positions, mask = packed_inputs(torch.tensor([[1, 1, 2, 2, 2, 0]]), torch.float32)
    assert positions.tolist() == [[0, 1, 0, 1, 2, 0]]
    seen = (mask[0, 0] == 0).int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1],
    ]  # fmt: skip
