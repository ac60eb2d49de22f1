"""Fields: honoured, ignored by name, refused, unknown; and bodies that are none."""

from __future__ import annotations

from typing import Any

import pytest
from served import Live

from zen_mlx.server.anthropic_wire import CountBody, MessagesBody
from zen_mlx.server.ollama import OllamaBody
from zen_mlx.server.openai_wire import ChatBody, CompletionBody
from zen_mlx.server.responses_wire import ResponsesBody
from zen_mlx.server.wire import Body

USER = [{"role": "user", "content": "private words"}]
ROUTES: dict[str, tuple[type[Body], dict[str, Any]]] = {
    "/v1/chat/completions": (ChatBody, {"model": "tiny", "messages": USER}),
    "/v1/completions": (CompletionBody, {"model": "tiny", "prompt": "private words"}),
    "/v1/responses": (ResponsesBody, {"model": "tiny", "input": "private words"}),
    "/v1/messages": (MessagesBody, {"model": "tiny", "messages": USER, "max_tokens": 5}),
    "/v1/messages/count_tokens": (CountBody, {"model": "tiny", "messages": USER}),
    "/api/chat": (OllamaBody, {"model": "tiny", "messages": USER, "stream": False}),
}
CHAT = "/v1/chat/completions"
CHANGED: dict[str, Any] = {  # values that would change the answer
    "audio": {"voice": "ash", "format": "wav"},
    "background": True,
    "best_of": 2,
    "container": "c1",
    "context_management": [{"type": "compaction"}],
    "conversation": "conv_1",
    "frequency_penalty": 0.5,
    "function_call": "auto",
    "functions": [{"name": "f"}],
    "include": ["message.output_text.logprobs"],
    "logit_bias": {"50": 5},
    "mcp_servers": [{"type": "url"}],
    "modalities": ["text", "audio"],
    "moderation": {"model": "m"},
    "presence_penalty": -1,
    "previous_response_id": "resp_1",
    "prompt": {"id": "p"},
    "speed": "fast",
    "store": True,
    "suffix": "end",
    "top_k": 5,
    "top_logprobs": 3,
    "truncation": "auto",
    "verbosity": "low",
    "web_search_options": {},
}
PAIRS = [(route, name) for route, (body, _) in ROUTES.items() for name in sorted(body.refused)]
IGNORED = [(route, name) for route, (body, _) in ROUTES.items() for name in sorted(body.ignored)]


def message_of(document: dict[str, Any]) -> str:
    error = document["error"]
    return str(error if isinstance(error, str) else error["message"])


@pytest.mark.parametrize(("route", "name"), PAIRS)
def test_a_refused_field_is_named(live: Live, route: str, name: str) -> None:
    answer = live.http.post(route, json=ROUTES[route][1] | {name: CHANGED[name]})
    assert answer.status_code == 400
    assert message_of(answer.json()).startswith(f"{name}: ")
    assert "private" not in answer.text
    assert not live.backend.asked


@pytest.mark.parametrize("route", ROUTES)
def test_a_refused_field_that_asks_for_nothing_is_accepted(live: Live, route: str) -> None:
    body, plain = ROUTES[route]
    for name, neutral in body.refused.items():
        for value in (None, *neutral):
            answer = live.http.post(route, json=plain | {name: value})
            assert answer.status_code == 200, (name, value, answer.text)


@pytest.mark.parametrize(("route", "name"), IGNORED)
def test_an_ignored_field_changes_nothing(live: Live, route: str, name: str) -> None:
    plain = ROUTES[route][1]
    assert live.http.post(route, json=plain).status_code == 200
    assert live.http.post(route, json=plain | {name: {"any": ["thing"]}}).status_code == 200
    assert [request.sampling.max_tokens for request in live.backend.asked[:1]] == [
        request.sampling.max_tokens for request in live.backend.asked[1:]
    ]


@pytest.mark.parametrize("route", ROUTES)
def test_an_unknown_field_is_named(live: Live, route: str) -> None:
    for name in ("mystery", "x" * 5000, "a\ud800b", "<script>", "top-k"):
        content = repr(ROUTES[route][1] | {name: 1}).replace("'", '"').replace("False", "false")
        answer = live.http.post(route, content=content.encode(), headers={"content-type": "application/json"})
        assert answer.status_code == 400
        assert message_of(answer.json()).endswith(": unknown field")
        assert len(answer.content) < 500
    assert message_of(live.http.post(route, json=ROUTES[route][1] | {"mystery": 1}).json()) == "mystery: unknown field"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"seed": 2**70}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools.0.type"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "a", "strict": True}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a"}}] * 2}, "tools"),
        (
            {"tools": [{"type": "function", "function": {"name": "a"}}], "response_format": {"type": "json_object"}},
            "tools",
        ),
        (
            {
                "tools": [{"type": "function", "function": {"name": "a"}}],
                "tool_choice": {"type": "function", "function": {"name": "b"}},
            },
            "tool_choice",
        ),
    ],
)
def test_bad_values_name_their_field(live: Live, more: dict[str, Any], param: str) -> None:
    answer = live.http.post(CHAT, json=ROUTES[CHAT][1] | more)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(param), answer.text
    assert "private" not in answer.text
    assert not live.backend.asked


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100000, b'{"model": NaN}', b'{"model": "tiny"}'],
    ids=lambda content: repr(content[:8]),
)
def test_bodies_that_are_none(live: Live, route: str, content: bytes) -> None:
    answer = live.http.post(route, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert message_of(answer.json())


def test_other_media_types_are_not_read(live: Live) -> None:
    answer = live.http.post(CHAT, content=b'{"model":"tiny"}', headers={"content-type": "text/plain"})
    assert answer.status_code == 400
    assert "application/json" in message_of(answer.json())


@pytest.mark.parametrize("text", ["\\ud800", "a\\udfff"])
def test_text_that_is_none(live: Live, text: str) -> None:
    spec = f'{{"type": "object", "title": "{text}"}}'
    for more in (
        f'"messages": [{{"role": "user", "content": "{text}"}}]',
        f'"messages": [], "tools": [{{"type": "function", "function": {{"name": "a", "parameters": {spec}}}}}]',
        f'"messages": [], "response_format": {{"type": "json_schema", "json_schema": {{"schema": {spec}}}}}',
    ):
        content = f'{{"model": "tiny", {more}}}'.encode()
        answer = live.http.post(CHAT, content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 400


@pytest.mark.parametrize("arguments", ["{", "[]", "1", "[" * 100000], ids=lambda text: text[:2])
def test_arguments_of_a_call_that_are_no_object(live: Live, arguments: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "a", "arguments": arguments}}
    answer = live.http.post(CHAT, json={"model": "tiny", "messages": [{"role": "assistant", "tool_calls": [call]}]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")


def test_a_schema_deeper_than_the_server_recurses(live: Live) -> None:
    deep: dict[str, Any] = {}
    for _ in range(200):
        deep = {"items": deep}
    tools = [{"type": "function", "function": {"name": "a", "parameters": deep}}]
    for choice in ("auto", "required"):
        answer = live.http.post(CHAT, json=ROUTES[CHAT][1] | {"tools": tools, "tool_choice": choice})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools.0.function.parameters")
