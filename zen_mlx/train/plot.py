"""A run's log -> a plot of its losses, as PNG."""

from __future__ import annotations

from pathlib import Path

from .. import fsio
from ..fsio import Json

_SMOOTH = 0.9
_LOSS, _HELD, _BASE, _SHARE = "#2563eb", "#b45309", "#6b7280", "#d1d5db"


def plot_run(entries: list[Json], path: Path, title: str, base: float | None, profile: float | None) -> None:
    """Loss of each step and its running mean, looks at held-out rows, and lambda behind them.

    base, profile: held-out losses before and after the run, of all held-out rows.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    steps = [entry for entry in entries if entry.get("event") == "step" and entry.get("loss") is not None]
    looks = [entry for entry in entries if entry.get("event") == "evaluation" and entry.get("loss") is not None]
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    shade = axes.twinx()
    at = [entry["step"] for entry in steps]
    shade.fill_between(at, [entry["quantized_share"] for entry in steps], color=_SHARE, alpha=0.45, linewidth=0)
    shade.set_ylim(0, 1)
    shade.set_ylabel("lambda: share of the delta that is quantized", color=_BASE)
    axes.set_zorder(shade.get_zorder() + 1)
    axes.patch.set_visible(False)
    losses = [entry["loss"] for entry in steps]
    axes.plot(at, losses, ".", color=_LOSS, alpha=0.35, markersize=4)
    axes.plot(at, _running(losses), color=_LOSS, linewidth=2, label="loss of the steps (running mean)")
    if looks:
        held = [entry["loss"] for entry in looks]
        axes.plot([entry["step"] for entry in looks], held, "o-", color=_HELD, label="held-out loss, as stored")
    if base is not None:
        axes.axhline(base, color=_BASE, linestyle="--", linewidth=1, label=f"held-out, base: {base:.3f}")
    if profile is not None:
        axes.axhline(profile, color=_HELD, linestyle=":", linewidth=1.5, label=f"held-out, profile: {profile:.3f}")
    axes.set_xlabel("step")
    axes.set_ylabel("nats per supervised token")
    axes.set_title(title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
        shade.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    with fsio.publish(path, mode=fsio.PRIVATE_FILE_MODE) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    pyplot.close(figure)


def _running(losses: list[float]) -> list[float]:
    """The running mean, each loss weighing _SMOOTH as much as the one after it."""
    out: list[float] = []
    total = weight = 0.0
    for loss in losses:
        total, weight = _SMOOTH * total + loss, _SMOOTH * weight + 1
        out.append(total / weight)
    return out
