"""Soft labels: a teacher's k likeliest tokens and their log-probabilities at every supervised position.

Kept in two files, so that the teacher can be gone before the student is loaded, and rows of any number fit.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .. import fsio
from ..data.batches import pack_by_tokens
from ..data.loss import EVAL_TOKENS, batch_arrays, logits_at_labels
from ..data.tokens import Soft, TokenRow
from ..events import Count

TOP = 64
LEAST = -100.0  # a log-probability that float16 holds and no sum sees
IDS, LOG_PROBABILITIES = "teacher_ids.npy", "teacher_logp.npy"


def soften(
    teacher: nn.Module,
    rows: list[TokenRow],
    folder: Path,
    hard: float = 0.0,
    square: float = 0.0,
    progress: Count | None = None,
) -> list[TokenRow]:
    """`rows` with the teacher's soft labels, read from `folder` where they lie already; `hard` and `square` as in `Soft`.

    The two files: ids u32 and log-probabilities f16 [targets of all rows, k]; a vocabulary smaller than k is kept whole.
    """
    paths = (folder / IDS, folder / LOG_PROBABILITIES)
    if not all(path.exists() for path in paths):
        for path, array in zip(paths, _labels(teacher, rows, progress), strict=True):
            with fsio.publish(path, mode=0o600) as temporary, open(temporary, "wb") as file:
                np.save(file, array)
    ids, logp = (np.load(path, mmap_mode="r") for path in paths)
    out, at = list(rows), 0
    for index in _order(rows):
        here = slice(at, at + rows[index].targets)
        out[index] = dataclasses.replace(rows[index], soft=Soft(ids[here], logp[here], hard, square))
        at += rows[index].targets
    return out


def _order(rows: list[TokenRow]) -> list[int]:
    """The order of `pack_by_tokens`."""
    return sorted(range(len(rows)), key=lambda index: len(rows[index].ids))


def _labels(teacher: nn.Module, rows: list[TokenRow], progress: Count | None) -> tuple[np.ndarray, np.ndarray]:
    ids: list[np.ndarray] = []
    logp: list[np.ndarray] = []
    done = 0
    with logits_at_labels(teacher) as forward:
        for batch in pack_by_tokens(rows, EVAL_TOKENS):
            i, positions, _, _ = batch_arrays(batch)
            logits = forward(i, positions).astype(mx.float32)[: batch.targets]
            k = min(TOP, logits.shape[-1])
            top = mx.argpartition(-logits, kth=k - 1, axis=-1)[:, :k]
            found = mx.take_along_axis(logits, top, axis=-1) - mx.logsumexp(logits, axis=-1, keepdims=True)
            ids.append(np.array(top).astype(np.uint32))
            logp.append(np.maximum(np.array(found), LEAST).astype(np.float16))
            done += len(batch.ids)
            if progress is not None:
                progress(done, len(rows))
    return np.concatenate(ids), np.concatenate(logp)
