"""The life of a server process: its URL, a taken port, signals at every moment, and its exit codes."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from server_process import SELF, Server, running, stop_often

from zen_mlx.config import ServeOptions
from zen_mlx.errors import InputError
from zen_mlx.server import run
from zen_mlx.server.bind import bind

SLOW = b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n"
SLOWER = b"GET /slower HTTP/1.1\r\nHost: localhost\r\n\r\n"


def started(server: Server, request: bytes) -> socket.socket:
    """A connection on which the answer to `request` has begun."""
    connection = server.connect(request)
    assert connection.recv(1) == b"H"
    return connection


def rest_of(connection: socket.socket) -> bytes:
    text = b""
    while piece := connection.recv(4096):
        text += piece
    connection.close()
    return text


def refused(options: ServeOptions) -> InputError:
    """Why this process cannot serve, said before anything is loaded; its signal handlers are what they were."""
    handlers = [signal.getsignal(number) for number in run.SIGNALS]
    with pytest.raises(InputError) as caught:
        run.serve(options, lambda: pytest.fail("it loads"), on_ready=pytest.fail, on_log=pytest.fail)
    assert [signal.getsignal(number) for number in run.SIGNALS] == handlers
    assert caught.value.exit_code == 2
    return caught.value


def test_port_0_is_printed_and_answers() -> None:
    with running() as first, running() as second:
        assert first.port != second.port
        assert first.ask()[0] == second.ask()[0] == 200
        assert first.stop() == 0


def test_a_stop_lets_running_answers_end_and_takes_nothing_new() -> None:
    with running() as server:
        stream, idle = started(server, SLOW), server.connect()
        half = server.connect(b"GET /hea")
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.4)
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        for quiet in (idle, half):
            assert quiet.recv(1) == b""
            quiet.close()
        text = rest_of(stream)
        assert b"9 " in text
        assert text.endswith(b"done\r\n0\r\n\r\n")
        assert server.process.wait(5) == 0
        assert time.monotonic() - began < 3


def test_a_stop_is_always_0() -> None:
    assert stop_often(2) == [0, 0]


def test_after_the_drain_answers_are_ended_and_say_so() -> None:
    with running({"drain_s": 0.3}) as server:
        stream = started(server, SLOWER)
        assert server.stop() == 0
        assert rest_of(stream).endswith(b"interrupted\r\n0\r\n\r\n")


def test_an_answer_that_nobody_can_end_does_not_keep_the_process() -> None:
    with running({"drain_s": 0}) as server:
        connection = server.connect(b"GET /deaf HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.2)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 7
        connection.close()


@pytest.mark.parametrize(("first", "second"), [(signal.SIGTERM, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM)])
def test_a_second_signal_ends_at_once(first: int, second: int) -> None:
    with running() as server:
        stream = started(server, SLOWER)
        server.process.send_signal(first)
        time.sleep(0.3)
        assert server.process.poll() is None
        began = time.monotonic()
        assert server.stop(second) == 130
        assert time.monotonic() - began < 1
        stream.close()


def test_ctrl_c_drains_too_and_is_130() -> None:
    with running() as server:
        stream = started(server, SLOW)
        server.process.send_signal(signal.SIGINT)
        assert rest_of(stream).endswith(b"done\r\n0\r\n\r\n")
        assert server.process.wait(5) == 130


def test_when_decoding_has_stopped_it_leaves_for_its_service_manager_to_start_again() -> None:
    with running() as server:
        stream = started(server, SLOW)
        assert server.ask("/dead")[0] == 500
        assert rest_of(stream).endswith(b"done\r\n0\r\n\r\n")
        assert server.process.wait(5) == 1
        assert "the server leaves" in server.wait_for("decoding stopped with ValueError")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_while_it_loads_ends_at_once(number: int, code: int) -> None:
    with running(command=[*SELF, '{"port": 0}', "30"], ready=False) as server:
        server.wait_for("loading")
        began = time.monotonic()
        assert server.stop(number) == code
        assert time.monotonic() - began < 2


def test_no_connection_is_taken_while_it_loads() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with running(command=[*SELF, json.dumps({"port": port}), "1"], ready=False) as server:
        server.wait_for("loading")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


def test_a_taken_port_names_itself_and_its_owner() -> None:
    with running() as server:
        error = refused(ServeOptions(port=server.port))
        assert error.message.startswith(f"port {server.port} is taken")
        assert "--port 0" in str(error.hint)
        if Path("/proc/net/tcp").exists():
            assert f"(process {server.process.pid})" in error.message
        command = [*SELF, json.dumps({"port": server.port})]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"zen: error: port {server.port} is taken")
        assert server.ask()[0] == 200


def test_two_that_start_at_once_do_not_share_a_port() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*SELF, json.dumps({"port": port}), "1"]
    with running(command=command, ready=False) as first, running(command=command, ready=False) as second:
        first.port = second.port = port
        end = time.monotonic() + 15
        while first.process.poll() is None and second.process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        gone, stays = (second, first) if first.process.poll() is None else (first, second)
        assert gone.process.wait(1) == 2
        gone.wait_for(f"port {port} is taken")
        assert stays.ask()[0] == 200
        assert stays.stop() == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"host": "0.0.0.0"}, "lets other machines in"),
        ({"host": "::"}, "lets other machines in"),
        ({"host": ""}, "is not an address"),
        ({"host": "no-such-host.invalid"}, "is not an address"),
        ({"host": "127.0.0.1", "api_key_file": "/nowhere/keys"}, "the key file cannot be used"),
        ({"allow_origin": ("*",)}, "not the origin of a page"),
        ({"host": "203.0.113.9", "api_key_file": "KEYS"}, "cannot listen on 203.0.113.9"),
    ],
    ids=str,
)
def test_what_cannot_be_is_told_with_a_way_out(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    if options.get("api_key_file") == "KEYS":
        keys = tmp_path / "keys"
        keys.write_text("zen-" + "k" * 20)
        keys.chmod(0o600)
        options = {**options, "api_key_file": str(keys)}
    error = refused(ServeOptions(**{"port": 0, **options}))
    assert said in str(error)
    if "lets" in said:
        assert "zen serve --new-key FILE" in str(error.hint)


def test_with_a_key_other_machines_are_let_in_by_the_address_they_reached(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("zen-" + "k" * 20)
    keys.chmod(0o600)
    with running({"host": "0.0.0.0", "api_key_file": str(keys)}) as server:
        assert server.ask()[0] == 200
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))
            own = probe.getsockname()[0]
        with socket.create_connection((own, server.port)) as connection:
            connection.sendall(f"GET /health HTTP/1.1\r\nHost: {own}:{server.port}\r\n\r\n".encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert server.ask(host=own)[0] == (200 if own.startswith("127.") else 403)


def test_a_reader_of_the_log_that_leaves_takes_nothing_with_it() -> None:
    command = [*SELF, '{"port": 0}']
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        server = Server(process, int(process.stdout.readline().rpartition(":")[2]))
        process.stderr.close()
        try:
            assert [server.ask()[0] for _ in range(3)] == [200] * 3
            assert server.stop() == 0
        finally:
            process.kill()


def test_other_spellings_of_this_machine() -> None:
    with running({"host": "localhost"}) as server:
        assert server.ask()[0] == 200
    if socket.has_ipv6 and Path("/proc/net/if_inet6").exists():
        with running({"host": "::1"}) as server, socket.create_connection(("::1", server.port)) as connection:
            connection.sendall(f"GET /health HTTP/1.1\r\nHost: [::1]:{server.port}\r\n\r\n".encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_pieces_of_an_answer_do_not_wait_for_each_other() -> None:
    with bind(ServeOptions(port=0)) as bound:
        assert bound.proto == socket.IPPROTO_TCP
