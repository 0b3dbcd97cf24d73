"""The fast tokenizer of GLM-4-9B's first form, from its ``tokenizer.model``: a list of byte sequences and their ranks.

A text is cut by a pattern; in each part the neighbours whose union has the lowest rank are joined first (tiktoken's
byte-level BPE). Behind the list stand the control tokens. They stay text where a text has them: roles come from
:meth:`GLM4TokenizerFast.message` alone, so data cannot change who speaks.
"""

from __future__ import annotations

import base64
import binascii
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from glmjobs.models.common.framed_tokenizer import FramedTokenizerFast, Ids
from hpc.core.errors import BadInput

VOCAB_FILE = "tokenizer.model"
CONTROL = (
    *(
        "<|endoftext|>",
        "[MASK]",
        "[gMASK]",
        "[sMASK]",
        "<sop>",
        "<eop>",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
    ),
    *("<|observation|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
)
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_OWN_ARGUMENTS = (
    *(
        "tokenizer_file",
        "tokenizer_object",
        "tokenizer_class",
        "additional_special_tokens",
        "bos_token",
        "use_fast",
    ),
    *(
        "extra_special_tokens",
        "model_specific_special_tokens",
        "added_tokens_decoder",
        "split_special_tokens",
    ),
    *("remove_space", "do_lower_case", "encode_special_tokens", "image_size"),
)


class GLM4TokenizerFast(FramedTokenizerFast):
    """``GLM4TokenizerFast.from_pretrained(directory)``; a text is framed as ``[gMASK] <sop> A``.

    Raises :class:`hpc.core.errors.BadInput` where the file is missing or no such list.
    """

    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": VOCAB_FILE}
    model_input_names: ClassVar[list[str]] = ["input_ids", "attention_mask"]
    slow_tokenizer_class = None

    def __init__(self, vocab_file: str | None = None, **kwargs: Any) -> None:
        if vocab_file is None:
            raise BadInput(
                f"{kwargs.get('name_or_path') or 'model directory'}: no {VOCAB_FILE}, GLM-4's vocabulary, in it"
            )
        self._files = {VOCAB_FILE: Path(vocab_file).read_bytes()}
        tokenizer = byte_pairs(ranks_of(self._files[VOCAB_FILE], vocab_file))
        tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in CONTROL])
        framing = [(token, tokenizer.token_to_id(token)) for token in ("[gMASK]", "<sop>")]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[gMASK] <sop> $A", pair="[gMASK] <sop> $A $B:1", special_tokens=framing
        )
        for key in _OWN_ARGUMENTS:
            kwargs.pop(key, None)
        kwargs.setdefault("padding_side", "left")
        kwargs.setdefault("clean_up_tokenization_spaces", False)
        kwargs.update(eos_token="<|endoftext|>", pad_token="<|endoftext|>")
        super().__init__(
            vocab_file=vocab_file, tokenizer_object=tokenizer, split_special_tokens=True, **kwargs
        )
        self.vocab_file = vocab_file

    def _id(self, token: str) -> int:
        return int(self.backend_tokenizer.token_to_id(token))

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of every control token."""
        return [self._id(token) for token in CONTROL]

    @cached_property
    def newline_ids(self) -> Ids:
        """What follows a role's token: its empty metadata and the end of the line."""
        return list(self("\n", add_special_tokens=False)["input_ids"])

    def message(self, role: str, text: str) -> Ids:
        """One message: the role's token, a new line, the text; the two are not joined, as in the original."""
        return [
            self._id(f"<|{role}|>"),
            *self.newline_ids,
            *self(text, add_special_tokens=False)["input_ids"],
        ]

    def _frame(self, pair: bool) -> tuple[Ids, Ids, Ids]:
        return [self._id("[gMASK]"), self._id("<sop>")], [], []

    def _text_of(self, ids: Ids, skip_special_tokens: bool) -> str:
        return str(self.backend_tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))

    def save_pretrained(
        self, save_directory: Any, *args: Any, filename_prefix: str | None = None, **kwargs: Any
    ) -> tuple[str, ...]:
        """Write ``tokenizer.model`` and ``tokenizer_config.json`` as the release has them: its own code reads both."""
        config = {
            "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "padding_side": "left",
            "clean_up_tokenization_spaces": False, "tokenizer_class": "ChatGLM4Tokenizer",
        }  # fmt: skip
        return self._save_release(save_directory, config, filename_prefix)


def ranks_of(data: bytes, where: str) -> dict[bytes, int]:
    """The list's byte sequences and ranks, which are their ids.

    Raises:
        BadInput: it is no such list, or its ranks are not 0, 1, 2, ….
    """
    try:
        rows = [line.split() for line in data.splitlines() if line.strip()]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in rows}
    except (ValueError, binascii.Error):
        raise BadInput(f"{where}: no list of base64 tokens and ranks, as GLM-4's vocabulary is") from None
    if sorted(ranks.values()) != list(range(len(ranks))) or any(bytes([i]) not in ranks for i in range(256)):
        raise BadInput(f"{where}: a list of {len(ranks):,} tokens that is not whole; copy it again")
    return ranks


def byte_pairs(ranks: dict[bytes, int]) -> Tokenizer:
    """The Rust tokenizer of a list: a token's merges are all its splits into two tokens, in the order of the ranks."""
    letters = _letters()
    texts = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        splits = [(token[:at], token[at:]) for at in range(1, len(token))]
        both = [(ranks[a], ranks[b], a, b) for a, b in splits if a in ranks and b in ranks]
        merges += [(texts[a], texts[b]) for _, _, a, b in sorted(both, key=lambda pair: pair[:2])]
    tokenizer = Tokenizer(models.BPE({texts[token]: rank for token, rank in ranks.items()}, merges))
    cut = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _letters() -> list[str]:
    """The printable character that stands for each byte in a byte-level vocabulary (GPT-2's bytes_to_unicode)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [table[byte] for byte in range(256)]
