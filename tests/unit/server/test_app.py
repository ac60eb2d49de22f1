"""What belongs to no dialect: models, health, metrics, request ids, the OpenAPI document, hostile names."""

from __future__ import annotations

import json
import random
import string
from typing import Any
from urllib.parse import quote

import pytest
from canned_backend import CannedBackend
from fastapi.testclient import TestClient
from mlx_lm.tokenizer_utils import TokenizerWrapper
from served import Live
from starlette.types import ASGIApp, Receive, Scope, Send

from zen_mlx.errors import (
    BaseMismatchError,
    FormatError,
    InputError,
    MemoryLimitError,
    NameInvalidError,
    ProfileNotFoundError,
    ZenError,
)
from zen_mlx.server.app import create_app

ASK = [{"role": "user", "content": "private words"}]
NAMES = [
    "",
    "@",
    "tiny@",
    "@cynic",
    "tiny@cynic@cynic",
    "cynic@tiny",
    "tiny@tiny",
    "TINY",
    " tiny",
    "tiny ",
    "base",
    "none",
]
NAMES += [
    "../cynic",
    "tiny@../cynic",
    "tiny@..",
    "/etc/passwd",
    "tiny@/etc/passwd",
    "tiny@%2e%2e",
    "tiny@cynic.bitdelta",
]
NAMES += ["tiny@cynic\x00", "tiny@cynic\n", "tiny@\u202ecinyc", "tiny@ｃynic", "a" * 500, "tiny@" + "a" * 65, "nobody"]
NAMES += ["'; drop table", "{{7*7}}", "<script>", "tiny@*", "C:\\cynic", "con", "~", ".", "..", "-", "_x"]
LETTERS = random.Random(17)
NAMES += ["".join(LETTERS.choices(string.printable, k=LETTERS.randrange(1, 40))) for _ in range(165)]
CHAT = "/v1/chat/completions"


def test_models(live: Live) -> None:
    document = live.http.get("/v1/models").json()
    assert [(each["id"], each["parent"]) for each in document["data"]] == [
        ("tiny", None),
        ("tiny@cynic", "tiny"),
        ("tiny@hacker", "tiny"),
    ]
    for name in ("cynic", "tiny@cynic"):
        assert live.http.get(f"/v1/models/{name}").json() == document["data"][1]
    assert live.http.get("/v1/models/tiny").json() == document["data"][0]


def test_a_base_may_have_a_slash_in_its_name(live: Live) -> None:
    live.backend.model_name = "org/tiny"
    assert live.http.get("/v1/models/org/tiny@cynic").json()["parent"] == "org/tiny"
    body = {"model": "org/tiny@cynic", "messages": ASK}
    assert live.http.post(CHAT, json=body).json()["model"] == "org/tiny@cynic"


def test_hostile_names_get_the_same_404(live: Live) -> None:
    answers = {
        (answer.status_code, answer.text)
        for name in NAMES
        for answer in [live.http.post(CHAT, json={"model": name, "messages": ASK})]
    }
    assert len(answers) == 1
    ((status, text),) = answers
    assert status == 404
    assert "model_not_found" in text
    assert not live.backend.asked
    for name in ("..%2f..%2fetc%2fpasswd", "nobody", quote("tiny@\x00"), "%ff"):
        answer = live.http.get(f"/v1/models/{name}")
        assert (answer.status_code, answer.text) == (status, text)


@pytest.mark.parametrize("error", [BaseMismatchError, FormatError, NameInvalidError, ProfileNotFoundError])
def test_a_profile_that_cannot_be_used_is_as_good_as_none(live: Live, error: type[ZenError]) -> None:
    missing = live.http.post(CHAT, json={"model": "nobody", "messages": ASK})
    live.backend.refuses = error("no", path="/secret/cynic.bitdelta")
    answer = live.http.post(CHAT, json={"model": "cynic", "messages": ASK})
    assert (answer.status_code, answer.text) == (404, missing.text)


def test_an_error_names_no_path(live: Live) -> None:
    live.backend.refuses = InputError(
        "it is not right", path="/secret/cynic.bitdelta", field="model", hint="try another"
    )
    answer = live.http.post(CHAT, json={"model": "cynic", "messages": ASK})
    assert answer.json()["error"]["message"] == "it is not right (field model); try another"


def test_health_and_embeddings(live: Live) -> None:
    assert live.http.get("/health").json() == {"status": "ok", "running": 0, "queued": 0}
    refused = live.http.post("/v1/embeddings", json={"model": "tiny", "input": "private words"})
    assert refused.status_code == 404
    assert "no embeddings" in refused.json()["error"]["message"]


def test_metrics_count_and_never_quote(live: Live) -> None:
    for _ in range(2):
        live.http.post(CHAT, json={"model": "tiny@cynic", "messages": ASK})
    live.http.post(CHAT, json={"model": "nobody", "messages": ASK})
    live.http.get("/private/path")
    text = live.http.get("/metrics").text
    assert f'zen_requests_total{{route="{CHAT}",status="200"}}' in text
    assert f'zen_requests_total{{route="{CHAT}",status="404"}}' in text
    assert 'zen_requests_total{route="none",status="404"}' in text
    for line in ("zen_resident_bytes 7.0", "zen_prompt_tokens_total 5.0", "zen_completion_tokens_total 11.0"):
        assert line in text
    assert "zen_requests_running" in text
    assert "zen_requests_queued 0.0" in text
    assert 'zen_first_token_seconds_bucket{le="60.0"}' in text
    assert "zen_token_seconds_count" in text
    for secret in ("private", "cynic", "Hello", "nobody"):
        assert secret not in text


