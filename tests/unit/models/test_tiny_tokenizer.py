"""Small sentencepiece models of ice_text.model's shape."""

from __future__ import annotations

import json
import random
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece

from glmjobs.data.synthetic import make_problems
from glmjobs.models.chatglm.tiny_tokenizer import FIXED_PIECES, MadeTokenizer, make_tokenizer
from glmjobs.models.chatglm.tokenization import CONTROL_PIECES, ChatGLMTokenizerFast
from glmjobs.models.common.sentencepiece_file import PieceType, pieces_message, read_model
from hpc.core.errors import BadInput

TEXTS = [f"{row['instruction']}\n{row['output']}" for row in make_problems(400, seed=3)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MadeTokenizer]:
    directory = tmp_path_factory.mktemp("made")
    return directory, make_tokenizer(directory, TEXTS, vocab_size=800)


def test_the_shape_is_ice_texts(made: tuple[Path, MadeTokenizer]) -> None:
    directory, result = made
    processor = sentencepiece.SentencePieceProcessor(model_file=str(directory / "ice_text.model"))
    pieces = processor.IdToPiece(list(range(processor.vocab_size())))
    assert result.vocab_size == len(pieces) <= 800
    assert pieces[:5] == ["<unk>", "<s>", "</s>", "<pad>", "<n>"]
    tail = pieces[-(FIXED_PIECES - 5) :]
    assert tail[:8] == list(CONTROL_PIECES) and tail[8] == "<|tab|>"
    assert tail[9:88] == [f"<|blank_{k}|>" for k in range(2, 81)]
    assert tail[88:] == [f"<0x{byte:02X}>" for byte in range(256)]
    first = len(pieces) - len(tail)
    assert all(processor.IsControl(i) for i in [1, 2, 3, *range(first, first + 8)])
    assert all(processor.IsByte(i) for i in range(len(pieces) - 256, len(pieces)))
    assert not any(any(c.isdigit() for c in piece) and len(piece) > 2 for piece in pieces[5:first])


def test_ids_in_the_result_are_the_tokenizers(made: tuple[Path, MadeTokenizer]) -> None:
    directory, result = made
    tok = ChatGLMTokenizerFast.from_pretrained(directory)
    assert result.config() == {
        "vocab_size": len(tok),
        "bos_token_id": tok.bos_token_id,
        "eos_token_id": tok.eos_token_id,
        "pad_token_id": tok.pad_token_id,
        "mask_token_id": tok.mask_token_id,
        "gmask_token_id": tok.gmask_token_id,
    }
    config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert (config["num_image_tokens"], config["tokenizer_class"]) == (0, "ChatGLMTokenizer")


def test_texts_come_back(made: tuple[Path, MadeTokenizer]) -> None:
    tok = ChatGLMTokenizerFast.from_pretrained(made[0])
    text = "小明有12个苹果,\n\t他给了   小红3个。龘🙂"
    ids = tok(text, add_special_tokens=False)["input_ids"]
    assert tok.decode(ids) == text
    assert all(piece.lstrip("▁") in set("0123456789") for piece in tok.tokenize("1234567890") if piece != "▁")
    spelled = [tok.decode(row) for row in tok(TEXTS[:50])["input_ids"]]
    assert spelled == [unicodedata.normalize("NFKC", text) for text in TEXTS[:50]]


def test_no_text_becomes_a_control_id(made: tuple[Path, MadeTokenizer]) -> None:
    """A small vocabulary lacks most letters: "<eop>" is bytes then, never the piece."""
    tok = ChatGLMTokenizerFast.from_pretrained(made[0])
    control = {tok.convert_tokens_to_ids(piece) for piece in (*CONTROL_PIECES, "<s>", "</s>", "<pad>")}
    for piece in (*CONTROL_PIECES, "<s>", "</s>", "<pad>", "<unk>"):
        assert not control & set(tok(f"1{piece}2", add_special_tokens=False)["input_ids"])


