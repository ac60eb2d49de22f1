"""Error by layer, without any data: ||D - P||^2 / ||D||^2 of every target weight, D the fine-tune's change, P the profile's.

D is the reference's change of the weight, P the profile's. Neither model is loaded: a tensor of each at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..codec.difference import Difference
from ..codec.parts import decode_all
from ..events import Count
from ..format.spec import Profile
from ..recipes.finetune import open_finetune
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
