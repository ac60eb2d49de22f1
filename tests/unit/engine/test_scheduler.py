"""What happens between two steps of the batch."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from zen_mlx.adapter.resident import Resident
from zen_mlx.base.load import load_base
from zen_mlx.bench.synthetic import random_profile
from zen_mlx.config import Sampling
from zen_mlx.engine import scheduler as module
from zen_mlx.engine.batch import Batch
from zen_mlx.engine.request import Request
from zen_mlx.engine.scheduler import Scheduler
from zen_mlx.engine.stream import Stream


def test_a_profile_is_ready_after_a_few_steps_however_long_they_take(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = load_base(str(tiny_model))
    made = {name: Resident.from_profile(random_profile(model, name, seed)) for seed, name in enumerate("ab")}
    scheduler = Scheduler(model, tokenizer, lambda name, done: done(made[name]), 4, 4, None, 0)
    sampling = Sampling(max_tokens=400, temperature=0.0)

    def open_and_count(name: str) -> int:
        scheduler.open(Stream(Request([1, 2, 3], name, sampling), name, lambda _: None))
        steps, wanted = 0, scheduler.stats()["resident"] + 1
        while scheduler.stats()["resident"] < wanted:
            scheduler.step()
            steps += 1
        return steps

    open_and_count("a")
    while not scheduler.stats()["running"]:
        scheduler.step()
    settle = Batch.settle

    def slowly(batch: Batch) -> None:
        settle(batch)
        time.sleep(0.3)

    monkeypatch.setattr(module, "_BETWEEN_S", 0.2)
    monkeypatch.setattr(Batch, "settle", slowly)
    assert open_and_count("b") < len(made["b"].tensors) / 2
    assert scheduler.stats()["running"] >= 1  # with nobody waiting for a token there is no limit
    scheduler.stop(False)
    scheduler.close()
