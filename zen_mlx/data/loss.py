"""Nats per supervised token, with logits only where there is a label."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..events import Count
from .batches import MicroBatch, pack_by_tokens
from .tokens import TokenRow

EVAL_TOKENS = 2048  # padded tokens of one evaluation micro-batch
LOGIT_BYTES = 2**27  # f32 logits alive at a time, before their gradient

Measure = Callable[[mx.array, mx.array, mx.array, mx.array], mx.array]


class _SelectedHead(nn.Module):
    """The model's head, applied to chosen positions only: h [B, T, D] -> logits [P, V].

    While `_held` is a list, the chosen h [P, D] are returned in the logits' place and put into it.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # MLX gives it no types
        self._inner = [inner]  # in a list: the head's parameters stay where they were
        self._positions: list[mx.array] = []
        self._held: list[mx.array] | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in self:
            return super().__getattr__(name)
        return getattr(self._inner[0], name)

    def _logits_at(self, h: mx.array) -> mx.array:
        chosen = h.reshape(-1, h.shape[-1])[self._positions.pop()]
        if self._held is None:
            return self.logits(chosen)
        self._held.append(chosen)
        return chosen

    def logits(self, h: mx.array) -> mx.array:
        """h [.., D] -> logits [.., V], all of them."""
        raise NotImplementedError


class _SelectedLinear(_SelectedHead):
    def __call__(self, h: mx.array) -> mx.array:
        return self._logits_at(h)

    def logits(self, h: mx.array) -> mx.array:
        return self._inner[0](h)


class _SelectedEmbedding(_SelectedHead):
    def __call__(self, ids: mx.array) -> mx.array:
        return self._inner[0](ids)

    def as_linear(self, h: mx.array) -> mx.array:
        return self._logits_at(h)

    def logits(self, h: mx.array) -> mx.array:
        return self._inner[0].as_linear(h)


@contextlib.contextmanager
def logits_at_labels(model: nn.Module) -> Iterator[Callable[[mx.array, mx.array], mx.array]]:
    """Yield f(ids [B, T], positions [P]) -> logits [P, V], the model's own forward with its head on P rows only.

    The head (an `lm_head`, else the tied `embed_tokens`) is swapped for the block and restored after it. A model with
    neither computes all logits and selects afterwards.
    """
    with _selected(model) as (_, forward):
        yield forward


@contextlib.contextmanager
def nats_at_labels(model: nn.Module) -> Iterator[Measure]:
    """Yield f(ids [B, T], positions, labels, weights [P]) -> `nats` of their logits, `chunk_labels` rows of them at a time.

    A chunk's gradient by h is taken with its value, so that its logits die before the next ones are made. A model that
    changes its logits after the head (a soft cap) has all P rows at once.
    """
    with _at_labels(model, nats, _nats_in_chunks) as measure:
        yield measure


@contextlib.contextmanager
def tally_at_labels(model: nn.Module) -> Iterator[Measure]:
    """Yield f as in `nats_at_labels` -> `tally` of their logits, without a gradient."""
    with _at_labels(model, tally, _tally_in_chunks) as measure:
        yield measure


@contextlib.contextmanager
def _at_labels(
    model: nn.Module, whole: Callable[..., mx.array], in_chunks: Callable[..., mx.array]
) -> Iterator[Measure]:
    most = chunk_labels(model)
    with _selected(model) as (wrapper, forward):

        def measure(ids: mx.array, positions: mx.array, labels: mx.array, weights: mx.array) -> mx.array:
            if wrapper is not None:
                held: list[mx.array] = []
                wrapper._held = held
                try:
                    out = forward(ids, positions)
                finally:
                    wrapper._held = None
                if held and out is held[-1]:
                    return in_chunks(wrapper.logits, out, labels, weights, most)
            return whole(forward(ids, positions), labels, weights)

        yield measure


def _nats_in_chunks(
    head: Callable[[mx.array], mx.array], h: mx.array, labels: mx.array, weights: mx.array, most: int
) -> mx.array:
    """sum over chunks of nats(head(h)): equal in value and gradient by h, one chunk's logits at a time."""
    value_and_gradient = mx.value_and_grad(lambda h, y, w: nats(head(h), y, w))
    fixed = mx.stop_gradient(h)
    total = mx.array(0.0)
    slopes: list[mx.array] = []
    for at in range(0, h.shape[0], most):
        piece = slice(at, at + most)
        # Depends on the chunk before: otherwise the evaluator may hold the logits of several.
        part = fixed[piece] if not slopes else mx.depends([fixed[piece]], [slopes[-1]])[0]
        value, slope = value_and_gradient(part, labels[piece], weights[piece])
        total = total + value
        slopes.append(slope)
    slope = mx.stop_gradient(slopes[0] if len(slopes) == 1 else mx.concatenate(slopes))
    # h - fixed is zero: the value is the sum's, and the gradient by h is the slope.
    return mx.stop_gradient(total) + ((h - fixed) * slope).astype(mx.float32).sum()


def _tally_in_chunks(
    head: Callable[[mx.array], mx.array], h: mx.array, labels: mx.array, weights: mx.array, most: int
) -> mx.array:
    total = mx.zeros(2)
    for at in range(0, h.shape[0], most):
        piece = slice(at, at + most)
        total = total + tally(head(h[piece]), labels[piece], weights[piece])
        mx.eval(total)
    return total


