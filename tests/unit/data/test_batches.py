"""Rows -> padded batches: nothing lost, nothing doubled, bounded, and the same stream for the same seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from zen_mlx.data.batches import LABEL_STEP, batch_rows, bucket_length, collate, epoch_order, pack_by_tokens
from zen_mlx.data.tokens import TokenRow


def random_rows(count: int, longest: int = 90) -> list[TokenRow]:
    rng = np.random.default_rng(3)
    rows = []
    for _ in range(count):
        size = int(rng.integers(2, longest))
        marks = rng.random(size) < 0.5
        marks[0], marks[-1] = False, True
        rows.append(TokenRow(tuple(int(t) for t in rng.integers(1, 1000, size)), tuple(bool(m) for m in marks)))
    return rows


@pytest.mark.parametrize(
    ("length", "padded"),
    [(1, 16), (16, 16), (17, 32), (128, 128), (129, 160), (256, 256), (257, 320), (512, 512), (513, 640)],
)
def test_bucket_length(length: int, padded: int) -> None:
    assert bucket_length(length) == padded


def test_lengths_fall_into_few_buckets() -> None:
    lengths = [bucket_length(n) for n in range(1, 4097)]
    assert all(padded >= n and padded <= max(16, 1.25 * n + 16) for n, padded in enumerate(lengths, 1))
    assert len(set(lengths)) < 40


def test_collate_holds_each_label_at_the_position_before_it() -> None:
    rows = random_rows(7)
    batch = collate(rows)
    width = batch.ids.shape[1]
    kept = int((batch.weights == 1).sum())
    assert batch.targets == kept == sum(row.targets for row in rows)
    assert len(batch.positions) % LABEL_STEP == 0
    assert not batch.weights[kept:].any()
    seen = Counter()
    for position, label in zip(batch.positions[:kept], batch.labels[:kept], strict=True):
        row, t = divmod(int(position), width)
        assert rows[row].ids[t + 1] == label
        assert rows[row].supervised[t + 1]
        assert batch.ids[row, t] == rows[row].ids[t]
        seen[row, t] += 1
    assert max(seen.values()) == 1
    for index, row in enumerate(rows):
        assert tuple(batch.ids[index, : len(row.ids) - 1]) == row.ids[:-1]
        assert not batch.ids[index, len(row.ids) - 1 :].any()


def test_packing_is_bounded_and_complete() -> None:
    rows = random_rows(50)
    batches = list(pack_by_tokens(rows, 256))
    assert sum(batch.targets for batch in batches) == sum(row.targets for row in rows)
    assert sum(len(batch.ids) for batch in batches) == len(rows)
    assert all(batch.tokens <= 256 or len(batch.ids) == 1 for batch in batches)
    assert list(pack_by_tokens([], 256)) == []


@pytest.mark.parametrize("size", [1, 4, 7, 25])
def test_the_stream_shows_every_row_once_an_epoch(size: int) -> None:
    rows = random_rows(10)
    steps = -(-30 // size)
    stream = [row for step in range(steps) for row in batch_rows(rows, size, seed=5, step=step)]
    for epoch in range(3):
        part = stream[10 * epoch : 10 * epoch + 10]
        assert part == [rows[i] for i in epoch_order(10, 5, epoch)]
        assert set(part) == set(rows)
    assert batch_rows(rows, size, 5, 1) == stream[size : 2 * size]
    assert batch_rows(rows, 10, 6, 0) != stream[:10]
    assert batch_rows([], size, 5, 0) == []
