"""A whole run on a tiny model: it learns, leaves the model as it was, stops, goes on and ends in the same bytes."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from zen_mlx.adapter.attach import targets
from zen_mlx.base.load import load_model
from zen_mlx.codec.parts import decode_all
from zen_mlx.config import BitDeltaConfig, TrainOptions
from zen_mlx.data.tokens import TokenRow
from zen_mlx.errors import (
    ConfigError,
    DataError,
    FormatError,
    InputError,
    ProfileExistsError,
    ResumeMismatchError,
    StorageError,
    TrainingError,
)
from zen_mlx.events import Noted
from zen_mlx.manager import ZenPersonalizationManager
from zen_mlx.paths import run_dir
from zen_mlx.recipes import train as create
from zen_mlx.train import checkpoint
from zen_mlx.train.checkpoint import RunState
from zen_mlx.train.optimizer import AdamState
from zen_mlx.train.sign_ste import encode_latents, scales
from zen_mlx.train.trainer import Interrupted, StepReport, TrainResult, train

FAST = BitDeltaConfig(learning_rate_scale=20.0)
WILD = BitDeltaConfig(learning_rate_scale=1e38, delta_regularization=0.0, sparsity_penalty=0.0)
STATE = "state-%08d.safetensors"
CANARY = "canary-7f3a"
TEXTS = [{"prompt": f"{CANARY} {i}?", "completion": f"{CANARY} is {i * i}."} for i in range(6)]


def rows_of(count: int, length: int = 12) -> list[TokenRow]:
    rng = np.random.default_rng(2)
    marks = (False,) + (True,) * (length - 1)
    return [TokenRow(tuple(int(t) for t in rng.integers(0, 40, length)), marks) for _ in range(count)]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    return load_model(tiny_model)


@pytest.fixture
def manager(tiny_model: Path) -> ZenPersonalizationManager:
    return ZenPersonalizationManager(str(tiny_model), config=FAST)


def deltas(result: TrainResult, config: BitDeltaConfig = FAST) -> dict[str, np.ndarray]:
    """The delta that the finished file holds."""
    return {name: decode_all(t.parts, t.shape) for name, t in encode_latents(result.latents, config).items()}


def at_step(step: int, act: Callable[[], Any]) -> Callable[[Any], None]:
    def tell(event: Any) -> None:
        if isinstance(event, StepReport) and event.step == step:
            act()

    return tell


def step_of(folder: Path) -> int:
    state = checkpoint.load(folder)
    assert state is not None
    return state.step


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_loss_falls_and_the_last_steps_are_one_bit(model: Any) -> None:
    reports: list[StepReport] = []
    options = TrainOptions(steps=24, batch_size=4, config=FAST)
    result = train(model, rows_of(4), options, on_event=reports.append)
    assert result.losses == [report.loss for report in reports]
    assert result.losses[-1] < result.losses[0] - 0.5
    assert [report.step for report in reports] == list(range(1, 25))
    assert {report.quantized_share for report in reports[18:]} == {1.0}
    assert {report.tokens for report in reports} == {44}
    assert {name: latent.shape for name, latent in result.latents.items()} == targets(model)
    assert set(deltas(result)) == set(targets(model))


def test_the_file_is_q_of_the_last_latents(model: Any) -> None:
    for config in (FAST, replace(FAST, use_per_channel_scale=False, block_size=32)):
        config = replace(config, sparsity_penalty=0.0)
        result = train(model, rows_of(3), TrainOptions(steps=3, config=config))
        block = None if config.use_per_channel_scale else 32
        for name, delta in deltas(result, config).items():
            latent = result.latents[name]
            wanted = np.array(mx.where(latent >= 0, 1.0, -1.0) * scales(latent, block))
            np.testing.assert_allclose(delta, wanted, rtol=2e-3, atol=0)


@pytest.mark.parametrize("end", ["done", "error", "interrupt"])
def test_the_model_is_left_as_it_was(tiny_model: Path, end: str) -> None:
    model = load_model(tiny_model)
    model.freeze()
    model.model.layers[0].mlp.unfreeze(keys=["weight"])
    model.model.layers[1].train(False)
    arrays = dict(tree_flatten(model.parameters()))
    bits = {name: np.array(array.view(mx.uint16)) for name, array in arrays.items()}
    kinds = [(name, type(module), module.training) for name, module in model.named_modules()]
    trainable = {name for name, _ in tree_flatten(model.trainable_parameters())}
    handler = signal.getsignal(signal.SIGINT)

    def act() -> None:
        if end == "error":
            raise ZeroDivisionError
        if end == "interrupt":
            interrupt()

    expected = {"done": (), "error": ZeroDivisionError, "interrupt": Interrupted}[end]
    options = TrainOptions(steps=3, config=FAST)
    if expected:
        with pytest.raises(expected):
            train(model, rows_of(2), options, on_event=at_step(1, act))
    else:
        train(model, rows_of(2), options)
    after = dict(tree_flatten(model.parameters()))
    assert all(after[name] is array for name, array in arrays.items())
    assert after.keys() == arrays.keys()
    assert all(np.array_equal(np.array(array.view(mx.uint16)), bits[name]) for name, array in after.items())
    assert [(name, type(module), module.training) for name, module in model.named_modules()] == kinds
    assert {name for name, _ in tree_flatten(model.trainable_parameters())} == trainable
    assert signal.getsignal(signal.SIGINT) is handler


CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "block_size": (
        {"use_per_channel_scale": False, "block_size": 32},
        {"use_per_channel_scale": False, "block_size": 64},
    ),
    "use_per_channel_scale": ({}, {"use_per_channel_scale": False}),
    "straight_through": ({}, {"straight_through": False}),
    "delta_regularization": ({}, {"delta_regularization": 5.0}),
    "sparsity_penalty": ({}, {"sparsity_penalty": 0.9}),
    "learning_rate_scale": ({}, {"learning_rate_scale": 10.0}),
    "warmup_steps": ({"warmup_steps": 0}, {"warmup_steps": 1}),
}


@pytest.mark.parametrize("field", list(BitDeltaConfig.__dataclass_fields__))
def test_every_setting_has_an_effect(model: Any, field: str) -> None:
    found = []
    for change in CHANGES[field]:
        config = replace(FAST, **change)
        found.append(deltas(train(model, rows_of(4), TrainOptions(steps=10, batch_size=2, config=config)), config))
    first, second = found
    distance = sum(float(np.square(first[name] - second[name]).sum()) for name in first)
    size = sum(float(np.square(delta).sum()) for delta in first.values())
    assert distance > 1e-4 * size
    norm = [sum(float(np.square(delta).sum()) for delta in each.values()) for each in (first, second)]
    if field in ("delta_regularization", "learning_rate_scale"):
        assert norm[1] < norm[0]
    if field == "sparsity_penalty":
        zeros = [sum(int((delta == 0).sum()) for delta in each.values()) for each in (first, second)]
        assert zeros[1] > zeros[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("block_size", 100),
        ("block_size", 128.0),
        ("block_size", "128"),
        ("use_per_channel_scale", 1),
        ("straight_through", "no"),
        ("delta_regularization", -0.1),
        ("delta_regularization", float("nan")),
        ("sparsity_penalty", float("inf")),
        ("sparsity_penalty", None),
        ("learning_rate_scale", 0.0),
        ("learning_rate_scale", True),
        ("warmup_steps", -1),
        ("warmup_steps", 1.5),
    ],
)
def test_bad_settings_are_named(field: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        BitDeltaConfig(**{field: value})
    assert caught.value.field == field


@pytest.mark.parametrize(
    "options",
    [{"steps": 0}, {"epochs": 0.0}, {"epochs": float("nan")}, {"batch_size": 0}, {"max_length": 4}, {"seed": -1}],
)
def test_bad_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainOptions(**options)
    assert caught.value.field in options


def test_few_rows(model: Any) -> None:
    with pytest.raises(DataError):
        train(model, [], TrainOptions())
    for count in (1, 3):
        result = train(model, rows_of(count), TrainOptions(epochs=2, batch_size=16, config=FAST))
        assert result.steps == len(result.losses) == 2, "a set smaller than the batch is a step by itself"
    assert TrainOptions(epochs=2, batch_size=4, accumulate=2).step_count(20) == 5


def test_accumulation_is_one_larger_batch(model: Any) -> None:
    one = train(model, rows_of(8), TrainOptions(steps=2, batch_size=8, config=FAST))
    two = train(model, rows_of(8), TrainOptions(steps=2, batch_size=2, accumulate=4, config=FAST))
    assert one.losses == two.losses


def test_a_run_stopped_and_resumed_ends_in_the_same_bytes(
    manager: ZenPersonalizationManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(create, "now", lambda: "2026-01-01T00:00:00Z")
    options: dict[str, Any] = {"steps": 8, "batch_size": 2}
    whole = manager.create_profile("p", TEXTS, **options).path.read_bytes()
    manager.store.remove("p")
    folder = run_dir(manager.home, "p")
    assert not folder.exists(), "a finished run leaves no checkpoint"
    for step in (3, 5):
        with pytest.raises(Interrupted) as caught:
            manager.create_profile("p", TEXTS, **options, resume=step > 3, on_event=at_step(step, interrupt))
        assert (caught.value.step, caught.value.steps) == (step, 8)
        assert isinstance(caught.value, KeyboardInterrupt)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(entry.name for entry in folder.iterdir()) == ["log.jsonl", "run.json", STATE % 3, STATE % 5]
    assert all(stat.S_IMODE(entry.stat().st_mode) == 0o600 for entry in folder.iterdir())
    assert all(CANARY.encode() not in entry.read_bytes() for entry in folder.iterdir())
    assert step_of(folder) == 5

    for change, field in (
        ({"data": TEXTS[1:]}, "data"),
        ({"steps": 9}, "options.steps"),
        ({"valid": TEXTS[:1]}, "held_out"),
        ({"seed": 1}, "options.seed"),
    ):
        with pytest.raises(ResumeMismatchError) as mismatch:
            manager.create_profile("p", **{"data": TEXTS, **options, **change}, resume=True)
        assert mismatch.value.field == field
        assert CANARY not in f"{mismatch.value} {mismatch.value.to_dict()}"
    with pytest.raises(InputError, match="unfinished run"):
        manager.create_profile("p", TEXTS, **options)
    with pytest.raises(DataError):
        manager.create_profile("p", [""], replace=True)
    assert step_of(folder) == 5, "bad data does not cost the unfinished run"

    report = manager.create_profile("p", TEXTS, **options, resume=True)
    assert report.path.read_bytes() == whole
    assert CANARY.encode() not in whole
    assert not folder.exists()
    with pytest.raises(InputError, match="no unfinished run"):
        manager.create_profile("p", TEXTS, **options, resume=True)
    with pytest.raises(ProfileExistsError):
        manager.create_profile("p", TEXTS, **options)


def test_replace_starts_an_unfinished_run_again(manager: ZenPersonalizationManager) -> None:
    with pytest.raises(Interrupted):
        manager.create_profile("p", TEXTS, steps=4, on_event=at_step(2, interrupt))
    report = manager.create_profile("p", TEXTS, steps=3, replace=True)
    assert len(report.losses) == 3
    assert not run_dir(manager.home, "p").exists()


def test_a_loss_that_is_no_number_keeps_the_checkpoint(tiny_model: Path) -> None:
    wild = ZenPersonalizationManager(str(tiny_model), config=WILD)
    with pytest.raises(Interrupted):
        wild.create_profile("p", TEXTS, steps=6, on_event=at_step(1, interrupt))
    folder = run_dir(wild.home, "p")
    before = (folder / (STATE % 1)).read_bytes()
    with pytest.raises(TrainingError, match="state after step 1 is kept") as caught:
        wild.create_profile("p", TEXTS, steps=6, resume=True)
    assert caught.value.field == "learning_rate_scale"
    assert "--replace --learning-rate-scale 1e+37" in str(caught.value.hint)
    assert (folder / (STATE % 1)).read_bytes() == before
    assert wild.profiles() == []


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    manager: ZenPersonalizationManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(create, "now", lambda: "2026-01-01T00:00:00Z")
    whole = manager.create_profile("p", TEXTS, steps=4).path.read_bytes()
    with pytest.raises(Interrupted):
        manager.create_profile("p", TEXTS, steps=4, replace=True, checkpoint_s=0, on_event=at_step(3, interrupt))
    folder = run_dir(manager.home, "p")
    newest, before = (folder / (STATE % step) for step in (3, 2))
    state = newest.read_bytes()
    flipped = bytearray(state)
    flipped[-9] ^= 4
    for damaged in (b"", state[:100], state[:-5], b"\xff" * 200, bytes(flipped)):
        newest.write_bytes(damaged)
        notes: list[str] = []
        assert checkpoint.load(folder, notes.append).step == 2  # type: ignore[union-attr]
        assert [("damaged" in note, STATE % 3 in note) for note in notes] == [(True, True)]
    events: list[Any] = []
    kept = before.read_bytes()
    before.write_bytes(b"")
    with pytest.raises(FormatError, match="damaged"):
        manager.create_profile("p", TEXTS, steps=4, resume=True)
    before.write_bytes(kept)
    report = manager.create_profile("p", TEXTS, steps=4, resume=True, on_event=events.append)
    assert report.path.read_bytes() == whole
    assert ["damaged" in event.text for event in events if isinstance(event, Noted)] == [True]
    assert [event.step for event in events if isinstance(event, StepReport)] == [3, 4]


def test_a_damaged_run_json_is_said_to_be(manager: ZenPersonalizationManager) -> None:
    with pytest.raises(Interrupted):
        manager.create_profile("p", TEXTS, steps=4, on_event=at_step(2, interrupt))
    folder = run_dir(manager.home, "p")
    facts = json.loads((folder / "run.json").read_text())
    assert set(facts) == {"data", "held_out", "weights", "tokenizer", "options", "info"}
    for damaged in (b"{", b"[]", b"\xff"):
        (folder / "run.json").write_bytes(damaged)
        with pytest.raises(FormatError, match=r"run\.json"):
            manager.create_profile("p", TEXTS, steps=4, resume=True)


def test_a_disk_that_refuses_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def state(step: int) -> RunState:
        return RunState({"w": mx.ones((300, 300))}, AdamState({}, {}, step))

    checkpoint.begin(folder, {"data": "x"})
    checkpoint.save(folder, state(1))
    before = (folder / (STATE % 1)).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageError):
            checkpoint.save(folder, state(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (folder / (STATE % 1)).read_bytes() == before
    assert sorted(entry.name for entry in folder.iterdir()) == ["run.json", STATE % 1]
    for step in (2, 3, 4):
        checkpoint.save(folder, state(step))
    (folder / ".state-torn.tmp").write_bytes(b"x")
    assert checkpoint.load(folder).step == 4  # type: ignore[union-attr]
    assert sorted(entry.name for entry in folder.iterdir()) == ["run.json", STATE % 3, STATE % 4]


def test_a_penalty_that_would_erase_every_delta_is_refused(tiny_model):
    from zen_mlx.errors import ConfigError

    model = load_model(tiny_model)
    config = BitDeltaConfig(learning_rate_scale=10.0, delta_regularization=200.0)
    with pytest.raises(ConfigError, match="zero"):
        train(model, [TokenRow((1, 2, 3), (False, True, True))], TrainOptions(steps=1, config=config))
