"""Times and bandwidth of this backend's sign kernels at the shapes of real models, beside their contenders'.

Every kernel a backend has is timed at every number of rows, so that the thresholds of `kernels.dispatch` can be read
from the table. One plane with row and column scales (the default of a profile) and a y_base, as a layer has it.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Mapping, Sequence
from functools import partial

import mlx.core as mx

from ..events import Progress
from ..fsio import Json
from ..kernels import reference
from ..kernels.dispatch import backend, run
from ..kernels.operands import Launch, SignOperand
from . import peers
from .clock import copy_bytes_per_s, evaluation, launch_s, race, ratio
from .decode import measure_decode
from .options import Options, Shape

_SMALL, _LARGE = "SmolLM2-135M", "Qwen3-4B"
SHAPES = (
    Shape(f"{_SMALL} q,k,v", (576, 192, 192), 576),
    Shape(f"{_SMALL} o", (576,), 576),
    Shape(f"{_SMALL} gate,up", (1536, 1536), 576),
    Shape(f"{_SMALL} down", (576,), 1536),
    Shape(f"{_LARGE} q,k,v", (4096, 1024, 1024), 2560),
    Shape(f"{_LARGE} o", (2560,), 4096),
    Shape(f"{_LARGE} gate,up", (9728, 9728), 2560),
    Shape(f"{_LARGE} down", (2560,), 9728),
    Shape("square", (2560,), 2560),
    Shape("square", (4096,), 4096),
)
ROWS = (1, 2, 4, 8, 16, 64, 257)
_QUICK_SHAPES = (SHAPES[1], SHAPES[-2])
_QUICK_ROWS = (1, 8, 64)
_ROUNDS, _QUICK_ROUNDS = 5, 3
_SLOW_S = 0.5  # who needs longer for a call sits out more rows: only its time would grow


def measure(options: Options, report: Progress) -> Json:
    """The table's document: "copy_gb_per_s" and "launch_s" of this machine, "launches" (a row a shape, M and contender)
    and "decode" (a row a whole model and way of carrying a profile; none where shapes or rows were asked for)."""
    shapes = options.shapes or (_QUICK_SHAPES if options.quick else SHAPES)
    rows = options.rows or (_QUICK_ROWS if options.quick else ROWS)
    rounds = _QUICK_ROUNDS if options.quick else _ROUNDS
    report("copy bandwidth", 0, None)
    copy = copy_bytes_per_s(rounds)
    kernels = choices()
    launches: list[Json] = []
    for index, shape in enumerate(shapes):
        report("kernels", index, len(shapes))
        launches += measure_shape(shape, rows, kernels, rounds, copy)
        mx.clear_cache()
    report("kernels", len(shapes), len(shapes))
    whole = options.shapes is None and options.rows is None
    return {
        "copy_gb_per_s": copy / 1e9,
        "launch_s": launch_s(rounds),
        "dtype": str(peers.weight_dtype()).removeprefix("mlx.core."),
        "rounds": rounds,
        "launches": launches,
        "decode": measure_decode(options.quick, report) if whole else [],
    }


def choices() -> dict[str, Launch]:
    """Every way this backend has to compute a launch, by name: its own kernels, then MLX's operations."""
    found: dict[str, Launch] = {}
    name = f"zen_mlx.kernels.{backend()}"
    try:
        found |= importlib.import_module(name).KERNELS
    except ImportError as error:  # its kernels are not for this machine, or what they need is not installed
        if error.name is not None and error.name.startswith("zen_mlx") and error.name != name:
            raise
    found["unpack"] = partial(_reference, True)
    if backend() != "cuda":  # MLX has no 1-bit product there
        found["quantized"] = partial(_reference, False)
    return found


def _reference(
    unpack: bool, x: mx.array, signs: Sequence[SignOperand], y_bases: Sequence[mx.array | None], slots: mx.array | None
) -> list[mx.array]:
    return [
        reference.sign_matmul(x, **sign._asdict(), slots=slots, y_base=y, unpack=unpack)
        for sign, y in zip(signs, y_bases, strict=True)
    ]