def chunk_labels(model: nn.Module) -> int:
    """How many labels' logits are alive at a time: f32 logits of at most LOGIT_BYTES, at least 64 labels."""
    head = _find_head(model)[2]
    vocabulary = len(head.weight) if head is not None else 2**18
    return max(64, LOGIT_BYTES // (4 * vocabulary))


@contextlib.contextmanager
def _selected(model: nn.Module) -> Iterator[tuple[_SelectedHead | None, Callable[[mx.array, mx.array], mx.array]]]:
    """(the head's stand-in, None for a model without one; f of `logits_at_labels`)."""
    parent, name, head = _find_head(model)
    if parent is None or head is None:

        def select(ids: mx.array, positions: mx.array) -> mx.array:
            logits = model(ids)
            return logits.reshape(-1, logits.shape[-1])[positions]

        yield None, select
        return
    wrapper = (_SelectedEmbedding if hasattr(head, "as_linear") else _SelectedLinear)(head)

    def forward(ids: mx.array, positions: mx.array) -> mx.array:
        wrapper._positions = [positions]
        logits: mx.array = model(ids)
        if wrapper._positions:  # nobody asked it: the head has another name
            return logits.reshape(-1, logits.shape[-1])[wrapper._positions.pop()]
        return logits

    setattr(parent, name, wrapper)
    try:
        yield wrapper, forward
    finally:
        setattr(parent, name, head)


def _find_head(model: nn.Module) -> tuple[nn.Module | None, str, nn.Module | None]:
    for wanted in ("lm_head", "embed_tokens", "wte"):
        for _, module in model.named_modules():
            child = module.get(wanted)
            if isinstance(child, nn.Module) and (wanted == "lm_head" or hasattr(child, "as_linear")):
                return module, wanted, child
    return None, "", None


def nats(logits: mx.array, labels: mx.array, weights: mx.array) -> mx.array:
    """sum_p weights[p] * (logsumexp(logits[p]) - logits[p, labels[p]]), accumulated in f32.

    For soft labels [P, 2, k + 2], c being `Soft.square`:
    sum_p weights[p] * ((1 - hard[p]) * ((1 - c[p]) * `divergence`[p] + c[p] * `square`[p]) + hard[p] * its nats).
    """
    logits = logits.astype(mx.float32)
    if labels.ndim == 3:
        ids, logp = labels[:, 0].astype(mx.int32), labels[:, 1, :-2]
        hard, share = labels[:, 1, -2], labels[:, 1, -1]
        logq = mx.take_along_axis(logits, ids[:, :-2], axis=-1) - mx.logsumexp(logits, axis=-1, keepdims=True)
        far = (1 - share) * divergence(logq, logp) + share * square(logq, logp)
        return (weights * (1 - hard) * far).sum() + nats(logits, ids[:, -2], weights * hard)
    picked = mx.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    return (weights * (mx.logsumexp(logits, axis=-1) - picked)).sum()


def divergence(logq: mx.array, logp: mx.array) -> mx.array:
    """KL(teacher || model) in nats [P] of log-probabilities [P, k], over k + 1 outcomes: the k tokens, and all the others.

    sum_i p_i (log p_i - log q_i) + r (log r - log(1 - sum_i q_i)),   r = 1 - sum_i p_i
    """
    p = mx.exp(logp)
    rest, other = (mx.maximum(1 - mx.exp(each).sum(axis=-1), 1e-6) for each in (logp, logq))
    return (p * (logp - logq)).sum(axis=-1) + rest * (mx.log(rest) - mx.log(other))


def square(logq: mx.array, logp: mx.array) -> mx.array:
    """Half the mean squared difference [P] of the log-probabilities [P, k] of a teacher's k likeliest tokens."""
    return 0.5 * mx.square(logq - logp).mean(axis=-1)


def tally(logits: mx.array, labels: mx.array, weights: mx.array) -> mx.array:
    """[`nats`, sum_p weights[p] * (argmax logits[p] = labels[p])]; the label of a soft one is the teacher's first choice."""
    first = labels
    if labels.ndim == 3:
        top = labels[:, 1, :-2].argmax(axis=-1, keepdims=True)
        first = mx.take_along_axis(labels[:, 0].astype(mx.int32), top, axis=-1)[:, 0]
    agreed = (weights * (logits.argmax(axis=-1) == first)).sum()
    return mx.stack([nats(logits, labels, weights), agreed])


def batch_arrays(batch: MicroBatch) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """The micro-batch as MLX arrays (ids, positions, labels, weights)."""
    return mx.array(batch.ids), mx.array(batch.positions), mx.array(batch.labels), mx.array(batch.weights)


@dataclass(frozen=True)
class Loss:
    """nats: mean nats per supervised token; tokens: how many of them; agreed: those that were the model's first choice."""

    nats: float
    tokens: int
    agreed: int = 0

    @property
    def agreement(self) -> float:
        """Share of the supervised tokens that were the model's first choice, given what stands before them."""
        return self.agreed / max(self.tokens, 1)


def mean_loss(model: nn.Module, rows: list[TokenRow], progress: Count | None = None) -> Loss:
    """Mean nats per supervised token over `rows`; one micro-batch of bounded size at a time.

    progress(done rows, all rows) is called after each micro-batch.
    """
    total = 0.0
    agreed = 0.0
    tokens = done = 0
    with tally_at_labels(model) as measure:
        for batch in pack_by_tokens(rows, EVAL_TOKENS):
            loss, first = np.array(measure(*batch_arrays(batch)), dtype=np.float64)
            total += loss
            agreed += first
            tokens += batch.targets
            done += batch.ids.shape[0]
            if progress is not None:
                progress(done, len(rows))
    return Loss(float(total) / max(tokens, 1), tokens, round(agreed))
