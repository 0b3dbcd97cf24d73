"""ChatGLM-6B's tokenizer, fast: both published revisions, from the ``ice_text.model`` of a model directory.

Ids, frame, padding and decoding are those of THUDM/chatglm-6b's Python tokenizer:

- a newline becomes the piece ``<n>``, a tab ``<|tab|>``, 2 to 80 blanks ``<|blank_k|>`` (longest first);
- the rest is the model file's: NFKC (full width folds to ASCII), unigram, unknown characters as UTF-8 bytes;
- a text ends with ``[gMASK] <sop>``; a pair is ``A [gMASK] <sop> B <eop>``; padding goes to the left;
- decoding drops control pieces, and blanks in front of punctuation ("a ." becomes "a."): the default of
  transformers 4.27, for which the release was made.

One thing differs on purpose: control pieces written in a text (``[gMASK]``, ``<eop>``) stay text. The original
turns five of them into control ids, so that data could end a response; ``tok(text, split_special_tokens=False)`` gives
the original's ids. A ``split_special_tokens`` in a directory's ``tokenizer_config.json`` changes nothing: other
programs write it there without being asked.

The revision before 6 April 2023 (vocabulary 150528) numbers pieces from 20000, behind its image tokens; its
model file has 130,000 pieces, the rest is added by code.
"""

from __future__ import annotations

import inspect
import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import Tokenizer, normalizers, processors
from transformers import AutoTokenizer, BatchEncoding, PreTrainedTokenizerFast

from glmjobs.models.chatglm.configuration import ChatGLMConfig
from glmjobs.models.common.framed_tokenizer import Ids
from glmjobs.models.common.sentencepiece_file import PieceType, SentencePieceFile, pieces_message, read_model
from glmjobs.models.common.sentencepiece_tokenizer import (
    SentencePieceTokenizerFast,
    control_pieces,
    rust_decoder,
    rust_normalizers,
    unigram,
)
from hpc.core.errors import BadInput

VOCAB_FILE = "ice_text.model"
CONFIG_FILE = "tokenizer_config.json"
IMAGE_TOKENS = 20000
MAX_BLANKS = 80
NEWLINE, TAB = "<n>", "<|tab|>"
CONTROL_PIECES = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")

# The old revision's file names </s> as eos; what ends a response in both is <eop> (eos in config.json).
NAMED_TOKENS = {
    "bos_token": "<sop>",
    "eos_token": "<eop>",
    "mask_token": "[MASK]",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
}
# Those that become ids in a text under split_special_tokens=False: what transformers 4.27 takes for special.
SPECIAL_IN_TEXTS = tuple(NAMED_TOKENS.values())
# What a tokenizer_config.json or transformers may bring along that is fixed here.
_OWN_ARGUMENTS = (
    *("end_token", "gmask_token", "eop_token", "model_specific_special_tokens", "extra_special_tokens"),
    *(
        "added_tokens_decoder",
        "tokenizer_file",
        "tokenizer_object",
        "tokenizer_class",
        "split_special_tokens",
    ),
)

# One question alone is the prompt; with history, rounds count from 0 (model.chat of THUDM/chatglm-6b).
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}"
    "{{ raise_exception('ChatGLM-6B: roles must be user, assistant, user, ... without a system message') }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if messages | length == 1 -%}{{ messages[0]['content'] }}"
    "{%- else -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}"
    "{{ '[Round ' ~ (loop.index0 // 2) ~ ']\n问：' ~ message['content'] ~ '\n答：' }}"
    "{%- else -%}{{ message['content'] ~ ('' if loop.last else '\n') }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
)

_BLANKS = re.compile(" {2,}")
_BLANK_PIECES = re.compile(r"<\|blank_(\d{1,2})\|>")


