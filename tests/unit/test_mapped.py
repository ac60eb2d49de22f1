"""Tensors as they lie in a model folder's files: the same numbers as MLX's, mapped and let go of again."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from zen_mlx.base.build import build
from zen_mlx.base.mapped import mapped
from zen_mlx.codec.difference import BF16, Difference
from zen_mlx.delta.encode import encode, lazy_reader
from zen_mlx.delta.targets import targets
from zen_mlx.errors import ModelFormatError


def folder_of(tiny_model: Path, folder: Path, dtype: Any, seed: int = 0) -> Path:
    """The tiny model with other weights, in `dtype`."""
    shutil.copytree(tiny_model, folder)
    for file in folder.glob("model*.safetensors"):
        file.unlink()
    mx.random.seed(seed)
    weights = tree_map(
        lambda array: (array + 0.01 * mx.random.normal(array.shape)).astype(dtype), build(tiny_model).parameters()
    )
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(weights)), metadata={"format": "mlx"})
    return folder


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
def test_it_is_what_mlx_reads(tiny_model: Path, tmp_path: Path, dtype: Any) -> None:
    folder = folder_of(tiny_model, tmp_path / "m", dtype)
    found = mapped(folder, build(folder))
    read = dict(tree_flatten(build(folder).parameters()))
    assert found.keys() == read.keys()
    for name, array in read.items():
        made = found[name]()
        assert made.shape == array.shape
        assert not made.flags.writeable
        assert (made.dtype == BF16) == (dtype == mx.bfloat16)
        whole = Difference(made, np.zeros(made.shape, np.float32))
        assert np.array_equal(np.asarray(whole), np.array(array.astype(mx.float32)))


def test_what_is_made_of_a_tensor_is_not_it(tiny_model: Path) -> None:
    model = build(tiny_model)
    name, norm = "model.norm.weight", model.model.norm.weight
    assert name in mapped(tiny_model, model)
    model.model.norm.weight = norm + 1
    assert name not in mapped(tiny_model, model)
    model.model.norm.weight = norm.astype(mx.float16 if norm.dtype != mx.float16 else mx.float32)
    assert name not in mapped(tiny_model, model)
    layer = model.model.layers[0].self_attn
    layer.q_proj = layer.q_proj.to_quantized(group_size=32, bits=4)
    assert "model.layers.0.self_attn.q_proj.weight" not in mapped(tiny_model, model)


def test_a_short_file_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = folder_of(tiny_model, tmp_path / "m", mx.float32)
    model, file = build(folder), folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ModelFormatError, match=r"model\.safetensors"):
        mapped(folder, model)


def test_encoding_what_is_mapped_gives_the_same_tensors(tiny_model: Path, tmp_path: Path) -> None:
    folders = [folder_of(tiny_model, tmp_path / str(seed), mx.bfloat16, seed) for seed in (1, 2)]
    made = []
    for on_disk in (True, False):
        models = [build(folder) for folder in folders]
        readers = [
            lazy_reader(model, True, mapped(folder, model) if on_disk else None)
            for folder, model in zip(folders, models, strict=True)
        ]
        (names, base_of), (_, tuned_of) = readers
        made.append(encode(names, base_of, tuned_of, targets=targets(models[0]), scale="row")[0])
    assert made[0].keys() == made[1].keys()
    for name, tensor in made[0].items():
        for part, other in zip(tensor.parts, made[1][name].parts, strict=True):
            for field in ("bits", "scales", "values"):
                a, b = getattr(part, field, None), getattr(other, field, None)
                assert (a is None) == (b is None)
                assert all(
                    np.array_equal(x, y)
                    for x, y in zip(
                        a if field == "scales" and a else [a], b if field == "scales" and b else [b], strict=True
                    )
                )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_a_mapping_goes_with_its_array(tiny_model: Path, tmp_path: Path) -> None:
    folder = folder_of(tiny_model, tmp_path / "m", mx.float32)
    model = build(folder)
    names, read = lazy_reader(model, True, mapped(folder, model))

    def maps() -> int:
        return Path("/proc/self/maps").read_text().count(str(folder))

    held = [read(name) for name in names[:3]]
    assert maps() == 4  # and the next one, which is being read
    assert held[0].size
    del held
    assert maps() == 1
    for name in names[3:]:
        read(name)
    assert maps() == 0
