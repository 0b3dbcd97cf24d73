"""Fast tokenizers of GLM-10B (English) and GLM-10B-chinese, from the vocabulary files of a model directory.

- GLM-10B: GPT-2's byte-level BPE (``vocab.json``, ``merges.txt``), 50,257 pieces, and eight special tokens;
- GLM-10B-chinese: a sentencepiece BPE model of 50,000 pieces (``cog-pretrain.model``) and ten special tokens.

A text is framed as ``[CLS] A <|endoftext|>``, a pair in THUDM/GLM's sequence-to-sequence form: ``[CLS] A
[sMASK] <|endoftext|> <|startofpiece|> B <|endofpiece|>``. Truncation takes from the left.

In plain text special tokens stay text, so that data cannot end a response or open a blank. To write
``[MASK]`` and its kin in a prompt, as in THUDM's examples: ``tok(text, split_special_tokens=False)``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from glmjobs.models.common.framed_tokenizer import FramedTokenizerFast, Ids
from glmjobs.models.common.sentencepiece_file import read_model
from glmjobs.models.common.sentencepiece_tokenizer import (
    SentencePieceTokenizerFast,
    rust_bpe,
    rust_decoder,
    rust_normalizers,
)
from glmjobs.models.glm10b.configuration import GLMConfig
from hpc.core.errors import BadInput

CHINESE_FILE = "cog-pretrain.model"
ENGLISH_FILES = ("vocab.json", "merges.txt")
ADDED_FILE = "added_tokens.json"
CONFIG_FILE = "tokenizer_config.json"

# In the order of their ids. <|endoftext|> (eos and pad) is the last piece of GPT-2's vocabulary, 50256.
ENGLISH_SPECIAL = (
    *("<|startofpiece|>", "<|endofpiece|>", "[CLS]", "[MASK]", "[SEP]", "[UNK]", "[gMASK]", "[sMASK]"),
)
# [gMASK] had <|endofpiece|>'s number 50007 in THUDM/GLM; published directories copy that row to 50009.
CHINESE_SPECIAL = (
    *("<|endoftext|>", "[SEP]", "[CLS]", "[MASK]", "[UNK]", "[UNUSED1]"),
    *("<|startofpiece|>", "<|endofpiece|>", "[sMASK]", "[gMASK]"),
)
NAMED_TOKENS = {
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
    "unk_token": "[UNK]",
}
EXTRA_TOKENS = ["<|startofpiece|>", "<|endofpiece|>", "[gMASK]", "[sMASK]"]
_OWN_ARGUMENTS = (
    *("tokenizer_file", "tokenizer_object", "tokenizer_class", "additional_special_tokens", "bos_token"),
    *("extra_special_tokens", "model_specific_special_tokens", "added_tokens_decoder", "use_fast"),
)
_FRAME = {
    "single": "[CLS] $A <|endoftext|>",
    "pair": "[CLS] $A [sMASK] <|endoftext|> <|startofpiece|> $B:1 <|endofpiece|>:1",
}


class _GLMTokens(FramedTokenizerFast):
    """What both GLM tokenizers have: the named special tokens, and files that THUDM's code reads, too."""

    original_class: ClassVar[str]
    special: Mapping[str, int]

    def _start(self, tokenizer: Tokenizer, special: Mapping[str, int], kwargs: dict[str, Any]) -> None:
        """Construct the base with ``tokenizer``, which gets the special tokens and the frame."""
        tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
        wrong = {token: i for token, i in special.items() if tokenizer.token_to_id(token) != i}
        if wrong:
            token, i = next(iter(wrong.items()))
            found = tokenizer.token_to_id(token)
            raise BadInput(
                f"{ADDED_FILE}: {token} is {i} there, {found} behind the vocabulary; ids must be in a row"
            )
        framing = ("[CLS]", "[sMASK]", "<|endoftext|>", "<|startofpiece|>", "<|endofpiece|>")
        ids = [(token, tokenizer.token_to_id(token)) for token in framing]
        tokenizer.post_processor = processors.TemplateProcessing(special_tokens=ids, **_FRAME)
        self.special = dict(special)
        for key in _OWN_ARGUMENTS:
            kwargs.pop(key, None)
        kwargs.setdefault("truncation_side", "left")
        kwargs.setdefault("split_special_tokens", True)
        kwargs.setdefault("clean_up_tokenization_spaces", True)
        kwargs.update(NAMED_TOKENS)
        PreTrainedTokenizerFast.__init__(self, tokenizer_object=tokenizer, **kwargs)

    def _special_id(self, token: str) -> int:
        return int(self.backend_tokenizer.token_to_id(token))

    @cached_property
    def sop_token_id(self) -> int:
        """Id of ``<|startofpiece|>``, which starts a response."""
        return self._special_id("<|startofpiece|>")

    @cached_property
    def eop_token_id(self) -> int:
        """Id of ``<|endofpiece|>``, which ends a response."""
        return self._special_id("<|endofpiece|>")

    @cached_property
    def gmask_token_id(self) -> int:
        """Id of ``[gMASK]``, the blank of open generation."""
        return self._special_id("[gMASK]")

    @cached_property
    def smask_token_id(self) -> int:
        """Id of ``[sMASK]``, the blank of sentences; sequence-to-sequence tuning uses it."""
        return self._special_id("[sMASK]")

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of every special token, those without a name of their own included."""
        return sorted({self._special_id(token) for token in (*self.special, "<|endoftext|>")})

    def _frame(self, pair: bool) -> tuple[Ids, Ids, Ids]:
        """``[CLS] A eos``, or ``[CLS] A [sMASK] eos <sop> B <eop>``."""
        if not pair:
            return [self.cls_token_id], [self.eos_token_id], []
        return (
            [self.cls_token_id],
            [self.smask_token_id, self.eos_token_id, self.sop_token_id],
            [self.eop_token_id],
        )

    def save_pretrained(
        self, save_directory: Any, *args: Any, filename_prefix: str | None = None, **kwargs: Any
    ) -> tuple[str, ...]:
        """Write the vocabulary, ``added_tokens.json``, ``tokenizer_config.json`` and ``tokenizer.json``."""
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {**NAMED_TOKENS, "additional_special_tokens": EXTRA_TOKENS}
        config.update(tokenizer_class=self.original_class, truncation_side=self.truncation_side)
        if self.init_kwargs.get("auto_map"):
            config["auto_map"] = self.init_kwargs["auto_map"]
        texts = {CONFIG_FILE: config, ADDED_FILE: self.special}
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        for name, content in texts.items():
            path = directory / f"{prefix}{name}"
            path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        self.backend_tokenizer.save(str(directory / f"{prefix}tokenizer.json"))
        written = [str(directory / f"{prefix}{name}") for name in (*texts, "tokenizer.json")]
        return (*written, *self.save_vocabulary(str(directory), filename_prefix))


class GLMGPT2TokenizerFast(_GLMTokens):
    """GLM-10B's tokenizer, ``GLMGPT2TokenizerFast.from_pretrained(directory)``: GPT-2's BPE in Rust."""

    vocab_files_names: ClassVar[dict[str, str]] = dict(
        zip(("vocab_file", "merges_file"), ENGLISH_FILES, strict=True)
    )
    model_input_names: ClassVar[list[str]] = ["input_ids", "attention_mask"]
    original_class = "GLMGPT2Tokenizer"
    slow_tokenizer_class = None

    def __init__(self, vocab_file: str | None = None, merges_file: str | None = None, **kwargs: Any) -> None:
        where = kwargs.get("name_or_path") or "model directory"
        if vocab_file is None or merges_file is None:
            raise BadInput(
                f"{where}: GLM-10B's tokenizer needs {' and '.join(ENGLISH_FILES)}; both must be there"
            )
        try:
            bpe = models.BPE.from_file(vocab_file, merges_file)
        except Exception as error:  # the Rust library raises nothing more definite
            raise BadInput(
                f"{vocab_file}: no byte-level BPE vocabulary with its {merges_file} ({error})"
            ) from None
        tokenizer = Tokenizer(bpe)
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        size = tokenizer.get_vocab_size()
        self._files = {path.name: path.read_bytes() for path in (Path(vocab_file), Path(merges_file))}
        if tokenizer.token_to_id("<|endoftext|>") is None:
            raise BadInput(f"{vocab_file}: no <|endoftext|>, which GPT-2's vocabulary ends with")
        special = _special_tokens(Path(vocab_file).parent, ENGLISH_SPECIAL, size)
        self._start(tokenizer, special, {**kwargs, "vocab_file": vocab_file, "merges_file": merges_file})

    def _text_of(self, ids: Ids, skip_special_tokens: bool) -> str:
        return str(self.backend_tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))


class GLMChineseTokenizerFast(_GLMTokens, SentencePieceTokenizerFast):
    """GLM-10B-chinese's tokenizer, ``GLMChineseTokenizerFast.from_pretrained(directory)``."""

    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": CHINESE_FILE}
    original_class = "GLMChineseTokenizer"

    def __init__(self, vocab_file: str | None = None, **kwargs: Any) -> None:
        if vocab_file is None:
            where = kwargs.get("name_or_path") or "model directory"
            raise BadInput(f"{where}: no {CHINESE_FILE}, the vocabulary of GLM-10B-chinese, in it")
        model = read_model(vocab_file)
        self.processor = model.processor()
        tokenizer = rust_bpe(self.processor)
        tokenizer.normalizer = normalizers.Sequence(rust_normalizers(model.normalizer))
        tokenizer.decoder = rust_decoder({})
        self._files = {CHINESE_FILE: model.data}
        special = _special_tokens(Path(vocab_file).parent, CHINESE_SPECIAL, self.processor.vocab_size())
        self._start(tokenizer, special, {**kwargs, "vocab_file": vocab_file})

    def _special_in_texts(self) -> dict[str, int]:
        return dict(self.special)

    def _text_of(self, ids: Ids, skip_special_tokens: bool) -> str:
        names = {i: token for token, i in self.special.items()}
        parts: list[str | Ids] = []
        for i in ids:
            if i in names:
                if not skip_special_tokens:
                    parts.append(names[i])
            elif parts and isinstance(parts[-1], list):
                parts[-1].append(i)
            else:
                parts.append([i])
        decode = self.processor.decode
        return " ".join(p if isinstance(p, str) else decode(self._sentencepiece_ids(p)) for p in parts)


