"""A fast tokenizer whose ids come from sentencepiece itself.

Why not from Rust ``tokenizers`` alone: its Unigram keeps scores in float64 where sentencepiece keeps every sum in
float32, so equally good segmentations ("eeeee" as ee|eee or eee|ee) fall differently. No scores put into a
``tokenizer.json`` can mend it: sums of float32 scores are exact in float64, so Rust splits a run of one character
alike wherever it stands, while what sentencepiece rounds away depends on all that stands before the run. Its
``Precompiled`` normaliser works by grapheme cluster where sentencepiece takes the longest match (conjoining
Hangul, stacked combining marks); and on Chinese rows it is several times slower. ``benchmarks/tokenize.py``
measures both. So whole batches go through the sentencepiece library, which is C++ and needs no Python per
token; the Rust tokenizer built from the same file is the ``backend_tokenizer`` of transformers and the
``tokenizer.json`` of other programs.

sentencepiece before 0.2.2 compares a new sum in float64 with the kept one; later ones round first, and split runs
otherwise. The stacks pin one of before: the published models' ids were made with those.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers
from transformers import BatchEncoding

from glmjobs.models.common.framed_tokenizer import FramedTokenizerFast, Ids
from glmjobs.models.common.sentencepiece_file import Normalizer
from hpc.core.errors import BadInput

# Given in the Rust vocabulary to pieces no text may match (control and byte pieces): never on a best path.
NEVER = -1e4
_THREADED_FROM = 64


def _threads(rows: int) -> int:
    """Threads for a batch: one in a worker process, for few rows, or where TOKENIZERS_PARALLELISM says no."""
    wanted = os.environ.get("TOKENIZERS_PARALLELISM", "true").lower() not in ("0", "false", "off", "no")
    if rows < _THREADED_FROM or not wanted or multiprocessing.parent_process() is not None:
        return 1
    return min(8, len(os.sched_getaffinity(0)))


def rust_normalizers(spec: Normalizer) -> list[Any]:
    """sentencepiece's normalisation in the terms of Rust ``tokenizers``."""
    steps: list[Any] = [normalizers.Precompiled(spec.charsmap)] if spec.charsmap else []
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip(True, True)]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend("▁"))
    return [*steps, normalizers.Replace(" ", "▁")]


def rust_decoder(replacements: dict[str, str]) -> Any:
    """Pieces to text: ▁ is a blank, bytes join to characters, ``replacements`` is what other pieces mean."""
    steps: list[Any] = [decoders.Replace(piece, text) for piece, text in replacements.items()]
    steps += [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return decoders.Sequence(steps)


def control_pieces(processor: sentencepiece.SentencePieceProcessor) -> list[str]:
    """The pieces that no text may become and that decode to nothing."""
    scores = processor.get_score(list(range(processor.vocab_size())))
    return [
        processor.id_to_piece(i) for i, score in enumerate(scores) if not score and processor.is_control(i)
    ]


def unigram(processor: sentencepiece.SentencePieceProcessor, leading: Sequence[str] = ()) -> Tokenizer:
    """A Rust Unigram tokenizer with the pieces of ``processor`` behind ``leading`` (ids that are no text)."""
    ids = list(range(processor.vocab_size()))
    scores: list[float] = processor.get_score(ids)
    best = max((score for score in scores if score < 0), default=0.0)
    pieces = [(text, NEVER) for text in leading]
    fallback = False
    for i, text, score in zip(ids, processor.id_to_piece(ids), scores, strict=True):
        if score == 0.0:  # trained pieces have log probabilities; the others have none
            if processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i):
                score, fallback = NEVER, fallback or processor.is_byte(i)
            else:  # a user-defined piece: the score that sentencepiece's unigram_model.cc gives it
                score = len(text.encode()) * best - 0.1
        pieces.append((text, score))
    return Tokenizer(models.Unigram(pieces, len(leading) + processor.unk_id(), fallback))


def rust_bpe(processor: sentencepiece.SentencePieceProcessor, *, byte_fallback: bool = False) -> Tokenizer:
    """A Rust BPE tokenizer with the pieces of ``processor``.

    sentencepiece always joins the two neighbours whose union has the best score, so a piece's merges are all
    its splits into two pieces, in the order of the scores.
    """
    ids = list(range(processor.vocab_size()))
    texts: list[str] = processor.id_to_piece(ids)
    scores: list[float] = processor.get_score(ids)
    vocabulary = dict(zip(texts, ids, strict=True))
    merges = []
    for i in sorted(ids, key=lambda i: -scores[i]):
        if scores[i] == 0.0 and (processor.is_control(i) or processor.is_unknown(i)):
            continue
        text = texts[i]
        splits = ((text[:at], text[at:]) for at in range(1, len(text)))
        merges += [(left, right) for left, right in splits if left in vocabulary and right in vocabulary]
    unknown = texts[processor.unk_id()]
    return Tokenizer(
        models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=byte_fallback)
    )


