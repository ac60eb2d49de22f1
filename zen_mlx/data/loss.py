"""Nats per supervised token, with logits only where there is a label."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .batches import MicroBatch, pack_by_tokens
from .tokens import TokenRow

EVAL_TOKENS = 2048  # padded tokens of one evaluation micro-batch
LOGIT_BYTES = 2**30  # f32 logits alive at a time in evaluation; a longer row is run again for its next part


class _SelectedHead(nn.Module):
    """The model's head, applied to chosen positions only: h [B, T, D] -> logits [P, V]."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self._inner = [inner]  # in a list: the head's parameters stay where they were
        self._positions: list[mx.array] = []

    def __getattr__(self, name: str) -> Any:
        if name in ("_inner", "_positions") or name in self:
            return super().__getattr__(name)
        return getattr(self._inner[0], name)

    def _select(self, h: mx.array) -> mx.array:
        return h.reshape(-1, h.shape[-1])[self._positions[0]]


class _SelectedLinear(_SelectedHead):
    def __call__(self, h: mx.array) -> mx.array:
        return self._inner[0](self._select(h))


class _SelectedEmbedding(_SelectedHead):
    def __call__(self, ids: mx.array) -> mx.array:
        return self._inner[0](ids)

    def as_linear(self, h: mx.array) -> mx.array:
        return self._inner[0].as_linear(self._select(h))


@contextlib.contextmanager
def logits_at_labels(model: nn.Module) -> Iterator[Callable[[mx.array, mx.array], mx.array]]:
    """Yield f(ids [B, T], positions [P]) -> logits [P, V], the model's own forward with its head on P rows only.

    The head (an `lm_head`, else the tied `embed_tokens`) is swapped for the block and restored after it. A model with
    neither computes all logits and selects afterwards.
    """
    parent, name, head = _find_head(model)
    if parent is None:

        def select(ids: mx.array, positions: mx.array) -> mx.array:
            logits = model(ids)
            return logits.reshape(-1, logits.shape[-1])[positions]

        yield select
        return
    wrapper = (_SelectedEmbedding if hasattr(head, "as_linear") else _SelectedLinear)(head)

    def forward(ids: mx.array, positions: mx.array) -> mx.array:
        wrapper._positions = [positions]
        return model(ids)

    setattr(parent, name, wrapper)
    try:
        yield forward
    finally:
        setattr(parent, name, head)


def _find_head(model: nn.Module) -> tuple[nn.Module | None, str, Any]:
    for wanted in ("lm_head", "embed_tokens", "wte"):
        for _, module in model.named_modules():
            child = module.get(wanted)
            if isinstance(child, nn.Module) and (wanted == "lm_head" or hasattr(child, "as_linear")):
                return module, wanted, child
    return None, "", None


def nats(logits: mx.array, labels: mx.array, weights: mx.array) -> mx.array:
    """sum_p weights[p] * (logsumexp(logits[p]) - logits[p, labels[p]]), accumulated in f32."""
    logits = logits.astype(mx.float32)
    picked = mx.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    return (weights * (mx.logsumexp(logits, axis=-1) - picked)).sum()


def batch_arrays(batch: MicroBatch) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """The micro-batch as MLX arrays (ids, positions, labels, weights)."""
    return mx.array(batch.ids), mx.array(batch.positions), mx.array(batch.labels), mx.array(batch.weights)


@dataclass(frozen=True)
class Loss:
    """nats: mean nats per supervised token; tokens: how many of them."""

    nats: float
    tokens: int


def mean_loss(model: nn.Module, rows: list[TokenRow], progress: Callable[[int, int], None] | None = None) -> Loss:
    """Mean nats per supervised token over `rows`; one micro-batch of bounded size at a time.

    progress(done rows, all rows) is called after each micro-batch.
    """
    total: Any = 0.0
    tokens = done = 0
    head = _find_head(model)[2]
    vocabulary = len(head.weight) if head is not None else 2**18
    most = max(256, LOGIT_BYTES // (4 * vocabulary))
    with logits_at_labels(model) as forward:
        for batch in pack_by_tokens(rows, EVAL_TOKENS):
            ids, positions, labels, weights = batch_arrays(batch)
            for at in range(0, positions.shape[0], most):
                piece = slice(at, at + most)
                total += nats(forward(ids, positions[piece]), labels[piece], weights[piece]).item()
            tokens += batch.targets
            done += batch.ids.shape[0]
            if progress is not None:
                progress(done, len(rows))
    return Loss(total / max(tokens, 1), tokens)
