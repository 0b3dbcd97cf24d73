"""Tokenising: the right ids and labels on disk, once; limits counted; nothing half-written."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from glmjobs.data import MadeSource, Prepared, prepare
from glmjobs.data import tokenised as tokenised_module
from glmjobs.data.framing import LEFT_OUT, NO_LABEL, Frame, Limits, tokenizer_fingerprint
from glmjobs.data.rows import question_text
from glmjobs.data.tokenised import Tokenised, tokenise
from glmjobs.models.family import families, family_for
from hpc.core.errors import BadInput, WorkFailed
from tests.support.char_tokenizer import CharTokenizer
from tests.support.jsonl import write_jsonl


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    rows = [
        {"instruction": f"问{i}", "input": "x" if i % 3 == 0 else "", "output": "答" * (i % 7 + 1)}
        for i in range(1, 41)
    ]
    source = write_jsonl(tmp_path / "f.json", rows)
    return prepare(source, tmp_path / "data", dev_rows="1-10")


@pytest.mark.parametrize("name", sorted(families()))
def test_ids_and_labels_are_the_familys(prepared: Prepared, tmp_path: Path, name: str) -> None:
    tokenizer, family = CharTokenizer(), family_for(name)
    found = tokenise(prepared, "train", tokenizer, family, tmp_path / "t")
    rows = list(prepared.rows("train"))
    assert len(found) == len(rows) == 30
    assert found.rows.tolist() == [row.id for row in rows]
    assert (found.input_ids.dtype, found.labels.dtype, found.offsets.dtype) == (np.int32, np.int32, np.int64)
    for at, row in enumerate(rows):
        source = [ord(c) for c in family.prompt_text(question_text(row.instruction, row.input))]
        expected = family.frame(tokenizer, source, [ord(c) for c in row.output])
        ids, labels = found.example(at)
        assert (ids.tolist(), labels.tolist()) == (expected.input_ids, expected.labels)
        assert labels[0] == NO_LABEL
    assert found.figures["tokens"] == int(found.lengths.sum()) == len(found.input_ids)
    assert found.figures["target_tokens"] == int((found.labels != NO_LABEL).sum())
    assert found.figures["longest"] == int(found.lengths.max())


def test_the_originals_labels(prepared: Prepared, tmp_path: Path) -> None:
    ours, theirs = (
        tokenise(prepared, "train", CharTokenizer(), family_for("chatglm"), tmp_path / "t", label_sop=sop)
        for sop in (False, True)
    )
    assert theirs.figures["target_tokens"] == ours.figures["target_tokens"] + len(ours)
    ids, labels = theirs.example(0)
    start = np.flatnonzero(labels != NO_LABEL)[0]
    assert ids[start] == CharTokenizer().convert_tokens_to_ids("<sop>") == labels[start]
    with pytest.raises(BadInput, match="label_sop"):
        tokenise(prepared, "train", CharTokenizer(), family_for("glm"), tmp_path / "t", label_sop=True)


def test_second_start_takes_no_tokenising(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = family_for("chatglm")
    first = tokenise(prepared, "train", CharTokenizer(), family, tmp_path / "t")
    monkeypatch.setattr(tokenised_module, "_make", lambda *_: pytest.fail("tokenised again"))
    again = tokenise(Prepared.load(prepared.directory), "train", CharTokenizer(), family, tmp_path / "t")
    assert again.directory == first.directory and again.fingerprint == first.fingerprint
    assert isinstance(again.input_ids, np.memmap)
    assert len(pickle.dumps(again)) < 500 and np.array_equal(
        pickle.loads(pickle.dumps(again)).labels, first.labels
    )


def test_what_changes_the_fingerprint(prepared: Prepared, tmp_path: Path) -> None:
    def made(part: Any = "train", tokenizer: Any = None, family: str = "chatglm", **options: Any) -> str:
        found = tokenise(
            prepared, part, tokenizer or CharTokenizer(), family_for(family), tmp_path / "t", **options
        )
        return found.fingerprint

    variants: list[dict[str, Any]] = [
        {}, {"part": "dev"}, {"tokenizer": CharTokenizer(1)}, {"family": "glm4"}, {"label_sop": True},
        {"max_source_length": 100}, {"max_target_length": 100}, {"too_long": "keep_end"}, {"positions": 700},
    ]  # fmt: skip
    assert len({made(**variant) for variant in variants}) == len(variants)
    assert len(list((tmp_path / "t").iterdir())) == len(variants)
    other = prepare(MadeSource(30), tmp_path / "other", dev_rows="1-10")
    assert (
        tokenise(other, "train", CharTokenizer(), family_for("chatglm"), tmp_path / "t").fingerprint != made()
    )


NONE = {**dict.fromkeys(LEFT_OUT, 0), "answer without tokens": 0}


def test_too_long_is_counted_and_the_questions_end_is_kept(tmp_path: Path) -> None:
    rows = [("q" * 9, "a" * 8), ("q" * 10, "a" * 8), ("B" * 3 + "q" * 9, "a"), ("q", "a" * 9), ("q", "a")]
    source = tmp_path / "f.json"
    made = [{"instruction": q, "input": "", "output": a} for q, a in [("dev", "d"), *rows]]
    write_jsonl(source, made)
    prepared = prepare(source, tmp_path / "data", dev_rows="1")
    family, limits = family_for("chatglm"), {"max_source_length": 10, "max_target_length": 10}

    found = tokenise(prepared, "train", CharTokenizer(), family, tmp_path / "t", **limits)  # type: ignore[arg-type]
    assert found.rows.tolist() == [2, 6] and found.lengths.tolist() == [
        20,
        5,
    ]  # 20 = both limits, filled exactly
    assert found.figures["left_out"] == {**NONE, "long question": 2, "long answer": 1}
    assert found.figures["first_left_out"][1] == {"row": 4, "reason": "long question", "tokens": 12}
    assert found.figures["cut_questions"] == 0

    cut = tokenise(prepared, "train", CharTokenizer(), family, tmp_path / "t", too_long="keep_end", **limits)  # type: ignore[arg-type]
    assert cut.rows.tolist() == [2, 3, 4, 6] and cut.figures["cut_questions"] == 2
    assert cut.figures["left_out"] == {**NONE, "long answer": 1}
    for index in range(3):
        assert cut.example(index)[0][:10].tolist() == [ord("q")] * 9 + [
            60_000
        ]  # the end of the question, whole
    with pytest.raises(BadInput, match=r"no example is left to train on \(5 long answer\)") as caught:
        tokenise(
            prepared,
            "train",
            CharTokenizer(),
            family,
            tmp_path / "t",
            max_source_length=11,
            max_target_length=2,
        )
    assert "\n" not in str(caught.value)


def test_nothing_half_written(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family, out = family_for("chatglm"), tmp_path / "t"
    real = os.fsync
    for point in range(20):
        left = point

        def failing(handle: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(28, "No space left on device")
            real(handle)

        monkeypatch.setattr(os, "fsync", failing)
        try:
            tokenise(prepared, "train", CharTokenizer(), family, out)
            break
        except WorkFailed as error:
            assert "No space left on device" in str(error)
            assert list(out.iterdir()) == []
    assert point >= 5
    monkeypatch.setattr(os, "fsync", real)
    assert len(tokenise(prepared, "train", CharTokenizer(), family, out)) == 30


def test_two_at_once(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slower of two processes takes the faster one's result."""
    family, out = family_for("chatglm"), tmp_path / "t"
    expected = tokenise(prepared, "train", CharTokenizer(), family, tmp_path / "faster").directory
    place = out / expected.name
    real = Path.rename

    def late(self: Path, target: Path) -> Path:
        if target == place:
            shutil.copytree(expected, place)
        return real(self, target)

    monkeypatch.setattr(Path, "rename", late)
    found = tokenise(prepared, "train", CharTokenizer(), family, out)
    assert np.array_equal(found.input_ids, Tokenised.load(expected).input_ids)
    assert [entry.name for entry in out.iterdir()] == [place.name]


