"""The tensors of a model folder as they lie in its files; their rows are read when they are used."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..codec.difference import BF16, OnDisk
from ..fsio import Json
from . import validate

_DTYPES: dict[str, tuple[mx.Dtype, np.dtype[np.generic]]] = {
    "F16": (mx.float16, np.dtype("<f2")),
    "F32": (mx.float32, np.dtype("<f4")),
    "BF16": (mx.bfloat16, BF16),
}


def stored(folder: Path, model: nn.Module) -> dict[str, Callable[[], OnDisk]]:
    """parameter name -> what opens it, for the parameters of `model`, `build(folder)`, that are a file's tensor as it is.

    Those are in f16, f32 or `codec.difference.BF16`. A parameter that mlx-lm makes out of what it reads
    (its graph is more than one Load), renames, or keeps in another dtype is not among them. Errors: ModelFormatError for a
    damaged file.
    """
    places = {name: place for file in validate.weight_files(folder) for name, place in _places(file).items()}
    out: dict[str, Callable[[], OnDisk]] = {}
    for name, array in dict(tree_flatten(model.parameters())).items():
        if name not in places:
            continue
        file, offset, shape, dtype = places[name]
        if (
            _DTYPES[dtype][0] == array.dtype
            and shape == tuple(array.shape)
            and shape
            and array.size
            and _is_load(array)
        ):
            out[name] = partial(OnDisk, file, offset, shape, _DTYPES[dtype][1])
    return out


def _places(file: Path) -> dict[str, tuple[Path, int, tuple[int, ...], str]]:
    """(file, offset in it, shape, safetensors dtype) of every tensor of one of `_DTYPES`."""
    validate.tensor_names(file)  # the package checks lengths and offsets
    with open(file, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        header: Json = json.loads(handle.read(length))
    header.pop("__metadata__", None)  # MLX writes null for none
    return {
        name: (file, 8 + length + entry["data_offsets"][0], tuple(entry["shape"]), entry["dtype"])
        for name, entry in header.items()
        if entry["dtype"] in _DTYPES
    }


def _is_load(array: mx.array) -> bool:
    """Whether `array`, not evaluated yet, is read from a file and nothing else."""
    graph = io.StringIO()
    mx.export_to_dot(graph, array)
    text = graph.getvalue()
    return text.count("label =") == 1 and '[label ="Load"' in text
