"""Token rows -> padded micro-batches of a handful of shapes.

Rows of one step are drawn in a seeded order, sorted by length and cut into micro-batches of bounded size, so that short
rows are not padded to the longest one. The step's gradient is that of all its rows: sum of nats / their targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .tokens import TokenRow

LABEL_STEP = 64  # label counts are padded to a multiple of this, so that few shapes are ever seen


@dataclass(frozen=True)
class MicroBatch:
    """ids i32 [B, T]; positions i32 [P] into the flattened [B*T] hidden states; labels [P]; weights f32 [P] (0: pad).

    labels: i32 token ids, or f32 [P, 2, k + 2]: the ids and log-probabilities of a teacher's k likeliest tokens, then the
    row's own token above `Soft.hard`, and 0 above `Soft.square`.
    """

    ids: np.ndarray
    positions: np.ndarray
    labels: np.ndarray
    weights: np.ndarray

    @property
    def targets(self) -> int:
        """Number of supervised tokens."""
        return int(self.weights.sum())

    @property
    def tokens(self) -> int:
        """Number of positions computed, padding included."""
        return int(self.ids.size)


def bucket_length(length: int) -> int:
    """The padded length: the next multiple of 16 up to 128, of 32 up to 256, of 64 up to 512, and so on."""
    step = 16
    while length > 8 * step:
        step *= 2
    return -(-length // step) * step


def collate(rows: list[TokenRow], pad_id: int = 0) -> MicroBatch:
    """One padded micro-batch. Padding is on the right, so causal attention never sees it."""
    width = bucket_length(max(len(row.ids) for row in rows) - 1)
    ids = np.full((len(rows), width), pad_id, np.int32)
    positions: list[int] = []
    labels: list[int] = []
    for index, row in enumerate(rows):
        ids[index, : len(row.ids) - 1] = row.ids[:-1]
        for t in range(1, len(row.ids)):
            if row.supervised[t]:
                positions.append(index * width + t - 1)
                labels.append(row.ids[t])
    padded = -(-len(positions) // LABEL_STEP) * LABEL_STEP
    weights = np.zeros(padded, np.float32)
    weights[: len(positions)] = 1
    fill = [0] * (padded - len(positions))
    if all(row.soft is not None for row in rows):
        given = np.concatenate([_soft_labels(row) for row in rows])
        padding = np.zeros((len(fill), *given.shape[1:]), np.float32)
        return MicroBatch(ids, np.array(positions + fill, np.int32), np.concatenate([given, padding]), weights)
    return MicroBatch(ids, np.array(positions + fill, np.int32), np.array(labels + fill, np.int32), weights)


def _soft_labels(row: TokenRow) -> np.ndarray:
    """f32 [targets, 2, k + 2] as in `MicroBatch.labels`."""
    assert row.soft is not None
    last = np.zeros((row.targets, 2, 2), np.float32)
    last[:, 0, 0] = [row.ids[t] for t in range(1, len(row.ids)) if row.supervised[t]]
    last[:, 1] = row.soft.hard, row.soft.square
    return np.concatenate([np.stack([row.soft.ids, row.soft.logp], axis=1).astype(np.float32), last], axis=2)


def pack_by_tokens(rows: list[TokenRow], most_tokens: int) -> Iterator[MicroBatch]:
    """Micro-batches of at most `most_tokens` padded tokens (or one row), shortest rows first."""
    return (collate(group) for group in _groups(rows, most_tokens))


def packed_sizes(rows: list[TokenRow], most_tokens: int) -> list[tuple[int, int, int]]:
    """(rows, padded length, padded labels) of each micro-batch of `pack_by_tokens`, without making it."""
    return [
        (
            len(group),
            bucket_length(max(len(group[-1].ids) - 1, 1)),
            -(-sum(row.targets for row in group) // LABEL_STEP) * LABEL_STEP,
        )
        for group in _groups(rows, most_tokens)
    ]


def _groups(rows: list[TokenRow], most_tokens: int) -> Iterator[list[TokenRow]]:
    group: list[TokenRow] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        width = bucket_length(max(len(row.ids) - 1, 1))
        if group and width * (len(group) + 1) > most_tokens:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of `count` rows that depends on seed and epoch only."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def batch_rows(rows: list[TokenRow], size: int, seed: int, step: int) -> list[TokenRow]:
    """The rows of batch `step` (from 0) of the endless seeded stream; the last batch of an epoch borrows from the next."""
    picked: list[TokenRow] = []
    at = step * size
    size = size if len(rows) else 0
    order_of: dict[int, np.ndarray] = {}
    for index in range(at, at + size):
        epoch = index // len(rows)
        if epoch not in order_of:
            order_of[epoch] = epoch_order(len(rows), seed, epoch)
        picked.append(rows[int(order_of[epoch][index % len(rows)])])
    return picked
