"""ChatGLM-6B's tokenizer against sentencepiece with the original's pre-processing, and against golden ids."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from glmjobs.models.chatglm.tokenization import ChatGLMTokenizerFast, added_pieces
from glmjobs.models.common.sentencepiece_file import pieces_message
from hpc.core.errors import BadInput
from tests.support.fuzz_texts import fuzz_texts

SMALL_FUZZ, FULL_FUZZ = 4_000, 100_000


def original_text(text: str) -> str:
    """What the original hands to sentencepiece, by its own steps."""
    text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
    for length in range(80, 1, -1):
        text = text.replace(" " * length, f"<|blank_{length}|>")
    return text


def original_decoding(processor: Any, ids: list[int]) -> str:
    """The original's decoding: pieces to text, then every replacement undone, then 4.27's clean-up."""
    text = processor.DecodePieces([processor.IdToPiece(i) for i in ids if i != 3])
    text = text.replace("<n>", "\n").replace("<|tab|>", "\t")
    for length in range(2, 81):
        text = text.replace(f"<|blank_{length}|>", " " * length)
    for before, after in (
        *((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'")),
        *((" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")),
    ):
        text = text.replace(before, after)
    return text


@pytest.fixture(scope="module")
def directory(shared: Path) -> Path:
    return shared / "chatglm-6b"


@pytest.fixture(scope="module")
def tok(directory: Path) -> ChatGLMTokenizerFast:
    return ChatGLMTokenizerFast.from_pretrained(directory)


@pytest.fixture(scope="module")
def processor(directory: Path) -> Any:
    return sentencepiece.SentencePieceProcessor(model_file=str(directory / "ice_text.model"))


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (shared / "golden" / "tokenizer_golden.json").read_text(encoding="utf-8")
    )
    return found


@pytest.fixture(scope="module")
def texts(shared: Path) -> list[str]:
    """Every text of the reference data."""
    found = []
    for path in sorted((shared / "data").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            found += [value for value in json.loads(line).values() if isinstance(value, str)]
    for line in (shared / "data" / "mgsm_zh.tsv").read_text(encoding="utf-8").splitlines():
        found += [*line.split("\t"), line]
    return found


def plain(tok: Any, texts: list[str]) -> list[list[int]]:
    ids: list[list[int]] = tok(texts, add_special_tokens=False)["input_ids"]
    return ids


def test_golden_ids_and_decodings(tok: Any, golden: dict[str, Any]) -> None:
    for case in golden["tokenizer"]:
        assert tok(case["text"], add_special_tokens=False)["input_ids"] == case["ids_no_special"]
        assert tok(case["text"])["input_ids"] == case["ids"] == tok.encode(case["text"])
        assert tok.decode(case["ids"]) == case["decoded"]
    pair = golden["pair"]
    assert tok("3+5等于几？", "3+5=8。")["input_ids"] == pair["ids"]
    assert tok.build_inputs_with_special_tokens(pair["a"], pair["b"]) == pair["ids"]
    assert tok.decode(pair["ids"]) == golden["decode_special"]["raw"]
    assert tok.decode(pair["ids"], skip_special_tokens=True) == golden["decode_special"]["with_skip"]


def test_golden_left_padding(tok: Any, golden: dict[str, Any]) -> None:
    questions = ["3+5等于几？", "小明有5个苹果，他给了小红3个。还剩几个？"]
    batch = tok(questions, padding=True)
    assert batch["input_ids"] == golden["left_pad"]["input_ids"]
    assert batch["attention_mask"] == [[0] * 9 + [1] * 9, [1] * 18]


def test_every_reference_text(tok: Any, processor: Any, texts: list[str]) -> None:
    assert len(texts) > 1500
    wanted = [processor.EncodeAsIds(original_text(text)) for text in texts]
    assert plain(tok, texts) == wanted
    assert tok.batch_decode(wanted) == [original_decoding(processor, ids) for ids in wanted]


@pytest.mark.parametrize(
    ("count", "seed"),
    [(SMALL_FUZZ, 1), pytest.param(FULL_FUZZ, 2, marks=pytest.mark.slow)],
    ids=["small", "full"],
)
def test_fuzz(tok: Any, processor: Any, count: int, seed: int) -> None:
    made = list(fuzz_texts(count, seed))
    wanted = [processor.EncodeAsIds(original_text(text)) for text in made]
    differing = [(t, a, b) for t, a, b in zip(made, wanted, plain(tok, made), strict=True) if a != b]
    assert not differing[:3]
    decoded = [original_decoding(processor, ids) for ids in wanted]
    differing = [(t, a, b) for t, a, b in zip(made, decoded, tok.batch_decode(wanted), strict=True) if a != b]
    assert not differing[:3]


def test_random_ids_decode_as_in_the_original(tok: Any, processor: Any) -> None:
    chance = random.Random(3)
    special = [0, 1, 2, 3, 4, 5, *range(130000, 130344)]
    for _ in range(500):
        size = chance.randint(0, 30)
        ids = [chance.choice((chance.choice(special), chance.randrange(130344))) for _ in range(size)]
        assert tok.decode(ids) == original_decoding(processor, ids)
    assert tok.decode([5, 74874, 130400, 130527]) == "你好"  # rows of the embedding that are no pieces


def test_one_text_and_one_in_a_batch_are_alike(tok: Any) -> None:
    made = list(fuzz_texts(200, 4))
    batch = tok(made)["input_ids"]
    assert [tok(text)["input_ids"] for text in made] == batch
    assert [tok.convert_tokens_to_ids(tok.tokenize(text)) for text in made] == plain(tok, made)


def test_control_pieces_in_a_text_stay_text(tok: Any, processor: Any) -> None:
    control = {i for i in range(tok.vocab_size) if processor.is_control(i)}
    assert len(control) == 11
    for i in control:
        piece = processor.id_to_piece(i)
        for text in (piece, f"a{piece}b", f"a {piece} b", f"{piece}{piece}"):
            assert not control & set(plain(tok, [text])[0])


def test_ids_of_the_originals_code(tok: Any) -> None:
    """What THUDM's tokenization_chatglm.py gives under transformers 4.27.1: control pieces, and ties in runs."""
    recorded = {
        "a <eop>\n b": [104, 130005, 463],
        "<sop>[MASK]<eop>": [130004, 130000, 130005],
        "[gMASK]<sMASK><pad> <unk>x": [53, 199, 15475, 42, 60, 106, 15475, 33, 3, 0, 399],
        "</s><n>": [98, 106, 33, 4],
        "3+4<eop": [5, 13, 65, 16, 60, 150, 2823],
        "<<eop>>": [46, 130005, 5, 33],
        ":::": [5, 87, 12],
        "………………": [5, 7, 126085, 7],
        "_" * 36: [127428, 125898, 127157],
        "a" * 24: [5, 44368, 63475, 16566],
    }
    found = tok(list(recorded), add_special_tokens=False, split_special_tokens=False)["input_ids"]
    assert found == list(recorded.values())
    again = copy.copy(tok)
    again.split_special_tokens = False
    assert again("<eop>")["input_ids"] == [130005, 130001, 130004]
    assert tok("<eop>")["input_ids"] != [130005, 130001, 130004]