def added_pieces() -> list[tuple[str, float, PieceType]]:
    """The pieces behind the trained ones, in order: 8 control pieces, the tab, blanks 2..80, 256 bytes."""
    pieces = [(piece, 0.0, PieceType.CONTROL) for piece in CONTROL_PIECES]
    blanks = [blank_piece(length) for length in range(2, MAX_BLANKS + 1)]
    pieces += [(piece, 0.0, PieceType.USER_DEFINED) for piece in (TAB, *blanks)]
    return pieces + [(f"<0x{byte:02X}>", 0.0, PieceType.BYTE) for byte in range(256)]


def blank_piece(length: int) -> str:
    """The piece for ``length`` blanks in a row (2 to 80)."""
    return f"<|blank_{length}|>"


def _blanks_to_pieces(run: re.Match[str]) -> str:
    whole, rest = divmod(len(run.group()), MAX_BLANKS)
    return blank_piece(MAX_BLANKS) * whole + (blank_piece(rest) if rest > 1 else " " * rest)


def _piece_to_blanks(piece: re.Match[str]) -> str:
    length = int(piece.group(1))
    known = 2 <= length <= MAX_BLANKS and not piece.group(1).startswith("0")
    return " " * length if known else piece.group()


class ChatGLMTokenizerFast(SentencePieceTokenizerFast):
    """ChatGLM-6B's tokenizer, ``ChatGLMTokenizerFast.from_pretrained(model_directory)``.

    >>> tok = ChatGLMTokenizerFast.from_pretrained("THUDM-chatglm-6b")     # doctest: +SKIP
    >>> tok("你好")["input_ids"]                                            # doctest: +SKIP
    [5, 74874, 130001, 130004]

    Args:
        vocab_file: the ``ice_text.model``.
        num_image_tokens: ids before the first text piece: 0, or 20000 in the old revision. Where it is
            not given, the vocabulary size in the directory's ``config.json`` decides; 20000 without one.
        remove_space, do_lower_case: the original's switches, off in both releases.

    Raises :class:`hpc.core.errors.BadInput` where the file is missing, truncated or of another model.
    """

    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": VOCAB_FILE}

    def __init__(
        self,
        vocab_file: str | None = None,
        *,
        num_image_tokens: int | None = None,
        remove_space: bool = False,
        do_lower_case: bool = False,
        **kwargs: Any,
    ) -> None:
        if vocab_file is None:
            where = kwargs.get("name_or_path") or "model directory"
            raise BadInput(f"{where}: no {VOCAB_FILE}, the vocabulary of ChatGLM-6B, in it")
        model = _complete(read_model(vocab_file))
        self._files = {VOCAB_FILE: model.data}
        self.processor = model.processor()
        if num_image_tokens is None:
            num_image_tokens = _image_tokens(Path(vocab_file).parent, self.processor.vocab_size())
        self.num_image_tokens = num_image_tokens
        self.remove_space, self.do_lower_case = remove_space, do_lower_case
        for key in _OWN_ARGUMENTS:
            kwargs.pop(key, None)
        kwargs.setdefault("padding_side", "left")
        kwargs.setdefault("clean_up_tokenization_spaces", True)
        kwargs.setdefault("chat_template", CHAT_TEMPLATE)
        kwargs.update(NAMED_TOKENS)
        super().__init__(
            vocab_file=vocab_file,
            tokenizer_object=self._rust_tokenizer(model),
            num_image_tokens=num_image_tokens,
            split_special_tokens=True,
            **kwargs,
        )
        self.vocab_file = vocab_file

    def _rust_tokenizer(self, model: SentencePieceFile) -> Tokenizer:
        tokenizer = unigram(self.processor, [f"<image_{i}>" for i in range(self.num_image_tokens)])
        blanks = {blank_piece(n): " " * n for n in range(MAX_BLANKS, 1, -1)}
        text_of = {NEWLINE: "\n", TAB: "\t", **blanks}
        prepare = [normalizers.Replace(text, piece) for piece, text in text_of.items()]
        tokenizer.normalizer = normalizers.Sequence(prepare + rust_normalizers(model.normalizer))
        silent = dict.fromkeys(control_pieces(self.processor), "")
        tokenizer.decoder = rust_decoder({**text_of, **silent, "<unk>": " ⁇ "})
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A [gMASK] <sop>",
            pair="$A [gMASK] <sop> $B:1 <eop>:1",
            special_tokens=[(piece, self._id(piece)) for piece in ("[gMASK]", "<sop>", "<eop>")],
        )
        return tokenizer

    def _id(self, piece: str) -> int:
        return int(self.processor.piece_to_id(piece)) + self.num_image_tokens

    gmask_token, end_token, sop_token, eop_token = "[gMASK]", "</s>", "<sop>", "<eop>"

    @cached_property
    def gmask_token_id(self) -> int:
        """Id of ``[gMASK]``, which follows a prompt."""
        return self._id("[gMASK]")

    @cached_property
    def sop_token_id(self) -> int:
        """Id of ``<sop>`` (bos), which starts a response."""
        return self._id("<sop>")

    @cached_property
    def eop_token_id(self) -> int:
        """Id of ``<eop>`` (eos), which ends a response."""
        return self._id("<eop>")

    @cached_property
    def end_token_id(self) -> int:
        """Id of ``</s>``."""
        return self._id("</s>")

    def _prepare(self, text: str) -> str:
        if self.remove_space:
            text = " ".join(text.strip().split())
        if self.do_lower_case:
            text = text.lower()
        text = text.replace("\n", NEWLINE).replace("\t", TAB)
        return _BLANKS.sub(_blanks_to_pieces, text) if "  " in text else text

    def _restore(self, text: str) -> str:
        text = text.replace(NEWLINE, "\n").replace(TAB, "\t")
        return _BLANK_PIECES.sub(_piece_to_blanks, text) if "<|blank_" in text else text

    def _plain_ids(self, texts: list[str]) -> list[Ids]:
        rows = super()._plain_ids(texts)
        offset = self.num_image_tokens
        return [[i + offset for i in row] for row in rows] if offset else rows

    def _special_in_texts(self) -> dict[str, int]:
        return {piece: self._id(piece) for piece in SPECIAL_IN_TEXTS}

    def _sentencepiece_ids(self, ids: Ids) -> Ids:
        return super()._sentencepiece_ids([i - self.num_image_tokens for i in ids])

    def _frame(self, pair: bool) -> tuple[Ids, Ids, Ids]:
        return [], [self.gmask_token_id, self.sop_token_id], [self.eop_token_id] if pair else []

    def apply_chat_template(self, conversation: Any, *args: Any, tokenize: bool = True, **kwargs: Any) -> Any:
        """The original's prompt for a conversation, as text or (``tokenize``) as framed ids.

        A conversation that ends with an answer is framed as a pair, the answer closed with ``<eop>``.
        """
        if not tokenize:
            return super().apply_chat_template(conversation, *args, tokenize=False, **kwargs)
        names = ("padding", "truncation", "max_length", "return_tensors")
        encoding = {name: kwargs.pop(name) for name in names if name in kwargs}
        encoding.update(kwargs.pop("tokenizer_kwargs", None) or {})
        as_dict = kwargs.pop("return_dict", None)
        if as_dict is None:  # True in transformers 5, False in 4
            signature = inspect.signature(PreTrainedTokenizerFast.apply_chat_template)
            as_dict = signature.parameters["return_dict"].default
        batched = bool(conversation) and isinstance(conversation[0], (list, tuple))
        dialogues = list(conversation) if batched else [conversation]
        answered = [bool(dialogue) and dialogue[-1]["role"] == "assistant" for dialogue in dialogues]
        if any(answered) and not all(answered):
            raise BadInput("conversations: all of a batch must end with the assistant's answer, or none")
        asked = [dialogue[:-1] if all(answered) else dialogue for dialogue in dialogues]
        prompts = super().apply_chat_template(asked, *args, tokenize=False, **kwargs)
        answers = [dialogue[-1]["content"] for dialogue in dialogues] if all(answered) else None
        if batched or encoding.get("return_tensors") is not None:
            encoded: BatchEncoding = self(prompts, answers, **encoding)
        else:
            encoded = self(prompts[0], answers[0] if answers else None, **encoding)
        return encoded if as_dict else encoded["input_ids"]

    def save_pretrained(
        self, save_directory: Any, *args: Any, filename_prefix: str | None = None, **kwargs: Any
    ) -> tuple[str, ...]:
        """Write ``ice_text.model``, ``tokenizer_config.json`` in the release's form, and ``tokenizer.json``.

        THUDM's own code loads the first two; ``tokenizer.json`` is for other programs, as exact as Rust
        allows (see :mod:`glmjobs.models.common.sentencepiece_tokenizer`). It lists no added tokens: control
        pieces written in a text stay text there, too.
        """
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        config, fast = directory / f"{prefix}{CONFIG_FILE}", directory / f"{prefix}tokenizer.json"
        config.write_text(_json(self._release_config()), encoding="utf-8")
        rust = json.loads(self.backend_tokenizer.to_str())
        fast.write_text(json.dumps({**rust, "added_tokens": []}, ensure_ascii=False), encoding="utf-8")
        return (str(config), str(fast), *self.save_vocabulary(str(directory), filename_prefix))

    def _release_config(self) -> dict[str, Any]:
        config = release_config(self.num_image_tokens)
        config.update(remove_space=self.remove_space, do_lower_case=self.do_lower_case)
        if self.chat_template != CHAT_TEMPLATE:
            config["chat_template"] = self.chat_template
        auto_map = self.init_kwargs.get("auto_map")
        return {**config, "auto_map": auto_map} if auto_map else config


