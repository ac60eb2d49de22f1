"""Plots as PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import fsio


def plot_losses(report: dict[str, Any], path: str | Path) -> None:
    """Bars of the losses in an `evaluate` report, base first, the reference last, each with its perplexity."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [(row["profile"] or "base", row["loss"], row["perplexity"]) for row in report["results"]]
    if report["reference"] is not None:
        rows.append(("full fine-tune", report["reference"]["loss"], report["reference"]["perplexity"]))
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
    with fsio.publish(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    pyplot.close(figure)