def measure_shape(
    shape: Shape, rows: Sequence[int], kernels: Mapping[str, Launch], rounds: int, copy: float
) -> list[Json]:
    """Rows of "launches" for one shape; `copy` in bytes a second. "over_NAME": our time / that base matmul's;
    "mlx_1bit_speedup", "triton_speedup": their time / ours; None where there is no such thing to compare with."""
    planes = _planes(shape)
    bases = peers.base_weights(shape)
    one_bit = peers.mlx_one_bit(planes, shape.k)
    slow: set[str] = set()
    out = []
    for m in rows:
        keys = peers.random_keys(m)
        x = mx.random.normal((m, shape.k), key=next(keys)).astype(peers.weight_dtype())
        y_bases = [mx.random.normal((m, n), key=next(keys)).astype(x.dtype) for n in shape.outputs]
        mx.eval(x, y_bases)
        contenders = [
            evaluation(name, len(planes), partial(_call, launch, x, planes, y_bases))
            for name, launch in kernels.items()
        ]
        others = [maker(x) for maker in (*bases.values(), one_bit) if maker is not None]
        triton = peers.triton_peer(shape, m)
        everyone = [*contenders, *others, *([] if triton is None else [triton])]
        times = race([one for one in everyone if one.name not in slow], rounds)
        fastest = min(kernels.keys() & times.keys(), key=lambda name: statistics.median(times[name]))
        slow |= {name for name, seconds in times.items() if statistics.median(seconds) > _SLOW_S} - {fastest}
        for name, seconds in times.items():
            own = name in kernels
            moved = _bytes(shape, m, name, x.itemsize)
            row = {
                "label": shape.label,
                "shape": str(shape),
                "m": m,
                "name": name,
                "kernel": own,
                "fastest": name == fastest,
                "seconds": statistics.median(seconds),
                "gb_per_s": moved / statistics.median(seconds) / 1e9,
                "copy_percent": 100 * moved / statistics.median(seconds) / copy,
            }
            for base, peer in ((base, f"base {base}") for base in bases):
                row[f"over_{base}"] = ratio(seconds, times[peer]) if own and peer in times else None
            for key, peer in (("mlx_1bit_speedup", "MLX 1-bit"), ("triton_speedup", "Triton")):
                row[key] = ratio(times[peer], seconds) if own and peer in times else None
            out.append(row)
    return out


def _call(
    launch: Launch, x: mx.array, planes: list[list[SignOperand]], y_bases: list[mx.array], i: int
) -> Sequence[mx.array]:
    return run(launch, x, planes[i], y_bases)


def _planes(shape: Shape) -> list[list[SignOperand]]:
    """Distinct random planes of that shape, more than a cache holds; scales of about a real delta's size."""
    keys = peers.random_keys(0)
    words = -(-shape.k // 32)
    col = mx.random.uniform(0.5, 1.5, (1, shape.k), key=next(keys))
    rows = [mx.random.uniform(1e-4, 2e-4, (1, n), key=next(keys)) for n in shape.outputs]
    planes = []
    for _ in range(peers.distinct(4 * words * sum(shape.outputs))):
        pairs = zip(shape.outputs, rows, strict=True)
        planes.append([SignOperand(peers.random_words(keys, 1, n, words), row, col) for n, row in pairs])
        mx.eval(planes[-1])
    return planes


def _bytes(shape: Shape, m: int, name: str, item: int) -> int:
    """What a launch must move at least: its weights and scales, x, y_base where it takes one, y."""
    n, k = sum(shape.outputs), shape.k
    if name.startswith("base"):
        return (n * k // 2 + 2 * item * n * k // 64 if "4-bit" in name else item * n * k) + m * item * (k + n)
    packed = 4 * n * -(-k // 32)
    if name in ("MLX 1-bit", "Triton"):
        return packed + m * item * (k + n)
    return packed + 4 * (n + k) + m * item * (k + 2 * n)
