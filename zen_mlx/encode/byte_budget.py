"""8 * file bytes <= B * target elements: the ranks or planes that a number of bits per weight pays for."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from ..config import MOST_PLANES
from ..errors import ConfigError
from ..format.layout import segments
from ..format.spec import TENSOR_ALIGN, align, canonical, split_name
from ..fsio import Json
from .rate_allocation import Choice, layout_of_choice

BITS = 4
HEADER_BYTES = 4096
"""What a header says beside its tensors: facts, metrics, layouts."""
_ENTRY_BYTES = 36
"""A row of the table of tensors; each of its strings is counted once."""


def factor_bytes(shape: tuple[int, ...], rank: int, bits: int = BITS, scaled: bool = False) -> int:
    """What a factor part of `rank` columns takes in the payload."""
    entry = {"kind": "factor", "u": scaled, "v": scaled, "dtype": "f16", "groups": [[bits, rank]]}
    *_, last = segments([entry], shape, None)
    return align(last.offset + last.nbytes, TENSOR_ALIGN)


def header_bytes(names: list[str]) -> int:
    """At most what the header of such a file takes."""
    strings = {part for name in names for part in split_name(name)}
    return HEADER_BYTES + _ENTRY_BYTES * len(names) + sum(len(text.encode()) + 3 for text in strings)


def ranks(shapes: Mapping[str, tuple[int, ...]], bits_per_weight: float, scaled: bool = False) -> dict[str, int]:
    """The same rank for every parameter, as high as fits; what is left over gives one more to as many as it can.

    A parameter's rank is at most min(N, K). ConfigError where not even rank 1 fits.
    """
    weights = sum(prod(shape) for shape in shapes.values())
    budget = int(bits_per_weight * weights / 8) - header_bytes(list(shapes))

    def of(rank: int) -> dict[str, int]:
        return {name: min(rank, *shape[-2:]) for name, shape in shapes.items()}

    def cost(found: Mapping[str, int]) -> int:
        return sum(factor_bytes(shapes[name], rank, scaled=scaled) for name, rank in found.items())

    if cost(of(1)) > budget:
        least = 8 * (cost(of(1)) + header_bytes(list(shapes))) / weights
        raise ConfigError(
            "too few bits for factors of rank 1",
            field="bits_per_weight",
            expected=f"at least {least:.3f}",
            found=bits_per_weight,
        )
    low, high = 1, max(min(shape[-2:]) for shape in shapes.values())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(of(middle)) <= budget else (low, middle - 1)
    found = of(low)
    left = budget - cost(found)
    more = of(low + 1)
    for name in sorted(shapes, key=lambda name: (factor_bytes(shapes[name], 1), name)):
        extra = cost({name: more[name]}) - cost({name: found[name]})
        if extra <= left:
            found[name], left = more[name], left - extra
    return found


def planes(shapes: Mapping[str, tuple[int, ...]], bits_per_weight: float, block: int | None) -> int:
    """How many sign planes a weight fit, at most 4. ConfigError where not one does."""
    weights = sum(prod(shape) for shape in shapes.values())
    entry: Json = {"kind": "sign", "scale": "rowcol", "dtype": "f16"}
    if block is not None:
        entry |= {"scale": "block", "block": block}

    def bits(count: int) -> float:
        total = header_bytes(list(shapes))
        for shape in shapes.values():
            *_, last = segments([entry] * count, shape, None)
            total += align(last.offset + last.nbytes, TENSOR_ALIGN)
        return 8 * total / weights

    fitting = [count for count in range(1, MOST_PLANES + 1) if bits(count) <= bits_per_weight]
    if not fitting:
        raise ConfigError(
            "one sign per weight takes more bits",
            field="bits_per_weight",
            expected=f"at least {bits(1):.3f}",
            found=bits_per_weight,
            hint="--method factor can use fewer",
        )
    return fitting[-1]


def choice_bytes(shapes: Mapping[str, tuple[int, ...]], choices: Mapping[str, Choice], scaled: bool = False) -> int:
    """At most what a file takes in which each parameter has the factors of its choice."""
    kept = {name: layout_of_choice(choice) for name, choice in choices.items() if not choice.empty}
    for layout in kept.values():
        layout[0] |= {"u": scaled, "v": scaled}
    total = header_bytes(list(kept)) + sum(len(text) + 2 for text in {canonical(layout) for layout in kept.values()})
    for name, layout in kept.items():
        *_, last = segments(layout, shapes[name], None)
        total += align(last.offset + last.nbytes, TENSOR_ALIGN)
    return total
