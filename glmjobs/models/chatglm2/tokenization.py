"""The fast tokenizer of ChatGLM2-6B and ChatGLM3-6B, from the ``tokenizer.model`` of a model directory.

One sentencepiece file (BPE with byte fallback, 64,789 pieces) serves both; behind its pieces stand the control tokens
``[MASK] [gMASK] [sMASK] sop eop`` and, in ChatGLM3, a token for each role. A text is framed as ``[gMASK] sop A``, a
pair as ``[gMASK] sop A B </s>``.

Control tokens written in a text stay text, as in the originals: roles come from :meth:`ChatGLM2TokenizerFast.message`
alone, so data cannot change who speaks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

from tokenizers import AddedToken, normalizers, processors

from glmjobs.models.common.framed_tokenizer import Ids
from glmjobs.models.common.sentencepiece_file import read_model
from glmjobs.models.common.sentencepiece_tokenizer import (
    SentencePieceTokenizerFast,
    rust_bpe,
    rust_decoder,
    rust_normalizers,
)
from hpc.core.errors import BadInput

VOCAB_FILE = "tokenizer.model"
COMMANDS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
ROLES = ("system", "user", "assistant", "observation")
NAMED_TOKENS = {"eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"}
# What a tokenizer_config.json or transformers may bring along that is fixed here.
_OWN_ARGUMENTS = (
    *("tokenizer_file", "tokenizer_object", "tokenizer_class", "additional_special_tokens", "bos_token"),
    *("extra_special_tokens", "model_specific_special_tokens", "added_tokens_decoder", "use_fast"),
    *("remove_space", "do_lower_case", "encode_special_tokens", "split_special_tokens"),
)


class ChatGLM2TokenizerFast(SentencePieceTokenizerFast):
    """``ChatGLM2TokenizerFast.from_pretrained(directory, roles=True)`` is ChatGLM3's, without roles ChatGLM2's.

    Args:
        vocab_file: the ``tokenizer.model``.
        roles: there is a token for each of :data:`ROLES`.

    Raises :class:`hpc.core.errors.BadInput` where the file is missing, truncated or of another model.
    """

    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": VOCAB_FILE}

    def __init__(self, vocab_file: str | None = None, *, roles: bool = False, **kwargs: Any) -> None:
        if vocab_file is None:
            where = kwargs.get("name_or_path") or "model directory"
            raise BadInput(f"{where}: no {VOCAB_FILE}, the vocabulary of ChatGLM2 and ChatGLM3, in it")
        model = read_model(vocab_file)
        self._files = {VOCAB_FILE: model.data}
        self.processor = model.processor()
        names = (*COMMANDS, *(f"<|{role}|>" for role in ROLES if roles))
        self.special = {token: self.processor.vocab_size() + place for place, token in enumerate(names)}
        tokenizer = rust_bpe(self.processor, byte_fallback=True)
        tokenizer.normalizer = normalizers.Sequence(rust_normalizers(model.normalizer))
        tokenizer.decoder = rust_decoder({})
        tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in names])
        for token, i in self.special.items():
            if tokenizer.token_to_id(token) != i:
                raise BadInput(
                    f"{vocab_file}: has a piece {token}; this sentencepiece model is not ChatGLM2's"
                )
        framing = [(token, self.special[token]) for token in ("[gMASK]", "sop")]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[gMASK] sop $A", pair="[gMASK] sop $A $B:1 </s>:1",
            special_tokens=[*framing, ("</s>", self.processor.eos_id())],
        )  # fmt: skip
        for key in _OWN_ARGUMENTS:
            kwargs.pop(key, None)
        kwargs.setdefault("padding_side", "left")
        kwargs.setdefault("clean_up_tokenization_spaces", False)
        kwargs.update(NAMED_TOKENS)
        super().__init__(
            vocab_file=vocab_file,
            tokenizer_object=tokenizer,
            roles=roles,
            split_special_tokens=True,
            **kwargs,
        )
        self.vocab_file = vocab_file

    @property
    def all_special_ids(self) -> list[int]:
        """Ids that are no text: unknown (which pads), begin, end, and every control token."""
        return [0, self.processor.bos_id(), self.processor.eos_id(), *self.special.values()]

    @cached_property
    def newline_ids(self) -> Ids:
        """What follows a role's token: its empty metadata and the end of the line."""
        return self._plain_ids(["\n"])[0]

    def message(self, role: str, text: str) -> Ids:
        """One message of ChatGLM3's: the role's token, a new line, the text."""
        return [self.special[f"<|{role}|>"], *self.newline_ids, *self._plain_ids([text])[0]]

    def _frame(self, pair: bool) -> tuple[Ids, Ids, Ids]:
        end = [self.processor.eos_id()] if pair else []
        return [self.special["[gMASK]"], self.special["sop"]], [], end

    def _text_of(self, ids: Ids, skip_special_tokens: bool) -> str:
        """ChatGLM2 shows no control token; ChatGLM3, unless they are skipped, all of them."""
        shown = {} if skip_special_tokens or "<|user|>" not in self.special else self.special
        names = {i: token for token, i in shown.items()}
        silent, size = (0, self.processor.bos_id(), self.processor.eos_id()), self.processor.vocab_size()
        piece: Callable[[int], str] = self.processor.id_to_piece
        pieces = [
            names[i] if i in names else piece(i)
            for i in ids
            if i in names or (0 <= i < size and i not in silent)
        ]
        return str(self.processor.decode_pieces(pieces)) if pieces else ""

    def save_pretrained(
        self, save_directory: Any, *args: Any, filename_prefix: str | None = None, **kwargs: Any
    ) -> tuple[str, ...]:
        """Write ``tokenizer.model`` and ``tokenizer_config.json`` as the release has them: THUDM's code reads both."""
        config = {"remove_space": False, "do_lower_case": False, "tokenizer_class": "ChatGLMTokenizer"}
        return self._save_release(save_directory, config, filename_prefix)
