"""Distillation: a teacher's soft labels, the layers that learn from them, and what they are stored as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models.switch_layers import SwitchLinear

from zen_mlx.adapter.attach import Resident, attach, detach, targets
from zen_mlx.base.load import load_model, load_tokenizer
from zen_mlx.codec.parts import SignPart, decode_all, encode_sign
from zen_mlx.config import BitDeltaConfig
from zen_mlx.data.batches import collate
from zen_mlx.data.loss import batch_arrays, divergence, mean_loss, square
from zen_mlx.data.tokens import TokenRow
from zen_mlx.encode.rate_allocation import Choice, encode_choice
from zen_mlx.events import StepReport
from zen_mlx.format.read import read
from zen_mlx.format.spec import DeltaTensor, Profile
from zen_mlx.manager import ZenPersonalizationManager
from zen_mlx.train.calibration import CalibrationStats, importance
from zen_mlx.train.distill import distill, drawn, options_of
from zen_mlx.train.factor import GAIN
from zen_mlx.train.self_generated import self_generated
from zen_mlx.train.soft_labels import TOP, soften
from zen_mlx.train.student import Distilled
from zen_mlx.train.trainable import QuantizationRamp, trained_arrays

ROWS = [
    TokenRow(tuple((7 * i + 3 * j) % 250 for j in range(12 + i % 5)), (False,) * 4 + (True,) * (8 + i % 5))
    for i in range(24)
]


def profile(tensors: dict[str, DeltaTensor]) -> Profile:
    return Profile(
        info={"name": "t"}, base={"verified": False}, metrics={}, target_count=1, model_count=1, tensors=tensors
    )


@pytest.fixture
def pair(tiny_model: Path) -> tuple[Any, Any, dict[str, np.ndarray]]:
    """(base, fine-tune, the change of every target)."""
    base, tuned = load_model(tiny_model), load_model(tiny_model)
    rng = np.random.default_rng(0)
    changes = {}
    modules = dict(tuned.named_modules())
    for name, (n, k) in targets(tuned).items():
        low = rng.standard_normal((n, 3)) @ rng.standard_normal((3, k)) * 0.04
        changes[name] = (low + 0.03 * rng.standard_normal((n, k))).astype(np.float32)
        layer = modules[name.removesuffix(".weight")]
        layer.weight = layer.weight + mx.array(changes[name])
    return base, tuned, changes


def test_soft_labels_are_the_teachers(pair: tuple[Any, Any, Any], tmp_path: Path) -> None:
    base, tuned, _ = pair
    soft = soften(tuned, ROWS, tmp_path)
    for row in (ROWS[0], ROWS[23], ROWS[7]):
        made = soft[ROWS.index(row)]
        assert made == row
        assert made.soft is not None
        ids, logp, *_ = made.soft
        assert ids.shape == (row.targets, TOP)
        logits = np.array(tuned(mx.array([row.ids[:-1]]))[0].astype(mx.float32))[3:].astype(np.float64)
        exact = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        np.testing.assert_allclose(logp, np.take_along_axis(exact, ids.astype(int), 1), atol=5e-3)
        least = np.sort(exact, axis=1)[:, -TOP]
        assert (np.take_along_axis(exact, ids.astype(int), 1) >= least[:, None] - 1e-5).all()
    again = soften(base, ROWS, tmp_path)  # from the files: no teacher is asked
    assert np.array_equal(again[3].soft[1], soft[3].soft[1])
    assert (tmp_path / "teacher_logp.npy").stat().st_mode & 0o077 == 0


def test_the_divergence_is_that_of_all_outcomes_when_k_is_all() -> None:
    rng = np.random.default_rng(1)
    teacher, model = rng.standard_normal((5, 30)) * 2, rng.standard_normal((5, 30)) * 2
    logp, logq = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (teacher, model))
    exact = (np.exp(logp) * (logp - logq)).sum(1)
    ids = np.argsort(-teacher, axis=1)
    p, q = (mx.array(np.take_along_axis(x, ids, 1).astype(np.float32)) for x in (logp, logq))
    np.testing.assert_allclose(np.array(divergence(q, p)), exact, atol=1e-4)
    part = divergence(q[:, :8], p[:, :8])
    assert (np.array(part) <= exact + 1e-4).all(), "outcomes put together cannot tell models better apart"
    np.testing.assert_allclose(np.array(divergence(p[:, :8], p[:, :8])), 0, atol=1e-5)
    np.testing.assert_allclose(np.array(square(q, p)), ((logq - logp) ** 2).mean(1) / 2, rtol=1e-4)


def test_padding_and_other_tokens_do_not_count(pair: tuple[Any, Any, Any], tmp_path: Path) -> None:
    base, tuned, _ = pair
    soft = soften(tuned, ROWS[:5], tmp_path)
    whole = mean_loss(base, soft)
    alone = [mean_loss(base, [row]) for row in soft]
    assert whole.tokens == sum(row.targets for row in soft)
    assert whole.nats == pytest.approx(sum(each.nats * each.tokens for each in alone) / whole.tokens, rel=1e-4)
    assert whole.nats > 0.01
    assert mean_loss(tuned, soft).nats < 1e-3
    assert mean_loss(tuned, soft).agreement > 0.9  # a random model has ties
    hard = mean_loss(base, soften(tuned, ROWS[:5], tmp_path, hard=0.25)).nats
    assert hard == pytest.approx(0.75 * whole.nats + 0.25 * mean_loss(base, ROWS[:5]).nats, rel=1e-5)
    squares = mean_loss(base, soften(tuned, ROWS[:5], tmp_path, square=1.0)).nats
    both = mean_loss(base, soften(tuned, ROWS[:5], tmp_path, hard=0.5, square=0.25)).nats
    mixed = 0.5 * (0.75 * whole.nats + 0.25 * squares) + 0.5 * mean_loss(base, ROWS[:5]).nats
    assert both == pytest.approx(mixed, rel=1e-5)
    assert squares != pytest.approx(whole.nats, rel=1e-3)
    ids, positions, labels, weights = batch_arrays(collate(soft))
    assert labels.shape == (len(positions), 2, TOP + 2)
    assert ids.shape[0] == 5
    assert int(weights.sum().item()) == whole.tokens


CHOICES = [Choice((), 1), Choice((), 2), Choice(((4, 3),)), Choice(((8, 1), (4, 2), (2, 2)), 1)]


@pytest.mark.parametrize("kind", ["linear", "quantized", "experts"])
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_untrained_it_is_what_is_stored(kind: str, choice: Choice) -> None:
    mx.random.seed(0)
    shape: tuple[int, ...] = (3, 40, 64) if kind == "experts" else (40, 64)
    delta = np.random.default_rng(1).standard_normal(shape).astype(np.float32) / 30
    tensor = DeltaTensor(shape, encode_choice(delta, choice))
    base: nn.Module = SwitchLinear(64, 40, 3) if kind == "experts" else nn.Linear(64, 40)
    if kind == "quantized":
        base = base.to_quantized(group_size=32, bits=4)  # type: ignore[operator]
    share = QuantizationRamp()
    share.value = 1.0  # quantizing what is stored changes nothing
    method = Distilled({"m.weight": tensor}, BitDeltaConfig())
    layer = method.layer("m.weight", base, shape, share)
    x = mx.random.normal((5, 64))
    exact = mx.array(decode_all(tensor.parts, shape))
    if kind == "experts":
        which = mx.array([[0], [2], [1], [1], [0]])
        y = layer(x[:, None, None], which)
        delta_y = mx.stack([x[i] @ exact[which[i, 0].item()].T for i in range(5)])
        wanted = base(x[:, None, None], which).reshape(5, 40) + delta_y
        np.testing.assert_allclose(np.array(y).reshape(5, 40), np.array(wanted), atol=2e-5)
    else:
        np.testing.assert_allclose(np.array(layer(x)), np.array(base(x) + x @ exact.T), atol=2e-5)
    again = method.encode(trained_arrays({"m.weight": layer}))["m.weight"]
    for old, new in zip(tensor.parts, again.parts, strict=True):
        if isinstance(old, SignPart):
            assert isinstance(new, SignPart)
            assert np.array_equal(new.bits, old.bits)
            assert all(np.array_equal(a, b) for a, b in zip(old.scales, new.scales, strict=True))
        else:
            was = decode_all([old], shape)
            np.testing.assert_allclose(decode_all([new], shape), was, atol=2e-3 * np.abs(was).max())


@pytest.mark.parametrize("experts", [(), (3,)], ids=["linear", "experts"])
def test_columns_take_in_the_scales_of_rows(experts: tuple[int, ...]) -> None:
    shape = (*experts, 40, 64)
    rng = np.random.default_rng(2)
    delta = (rng.standard_normal((*experts, 40, 4)) @ rng.standard_normal((*experts, 4, 64))).astype(np.float32) / 30
    tensor = DeltaTensor(shape, encode_choice(delta, Choice(((8, 4),))))
    base = SwitchLinear(64, 40, 3) if experts else nn.Linear(64, 40)
    share = QuantizationRamp()
    share.value = 1.0
    method = Distilled({"m.weight": tensor}, BitDeltaConfig())
    layer = method.layer("m.weight", base, shape, share)
    u, v = rng.standard_normal((*experts, 40)) / 200, rng.standard_normal((*experts, 64)) / 200
    layer["u0"], layer["v0"] = mx.array(u.astype(np.float32)), mx.array(v.astype(np.float32))
    wanted = np.exp(GAIN * u)[..., None] * decode_all(tensor.parts, shape) * np.exp(GAIN * v)[..., None, :]
    stored = method.encode(trained_arrays({"m.weight": layer}))["m.weight"]
    assert stored.nbytes == tensor.nbytes
    kept = decode_all(stored.parts, shape)
    before, after = (np.linalg.norm(each - wanted) for each in (decode_all(tensor.parts, shape), kept))
    assert after < 0.05 * np.linalg.norm(wanted)  # the largest of a column may lie beyond its codes
    assert after < 0.4 * before
    x = mx.random.normal((3, 64))
    if experts:
        y = layer(x[:, None, None], mx.array([[0], [1], [2]])) - base(x[:, None, None], mx.array([[0], [1], [2]]))
        exact = np.stack([kept[i] @ np.array(x[i]) for i in range(3)])
    else:
        y, exact = layer(x) - base(x), np.array(x) @ kept.T
    np.testing.assert_allclose(np.array(y).reshape(3, 40), exact, atol=2e-3 * np.abs(exact).max())


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("scale", ["rowcol", "tensor", "block"])
def test_it_comes_closer_to_its_teacher(pair: tuple[Any, Any, Any], choice: Choice, scale: str, tmp_path: Path) -> None:
    if scale != "rowcol" and not choice.planes:
        pytest.skip("no signs")
    base, tuned, changes = pair
    block = 32 if scale == "block" else None
    tensors = {
        name: DeltaTensor(change.shape, encode_choice(change, choice, None, scale, block))
        for name, change in changes.items()
    }
    soft = soften(tuned, ROWS, tmp_path)
    options = options_of(12, len(soft), 0, learning_rate_scale=1.0)
    seen, held = drawn(soft, options)

    def divergence_of(stored: dict[str, DeltaTensor]) -> float:
        attach(base, Resident.from_profile(profile(stored), consume=False))
        try:
            return mean_loss(base, soft).nats
        finally:
            detach(base)

    before = divergence_of(tensors)
    trained = distill(base, tensors, seen, held, options)
    much = (
        scale == "rowcol" and choice.planes
    )  # thousands of scales; a dozen, or factors of what is mostly noise, do less
    assert divergence_of(trained) < (0.9 if much else 0.99) * before
    for name, tensor in trained.items():
        assert len(tensor.parts) == len(tensors[name].parts)
        assert tensor.nbytes == tensors[name].nbytes


def test_only_what_is_drawn_is_asked_for() -> None:
    seen, held = drawn(ROWS * 10, options_of(3, 240, 0))
    assert len(seen) == 48
    assert len(held) == 12
    assert not {id(row) for row in held} & {id(row) for row in seen} or len(ROWS) < 240
    assert drawn(ROWS, options_of(100, 24, 0)) == (ROWS[1:], ROWS[:1])


def test_moments_are_those_of_the_inputs(tiny_model: Path) -> None:
    model = load_model(tiny_model)
    moments = CalibrationStats(model, ROWS)
    assert sorted(moments.order) == sorted(targets(model))
    found = {name: moments.of(name) for name in moments.order}
    embedded = [np.array(model.model.embed_tokens(mx.array([row.ids])).astype(mx.float32))[0] for row in ROWS]
    weight = np.array(model.model.layers[0].input_layernorm.weight.astype(mx.float32))
    x = np.concatenate(embedded)
    x = x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-5) * weight
    np.testing.assert_allclose(found["model.layers.0.self_attn.q_proj.weight"], x.T @ x / len(x), rtol=1e-3, atol=1e-3)
    assert np.array_equal(
        found["model.layers.0.self_attn.q_proj.weight"], found["model.layers.0.self_attn.v_proj.weight"]
    )
    assert found["model.layers.1.mlp.down_proj.weight"].shape == (128, 128)


def test_later_windows_see_what_was_stored(pair: tuple[Any, Any, Any]) -> None:
    base, _, changes = pair
    stored: dict[str, DeltaTensor] = {}

    def show() -> None:
        detach(base)
        attach(base, Resident.from_profile(profile(dict(stored)), consume=False))

    still, moving = CalibrationStats(base, ROWS), CalibrationStats(base, ROWS, show)
    plain = {name: still.of(name) for name in still.order}
    for name in moving.order:
        after = moving.of(name)
        if "layers.0.self_attn.q" in name:
            np.testing.assert_allclose(after, plain[name], rtol=1e-4, atol=1e-4)
        if name == moving.order[-1]:
            assert np.abs(after - plain[name]).max() > 1e-3 * np.abs(plain[name]).max()
        stored[name] = DeltaTensor(changes[name].shape, tuple(encode_sign(changes[name])))
    detach(base)


def test_importance_is_the_size_of_the_gradient(tiny_model: Path) -> None:
    """Against the change of the loss that random noise at an output makes, to second order... and to first its variance."""
    model = load_model(tiny_model)
    rows = ROWS[:6]
    found = importance(model, rows)
    assert set(found) == set(targets(model))
    name = "model.layers.1.mlp.down_proj.weight"
    layer = model.model.layers[1].mlp.down_proj
    tokens = sum(len(row.ids) for row in rows)
    rng = np.random.default_rng(0)
    squares = []
    for _ in range(200):  # (d loss . noise)^2 has mean ||d loss||^2
        slopes = []
        for row in rows:
            noise = mx.array(rng.standard_normal((1, len(row.ids) - 1, 64)).astype(np.float32))
            values = []
            for sign in (1, -1):
                step = sign * 1e-2

                class Moved(nn.Module):
                    def __call__(self, x: mx.array, step: float = step, noise: mx.array = noise) -> mx.array:
                        return layer(x) + step * noise[:, : x.shape[1]]

                model.model.layers[1].mlp.down_proj = Moved()
                logits = model(mx.array([row.ids[:-1]])).astype(mx.float32)
                labels = mx.array([row.ids[1:]])
                values.append(nn.losses.cross_entropy(logits, labels)[:, 3:].sum().item())
            slopes.append((values[0] - values[1]) / 2e-2)
        squares.append(sum(slope**2 for slope in slopes) / tokens / 64)
    model.model.layers[1].mlp.down_proj = layer
    assert found[name] == pytest.approx(float(np.mean(squares)), rel=0.2)


def test_babble(tiny_model: Path) -> None:
    model, tokenizer = load_model(tiny_model), load_tokenizer(tiny_model)
    rows = self_generated(model, tokenizer, 20, 24, seed=3)
    assert len(rows) == 20
    prefix = tokenizer.encode("<|im_start|>user\n", add_special_tokens=False)
    for row in rows:
        assert list(row.ids[: len(prefix)]) == prefix
        assert len(row.ids) <= 24
        assert row.supervised == (False,) * len(prefix) + (True,) * (len(row.ids) - len(prefix))
    assert len(set(rows)) == 20
    assert self_generated(model, tokenizer, 20, 24, seed=3) == rows
    assert self_generated(model, tokenizer, 20, 24, seed=4) != rows


def test_a_full_precision_run_is_distilled(tiny_model: Path, tmp_path: Path) -> None:
    """The stored signs come closer to the run's own model than the closed form, and a run broken off there goes on."""
    words = [f"the {i}th line of {i * 7 % 11} words that are to be learned by heart" for i in range(24)]
    config = BitDeltaConfig(straight_through=False, learning_rate_scale=10.0)

    def run(home: str, steps: int, **options: Any) -> bytes:
        manager = ZenPersonalizationManager(str(tiny_model), config=config, home=tmp_path / home)
        settings: dict[str, Any] = {"steps": 8, "distill_steps": steps, "valid": words[:8], "checkpoint_s": 0.0}
        report = manager.create_profile("p", words, **settings, **options)
        losses[home] = report.metrics["profile_loss"]
        return report.path.read_bytes()

    losses: dict[str, float] = {}
    run("closed", 0)
    whole = run("whole", 8)
    assert losses["whole"] < losses["closed"]
    seen: list[StepReport] = []

    def break_off(event: Any) -> None:
        if isinstance(event, StepReport):
            seen.append(event)
            if len(seen) == 8 + 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("broken", 8, on_event=break_off)
    assert (tmp_path / "broken" / "runs" / "p" / "distill").is_dir()
    again = run("broken", 8, resume=True)
    assert not (tmp_path / "broken" / "runs" / "p").exists()
    one, two = (read(path) for path in sorted(tmp_path.glob("*/profiles/p.bitdelta")) if "closed" not in str(path))
    assert len(again) == len(whole)
    for name, tensor in one.tensors.items():
        for part, other in zip(tensor.parts, two.tensors[name].parts, strict=True):
            assert isinstance(part, SignPart)
            assert isinstance(other, SignPart)
            assert np.array_equal(part.bits, other.bits)
            assert all(np.array_equal(a, b) for a, b in zip(part.scales, other.scales, strict=True))
