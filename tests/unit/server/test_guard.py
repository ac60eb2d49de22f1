"""Who may call, with what: a real server, asked over real sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import Server, running

OWNER, GUEST = "zen-" + "o" * 20, "zen-" + "g" * 20
PAGE = "https://app.example"
EVIL = "http://evil.example"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Asks for a key, has another name and lets one page in."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{OWNER}\n{GUEST} cynic,base\n")
    keys.chmod(0o600)
    options = {
        "api_key_file": str(keys),
        "allow_host": ["Zen.Lan"],
        "allow_origin": [PAGE],
        "max_body_bytes": 1000,
        "max_upload_bytes": 5000,
        "request_timeout_s": 0.8,
        "body_timeout_s": 0.3,
    }
    with running(options) as server:
        yield server


@pytest.fixture(scope="module")
def plain() -> Iterator[Server]:
    """As it is without any option."""
    with running() as server:
        yield server


def owner(**more: str) -> dict[str, str]:
    return {"authorization": f"Bearer {OWNER}", **more}


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST", "localhost:8936", "127.0.0.1", "127.0.0.1:99", "127.9.9.9", "[::1]:1", "localhost."],
)
def test_names_of_this_machine_are_let_in(plain: Server, host: str) -> None:
    assert plain.ask(host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8936", "localhost.evil.example", "127.0.0.1.evil.example", "192.168.1.7", "8.8.8.8",
     "[2001:db8::1]", "zen.lan", "0.0.0.0", "evil.localhost", "evillocalhost", "2130706433", "127.1"],
)  # fmt: skip
def test_other_names_are_not(plain: Server, host: str) -> None:
    status, headers, body = plain.ask("/v1/models", host=host)
    assert status == 403
    assert json.loads(body)["error"]["code"] == "host_not_allowed"
    assert not [name for name in headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "host", ["", "localhost:", "localhost:x", "a b", "user@localhost", "localhost/x", "localhost,evil", "[::1"]
)
def test_an_empty_or_malformed_host_is_refused(plain: Server, host: str) -> None:
    assert plain.ask(host=host)[0] == 400


def test_no_host_or_two_or_a_whole_address_is_refused(plain: Server) -> None:
    for request in (
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.0\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ):
        with plain.connect(request) as connection:
            assert connection.recv(4096).startswith(b"HTTP/1.1 400 "), request


def test_a_name_that_was_allowed(locked: Server) -> None:
    assert locked.ask(host="zen.lan")[0] == 200
    assert locked.ask(host="ZEN.lan:80")[0] == 200
    assert locked.ask(host="x.zen.lan")[0] == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": EVIL},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://localhost:3000"},
        {"origin": "http://localhost.evil.example"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "script"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
    ],
    ids=str,
)
def test_a_page_of_another_origin_gets_nothing(plain: Server, headers: dict[str, str]) -> None:
    for path, method, body in (("/v1/models", "GET", None), ("/v1/chat/completions", "POST", {"model": "x"})):
        status, answer, text = plain.ask(path, method, body, **headers)
        assert status == 403
        assert b"bytes" not in text.replace(b"bytes ", b"")
        assert not [name for name in answer if name.startswith("access-control")]


def test_a_preflight_gets_no_leave(plain: Server) -> None:
    asked = {"origin": EVIL, "access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    status, headers, _ = plain.ask("/v1/chat/completions", "OPTIONS", **asked)
    assert status == 403
    assert not [name for name in headers if name.startswith("access-control")]


def test_our_own_page_is_let_in(plain: Server) -> None:
    own = f"http://localhost:{plain.port}"
    status, headers, _ = plain.ask(
        "/x", "POST", {}, host=f"localhost:{plain.port}", origin=own, sec_fetch_site="same-origin"
    )
    assert status == 200
    assert "access-control-allow-origin" not in headers
    assert plain.ask("/", sec_fetch_site="cross-site", sec_fetch_mode="navigate", sec_fetch_dest="document")[0] == 200


def test_answers_are_not_for_frames_or_other_sites(plain: Server) -> None:
    headers = plain.ask()[1]
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers


def test_an_allowed_page_is_told_so_also_in_errors(locked: Server) -> None:
    wanted = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-stainless-os"}
    status, headers, body = locked.ask("/v1/chat/completions", "OPTIONS", origin=PAGE, **wanted)
    assert (status, body) == (204, b"")
    assert headers["access-control-allow-origin"] == PAGE
    assert headers["access-control-allow-headers"] == "authorization,x-stainless-os"
    assert "POST" in headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in headers
    for given, wanted_status in ((owner(), 200), ({}, 401)):
        status, headers, _ = locked.ask("/v1/models", origin=PAGE, **given)
        assert status == wanted_status
        assert headers["access-control-allow-origin"] == PAGE
        assert headers["vary"] == "origin"
    assert locked.ask("/v1/models", origin=EVIL, **owner())[0] == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": OWNER},
        {"authorization": f"Basic {OWNER}"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": f"Bearer {OWNER[:-1]}"},
        {"authorization": f"Bearer {OWNER} x"},
        {"x-api-key": f"{OWNER}x"},
        {"x-api-key": ""},
        {"x-api-key": "\xff\xfe"},
        {"cookie": f"x-api-key={OWNER}"},
    ],
    ids=str,
)
def test_without_a_good_key_there_is_an_error_in_the_callers_dialect(locked: Server, headers: dict[str, str]) -> None:
    status, answer, body = locked.ask("/v1/chat/completions", "POST", {}, **headers)
    assert status == 401
    assert answer["www-authenticate"] == "Bearer"
    assert json.loads(body)["error"]["type"] == "authentication_error"
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        status, answer, body = locked.ask(path, "POST", {}, **headers)
        document = json.loads(body)
        assert (status, document["type"], document["error"]["type"]) == (401, "error", "authentication_error")
        assert document["request_id"] == answer["request-id"]
    assert locked.ask(f"/v1/models?key={OWNER}&api_key={OWNER}", **headers)[0] == 401


def test_either_header_carries_the_key(locked: Server) -> None:
    for headers in (owner(), {"authorization": f"bearer  {OWNER}"}, {"x-api-key": OWNER},
                    {"authorization": "Bearer dummy", "x-api-key": OWNER}):  # fmt: skip
        assert locked.ask("/v1/models", **headers)[0] == 200


def test_health_and_the_page_need_no_key(locked: Server) -> None:
    assert locked.ask("/health")[0] == locked.ask("/")[0] == 200
    for path in ("/metrics", "/openapi.json", "/health/", "//health", "/health/../v1/models", "/HEALTH"):
        assert locked.ask(path)[0] == 401, path
    assert locked.ask("/health", "POST", {})[0] == 401


def test_a_key_tells_the_app_its_profiles(locked: Server) -> None:
    assert json.loads(locked.ask("/v1/x", "POST", {}, **owner())[2])["profiles"] is None
    assert json.loads(locked.ask("/v1/x", "POST", {}, x_api_key=GUEST)[2])["profiles"] == ["base", "cynic"]


def test_admin_routes_need_a_whole_key_also_where_nothing_else_does(locked: Server, plain: Server) -> None:
    assert locked.ask("/admin/profiles", **owner())[0] == 200
    assert locked.ask("/admin/profiles", x_api_key=GUEST)[0] == 403
    assert locked.ask("/admin/profiles")[0] == 401
    for path in ("/admin", "/admin/", "/admin/profiles"):
        assert plain.ask(path)[0] == 401
        assert plain.ask(path, x_api_key=OWNER)[0] == 401
    assert plain.ask("/v1/models")[0] == 200


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=UTF-8", 200),
        ("application/json; charset=latin-1", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("", 415),
        ("text/plain, application/json", 415),
        ("application/octet-stream", 415),
    ],
)
def test_a_body_is_json(plain: Server, kind: str, status: int) -> None:
    assert plain.ask("/v1/x", "POST", b"{}", content_type=kind)[0] == status


def test_only_an_upload_may_be_bytes_and_larger(locked: Server) -> None:
    kind = "application/octet-stream"
    for path, method in (("/admin/profiles/x", "POST"),):
        assert locked.ask(path, method, bytes(4000), content_type=kind, **owner())[0] == 200
        assert locked.ask(path, method, bytes(5001), content_type=kind, **owner())[0] == 413
    assert locked.ask("/v1/x", "POST", bytes(10), content_type=kind, **owner())[0] == 415
    assert locked.ask("/admin/profiles/x", "POST", bytes(10), content_type="", **owner())[0] == 200  # as curl -T does
    assert b"bytes" in locked.ask("/admin/profiles/x", "POST", bytes(10), content_type="text/plain", **owner())[2]


def _chunked(size: int, path: str = "/v1/x") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nx-api-key: {OWNER}\r\nContent-Type: application/json\r\n"
    chunk = b"64\r\n" + b"x" * 100 + b"\r\n"
    return head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * (size // 100) + b"0\r\n\r\n"


def test_a_body_has_a_limit_also_in_chunks(locked: Server) -> None:
    assert locked.ask("/v1/x", "POST", bytes(1000), **owner())[0] == 200
    status, _, body = locked.ask("/v1/x", "POST", bytes(1001), **owner())
    assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")
    status, _, body = locked.ask("/v1/messages", "POST", bytes(1001), **owner())
    assert json.loads(body)["error"]["type"] == "request_too_large"
    for size, wanted in ((1000, b"200"), (1100, b"413"), (50_000, b"413")):
        with locked.connect(_chunked(size)) as connection:
            answer = connection.recv(65536)
            assert answer[9:12] == wanted
            assert b"never seen" not in answer


def test_a_large_body_is_not_waited_for(locked: Server) -> None:
    head = f"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nx-api-key: {OWNER}\r\nContent-Type: application/json\r\n"
    with locked.connect(f"{head}Content-Length: 100000000\r\nExpect: 100-continue\r\n\r\n".encode()) as connection:
        assert connection.recv(4096)[9:12] == b"413"


def test_a_body_that_does_not_come_is_408(locked: Server) -> None:
    head = f"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nx-api-key: {OWNER}\r\nContent-Type: application/json\r\n"
    for rest in (b'Content-Length: 100\r\n\r\n{"a', b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"mod\r\n'):
        with locked.connect(head.encode() + rest) as connection:
            answer = b""
            while piece := connection.recv(4096):
                answer += piece
        assert answer[9:12] == b"408"
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["type"] == "error"


def test_an_answer_has_a_deadline(locked: Server) -> None:
    status, _, body = locked.ask("/hang", **owner())
    assert (status, json.loads(body)["error"]["code"]) == (504, "timeout")
    with locked.connect(
        f"GET /slower HTTP/1.1\r\nHost: localhost\r\nx-api-key: {OWNER}\r\n\r\n".encode()
    ) as connection:
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"0 " in answer
    assert not answer.endswith(b"0\r\n\r\n")


def test_the_log_has_a_line_for_each_request_and_no_secret(locked: Server, tmp_path: Path) -> None:
    answer = locked.ask("/v1/x%0aforged?prompt=tell-me", "POST", {"prompt": "my secret"}, **owner())
    line = locked.wait_for(answer[1]["x-request-id"])
    assert line.split()[2:5] == ["POST", "/v1/x%0Aforged", "200"]
    assert line.endswith("ms 7")
    locked.ask("/broken", **owner())
    assert "ValueError" in locked.wait_for("error Exception in ASGI application")
    whole = "\n".join(locked.log)
    for secret in (OWNER, GUEST, "tell-me", "my secret", "prompt", "\nforged"):
        assert secret not in whole
