"""The measurement behind ``benchmarks/tokenize.py``.

Three tokenizers of the same model file on the same rows of about 150 tokens, in one run and in turns (so that
other load on the machine falls on all of them), in 1 and 2 processes:

- *original*: the original's steps in Python (80 replacements, pieces from sentencepiece, ids piece by piece)
  as a slow tokenizer of the installed transformers;
- *ours*: :class:`ChatGLMTokenizerFast`;
- *rust*: its ``backend_tokenizer``, Rust ``tokenizers`` alone.

Rows with other ids than the original's are counted. ``ratio`` is ours in 2 processes against the original in
1, ``ratio_same_processes`` 2 against 2.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from glmjobs.data.synthetic import make_problems
from glmjobs.models.chatglm.tiny_tokenizer import make_tokenizer
from glmjobs.models.chatglm.tokenization import CONFIG_FILE, VOCAB_FILE, ChatGLMTokenizerFast

REAL_MODEL = Path(__file__).resolve().parent.parent.parent / "shared" / "chatglm-6b"
TOKENS = 150
KINDS = ("original", "ours", "rust")
_loaded: dict[str, Any] = {}


def original_tokenizer(directory: Path) -> Any:
    """The original's way: a Python tokenizer that transformers drives token by token."""
    import sentencepiece
    from transformers import PreTrainedTokenizer

    class OriginalStyle(PreTrainedTokenizer):  # type: ignore[misc]
        """Pre-processing by replacement, pieces from sentencepiece, ids piece by piece."""

        def __init__(self, file: str) -> None:
            self.processor = sentencepiece.SentencePieceProcessor(model_file=file)
            named = {"bos_token": "<sop>", "eos_token": "<eop>", "mask_token": "[MASK]"}
            super().__init__(**named, pad_token="<pad>", unk_token="<unk>", padding_side="left")

        @property
        def vocab_size(self) -> int:
            return int(self.processor.vocab_size())

        def get_vocab(self) -> dict[str, int]:
            return {self.processor.id_to_piece(i): i for i in range(self.vocab_size)}

        def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
            text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
            for length in range(80, 1, -1):
                text = text.replace(" " * length, f"<|blank_{length}|>")
            return list(self.processor.EncodeAsPieces(text))

        def _convert_token_to_id(self, token: str) -> int:
            return int(self.processor.PieceToId(token))

        def _convert_id_to_token(self, index: int) -> str:
            return str(self.processor.IdToPiece(index))

        def build_inputs_with_special_tokens(self, token_ids_0: Any, token_ids_1: Any = None) -> list[int]:
            return [*token_ids_0, *map(self.processor.PieceToId, ("[gMASK]", "<sop>"))]

    return OriginalStyle(str(directory / VOCAB_FILE))


def make_rows(tokenizer: Any, count: int) -> list[str]:
    """``count`` made word problems with solutions, joined to about ``TOKENS`` tokens a row."""
    parts = [f"{row['instruction']}\n{row['output']}\n" for row in make_problems(4000, seed=1)]
    mean = statistics.mean(map(len, tokenizer(parts, add_special_tokens=False)["input_ids"]))
    per_row = max(1, round(TOKENS / mean))
    return ["".join(parts[(i * per_row + j) % len(parts)] for j in range(per_row)) for i in range(count)]


def _start(directory: Path, rows: int) -> None:
    """Load everything in a worker, outside the measured time."""
    ours = ChatGLMTokenizerFast.from_pretrained(directory)
    _loaded.update(ours=ours, original=original_tokenizer(directory), rows=make_rows(ours, rows))


def _encode(kind: str, count: int) -> list[list[int]]:
    rows: list[str] = _loaded["rows"][:count]
    if kind == "rust":
        return [encoding.ids for encoding in _loaded["ours"].backend_tokenizer.encode_batch(rows)]
    ids: list[list[int]] = _loaded[kind](rows)["input_ids"]
    return ids


