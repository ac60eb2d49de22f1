"""Heat map of `layer_errors`: one panel per profile, one row per layer, one column per projection."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import InputError
from .layer_errors import grid
from .plot import pyplot_module, save

_ACROSS = 3


def plot_layers(errors: Mapping[str, Mapping[str, float]], path: str | Path, title: str = "") -> None:
    """Draw `layer_errors` as PNG, all panels on one scale from 0 to the largest error. InputError where nothing changed."""
    panels = {name: grid(values) for name, values in errors.items() if values}
    if not panels:
        raise InputError("the reference changes no weight of the layers: there is nothing to draw", field="heatmap")
    pyplot = pyplot_module()
    top = max(float(np.nanmax(values)) for _, _, values in panels.values()) or 1.0
    across = min(_ACROSS, len(panels))
    down = -(-len(panels) // across)
    columns = max(len(names) for names, _, _ in panels.values())
    layers = max(len(numbers) for _, numbers, _ in panels.values())
    size = (max(4.0, 0.62 * columns + 0.6) * across + 1.2, max(2.6, 0.17 * layers + 1.3) * down + 0.6)
    figure, axes_grid = pyplot.subplots(down, across, figsize=size, squeeze=False, layout="constrained")
    for axes in axes_grid.flat[len(panels) :]:
        axes.set_visible(False)
    image = None
    for axes, (name, (names, numbers, values)) in zip(axes_grid.flat, panels.items(), strict=False):
        image = axes.imshow(values, aspect="auto", cmap="viridis", vmin=0, vmax=top)
        short = [each.split(".")[-1].removesuffix("_proj") for each in names]
        short = short if len(set(short)) == len(short) else names
        turn = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, short)) > 5 else {}
        axes.set_xticks(range(len(names)), short, fontsize=8, **turn)
        step = max(1, -(-len(numbers) // 16))
        axes.set_yticks(range(0, len(numbers), step), [str(number) for number in numbers[::step]], fontsize=8)
        axes.set_title(f"{name} (mean {np.nanmean(values):.3f})", fontsize=10)
        for side in axes.spines.values():
            side.set_visible(False)
    for axes in axes_grid[:, 0]:
        axes.set_ylabel("layer")
    bar = figure.colorbar(image, ax=axes_grid, shrink=0.9, pad=0.02)
    bar.set_label("lost share of the change: ||D - P||² / ||D||²", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    if title:
        figure.suptitle(title, fontsize=10)
    save(figure, path)