def test_a_damaged_cache_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    found = tokenise(prepared, "train", CharTokenizer(), family_for("chatglm"), tmp_path / "t")
    with (found.directory / "labels.bin").open("ab") as file:
        file.write(b"1234")
    with pytest.raises(BadInput, match=r"labels\.bin has \d+ bytes.*remove it to make it anew"):
        Tokenised.load(found.directory)
    with pytest.raises(BadInput, match="not whole tokenised data"):
        Tokenised.load(tmp_path)


class Odd(NamedTuple):
    """A family whose frame isn't made of constant parts."""

    kind: str
    name: str = "odd"

    def prompt(self, tokenizer: Any, source_ids: Sequence[int]) -> list[int]:
        return list(source_ids)

    def frame(
        self, tokenizer: Any, source_ids: Sequence[int], target_ids: Sequence[int], *, label_sop: bool = False
    ) -> Any:
        class Framed(NamedTuple):
            input_ids: list[int]
            labels: list[int]

        ids = [*source_ids, *target_ids]
        labels = [NO_LABEL] * len(source_ids) + list(target_ids)
        if self.kind == "length":
            return Framed([*ids, len(ids)], [*labels, NO_LABEL])
        if self.kind == "twice":
            return Framed(ids + ids, labels + labels)
        return Framed(ids, labels)  # an empty question: the first token is a target

    def prompt_text(self, query: str, history: Sequence[tuple[str, str]] = ()) -> str:
        return query


@pytest.mark.parametrize(
    ("kind", "message"),
    [("length", "depends on the example"), ("twice", "once each"), ("first", "first token is a target")],
)
def test_a_frame_that_packing_cannot_use(kind: str, message: str) -> None:
    with pytest.raises(WorkFailed, match=message):
        Frame.of(Odd(kind), CharTokenizer(), False)


def test_limits_of_the_original() -> None:
    """THUDM's ptuning cuts the question to source - 1 and the answer to target - 2 tokens."""
    frame = Frame.of(family_for("chatglm"), CharTokenizer(), False)
    limits = Limits(512, 512, "drop")
    assert (frame.tokens, limits.source(), limits.target(frame)) == (3, 511, 510)


def test_with_the_real_tokenizer(shared: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers isn't installed")
    assert transformers
    from glmjobs.models import load_tokenizer

    tokenizer, family = load_tokenizer(shared / "chatglm-6b"), family_for("chatglm")
    assert tokenizer_fingerprint(tokenizer) == tokenizer_fingerprint(load_tokenizer(shared / "chatglm-6b"))
    prepared = prepare(shared / "data" / "belle_school_math_samples.jsonl", tmp_path / "d", dev_rows="1")
    found = tokenise(prepared, "train", tokenizer, family, tmp_path / "t")
    for at, row in enumerate(prepared.rows("train")):
        ids, labels = found.example(at)
        assert ids.tolist() == tokenizer(row.instruction, row.output)["input_ids"]  # A [gMASK] <sop> B <eop>
        sop = ids.tolist().index(130004)
        assert labels.tolist() == [NO_LABEL] * (sop + 1) + ids.tolist()[sop + 1 :]
