"""What a run notices: losses that must not go on, held-out rows that get no better; what it writes down; small sets."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from zen_mlx.base.load import load_model
from zen_mlx.config import BitDeltaConfig, TrainOptions
from zen_mlx.data.tokens import TokenRow
from zen_mlx.errors import ConfigError, DataError, TrainingError
from zen_mlx.events import Evaluated, Noted, Saved, StepReport
from zen_mlx.manager import ZenPersonalizationManager
from zen_mlx.paths import log_path, plot_path, report_path, run_dir
from zen_mlx.recipes import train as create
from zen_mlx.train import trainer
from zen_mlx.train.checkpoint import Interrupted, RunNumbers, RunState
from zen_mlx.train.early_stopping import WINDOW, EarlyStop, Guard
from zen_mlx.train.log import RunLog, read
from zen_mlx.train.optimizer import AdamState
from zen_mlx.train.trainer import HELD_ROWS, held_part, train

FAST = BitDeltaConfig(learning_rate_scale=20.0)
TEXTS = [{"prompt": f"What is {i}?", "completion": f"It is {i * i}."} for i in range(6)]
OTHERS = [{"prompt": f"How is {i}?", "completion": f"Not so well, number {i}."} for i in range(5)]


def rows_of(count: int, seed: int, length: int = 12) -> list[TokenRow]:
    rng = np.random.default_rng(seed)
    marks = (False,) + (True,) * (length - 1)
    return [TokenRow(tuple(int(t) for t in rng.integers(0, 40, length)), marks) for _ in range(count)]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    return load_model(tiny_model)


@pytest.fixture
def manager(tiny_model: Path) -> ZenPersonalizationManager:
    return ZenPersonalizationManager(str(tiny_model), config=FAST)


def at_step(step: int, act: Callable[[], Any]) -> Callable[[Any], None]:
    def tell(event: Any) -> None:
        if isinstance(event, StepReport) and event.step == step:
            act()

    return tell


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_loss_that_stays_far_above_its_start_ends_the_run() -> None:
    progress = RunNumbers()
    guard = Guard(TrainOptions(batch_size=16), 100, progress)
    assert guard.limit == 2.0
    guard.check(1, 4.0, 1.0, None)
    assert guard.limit == 4.0 + 1.0 + 1.0
    for step in range(2, WINDOW + 1):
        guard.check(step, 6.5, 1.0, None)
        assert not guard.calm
    with pytest.raises(TrainingError, match=r"rose from 4\.00 to 6\.50 .* state after step 7 is kept") as caught:
        guard.check(WINDOW + 1, 6.5, 1.0, 7)
    assert caught.value.hint == "start again with a smaller rate: --replace --learning-rate-scale 0.01"
    assert caught.value.exit_code == 1

    for noise in (3.9, 5.9):  # one good loss in a window, or all just below the limit, is no divergence
        progress = RunNumbers()
        guard = Guard(TrainOptions(batch_size=16), 100, progress)
        for step in range(200):
            guard.check(step + 1, 4.0 if step == 0 else noise if step % WINDOW == 0 or noise > 5 else 9.0, 1.0, None)
    assert len(progress.recent) == WINDOW


@pytest.mark.parametrize(
    ("loss", "norm", "what"),
    [
        (float("nan"), 1.0, "loss is not a finite number"),
        (2.0, float("inf"), "gradient is not a finite number"),
        (51.0, 1.0, "exploded"),
    ],
)
def test_what_is_no_number_or_exploded_ends_the_run(loss: float, norm: float, what: str) -> None:
    with pytest.raises(TrainingError, match=what):
        Guard(TrainOptions(), 10, RunNumbers()).check(1, loss, norm, None)


def test_a_state_with_nan_is_never_stored(tmp_path: Path) -> None:
    guard = Guard(TrainOptions(), 10, RunNumbers())
    for bad in (float("nan"), float("inf")):
        for place in ("latents", "m", "v"):
            arrays = {name: {"w": mx.array([1.0, bad if name == place else 1.0])} for name in ("latents", "m", "v")}
            with pytest.raises(TrainingError, match="not finite after step 3"):
                guard.check_arrays(RunState(arrays["latents"], AdamState(arrays["m"], arrays["v"], 3)), None)


def test_early_stopping_counts_and_goes_on_counting() -> None:
    progress = RunNumbers()
    early = EarlyStop(2, progress)
    assert [early.seen(step, loss) for step, loss in ((5, 3.0), (10, 2.5), (15, 2.5))] == [True, True, False]
    assert not early.done
    again = EarlyStop(2, progress)
    assert not again.seen(20, 2.6)
    assert again.done
    assert (progress.best_loss, progress.best_step) == (2.5, 10)
    assert not EarlyStop(None, progress).done


def worse_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Early stopping sees every held-out loss after `step` as a worse one: which steps are trained hangs on no BLAS."""

    class Worse(EarlyStop):
        def seen(self, at: int, loss: float) -> bool:
            return super().seen(at, loss + 1000 * max(0, at - step))

    monkeypatch.setattr(trainer, "EarlyStop", Worse)