def _work(kind: str, count: int) -> int:
    """Tokenise ``count`` rows in this worker; the ids stay there."""
    return len(_encode(kind, count))


def _differences(count: int) -> dict[str, int]:
    """How many of ``count`` rows have other ids than the original's, and the number of tokens."""
    wanted = _encode("original", count)
    found = {kind: _encode(kind, count) for kind in ("ours", "rust")}
    differing = {k: sum(a != b for a, b in zip(wanted, ids, strict=True)) for k, ids in found.items()}
    return {**differing, "tokens": sum(map(len, wanted))}


def measure(directory: Path, *, rounds: int, rows: dict[str, int]) -> dict[str, Any]:
    """Rows/s (median of ``rounds``) of each kind in 1 and 2 processes; ``rows``: of a process in a round."""
    most = max(rows.values())
    context = multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, context, _start, (directory, most)) for _ in range(2)]
    try:
        checked = min(rows["original"], 1000)
        differences = pools[0].submit(_differences, checked).result()
        for pool in pools:
            pool.submit(_work, "ours", 10).result()
        rates: dict[tuple[str, int], list[float]] = {(kind, n): [] for kind in KINDS for n in (1, 2)}
        for _ in range(rounds):
            for kind, processes in rates:
                started = time.perf_counter()
                for future in [pool.submit(_work, kind, rows[kind]) for pool in pools[:processes]]:
                    future.result()
                rates[kind, processes].append(processes * rows[kind] / (time.perf_counter() - started))
    finally:
        for pool in pools:
            pool.shutdown()
    return {
        "rates": {kind: {n: statistics.median(rates[kind, n]) for n in (1, 2)} for kind in KINDS},
        "tokens_per_row": differences["tokens"] / checked,
        "rows_checked": checked,
        "rows_differing": {kind: differences[kind] for kind in ("ours", "rust")},
    }


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code (1 where our ids are not the original's)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, help=f"directory with {VOCAB_FILE}; default: the real or a made one"
    )
    parser.add_argument("--quick", action="store_true", help="fewer rows, under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args(argv)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # processes are what is compared, not threads
    times = 1 if arguments.quick else 6  # so that each takes about as long
    rows = {"original": 600 * times, "ours": 6000 * times, "rust": 600 * times}
    with tempfile.TemporaryDirectory() as made:
        directory = arguments.model or (REAL_MODEL if (REAL_MODEL / CONFIG_FILE).is_file() else Path(made))
        if directory == Path(made):
            texts = [f"{row['instruction']}\n{row['output']}" for row in make_problems(4000)]
            make_tokenizer(directory, texts, vocab_size=2000)
        figures = measure(directory, rounds=3 if arguments.quick else 5, rows=rows)
    rates = figures["rates"]
    figures["ratio"] = rates["ours"][2] / rates["original"][1]
    figures["ratio_same_processes"] = rates["ours"][2] / rates["original"][2]
    figures["vocabulary"] = "made" if str(directory) == made else str(directory.name)
    show(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 1 if figures["rows_differing"]["ours"] else 0


def show(figures: dict[str, Any]) -> None:
    """Print the table."""
    table = Table(
        title=f"rows/s, {figures['tokens_per_row']:.0f} tokens a row, vocabulary: {figures['vocabulary']}"
    )
    for name in ("tokenizer", "1 process", "2 processes", "against the original", "rows with other ids"):
        table.add_column(name, justify="left" if name == "tokenizer" else "right")
    base = figures["rates"]["original"]
    for kind, rates in figures["rates"].items():
        against = f"{rates[1] / base[1]:.1f}× / {rates[2] / base[2]:.1f}×"
        wrong = figures["rows_differing"].get(kind)
        other = "" if wrong is None else f"{wrong} of {figures['rows_checked']}"
        table.add_row(kind, f"{rates[1]:,.0f}", f"{rates[2]:,.0f}", against, other)
    console = Console()
    console.print(table)
    console.print(f"ours in 2 processes against the original in 1: {figures['ratio']:.1f}×")
