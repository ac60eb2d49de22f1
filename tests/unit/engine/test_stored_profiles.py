"""Profiles whose files come, go and change while a backend uses them: what is kept of them goes too, answers stay whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.adapter.test_resident_set import profile_of
from zen_mlx import ZenPersonalizationManager
from zen_mlx.config import Sampling
from zen_mlx.engine import backend as backend_module
from zen_mlx.engine.decoding import generate
from zen_mlx.engine.stored_profiles import StoredProfiles
from zen_mlx.engine.stream import Stream
from zen_mlx.errors import ProfileNotFoundError
from zen_mlx.format import read


@pytest.fixture
def manager(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ZenPersonalizationManager]:
    monkeypatch.setattr(backend_module, "_WATCH_S", 0.05)
    made = ZenPersonalizationManager(str(tiny_model), home=tmp_path / "home")
    for seed, name in enumerate(("one", "two")):
        save(made, name, seed)
    yield made
    made.close()


def save(manager: ZenPersonalizationManager, name: str, seed: int) -> None:
    manager.store.save(name, profile_of(manager.base.model, "sign", seed), replace=True)


def ask(manager: ZenPersonalizationManager, name: str, tokens: int = 8) -> Stream:
    return manager.stream("hello", profile=name, max_tokens=tokens, temperature=0.0)


def text_of(stream: Stream) -> str:
    return "".join(piece.text for piece in stream)


def alone(manager: ZenPersonalizationManager, name: str, tokens: int = 8) -> str:
    with manager.using(name) as model:
        return generate(model, manager.tokenizer, "hello", Sampling(tokens, 0.0)).text


def until(true: Callable[[], bool]) -> None:
    limit = time.monotonic() + 10
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.01)


def kept(manager: ZenPersonalizationManager) -> tuple[list[str], int]:
    stats = manager.backend().stats()
    return stats["resident_names"], stats["cache_bytes"]


def test_a_removed_profile_is_let_go_by_itself(manager: ZenPersonalizationManager) -> None:
    text_of(ask(manager, "one"))
    assert kept(manager)[0] == ["one"]
    assert kept(manager)[1] > 0
    running = ask(manager, "one", 120)
    want = alone(manager, "one", 120)
    pieces = iter(running)
    began = next(pieces).text
    manager.store.path("one").unlink()
    with pytest.raises(ProfileNotFoundError):
        ask(manager, "one")
    assert began + "".join(piece.text for piece in pieces) == want
    until(lambda: kept(manager) == ([], 0))
    assert manager.backend().stats()["resident_bytes"] == 0


def test_a_replaced_profile_is_let_go_by_itself(manager: ZenPersonalizationManager) -> None:
    before = text_of(ask(manager, "one"))
    _, bytes_of_one = kept(manager)
    save(manager, "one", 7)
    assert text_of(ask(manager, "one")) == alone(manager, "one") != before
    until(lambda: kept(manager) == (["one"], bytes_of_one))


def test_a_file_that_is_replaced_before_it_is_read(
    manager: ZenPersonalizationManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read is never kept under the digest of what was there before."""
    old = manager.store.path("one").read_bytes()
    was, load = alone(manager, "one"), StoredProfiles.load
    go = threading.Event()

    def slow(self: StoredProfiles, name: str) -> object:
        assert go.wait(10)
        return load(self, name)

    monkeypatch.setattr(StoredProfiles, "load", slow)
    stream = ask(manager, "one")
    save(manager, "one", 7)
    go.set()
    assert text_of(stream) == alone(manager, "one") != was
    manager.store.path("one").write_bytes(old)
    assert text_of(ask(manager, "one")) == was


def test_forgotten_and_asked_for_again_while_it_answers(manager: ZenPersonalizationManager) -> None:
    want = alone(manager, "one", 120)
    first = ask(manager, "one", 120)
    pieces = iter(first)
    text = next(pieces).text
    manager.backend().forget("one")
    assert text_of(ask(manager, "one", 120)) == want
    assert text + "".join(piece.text for piece in pieces) == want
    assert kept(manager)[0] == ["one"]


def test_a_pin_stays_with_the_name(manager: ZenPersonalizationManager) -> None:
    backend = manager.backend(max_profiles=1)
    backend.pin("one")
    text_of(ask(manager, "one"))
    save(manager, "one", 7)
    text_of(ask(manager, "one"))
    assert backend.stats()["pinned_names"] == ["one"]
    until(lambda: kept(manager)[0] == ["one"])
    backend.pin("one", False)
    assert text_of(ask(manager, "two")) == alone(manager, "two")


def test_a_cancelled_request_leaves_nothing_read(
    manager: ZenPersonalizationManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, go = StoredProfiles.load, threading.Event()
    monkeypatch.setattr(StoredProfiles, "load", lambda self, name: (go.wait(10), load(self, name))[1])
    stream = ask(manager, "one")
    stream.cancel()
    text_of(stream)
    go.set()
    assert text_of(ask(manager, "two")) == alone(manager, "two")
    assert kept(manager)[0] == ["two"]


def test_a_header_is_read_again_only_when_its_file_has_changed(
    manager: ZenPersonalizationManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = StoredProfiles(manager.store, manager.base)
    reads: list[str] = []
    header = manager.store.header
    monkeypatch.setattr(manager.store, "header", lambda name: reads.append(name) or header(name))
    assert stored.names() == ["one", "two"]
    assert stored.facts("one").file_bytes == manager.store.path("one").stat().st_size
    assert stored.key("one") == read.read_header(manager.store.path("one")).sha256
    assert reads == ["one", "two"]
    save(manager, "one", 7)
    assert stored.key("one") == read.read_header(manager.store.path("one")).sha256
    assert reads == ["one", "two", "one"]
    manager.store.path("two").write_bytes(b"no profile")
    assert stored.names() == ["one"]
    manager.store.remove("one")
    with pytest.raises(ProfileNotFoundError):
        stored.load("one")


def test_a_file_without_a_digest_has_a_key_for_each_of_its_states(manager: ZenPersonalizationManager) -> None:
    stored = StoredProfiles(manager.store, manager.base)
    old = manager.store.path("one").with_name("old.bitdelta")
    keys = set()
    for seed in range(2):
        save(manager, "one", seed)
        manager.store.export("one", old, version=1, replace=True)
        keys.add(stored.key("old"))
    assert len(keys) == 2


def test_numbers_can_be_asked_for_while_everything_changes(manager: ZenPersonalizationManager) -> None:
    done, failed = threading.Event(), []

    def look() -> None:
        while not done.is_set():
            try:
                manager.backend().stats()
            except Exception as error:
                failed.append(error)
                return

    watcher = threading.Thread(target=look)
    manager.backend(max_profiles=1)
    watcher.start()
    for turn in range(12):
        text_of(ask(manager, ("one", "two")[turn % 2], 2))
    done.set()
    watcher.join()
    assert not failed