def slow_ids(processor: Any, text: str) -> list[int]:
    """The original's ids by the steps of transformers 4.27's slow tokenizers: cut at special tokens, strip, encode."""
    special = {"<sop>": 130004, "<eop>": 130005, "[MASK]": 130000, "<pad>": 3, "<unk>": 0}
    parts: list[Any] = [""]
    while text:
        piece = next((piece for piece in special if text.startswith(piece)), None)
        if piece:
            parts += [special[piece], ""]
        else:
            parts[-1] += text[0]
        text = text[len(piece) if piece else 1 :]
    ids: list[int] = []
    for at, part in enumerate(parts):
        if isinstance(part, int):
            ids.append(part)
            continue
        part = part.lstrip() if at else part
        ids += processor.EncodeAsIds(original_text(part.rstrip() if at < len(parts) - 1 else part))
    return ids


def odd_strings(count: int, seed: int) -> list[str]:
    """Control pieces among white space and text; runs of one character; mixed scripts."""
    chance = random.Random(seed)
    pieces = ["[gMASK]", "[MASK]", "[sMASK]", "<sop>", "<eop>", "<pad>", "</s>", "<unk>", "<n>", "<|tab|>"]
    others = ["", " ", "  ", "\n", "\t", "a", "你好", "3+4", "\u3000", "<sop", "eop>", "\xa0", "\x1c"]
    runs = [char * chance.randint(1, 40) for char in ":…_a-=.eo哈*#~!?x0" for _ in range(5)]
    made = [
        "".join(chance.choice(pieces + others * 2) for _ in range(chance.randint(1, 7))) for _ in range(count)
    ]
    return made + runs + list(fuzz_texts(count, seed))


