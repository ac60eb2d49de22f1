"""The plan of a run against what it takes, the limit, the settings that fit, and that checkpoints change no number."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from zen_mlx.base.build import build
from zen_mlx.base.load import load_model
from zen_mlx.cli._memory_view import limit_bytes
from zen_mlx.config import BitDeltaConfig, TrainOptions
from zen_mlx.data.tokens import TokenRow
from zen_mlx.errors import ConfigError, MemoryLimitError
from zen_mlx.manager import ZenPersonalizationManager
from zen_mlx.memory import bounded_cache, machine_limit
from zen_mlx.memory.limits import _granted
from zen_mlx.train.memory_estimate import estimate_run, fit_options, model_shape
from zen_mlx.train.trainer import train

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "memory.py"
FAST = BitDeltaConfig(learning_rate_scale=1.0)


def rows_of(count: int, length: int = 40) -> list[TokenRow]:
    rng = np.random.default_rng(3)
    return [
        TokenRow(tuple(int(t) for t in rng.integers(0, 250, length)), (False,) + (True,) * (length - 1))
        for _ in range(count)
    ]


def measured(model: str, *only: str) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), "--model", model, "--only", *only]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


@pytest.mark.parametrize("only", [("factor", "0", "4", "128"), ("sign", "0", "1", "256"), ("sign", "1", "4", "128")])
def test_the_estimate_is_near_the_peak(only: tuple[str, ...]) -> None:
    run = measured("small", *only)
    assert 0.8 <= run["estimated_bytes"] / run["measured_bytes"] <= 1.25, run


@pytest.mark.slow
@pytest.mark.parametrize("model", ["smollm2-135m", "0.6b"])
@pytest.mark.parametrize("method", ["factor", "sign"])
@pytest.mark.parametrize("checkpoint", ["0", "1"])
@pytest.mark.parametrize("size", [("4", "128"), ("1", "512")])
def test_the_estimate_is_within_a_fifth_of_the_peak(
    model: str, method: str, checkpoint: str, size: tuple[str, str], with_embedded_base: Path
) -> None:
    run = measured(model, method, checkpoint, *size)
    assert 0.8 <= run["estimated_bytes"] / run["measured_bytes"] <= 1.2, run


@pytest.mark.parametrize("method", ["sign", "factor"])
def test_checkpointed_gradients_end_in_the_same_bytes(tiny_model: Path, method: str) -> None:
    results = []
    for checkpoint in (False, True):
        model = load_model(tiny_model)
        bits = 4.0 if method == "factor" else None
        options = TrainOptions(
            steps=3,
            batch_size=4,
            method=method,
            bits_per_weight=bits,
            config=FAST,
            grad_checkpoint=checkpoint,
            micro_tokens=100,
        )
        classes = [type(layer) for layer in model.layers]
        results.append(train(model, rows_of(6), options))
        assert [type(layer) for layer in model.layers] == classes
    assert results[0].losses == results[1].losses
    assert all(mx.array_equal(results[0].latents[name], results[1].latents[name]) for name in results[0].latents)


def test_a_plan_makes_no_arrays_and_grows_with_what_it_counts(tiny_model: Path) -> None:
    model, rows = build(tiny_model), rows_of(8)
    before = mx.get_active_memory()
    small = estimate_run(model, rows, rows, TrainOptions(steps=1, batch_size=2, patience=1))
    assert mx.get_active_memory() - before < 50_000
    assert small.total_bytes > small.arrays_bytes
    large = estimate_run(model, rows, rows, TrainOptions(steps=1, batch_size=8, patience=1))
    assert dict(large.items)["activations kept"] > dict(small.items)["activations kept"]
    remade = estimate_run(model, rows, rows, TrainOptions(steps=1, batch_size=8, grad_checkpoint=True))
    assert dict(remade.items)["activations kept"] < dict(large.items)["activations kept"]
    many = estimate_run(model, rows, rows, TrainOptions(steps=1, batch_size=8, accumulate=1, micro_tokens=64))
    assert many.micro_batch.tokens <= 64, "a step's size does not change that of a micro-batch"
    shape = model_shape(model)
    assert shape.target_bytes == 4 * 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128)
    assert (shape.layers, shape.hidden, shape.heads, shape.vocabulary) == (2, 64, 2, 258)


def test_what_does_not_fit_is_refused_with_numbers_and_ways(tiny_model: Path) -> None:
    model, rows = build(tiny_model), rows_of(32, 200)
    options = TrainOptions(steps=1, batch_size=32)
    plain = estimate_run(model, rows, [], options).total_bytes
    remade = estimate_run(model, rows, [], TrainOptions(steps=1, batch_size=32, grad_checkpoint=True)).total_bytes
    chosen = fit_options(model, rows, [], options, (plain + remade) // 2, "a test")
    assert chosen.fits
    assert chosen.options.grad_checkpoint, "chosen by itself"
    said_no = TrainOptions(steps=1, batch_size=32, grad_checkpoint=False)
    refused = fit_options(model, rows, [], said_no, (plain + remade) // 2, "a test")
    assert "--grad-checkpoint" in refused.others
    with pytest.raises(MemoryLimitError) as caught:
        refused.check()
    assert caught.value.exit_code == 2
    assert caught.value.found == plain
    assert "--grad-checkpoint" in str(caught.value.hint)
    assert "zen models quantize" in fit_options(model, rows, [], said_no, 1000, "a test").others[0]


def test_a_run_over_the_limit_stops_before_the_base_is_loaded(tiny_model: Path) -> None:
    manager = ZenPersonalizationManager(str(tiny_model))
    data = [{"prompt": "Hello", "completion": "Hello to you, and goodbye."}] * 3
    with pytest.raises(MemoryLimitError):
        manager.create_profile("a", data, steps=1, memory_limit=10**6)
    assert manager._base is None
    planned = manager.plan_profile(data, steps=1)
    assert planned.fits
    assert manager._base is None
    assert manager.create_profile("a", data, steps=1, memory_limit=planned.plan.total_bytes).path.is_file()


def test_the_cache_is_bounded_for_the_block_only() -> None:
    before = mx.set_cache_limit(5 * 10**6)
    try:
        with bounded_cache(10**6):
            assert mx.set_cache_limit(10**6) == 10**6
        assert mx.set_cache_limit(5 * 10**6) == 5 * 10**6
        with bounded_cache(10**9):
            assert mx.set_cache_limit(5 * 10**6) == 5 * 10**6, "never raised"
    finally:
        mx.set_cache_limit(before)


def test_the_limit_is_what_the_machine_and_its_control_group_leave(tmp_path: Path) -> None:
    limit, source = machine_limit()
    assert limit > 10**8
    assert source
    inside = tmp_path / "cgroup" / "user" / "job"
    inside.mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text("0::/user/job\n")
    assert _granted(tmp_path / "cgroup", own) is None
    (inside / "memory.max").write_text("max\n")
    (inside / "memory.current").write_text("5\n")
    assert _granted(tmp_path / "cgroup", own) is None
    (inside.parent / "memory.max").write_text("1000\n")
    (inside.parent / "memory.current").write_text("600\n")
    (inside.parent / "memory.stat").write_text("anon 5\ninactive_file 50\n")
    assert _granted(tmp_path / "cgroup", own) == 450


def test_sizes_are_read_as_they_are_typed() -> None:
    assert [limit_bytes(text) for text in (None, "12GB", "1.5 GiB", "2000", "3mb")] == [
        None,
        12 * 10**9,
        3 * 2**29,
        2000,
        3 * 10**6,
    ]
    for text in ("", "12 parsecs", "-1GB", "GB"):
        with pytest.raises(ConfigError):
            limit_bytes(text)
