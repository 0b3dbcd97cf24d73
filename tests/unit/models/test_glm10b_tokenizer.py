"""GLM-10B's tokenizers on small vocabularies of the originals' kinds, made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from glmjobs.data.synthetic import make_problems
from glmjobs.models.glm10b.tokenization import (
    CHINESE_SPECIAL,
    ENGLISH_SPECIAL,
    GLMChineseTokenizerFast,
    GLMGPT2TokenizerFast,
    load_glm_tokenizer,
)
from hpc.core.errors import BadInput
from tests.support.small_families import chinese_pieces

TEXTS = [f"{row['instruction']} {row['output']}" for row in make_problems(400, seed=5)]
ENGLISH = [
    "the quick brown fox it's jumping over the lazy dogs, 123 times!",
    "Natalia sold 1,200 clips.",
    "a\n\n  b",
]


@pytest.fixture(scope="module")
def chinese_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("chinese")
    (directory / "cog-pretrain.model").write_bytes(chinese_pieces(TEXTS))
    return directory


@pytest.fixture(scope="module")
def english_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kind of GPT-2's vocabulary: byte-level BPE that ends with <|endoftext|>."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*ENGLISH * 5, *TEXTS[:50]], trainer)
    directory = tmp_path_factory.mktemp("english")
    tokenizer.model.save(str(directory))
    vocabulary = json.loads((directory / "vocab.json").read_text(encoding="utf-8"))
    vocabulary["<|endoftext|>"] = len(vocabulary)
    (directory / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    return directory


def test_chinese_ids_are_sentencepieces(chinese_dir: Path) -> None:
    tok = load_glm_tokenizer(chinese_dir)
    assert isinstance(tok, GLMChineseTokenizerFast)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(chinese_dir / "cog-pretrain.model"))
    texts = [*TEXTS, "３．５％ 龘🙂", "  a  b\tc\n", "", "<|endofpiece|>", "[MASK]"]
    wanted = [processor.EncodeAsIds(text) for text in texts]
    assert tok(texts, add_special_tokens=False)["input_ids"] == wanted
    assert tok.batch_decode(wanted[:50]) == [processor.DecodeIds(ids) for ids in wanted[:50]]
    rust = [e.ids for e in tok.backend_tokenizer.encode_batch(TEXTS, add_special_tokens=False)]
    assert rust == wanted[: len(TEXTS)]


def test_chinese_special_ids_stand_behind_the_pieces(chinese_dir: Path) -> None:
    tok = load_glm_tokenizer(chinese_dir)
    first = tok.vocab_size
    assert tok.convert_tokens_to_ids(list(CHINESE_SPECIAL)) == list(range(first, first + 10))
    assert (tok.eos_token_id, tok.pad_token_id, tok.cls_token_id, tok.mask_token_id) == (
        first,
        first,
        first + 2,
        first + 3,
    )
    assert (tok.sop_token_id, tok.eop_token_id, tok.smask_token_id) == (first + 6, first + 7, first + 8)
    assert tok.gmask_token_id == first + 9


def test_english_special_ids_and_round_trip(english_dir: Path) -> None:
    tok = load_glm_tokenizer(english_dir)
    assert isinstance(tok, GLMGPT2TokenizerFast)
    first = tok.eos_token_id + 1
    assert tok.convert_tokens_to_ids(list(ENGLISH_SPECIAL)) == list(range(first, first + 8))
    assert tok.pad_token_id == tok.eos_token_id
    for text in (*ENGLISH, *TEXTS[:20], "龘🙂"):
        ids = tok(text, add_special_tokens=False)["input_ids"]
        assert tok.decode(ids, clean_up_tokenization_spaces=False) == text


def test_english_ids_are_gpt2s(english_dir: Path) -> None:
    from transformers import GPT2Tokenizer

    gpt2 = GPT2Tokenizer.from_pretrained(english_dir)
    tok = load_glm_tokenizer(english_dir)
    texts = [*ENGLISH, *TEXTS[:100], " leading", "tabs\tand  blanks", "don't I'll we've"]
    assert (
        tok(texts, add_special_tokens=False)["input_ids"]
        == gpt2(texts, add_special_tokens=False)["input_ids"]
    )


@pytest.mark.parametrize("kind", ["english_dir", "chinese_dir"])
def test_frames_and_special_tokens(kind: str, request: pytest.FixtureRequest) -> None:
    tok = load_glm_tokenizer(request.getfixturevalue(kind))
    a, b = (tok(text, add_special_tokens=False)["input_ids"] for text in ("12", "3"))
    assert tok("12")["input_ids"] == [tok.cls_token_id, *a, tok.eos_token_id]
    middle = [tok.smask_token_id, tok.eos_token_id, tok.sop_token_id]
    framed = [tok.cls_token_id, *a, *middle, *b, tok.eop_token_id]
    assert tok("12", "3")["input_ids"] == framed == tok.build_inputs_with_special_tokens(a, b)
    assert tok.num_special_tokens_to_add(pair=True) == 5
    assert tok.decode(framed, skip_special_tokens=True).replace(" ", "") == "123"
    cut = tok("1 2 3 4 5 6", truncation=True, max_length=5)["input_ids"]
    whole = tok("1 2 3 4 5 6")["input_ids"]
    assert cut == [whole[0], *whole[-4:]]  # from the left


@pytest.mark.parametrize("kind", ["english_dir", "chinese_dir"])
def test_special_tokens_in_a_text(kind: str, request: pytest.FixtureRequest) -> None:
    tok = load_glm_tokenizer(request.getfixturevalue(kind))
    special = set(tok.all_special_ids)
    text = "12 [MASK] 3<|endofpiece|>"
    assert not special & set(tok(text, add_special_tokens=False)["input_ids"])
    asked = tok(text, add_special_tokens=False, split_special_tokens=False)["input_ids"]
    assert [i for i in asked if i in special] == [tok.mask_token_id, tok.eop_token_id]
    assert not special & set(tok([text], add_special_tokens=False)["input_ids"][0])  # the switch is not kept


@pytest.mark.parametrize("kind", ["english_dir", "chinese_dir"])
def test_saved_and_loaded(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    tok = load_glm_tokenizer(request.getfixturevalue(kind))
    tok.save_pretrained(tmp_path)
    again = load_glm_tokenizer(tmp_path)
    assert type(again) is type(tok) and len(again) == len(tok)
    assert again(TEXTS)["input_ids"] == tok(TEXTS)["input_ids"]
    added = json.loads((tmp_path / "added_tokens.json").read_text(encoding="utf-8"))
    assert added["[sMASK]"] == tok.smask_token_id
    auto = _auto(tmp_path)
    assert type(auto) is type(tok)


def _auto(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)


def test_bad_directories_are_one_line(english_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="neither cog-pretrain"):
        load_glm_tokenizer(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((english_dir / name).read_bytes())
    (tmp_path / "added_tokens.json").write_text('{"[CLS]": 5}', encoding="utf-8")
    with pytest.raises(BadInput, match=r"added_tokens.json: no <\|startofpiece\|>"):
        load_glm_tokenizer(tmp_path)
    ids = {token: 5 + place for place, token in enumerate(ENGLISH_SPECIAL)}
    (tmp_path / "added_tokens.json").write_text(json.dumps(ids), encoding="utf-8")
    with pytest.raises(BadInput, match="ids must be in a row"):
        load_glm_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text("{", encoding="utf-8")
    with pytest.raises(BadInput, match=r"vocab\.json"):
        load_glm_tokenizer(tmp_path)