@pytest.mark.parametrize(
    ("count", "seed"), [(1_000, 8), pytest.param(30_000, 9, marks=pytest.mark.slow)], ids=["small", "full"]
)
def test_odd_strings_have_the_originals_ids(tok: Any, processor: Any, count: int, seed: int) -> None:
    made = odd_strings(count, seed)
    found = tok(made, add_special_tokens=False, split_special_tokens=False)["input_ids"]
    wanted = [slow_ids(processor, text) for text in made]
    assert not [(t, a, b) for t, a, b in zip(made, wanted, found, strict=True) if a != b][:3]
    assert sum(a != b for a, b in zip(found, plain(tok, made), strict=True)) > count // 4


def test_rust_cannot_split_runs_as_sentencepiece_does(tok: Any) -> None:
    """Where the odd piece of a run stands depends on what stands before it; in Rust, whose sums are exact, never."""
    texts = ["3+" * n + ":" * 7 for n in range(400)]
    ends = {tuple(ids[-4:]) for ids in plain(tok, texts)}
    rust = {tuple(e.ids[-4:]) for e in tok.backend_tokenizer.encode_batch(texts, add_special_tokens=False)}
    assert len(ends) > 1 and len(rust) == 1


def test_special_ids(tok: Any) -> None:
    named = (
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "unk_token_id",
        "mask_token_id",
        "gmask_token_id",
    )
    assert [getattr(tok, name) for name in named] == [130004, 130005, 3, 0, 130000, 130001]
    assert (tok.sop_token_id, tok.eop_token_id, tok.end_token_id) == (130004, 130005, 2)
    assert (tok.vocab_size, len(tok), tok.is_fast, tok.padding_side) == (130344, 130344, True, "left")


def test_truncation_keeps_the_frame(tok: Any) -> None:
    whole = tok("小明有5个苹果，他给了小红3个。")["input_ids"]
    assert tok("小明有5个苹果，他给了小红3个。", truncation=True, max_length=6)["input_ids"] == [
        *whole[:4],
        *whole[-2:],
    ]
    pair = tok("12345678", "1234", truncation=True, max_length=10)["input_ids"]
    assert len(pair) == 10 and pair[-1] == tok.eos_token_id and tok.gmask_token_id in pair
    only = tok("12345678", "1234", truncation="only_first", max_length=10)["input_ids"]
    assert len(only) == 10 and only[-6:-1] == plain(tok, ["1234"])[0]
    with pytest.raises(BadInput, match="longest_first"):
        tok("1", "12345678", truncation="only_first", max_length=6)


