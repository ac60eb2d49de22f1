"""y in float64, and how far from it a kernel may be: twice as far as the naive computation.

    exact[m,n] = y_base[m,n] + row[s,n] * sum_k sign[s,n,k] * block[s,n,k//B] * (col[s,k] * x[m,k])     in float64

`naive` is the same line in f32: every product rounded to f32, the sum accumulated in f32, the scale and y_base applied
in f32, and one rounding to the output type. Errors are compared in max norm over the outputs of one projection:

    max |kernel - exact|  <=  2 * max |naive - exact|

and nothing else: no absolute or relative term. Rounding a result that is exact up to half a unit of the output type can
give an error of half a unit, and so can the naive one's, so that the factor 2 is for the sums. What f32 accumulation
loses depends on the order of the terms: a kernel may sum in any. So naive is computed sequentially and pairwise (blocks
of 128, NumPy's), in the order of the columns and, where a projection has few outputs (2048 / outputs orders, at most
16), in random orders of the columns, and its error is the largest of them: with one output, one order's rounding errors
cancel by luck now and then, and that is no yardstick. Where every naive order is exact the kernel must be exact too.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from zen_mlx.kernels.operands import SignOperand

from .operands import Operands, generator

_TERMS = 2**22  # products held at once


def as_f32(array: mx.array) -> np.ndarray:
    """Any float array's values; f16 and bf16 are exact in f32."""
    return np.array(array.astype(mx.float32))


def signs_of(packed: np.ndarray, k: int) -> np.ndarray:
    """u32 [..., ceil(k/32)] -> f32 [..., k] of +-1."""
    bits = np.unpackbits(packed.view(np.uint8), axis=-1, bitorder="little")[..., :k]
    return bits.astype(np.float32) * 2 - 1


