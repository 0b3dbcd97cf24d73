"""Greedy decoding of many prompts: batched, refilled as rows finish, within memory; the same answers as one
by one.

The rows are taken longest prompt first. A row that ends leaves its slot at once, and the next prompts take
the free slots (*continuous refilling*): the batch stays full although answers differ in length tenfold. Every
new row is placed so that it ends at the column all slots write next, which is possible because prompts only
get shorter. When no prompt is left, the batch is compacted instead.

Works on any transformers causal language model whose forward takes a cache and a 2D attention mask.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch

from glmjobs.compat import CACHE_NAME
from glmjobs.generation.kv_cache import SlotCache
from glmjobs.generation.onednn import optimise_linear_cpu
from hpc.core.errors import WorkFailed
from hpc.core.process import available_memory

Finish = Literal["stop", "length"]

MAX_SLOTS = {"cpu": 128, "cuda": 512}
"""Where more slots stop paying, measured on CPU (benchmarks/score_throughput.py)."""
PREFILL_POSITIONS = {"cpu": 4096, "cuda": 16384}
"""Prompt positions computed in one forward pass: bounds the activations' memory."""
MEMORY_SHARE = {"cpu": 0.25, "cuda": 0.8}
"""Share of the free memory that the cache may take; on a CPU node other ranks and the page cache live there
too."""
FIRST_SLOTS = 32
HIDDEN_COLUMNS = 256
"""Fewer columns than this that no row sees any more are not worth moving the others for."""
REFILL_SHARE = 8
"""Refill when one slot in so many is free: several prompts share one prefill."""


@dataclass(frozen=True)
class Generated:
    """One answer: the prompt's index, the tokens without the stop token, and why it ended."""

    index: int
    tokens: list[int]
    finish: Finish


@dataclass
class _Row:
    index: int
    prompt: Sequence[int]
    limit: int
    tokens: list[int] = field(default_factory=list)
    start: int = 0  # first column of the cache that belongs to it
    position: int = 0  # of its prompt's last token; in 2D positions its new tokens share it

    def add(self, token: int, stop: frozenset[int]) -> Generated | None:
        """Take the next token; the finished answer where it was the last one."""
        if token in stop:
            return Generated(self.index, self.tokens, "stop")
        self.tokens.append(token)
        return Generated(self.index, self.tokens, "length") if len(self.tokens) >= self.limit else None


