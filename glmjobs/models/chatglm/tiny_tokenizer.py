"""Train a small sentencepiece model of ``ice_text.model``'s shape, for small models in demos and tests.

The same kind (unigram, NFKC, dummy prefix, byte fallback, one piece a digit) and the same order of pieces as
ChatGLM-6B's: ``<unk> <s> </s> <pad> <n>``, trained ones, control pieces, tab, blanks and bytes. No torch.
"""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import sentencepiece

from glmjobs.models.chatglm.tokenization import (
    CONTROL_PIECES,
    NEWLINE,
    VOCAB_FILE,
    added_pieces,
    write_config,
)
from glmjobs.models.common.sentencepiece_file import pieces_message
from hpc.core.errors import BadInput

#: Pieces that every such model has: 5 at the front, 8 control pieces, the tab, 79 blanks, 256 bytes.
FIXED_PIECES = 5 + len(added_pieces())
#: Room for trained pieces below which no text is worth segmenting.
LEAST_TRAINED = 32
_SAMPLE = 20_000
_COVERAGE = 0.9999  # of ice_text.model's trainer_spec


@dataclass(frozen=True)
class MadeTokenizer:
    """A made tokenizer: number of pieces, and the ids that a model's config needs."""

    vocab_size: int
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int
    mask_token_id: int
    gmask_token_id: int

    def config(self) -> dict[str, int]:
        """The fields as ``ChatGLMConfig`` takes them."""
        return asdict(self)


def make_tokenizer(
    directory: str | Path, texts: Iterable[str], *, vocab_size: int, seed: int = 0
) -> MadeTokenizer:
    """Train on ``texts`` and write ``ice_text.model`` and ``tokenizer_config.json`` into ``directory``.

    The same texts, size and seed give the same bytes. ``vocab_size`` counts all pieces; where the texts have
    too few different words for it, the model has fewer (see the result). The rarest characters, which find no
    room, are left to byte fallback. ``seed`` picks the sample where there are more than 20,000 lines.

    Raises :class:`BadInput` where ``vocab_size`` leaves no room for trained pieces or the texts are empty.
    """
    room = vocab_size - FIXED_PIECES
    if room < LEAST_TRAINED:
        least = FIXED_PIECES + LEAST_TRAINED
        raise BadInput(f"vocab_size: {vocab_size} pieces; {least} are the least ({FIXED_PIECES} are fixed)")
    lines = [line for text in texts for line in text.split("\n") if line.strip()]
    if not lines:
        raise BadInput("texts: nothing to train a tokenizer on; give at least a few sentences")
    if len(lines) > _SAMPLE:
        lines = random.Random(seed).sample(lines, _SAMPLE)
    model = _train(lines, room) + pieces_message(added_pieces(), byte_fallback=True)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / VOCAB_FILE).write_bytes(model)
    write_config(directory)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = {piece: int(processor.piece_to_id(piece)) for piece in (*CONTROL_PIECES, "<pad>")}
    return MadeTokenizer(
        vocab_size=int(processor.vocab_size()),
        bos_token_id=ids["<sop>"],
        eos_token_id=ids["<eop>"],
        pad_token_id=ids["<pad>"],
        mask_token_id=ids["[MASK]"],
        gmask_token_id=ids["[gMASK]"],
    )


def _train(lines: list[str], room: int) -> bytes:
    """The trained part: 5 fixed pieces and at most ``room`` others."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_covered(lines, room)),
        model_writer=out,
        model_type="unigram",
        vocab_size=5 + room,
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="nmt_nfkc",
        split_digits=True,
        pad_id=3,
        user_defined_symbols=[NEWLINE],
        num_threads=1,  # EM sums counts per thread: one thread, one result
        minloglevel=2,
    )
    return out.getvalue()


def _covered(lines: list[str], room: int) -> list[str]:
    """The normalised lines without their rarest characters, leaving a quarter of ``room`` to longer pieces.

    Rare is what is outside ice_text.model's coverage of 0.9999, or more where the room is small: the
    trainer's own ``character_coverage`` cannot go below 0.98.
    """
    normalizer = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc")
    lines = [normalizer.normalize(line) for line in lines]
    counts = Counter("".join(lines))
    most = [count for _, count in counts.most_common(room * 3 // 4)]
    enough = _COVERAGE * counts.total()
    covered = 0
    for kept, count in enumerate(most):
        if covered >= enough:
            most = most[:kept]
            break
        covered += count
    rare = {ord(char): " " for char, _ in counts.most_common()[len(most) :]}
    return [line for line in (line.translate(rare) for line in lines) if line.strip()]
