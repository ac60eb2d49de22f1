"""Which cases the parity suite runs: a pairwise covering set for every run, the full product for `slow`.

A case is one value of every factor below. The covering set holds
  * every triple (kernel, dtype, scale) that the table at the end of a run shows;
  * every possible pair of values of two of `PAIRED` (K, N and M by class), and every K, N and M with every kernel.
A case without rows (M = 0) counts for the pairs with its M only.
The full product is that of kernel, dtype, scale, index pattern and shape class (of K, N and M).
Possible means `valid`: the sizes stay in bounds that an emulator can bear, and an index pattern has rows to show itself.
Everything here is deterministic, and knows nothing about arrays.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

BLOCKS = (32, 64, 128, 256)
MATMULS = (
    "reference.unpack",
    "reference.quantized",
    "cpu.select",
    "metal.matvec",
    "metal.wide",
    "metal.matmul",
    "cuda.matvec",
    "cuda.mma",
    "cuda.unpack",
)
MERGES = ("metal.merge", "cuda.merge")
SCALES = (
    "none", "row", "col", "rowcol", "block32", "block64", "block128", "block256",
    "row+block64", "col+block32", "rowcol+block128",
)  # fmt: skip
DTYPES = ("f32", "f16", "bf16")
FACTORS: dict[str, tuple] = {
    "kernel": MATMULS,
    "dtype": DTYPES,
    "scale": SCALES,
    "index": ("none", "zeros", "negative", "repeated", "unsorted", "beyond", "experts"),
    "k": (32, 64, 96, 100, 128, 160, 480, 544, 2880, 4096, 14336),
    "n": (1, 3, 7, 8, 9, 33, 4097),
    "m": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 31, 32, 33, 64, 257),
    "y_base": ("none", "same", "other"),
    "layout": ("contiguous", "strided", "transposed", "sliced"),
    "ndim": (1, 2, 3, 4),
    "bits": ("random", "ones", "zeros"),
    "x": ("normal", "mean"),
    "groups": (1, 2, 3),
}
SUMS = 4_000_000  # sign products of a case: more would take an emulator over 0.2 s


class Case(NamedTuple):
    """One value of every factor; `y_base` "other" is f32 under narrow x and f16 under f32 x."""

    kernel: str
    dtype: str
    scale: str
    index: str
    k: int
    n: int
    m: int
    y_base: str
    layout: str
    ndim: int
    bits: str
    x: str
    groups: int

    @property
    def id(self) -> str:
        return (
            f"{self.kernel}-{self.dtype}-{self.scale}-{self.index}-K{self.k}-N{self.n}-M{self.m}-base_{self.y_base}"
            f"-{self.layout}-{self.ndim}d-{self.bits}-{self.x}-g{self.groups}"
        )


def k_class(k: int) -> str:
    """How the columns fall into words and blocks."""
    return (
        "word" if k == 32 else "ragged" if k % 32 else "long" if k > 2000 else "even" if k % 128 == 0 else "odd words"
    )


def n_class(n: int) -> str:
    return "one" if n == 1 else "below tile" if n < 8 else "tile" if n == 8 else "tile+1" if n == 9 else "tiles+1"


def m_class(m: int) -> str:
    """Which kernel dispatch would take, and whether the rows fill its tiles."""
    if m <= 1:
        return ("empty", "one")[m]
    return "wide" if m <= 13 else "full tiles" if m % 16 == 0 else "tiles+1"


CLASSES: dict[str, tuple[str, Callable[[int], str]]] = {
    "K class": ("k", k_class),
    "N class": ("n", n_class),
    "M class": ("m", m_class),
}
PAIRED = (
    "kernel", "dtype", "scale", "index", "K class", "N class", "M class", "y_base", "layout", "ndim", "bits", "x",
    "groups",
)  # fmt: skip
_PAIRS = [(a, b) for i, a in enumerate(PAIRED) for b in PAIRED[i + 1 :]] + [
    ("kernel", size) for size in ("k", "n", "m")
]


def scale_block(scale: str) -> int | None:
    return int(scale.partition("block")[2]) if "block" in scale else None


def valid(c: dict) -> bool:
    """Whether the factors assigned in `c` can be part of one case."""
    k, n, m, scale, index, ndim = (c.get(name) for name in ("k", "n", "m", "scale", "index", "ndim"))
    if k and n and ((n == 4097 and k > 160) or (k == 14336 and n > 9)):
        return False
    if (m or 1) * (n or 1) * (k or 32) > SUMS:
        return False
    if k and scale:
        size = scale_block(scale)
        if size and next(b for b in BLOCKS if -(-k // b) == -(-k // size)) != size:
            return False  # a row of so few blocks is a smaller block size's
    if m is not None and index in ("repeated", "unsorted") and m < 2:
        return False
    return not (m is not None and ndim == 1 and m != 1)


def values(name: str) -> tuple:
    if name in CLASSES:
        factor, classify = CLASSES[name]
        return tuple(dict.fromkeys(classify(v) for v in FACTORS[factor]))
    return FACTORS[name]


def _with_classes(c: dict) -> dict:
    return c | {name: classify(c[factor]) for name, (factor, classify) in CLASSES.items() if factor in c}


def _wanted() -> dict[tuple, None]:
    """What the covering set must show, as (factor, value, ...) tuples; some of it is impossible."""
    triples = [
        ("kernel", kernel, "dtype", dtype, "scale", scale) for kernel in MATMULS for dtype in DTYPES for scale in SCALES
    ]
    pairs = [(a, va, b, vb) for a, b in _PAIRS for va in values(a) for vb in values(b)]
    return dict.fromkeys(triples + pairs)


def _pairs(c: dict) -> Iterator[tuple]:
    c = _with_classes(c)
    for a, b in _PAIRS:
        if a in c and b in c and (c.get("m") != 0 or {a, b} & {"m", "M class"}):
            yield (a, c[a], b, c[b])


def shown(case: Case) -> Iterator[tuple]:
    """The wanted tuples that a case shows. One without rows computes nothing: it shows pairs with its M only."""
    if case.m:
        yield ("kernel", case.kernel, "dtype", case.dtype, "scale", case.scale)
    yield from _pairs(case._asdict())


def _fill(start: dict, left: dict[tuple, None], rng: random.Random) -> Case | None:
    """A valid case that agrees with `start` and shows much of what is left; where nothing asks for more, a telling one:
    random bits, some rows, not too large."""
    c: dict = {}
    for name in sorted(FACTORS, key=lambda f: (f not in start, f not in ("k", "n", "m"), rng.random())):
        options = []
        factor_class = next((cls for cls, (factor, _) in CLASSES.items() if factor == name), None)
        for value in FACTORS[name]:
            if name in start and start[name] != value:
                continue
            if factor_class in start and CLASSES[factor_class][1](value) != start[factor_class]:
                continue
            trial = c | {name: value}
            if not valid(trial):
                continue
            gain = sum(each in left for each in _pairs(trial))
            sums = trial.get("m", 1) * trial.get("n", 8) * trial.get("k", 32)
            dull = (name == "bits" and value != "random") + (name == "m" and not value) + (sums > SUMS // 40)
            options.append((-gain, dull, rng.random(), value))
        if not options:
            return None
        c[name] = min(options)[-1]
    return Case(**c)


@cache
def covering() -> tuple[Case, ...]:
    """The covering set, greedily: each case starts from a tuple not yet shown and is filled with what shows most."""
    rng = random.Random(1)
    left = _wanted()
    cases: list[Case] = []
    while left:
        wanted = next(iter(left))
        start = dict(zip(wanted[::2], wanted[1::2], strict=True))
        found = next((case for _ in range(20) if (case := _fill(start, left, rng))), None)
        if found is None:  # impossible; a test checks that by brute force
            del left[wanted]
            continue
        cases.append(found)
        for each in shown(found):
            left.pop(each, None)
    return tuple(sorted(cases, key=lambda c: (MATMULS.index(c.kernel), c.id)))


def merge_cases() -> list[tuple[str, str]]:
    """(dtype, scale): what a merge is tested with."""
    return [(dtype, scale) for dtype in DTYPES for scale in SCALES]


def product(kernel: str, dtype: str, scale: str) -> Iterator[Case]:
    """The full product of index pattern and shape class for one kernel, dtype and scale; the other factors, and the sizes
    of a class, take their values in turn."""
    turn = random.Random(f"{kernel}/{dtype}/{scale}")
    free = ("y_base", "layout", "ndim", "bits", "x", "groups")
    shapes = itertools.product(*(values(name) for name in CLASSES))
    for index, shape in itertools.product(FACTORS["index"], list(shapes)):
        start = {"kernel": kernel, "dtype": dtype, "scale": scale, "index": index}
        sizes = [
            [v for v in FACTORS[factor] if classify(v) == wanted]
            for wanted, (factor, classify) in zip(shape, CLASSES.values(), strict=True)
        ]
        fitting = [
            c for k, n, m in itertools.product(*sizes) if valid(c := start | {"k": k, "n": n, "m": m})
        ]  # some classes do not go together: they are too large, or their blocks another size's
        if fitting:
            rest = {name: turn.choice(FACTORS[name]) for name in free}
            c = turn.choice(fitting) | rest
            yield Case(**(c if valid(c) else c | {"ndim": 2}))