def test_padding_and_masks(tok: Any) -> None:
    rows = tok(
        ["1", "123"], padding="max_length", max_length=8, return_special_tokens_mask=True, return_length=True
    )
    assert [len(row) for row in rows["input_ids"]] == [8, 8]
    assert rows["special_tokens_mask"] == [[1] * 4 + [0, 0, 1, 1], [1] * 2 + [0] * 4 + [1, 1]]
    assert rows["length"] == [4, 6]
    right = tok(["1", "123"], padding=True, padding_side="right", pad_to_multiple_of=4)
    assert right["input_ids"][0][4:] == [3] * 4 and right["attention_mask"][0] == [1] * 4 + [0] * 4
    assert tok(["1", "12"], padding=True, return_tensors="np")["input_ids"].shape == (2, 5)
    assert tok([])["input_ids"] == []


def test_chat_template(tok: Any) -> None:
    ask = [{"role": "user", "content": "你好"}]
    assert tok.apply_chat_template(ask, tokenize=False) == "你好"
    assert list(tok.apply_chat_template(ask, return_dict=False)) == tok("你好")["input_ids"]
    talk = [*ask, {"role": "assistant", "content": "你好！"}, {"role": "user", "content": "1+1"}]
    prompt = "[Round 0]\n问：你好\n答：你好！\n[Round 1]\n问：1+1\n答："
    assert tok.apply_chat_template(talk, tokenize=False) == prompt
    assert tok.apply_chat_template(talk, return_dict=True)["input_ids"] == tok(prompt)["input_ids"]
    answered = [*talk, {"role": "assistant", "content": "2"}]
    assert tok.apply_chat_template(answered, tokenize=False) == prompt + "2"
    assert tok.apply_chat_template(answered, return_dict=False) == tok(prompt, "2")["input_ids"]
    batch = tok.apply_chat_template([ask, talk], padding=True, return_dict=True)
    assert batch["input_ids"] == tok(["你好", prompt], padding=True)["input_ids"]
    with pytest.raises(Exception, match="without a system message"):
        tok.apply_chat_template([{"role": "system", "content": "x"}, *ask], tokenize=False)


def test_saved_loaded_pickled(tok: Any, directory: Path, tmp_path: Path, golden: dict[str, Any]) -> None:
    saved = tok.save_pretrained(tmp_path)
    assert {Path(path).name for path in saved} == {
        "ice_text.model",
        "tokenizer_config.json",
        "tokenizer.json",
    }
    assert (tmp_path / "ice_text.model").read_bytes() == (directory / "ice_text.model").read_bytes()
    again = ChatGLMTokenizerFast.from_pretrained(tmp_path)
    copy = pickle.loads(pickle.dumps(tok))
    made = [*fuzz_texts(300, 5), "<eop>", "[MASK]"]
    assert plain(again, made) == plain(copy, made) == plain(tok, made)
    assert again.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == "a"
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    release = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert {**config, **release, "name_or_path": None} == {**config, "name_or_path": None}


def test_tokenizer_json_for_other_programs(
    tok: Any, tmp_path: Path, texts: list[str], golden: dict[str, Any]
) -> None:
    """Rust alone: golden strings and real texts agree, control pieces stay text; ties may fall otherwise."""
    from tokenizers import Tokenizer

    tok.save_pretrained(tmp_path)
    rust = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for case in golden["tokenizer"]:
        assert rust.encode(case["text"]).ids == case["ids"]
        assert rust.decode(case["ids"]) == case["decoded"]
    assert [e.ids for e in rust.encode_batch(texts, add_special_tokens=False)] == plain(tok, texts)
    assert rust.encode("<eop>[MASK]", add_special_tokens=False).ids == plain(tok, ["<eop>[MASK]"])[0]


