"""Error by layer, without any data: ||D - P||^2 / ||D||^2 of every target weight, and its heat map.

D is the reference's change of the weight, P the profile's. Neither model is loaded: a tensor of each at a time. The map
has one panel per profile, one row per layer, one column per projection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ..codec.difference import Difference
from ..codec.parts import decode_all
from ..errors import InputError
from ..events import Count
from ..format.spec import Profile
from ..recipes.finetune import open_finetune
from .plot import pyplot_module, save
from .reference_model import Reference


def layer_errors(
    reference: Reference,
    base_name: str,
    profiles: Mapping[str, Profile],
    progress: Count | None = None,
) -> dict[str, dict[str, float]]:
    """{profile: {target weight: ||D - P||^2 / ||D||^2}}: 0 is exact, 1 as if the weight were left alone, more is worse.

    A weight that the reference leaves alone is not listed. Errors: `recipes.finetune.open_finetune`'s.
    """
    names, change = _changes(reference, base_name)
    out: dict[str, dict[str, float]] = {name: {} for name in profiles}
    for done, name in enumerate(names, start=1):
        delta = change(name)
        energy = float(np.vdot(delta, delta))
        for profile, kept in profiles.items():
            if energy:
                out[profile][name] = _error(delta, energy, kept, name)
        if progress is not None:
            progress(done, len(names))
    return out


def _error(delta: np.ndarray, energy: float, profile: Profile, name: str) -> float:
    tensor = profile.tensors.get(name)
    if tensor is None:
        return 1.0
    rest = delta - decode_all(tensor.parts, tensor.shape)
    return float(np.vdot(rest, rest)) / energy


def _changes(reference: Reference, base_name: str) -> tuple[list[str], Callable[[str], np.ndarray]]:
    """(target weights, reader of the reference's change of each)."""
    if reference.profile is not None:
        tensors = reference.profile.tensors
        names = [name for name, tensor in tensors.items() if len(tensor.shape) > 1 and _in_layer(name)]
        return names, lambda name: decode_all(tensors[name].parts, tensors[name].shape)
    tuned = open_finetune(reference.path, base_name)
    names = [name for name in tuned.names if name in tuned.targets]
    return names, lambda name: np.asarray(Difference(tuned.tuned_of(name), tuned.base_of(name)))


def _in_layer(name: str) -> bool:
    return any(part.isdigit() for part in name.split("."))


def grid(errors: Mapping[str, float]) -> tuple[list[str], list[int], np.ndarray]:
    """(projections in the model's order, layers, errors [layers, projections], NaN where there is none)."""
    cells: dict[tuple[int, str], float] = {}
    for name, error in errors.items():
        path = name.removesuffix(".weight").split(".")
        at = next(index for index, part in enumerate(path) if part.isdigit())
        cells[int(path[at]), ".".join(path[at + 1 :])] = error
    order = ("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj")
    rank = {name: index for index, name in enumerate(order)}
    columns = sorted({key for _, key in cells}, key=lambda key: (rank.get(key.split(".")[-1], len(order)), key))
    layers = sorted({layer for layer, _ in cells})
    values = np.full((len(layers), len(columns)), np.nan)
    for (layer, column), error in cells.items():
        values[layers.index(layer), columns.index(column)] = error
    return columns, layers, values


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