def release_config(num_image_tokens: int = 0) -> dict[str, Any]:
    """The ``tokenizer_config.json`` of a ChatGLM-6B directory, readable by THUDM's code and by ours."""
    return {
        **NAMED_TOKENS,
        "end_token": "</s>",
        "gmask_token": "[gMASK]",
        "padding_side": "left",
        "remove_space": False,
        "do_lower_case": False,
        "num_image_tokens": num_image_tokens,
        "chat_template": CHAT_TEMPLATE,
        "tokenizer_class": "ChatGLMTokenizer",
    }


def _json(config: dict[str, Any]) -> str:
    return json.dumps(config, ensure_ascii=False, indent=2) + "\n"


def write_config(directory: Path, num_image_tokens: int = 0) -> None:
    """Write the ``tokenizer_config.json`` of a ChatGLM-6B directory."""
    (directory / CONFIG_FILE).write_text(_json(release_config(num_image_tokens)), encoding="utf-8")


def _complete(model: SentencePieceFile) -> SentencePieceFile:
    """The model with its control, blank and byte pieces; the old revision's file is without them."""
    processor = model.processor()
    if processor.piece_to_id(NEWLINE) == processor.unk_id():
        raise BadInput(f"{model.path}: no piece {NEWLINE}; this sentencepiece model is not ChatGLM-6B's")
    if processor.piece_to_id("<sop>") != processor.unk_id():
        return model
    return model.with_pieces(pieces_message(added_pieces(), byte_fallback=True))


def _image_tokens(directory: Path, pieces: int) -> int:
    """Where the text ids start, from the vocabulary size that the model's ``config.json`` gives."""
    try:
        size = json.loads((directory / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return IMAGE_TOKENS
    return IMAGE_TOKENS if isinstance(size, int) and size >= pieces + IMAGE_TOKENS else 0


AutoTokenizer.register(ChatGLMConfig, fast_tokenizer_class=ChatGLMTokenizerFast, exist_ok=True)