def _block(sign: SignOperand, slot: int, k: int) -> np.ndarray | np.float32:
    if sign.block is None:
        return np.float32(1)
    blocks = sign.block.shape[-1]
    size = next(b for b in (32, 64, 128, 256) if -(-k // b) == blocks)
    return np.repeat(as_f32(sign.block)[slot], size, axis=-1)[..., :k]


def round_to(values: np.ndarray, dtype: mx.Dtype) -> np.ndarray:
    """f32 values after one rounding to dtype."""
    return as_f32(mx.array(values).astype(dtype))


def exact(x: np.ndarray, sign: SignOperand, y_base: np.ndarray | None, slots: np.ndarray) -> np.ndarray:
    """x [M, K], y_base [M, N], slots [M] -> float64 [M, N]."""
    packed, k = np.array(sign.packed), x.shape[-1]
    y = np.zeros((len(x), packed.shape[1]))
    for slot in {int(s) for s in slots if 0 <= s < len(packed)}:
        rows = slots == slot
        weight = signs_of(packed[slot], k).astype(np.float64) * _block(sign, slot, k)
        xs = x[rows].astype(np.float64)
        if sign.col is not None:
            xs = xs * as_f32(sign.col)[slot]
        with np.errstate(invalid="ignore"):
            y[rows] = xs @ weight.T
        if sign.row is not None:
            y[rows] *= as_f32(sign.row)[slot]
    return y if y_base is None else y_base.astype(np.float64) + y


def _sums(terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f32 [..., K] -> the sums over K, one after the other and pairwise."""
    return np.add.accumulate(terms, axis=-1)[..., -1], terms.sum(axis=-1)


def naive_error(
    x: np.ndarray, sign: SignOperand, y_base: np.ndarray | None, slots: np.ndarray, dtype: mx.Dtype, truth: np.ndarray
) -> float:
    """The largest max |naive - exact| over the orders of accumulation that the module's text names."""
    packed, k = np.array(sign.packed), x.shape[-1]
    m, n = truth.shape
    rng = generator("orders", k, m, n)
    orders = [np.arange(k)] + [rng.permutation(k) for _ in range(min(16, 2048 // max(m * n, 1)))]
    worst = [np.zeros((m, n)) for _ in range(2 * len(orders))]
    outside = np.zeros((m, n), np.float32)
    for y in worst:  # rows without a slot
        y[:] = outside if y_base is None else round_to(y_base, dtype)
    for slot in {int(s) for s in slots if 0 <= s < len(packed)}:
        weight = signs_of(packed[slot], k) * _block(sign, slot, k)
        row = np.float32(1) if sign.row is None else as_f32(sign.row)[slot]
        ids = np.flatnonzero(slots == slot)
        step = max(1, _TERMS // (n * k))
        for chunk in (ids[i : i + step] for i in range(0, len(ids), step)):
            xs = x[chunk] if sign.col is None else x[chunk] * as_f32(sign.col)[slot]
            terms = xs[:, None] * weight
            for number, order in enumerate(orders):
                for way, sums in enumerate(_sums(terms if number == 0 else terms[..., order])):
                    y = sums * row
                    worst[2 * number + way][chunk] = round_to(y if y_base is None else y_base[chunk] + y, dtype)
    return max(float(np.abs(y - truth).max(initial=0)) for y in worst)


def check_merge(base: np.ndarray, sign: SignOperand, found: mx.array) -> None:
    """AssertionError unless found == base + (row * block * sign) * col bit for bit, in f32 and then rounded once.

    base f32 [S, N, K] with values of found's dtype. The last product and the sum may be fused (one f32 rounding) or
    not (two): compilers of GPU code decide that, and either is the better one at some elements.
    """
    k, packed = base.shape[-1], np.array(sign.packed)
    scale = np.stack([signs_of(packed[slot], k) * _block(sign, slot, k) for slot in range(len(packed))])
    if sign.row is not None:
        scale = scale * as_f32(sign.row)[..., None]
    col = np.float32(1) if sign.col is None else as_f32(sign.col)[:, None]
    fused = (scale.astype(np.float64) * col + base).astype(np.float32)
    bits = as_f32(found)
    assert bits.shape == base.shape
    wrong = (bits != round_to(base + scale * col, found.dtype)) & (bits != round_to(fused, found.dtype))
    assert not wrong.any(), f"{int(wrong.sum())} of {wrong.size} elements, first at {np.argwhere(wrong)[0].tolist()}"


def check(data: Operands, ys: list[mx.array]) -> float:
    """AssertionError where a projection's shape, dtype or error is wrong; the largest error over naive's otherwise."""
    k = data.x.shape[-1]
    x = as_f32(data.x).reshape(-1, k)
    slots = np.zeros(len(x), np.int64) if data.slots is None else np.array(data.slots).reshape(-1).astype(np.int64)
    assert len(ys) == len(data.signs)
    ratio = 0.0
    for number, (sign, base, y) in enumerate(zip(data.signs, data.y_bases, ys, strict=True)):
        n = sign.packed.shape[1]
        dtype = data.x.dtype if base is None else base.dtype
        assert y.shape == (*data.x.shape[:-1], n), f"projection {number}"
        assert y.dtype == dtype, f"projection {number}"
        y_base = None if base is None else as_f32(base).reshape(-1, n)
        truth = exact(x, sign, y_base, slots)
        found = as_f32(y).reshape(-1, n)
        assert np.isfinite(found).all(), (
            f"projection {number}: {np.argwhere(~np.isfinite(found))[:5].tolist()} not finite"
        )
        error = np.abs(found - truth)
        worst = float(error.max(initial=0))
        bound = 2 * naive_error(x, sign, y_base, slots, dtype, truth)
        if worst > bound:
            where = np.unravel_index(error.argmax(), error.shape)
            raise AssertionError(
                f"projection {number}, row {where[0]}, column {where[1]}: {found[where]!r} for {truth[where]!r}; error "
                f"{worst:.3g}, naive's {bound / 2:.3g}; {int((error > bound).sum())} of {error.size} outputs beyond twice it"
            )
        if bound:
            ratio = max(ratio, 2 * worst / bound)
    return ratio
