"""One tiny model of each family, from a folder on disk, with a profile of every kind of part, against its dense sums."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from tests.families import FAMILIES, build_model, config_of, save_model
from zen_mlx.adapter.attach import Resident, attach, detach, switch
from zen_mlx.adapter.targets import array_shape, arrays, can_grow, model_count, target_count, targets
from zen_mlx.base.load import load_model
from zen_mlx.codec.factor_encode import encode_svd
from zen_mlx.codec.parts import DensePart, Part, RowsPart, decode_all, encode_sign
from zen_mlx.config import TrainOptions
from zen_mlx.data.loss import logits_at_labels
from zen_mlx.data.tokens import TokenRow
from zen_mlx.format.read import read
from zen_mlx.format.spec import DeltaTensor, Profile
from zen_mlx.format.write import write
from zen_mlx.train.gradients import step_gradients
from zen_mlx.train.methods import method_of
from zen_mlx.train.trainable import QuantizationRamp, trainable_layers, trained_arrays

SIZE = 0.02
IDS = mx.array([[1, 5, 9, 200, 17, 3, 77, 8, 64, 31, 2]])
MORE = 3  # tokens added where the vocabulary can grow


@pytest.fixture(autouse=True)
def plain() -> Iterator[None]:
    """Compiled functions are built by a C++ compiler on the CPU: seconds each."""
    mx.disable_compile()
    yield
    mx.enable_compile()


def profile_of(model: nn.Module) -> Profile:
    """Every parameter changes: targets by signs, factors or both in turn, embeddings and heads by rows, the rest dense."""
    rng = np.random.default_rng(5)
    wanted = targets(model)
    tensors: dict[str, DeltaTensor] = {}
    at = 0
    for name, module, key, array in arrays(model):
        shape = array_shape(module, key)
        if not mx.issubdtype(array.dtype, mx.floating):
            continue
        delta = (rng.standard_normal(shape) * SIZE).astype(np.float32)
        parts: tuple[Part, ...] = (DensePart(delta.astype(np.float16)),)
        if name in wanted:
            signs = encode_sign(delta, ("rowcol", "row", "tensor", "col")[at % 4])
            rank = min(2, *shape[-2:])
            factor = encode_svd(delta, ((4, rank),))
            parts = (tuple(signs), (factor,), (factor, *signs))[at % 3]
            at += 1
        elif can_grow(name, module, key) and shape[0] == 258:
            shape = (258 + MORE, shape[1])
            values = (rng.standard_normal((2, shape[1])) * SIZE).astype(np.float16)
            parts = (RowsPart(np.array([3, 258 + MORE - 1], "<u4"), values),)
        tensors[name] = DeltaTensor(shape, parts)
    return Profile(
        info={"name": "all"},
        base={},
        metrics={},
        target_count=target_count(model),
        model_count=model_count(model),
        tensors=tensors,
    )


def put_sums(model: nn.Module, profile: Profile) -> None:
    """Every weight that the profile names becomes W + D, in NumPy."""
    places = {name: (module, key) for name, module, key, _ in arrays(model)}
    for name, tensor in profile.tensors.items():
        module, key = places[name]
        value = decode_all(tensor.parts, tensor.shape)
        old = np.array(module[key])
        value = value.reshape(old.shape) if value.size == old.size else value
        if value.shape == old.shape:
            value = value + old
        else:
            value[: len(old)] += old
        module[key] = mx.array(value)


def logits(model: nn.Module) -> np.ndarray:
    return np.array(model(IDS).astype(mx.float32))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_profile_on_a_family(family: str, tiny_model: Path, tmp_path: Path) -> None:
    """Loaded from disk; unmerged, merged, switched, detached; loss at labels and gradients of latents."""
    config = config_of(family)
    folder = save_model(build_model(config), config, tmp_path / family, tiny_model)
    model, twin = load_model(folder), load_model(folder)
    before = {name: id(value) for name, value in tree_flatten(model.parameters())}
    base = logits(model)
    written = profile_of(model)
    write(written, tmp_path / "all.bitdelta")
    profile = read(tmp_path / "all.bitdelta")
    put_sums(twin, profile)
    wanted = logits(twin)
    assert np.isfinite(wanted).all()
    limit = 2e-4 * np.abs(wanted).max()
    assert np.abs(wanted[..., :258] - base).max() > 4 * limit
    resident = Resident.from_profile(profile)
    for mode in ("unmerged", "merged"):
        attach(model, resident, mode)
        np.testing.assert_allclose(logits(model), wanted, atol=limit)
        switch(model, None)
        assert np.array_equal(logits(model), base)
        switch(model, resident)
    detach(model)
    assert {name: id(value) for name, value in tree_flatten(model.parameters())} == before

    chosen = mx.array([2, 7, 9])
    with logits_at_labels(model) as forward:
        np.testing.assert_allclose(np.array(forward(IDS, chosen)), base[0, [2, 7, 9]], atol=limit)


@pytest.mark.parametrize("method", ["sign", "factor"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_a_family(family: str, method: str) -> None:
    """Every target gets a gradient that is a number, as large as the array that is trained; the model is as it was."""
    model = build_model(config_of(family))
    modules = {name: (id(module), type(module)) for name, module in model.named_modules()}
    base, wanted = logits(model), set(targets(model))
    options = TrainOptions(steps=1, method=method, bits_per_weight=4 if method == "factor" else None)
    method, share = method_of(options, model), QuantizationRamp()
    rows = [TokenRow(tuple(IDS[0].tolist()), tuple(at > 3 for at in range(IDS.size)))]
    with trainable_layers(model, lambda name, layer, shape: method.layer(name, layer, shape, share)) as layers:
        assert set(layers) == wanted
        loss, tokens, grads = step_gradients(model, rows)
        trained = trained_arrays(layers)
    assert 0 < loss / tokens < 50
    assert {name: grad.shape for name, grad in grads.items()} == {name: a.shape for name, a in trained.items()}
    assert all(mx.isfinite(grad).all().item() for grad in grads.values())
    moved = {name.split("/")[0] for name, grad in grads.items() if grad.any().item()}
    assert moved, family
    assert {name: (id(module), type(module)) for name, module in model.named_modules()} == modules
    assert np.array_equal(logits(model), base)


def test_the_table_names_every_family() -> None:
    table = (Path(__file__).parents[2] / "docs" / "models.md").read_text().partition("| family |")[2]
    assert [family for family in FAMILIES if not re.search(rf"[ *|]{family}[ *,]", table)] == []
