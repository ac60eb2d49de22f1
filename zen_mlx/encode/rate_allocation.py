"""Rate allocation: the kind, rank, bits and planes of each layer that lose the least within one byte budget.

A layer's delta D is a sum of components (its singular directions in the norm of E ||D x||) of energy e_i, largest first.
It may keep component i in b bits, and P sign planes of what is left over. What it then loses,

    P = 0    E - sum_i (1 - EPSILON[b_i]) e_i
    P > 0    rho_P (F - sum_i (1 - EPSILON[b_i]) f_i)

E and e_i count in the norm of E ||D x||, F and f_i in that of white noise of D's size, which is what signs leave over; both
times the layer's importance. rho_P is the share that P planes leave of a matrix, measured on some of its rows. Each layer
takes what is least in loss + lambda * bytes, for the one lambda (the same for all) that the file's size asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from ..codec.arrays import narrowed
from ..codec.factor_encode import encode_svd
from ..codec.parts import Part, SignPart, decode, decode_all, encode_sign
from ..codec.svd import singular_values, weighted_factors
from ..codec.weighted import fit_weighted
from ..config import KINDS, MOST_PLANES
from ..errors import ConfigError
from ..format.layout import segments
from ..format.spec import TENSOR_ALIGN, align
from ..fsio import Json

FACTOR_BITS = (2, 4, 8)
EPSILON = {0: 1.0, 2: 0.22, 4: 0.023, 8: 0.0002}
"""Share of a component's energy that is lost when both its sides are stored in so many bits: normal columns, least squares."""
_SAMPLE_ROWS = 256


@dataclass(frozen=True)
class Choice:
    """What a layer keeps: `groups` of factors ((bits, rank), ..), and sign planes of what they leave over."""

    groups: tuple[tuple[int, int], ...] = ()
    planes: int = 0

    @property
    def empty(self) -> bool:
        return not self.groups and not self.planes


@dataclass(frozen=True)
class Spectrum:
    """e_i and f_i of the largest components, E and F, and rho_0 = 1, rho_1, ..: the module's quantities."""

    shape: tuple[int, ...]
    seen: np.ndarray
    plain: np.ndarray
    total_seen: float
    total_plain: float
    rests: tuple[float, ...]


def spectrum(
    delta: np.ndarray, rank: int, moment: np.ndarray | None = None, importance: float = 1.0, scale: str = "rowcol"
) -> Spectrum:
    """The spectrum of delta [E.., N, K] up to `rank` components; experts' energies are added up, for they share a choice."""
    n, k = delta.shape[-2:]
    rank = min(rank, n, k)
    seen, plain = np.zeros(rank), np.zeros(rank)
    total_seen = total_plain = 0.0
    level = 1.0 if moment is None else float(np.trace(moment)) / k
    for matrix in np.asarray(delta).reshape(-1, n, k):
        energy = float(np.vdot(matrix, matrix)) * level
        total_plain += energy
        if moment is None:
            found = singular_values(matrix, rank) ** 2
            seen += found
            plain += found
            total_seen += energy
        else:
            left, right, values = weighted_factors(matrix, rank, moment)
            seen += values**2
            plain += (left**2).sum(axis=1) * (right**2).sum(axis=1) * level
            total_seen += float(np.vdot(matrix @ moment, matrix))
    return Spectrum(
        tuple(delta.shape),
        seen * importance,
        plain * importance,
        total_seen * importance,
        total_plain * importance,
        plane_rests(delta, scale),
    )


def plane_rests(delta: np.ndarray, scale: str) -> tuple[float, ...]:
    """(1, rho_1, .., rho_4) of the first rows of the first matrix of `delta`."""
    rows = np.asarray(delta.reshape(-1, *delta.shape[-2:])[0][:_SAMPLE_ROWS], np.float32)
    energy = float(np.vdot(rows, rows))
    if not energy:
        return (1.0,) * (MOST_PLANES + 1)
    rest, out = rows.copy(), [1.0]
    for part in encode_sign(rows, "rowcol" if scale == "block" else scale, None, MOST_PLANES):
        rest -= decode(part, rows.shape)
        out.append(float(np.vdot(rest, rest)) / energy)
    return tuple(out)


