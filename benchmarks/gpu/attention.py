"""Attention of packed rows at ChatGLM-6B's shapes: time and error of each way, the kernels that torch takes, and what a
length that was not seen before costs with and without cuDNN's attention (it plans for each shape anew)."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.attention_ways import packed_batch
from benchmarks.gpu import Findings, Place
from benchmarks.train_throughput import belle_like, make_model
from glmjobs.data.collate import segment_sizes
from glmjobs.models.common.attention import attend, block_diagonal, in_form
from glmjobs.models.common.attention_ways import fastest, measure, possible_ways

#: Of the output's largest value: float16 keeps 11 bits, bfloat16 8.
BOUNDS = {"float16": 4e-3, "bfloat16": 3e-2, "float32": 1e-5}


def run(place: Place) -> Findings:
    """For two to eight rows of 1024 positions, about seven examples each."""
    found = Findings()
    heads, width = (4, 32) if place.short else (32, 128)
    length = 256 if place.short else 1024
    for rows in (2,) if place.short else (2, 4, 8):
        model = make_model(1, heads * width, 1200, place.device)
        batch = packed_batch(belle_like(16 * rows, model.config), rows, place.device)
        for name in ("float32",) if place.device == "cpu" else ("float16", "bfloat16"):
            ways = possible_ways(torch.device(place.device))
            seconds = measure(model.to(getattr(torch, name)), batch, ways)
            key = f"{rows} rows {name}"
            found.figures[f"{key}: ms a layer, forward and backward"] = {
                w: s * 1e3 for w, s in seconds.items()
            }
            found.figures[f"{key}: fastest"] = fastest(seconds)
    segments = torch.from_numpy(rows_of(rows, length)).to(place.device)
    sizes = segment_sizes(segments.cpu().numpy())
    for name, most in BOUNDS.items():
        if place.device == "cpu" and name != "float32":
            continue
        for way, error in errors(segments, sizes, heads, width, name).items():
            found.bound(
                f"{name} {way}: error", error, most if place.device == "cpu" or name != "float32" else 1e-4
            )
    if place.device == "cuda":
        found.figures["kernels"] = kernels(heads, width)
        found.figures["ms of 20 new lengths"] = {
            "cuDNN allowed": new_lengths(heads, width, True), "cuDNN off": new_lengths(heads, width, False),
        }  # fmt: skip
    return found


def rows_of(rows: int, length: int) -> Any:
    """Segment ids int64[rows, length]: seven examples a row, lengths as they come, padding at the end."""
    generator = np.random.default_rng(0)
    ids = np.zeros((rows, length), np.int64)
    for row in ids:
        cuts = np.sort(generator.choice(np.arange(8, length - 8), 7, replace=False))
        for number, (start, end) in enumerate(zip([0, *cuts[:-1]], cuts, strict=True), start=1):
            row[start:end] = number
    return ids


def errors(segments: Any, sizes: list[int], heads: int, width: int, dtype: str) -> dict[str, float]:
    """By way: the largest difference from float64 on real positions, as a share of the largest output."""
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(3, segments.shape[0], heads, segments.shape[1], width, generator=generator)
    states = exact.to(segments.device, getattr(torch, dtype))
    visible = block_diagonal(segments)
    real = (segments > 0).cpu()
    q, k, v = states.double().cpu()
    wanted = attend(q, k, v, visible.cpu(), cache=None, layer=0)[real]
    found = {}
    for way in possible_ways(segments.device):
        got = attend(*states.unbind(0), in_form(visible, way, sizes), cache=None, layer=0)
        found[way] = float((got.double().cpu()[real] - wanted).abs().max() / wanted.abs().max())
    return found


def kernels(heads: int, width: int) -> dict[str, str]:
    """The GPU kernel that takes most of the time in the calls that occur: training's and decoding's."""
    calls = {"whole mask": (1024, 1024, True), "causal piece": (140, 140, False), "decoding": (1, 300, True)}
    found = {}
    for dtype in (torch.float16, torch.bfloat16):
        for name, (queries, keys, masked) in calls.items():
            q = torch.randn(2, heads, queries, width, device="cuda", dtype=dtype)
            k = torch.randn(2, heads, keys, width, device="cuda", dtype=dtype)
            mask = torch.ones(2, 1, queries, keys, dtype=torch.bool, device="cuda") if masked else None
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                F.scaled_dot_product_attention(q, k, k, attn_mask=mask, is_causal=not masked)
                torch.cuda.synchronize()
            events = sorted(profile.key_averages(), key=lambda e: -e.device_time_total)
            found[f"{dtype} {name}".removeprefix("torch.")] = events[0].key[:100] if events else "none"
    return found


def new_lengths(heads: int, width: int, cudnn: bool) -> list[float]:
    """Milliseconds of a first call at 20 lengths that were not called before, forward and backward."""
    if hasattr(torch.backends.cuda, "enable_cudnn_sdp"):
        torch.backends.cuda.enable_cudnn_sdp(cudnn)
    times = []
    for length in range(101 + (0 if cudnn else 200), 141 + (0 if cudnn else 200), 2):
        q = torch.randn(1, heads, length, width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        torch.cuda.synchronize()
        start = time.perf_counter()
        F.scaled_dot_product_attention(q, q, q, is_causal=True).sum().backward()
        torch.cuda.synchronize()
        times.append(round((time.perf_counter() - start) * 1e3, 3))
    return times
