"""A model's first layers: a directory that loads, with the whole model's own numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glmjobs.zero.first_layers import write_first_layers
from hpc.core.errors import BadInput

torch = pytest.importorskip("torch")
from glmjobs.models.family import families  # noqa: E402
from glmjobs.models.loading import load_model, load_tokenizer  # noqa: E402
from tests.support.small_families import SMALL, small_chatglm  # noqa: E402


@pytest.mark.parametrize("family", SMALL)
def test_it_loads_and_has_the_model_s_numbers(family: str, tmp_path: Path) -> None:
    whole = SMALL[family](tmp_path / "whole")
    out = tmp_path / "runs" / "first"
    write_first_layers(whole, out, 1)
    families()[family].check(out)
    few, all_ = load_model(out), load_model(whole)
    wanted, found = dict(all_.named_parameters()), dict(few.named_parameters())
    assert 0 < len(found) < len(wanted), "some layers are left out"
    for name, values in found.items():
        assert torch.equal(values, wanted[name]), name
    assert load_tokenizer(out)("3+4")["input_ids"] == load_tokenizer(whole)("3+4")["input_ids"]
    write_first_layers(whole, out, 1)  # there: nothing to do


def test_more_than_there_are(tmp_path: Path) -> None:
    whole = small_chatglm(tmp_path / "whole")
    there = json.loads((whole / "config.json").read_text(encoding="utf-8"))["num_layers"]
    with pytest.raises(BadInput, match=f"1 to {there} are there"):
        write_first_layers(whole, tmp_path / "first", there + 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["whole"]