@pytest.mark.parametrize(("config", "first"), [(FAST, 31), (replace(FAST, straight_through=False), 1)])
def test_the_best_state_is_kept_and_none_from_before_lambda_is_1(
    model: Any, config: BitDeltaConfig, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse_after(first + 2, monkeypatch)
    events: list[Any] = []
    options = TrainOptions(steps=40, batch_size=4, config=config, eval_every=1, patience=3)
    result = train(model, rows_of(4, 2), options, held=rows_of(4, 3), on_event=events.append)
    looks = [event for event in events if isinstance(event, Evaluated)]
    assert [look.counts for look in looks] == [look.step >= first for look in looks]
    counted = [look for look in looks if look.counts]
    best = min(counted[:3], key=lambda look: look.loss)
    assert result.step == best.step
    assert [look.step for look in counted if look.best][-1] == best.step
    assert len(result.losses) == best.step + 3 < 40
    assert all(0 <= look.agreement <= 1 and look.tokens == 44 for look in looks)


def test_early_stopping_needs_held_out_rows(manager: ZenPersonalizationManager) -> None:
    with pytest.raises(ConfigError, match="held-out") as caught:
        manager.create_profile("p", TEXTS, patience=2)
    assert caught.value.field == "patience"
    assert not run_dir(manager.home, "p").exists()
    for field, value in (("patience", 0), ("eval_every", -1), ("checkpoint_s", -1.0), ("checkpoint_s", float("nan"))):
        with pytest.raises(ConfigError) as caught:
            TrainOptions(**{field: value})
        assert caught.value.field == field
    with pytest.raises(ConfigError, match="there are none"):
        TrainOptions(patience=2, eval_every=0)


def test_an_early_stopped_run_resumed_ends_in_the_same_bytes(
    manager: ZenPersonalizationManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(create, "now", lambda: "2026-01-01T00:00:00Z")
    worse_after(33, monkeypatch)
    options: dict[str, Any] = {"steps": 40, "batch_size": 6, "valid": OTHERS, "eval_every": 1, "patience": 3}
    report = manager.create_profile("p", TEXTS, **options)
    whole, steps = report.path.read_bytes(), len(report.losses)
    assert 30 < report.metrics["steps"] < steps < 40
    manager.store.remove("p")
    stops = (5, steps - 2, steps - 1)
    for index, step in enumerate(stops):
        with pytest.raises(Interrupted):
            manager.create_profile("p", TEXTS, **options, resume=index > 0, on_event=at_step(step, interrupt))
    assert manager.create_profile("p", TEXTS, **options, resume=True).path.read_bytes() == whole
    entries = read(log_path(manager.home, "p"))
    assert [entry["step"] for entry in entries if entry["event"] == "step"] == list(range(1, steps + 1))
    assert [entry["event"] for entry in entries if entry["event"] in ("start", "resume", "done")] == [
        "start",
        *["resume"] * 3,
        "done",
    ]


def test_the_part_of_the_held_out_rows_that_is_looked_at() -> None:
    assert held_part([]) == []
    few = rows_of(5, 1)
    assert held_part(few) == few
    many = rows_of(1000, 1)
    part = held_part(many)
    assert len(part) == HELD_ROWS
    assert [many.index(row) for row in part][:3] == [0, 31, 62]
    long = rows_of(4, 1, 5000)
    assert held_part(long) == long[:1]


def test_what_is_kept_beside_a_profile(manager: ZenPersonalizationManager) -> None:
    home = manager.home
    report = manager.create_profile("p", TEXTS, steps=3, valid=OTHERS, eval_every=1)
    assert (report.log, report.plot, report.report) == (
        log_path(home, "p"),
        plot_path(home, "p"),
        report_path(home, "p"),
    )
    for path in (report.log, report.plot, report.report):
        assert path is not None
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    entries = [json.loads(line) for line in report.log.read_text().splitlines()]  # type: ignore[union-attr]
    assert [entry["event"] for entry in entries] == ["start", *["step", "evaluation"] * 3, "done"]
    assert all(np.isfinite(entry["loss"]) for entry in entries if "loss" in entry)
    assert report.plot.read_bytes().startswith(b"\x89PNG")  # type: ignore[union-attr]
    text = report.report.read_text()  # type: ignore[union-attr]
    assert text.count("## Prompt") == 3
    assert "How is 0?" in text
    assert set(report.metrics) >= {
        f"{which}_{key}" for which in ("base", "profile") for key in ("loss", "perplexity", "agreement")
    }
    assert report.metrics["profile_perplexity"] == pytest.approx(np.exp(report.metrics["profile_loss"]))

    manager.store.rename("p", "q")
    assert not any(path(home, "p").exists() for path in (log_path, plot_path, report_path))
    assert all(path(home, "q").exists() for path in (log_path, plot_path, report_path))
    manager.create_profile("q", TEXTS, steps=3, replace=True, records=False, valid="none")
    assert [path(home, "q").exists() for path in (log_path, plot_path, report_path)] == [True, False, False]
    manager.store.remove("q")
    assert not log_path(home, "q").exists()


def test_a_log_goes_on_after_the_last_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = RunLog(path)
    log.write("start", step=0)
    for step in (1, 2, 3):
        log.take(StepReport(step, 9, float("nan") if step == 2 else 1.0, 0.1, 0.0, 5, 0.1))
    log.take(Noted("not a number"))
    with path.open("a") as file:
        file.write('{"event": "ste')
    assert [entry.get("loss") for entry in read(path)] == [None, 1.0, None, 1.0]
    RunLog(path, 2).write("resume", step=2)
    assert [(entry["event"], entry["step"]) for entry in read(path)] == [
        ("start", 0),
        ("step", 1),
        ("step", 2),
        ("resume", 2),
    ]
    RunLog(path)
    assert read(path) == []
    path.unlink()
    log.write("step")  # a log that is gone does not end the run


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_run(
    manager: ZenPersonalizationManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    events: list[Any] = []

    def tell(event: Any) -> None:
        events.append(event)
        if isinstance(event, StepReport):
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000 if event.step < 3 else soft, hard))

    try:
        report = manager.create_profile("p", TEXTS, steps=3, checkpoint_s=0, on_event=tell)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [event.text.endswith("the run continues") for event in events if isinstance(event, Noted)] == [True, True]
    assert [event.step for event in events if isinstance(event, Saved)] == [3]
    assert report.path.is_file()


def test_sets_of_one_row_and_of_none(manager: ZenPersonalizationManager) -> None:
    one = manager.create_profile("one", TEXTS[:1], epochs=4)
    assert len(one.losses) == 4
    assert one.losses[-1] < one.losses[0]
    assert one.metrics["profile_loss"] is None
    for empty in ([], [""], [{"messages": [{"role": "user", "content": "hello"}]}]):
        with pytest.raises(DataError):
            manager.create_profile("empty", empty)
    unsupervised = {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}],
    }
    with pytest.raises(DataError):
        manager.create_profile("empty", [unsupervised])
    long = {"prompt": "a " * 200, "completion": "b"}
    with pytest.raises(DataError, match="max_length") as caught:
        manager.create_profile("empty", [long], max_length=16)
    assert caught.value.field == "max_length"
    assert manager.profiles() == ["one"]
    assert not run_dir(manager.home, "empty").exists()
