"""Times and bandwidth of this backend's sign kernels at the shapes of real models, beside their contenders', and a plot.

Every kernel a backend has is timed at every number of rows, so that the thresholds of `kernels.dispatch` can be read
from the table. One plane with row and column scales (the default of a profile) and a y_base, as a layer has it.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import mlx.core as mx

from .. import fsio
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


_COLORS = ("#2563eb", "#15803d", "#c2410c", "#7c3aed", "#0891b2", "#be185d")
_GREYS = ("#5f6368", "#9aa0a6")
_LINE = {"linewidth": 1.6, "markersize": 4}
_ACROSS = 2


def plot_kernels(document: Json, path: str | Path) -> None:
    """Time against rows, a panel a shape: kernels in colour, what they compete with dashed, and the time of reading the
    matrix at copy bandwidth dotted."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, NullLocator

    table, machine = document["tables"]["kernels"], document["machine"]
    panels: dict[str, list[Json]] = {}
    for row in table["launches"]:
        panels.setdefault(f"{row['label']} {row['shape']}".strip(), []).append(row)
    rows = sorted({row["m"] for row in table["launches"]})
    kernels = list(dict.fromkeys(row["name"] for row in table["launches"] if row["kernel"]))
    peers = list(dict.fromkeys(row["name"] for row in table["launches"] if not row["kernel"]))
    styles: dict[str, Json] = {
        name: {"color": _COLORS[i % len(_COLORS)], "marker": "o", **_LINE} for i, name in enumerate(kernels)
    }
    for i, name in enumerate(peers):
        styles[name] = {"color": _GREYS[i % 2], "marker": "s^vD"[i % 4], "linestyle": "--", **_LINE}
    across = min(_ACROSS, len(panels))
    down = -(-len(panels) // across)
    figure, grid = pyplot.subplots(
        down, across, figsize=(4.6 * across, 2.7 * down + 1.1), squeeze=False, sharex=True, layout="constrained"
    )
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, launches) in zip(grid.flat, panels.items(), strict=False):
        for name, style in styles.items():
            points = [(row["m"], row["seconds"]) for row in launches if row["name"] == name]
            axes.plot([m for m, _ in points], [seconds for _, seconds in points], label=name, **style)
        own = [row for row in launches if row["fastest"]]
        floor = [row["gb_per_s"] * row["seconds"] / table["copy_gb_per_s"] for row in own]
        axes.plot([row["m"] for row in own], floor, label="its bytes at copy speed", color="#202124", linestyle=":")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(rows, [str(m) for m in rows], fontsize=8)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(_time))
        axes.tick_params(axis="y", labelsize=8)
        axes.set_title(title, fontsize=9)
        axes.grid(axis="y", color="#e8eaed", linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    for axes in grid.flat[max(0, len(panels) - across) : len(panels)]:
        axes.set_xlabel("rows of x", fontsize=9)
        axes.tick_params(axis="x", labelbottom=True)
    figure.supylabel("time of a launch (lower is better)", fontsize=10)
    figure.suptitle(f"Sign kernels on {machine['name']} ({machine['backend']}, {table['dtype']})", fontsize=11)
    lines, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=min(5, len(labels)), fontsize=8, frameon=False)
    with fsio.publish(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    pyplot.close(figure)


def _time(seconds: float, _: object = None) -> str:
    for factor, unit in ((1e6, "us"), (1e3, "ms")):
        if seconds * factor < 999.5:
            return f"{seconds * factor:g} {unit}"
    return f"{seconds:g} s"
