"""Factors: the quantizer in the loop, what is stored of it, the ranks that fit, and whole runs on a tiny model."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models.switch_layers import SwitchLinear

from zen_mlx.adapter.attach import Resident, attach, detach, targets
from zen_mlx.base.load import load_model
from zen_mlx.codec.factor import FactorPart
from zen_mlx.codec.pack import quantize
from zen_mlx.codec.parts import decode_all
from zen_mlx.config import BitDeltaConfig, TrainOptions
from zen_mlx.data.tokens import TokenRow
from zen_mlx.encode.byte_budget import BITS, ranks
from zen_mlx.errors import ConfigError
from zen_mlx.format.read import read
from zen_mlx.manager import ZenPersonalizationManager
from zen_mlx.train.factor import encode_factors, factor_layer, step_of, straight_through
from zen_mlx.train.methods import FactorMethod, SignMethod
from zen_mlx.train.rank_allocation import allocate_ranks
from zen_mlx.train.trainable import QuantizationRamp, array_name, put_arrays, trainable_layers
from zen_mlx.train.trainer import StepReport, method_of, train

FAST = BitDeltaConfig(learning_rate_scale=1.0)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_step_is_that_of_least_squares(bits: int) -> None:
    """For a normal column the fixed step loses little more than the best one that a search finds."""
    columns = np.random.default_rng(0).standard_normal((4, 4096)).astype(np.float32) * 3e-3
    quantized = np.array(straight_through(mx.array(columns), bits, 1.0))
    steps, codes = quantize(columns * 1e3, bits)  # float16 steps want numbers of ordinary size
    best = (codes.astype(np.float32) - (2**bits - 1) / 2) * steps.astype(np.float32)[:, None] / 1e3
    assert np.square(quantized - columns).sum() <= (1.1 if bits == 8 else 1.02) * np.square(best - columns).sum()
    levels = quantized / np.array(step_of(mx.array(columns), bits))
    np.testing.assert_allclose(levels, np.round(levels - 0.5) + 0.5, atol=1e-3)
    assert len(np.unique(np.round(levels[0], 2))) <= 2**bits


def test_the_gradient_passes_straight_through() -> None:
    columns, weight = mx.random.normal((3, 40)), mx.random.normal((3, 40))
    for share in (0.0, 0.5, 1.0):
        gradient = mx.grad(lambda c, share=share: (straight_through(c, 4, share) * weight).sum())(columns)
        assert mx.allclose(gradient, weight)
    half = straight_through(columns, 4, 0.5)
    assert mx.allclose(half, (columns + straight_through(columns, 4, 1.0)) / 2, atol=1e-6)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("kind", ["linear", "quantized", "experts"])
def test_what_is_stored_is_what_the_layer_computes(kind: str, scaled: bool) -> None:
    mx.random.seed(1)
    groups = ((8, 3), (4, 5), (2, 4))
    shape: tuple[int, ...] = (40, 64)
    base: nn.Module = nn.Linear(64, 40)
    if kind == "quantized":
        base = base.to_quantized(group_size=32, bits=4)
    elif kind == "experts":
        base, shape = SwitchLinear(64, 40, 3), (3, 40, 64)
    share = QuantizationRamp()
    layer: Any = factor_layer("w", base, shape, groups, share, 0, scaled)
    for side in ("u", "v") if scaled else ():
        layer[side] = 0.05 * mx.random.normal(layer[side].shape)
    arrays = {array_name("w", key): layer[key] for key in layer if isinstance(layer[key], mx.array)}
    assert encode_factors(arrays, {"w": shape}) == {}  # U starts at 0: nothing has changed
    for bits, rank in groups:
        layer[f"left{bits}"] = mx.random.normal((*shape[:-2], rank, 40)) * 1e-6
        arrays[array_name("w", f"left{bits}")] = layer[f"left{bits}"]
    tensor = encode_factors(arrays, {"w": shape})["w"]
    assert ((tensor.parts[0].u is not None), (tensor.parts[0].v is not None)) == (scaled, scaled)
    delta = mx.array(decode_all(tensor.parts, shape))
    share.value = 1.0
    x = mx.random.normal((5, 1, 64))
    if kind == "experts":
        experts = mx.array([[0], [2], [1], [1], [0]])
        found, plain = layer(x[:, None], experts), base(x[:, None], experts)
        want = mx.einsum("bpk,bnk->bpn", x, delta[experts[:, 0]])[:, None]
    else:
        found, plain, want = layer(x), base(x), x @ delta.T
    gap = mx.abs(found - plain - want).max()
    assert gap <= 2e-3 * mx.abs(want).max() + 4e-7 * mx.abs(plain).max()  # steps in float16; a tiny delta beside y


SHAPES = {f"model.layers.{i}.{n}.weight": s for i in range(8) for n, s in (("q", (576, 576)), ("up", (1536, 576)))}

SMALL = {name: (n // 4, k // 4) for name, (n, k) in SHAPES.items()}


@pytest.mark.parametrize("bits", [0.03, 0.05, 0.15, 0.33, 1.0, 3.5])
def test_ranks_fill_what_is_asked_for(bits: float, tmp_path: Path) -> None:
    from zen_mlx.codec.factor_encode import encode_factor
    from zen_mlx.format.spec import DeltaTensor, Profile
    from zen_mlx.format.write import write

    shapes = SMALL if bits > 1 else SHAPES
    found = ranks(shapes, bits)
    random = np.random.default_rng(0)
    tensors = {}
    for name, rank in found.items():
        n, k = shapes[name]
        assert 1 <= rank <= min(n, k)
        sides = [random.standard_normal((length, rank)).astype(np.float32) for length in (n, k)]
        tensors[name] = DeltaTensor(shapes[name], (encode_factor(*sides, [[BITS, rank]]),))
    weights = sum(prod(shape) for shape in shapes.values())
    facts = {"info": {"name": "p"}, "base": {"model": "m"}, "metrics": {"seed": 0}}
    file = tmp_path / "p.bitdelta"
    write(Profile(**facts, target_count=weights, model_count=weights, tensors=tensors), file)
    used = read(file).bits_per_weight
    assert used is not None
    assert used <= bits
    if bits > 0.1 and bits <= 1:
        assert used >= 0.93 * bits


def test_too_few_bits_say_how_many_it_takes() -> None:
    with pytest.raises(ConfigError, match="too few bits for factors of rank 1") as caught:
        ranks(SMALL, 0.02)
    least = float(str(caught.value.expected).split()[-1])
    assert set(ranks(SMALL, least + 0.001).values()) == {1}


def test_options_of_the_methods(tiny_model: Path) -> None:
    model = load_model(tiny_model)
    with pytest.raises(ConfigError, match="sign or factor"):
        TrainOptions(method="lora")
    with pytest.raises(ConfigError, match=r"0\.02 to 4"):
        TrainOptions(method="factor", bits_per_weight=5)
    with pytest.raises(ConfigError, match="more bits") as caught:
        method_of(TrainOptions(bits_per_weight=0.5), model)
    assert "--method factor" in (caught.value.hint or "")
    assert isinstance(method_of(TrainOptions(bits_per_weight=2.1), model), SignMethod)
    assert isinstance(method_of(TrainOptions(method="factor", bits_per_weight=4), model), FactorMethod)
    assert isinstance(method_of(TrainOptions(factor_scales=True, bits_per_weight=4), model), FactorMethod)
    with pytest.raises(ConfigError, match="scales anyway"):
        TrainOptions(method="sign", factor_scales=True)


def rows_of(count: int) -> list[TokenRow]:
    rng = np.random.default_rng(2)
    marks = (False,) + (True,) * 11
    return [TokenRow(tuple(int(t) for t in rng.integers(0, 40, 12)), marks) for _ in range(count)]


@pytest.mark.parametrize("scaled", [False, True])
def test_a_run_learns_and_the_file_holds_its_last_step(scaled: bool, tiny_model: Path) -> None:
    model = load_model(tiny_model)
    model.set_dtype(mx.float32)
    options = TrainOptions(
        steps=24, batch_size=4, method="factor", bits_per_weight=4, factor_scales=scaled, config=FAST
    )
    reports: list[StepReport] = []
    result = train(model, rows_of(4), options, on_event=reports.append)
    assert result.losses[-1] < result.losses[0] - 0.3
    assert [r.quantized_share for r in reports] == [0.0] * 6 + [1.0] * 18
    method, share = method_of(options, model), QuantizationRamp()
    share.value = 1.0
    tokens = mx.array([[5, 6, 7, 8]])
    with trainable_layers(model, lambda name, base, shape: method.layer(name, base, shape, share)) as layers:
        put_arrays(layers, result.latents)
        trained = model(tokens)
        mx.eval(trained)
    tensors = method.encode(result.latents)
    assert set(tensors) == set(targets(model))
    for tensor in tensors.values():
        (part,) = tensor.parts
        assert isinstance(part, FactorPart)
        for scale in (part.u, part.v) if scaled else ():
            assert scale is not None
            assert (scale > 0).all()
            assert np.ptp(scale.astype(np.float32)) > 1e-4, "trained"
        assert scaled or (part.u is None and part.v is None)
    from zen_mlx.format.spec import Profile

    profile = Profile(info={}, base={}, metrics={}, target_count=1, model_count=1, tensors=tensors)
    attach(model, Resident.from_profile(profile))
    np.testing.assert_allclose(np.array(model(tokens)), np.array(trained), atol=5e-3 * float(mx.abs(trained).max()))
    detach(model)


def test_through_the_manager_and_resumed(tiny_model: Path) -> None:
    """A run that is stopped and goes on ends in the same bytes; the header says how it was made."""
    import os
    import signal

    from zen_mlx.train.trainer import Interrupted

    manager = ZenPersonalizationManager(str(tiny_model), config=FAST)
    texts = [{"prompt": f"{i}?", "completion": f"It is {i * i}."} for i in range(6)]
    settings: dict[str, Any] = {"steps": 6, "batch_size": 2, "method": "factor", "bits_per_weight": 4, "valid": "none"}

    def stop(event: Any) -> None:
        if isinstance(event, StepReport) and event.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    whole = read(manager.create_profile("whole", texts, **settings).path)
    with pytest.raises(Interrupted):
        manager.create_profile("stopped", texts, **settings, on_event=stop)
    resumed = read(manager.create_profile("stopped", texts, **settings, resume=True).path)
    assert whole.info["method"] == resumed.info["method"] == "factor"
    assert whole.tensors.keys() == resumed.tensors.keys()
    for name, tensor in whole.tensors.items():
        assert np.array_equal(
            decode_all(tensor.parts, tensor.shape), decode_all(resumed.tensors[name].parts, tensor.shape)
        )


@pytest.mark.parametrize(("bits", "count"), [(None, 1), (1.4, 1), (3.0, 2), (4.0, 3)])
def test_as_many_planes_as_fit(bits: float | None, count: int) -> None:
    shapes = {f"layers.{i}.w.weight": (256, 256) for i in range(4)}
    assert SignMethod(BitDeltaConfig(), 0, bits, shapes).planes == count


def test_a_file_of_planes_keeps_to_its_size(tiny_model: Path) -> None:
    manager = ZenPersonalizationManager(str(tiny_model))
    report = manager.create_profile("two", ["some words to learn", "and some more"], steps=2, bits_per_weight=4.0)
    assert report.bits_per_weight <= 4.0
    assert {len(tensor.parts) for tensor in read(report.path).tensors.values()} == {2}


def product(arrays: dict[str, mx.array], name: str) -> np.ndarray:
    return sum(
        np.array(arrays[key]).T @ np.array(arrays[key.replace("/left", "/right")])
        for key in sorted(arrays)
        if key.startswith(f"{name}/left")
    )


def learned(sizes: dict[str, float]) -> tuple[dict[str, mx.array], dict[str, tuple[int, ...]]]:
    """Factors of rank 12 of four layers of 128 x 128, each `sizes` large."""
    rng = np.random.default_rng(0)
    arrays = {}
    for name, size in sizes.items():
        arrays[f"{name}/left4"] = mx.array((size * rng.standard_normal((12, 128))).astype(np.float32))
        arrays[f"{name}/right4"] = mx.array(rng.standard_normal((12, 128)).astype(np.float32))
    return arrays, dict.fromkeys(sizes, (128, 128))


def test_bits_go_to_the_layers_that_learned() -> None:
    arrays, shapes = learned({"m.0.a.weight": 1.0, "m.0.b.weight": 0.2, "m.1.a.weight": 0.01, "m.1.b.weight": 0.0})
    settled = allocate_ranks(arrays, shapes, 1.2, False)
    assert settled is not None
    spent = dict.fromkeys(shapes, 0)
    for key, value in settled.items():
        name, _, side = key.partition("/")
        if side.startswith("left"):
            spent[name] += int(side.removeprefix("left")) * value.shape[0]
    first, second, third, last = spent.values()
    assert first >= second >= third
    assert first > third
    assert last == 0
    for key, value in settled.items():
        if "right" in key:
            np.testing.assert_allclose(np.square(np.array(value)).sum(axis=1), 1, rtol=1e-4)


def test_what_is_kept_is_the_largest_part_of_the_product() -> None:
    arrays, shapes = learned({"m.0.a.weight": 1.0, "m.0.b.weight": 1.0})
    whole = allocate_ranks(arrays, shapes, 4.0, False)
    assert whole is not None
    np.testing.assert_allclose(product(whole, "m.0.a.weight"), product(arrays, "m.0.a.weight"), atol=1e-3)
    less = allocate_ranks(arrays, shapes, 1.2, False)
    assert less is not None
    exact = product(arrays, "m.0.a.weight")
    rank = sum(value.shape[0] for key, value in less.items() if key.startswith("m.0.a.weight/left"))
    values = np.linalg.svd(exact, compute_uv=False)
    lost = np.linalg.norm(product(less, "m.0.a.weight") - exact)
    assert rank < 12
    assert lost == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), rel=1e-3)


def test_experts_share_their_groups_and_scales_stay() -> None:
    rng = np.random.default_rng(1)
    left, right = (mx.array(rng.standard_normal((3, 6, 64)).astype(np.float32)) for _ in range(2))
    u = mx.array(rng.standard_normal((3, 64)).astype(np.float32))
    arrays = {"w.weight/left4": left, "w.weight/right4": right, "w.weight/u": u, "w.weight/v": u}
    settled = allocate_ranks(arrays, {"w.weight": (3, 64, 64)}, 4.0, True)
    assert settled is not None
    assert settled["w.weight/u"] is u
    assert {value.shape[0] for value in settled.values()} == {3}


def test_nothing_learned_is_nothing_to_share_out() -> None:
    arrays, shapes = learned({"m.0.a.weight": 0.0, "m.0.b.weight": 0.0})
    assert allocate_ranks(arrays, shapes, 1.0, False) is None


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("bits", [1.5, 2.5, 4.0])
def test_the_file_of_a_run_fits(steps: int, bits: float, tiny_model: Path) -> None:
    manager = ZenPersonalizationManager(str(tiny_model), config=FAST)
    texts = [f"{i} and {i} is {2 * i}" for i in range(8)]
    report = manager.create_profile(
        "p", texts, steps=steps, batch_size=4, bits_per_weight=bits, factor_scales=True, valid="none"
    )
    assert report.bits_per_weight <= bits
    report = manager.create_profile(
        "p", texts, steps=steps, batch_size=4, method="factor", bits_per_weight=bits, valid="none", replace=True
    )
    assert report.bits_per_weight <= bits
