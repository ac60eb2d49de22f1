"""Rate control: the file fits, the choice is the best one, and each kind of delta gets the kind of part that suits it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np
import pytest

from zen_mlx.codec.parts import decode_all
from zen_mlx.config import MOST_PLANES
from zen_mlx.encode.rate_allocation import (
    EPSILON,
    Choice,
    Spectrum,
    allocate,
    best,
    encode_choice,
    layout_of_choice,
    spectrum,
)
from zen_mlx.errors import ConfigError
from zen_mlx.format.layout import layout_of, segments

RANDOM = np.random.default_rng(0)
LOW_RANK = (RANDOM.standard_normal((96, 5)) @ RANDOM.standard_normal((5, 128)) / 40).astype(np.float32)
NOISE = (RANDOM.standard_normal((96, 128)) / 30).astype(np.float32)


def payload(shapes: Mapping[str, tuple[int, ...]], choices: Mapping[str, Choice]) -> int:
    total = 0
    for name, choice in choices.items():
        if not choice.empty:
            total += sum(segment.nbytes for segment in segments(layout_of_choice(choice), shapes[name], None))
    return total


def kept(delta: np.ndarray, choice: Choice) -> float:
    rest = delta - decode_all(encode_choice(delta, choice), delta.shape)
    return 1 - float(np.vdot(rest, rest) / np.vdot(delta, delta))


@pytest.mark.parametrize("rate", [0.3, 0.6, 1.2, 2.5, 4.0])
def test_the_best_choice_that_fits(rate: float) -> None:
    deltas = {"low": LOW_RANK, "noise": NOISE, "small": NOISE[:, ::-1] / 50}
    spectra = {name: spectrum(delta, 96) for name, delta in deltas.items()}
    shapes = {name: delta.shape for name, delta in deltas.items()}
    budget = int(rate * sum(delta.size for delta in deltas.values()) / 8)
    choices = allocate(spectra, lambda found: payload(shapes, found), budget)
    size = payload(shapes, choices)
    assert size <= budget
    lost = sum(
        (1 - kept(deltas[name], choice)) * np.vdot(deltas[name], deltas[name]) for name, choice in choices.items()
    )
    for groups, planes in product(
        [((4, 5),), ((4, 20),), ((2, 30),), ()], range(3)
    ):  # none of the same everywhere is better
        same = dict.fromkeys(deltas, Choice(groups, planes))
        if payload(shapes, same) <= size:
            other = sum((1 - kept(deltas[n], choice)) * np.vdot(deltas[n], deltas[n]) for n, choice in same.items())
            assert lost <= other * 1.03


def test_low_rank_gets_factors_and_noise_gets_signs() -> None:
    deltas = {"low": LOW_RANK, "noise": NOISE}
    spectra = {name: spectrum(delta, 96) for name, delta in deltas.items()}
    shapes = {name: delta.shape for name, delta in deltas.items()}
    choices = allocate(spectra, lambda found: payload(shapes, found), int(1.0 * 2 * NOISE.size / 8))
    assert choices["low"].planes == 0
    assert sum(rank for _, rank in choices["low"].groups) == 5
    assert choices["noise"].planes >= 1


def test_the_estimate_is_what_is_lost() -> None:
    mixed = LOW_RANK * 3 + NOISE
    each = spectrum(mixed, 96)
    for choice in (
        Choice(((4, 5),)),
        Choice(((8, 2), (4, 3), (2, 9))),
        Choice((), 1),
        Choice((), 3),
        Choice(((4, 5),), 1),
    ):
        values = each.seen if not choice.planes else each.plain * each.rests[choice.planes]
        total = each.total_seen if not choice.planes else each.total_plain * each.rests[choice.planes]
        at, estimate = 0, total
        for bits, rank in choice.groups:
            estimate -= (1 - EPSILON[bits]) * values[at : at + rank].sum()
            at += rank
        assert estimate / each.total_seen == pytest.approx(1 - kept(mixed, choice), abs=0.04)


def test_what_a_layer_is_worth_counts() -> None:
    shapes = {"a": NOISE.shape, "b": NOISE.shape}
    spectra = {"a": spectrum(NOISE, 96), "b": spectrum(NOISE, 96, importance=100.0)}
    choices = allocate(spectra, lambda found: payload(shapes, found), int(2.2 * NOISE.size / 8))
    assert payload(shapes, {"b": choices["b"]}) > 2 * payload(shapes, {"a": choices["a"]})


def test_signs_alone() -> None:
    shapes = {"a": NOISE.shape, "b": NOISE.shape}
    spectra = {"a": spectrum(NOISE, 1), "b": spectrum(NOISE, 1, importance=30.0)}

    def size_of(found: Mapping[str, Choice]) -> int:
        return payload(shapes, found)

    choices = allocate(spectra, size_of, int(2.3 * 2 * NOISE.size / 8), kinds=("sign",))
    assert 1 <= choices["a"].planes < choices["b"].planes <= MOST_PLANES
    with pytest.raises(ConfigError, match="too few bits") as caught:
        allocate(spectra, size_of, int(0.9 * 2 * NOISE.size / 8), kinds=("sign",))
    assert "leave out --scale" in (caught.value.hint or "")


def test_a_moment_moves_bits_to_what_is_seen() -> None:
    """One direction of x is a hundred times as large: what D does with it comes first, however small it is in D."""
    moment = np.eye(128, dtype=np.float32)
    moment[3, 3] = 1e6
    delta = LOW_RANK.copy()
    delta[:, 3] = 0.05 * RANDOM.standard_normal(96)
    choice = best(spectrum(delta, 96, moment), 1e-1, "rowcol", None, ("factor",))
    seen = decode_all(encode_choice(delta, choice, moment), delta.shape)[:, 3]
    assert np.abs(seen - delta[:, 3]).max() < 0.15 * np.abs(delta[:, 3]).max()


def test_experts_share_a_choice() -> None:
    experts = np.stack([LOW_RANK, NOISE[::-1], 0 * NOISE])
    each = spectrum(experts, 96)
    assert isinstance(each, Spectrum)
    parts = encode_choice(experts, Choice(((4, 6),), 1))
    assert [layout_of(part) for part in parts] == layout_of_choice(Choice(((4, 6),), 1))
    assert not decode_all(parts, experts.shape)[2].any()