def _special_tokens(directory: Path, tokens: tuple[str, ...], first: int) -> dict[str, int]:
    """The special tokens and their ids: those of ``added_tokens.json``, else behind the vocabulary."""
    path = directory / ADDED_FILE
    if not path.is_file():
        return {token: first + place for place, token in enumerate(tokens)}
    try:
        added = json.loads(path.read_text(encoding="utf-8"))
        ids = sorted(((token, int(i)) for token, i in added.items()), key=lambda item: item[1])
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise BadInput(f"{path}: not a JSON object of tokens and ids ({error})") from None
    missing = [token for token in tokens if token not in added and not token.startswith("[UNUSED")]
    if missing:
        raise BadInput(f"{path}: no {missing[0]}; GLM needs {', '.join(tokens)}")
    return dict(ids)


def load_glm_tokenizer(directory: str | Path) -> GLMGPT2TokenizerFast | GLMChineseTokenizerFast:
    """The tokenizer of a GLM-10B model directory, by the vocabulary files in it.

    Raises :class:`BadInput` where neither language's files are there.
    """
    directory = Path(directory)
    if (directory / CHINESE_FILE).is_file():
        kind: type[Any] = GLMChineseTokenizerFast
    elif all((directory / name).is_file() for name in ENGLISH_FILES):
        kind = GLMGPT2TokenizerFast
    else:
        english = " and ".join(ENGLISH_FILES)
        raise BadInput(f"{directory}: neither {CHINESE_FILE} (GLM-10B-chinese) nor {english} (GLM-10B) in it")
    tokenizer: GLMGPT2TokenizerFast | GLMChineseTokenizerFast = kind.from_pretrained(
        directory, local_files_only=True
    )
    return tokenizer


class _ChineseModels:
    """Stands for GLM-10B-chinese in ``AutoTokenizer``'s map, which has one tokenizer for a config class.

    The name in ``tokenizer_config.json`` (``GLMGPT2Tokenizer`` or ``GLMChineseTokenizer``) says which it is.
    """


AutoTokenizer.register(GLMConfig, fast_tokenizer_class=GLMGPT2TokenizerFast, exist_ok=True)
AutoTokenizer.register(_ChineseModels, fast_tokenizer_class=GLMChineseTokenizerFast, exist_ok=True)
