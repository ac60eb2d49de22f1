"""Responses, through OpenAI's own client and in the shape in which Codex asks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from canned_backend import fits
from pydantic import BaseModel
from served import Live

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {}},
    "strict": False,
}
CALL = 'Look:<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


class Person(BaseModel):
    """What `parse` is to read."""

    name: str


@pytest.fixture
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_whole_response(live: Live, client: openai.OpenAI) -> None:
    response = client.responses.create(model="hacker", input="Hi", instructions="Be brief.")
    assert (response.output_text, response.status, response.model) == ("Hello there.", "completed", "tiny@hacker")
    assert live.backend.prompt().startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>")
    assert response.usage is not None
    assert (response.usage.output_tokens, response.usage.input_tokens_details.cached_tokens) == (12, 2)
    cut = client.responses.create(model="tiny", input="Hi", max_output_tokens=3)
    assert cut.incomplete_details is not None
    assert (cut.status, cut.incomplete_details.reason, cut.output_text) == ("incomplete", "max_output_tokens", "Hel")


def test_a_stream(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="tiny", input="Hi", stream=True))
    assert [event.type for event in events if event.type != "response.output_text.delta"] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hello there."
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last: Any = events[-1]
    assert last.response.output_text == "Hello there."


def test_parse(live: Live, client: openai.OpenAI) -> None:
    live.backend.says = '{"name": "Ann"}'
    assert client.responses.parse(model="tiny", input="Who?", text_format=Person).output_parsed == Person(name="Ann")
    with client.responses.stream(model="tiny", input="Who?", text_format=Person) as stream:
        assert stream.get_final_response().output_parsed == Person(name="Ann")
    for asked in live.backend.asked:
        assert fits(asked, live.backend.tokenizer, '{"name":"Ann"}')
        assert not fits(asked, live.backend.tokenizer, '{"name":1}')


def test_calls_and_the_way_back(live: Live, client: openai.OpenAI) -> None:
    live.backend.says = CALL
    response = client.responses.create(model="tiny", input="Weather?", tools=[WEATHER])
    message, call = response.output
    assert (message.type, call.type) == ("message", "function_call")
    with client.responses.stream(model="tiny", input="Weather?", tools=[WEATHER]) as stream:
        streamed: Any = stream.get_final_response().output
    assert (streamed[0].content[0].text, json.loads(streamed[1].arguments)) == ("Look:", {"city": "Oslo"})
    result: Any = {"type": "function_call_output", "call_id": streamed[1].call_id, "output": "rain"}
    history: Any = [{"role": "user", "content": "Weather?"}, *response.output, result]
    client.responses.create(model="tiny", input=history, tools=[WEATHER])
    assert 'Look:<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}' in live.backend.prompt()
    assert "<|im_start|>tool\nrain<|im_end|>" in live.backend.prompt()


def test_a_cut_call_is_never_sent(live: Live, client: openai.OpenAI) -> None:
    live.backend.says = CALL
    response = client.responses.create(model="tiny", input="Weather?", tools=[WEATHER], max_output_tokens=30)
    assert [item.type for item in response.output] == ["message"]
    assert response.status == "incomplete"


def test_codex_is_understood(live: Live) -> None:
    body = {
        "model": "tiny@cynic",
        "instructions": "You are a coding agent.",
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "rules"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "list files"}]},
            {"type": "reasoning", "summary": [], "content": None, "encrypted_content": None},
            {"type": "function_call", "name": "shell", "arguments": '{"command":["ls"]}', "call_id": "c1"},
            {"type": "function_call_output", "call_id": "c1", "output": "a.txt"},
        ],
        "tools": [
            {
                "type": "function",
                "name": "shell",
                "description": "Runs",
                "strict": False,
                "parameters": {"type": "object"},
            },
            {"type": "web_search", "external_web_access": False},
            {
                "type": "custom",
                "name": "apply_patch",
                "format": {"type": "grammar", "syntax": "lark", "definition": "x"},
            },
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "0190",
        "client_metadata": {"x-codex-installation-id": "0190"},
    }
    with live.http.stream("POST", "/v1/responses", json=body) as answer:
        text = answer.read().decode()
    assert answer.status_code == 200, text
    assert text.rstrip().splitlines()[-2] == "event: response.completed"
    shown = live.backend.prompt()
    assert "shell" in shown
    assert "web_search" not in shown
    assert "apply_patch" not in shown


def test_a_required_hosted_tool_is_refused(live: Live) -> None:
    hosted = {"type": "web_search"}
    for choice in ("required", hosted):
        body = {"model": "tiny", "input": "Hi", "tools": [hosted], "tool_choice": choice}
        answer = live.http.post("/v1/responses", json=body)
        assert (answer.status_code, answer.json()["error"]["param"].split(".")[0]) == (400, "tool_choice")


def test_what_goes_wrong_on_the_way_is_an_event(live: Live, client: openai.OpenAI) -> None:
    live.backend.breaks = RuntimeError("secret words")
    *_, last = client.responses.create(model="tiny", input="Hi", stream=True)
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert "failed to answer" in last.response.error.message