def test_same_arguments_same_bytes(made: tuple[Path, MadeTokenizer], tmp_path: Path) -> None:
    assert make_tokenizer(tmp_path, TEXTS, vocab_size=800) == made[1]
    assert (tmp_path / "ice_text.model").read_bytes() == (made[0] / "ice_text.model").read_bytes()


def test_the_seed_picks_the_sample(tmp_path: Path) -> None:
    chance = random.Random(0)
    many = ["".join(chance.choices("甲乙丙丁戊己庚辛壬癸子丑寅卯", k=6)) for _ in range(25_000)]
    models = []
    for seed in (1, 1, 2):
        make_tokenizer(tmp_path, many, vocab_size=500, seed=seed)
        models.append((tmp_path / "ice_text.model").read_bytes())
    assert models[0] == models[1] != models[2]


def test_smallest(tmp_path: Path) -> None:
    result = make_tokenizer(tmp_path, TEXTS, vocab_size=FIXED_PIECES + 32)
    assert result.vocab_size <= FIXED_PIECES + 32
    tok = ChatGLMTokenizerFast.from_pretrained(tmp_path)
    assert tok.decode(tok("小明有5个苹果。")["input_ids"]) == "小明有5个苹果。"


@pytest.mark.parametrize(
    ("texts", "size", "message"),
    [
        (TEXTS, 380, "vocab_size: 380 pieces; 381 are the least"),
        ([" ", "\n"], 800, "texts: nothing to train"),
    ],
)
def test_bad_input(tmp_path: Path, texts: Any, size: int, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make_tokenizer(tmp_path, texts, vocab_size=size)
    assert not list(tmp_path.iterdir())


def release_split(text: str, scores: dict[str, float]) -> list[str]:
    """The best segmentation where a sum is compared as float64 and kept as float32; the first of equals stays."""
    best: list[tuple[float, list[str]] | None] = [(0.0, []), *[None] * len(text)]
    for start in range(len(text)):
        reached = best[start]
        for piece, score in scores.items():
            end = start + len(piece)
            if reached is None or not text.startswith(piece, start):
                continue
            total, before = float(np.float32(score)) + reached[0], best[end]
            if before is None or total > before[0]:
                best[end] = (float(np.float32(total)), [*reached[1], piece])
    assert best[-1]
    return best[-1][1]


def test_ties_fall_as_for_the_release(made: tuple[Path, MadeTokenizer]) -> None:
    """Rounding decides among equal segmentations, as in sentencepiece before 0.2.2 and so in ChatGLM-6B's own ids."""
    scores = {"ꙮ": -9.1, "ꙮꙮ": -10.7, "ꙮꙮꙮ": -12.3}
    added = pieces_message([(piece, score, PieceType.NORMAL) for piece, score in scores.items()])
    processor = read_model(made[0] / "ice_text.model").with_pieces(added).processor()
    scores["▁"] = processor.get_score(processor.piece_to_id("▁"))
    runs = ["ꙮ" * length for length in range(1, 60)]
    found, wanted = processor.encode(runs, out_type=str), [release_split("▁" + run, scores) for run in runs]
    assert found == wanted, f"sentencepiece {sentencepiece.__version__} is not one that configs/stacks pin"


def test_control_pieces_become_ids_where_asked(made: tuple[Path, MadeTokenizer], tmp_path: Path) -> None:
    for path in made[0].iterdir():
        shutil.copy(path, tmp_path / path.name)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["split_special_tokens"] = False  # as other programs write it, unasked
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    tok = ChatGLMTokenizerFast.from_pretrained(tmp_path)
    text = "3+4 <eop>\n5"
    assert tok.eos_token_id not in tok(text)["input_ids"][:-2]
    parts = [tok(part, add_special_tokens=False)["input_ids"] for part in ("3+4", "5")]
    ids = tok(text, add_special_tokens=False, split_special_tokens=False)["input_ids"]
    assert ids == [*parts[0], tok.eos_token_id, *parts[1]]
    pair = tok("<sop>", "<eop>", split_special_tokens=False)["input_ids"]
    frame = [tok.gmask_token_id, tok.sop_token_id]
    assert pair == [tok.sop_token_id, *frame, tok.eop_token_id, tok.eop_token_id]