def allocate(
    spectra: Mapping[str, Spectrum],
    size_of: Callable[[Mapping[str, Choice]], int],
    budget: int,
    *,
    scale: str = "rowcol",
    block: int | None = None,
    kinds: tuple[str, ...] = KINDS,
) -> dict[str, Choice]:
    """The choice of every layer; `size_of` them all, the bytes of the whole file, is at most `budget`.

    kinds: which parts may be used; `sign` alone gives every layer at least one plane. ConfigError where nothing fits.
    """

    def at(log_price: float) -> dict[str, Choice]:
        price = float(np.exp(log_price))
        return {name: best(each, price, scale, block, kinds) for name, each in spectra.items()}

    low, high = -80.0, 80.0
    fits = at(high)
    if (least := size_of(fits)) > budget:
        weights = sum(prod(each.shape) for each in spectra.values())
        raise ConfigError(
            "too few bits",
            field="bits_per_weight",
            expected=f"at least {8 * least / weights:.3f}",
            found=round(8 * budget / weights, 3),
            hint=None if "factor" in kinds else "factors can use fewer: leave out --scale and --planes",
        )
    for _ in range(50):
        middle = (low + high) / 2
        found = at(middle)
        if size_of(found) > budget:
            low = middle
        else:
            high, fits = middle, found
    return fits


def best(each: Spectrum, price: float, scale: str, block: int | None, kinds: tuple[str, ...]) -> Choice:
    """argmin over choices of loss + price * bytes."""
    n, k = each.shape[-2:]
    experts = prod(each.shape[:-2])
    widths = (0, *FACTOR_BITS) if "factor" in kinds else (0,)
    costs = [experts * ((n + k) * bits / 8 + (4 if bits else 0)) for bits in widths]
    planes = range(MOST_PLANES + 1) if "sign" in kinds else range(1)
    if "factor" not in kinds:
        planes = range(1, MOST_PLANES + 1)
    options = []
    for count in planes:
        values = each.seen if count == 0 else each.plain * each.rests[count]
        total = each.total_seen if count == 0 else each.total_plain * each.rests[count]
        scores = np.stack([values * EPSILON[b] + price * cost for b, cost in zip(widths, costs, strict=True)])
        picked = np.array(widths)[scores.argmin(axis=0)]
        groups = tuple((bits, int((picked == bits).sum())) for bits in reversed(FACTOR_BITS) if (picked == bits).any())
        loss = max(total - float(values.sum()), 0.0) + float(scores.min(axis=0).sum())
        loss += price * _plane_bytes(each.shape, count, scale, block)
        options.append((loss, count, groups))
    _, count, groups = min(options)
    return Choice(groups, count)


def layout_of_choice(choice: Choice, scale: str = "rowcol", block: int | None = None) -> list[Json]:
    """The layout that the parts of `choice` have in a file."""
    layout: list[Json] = []
    if choice.groups:
        groups = [list(group) for group in choice.groups]
        layout.append({"kind": "factor", "u": False, "v": False, "dtype": "f16", "groups": groups})
    sign: Json = {"kind": "sign", "scale": scale, "dtype": "f16"}
    return layout + [sign if block is None else {**sign, "block": block}] * choice.planes


def _plane_bytes(shape: tuple[int, ...], planes: int, scale: str, block: int | None) -> int:
    if not planes:
        return 0
    *_, last = segments(layout_of_choice(Choice((), planes), scale, block), shape, None)
    return align(last.offset + last.nbytes, TENSOR_ALIGN)


def encode_choice(
    delta: np.ndarray,
    choice: Choice,
    moment: np.ndarray | None = None,
    scale: str = "rowcol",
    block: int | None = None,
    dtype: str = "f16",
) -> tuple[Part, ...]:
    """The parts of `choice` for delta [E.., N, K]; with moment = E[x x^T] they lose least of what the layer puts out."""
    parts: list[Part] = []
    rest = np.asarray(delta, np.float32)
    if choice.groups:
        parts.append(encode_svd(rest, choice.groups, dtype=dtype, moment=moment))
        if choice.planes:
            rest = rest - decode_all(parts, rest.shape)
    parts.extend(sign_parts(rest, choice.planes, moment, scale, block, dtype))
    return tuple(parts)


def sign_parts(
    delta: np.ndarray,
    planes: int,
    moment: np.ndarray | None = None,
    scale: str = "rowcol",
    block: int | None = None,
    dtype: str = "f16",
) -> Iterator[SignPart]:
    """`planes` sign planes of delta [E.., N, K], each of what the ones before it leave over; scales weighed by `moment`."""
    rest = delta
    for left in reversed(range(planes)):
        (part,) = encode_sign(rest, scale, block, 1, dtype)
        if moment is not None:
            scales = fit_weighted(rest, part.bits, moment, scale, block)
            part = SignPart(scale, block, part.bits, narrowed(scales, dtype))
        yield part
        if left:
            rest = rest - decode(part, rest.shape)
