"""Batches: shapes, segments, labels, and the count of targets."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch isn't installed")

from torch.utils.data import DataLoader  # noqa: E402

from glmjobs.data import MadeSource, prepare  # noqa: E402
from glmjobs.data.collate import (  # noqa: E402
    ExampleDataset,
    PackedCollator,
    PackedDataset,
    PaddedCollator,
    target_tokens,
)
from glmjobs.data.packing import plan_epoch, plan_single  # noqa: E402
from glmjobs.data.tokenised import Tokenised, tokenise  # noqa: E402
from glmjobs.models.family import family_for  # noqa: E402
from hpc.core.errors import BadInput  # noqa: E402
from tests.support.char_tokenizer import CharTokenizer  # noqa: E402

PAD = 99_999


@pytest.fixture(scope="module")
def tokenised(tmp_path_factory: pytest.TempPathFactory) -> Tokenised:
    place = tmp_path_factory.mktemp("collate")
    prepared = prepare(MadeSource(210), place / "d", dev_rows="1-10")
    return tokenise(prepared, "train", CharTokenizer(), family_for("chatglm"), place / "t")


def test_a_packed_batch_holds_each_example_once_and_unchanged(tokenised: Tokenised) -> None:
    plan = plan_epoch(tokenised.lengths, 256, seed=3).padded(4)
    loader = DataLoader(PackedDataset(tokenised, plan), batch_size=4, collate_fn=PackedCollator(256, PAD))
    seen: list[tuple[list[int], list[int]]] = []
    targets = 0
    for batch in loader:
        rows = {name: batch[name] for name in ("input_ids", "segment_ids", "labels")}
        assert set(batch) == {*rows, "target_positions", "segment_sizes"}
        assert all(value.shape == (4, 256) and value.dtype == torch.int64 for value in rows.values())
        flat = batch["labels"].flatten()
        assert torch.equal(flat[batch["target_positions"]], flat[flat != -100])
        pieces = batch["segment_ids"].flatten().split([abs(size) for size in batch["segment_sizes"]])
        for piece, size in zip(pieces, batch["segment_sizes"], strict=True):
            assert len(piece.unique()) == 1 and (int(piece[0]) > 0) == (size > 0)
        padding = batch["segment_ids"] == 0
        assert torch.equal(padding, batch["input_ids"] == PAD)
        assert (batch["labels"][padding] == -100).all()
        targets += int(target_tokens(batch))
        for ids, segments, labels in zip(
            *(batch[n] for n in ("input_ids", "segment_ids", "labels")), strict=True
        ):
            count = int(segments.max())
            real = segments[segments > 0]
            assert torch.equal(real, real.sort().values)  # examples stand one behind the other, 1..n
            for segment in range(1, count + 1):
                at = segments == segment
                assert labels[at][0] == -100  # so no example predicts the next one's start
                seen.append((ids[at].tolist(), labels[at].tolist()))
    expected = [tuple(part.tolist() for part in tokenised.example(i)) for i in range(len(tokenised))]
    assert sorted(seen) == sorted(expected)
    assert targets == tokenised.figures["target_tokens"]


def test_worker_processes_give_the_same(tokenised: Tokenised) -> None:
    data = PackedDataset(tokenised, plan_epoch(tokenised.lengths, 256))
    batches = [
        list(DataLoader(data, batch_size=8, collate_fn=PackedCollator(256, PAD), num_workers=n))
        for n in (0, 1)
    ]
    assert all(
        torch.equal(torch.as_tensor(a[name]), torch.as_tensor(b[name]))
        for a, b in zip(*batches, strict=True)
        for name in a
    )


def test_single_examples_padded_to_the_longest_a_multiple_or_a_length(tokenised: Tokenised) -> None:
    data = ExampleDataset(tokenised, order=[5, 3, 8])
    assert len(ExampleDataset(tokenised)) == 200 and len(data) == 3
    items = list(data)
    longest = max(int(tokenised.lengths[i]) for i in (5, 3, 8))
    for collator, length in (
        (PaddedCollator(PAD), longest),
        (PaddedCollator(PAD, multiple=64), -(-longest // 64) * 64),
        (PaddedCollator(PAD, length=1024), 1024),
    ):
        batch = collator(items)
        assert batch["input_ids"].shape == (3, length)
        assert batch["segment_ids"].sum(1).tolist() == [int(tokenised.lengths[i]) for i in (5, 3, 8)]
        assert int(target_tokens(batch)) == sum(int((item["labels"] != -100).sum()) for item in items)
    with pytest.raises(ValueError, match="broadcast"):
        PaddedCollator(PAD, length=16)(items)


def test_unpacked_plan_equals_single_examples(tokenised: Tokenised) -> None:
    plan = plan_single(tokenised.lengths, 256, seed=4)
    packed, single = PackedDataset(tokenised, plan), ExampleDataset(tokenised, plan.members)
    for at in (0, 7, 199):
        assert all(np.array_equal(packed[at][name], single[at][name]) for name in packed[at])


def test_an_empty_row_is_padding_only(tokenised: Tokenised) -> None:
    plan = plan_epoch(tokenised.lengths, 256).padded(1000)
    batch = PackedCollator(256, PAD)([PackedDataset(tokenised, plan)[999]])
    assert (
        (batch["input_ids"] == PAD).all()
        and not batch["segment_ids"].any()
        and int(target_tokens(batch)) == 0
    )


def test_a_plan_of_other_data(tokenised: Tokenised) -> None:
    with pytest.raises(BadInput, match="names example 200 of 200"):
        PackedDataset(tokenised, plan_epoch([5] * 201, 256))
