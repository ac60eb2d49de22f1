"""Plots as PNG files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .. import fsio
from ..errors import InputError
from ..fsio import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = ("#2563eb", "#15803d", "#c2410c", "#7c3aed", "#0891b2", "#be185d", "#a16207", "#4d7c0f")
_GREY = "#5f6368"
_OFFSETS = (
    (0, 7),
    (0, -13),
    (8, -3),
    (-8, -3),
    (9, 8),
    (-9, 8),
    (9, -13),
    (-9, -13),
    (0, 17),
    (0, -23),
)  # of a label, points


@dataclass(frozen=True)
class RatePoint:
    """One file: its codec family, 8 * file bytes / target elements, percent of the gain that it keeps, a short label."""

    family: str
    bits_per_weight: float
    retention: float
    label: str | None = None


def plot_rate(points: Iterable[RatePoint], path: str | Path, title: str = "", lora: str = "LoRA") -> None:
    """Retention against bits per weight (log), one line a family, the fine-tune at 100 %; families whose name contains
    `lora` are the ones to beat: grey and dashed. InputError without points, or for a rate that is not positive."""
    rows = list(points)
    for row in rows:
        if not row.bits_per_weight > 0:
            raise InputError("a rate must be positive", field="bits_per_weight", found=row.bits_per_weight)
    if not rows:
        raise InputError("there are no points to draw", field="points")
    pyplot = pyplot_module()
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    families = list(dict.fromkeys(row.family for row in rows))
    rivals = [family for family in families if lora.lower() in family.lower()]
    own = [family for family in families if family not in rivals]
    for family in families:
        mine = sorted((row for row in rows if row.family == family), key=lambda row: row.bits_per_weight)
        place = ([row.bits_per_weight for row in mine], [row.retention for row in mine])
        if family in rivals:
            style = {"color": _GREY, "linestyle": "--", "marker": "sDv^"[rivals.index(family) % 4], "zorder": 2}
        else:
            style = {"color": _COLORS[own.index(family) % len(_COLORS)], "marker": "o", "zorder": 3}
        axes.plot(*place, label=family, linewidth=1.5, markersize=5, **style)
    axes.axhline(100, color="#202124", linewidth=1, linestyle=":", label="the fine-tune itself", zorder=1)
    axes.set_xscale("log")
    low, high = min(row.bits_per_weight for row in rows), max(row.bits_per_weight for row in rows)
    axes.set_xlim(low / 1.3, high * 1.3)
    bottom, top = min(row.retention for row in rows), max(100.0, *(row.retention for row in rows))
    room = max(top - bottom, 1.0) * 0.08
    axes.set_ylim(bottom - room, top + room)
    ticks = [n * 10.0**e for e in range(-4, 3) for n in (1, 2, 5) if low / 1.3 <= n * 10.0**e <= high * 1.3]
    axes.set_xticks(ticks or [low], [f"{tick:g}" for tick in ticks or [low]])
    axes.xaxis.set_minor_locator(pyplot.NullLocator())
    axes.set_xlabel("bits per weight: 8 x file bytes / target weights (log)")
    axes.set_ylabel("retention: % of the fine-tune's gain")
    if title:
        axes.set_title(title, fontsize=10)
    _tidy(axes, grid="both")
    figure.legend(loc="outside lower center", ncols=min(4, len(families) + 1), fontsize=8, frameon=False)
    _label(figure, axes, rows)
    save(figure, path)


def _label(figure: Figure, axes: Axes, rows: Sequence[RatePoint]) -> None:
    """Write each label where it covers no point, no other label and, if it can be, no line; else it is left out."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()
    inside = axes.get_window_extent()
    spots = [axes.transData.transform((row.bits_per_weight, row.retention)) for row in rows]
    taken = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in spots]
    lines = [line.get_path().transformed(line.get_transform()) for line in axes.get_lines()]
    halo = [withStroke(linewidth=2, foreground="white")]
    for row in rows:
        if not row.label:
            continue
        places: list[tuple[int, int, Any, Any]] = []
        for dx, dy in _OFFSETS:
            side = "center" if dx == 0 else "left" if dx > 0 else "right"
            at: Json = {"xytext": (dx, dy), "textcoords": "offset points", "ha": side, "path_effects": halo}
            text = axes.annotate(row.label, (row.bits_per_weight, row.retention), fontsize=7, color="#3c4043", **at)
            text.set_in_layout(False)
            box = text.get_window_extent()
            fits = inside.contains(*box.min) and inside.contains(*box.max)
            if fits and not any(box.overlaps(one) for one in taken):
                crossed = sum(path.intersects_bbox(box, filled=False) for path in lines)
                places.append((crossed, len(places), text, box))
            else:
                text.remove()
        for _, _, text, box in sorted(places, key=lambda place: place[:2])[:1]:
            taken.append(box)
            places = [place for place in places if place[2] is not text]
        for _, _, text, _ in places:
            text.remove()


def pyplot_module() -> Any:
    """matplotlib.pyplot without a window."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _tidy(axes: Axes, grid: Literal["both", "x", "y"]) -> None:
    axes.grid(axis=grid, color="#e8eaed", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def save(figure: Figure, path: str | Path) -> None:
    """Publish the figure as PNG and let go of it."""
    with fsio.publish(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    pyplot_module().close(figure)


def plot_losses(report: Json, path: str | Path) -> None:
    """Bars of the losses in an `evaluate` report, base first, the reference last, each with its perplexity."""
    pyplot = pyplot_module()
    rows = [(row["profile"] or "base", row["loss"], row["perplexity"]) for row in report["results"]]
    if report["reference"] is not None:
        rows.append(("reference", report["reference"]["loss"], report["reference"]["perplexity"]))
    figure, axes = pyplot.subplots(figsize=(7, 0.6 * len(rows) + 1.6), layout="constrained")
    colors = ["#9aa0a6"] + ["#2563eb"] * (len(rows) - 1)
    if report["reference"] is not None:
        colors[-1] = "#15803d"
    bars = axes.barh([row[0] for row in rows], [row[1] for row in rows], color=colors, height=0.6)
    for bar, (_, loss, perplexity) in zip(bars, rows, strict=True):
        label = f" {loss:.3f}  (perplexity {perplexity:.1f})"
        axes.text(bar.get_width(), bar.get_y() + bar.get_height() / 2, label, va="center", fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, max(row[1] for row in rows) * 1.35)
    axes.set_xlabel("loss: mean nats per supervised token (lower is better)")
    data = report["data"]
    axes.set_title(f"{Path(data['path']).name}: {data['examples']} examples, {data['tokens']} tokens", fontsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    save(figure, path)
