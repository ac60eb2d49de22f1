"""Factors: bit packing against a slow reference, decoding against the equation, error falling with bits and rank."""

from typing import Any

import numpy as np
import pytest

from zen_mlx.codec.factor import FactorPart, FactorSide, decode_factor
from zen_mlx.codec.factor_encode import encode_factor, encode_svd
from zen_mlx.codec.pack import code_values, flip_codes, pack_codes, pack_signs, quantize, unpack_codes
from zen_mlx.codec.parts import decode, decode_all, encode_rows, encode_sign
from zen_mlx.codec.svd import leading_factors
from zen_mlx.errors import ConfigError


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def low_rank(n: int, k: int, power: float = 1.0, seed: int = 0) -> np.ndarray:
    """A matrix of norm 1 whose singular values fall like i^-power."""
    rng = np.random.default_rng(seed)
    r = min(n, k)
    left, right = np.linalg.qr(rng.normal(size=(n, r)))[0], np.linalg.qr(rng.normal(size=(k, r)))[0]
    matrix = (left * np.arange(1, r + 1) ** -power) @ right.T
    return (matrix / np.linalg.norm(matrix)).astype(np.float32)


def error(delta: np.ndarray, part: FactorPart) -> float:
    return float(np.linalg.norm(delta - decode(part, delta.shape)) / np.linalg.norm(delta))


