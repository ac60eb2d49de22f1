"""The thread that decodes for everybody: from many threads and loops, with profiles that come, go and do not fit."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.adapter.test_resident_set import profile_of
from zen_mlx import ZenPersonalizationManager
from zen_mlx.config import Sampling
from zen_mlx.engine import backend as backends
from zen_mlx.engine.backend import Backend
from zen_mlx.engine.decoding import generate
from zen_mlx.engine.request import Finish, Request
from zen_mlx.engine.stream import Stream
from zen_mlx.errors import FormatError, InputError, MemoryLimitError, ProfileNotFoundError, QueueFull, ZenError

KINDS = {"one": "sign", "two": "sign", "three": "planes", "four": "factor", "five": "all"}


@pytest.fixture
def manager(tiny_model: Path, tmp_path: Path) -> Iterator[ZenPersonalizationManager]:
    made = ZenPersonalizationManager(str(tiny_model), home=tmp_path / "home")
    for seed, (name, kind) in enumerate(KINDS.items()):
        save(made, name, kind, seed)
    yield made
    made.close()


def save(manager: ZenPersonalizationManager, name: str, kind: str, seed: int) -> None:
    profile = profile_of(manager.base.model, kind, seed)
    manager.store.save(name, profile, replace=True)


def text_of(stream: Stream) -> str:
    return "".join(piece.text for piece in stream)


def finish(stream: Stream) -> Finish:
    assert stream.finish is not None
    return stream.finish


def alone(manager: ZenPersonalizationManager, prompt: str, name: str | None, **sampling: object) -> str:
    with manager.using(name) as model:
        return generate(model, manager.tokenizer, prompt, Sampling(**sampling)).text  # type: ignore[arg-type]


def test_answers_from_many_threads_are_those_of_one_stream(manager: ZenPersonalizationManager) -> None:
    cases = [
        (f"question {i}", [None, *KINDS][i % 6], {"max_tokens": 20, "temperature": 0.9, "seed": i}) for i in range(18)
    ]
    found: dict[int, str] = {}

    def ask(index: int) -> None:
        prompt, name, sampling = cases[index]
        found[index] = text_of(manager.stream(prompt, profile=name, **sampling))

    manager.backend(streams=8, max_profiles=3)  # fewer slots than profiles: some wait for room
    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(cases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    manager.close()
    assert found == {i: alone(manager, prompt, name, **sampling) for i, (prompt, name, sampling) in enumerate(cases)}


def test_asyncio_and_counts(manager: ZenPersonalizationManager) -> None:
    async def ask(name: str | None) -> tuple[str, Finish]:
        turns = [{"role": "user", "content": "hello"}]
        stream = await manager.stream_async(turns, profile=name, max_tokens=9, temperature=0.0)
        text = "".join([piece.text async for piece in stream])
        return text, finish(stream)

    async def both() -> list[tuple[str, Finish]]:
        return await asyncio.gather(ask("one"), ask(None))

    (one, of_one), (base, _) = asyncio.run(both())
    assert one == alone(manager, "hello", "one", max_tokens=9, temperature=0.0)
    assert base == alone(manager, "hello", None, max_tokens=9, temperature=0.0)
    assert of_one.completion_tokens <= 9
    stats = manager.backend().stats()
    assert (stats["requests"], stats["running"], stats["queued"]) == (2, 0, 0)


def test_cancelling_ends_within_two_tokens_and_leaves_others_alone(manager: ZenPersonalizationManager) -> None:
    other = manager.stream("b", max_tokens=60, temperature=0.0)
    stream = manager.stream("a", profile="two", max_tokens=10_000, temperature=0.0)
    seen = 0
    for piece in stream:
        seen += piece.tokens
        if seen == 5:
            stream.cancel()
    assert finish(stream).finish_reason == "interrupted"
    assert text_of(other) == alone(manager, "b", None, max_tokens=60, temperature=0.0)
    waits = manager.stream("c", max_tokens=5)
    waits.cancel()
    waits.cancel()
    text_of(waits)
    assert finish(waits).finish_reason in ("interrupted", "stop", "length")


def test_a_profile_replaced_while_it_answers(manager: ZenPersonalizationManager) -> None:
    want = alone(manager, "hello", "one", max_tokens=200, temperature=0.0)
    backend = manager.backend()
    stream = manager.stream("hello", profile="one", max_tokens=200, temperature=0.0)
    pieces = iter(stream)
    began = next(pieces).text
    save(manager, "one", "sign", 77)
    backend.forget("one")
    new = text_of(manager.stream("hello", profile="one", max_tokens=20, temperature=0.0))
    assert began + "".join(piece.text for piece in pieces) == want
    assert new == alone(manager, "hello", "one", max_tokens=20, temperature=0.0) != want[: len(new)]
    manager.store.remove("one")
    backend.forget("one")
    with pytest.raises(ProfileNotFoundError):
        manager.stream("hello", profile="one")
    deadline = time.monotonic() + 10
    while backend.stats()["resident"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_profile_that_cannot_share_a_batch_has_one_for_itself(tiny_model: Path, tmp_path: Path) -> None:
    """An embedding with a sign plane: nothing in a batch can take it for some rows only."""
    import numpy as np

    from zen_mlx.codec.parts import encode_sign
    from zen_mlx.format.spec import DeltaTensor

    manager = ZenPersonalizationManager(str(tiny_model), home=tmp_path / "home")
    save(manager, "shared", "sign", 1)
    profile = profile_of(manager.base.model, "sign", 2)
    shape = tuple(manager.model.model.embed_tokens.weight.shape)
    delta = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * 0.02
    profile.tensors["model.embed_tokens.weight"] = DeltaTensor(shape, tuple(encode_sign(delta, "row")))
    manager.store.save("lonely", profile)
    names = ["shared", "lonely", None, "lonely", "shared", "lonely"]
    streams = [manager.stream(f"q{i}", profile=name, max_tokens=8, temperature=0.0) for i, name in enumerate(names)]
    found = [text_of(stream) for stream in streams]
    manager.close()
    assert found == [alone(manager, f"q{i}", name, max_tokens=8, temperature=0.0) for i, name in enumerate(names)]


def test_what_is_refused(manager: ZenPersonalizationManager, tmp_path: Path) -> None:
    with pytest.raises(ProfileNotFoundError):
        manager.stream("hello", profile="nobody")
    backend = manager.backend(queue=2)
    assert backend.profiles() == sorted(KINDS)
    with pytest.raises(InputError, match="longer than the model's context"):
        backend.open(Request([1] * backend.context))
    room = backend.open(Request([1] * (backend.context - 3), sampling=Sampling(100, 0.0)))
    text_of(room)
    assert finish(room).completion_tokens <= 3
    path = manager.store.path("two")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError):
        text_of(manager.stream("hello", profile="two"))
    assert text_of(manager.stream("hello", profile="one", max_tokens=3)) is not None
    held: list[Stream] = []

    def one_more_for_ever() -> None:
        while True:
            held.append(manager.stream("x", max_tokens=5000, temperature=0.0))

    with pytest.raises(QueueFull) as caught:
        one_more_for_ever()
    assert caught.value.retry_after > 0
    for stream in held:
        stream.cancel()


def test_pinned_profiles_leave_no_room(manager: ZenPersonalizationManager) -> None:
    backend = manager.backend(max_profiles=1)
    backend.pin("one")
    text_of(manager.stream("x", profile="one", max_tokens=2))
    with pytest.raises(MemoryLimitError, match="pinned"):
        text_of(manager.stream("x", profile="two", max_tokens=2))
    backend.pin("one", False)
    text_of(manager.stream("x", profile="two", max_tokens=2))


def test_closing_drains_or_interrupts(manager: ZenPersonalizationManager) -> None:
    stream = manager.stream("x", max_tokens=30, temperature=0.0)
    backend = manager.backend()
    backend.close()
    assert text_of(stream) == alone(manager, "x", None, max_tokens=30, temperature=0.0)
    with pytest.raises(QueueFull, match="stopping"):
        manager.stream("x")
    manager.close()
    stream = manager.stream("x", max_tokens=100_000, temperature=0.0)
    next(iter(stream))
    manager.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "zen-decode"]


def test_a_base_that_cannot_be_loaded_is_told_to_the_caller() -> None:
    def broken() -> tuple[object, object]:
        raise InputError("no base")

    with pytest.raises(InputError, match="no base"):
        Backend("x", broken, None, streams=1, queue_limit=1, most_profiles=1, cache_bytes=0)  # type: ignore[arg-type]


def test_an_error_while_decoding_is_told_to_everybody(manager: ZenPersonalizationManager) -> None:
    backend = manager.backend()
    streams = [manager.stream("x", max_tokens=5000, temperature=0.0) for _ in range(3)]
    next(iter(streams[0]))
    assert backend._scheduler is not None

    def fails() -> None:
        raise MemoryError

    backend._scheduler.step = fails  # type: ignore[method-assign]
    for stream in streams[1:]:
        with pytest.raises(MemoryError):
            text_of(stream)
    assert backend.failed == "MemoryError"
    with pytest.raises(ZenError, match="decoding stopped"):
        manager.stream("x")


def test_memory_is_given_back_once_in_each_pause(
    manager: ZenPersonalizationManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr(backends, "_PAUSE_S", 0.1)
    monkeypatch.setattr(backends, "give_back", lambda: given.append(1))
    manager.backend()
    for pauses in (1, 2, 3):  # the first before anybody has asked
        if pauses > 1:
            text_of(manager.stream("x", max_tokens=40, temperature=0.0))
        end = time.monotonic() + 20
        while len(given) < pauses and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.4)
        assert len(given) == pauses
