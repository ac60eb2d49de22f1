"""What one request, one stream or one file gets wrong is its own affair: everybody else's answers go on."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.adapter.test_resident_set import profile_of
from tests.unit.engine.test_backend import alone, finish, manager, text_of
from zen_mlx import ZenPersonalizationManager
from zen_mlx.codec.parts import encode_sign
from zen_mlx.config import Sampling
from zen_mlx.engine.request import Request
from zen_mlx.errors import InputError, QueueFull, TargetError
from zen_mlx.format.spec import DeltaTensor, Profile

__all__ = ["manager"]

FEW = Sampling(3, 0.0)


def test_iterating_again_ends_at_once(manager: ZenPersonalizationManager) -> None:
    stream = manager.stream("x", max_tokens=3, temperature=0.0)
    text_of(stream)
    ended = finish(stream)
    again = threading.Thread(target=lambda: text_of(stream), daemon=True)
    again.start()
    again.join(10)
    assert not again.is_alive()
    assert stream.finish is ended


@pytest.mark.parametrize(
    "request_",
    [
        Request([], sampling=FEW),
        Request([1, 258], sampling=FEW),
        Request([-1], sampling=FEW),
        Request([1], sampling=FEW, top_logprobs=258),
        Request([1], sampling=FEW, top_logprobs=-1),
    ],
)
def test_tokens_that_the_model_does_not_know(manager: ZenPersonalizationManager, request_: Request) -> None:
    with pytest.raises(InputError):
        manager.backend().open(request_)
    assert text_of(manager.backend().open(Request([0, 257], sampling=FEW, top_logprobs=257))) is not None


def test_a_grammar_that_fails_fails_its_own_request(manager: ZenPersonalizationManager) -> None:
    class Broken:
        def matcher(self) -> None:
            raise ZeroDivisionError

    other = manager.stream("b", max_tokens=40, temperature=0.0)
    with pytest.raises(ZeroDivisionError):
        text_of(manager.backend().open(Request([1], grammar=Broken())))  # type: ignore[arg-type]
    assert text_of(other) == alone(manager, "b", None, max_tokens=40, temperature=0.0)


def unknown(profile: Profile) -> None:
    profile.tensors["model.layers.77.self_attn.q_proj.weight"] = profile.tensors[next(iter(profile.tensors))]


def narrow(profile: Profile) -> None:
    delta = np.ones((32, 64), np.float32)
    profile.tensors["model.layers.0.self_attn.q_proj.weight"] = DeltaTensor((32, 64), tuple(encode_sign(delta, "row")))


@pytest.mark.parametrize("spoil", [unknown, narrow])
def test_a_profile_with_tensors_that_the_base_has_not(manager: ZenPersonalizationManager, spoil: object) -> None:
    profile = profile_of(manager.base.model, "sign", 5)
    spoil(profile)  # type: ignore[operator]
    manager.store.save("spoilt", profile)
    other = manager.stream("b", max_tokens=40, temperature=0.0)
    with pytest.raises(TargetError):
        text_of(manager.stream("x", profile="spoilt"))
    assert text_of(other) == alone(manager, "b", None, max_tokens=40, temperature=0.0)


def test_a_profile_replaced_while_its_request_waits(manager: ZenPersonalizationManager, tmp_path: Path) -> None:
    """Never the new file's answer under the old one's key, where it would be found again when the old one is back."""
    how = {"max_tokens": 20, "temperature": 0.0}
    old, new = (profile_of(manager.base.model, "sign", seed) for seed in (0, 77))
    want = {}
    for profile in (new, old):
        manager.store.save("one", profile, replace=True)
        want[id(profile)] = alone(manager, "x", "one", **how)
    backend = manager.backend()
    with backend._reading:
        waits = manager.stream("x", profile="one", **how)  # type: ignore[arg-type]
        manager.store.save("one", new, replace=True)
    assert text_of(waits) == want[id(new)] != want[id(old)]
    manager.store.save("one", old, replace=True)
    assert text_of(manager.stream("x", profile="one", **how)) == want[id(old)]  # type: ignore[arg-type]


def test_nothing_is_kept_for_requests_that_were_cancelled(manager: ZenPersonalizationManager) -> None:
    backend = manager.backend()
    with backend._reading:
        waits = manager.stream("x", profile="one")
        waits.cancel()
        text_of(waits)
    text_of(manager.stream("x", profile="two", max_tokens=2))
    assert backend._scheduler is not None
    assert not backend._scheduler._read
    assert backend.stats()["resident"] == 1


def test_cancelling_makes_room_in_the_queue(manager: ZenPersonalizationManager) -> None:
    backend = manager.backend(queue=4)
    stop, held = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        held.set()
        stop.wait()

    backend._tasks.put(hold)
    held.wait()
    streams = [manager.stream("x", max_tokens=2) for _ in range(4)]
    for stream in streams:
        stream.cancel()
    with pytest.raises(QueueFull) as caught:
        manager.stream("x")
    assert caught.value.found == 4
    stop.set()
    for stream in streams:
        text_of(stream)
    deadline = time.monotonic() + 10
    while backend.stats()["queued"]:
        assert time.monotonic() < deadline
    assert text_of(manager.stream("x", max_tokens=2)) is not None


def test_closing_waits_for_the_file_that_is_read(manager: ZenPersonalizationManager) -> None:
    """A thread that is in MLX when the interpreter ends takes the process with it."""
    backend, began, ended = manager.backend(), threading.Event(), threading.Event()
    load = manager.store.load

    def slow(name: str) -> Profile:
        began.set()
        time.sleep(0.3)
        ended.set()
        return load(name)

    manager.store.load = slow
    manager.stream("x", profile="one")
    manager.stream("x", profile="two")
    began.wait()
    backend.close(drain=False)
    assert ended.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "zen-profile"]


def test_one_stop_text_is_not_its_letters(manager: ZenPersonalizationManager) -> None:
    how = {"max_tokens": 60, "temperature": 0.0}
    plain = text_of(manager.stream("hello", **how))  # type: ignore[arg-type]
    stop = plain[5:8]
    stream = manager.stream("hello", stop=stop, **how)  # type: ignore[arg-type]
    assert text_of(stream) == plain[: plain.index(stop)]
    assert finish(stream).stop == stop


def test_profiles_without_room_are_not_all_read(manager: ZenPersonalizationManager) -> None:
    backend = manager.backend(max_profiles=1)
    backend.pin("one")
    text_of(manager.stream("x", profile="one", max_tokens=1))
    long = manager.stream("x", max_tokens=450, temperature=0.0)
    waiting = [manager.stream("x", profile=name, max_tokens=1) for name in ("two", "three", "four", "five")]
    scheduler = backend._scheduler
    assert scheduler is not None
    most = 0
    for _ in long:
        most = max(most, len(scheduler._read))
    assert most == 1
    for stream in waiting:
        stream.cancel()


@pytest.mark.parametrize("messages", [[], {"role": "user"}, [5], [{"content": "x"}], 5, None, [{"role": 1}]])
def test_what_is_no_conversation(manager: ZenPersonalizationManager, messages: Any) -> None:
    with pytest.raises(InputError, match="a list of turns") as caught:
        manager.stream(messages)
    assert caught.value.field == "messages"


@pytest.mark.parametrize("messages", ["a\ud800", [{"role": "user", "content": "\udfff"}]])
def test_half_a_character(manager: ZenPersonalizationManager, messages: Any) -> None:
    with pytest.raises(InputError, match="half of a character"):
        manager.stream(messages)