def test_every_answer_has_an_id_of_its_own(live: Live) -> None:
    paths = ["/health", "/v1/models/nobody", "/nowhere", CHAT, "/v1/messages", "/v1/messages/count_tokens", "/api/tags"]
    answers = [live.http.get(path) for path in paths] + [live.http.post(path, json={}) for path in paths]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == len(ids)
    for answer in answers:
        expected = answer.headers["x-request-id"] if "/v1/messages" in str(answer.url) else None
        assert answer.headers.get("request-id") == expected


def test_routes_that_are_not_there_answer_in_the_dialect(live: Live) -> None:
    assert live.http.get("/v1/nowhere").json()["error"]["type"] == "invalid_request_error"
    assert live.http.get("/v1/messages/batches").json()["type"] == "error"
    assert live.http.get("/api/generate").json() == {"error": "Not Found"}
    wrong = live.http.get(CHAT)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json()["error"]["message"] == "Method Not Allowed"


def test_what_nobody_expected_is_logged_without_its_text(
    live: Live, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> list[str]:
        raise RuntimeError("private words")

    monkeypatch.setattr(live.backend, "profiles", broken, raising=False)
    answer = live.http.get("/v1/models")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert answer.headers["x-request-id"] in caplog.text
    assert "RuntimeError" in caplog.text
    assert "private" not in caplog.text + answer.text


def test_no_room_beside_pinned_profiles_is_said(live: Live) -> None:
    live.backend.breaks = MemoryLimitError("the profile does not fit beside those that are pinned", expected=1, found=2)
    answer = live.http.post(CHAT, json={"model": "tiny@cynic", "messages": ASK})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_room")
    assert "pinned" in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [{"messages": [{"role": "user", "content": "LONG"}]}, {"prompt": "LONG"}])
def test_text_that_cannot_fit_is_not_counted_in_tokens_first(
    live: Live, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    route = CHAT if "messages" in body else "/v1/completions"
    text = json.dumps({"model": "tiny", **body}).replace("LONG", "x" * 2_000_000)
    read: list[str] = []
    monkeypatch.setattr(type(live.backend.tokenizer), "encode", lambda self, text: read.append(text), raising=False)
    monkeypatch.setattr(type(live.backend.tokenizer), "apply_chat_template", lambda *_, **__: read.append("x"))
    answer = live.http.post(route, content=text, headers={"content-type": "application/json"})
    assert (answer.status_code, read) == (400, [])
    assert "longer than the model's context" in answer.json()["error"]["message"]


class OnlyHacker:
    """What a guard in front does for a caller who may use one profile."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["profiles"] = frozenset({"hacker", "base"})
        await self._app(scope, receive, send)


def test_a_caller_sees_only_his_profiles(tokenizer: TokenizerWrapper) -> None:
    client = TestClient(OnlyHacker(create_app(CannedBackend(tokenizer))))
    assert [each["id"] for each in client.get("/v1/models").json()["data"]] == ["tiny", "tiny@hacker"]
    missing = client.get("/v1/models/nobody").text
    assert client.get("/v1/models/cynic").text == missing
    for model, status in (("cynic", 404), ("hacker", 200), ("tiny", 200)):
        answer = client.post(CHAT, json={"model": model, "messages": ASK})
        assert answer.status_code == status
        assert status == 200 or answer.text == missing


def test_the_tokens_of_an_answer_are_there_for_a_log(tokenizer: TokenizerWrapper) -> None:
    app, states = create_app(CannedBackend(tokenizer)), []

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"] = {"request_id": "req_given"}
        await app(scope, receive, send)
        states.append(scope["state"])

    for stream in (False, True):
        answer = TestClient(outer).post(CHAT, json={"model": "tiny", "messages": ASK, "stream": stream, "n": 2})
        assert answer.headers["x-request-id"] == "req_given"
    assert [state["tokens"] for state in states] == [24, 24]


def test_the_openapi_document(live: Live) -> None:
    document = live.http.get("/openapi.json").json()
    assert "422" not in str(document)
    assert set(document["paths"]) == {
        "/api/chat",
        "/api/tags",
        "/health",
        "/metrics",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/models",
        "/v1/models/{id}",
        "/v1/responses",
    }
    fields: dict[str, Any] = document["components"]["schemas"]["ChatBody"]
    assert fields["additionalProperties"] is False
    assert {"model", "messages", "user", "logit_bias"} <= set(fields["properties"])
    assert fields["properties"]["logit_bias"]["enum"] == [None, {}]


def test_a_backend_that_failed_is_not_healthy(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    assert live.http.get("/health").status_code == 200
    monkeypatch.setattr(live.backend, "stats", lambda: {"failed": True})
    answer = live.http.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "failed")


def test_more_answers_than_may_ever_wait_are_refused_for_good(live: Live) -> None:
    body = {"model": "tiny", "prompt": ["a"] * 20, "n": 16, "max_tokens": 1}
    answer = live.http.post("/v1/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")
    assert "at most 64" in answer.json()["error"]["message"]
