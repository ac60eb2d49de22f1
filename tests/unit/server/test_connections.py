"""Half-open and idle connections, clients that take nothing, too many connections: a real server with short times."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator

import pytest
from server_process import HALVES, Server, half_open, running

from zen_mlx.config import ServeOptions
from zen_mlx.server.connections import LINGER_S

OK = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD_S, BODY_S, IDLE_S, STALL_S = 0.6, 0.4, 0.8, 0.7
SLACK_S = 3.0


@pytest.fixture(scope="module")
def hasty() -> Iterator[Server]:
    """Waits for nobody."""
    times = {"header_timeout_s": HEAD_S, "body_timeout_s": BODY_S, "idle_timeout_s": IDLE_S, "stall_timeout_s": STALL_S}
    with running(times) as server:
        yield server


def seconds_open(connection: socket.socket) -> float:
    """Until the server closes it."""
    began = time.monotonic()
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - began


def test_by_default_a_half_open_connection_has_less_than_30_seconds() -> None:
    times = ServeOptions()
    assert max(times.header_timeout_s, times.body_timeout_s + LINGER_S) < 30


def test_every_half_of_a_request_is_closed_in_time(hasty: Server) -> None:
    took = half_open(hasty, each=3, seconds=HEAD_S + SLACK_S)
    assert set(took) == set(HALVES)
    for name, seconds in took.items():
        assert seconds >= (BODY_S if "body" in name else HEAD_S) - 0.05, name
    assert hasty.ask()[0] == 200


def test_bytes_that_trickle_in_buy_no_time(hasty: Server) -> None:
    for start in (b"G", OK + b"G"):
        began = time.monotonic()
        with hasty.connect(start) as connection:
            connection.settimeout(0.1)
            closed = False
            while not closed and time.monotonic() < began + 3:
                try:
                    connection.sendall(b"E")
                    closed = connection.recv(4096) == b""
                except TimeoutError:
                    continue
                except ConnectionError:
                    closed = True
        assert closed
        assert time.monotonic() - began < HEAD_S + SLACK_S


def test_a_body_nobody_reads_is_not_waited_for(hasty: Server) -> None:
    request = (
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    )
    with hasty.connect(request) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.settimeout(0.1)
        began, closed = time.monotonic(), False
        while not closed and time.monotonic() < began + LINGER_S + SLACK_S:
            try:
                connection.sendall(b"x")
                closed = connection.recv(4096) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                closed = True
        assert closed


def test_an_idle_connection_is_closed_and_used_before(hasty: Server) -> None:
    with hasty.connect() as connection:
        for _ in range(3):
            connection.sendall(OK)
            text = b""
            while not text.endswith(b"0\r\n\r\n"):
                text += connection.recv(4096)
            assert text.startswith(b"HTTP/1.1 200")
            time.sleep(IDLE_S / 4)
        assert IDLE_S / 2 < seconds_open(connection) < IDLE_S + SLACK_S


def test_requests_in_one_go_are_answered_in_order(hasty: Server) -> None:
    with hasty.connect(OK * 3) as connection:
        text, end = b"", time.monotonic() + 3
        while text.count(b"HTTP/1.1 200") < 3 and time.monotonic() < end:
            text += connection.recv(4096)
        assert text.count(b"HTTP/1.1 200") == 3


def test_a_client_that_takes_nothing_is_left(hasty: Server) -> None:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with connection:
        connection.connect(("127.0.0.1", hasty.port))
        connection.sendall(b"GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert "/flood 200" in hasty.wait_for("GET /flood", STALL_S + SLACK_S)


def test_a_slow_stream_is_no_half_open_connection(hasty: Server) -> None:
    with hasty.connect(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n") as connection:
        text = b""
        while b"done" not in text:
            piece = connection.recv(4096)
            assert piece, text
            text += piece


@pytest.mark.parametrize(
    "data",
    [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"\x00" * 100, b"GET / HTTP/9.9\r\n\r\n", b"A" * 70_000,
     b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
     b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
     b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
     b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
     OK + b"nonsense\r\n\r\n"],
    ids=range(10),
)  # fmt: skip
def test_what_is_not_http_ends_the_connection_alone(hasty: Server, data: bytes) -> None:
    with hasty.connect(data) as connection:
        assert seconds_open(connection) < HEAD_S + SLACK_S
    assert hasty.ask()[0] == 200
    assert not [line for line in hasty.log if "Traceback" in line]


def test_a_client_that_leaves_leaves_no_trace_in_the_log(hasty: Server) -> None:
    before = len([line for line in hasty.log if " error " in line])
    for data in (HALVES["body"], HALVES["chunked body"], b"GET /slower HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        connection = hasty.connect(data)
        time.sleep(0.05)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    time.sleep(0.2)
    assert hasty.ask()[0] == 200
    assert len([line for line in hasty.log if " error " in line]) == before


def test_half_open_connections_keep_nobody_out() -> None:
    with running({"max_connections": 4, "max_connections_per_peer": 4, "header_timeout_s": 20}) as server:
        opened = [server.connect(data) for data in (b"", b"GET /hea") for _ in range(10)]
        for _ in range(10):
            assert server.ask()[0] == 200
        alive = 0
        for connection in opened:
            connection.setblocking(False)
            try:
                alive += connection.recv(1) != b""
            except BlockingIOError:
                alive += 1
            except ConnectionError:
                pass
            connection.close()
        assert alive <= 4


@pytest.mark.parametrize("limit", ["max_connections", "max_connections_per_peer"])
def test_where_every_connection_is_at_work_the_next_is_told(limit: str) -> None:
    with running({limit: 2}) as server:
        streams = [server.connect(b"GET /slower HTTP/1.1\r\nHost: localhost\r\n\r\n") for _ in range(2)]
        assert all(stream.recv(1) for stream in streams)
        with server.connect(OK) as third:
            answer = third.recv(4096)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in answer
        streams.pop().close()
        time.sleep(0.3)
        assert server.ask()[0] == 200
        streams.pop().close()