def test_old_revision(tok: Any, directory: Path, tmp_path: Path) -> None:
    """150528: the file of April 2023's first commits (rebuilt here, by its hash) and ids from 20000."""
    new = (directory / "ice_text.model").read_bytes()
    added = pieces_message(added_pieces())
    assert new.count(added) == 1
    before, behind = new.split(added)
    assert behind.startswith(
        b"\x12\x44"
    )  # the trainer's message, 68 bytes; byte_fallback = true is 3 of them
    trainer = behind[2:70].replace(b"\x98\x02\x01", b"")
    old = before + b"\x12\x41" + trainer + behind[70:]
    digest = hashlib.sha256(old).hexdigest()
    assert digest == "99871e0c85db81ad7af1028854fd091cd5778c8414ae9d94bbbc10d02c831c21"
    old_config = {
        "bos_token": "<sop>",
        "eop_token": "<eop>",
        "eos_token": "</s>",
        "tokenizer_class": "ChatGLMTokenizer",
    }
    (tmp_path / "ice_text.model").write_bytes(old)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(old_config), encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "chatglm", "vocab_size": 150528}', encoding="utf-8")
    found = ChatGLMTokenizerFast.from_pretrained(tmp_path)
    made = list(fuzz_texts(500, 6))
    assert plain(found, made) == [[i + 20000 for i in ids] for ids in plain(tok, made)]
    assert (found.bos_token_id, found.eos_token_id, found.pad_token_id) == (150004, 150005, 20003)
    assert (found.mask_token_id, found.gmask_token_id, len(found)) == (150000, 150001, 150344)
    assert found("你好")["input_ids"] == [20005, 94874, 150001, 150004]
    assert found.decode([17, 20005, 94874, 150005]) == "你好"  # an image token leaves no text
    found.save_pretrained(tmp_path / "saved")
    assert plain(ChatGLMTokenizerFast.from_pretrained(tmp_path / "saved"), ["你好"]) == [[20005, 94874]]


def test_image_ids_follow_the_models_vocabulary(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "ice_text.model").symlink_to(directory / "ice_text.model")
    (tmp_path / "config.json").write_text('{"model_type": "chatglm", "vocab_size": 130528}', encoding="utf-8")
    assert ChatGLMTokenizerFast.from_pretrained(tmp_path)("你好")["input_ids"] == [5, 74874, 130001, 130004]


def test_long_texts(tok: Any, processor: Any) -> None:
    long = ["哈" * 50_000, " " * 100_000, "小明有5个苹果，" * 10_000, "\n" * 20_000, "a" * 60_000]
    assert plain(tok, long) == [processor.EncodeAsIds(original_text(text)) for text in long]


def test_auto_tokenizer(directory: Path) -> None:
    pytest.importorskip("torch")
    from transformers import AutoTokenizer

    import glmjobs.models.chatglm.modeling  # noqa: F401  (registers the config)

    found = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    assert type(found) is ChatGLMTokenizerFast


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no ice_text.model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:5e\nsize 1\n", "git-lfs pointer"),
        (b"{}", "truncated or not a sentencepiece model"),
        ("half", "truncated or not a sentencepiece model"),
    ],
)
def test_bad_files_are_one_line(directory: Path, tmp_path: Path, content: Any, message: str) -> None:
    if content == "half":
        content = (directory / "ice_text.model").read_bytes()[:1_000_000]
    if content is not None:
        (tmp_path / "ice_text.model").write_bytes(content)
    (tmp_path / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BadInput, match=message) as caught:
        ChatGLMTokenizerFast.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_what_is_not_offered_is_said(tok: Any) -> None:
    with pytest.raises(BadInput, match="text 1 of the batch, character 1: lone surrogate U\\+D83D"):
        tok(["fine", "a\ud83d"])
    with pytest.raises(BadInput, match="return_offsets_mapping"):
        tok("a", return_offsets_mapping=True)
    with pytest.raises(ValueError, match="text_pair"):  # transformers 4 looks before we do
        tok(["a", "b"], ["c"])


def test_release_file_is_the_hubs(directory: Path) -> None:
    digest = hashlib.sha256((directory / "ice_text.model").read_bytes()).hexdigest()
    assert digest == "5e974d9a69c242ce014c88c2b26089270f6198f3c0b700a887666cd3e816f17e"
