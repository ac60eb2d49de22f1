"""Tokens per second of a whole model with random weights: without a profile, with one unmerged, with one merged."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.generate import generate_step

from ..adapter.attach import Resident, attach, detach
from ..events import Progress
from ..fsio import Json
from ..kernels.dispatch import backend
from .machine import memory_bytes
from .synthetic import QWEN3_4B, SMOLLM2_135M, dense_model, quantized_qwen3, random_profile

_AMPLITUDE = 1e-3  # of the delta: a twentieth to a tenth of the weights', so that a merge in bf16 keeps it
_PROMPT_TOKENS = 4


class Subject(NamedTuple):
    """A model to decode with: what it takes in bytes, and whether a profile can be merged into its weights."""

    label: str
    make: Callable[[], nn.Module]
    needed_bytes: int
    mergeable: bool


def subjects() -> list[Subject]:
    """The models that are run on this backend: the embedded base's dimensions on CPU, Qwen3-4B's on a GPU."""
    if backend() == "cpu":
        return [Subject("SmolLM2-135M, f32", partial(dense_model, SMOLLM2_135M, mx.float32), 1_200_000_000, True)]
    return [
        Subject("Qwen3-4B, bf16", partial(dense_model, QWEN3_4B, mx.bfloat16), 17_000_000_000, True),
        Subject("Qwen3-4B, 4-bit", partial(quantized_qwen3, dtype=mx.bfloat16), 3_500_000_000, False),
    ]


def measure_decode(quick: bool, report: Progress) -> list[Json]:
    """Rows of "model", "profile" (None, "unmerged", "merged"), "tokens_per_s" and "share" of the same round's without a
    profile; "skipped" gives the reason where a model does not fit."""
    rows: list[Json] = []
    for subject in subjects():
        report(f"decode {subject.label}", 0, None)
        if subject.needed_bytes > 0.8 * memory_bytes():
            reason = f"needs {subject.needed_bytes / 1e9:.1f} GB"
            rows.append(
                {"model": subject.label, "profile": None, "tokens_per_s": None, "share": None, "skipped": reason}
            )
            continue
        rows += decode_rows(subject, *((8, 3) if quick else (32, 5)))
        mx.clear_cache()
    return rows


def decode_rows(subject: Subject, tokens: int, rounds: int) -> list[Json]:
    """The rows of one model: `tokens` tokens a run, the ways of carrying a profile in turn, after a warm-up round."""
    model = subject.make()
    resident = Resident.from_profile(random_profile(model, "bench", 0, "rowcol", _AMPLITUDE))
    modes: list[str | None] = [None, "unmerged", *(["merged"] if subject.mergeable else [])]
    speeds: dict[str | None, list[float]] = {mode: [] for mode in modes}
    for round_ in range(rounds + 1):
        for mode in modes if round_ % 2 else reversed(modes):  # no way has the same one before it every time
            detach(model)
            if mode is not None:
                attach(model, resident, mode)
            mx.eval(model.parameters())
            speed = _tokens_per_s(model, tokens if round_ else 2)
            if round_:
                speeds[mode].append(speed)
    detach(model)
    return [
        {
            "model": subject.label,
            "profile": mode,
            "tokens_per_s": statistics.median(found),
            "share": statistics.median(a / b for a, b in zip(found, speeds[None], strict=True)),
            "skipped": None,
        }
        for mode, found in speeds.items()
    ]


def _tokens_per_s(model: nn.Module, tokens: int) -> float:
    """Greedy, from the first token on: the prompt does not count."""
    steps = generate_step(mx.arange(1, 1 + _PROMPT_TOKENS), model, max_tokens=tokens + 1)
    next(steps)
    start = time.perf_counter()
    for _ in steps:
        pass
    return tokens / (time.perf_counter() - start)