class Engine:
    """A model wrapped for decoding: knows how its forward wants the cache, positions and mask.

    Args:
        model: a causal language model; from now on for inference only (see :func:`use_onednn`).
        stop_ids: tokens that end an answer; those of the model's generation_config are added.
        pad_id: fills the left of shorter prompts; masked, so any valid id does.
        banned_ids: tokens never given; those of the model's generation_config are added.
        trained: the model goes on being trained: its weights and what is computed with them stay fit for that.
        agree: makes the next tokens (int64 [rows]) the same on all ranks, where they have to compute in step.
    """

    def __init__(
        self, model: Any, stop_ids: Iterable[int], pad_id: int = 0, banned_ids: Iterable[int] = (), *,
        trained: bool = False, agree: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.model = model.eval()
        self.device = torch.device(model.device)
        self.trained, self.agree = trained, agree
        if self.device.type == "cpu" and not trained:
            optimise_linear_cpu(model, free_memory(self.device))
        config = getattr(model, "generation_config", None)
        self.stop = frozenset(stop_ids) | _as_ids(getattr(config, "eos_token_id", None))
        self.pad_id = pad_id
        banned = frozenset(banned_ids) | _as_ids(getattr(config, "suppress_tokens", None))
        for word in getattr(config, "bad_words_ids", None) or []:
            banned |= frozenset(word) if len(word) == 1 else frozenset()
        self.banned = sorted(banned)

    @cached_property
    def _parameters(self) -> frozenset[str]:
        return frozenset(inspect.signature(self.model.forward).parameters)

    @cached_property
    def _last_only(self) -> dict[str, int]:
        """Ask for the last position's logits alone: at 130,528 words a prompt's logits outweigh its cache."""
        return {name: 1 for name in ("logits_to_keep", "num_logits_to_keep") if name in self._parameters}

    @cached_property
    def _lay_out(self) -> Any:
        """Our models' own layout of rows (:mod:`glmjobs.models.common.positions`); None for other models."""
        return getattr(getattr(self.model, self.model.base_model_prefix, None), "lay_out", None)

    @cached_property
    def _axes(self) -> int:
        """Positions that a token has in that layout: 2, or 1 where there is no block position."""
        return int(getattr(self.model, self.model.base_model_prefix).position_axes)

    @torch.no_grad()
    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor, cache: SlotCache, **more: torch.Tensor
    ) -> torch.Tensor:
        arguments = {"input_ids": ids, "attention_mask": mask, "use_cache": True, CACHE_NAME: cache}
        # What ZeRO-3 gathers in inference mode could not be trained any more.
        with torch.inference_mode(not self.trained):
            logits = self.model(**arguments, **self._last_only, **more).logits[:, -1]
            if self.banned:
                logits[:, self.banned] = -torch.inf
            tokens: torch.Tensor = logits.argmax(-1)
        return tokens if self.agree is None else self.agree(tokens)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[list[int], list[int], SlotCache]:
        """Compute prompts, padded on the left to the longest.

        Returns:
            each prompt's first new token; the position of its last one, in the model's own layout (else 0); the
            filled cache.
        """
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.pad_id, dtype=torch.long)
        mask = torch.zeros((len(prompts), width), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
            mask[row, width - len(prompt) :] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        cache = SlotCache()
        if self._lay_out is None:
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            return self._forward(ids, mask, cache, position_ids=positions).tolist(), [0] * len(prompts), cache
        last = self._lay_out(ids, mask).position_ids[:, 0, -1]
        return self._forward(ids, mask, cache).tolist(), last.tolist(), cache

    def step(self, rows: Sequence[_Row], visible: torch.Tensor, cache: SlotCache) -> list[int]:
        """The token after each row's newest; ``visible [rows, columns]`` is 1 where a row sees a column."""
        ids = torch.tensor([[row.tokens[-1]] for row in rows], device=self.device)
        if self._lay_out is None:
            where = torch.tensor(
                [[len(row.prompt) + len(row.tokens) - 1] for row in rows], device=self.device
            )
            return self._forward(ids, visible, cache, position_ids=where).tolist()
        if self._axes == 2:  # <sop>, the prompt's last token, has block position 1
            axes = [[[row.position], [1 + len(row.tokens)]] for row in rows]
        else:
            axes = [[[row.position + len(row.tokens)]] for row in rows]
        where = torch.tensor(axes, device=self.device)
        return self._forward(ids, visible[:, None, None].bool(), cache, position_ids=where).tolist()


class Decoding:
    """The rows that are being decoded together. One :meth:`step` gives each of them its next token."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.rows: list[_Row | None] = []
        self.cache = SlotCache()
        self.mask = torch.zeros((0, 0), dtype=torch.long, device=engine.device)
        self.column = 0  # the next column to be written, counted as the cache counts

    @property
    def live(self) -> list[_Row]:
        """Rows not yet finished."""
        return [row for row in self.rows if row is not None]

    @property
    def free(self) -> int:
        """Slots without a row."""
        return len(self.rows) - len(self.live)

    def admit(self, rows: Sequence[_Row], slots: int) -> list[Generated]:
        """Compute the prompts of ``rows`` and give each a slot, of which there may be ``slots`` in all.

        Returns:
            the answers that ended with their first token.

        Raises:
            ValueError: a prompt is longer than those before it while some of them are still decoding.
        """
        tokens, positions, fresh = self.engine.prefill([row.prompt for row in rows])
        done, kept = [], []
        for number, row in enumerate(rows):
            row.position = positions[number]
            finished = row.add(tokens[number], self.engine.stop)
            if finished is None:
                kept.append(number)
            else:
                done.append(finished)
        if not kept:
            return done
        if not self.live:
            self._adopt(fresh, [rows[n] for n in kept], kept)
        else:
            self._insert(fresh, [rows[n] for n in kept], kept, slots)
        return done

    def _adopt(self, fresh: SlotCache, rows: list[_Row], kept: list[int]) -> None:
        self.cache, self.rows = fresh, list(rows)
        if len(kept) < fresh.keys[0].shape[0]:
            fresh.select(torch.tensor(kept, device=self.engine.device))
        self.column = fresh.get_seq_length()
        self.mask = torch.zeros((len(rows), self.column + 1), dtype=torch.long, device=self.engine.device)
        for slot, row in enumerate(rows):
            self._own(slot, row)

    def _insert(self, fresh: SlotCache, rows: list[_Row], kept: list[int], slots: int) -> None:
        free = [slot for slot, row in enumerate(self.rows) if row is None]
        missing = len(rows) - len(free)
        if missing > 0:
            wider = min(max(slots, len(self.rows) + missing), 2 * len(self.rows) + missing)
            free += range(len(self.rows), wider)
            self.cache.widen(wider)
            self.mask = torch.cat(
                [self.mask, self.mask.new_zeros((wider - len(self.rows), self.mask.shape[1]))]
            )
            self.rows += [None] * (wider - len(self.rows))
        taken = free[: len(rows)]
        device = self.engine.device
        self.cache.place(torch.tensor(taken, device=device), fresh, torch.tensor(kept, device=device))
        for slot, row in zip(taken, rows, strict=True):
            self.rows[slot] = row
            self._own(slot, row)

    def _own(self, slot: int, row: _Row) -> None:
        row.start = self.column - len(row.prompt)
        self.mask[slot] = 0
        self.mask[slot, row.start : self.column] = 1

    def step(self) -> list[Generated]:
        """One token for every live row; returns the answers that ended with it."""
        stand_in = self.live[0]  # a free slot computes something, and nobody looks
        rows = [row or stand_in for row in self.rows]
        self._trim()
        self._mark_column()
        tokens = self.engine.step(rows, self.mask[:, self.cache.start : self.column + 1], self.cache)
        self.column += 1
        done = []
        for slot, row in enumerate(self.rows):
            if row is not None and (finished := row.add(tokens[slot], self.engine.stop)) is not None:
                done.append(finished)
                self.rows[slot] = None
        return done

    def compact(self) -> None:
        """Drop the free slots."""
        keep = [slot for slot, row in enumerate(self.rows) if row is not None]
        slots = torch.tensor(keep, device=self.engine.device)
        self.rows = [self.rows[slot] for slot in keep]
        self.mask = self.mask[slots, self.cache.start :]
        self._shift(self.cache.start)
        self.cache.select(slots)

    def _trim(self) -> None:
        """Hide the columns that no live row uses; give their memory back once they are half of all."""
        self.cache.start = min(row.start for row in self.live)
        if self.cache.start > max(HIDDEN_COLUMNS, self.column // 2):
            self.mask = self.mask[:, self.cache.start :]
            self._shift(self.cache.start)
            self.cache.drop_hidden()

    def _shift(self, columns: int) -> None:
        self.column -= columns
        for row in self.live:
            row.start -= columns

    def _mark_column(self) -> None:
        if self.mask.shape[1] <= self.column:
            more = self.mask.new_zeros((self.mask.shape[0], self.column // 2 + 32))
            self.mask = torch.cat([self.mask, more], dim=1)
        self.mask[:, self.column] = 1


def generate(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int | Sequence[int],
    batch_size: int | Literal["auto"] = "auto",
    *,
    refill: bool = True,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Generated]:
    """Answer every prompt greedily, yielding each answer as it ends (in no particular order).

    Args:
        prompts: token ids, ready to be continued.
        max_new_tokens: of all rows, or of each.
        batch_size: slots; ``"auto"`` finds the largest that fits and still pays. In either case running out
            of memory halves it and the interrupted rows start again.
        refill: give free slots to waiting prompts at once; False waits until the whole batch has ended.
        stop: asked before every token; True ends at once, and what has not ended is given up.

    Raises:
        WorkFailed: one row alone does not fit into memory.
        ValueError: an empty prompt.
    """
    if not all(prompts):
        raise ValueError("a prompt without tokens cannot be continued")
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    waiting = deque(_Row(i, prompts[i], limits[i]) for i in order)
    size = _BatchSize(engine, batch_size, longest=len(waiting[0].prompt) + max(limits) if waiting else 0)
    batch = Decoding(engine)
    while (waiting or batch.live) and not stop():
        admitted: list[_Row] = []
        try:
            if waiting and _should_admit(batch, size.slots, refill):
                admitted = _take(waiting, size, batch)
                finished = batch.admit(admitted, size.slots)
                size.admitted(batch)
            else:
                if not waiting and batch.free * 4 >= len(batch.rows):
                    batch.compact()
                finished = batch.step()
        except (torch.cuda.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            lost = {row.index: row for row in (*batch.live, *admitted)}
            batch = Decoding(engine)
            size.halve(len(lost))
            waiting.extendleft(
                _Row(row.index, row.prompt, row.limit)
                for row in sorted(lost.values(), key=lambda r: (len(r.prompt), -r.index))
            )
            continue
        yield from finished


def stream(engine: Engine, prompt: Sequence[int], max_new_tokens: int) -> Iterator[int]:
    """One prompt's greedy answer, token by token, without the stop token."""
    row = _Row(0, prompt, max_new_tokens)
    batch = Decoding(engine)
    finished = batch.admit([row], 1)
    yield from row.tokens
    while not finished:
        seen = len(row.tokens)
        finished = batch.step()
        yield from row.tokens[seen:]


class _BatchSize:
    """How many slots: as asked, or from the memory that is free; halved when that was too much."""

    def __init__(self, engine: Engine, asked: int | Literal["auto"], longest: int) -> None:
        self.engine = engine
        self.kind = engine.device.type
        self.longest = longest
        self.auto = asked == "auto"
        self.limit = MAX_SLOTS.get(self.kind, 64) if asked == "auto" else asked
        self.slots = min(FIRST_SLOTS, self.limit) if self.auto else self.limit
        self.measured = False

    @property
    def prefill_positions(self) -> int:
        return PREFILL_POSITIONS.get(self.kind, 4096)

    def admitted(self, batch: Decoding) -> None:
        """Learn from a prefill that fitted: what a position costs, and that twice the slots may be tried."""
        if not self.auto or not batch.cache.keys:
            return
        if not self.measured:
            self.measured = True
            row = batch.cache.bytes_per_position * self.longest * 1.5  # buffers grow by half
            room = free_memory(self.engine.device) * MEMORY_SHARE.get(self.kind, 0.25)
            self.limit = max(1, min(self.limit, int(room / max(row, 1))))
        self.slots = min(self.limit, self.slots * 2)

    def halve(self, rows: int) -> None:
        """After running out of memory with so many rows under way."""
        if rows <= 1:
            raise WorkFailed(f"out of memory with a single row on {self.engine.device}: lower max_new_tokens")
        self.limit = self.slots = max(1, min(self.slots, rows) // 2)
        if self.kind == "cuda":
            torch.cuda.empty_cache()


def _should_admit(batch: Decoding, slots: int, refill: bool) -> bool:
    live = len(batch.live)
    if live == 0:
        return True
    return refill and slots - live >= max(1, slots // REFILL_SHARE)


def _take(waiting: deque[_Row], size: _BatchSize, batch: Decoding) -> list[_Row]:
    """The next prompts: as many as there are free slots, and as one prefill may compute."""
    width = len(waiting[0].prompt)
    count = max(1, min(size.slots - len(batch.live), size.prefill_positions // width, len(waiting)))
    return [waiting.popleft() for _ in range(count)]


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError))
        or "out of memory" in text
        or "can't allocate memory" in text
    )


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had: of the GPU, or of this machine within the job's control groups."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    return available_memory()


def _as_ids(value: Any) -> frozenset[int]:
    if value is None:
        return frozenset()
    return frozenset(value) if isinstance(value, (list, tuple)) else frozenset([int(value)])
