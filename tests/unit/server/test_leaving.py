"""Clients that leave: their answers end, and nothing is said about it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from served import Live

ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "n": 2},
    "/v1/completions": {"model": "tiny", "prompt": "Hi", "max_tokens": 1000},
    "/v1/responses": {"model": "tiny", "input": "Hi"},
    "/v1/messages": {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1000},
    "/api/chat": {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]},
}


def until(true: Callable[[], bool]) -> None:
    limit = time.monotonic() + 5
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.01)


def request(live: Live, route: str, body: bytes, length: int | None = None) -> socket.socket:
    """A connection on which a request was sent."""
    place = urlsplit(live.url)
    connection = socket.create_connection((place.hostname, place.port))
    head = f"POST {route} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    connection.sendall(f"{head}content-length: {length or len(body)}\r\n\r\n".encode() + body)
    return connection


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("route", ROUTES)
def test_an_answer_ends_when_its_reader_leaves(
    live: Live, route: str, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    live.backend.says, live.backend.step, live.backend.slow_s = "a" * 900, 1, 0.02
    connection = request(live, route, json.dumps(ROUTES[route] | {"stream": stream}).encode())
    until(lambda: bool(live.backend.given) and live.backend.given[-1].sent > 3)
    connection.close()
    until(lambda: all(each.cancelled for each in live.backend.given))
    made = [each.sent for each in live.backend.given]
    time.sleep(0.1)
    assert all(
        after - before <= 1 for before, after in zip(made, (each.sent for each in live.backend.given), strict=True)
    )
    assert len(made) == ROUTES[route].get("n", 1)
    assert not caplog.records
    assert live.http.get("/health").status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_reader_may_leave_in_the_prefill(live: Live, stream: bool) -> None:
    live.backend.first_s = 30
    body = ROUTES["/v1/responses"] | {"stream": stream}
    connection = request(live, "/v1/responses", json.dumps(body).encode())
    until(lambda: bool(live.backend.given))
    connection.close()
    until(lambda: live.backend.given[0].cancelled)


@pytest.mark.parametrize("route", ROUTES)
def test_a_client_that_leaves_within_its_body(live: Live, route: str, caplog: pytest.LogCaptureFixture) -> None:
    request(live, route, b'{"model": "ti', length=1000).close()
    time.sleep(0.1)
    assert live.http.get("/health").status_code == 200
    assert not caplog.records
    assert not live.backend.asked


def test_one_that_cannot_be_opened_ends_the_others(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = live.backend.open

    def second_is_full(request: Any) -> Any:
        live.backend.full = len(live.backend.given) == 1
        return opened(request)

    monkeypatch.setattr(live.backend, "open", second_is_full, raising=False)
    assert live.http.post("/v1/chat/completions", json=ROUTES["/v1/chat/completions"]).status_code == 429
    assert [each.cancelled for each in live.backend.given] == [True]
