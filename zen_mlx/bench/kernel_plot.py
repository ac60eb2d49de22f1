"""Plots of bench tables as PNG files."""

from __future__ import annotations

from pathlib import Path

from .. import fsio
from ..fsio import Json

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
