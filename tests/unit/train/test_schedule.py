"""rate(step) and lambda(step) are the formulas of the docstring."""

from __future__ import annotations

import itertools
import math
from typing import Any

import mlx.nn as nn
import numpy as np
import pytest

from zen_mlx.config import BitDeltaConfig
from zen_mlx.train.methods import FactorMethod, SignMethod
from zen_mlx.train.schedule import FLOOR, Schedule
from zen_mlx.train.trainable import QuantizationRamp


def test_rate_warms_up_and_follows_a_cosine() -> None:
    schedule = Schedule(200, 0.5, 15, (0.25, 0.75))
    rates = np.array([schedule.rate(step) for step in range(200)])
    assert schedule.warmup == 15
    np.testing.assert_allclose(rates[:15], 0.5 * np.arange(1, 16) / 16)
    progress = np.arange(185) / 185
    np.testing.assert_allclose(rates[15:], 0.5 * (FLOOR + (1 - FLOOR) * (1 + np.cos(np.pi * progress)) / 2))
    assert rates.max() == rates[15] == 0.5
    assert rates[-1] == pytest.approx(0.05, rel=0.01)


def test_warm_up_is_at_most_a_tenth_of_the_run() -> None:
    assert Schedule(200, 1.0, 100, (0.25, 0.75)).warmup == 20
    assert Schedule(9, 1.0, 100, (0.25, 0.75)).warmup == 0
    assert Schedule(9, 1.0, 100, (0.25, 0.75)).rate(0) == 1.0
    assert Schedule(1, 1.0, 0, (0.25, 0.75)).rate(0) == 1.0


def test_lambda_is_zero_then_a_line_then_one() -> None:
    schedule = Schedule(100, 1.0, 0, (0.25, 0.75))
    shares = [schedule.quantized_share(step) for step in range(100)]
    assert shares[:26] == [0.0] * 26
    assert shares[50] == pytest.approx(0.5)
    assert shares[75:] == [1.0] * 25
    assert all(a <= b for a, b in itertools.pairwise(shares))
    assert all(math.isclose(shares[s], (s / 100 - 0.25) / 0.5) for s in range(26, 75))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_last_step_is_pure_one_bit_unless_asked_not_to(steps: int) -> None:
    assert Schedule(steps, 1.0, 0, (0.25, 0.75)).quantized_share(steps - 1) == 1.0
    assert Schedule(steps, 1.0, 0, None).quantized_share(steps - 1) == 0.0


def test_signs_take_twice_the_rate_of_full_precision() -> None:
    def peak(**settings: Any) -> float:
        return SignMethod(BitDeltaConfig(**settings), 0, None, {"w": (4096, 4096)}).schedule(100).peak

    assert peak() == pytest.approx(1e-4)
    assert peak(straight_through=False) == pytest.approx(5e-5)
    assert peak(learning_rate_scale=0.05) == pytest.approx(5e-5)


@pytest.mark.parametrize("bits", [0.1, 0.33, 4.0])
def test_the_rate_of_factors_falls_with_the_root_of_the_rank_they_start_with(bits: float) -> None:
    shape = (512, 1024)
    method = FactorMethod(BitDeltaConfig(), 0, bits, {"w": shape})
    rank = method.layer("w", nn.Linear(shape[1], shape[0]), shape, QuantizationRamp())["left4"].shape[0]
    assert method.schedule(100).peak == pytest.approx(1e-3 * math.sqrt(44 / rank))
    doubled = FactorMethod(BitDeltaConfig(learning_rate_scale=0.2), 0, bits, {"w": shape})
    assert doubled.schedule(100).peak == pytest.approx(2 * method.schedule(100).peak)
