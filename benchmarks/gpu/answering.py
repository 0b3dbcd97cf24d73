"""Rows a second of answering dev questions with a slice of ChatGLM-6B, through the scoring's own decoder."""

from __future__ import annotations

import time

import torch

from benchmarks.gpu import Findings, Place
from benchmarks.score_throughput import make_model, make_rows, ours
from glmjobs.generation.decoder import Engine


def run(place: Place) -> Findings:
    """Continuous greedy decoding, the batch size found by itself; half precision on a GPU. A figure, no bound."""
    cuda = place.device == "cuda"
    model = make_model(*((1, 64, 1200) if place.short else (6, 4096, 130528)))
    model = model.to(place.device, torch.float16 if cuda else torch.float32)
    rows = make_rows(16 if place.short else 512, model)
    engine = Engine(model, [], pad_id=3)
    ours(engine, rows[:8], 4)
    started = time.perf_counter()
    tokens = ours(engine, rows, "auto")
    seconds = time.perf_counter() - started
    figures = {"rows": len(rows), "rows_per_s": len(rows) / seconds, "tokens_per_s": tokens / seconds}
    if cuda:
        figures["peak_bytes"] = torch.cuda.max_memory_allocated()
    return Findings(figures)