class SentencePieceTokenizerFast(FramedTokenizerFast):
    """Base of the tokenizers over a sentencepiece file; a subclass says how a text is prepared and framed.

    ``tok(texts, add_special_tokens=False)["input_ids"]`` are the plain ids; with special tokens (the default)
    they are framed as ``build_inputs_with_special_tokens`` does. Padding, tensors and truncation are
    those of every transformers tokenizer (truncation leaves the frame whole); overflowing tokens, offsets
    and pre-split words are not offered, and asking for them is :class:`BadInput`, as is a text with lone
    surrogates.
    """

    slow_tokenizer_class = None
    model_input_names: ClassVar[list[str]] = ["input_ids", "attention_mask"]

    processor: sentencepiece.SentencePieceProcessor

    def _prepare(self, text: str) -> str:
        """What sentencepiece gets for ``text``."""
        return text

    def _plain_ids(self, texts: list[str]) -> list[Ids]:
        """Ids of each text without a frame; special tokens written in it are text."""
        prepared = [self._prepare(text) for text in texts]
        try:
            ids: list[Ids] = self.processor.encode(prepared, out_type=int, num_threads=_threads(len(texts)))
        except (UnicodeEncodeError, TypeError):  # which of the two depends on sentencepiece's version
            found = _lone_surrogate(prepared)
            if found is None:
                raise
            raise BadInput(found) from None
        return ids

    # --- encoding: transformers 4 calls _encode_plus for one text and _batch_encode_plus for several,
    # --- transformers 5 calls _encode_plus for both.

    def _encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> BatchEncoding:
        if isinstance(text, str):
            options["single"] = options.get("return_tensors") is None
            return self._encode_batch([text], None if text_pair is None else [text_pair], **options)
        if text_pair is not None and len(text) != len(text_pair):
            raise BadInput(
                f"text_pair: {len(text_pair)} texts for {len(text)}; every text needs its second one"
            )
        return self._encode_batch(*_split_pairs(text, text_pair), **options)

    def _batch_encode_plus(self, batch_text_or_text_pairs: Any, **options: Any) -> BatchEncoding:
        return self._encode_batch(*_split_pairs(batch_text_or_text_pairs, None), **options)

    def _encode_batch(
        self,
        texts: list[str],
        seconds: list[str] | None,
        *,
        add_special_tokens: bool = True,
        padding_strategy: Any = "do_not_pad",
        truncation_strategy: Any = "do_not_truncate",
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: Any = None,
        return_attention_mask: bool | None = None,
        return_special_tokens_mask: bool = False,
        return_length: bool = False,
        split_special_tokens: bool | None = None,
        single: bool = False,
        **others: Any,
    ) -> BatchEncoding:
        for name in ("is_split_into_words", "return_overflowing_tokens", "return_offsets_mapping"):
            if others.get(name):
                raise BadInput(f"{name}: not offered by {type(self).__name__}; encode whole texts without it")
        split = self.split_special_tokens if split_special_tokens is None else split_special_tokens
        with _no_collection():
            rows = self._ids(texts, split)
            pairs = None if seconds is None else self._ids(seconds, split)
            frame = self._frame(pairs is not None) if add_special_tokens else ([], [], [])
            strategy = str(getattr(truncation_strategy, "value", truncation_strategy))
            if strategy != "do_not_truncate" and max_length is not None:
                rows, pairs = self._truncated(rows, pairs, max_length - sum(map(len, frame)), strategy)
            data: dict[str, Any] = {}
            if return_special_tokens_mask:  # before the rows grow
                data["special_tokens_mask"] = _special_masks(frame, rows, pairs)
            data = {"input_ids": _framed(frame, rows, pairs), **data}
            if return_attention_mask is not False:
                data["attention_mask"] = [[1] * len(row) for row in data["input_ids"]]
            if return_length:
                data["length"] = [len(row) for row in data["input_ids"]]
            strategy = str(getattr(padding_strategy, "value", padding_strategy))
            if strategy != "do_not_pad":
                side = padding_side or self.padding_side
                data = self._padded(data, strategy, max_length, pad_to_multiple_of, side)
        if single:
            data = {name: values[0] for name, values in data.items()}
        return BatchEncoding(data, tensor_type=return_tensors)

    def _special_in_texts(self) -> dict[str, int]:
        """The special tokens that count inside a text under ``split_special_tokens=False``, with their ids."""
        return {}

    def _ids(self, texts: list[str], split_special_tokens: bool) -> list[Ids]:
        """Plain ids. Without ``split_special_tokens`` special tokens written in a text become their ids, and
        white space beside them is lost: transformers' slow tokenizers, which the originals are, take it."""
        special = {} if split_special_tokens else self._special_in_texts()
        if not special:
            return self._plain_ids(texts)
        longest_first = sorted(special, key=len, reverse=True)
        between = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        rows = [between.split(text) for text in texts]  # texts at even places, special tokens at odd ones
        for parts in rows:
            parts[2::2] = [part.lstrip() for part in parts[2::2]]
            parts[:-1:2] = [part.rstrip() for part in parts[:-1:2]]
        plain = iter(self._plain_ids([part for parts in rows for part in parts[::2]]))
        ids = [[next(plain) if at % 2 == 0 else [special[p]] for at, p in enumerate(parts)] for parts in rows]
        return [[i for part in row for i in part] for row in ids]

    def _padded(
        self, data: dict[str, Any], strategy: str, max_length: int | None, multiple: int | None, side: str
    ) -> dict[str, Any]:
        rows: list[Ids] = data["input_ids"]
        width = max_length if strategy == "max_length" and max_length else max(map(len, rows), default=0)
        if multiple:
            width = -(-width // multiple) * multiple
        fill = {"input_ids": self.pad_token_id, "attention_mask": 0, "special_tokens_mask": 1}
        for name in fill.keys() & data.keys():
            padding = [[fill[name]] * (width - len(row)) for row in rows]
            together = zip(padding, data[name], strict=True)
            data[name] = [gap + row if side == "left" else row + gap for gap, row in together]
        return data

    def _truncated(
        self, rows: list[Ids], pairs: list[Ids] | None, room: int, strategy: str
    ) -> tuple[list[Ids], list[Ids] | None]:
        """Every row, or pair of rows, cut to ``room`` ids."""
        if pairs is None:
            return [self._cut(row, [], room, strategy)[0] for row in rows], None
        both = [self._cut(row, second, room, strategy) for row, second in zip(rows, pairs, strict=True)]
        return [first for first, _ in both], [second for _, second in both]

    def _cut(self, first: Ids, second: Ids, room: int, strategy: str) -> tuple[Ids, Ids]:
        """Both id lists cut to ``room`` ids; ``longest_first`` takes from the longer, the second on a tie."""
        over = len(first) + len(second) - max(room, 0)
        if over <= 0:
            return first, second
        if strategy == "only_first":
            lose = over
        elif strategy == "only_second":
            lose = 0
        else:
            excess = min(over, abs(len(first) - len(second)))
            lose = excess if len(first) > len(second) else 0
            lose += (over - excess) // 2
        keep, keep_second = len(first) - lose, len(second) - (over - lose)
        if keep < 0 or keep_second < 0:
            raise BadInput(
                f"max_length: '{strategy}' cannot take {over} ids from this pair; use longest_first"
            )
        if self.truncation_side == "left":
            return first[len(first) - keep :], second[len(second) - keep_second :]
        return first[:keep], second[:keep_second]

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **kwargs: Any
    ) -> list[str]:
        """The pieces of ``text`` (and ``pair``)."""
        encoded = self(text, pair, add_special_tokens=add_special_tokens, **kwargs)
        tokens: list[str] = self.convert_ids_to_tokens(encoded["input_ids"])
        return tokens

    # --- decoding

    def _restore(self, text: str) -> str:
        """Undo :meth:`_prepare` on decoded text."""
        return text

    def _sentencepiece_ids(self, ids: Ids) -> Ids:
        """The ids that sentencepiece decodes, in its numbering; others leave no text."""
        size = self.processor.vocab_size()
        return [i for i in ids if 0 <= i < size]

    def _text_of(self, ids: Ids, skip_special_tokens: bool) -> str:
        dropped = set(self.all_special_ids) if skip_special_tokens else {self.pad_token_id}
        kept = self._sentencepiece_ids([i for i in ids if i not in dropped])
        return self._restore(self.processor.decode(kept))

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of some pieces."""
        return self._restore(self.processor.decode_pieces(list(tokens)))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without garbage collection: a batch makes thousands of lists, none of them garbage, and looking through
    them again and again takes a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _framed(frame: tuple[Ids, Ids, Ids], rows: list[Ids], pairs: list[Ids] | None) -> list[Ids]:
    """The rows in their frame; without something before it a row only grows."""
    before, behind, end = frame
    if before:
        rows = [before + row for row in rows]
    for i, row in enumerate(rows):
        row += behind
        if pairs:
            row += pairs[i] + end
    return rows


def _special_masks(frame: tuple[Ids, Ids, Ids], rows: list[Ids], pairs: list[Ids] | None) -> list[Ids]:
    """1 where the frame will stand, 0 for the text's own ids."""
    ones = ([1] * len(frame[0]), [1] * len(frame[1]), [1] * len(frame[2]))
    return _framed(ones, [[0] * len(row) for row in rows], pairs and [[0] * len(second) for second in pairs])


def _lone_surrogate(texts: list[str]) -> str | None:
    """Which text is no Unicode, and where."""
    for row, text in enumerate(texts):
        for at, char in enumerate(text):
            if "\ud800" <= char <= "\udfff":
                where = f"text {row} of the batch, character {at}"
                return f"{where}: lone surrogate U+{ord(char):04X}; half a character, drop the row"
    return None


def _split_pairs(texts: Sequence[Any], pairs: Sequence[str] | None) -> tuple[list[str], list[str] | None]:
    """Texts and second texts of a batch, which transformers 4 hands over as tuples."""
    if texts and isinstance(texts[0], (tuple, list)):
        return [text[0] for text in texts], [text[1] for text in texts]
    return list(texts), None if pairs is None else list(pairs)
