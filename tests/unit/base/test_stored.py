"""Tensors as they lie in a model folder's files: the same numbers as MLX's, the files open while they are used."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from zen_mlx.adapter.targets import targets
from zen_mlx.base.build import build
from zen_mlx.base.stored import stored
from zen_mlx.codec.difference import BF16, Difference
from zen_mlx.encode.closed_form import encode
from zen_mlx.encode.lazy_weights import lazy_reader
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


def bits_of(array: mx.array) -> np.ndarray:
    return np.array(array.view({2: mx.uint16, 4: mx.uint32}[array.itemsize]))


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
def test_it_is_what_mlx_reads(tiny_model: Path, tmp_path: Path, dtype: Any) -> None:
    folder = folder_of(tiny_model, tmp_path / "m", dtype)
    found = stored(folder, build(folder))
    read = dict(tree_flatten(build(folder).parameters()))
    assert found.keys() == read.keys()
    for name, array in read.items():
        made = found[name]()
        assert made.shape == array.shape
        assert (made.dtype == BF16) == (dtype == mx.bfloat16)
        whole = Difference(made, np.zeros(made.shape, np.float32))
        expected = np.array(array.astype(mx.float32))
        assert np.array_equal(np.asarray(whole), expected)
        assert np.array_equal(np.asarray(made).view(f"u{made.dtype.itemsize}"), bits_of(array))
        if array.ndim == 2:
            assert np.array_equal(whole.reshape(2, -1, array.shape[1])[1][1:3], np.split(expected, 2)[1][1:3])


def test_what_is_made_of_a_tensor_is_not_it(tiny_model: Path) -> None:
    model = build(tiny_model)
    name, norm = "model.norm.weight", model.model.norm.weight
    assert name in stored(tiny_model, model)
    model.model.norm.weight = norm + 1
    assert name not in stored(tiny_model, model)
    model.model.norm.weight = norm.astype(mx.float16 if norm.dtype != mx.float16 else mx.float32)
    assert name not in stored(tiny_model, model)
    layer = model.model.layers[0].self_attn
    layer.q_proj = layer.q_proj.to_quantized(group_size=32, bits=4)
    assert "model.layers.0.self_attn.q_proj.weight" not in stored(tiny_model, model)


def test_a_short_file_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = folder_of(tiny_model, tmp_path / "m", mx.float32)
    model, file = build(folder), folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ModelFormatError, match=r"model\.safetensors"):
        stored(folder, model)


def test_encoding_what_is_on_disk_gives_the_same_tensors(tiny_model: Path, tmp_path: Path) -> None:
    folders = [folder_of(tiny_model, tmp_path / str(seed), mx.bfloat16, seed) for seed in (1, 2)]
    made = []
    for on_disk in (True, False):
        models = [build(folder) for folder in folders]
        readers = [
            lazy_reader(model, True, stored(folder, model) if on_disk else None)
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


def test_without_preadv_the_same_is_read(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tiny_model, tmp_path / "m", mx.float16)
    name, open_it = next(iter(stored(folder, build(folder)).items()))
    array = dict(tree_flatten(build(folder).parameters()))[name]
    monkeypatch.delattr("os.preadv", raising=False)
    assert np.array_equal(np.asarray(open_it()), np.array(array))


def test_a_file_that_becomes_shorter_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    folder = folder_of(tiny_model, tmp_path / "m", mx.float16)
    found = stored(folder, build(folder))
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    last = found["model.norm.weight"]()
    with pytest.raises(ModelFormatError, match="shrank") as caught:
        np.asarray(last)
    assert str(folder / "model.safetensors") in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/fd")
def test_a_file_is_closed_with_its_array(tiny_model: Path, tmp_path: Path) -> None:
    folder = folder_of(tiny_model, tmp_path / "m", mx.float32)
    model = build(folder)
    names, read = lazy_reader(model, True, stored(folder, model))

    def opened() -> int:
        found = 0
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # the one that lists the folder
                found += str(folder) in os.readlink(f"/proc/self/fd/{number}")
        return found

    del model
    before = opened()
    held = [read(name) for name in names[:3]]
    assert opened() == before + 3
    views = [array.reshape(-1) for array in held[:2]]
    del held
    assert opened() == before + 2
    assert views[0].shape[0]
    del views
    assert opened() == before
