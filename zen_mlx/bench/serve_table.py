"""Many profiles served by one model: speed, latency and memory, and what the same costs without a shared batch.

rate     tokens per second and latency by number of streams: the bare base, and a model that holds eight profiles
memory   bytes of slots against bytes of files, by number of profiles
people   the whitepaper's 5.2, computed for a 4B model
loading  how long a profile that is loaded keeps running streams waiting
peers    one process a model, and mlx-lm's server with adapters; not with `quick`
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..eval.plot import pyplot_module, save
from ..events import Progress
from ..fsio import Json
from .options import Options
from .serve_kernel import measure_kernel
from .serve_loading import measure_loading
from .serve_memory import compute_people, measure_memory
from .serve_peers import measure_peers
from .serve_rate import measure_rate

SIDES = {
    "bare": "the bare base",
    "base": "base, on a model with 8 profiles",
    "one": "one profile",
    "eight": "8 profiles",
}
_STYLES = {"bare": ("#5f6368", "--"), "base": ("#202124", "-"), "one": ("#2563eb", "-"), "eight": ("#c2410c", "-")}
_COLORS = ("#2563eb", "#15803d", "#7c3aed")


def measure(options: Options, report: Progress) -> Json:
    """The table's document: one entry a part, named as above."""
    return {
        "rate": measure_rate(options.quick, report),
        "kernel": measure_kernel(options.quick, report),
        "loading": measure_loading(options.quick, report),
        "memory": measure_memory(options.quick, report),
        "people": compute_people(),
        "peers": None if options.quick else measure_peers(report),
    }


def plot(document: Json, file: Path) -> None:
    """Tokens per second by streams, signs of the first model; memory by profiles."""
    table, machine = document["tables"]["serve"], document["machine"]
    pyplot = pyplot_module()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    _rates(left, [row for row in table["rate"] if row["kind"] == "sign"])
    _memory(right, table["memory"])
    for axes in (left, right):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(pyplot.NullLocator())
        axes.grid(color="#e8eaed", linewidth=0.8)
        axes.legend(fontsize=8, frameon=False)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.suptitle(f"Many profiles on {machine['name']} ({machine['backend']})", fontsize=11)
    save(figure, file)


def _rates(axes: Any, rows: list[Json]) -> None:
    rows = [row for row in rows if row["model"] == rows[0]["model"]]
    for side, (color, line) in _STYLES.items():
        points = [(row["streams"], row["tokens_per_s"]) for row in rows if row["side"] == side]
        axes.plot(*zip(*points, strict=True), label=SIDES[side], color=color, linestyle=line, marker="o", markersize=4)
    _ticks(axes, [row["streams"] for row in rows])
    axes.set_xlabel("streams")
    axes.set_ylabel("tokens per second (higher is better)")
    axes.set_title(f"{rows[0]['model']}, sign profiles" if rows else "", fontsize=10)


def _memory(axes: Any, rows: list[Json]) -> None:
    for color, kind in zip(_COLORS, dict.fromkeys(row["kind"] for row in rows), strict=False):
        for key, line, what in (("slot_bytes", "-", "slots"), ("file_bytes", ":", "files")):
            points = [(row["profiles"], row[key] / 1e6) for row in rows if row["kind"] == kind]
            axes.plot(*zip(*points, strict=True), label=f"{kind}: {what}", color=color, linestyle=line)
    _ticks(axes, [row["profiles"] for row in rows])
    axes.set_xlabel("profiles")
    axes.set_ylabel("MB (lower is better)")
    axes.set_title("SmolLM2-135M: memory of all profiles", fontsize=10)


def _ticks(axes: Any, values: list[int]) -> None:
    found = sorted(set(values))
    axes.set_xscale("log", base=2)
    axes.set_xticks(found, [str(value) for value in found])
