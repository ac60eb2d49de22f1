"""Two models, token by token: loss, KL(reference || model), and the share of tokens on which their first choices agree.

Only supervised positions count, a bounded number of them at a time. The reference is asked once: its logits lie on disk
(f32, exact), or, where they are too many for that, it is run beside each model again.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .. import fsio
from ..data.batches import pack_by_tokens
from ..data.loss import logits_at_labels
from ..data.tokens import TokenRow
from ..events import Count

PIECE = (
    1024  # padded tokens of a micro-batch, and positions whose logits are alive; a longer row is run again for its rest
)
CHUNK = 64  # positions whose two distributions are alive


@dataclass(frozen=True)
class Measured:
    """Means over `tokens` supervised tokens. nats: the loss; accuracy: percent whose likeliest token is the data's;
    kl: nats of KL(reference || model) a token; agreement: percent whose likeliest token is the reference's."""

    tokens: int
    nats: float
    accuracy: float
    kl: float | None = None
    agreement: float | None = None

    @property
    def perplexity(self) -> float:
        """e^nats, capped where a float ends."""
        return math.exp(min(self.nats, 709.0))


@dataclass(frozen=True)
class Piece:
    """logits [P, V] f32 of P supervised tokens, labels [P]; done: rows finished with it."""

    logits: mx.array
    labels: mx.array
    done: int


def walk(model: nn.Module, rows: list[TokenRow]) -> Generator[Piece]:
    """Every supervised token of `rows` once, in an order that depends on `rows` alone."""
    done = 0
    with logits_at_labels(model) as forward:
        for batch in pack_by_tokens(rows, PIECE):
            ids, count = mx.array(batch.ids), batch.targets
            done += batch.ids.shape[0]
            for at in range(0, count, PIECE):
                positions = mx.array(batch.positions[at : at + PIECE])
                real = min(count - at, len(positions))
                logits = forward(ids, positions)[:real].astype(mx.float32)
                yield Piece(logits, mx.array(batch.labels[at : at + real]), done if at + PIECE >= count else 0)


def measure(
    model: nn.Module,
    rows: list[TokenRow],
    reference: Iterable[mx.array] | None = None,
    progress: Count | None = None,
    keep: Recorded | None = None,
) -> Measured:
    """Means over every supervised token of `rows`. reference: the other model's logits, as `walk` gives them; keep: where
    to put this one's.

    KL(p || q) = sum_v p_v (log p_v - log q_v) over the whole vocabulary; where one model has more tokens, over those that
    both have. progress(done rows, all rows).
    """
    sums = dict.fromkeys(("tokens", "nats", "hits", "kl", "same"), 0.0)
    others = iter(reference) if reference is not None else None
    with closing(walk(model, rows)) as pieces:
        for piece in pieces:
            other = next(others) if others is not None else None
            if keep is not None:
                keep.add(piece.logits)
            for at in range(0, len(piece.labels), CHUNK):
                part = slice(at, at + CHUNK)
                _add(sums, piece.logits[part], piece.labels[part], None if other is None else other[part])
            if progress is not None and piece.done:
                progress(piece.done, len(rows))
    tokens = int(sums["tokens"])
    each = max(tokens, 1)
    compared = others is not None
    return Measured(
        tokens,
        sums["nats"] / each,
        100 * sums["hits"] / each,
        sums["kl"] / each if compared else None,
        100 * sums["same"] / each if compared else None,
    )


def _add(sums: dict[str, float], logits: mx.array, labels: mx.array, other: mx.array | None) -> None:
    q = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    best = mx.argmax(logits, axis=-1)
    sums["tokens"] += len(labels)
    sums["nats"] -= _sum(mx.take_along_axis(q, labels[:, None], axis=-1))
    sums["hits"] += _sum(best == labels)
    if other is None:
        return
    shared = min(logits.shape[-1], other.shape[-1])
    if shared < logits.shape[-1]:
        q = logits[:, :shared] - mx.logsumexp(logits[:, :shared], axis=-1, keepdims=True)
    p = other[:, :shared] - mx.logsumexp(other[:, :shared], axis=-1, keepdims=True)
    weights = mx.exp(p)
    sums["kl"] += _sum(mx.where(weights > 0, weights * (p - q), 0.0).sum(axis=-1))
    sums["same"] += _sum(best == mx.argmax(other, axis=-1))


def _sum(values: mx.array) -> float:
    return float(np.array(values).astype(np.float64).sum())


class Beside:
    """The reference in memory beside the model: its logits are computed anew each time they are asked for."""

    def __init__(self, model: nn.Module, rows: list[TokenRow]) -> None:
        self._model: nn.Module | None = model
        self._rows = rows

    def __iter__(self) -> Iterator[mx.array]:
        assert self._model is not None
        with closing(walk(self._model, self._rows)) as pieces:
            for piece in pieces:
                yield piece.logits

    def close(self) -> None:
        """Let go of the model."""
        self._model = None


class Recorded:
    """The reference's logits in a file without a name, which ends with this object or the process, however that ends."""

    def __init__(self, folder: Path) -> None:
        fsio.make_dir(folder)
        self._folder = folder
        self._shapes: list[tuple[int, ...]] = []
        with fsio.storage_errors(folder):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed in close()

    def add(self, logits: mx.array) -> None:
        """Write the next piece."""
        self._shapes.append(logits.shape)
        with fsio.storage_errors(self._folder):
            np.array(logits).tofile(self._file)

    def __iter__(self) -> Iterator[mx.array]:
        self._file.seek(0)
        for shape in self._shapes:
            values = np.fromfile(self._file, np.float32, math.prod(shape))
            yield mx.array(values.reshape(shape))

    def close(self) -> None:
        """The file is gone after this."""
        self._file.close()