def slow_pack(codes: list[int], bits: int) -> list[int]:
    """The format's sentence, bit by bit: code i takes bits [i * bits, (i + 1) * bits) of the row, lowest first."""
    words = [0] * -(-len(codes) * bits // 32)
    for index, code in enumerate(codes):
        for bit in range(bits):
            place = index * bits + bit
            words[place // 32] |= (code >> bit & 1) << place % 32
    return words


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("n", [1, 3, 7, 8, 31, 32, 33, 70])
def test_packing_is_the_slow_reference(bits: int, n: int) -> None:
    codes = np.random.default_rng(n).integers(0, 2**bits, (2, 3, n), dtype=np.uint8)
    packed = pack_codes(codes, bits)
    assert packed.dtype == np.uint32
    for index in np.ndindex(2, 3):
        assert packed[index].tolist() == slow_pack(codes[index].tolist(), bits)
    np.testing.assert_array_equal(unpack_codes(packed, n, bits), codes)
    wanted = codes - (2**bits - 1) / 2
    np.testing.assert_array_equal(code_values(packed, n, bits), wanted * (2 if bits == 1 else 1))
    flipped = flip_codes(packed, n * bits)
    np.testing.assert_array_equal(code_values(flipped, n, bits), -code_values(packed, n, bits))
    np.testing.assert_array_equal(pack_codes(2**bits - 1 - codes, bits), flipped)


def test_one_bit_codes_are_signs() -> None:
    values = normal(4, 45)
    values[0, :3] = 0, -0.0, -1
    np.testing.assert_array_equal(pack_codes((values >= 0).astype(np.uint8), 1), pack_signs(values))


@pytest.mark.parametrize(("bits", "best"), [(2, 0.1188), (4, 0.01154), (8, 0.00011)])
def test_steps_are_those_of_least_squares(bits: int, best: float) -> None:
    """`best`: the smallest mean square error of evenly spaced values on a normal variable (Max 1960); 8 bits: a bound."""
    values = normal(8, 20_000) * np.geomspace(0.01, 100, 8, dtype=np.float32)[:, None]
    steps, codes = quantize(values, bits)
    assert (steps.dtype, steps.shape, codes.dtype, codes.shape) == (np.float16, (8,), np.uint8, values.shape)
    decoded = (codes - (2**bits - 1) / 2) * steps.astype(np.float64)[:, None]
    lost = np.square(decoded - values).mean(axis=1) / np.square(values).mean(axis=1)
    assert (lost < best * 1.06).all()
    # No other step within 20 % does better by more than the grid's fineness.
    for factor in np.linspace(0.8, 1.2, 41):
        step = steps.astype(np.float64)[:, None] * factor
        other = (np.clip(np.floor(values / step) + 2 ** (bits - 1), 0, 2**bits - 1) - (2**bits - 1) / 2) * step
        assert (np.square(other - values).mean(axis=1) / np.square(values).mean(axis=1) > lost * 0.9 - 1e-9).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_steps_of_odd_columns(bits: int) -> None:
    columns = np.zeros((4, 40), np.float32)
    columns[1, 3] = 5
    columns[2] = 1e9
    columns[3] = -1e-12
    steps, codes = quantize(columns, bits)
    assert np.isfinite(steps).all()
    assert steps[0] == 0
    decoded = (codes - (2**bits - 1) / 2) * steps.astype(np.float32)[:, None]
    assert not decoded[0].any()
    assert np.linalg.norm(decoded[1] - columns[1]) <= 5
    assert decoded[2, 0] == pytest.approx((2**bits - 1) / 2 * 65504)
    before = columns.copy()
    quantize(columns, bits)
    np.testing.assert_array_equal(columns, before)


def slow_value(side: FactorSide, bits: int, index: tuple[int, ...], i: int) -> float:
    """Element i of the column `index` of U or V, without l."""
    if bits >= 16:
        return float(side.data[index][i])
    row = [int(word) for word in side.data[index]]
    code = sum((row[(i * bits + bit) // 32] >> (i * bits + bit) % 32 & 1) << bit for bit in range(bits))
    if bits == 1:
        return 1.0 if code else -1.0
    assert side.steps is not None
    return (code - (2**bits - 1) / 2) * float(side.steps[index])


GROUPS: list[list[list[int]]] = [
    [[1, 2]],
    [[2, 3]],
    [[4, 2]],
    [[8, 1]],
    [[16, 2]],
    [[32, 2]],
    [[32, 1], [16, 1], [8, 1], [4, 1], [2, 1], [1, 1]],
]


@pytest.mark.parametrize("groups", GROUPS, ids=str)
@pytest.mark.parametrize("shape", [(6, 11), (2, 9, 7)])
@pytest.mark.parametrize("vectors", [False, True])
def test_decoding_is_the_equation(groups: list[list[int]], shape: tuple[int, ...], vectors: bool) -> None:
    rank = sum(pair[1] for pair in groups)
    left, right = normal(*shape[:-1], rank), normal(*shape[:-2], shape[-1], rank, seed=1)
    u = np.abs(normal(*shape[:-1], seed=2)) if vectors else None
    v = np.abs(normal(*shape[:-2], shape[-1], seed=3)) if vectors else None
    part = encode_factor(left, right, groups, u, v)
    assert [[group.bits, group.rank] for group in part.groups] == groups
    assert part.rank == rank
    assert part.dtype == "f16"
    wanted = np.zeros(shape)
    for *lead, n, k in np.ndindex(*shape):
        total = 0.0
        for group in part.groups:
            for column in range(group.rank):
                at = (*lead, column)
                scale = 1.0 if group.scales is None else float(group.scales[at])
                a = slow_value(group.left, group.bits, at, n)
                total += a * scale * slow_value(group.right, group.bits, at, k)
        if part.u is not None and part.v is not None:
            total *= float(part.u[(*lead, n)]) * float(part.v[(*lead, k)])
        wanted[(*lead, n, k)] = total
    found = decode_factor(part, shape)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_which_groups_have_steps_and_scales() -> None:
    part = encode_factor(normal(20, 6), normal(33, 6), GROUPS[-1])
    for group in part.groups:
        assert (group.scales is None) == (group.bits in (2, 4, 8))
        for side, n in ((group.left, 20), (group.right, 33)):
            assert (side.steps is None) == (group.bits not in (2, 4, 8))
            assert side.data.shape == (1, n if group.bits >= 16 else -(-n * group.bits // 32))
            assert side.data.dtype == {32: np.float32, 16: np.float16}.get(group.bits, np.uint32)
    assert part.nbytes == sum(
        array.nbytes
        for group in part.groups
        for array in (group.scales, group.left.steps, group.left.data, group.right.steps, group.right.data)
        if array is not None
    )


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("size", [1, 1e-3, 1e3])
def test_16_and_32_bits_are_exact(bits: int, size: float) -> None:
    left, right = normal(30, 4) * np.float32(size), normal(50, 4, seed=1)
    if bits == 16:
        left, right = left.astype(np.float16).astype(np.float32), right.astype(np.float16).astype(np.float32)
    part = encode_factor(left, right, [[bits, 4]])
    np.testing.assert_array_equal(part.groups[0].left.data, left.T)
    np.testing.assert_array_equal(part.groups[0].right.data, right.T)
    assert part.groups[0].scales is not None
    np.testing.assert_array_equal(part.groups[0].scales, np.ones(4))
    np.testing.assert_allclose(decode(part, (30, 50)), left @ right.T, rtol=1e-5, atol=1e-6 * size)


@pytest.mark.parametrize("size", [1e-12, 1e-7, 1e7])
def test_16_bit_columns_beyond_float16_are_scaled_by_l(size: float) -> None:
    left, right = normal(30, 3) * np.float32(size), normal(50, 3, seed=1)
    part = encode_factor(left, right, [[16, 3]])
    assert part.u is None
    assert error(left @ right.T, part) < 1e-3


@pytest.mark.parametrize("size", [1e-18, 1e-9, 1e-4, 1.0, 1e9, 1e18])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_steps_fit_float16_whatever_the_size(size: float, bits: int) -> None:
    delta = low_rank(40, 60, 2.0) * np.float32(size)
    usual = error(low_rank(40, 60, 2.0), encode_svd(low_rank(40, 60, 2.0), [[bits, 6]]))
    part = encode_svd(delta, [[bits, 6]])
    assert (part.u is None) == (1 <= size <= 1e9)
    assert error(delta, part) == pytest.approx(usual, rel=0.05)
    left, right = leading_factors(delta, 6)
    given = encode_factor(left.T * np.float32(1e4), right.T * np.float32(1e-4), [[bits, 6]])
    assert error(delta, given) < usual + 0.1


def test_error_falls_with_bits_and_rank() -> None:
    delta = low_rank(96, 160)
    by_bits = [error(delta, encode_svd(delta, [[bits, 8]])) for bits in (1, 2, 4, 8, 16, 32)]
    assert by_bits == sorted(by_bits, reverse=True)
    by_rank = [error(delta, encode_svd(delta, [[4, rank]])) for rank in (1, 2, 4, 8, 16, 32)]
    assert by_rank == sorted(by_rank, reverse=True)
    left, right = leading_factors(delta, 8)
    best = float(np.linalg.norm(delta - left.T @ right))
    assert by_bits[-1] == pytest.approx(best, rel=1e-5)
    assert by_bits[-2] == pytest.approx(best, rel=1e-3)
    assert by_bits[-3] == pytest.approx(best, rel=1e-2)


def test_a_later_group_takes_what_the_earlier_left() -> None:
    delta = low_rank(96, 160)
    alone, both = encode_svd(delta, [[4, 8]]), encode_svd(delta, [[4, 8], [2, 16]])
    np.testing.assert_array_equal(both.groups[0].left.data, alone.groups[0].left.data)
    rest = delta - decode(alone, delta.shape)
    second = encode_svd(rest, [[2, 16]])
    np.testing.assert_allclose(decode(both, delta.shape), decode_all([alone, second], delta.shape), atol=2e-4)
    # Cutting one decomposition in two, as `encode_factor` does, is worse.
    left, right = leading_factors(delta, 24)
    assert error(delta, both) < 0.95 * error(delta, encode_factor(left.T, right.T, [[4, 8], [2, 16]]))


def test_experts_are_encoded_one_by_one() -> None:
    delta = np.stack([low_rank(20, 33, seed=seed) * size for seed, size in enumerate((1, 1e-9, 0))]).reshape(
        3, 1, 20, 33
    )
    groups = [[16, 1], [4, 3], [1, 5]]
    part = encode_svd(delta, groups)
    assert part.u is not None
    assert part.u.shape == (3, 1, 20)
    assert part.groups[1].left.data.shape == (3, 1, 3, 3)
    found = decode(part, delta.shape)
    for index in range(2):
        alone = encode_svd(delta[index, 0], groups)
        np.testing.assert_allclose(found[index, 0], decode(alone, (20, 33)), rtol=1e-3, atol=1e-3 * delta[index].max())
    assert not found[2].any()


def test_vectors_weigh_the_error() -> None:
    """With v = 1 / rms(x), the error in W x is smaller than without it."""
    delta, rms = low_rank(60, 90, 0.5), np.exp(normal(90, seed=4))
    plain, weighed = encode_svd(delta, [[4, 6]]), encode_svd(delta, [[4, 6]], v=1 / rms)
    lost = [float(np.linalg.norm((delta - decode(part, delta.shape)) * rms)) for part in (plain, weighed)]
    assert lost[1] < 0.9 * lost[0]
    u = np.ones(60, np.float32)
    u[7] = 0
    assert not decode(encode_svd(delta, [[4, 6]], u=u), delta.shape)[7].any()


@pytest.mark.parametrize("shape", [(400, 700), (700, 400), (60, 40), (40, 60), (1, 9), (9, 1)])
def test_leading_factors_are_the_singular_ones(shape: tuple[int, int]) -> None:
    matrix = low_rank(*shape, 0.7)
    rank = min(*shape, 8)
    left, right = leading_factors(matrix, rank)
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    wanted = np.sqrt(np.square(values[rank:]).sum())
    assert np.linalg.norm(matrix - left.T @ right) == pytest.approx(wanted, rel=1e-3, abs=1e-5)
    np.testing.assert_allclose(np.square(left).sum(axis=1), values[:rank], rtol=1e-2)
    np.testing.assert_allclose(np.square(right).sum(axis=1), values[:rank], rtol=1e-2)
    again = leading_factors(matrix, rank)
    np.testing.assert_array_equal(left, again[0])
    assert not any(side.any() for side in leading_factors(np.zeros(shape, np.float32), rank))


def test_fewer_directions_than_the_rank() -> None:
    delta = np.outer(normal(20), normal(30, seed=1))
    for groups in GROUPS[:-1]:
        part = encode_svd(delta, [[groups[0][0], 8]])
        assert np.isfinite(decode(part, delta.shape)).all()
        assert error(delta, part) < 0.85


def test_a_residual_plane_after_factors() -> None:
    delta = low_rank(40, 70, 0.5)
    part = encode_svd(delta, [[4, 4]])
    rest = delta - decode(part, delta.shape)
    (plane,) = encode_sign(rest, "row")
    assert np.linalg.norm(delta - decode_all([part, plane], delta.shape)) < 0.7 * np.linalg.norm(rest)


@pytest.mark.parametrize(
    "groups", [[], [[3, 1]], [[4, 0]], [[4, 1], [4, 1]], [[2, 1], [4, 1]], [[4, 7], [2, 2]]], ids=str
)
def test_groups_that_are_refused(groups: list[list[int]]) -> None:
    with pytest.raises(ConfigError) as caught:
        encode_svd(normal(8, 9), groups)
    assert caught.value.field == "groups"


@pytest.mark.parametrize(
    "settings",
    [
        {"u": np.ones(9)},
        {"v": np.ones((1, 9))},
        {"u": -np.ones(8)},
        {"v": np.full(9, np.nan)},
        {"dtype": "bf16"},
        {"delta": np.full((8, 9), np.inf, np.float32)},
        {"delta": np.ones(9, np.float32)},
        {"delta": np.ones((0, 9), np.float32)},
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        encode_svd(settings.pop("delta", normal(8, 9)), [[4, 1]], **settings)


@pytest.mark.parametrize(
    ("left", "right"),
    [((8, 2), (9, 3)), ((8,), (9,)), ((2, 8, 2), (9, 2)), ((8, 3), (9, 3)), ((8, 2), (2, 9, 2))],
)
def test_factors_that_do_not_fit(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError):
        encode_factor(normal(*left), normal(*right), [[16, 2]])


def test_factors_that_are_not_finite() -> None:
    with pytest.raises(ConfigError):
        encode_factor(np.full((8, 2), np.nan), normal(9, 2), [[16, 2]])


def test_codes_that_do_not_exist() -> None:
    with pytest.raises(ConfigError):
        pack_codes(np.zeros(3, np.uint8), 3)
    with pytest.raises(ConfigError):
        unpack_codes(np.zeros(2, np.uint32), 3, 4)
    with pytest.raises(ConfigError):
        quantize(normal(3), 1)


@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_rows(dtype: str) -> None:
    delta = normal(9, 5)
    delta[[0, 3, 8]] = 0
    part = encode_rows(delta, dtype)
    assert part.rows.tolist() == [1, 2, 4, 5, 6, 7]
    assert (part.rows.dtype, part.dtype, part.nbytes) == (np.uint32, dtype, 6 * 4 + 30 * (2 if dtype == "f16" else 4))
    np.testing.assert_allclose(decode(part, delta.shape), delta, rtol=1e-3 if dtype == "f16" else 0)
    assert encode_rows(delta * np.float32(1e9)).dtype == "f32"
    (plane,) = encode_sign(delta, "row")
    np.testing.assert_array_equal(
        decode_all([plane, part], delta.shape), decode(plane, delta.shape) + decode(part, delta.shape)
    )


@pytest.mark.parametrize("bad", [np.zeros((3, 4)), np.ones(4), np.ones((2, 3, 4)), np.full((2, 3), np.nan)])
def test_rows_that_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ConfigError):
        encode_rows(bad)
    with pytest.raises(ConfigError):
        encode_rows(np.ones((2, 3)), "bf16")
