"""Ollama's routes, as its clients ask."""

from __future__ import annotations

import json

from canned_backend import CannedBackend, fits
from mlx_lm.tokenizer_utils import TokenizerWrapper
from served import Live, serving

from zen_mlx.config import ServeOptions

ASK = [{"role": "user", "content": "Hi"}]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def test_the_routes_are_there_only_when_asked_for(tokenizer: TokenizerWrapper) -> None:
    with serving(CannedBackend(tokenizer), ServeOptions()) as live:
        answer = live.http.get("/api/tags")
    assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"})


def test_tags(live: Live) -> None:
    models = live.http.get("/api/tags").json()["models"]
    assert [model["name"] for model in models] == ["tiny", "tiny@cynic", "tiny@hacker"]


def test_a_stream_is_lines_of_json(live: Live) -> None:
    options = {"temperature": 0, "seed": 4, "stop": ["there"], "num_predict": -1, "num_thread": 4}
    body = {"model": "tiny@cynic:latest", "messages": ASK, "options": options, "keep_alive": "5m"}
    lines = [json.loads(line) for line in live.http.post("/api/chat", json=body).text.splitlines()]
    assert "".join(line["message"]["content"] for line in lines) == "Hello "
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert (lines[-1]["done_reason"], lines[-1]["eval_count"]) == ("stop", 6)
    assert (live.backend.asked[0].profile, live.backend.asked[0].sampling.seed) == ("cynic", 4)


def test_a_whole_answer_and_formats(live: Live) -> None:
    body = {"model": "tiny", "messages": ASK, "stream": False, "format": {"type": "object"}}
    assert live.http.post("/api/chat", json=body).json()["message"] == {"role": "assistant", "content": "Hello there."}
    assert live.http.post("/api/chat", json=body | {"format": "json"}).status_code == 200
    assert all(fits(asked, live.backend.tokenizer, '{"a":1}') for asked in live.backend.asked)


def test_calls(live: Live) -> None:
    live.backend.says = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
    body = {"model": "tiny", "messages": ASK, "tools": [WEATHER], "stream": False}
    message = live.http.post("/api/chat", json=body).json()["message"]
    assert message["tool_calls"] == [{"function": {"name": "weather", "arguments": {"city": "Oslo"}}}]
    again = body | {"messages": [*ASK, message, {"role": "tool", "tool_name": "weather", "content": "rain"}]}
    assert live.http.post("/api/chat", json=again).status_code == 200
    assert '<tool_call>\n{"name": "weather"' in live.backend.prompt()


def test_errors(live: Live) -> None:
    missing = live.http.post("/api/chat", json={"model": "nobody", "messages": ASK})
    assert missing.status_code == 404
    assert isinstance(missing.json()["error"], str)
    unknown = live.http.post("/api/chat", json={"model": "tiny", "messages": ASK, "options": {"mirostat": 1}})
    assert (unknown.status_code, unknown.json()) == (400, {"error": "options.mirostat: unknown field"})
    live.backend.breaks = RuntimeError("secret words")
    lines = live.http.post("/api/chat", json={"model": "tiny", "messages": ASK}).text.splitlines()
    assert "failed to answer" in json.loads(lines[-1])["error"]
