"""Messages, through Anthropic's own client and in the shape in which Claude Code asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from canned_backend import fits
from pydantic import BaseModel
from served import Live

ASK: Any = [{"role": "user", "content": "Hi"}]
WEATHER: Any = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
CALL = 'Look:<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


class Person(BaseModel):
    """What `parse` is to read."""

    name: str


@pytest.fixture
def client(live: Live) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=live.url, api_key="none", max_retries=0) as client:
        yield client


def test_a_whole_message(live: Live, client: anthropic.Anthropic) -> None:
    message = client.messages.create(model="tiny@cynic", max_tokens=100, system="Be brief.", messages=ASK)
    block: Any = message.content[0]
    assert (block.text, message.stop_reason, message.model) == ("Hello there.", "end_turn", "tiny@cynic")
    assert (message.usage.output_tokens, message.usage.cache_read_input_tokens) == (12, 2)
    assert message.usage.input_tokens == len(live.backend.asked[0].ids) - 2
    assert live.backend.prompt().startswith("<|im_start|>system\nBe brief.<|im_end|>")
    assert message._request_id


def test_reasons(client: anthropic.Anthropic) -> None:
    cut = client.messages.create(model="tiny", max_tokens=2, messages=ASK)
    assert cut.stop_reason == "max_tokens"
    stopped = client.messages.create(model="tiny", max_tokens=100, messages=ASK, stop_sequences=["there"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "there")


def test_a_stream(live: Live, client: anthropic.Anthropic) -> None:
    with client.messages.stream(model="tiny", max_tokens=100, messages=ASK, stop_sequences=["there"]) as stream:
        assert "".join(stream.text_stream) == "Hello "
        final = stream.get_final_message()
    assert (final.stop_reason, final.stop_sequence, final.usage.output_tokens) == ("stop_sequence", "there", 6)
    body = {"model": "tiny", "max_tokens": 100, "messages": ASK, "stream": True}
    text = live.http.post("/v1/messages", json=body).text
    names = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
    assert [name for name in names if name != "content_block_delta"] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    live.backend.first_s = 0.35
    assert live.http.post("/v1/messages", json=body).text.count("event: ping") in (3, 4)


@pytest.mark.parametrize("step", [1, 5, 100])
def test_calls_and_the_way_back(live: Live, client: anthropic.Anthropic, step: int) -> None:
    live.backend.says, live.backend.step = CALL, step
    ask: Any = {"model": "tiny", "max_tokens": 200, "tools": [WEATHER]}
    message = client.messages.create(messages=ASK, **ask)
    text, call = message.content
    assert text.type == "text"
    assert call.type == "tool_use"
    assert (text.text, call.name, call.input, message.stop_reason) == ("Look:", "weather", {"city": "Oslo"}, "tool_use")
    with client.messages.stream(messages=ASK, **ask) as stream:
        final = stream.get_final_message()
    streamed: Any = final.content[1]
    assert (streamed.input, final.stop_reason) == ({"city": "Oslo"}, "tool_use")
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "rain"}]}
    more: Any = {"role": "user", "content": [result, {"type": "text", "text": "So?"}]}
    client.messages.create(messages=[*ASK, {"role": "assistant", "content": message.content}, more], **ask)
    assert live.backend.prompt().endswith(
        "</tool_call><|im_end|>\n<|im_start|>tool\nrain<|im_end|>\n<|im_start|>user\nSo?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_cut_call_is_never_sent(live: Live, client: anthropic.Anthropic) -> None:
    live.backend.says = CALL
    with client.messages.stream(model="tiny", max_tokens=40, messages=ASK, tools=[WEATHER]) as stream:
        final = stream.get_final_message()
    assert ([block.type for block in final.content], final.stop_reason) == (["text"], "max_tokens")


def test_a_call_can_be_forced(live: Live, client: anthropic.Anthropic) -> None:
    live.backend.says = CALL[5:].replace("Oslo", "Rome")
    for choice in ({"type": "any"}, {"type": "tool", "name": "weather"}):
        message = client.messages.create(
            model="tiny",
            max_tokens=100,
            messages=ASK,
            tools=[WEATHER],
            tool_choice=choice,  # type: ignore[arg-type]
        )
        call: Any = message.content[0]
        assert (call.input, message.stop_reason) == ({"city": "Rome"}, "tool_use")
        assert fits(live.backend.asked[-1], live.backend.tokenizer, live.backend.says)


def test_parse(live: Live, client: anthropic.Anthropic) -> None:
    live.backend.says = '{"name": "Ann"}'
    message = client.messages.parse(model="tiny", max_tokens=100, messages=ASK, output_format=Person)
    assert message.parsed_output == Person(name="Ann")
    assert fits(live.backend.asked[0], live.backend.tokenizer, '{"name":"Ann"}')
    assert not fits(live.backend.asked[0], live.backend.tokenizer, '{"name":1}')


def test_count_tokens(live: Live, client: anthropic.Anthropic) -> None:
    client.messages.create(model="tiny", max_tokens=1, messages=ASK, system="s", tools=[WEATHER])
    counted = client.messages.count_tokens(model="tiny@cynic", messages=ASK, system="s", tools=[WEATHER])
    assert counted.input_tokens == len(live.backend.asked[0].ids)
    with pytest.raises(anthropic.NotFoundError):
        client.messages.count_tokens(model="nobody", messages=ASK)


def test_the_beginning_of_the_answer_may_be_given(live: Live, client: anthropic.Anthropic) -> None:
    client.messages.create(model="tiny", max_tokens=9, messages=[*ASK, {"role": "assistant", "content": "Well"}])
    assert live.backend.prompt().endswith("<|im_start|>assistant\nWell")


def test_the_list_of_models(client: anthropic.Anthropic) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "tiny@cynic", "tiny@hacker"]


def test_claude_code_is_understood(live: Live) -> None:
    cached = {"type": "ephemeral", "ttl": "1h"}
    body = {
        "model": "tiny@hacker",
        "max_tokens": 32000,
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": cached}]},
            {
                "role": "assistant",
                "content": [{"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "text", "text": "yes?"}],
            },
            {"role": "user", "content": "go on"},
        ],
        "system": [{"type": "text", "text": "You are an agent.", "cache_control": cached}],
        "tools": [{"name": "Bash", "description": "Runs", "input_schema": {"type": "object"}, "cache_control": cached}],
        "metadata": {"user_id": "someone"},
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        "temperature": 1,
        "stream": True,
    }
    answer = live.http.post("/v1/messages?beta=true", json=body, headers={"anthropic-version": "2023-06-01"})
    assert answer.status_code == 200, answer.text
    assert answer.text.count("message_stop") == 2
    for unwanted in ("max_tokens", "metadata", "temperature", "stream"):
        del body[unwanted]
    counted = live.http.post("/v1/messages/count_tokens?beta=true", json=body)
    assert counted.json() == {"input_tokens": len(live.backend.asked[0].ids)}


def test_errors_as_the_client_knows_them(live: Live, client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="nobody", max_tokens=1, messages=ASK)
    body: Any = missing.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "not_found_error")
    assert missing.value.request_id == body["request_id"]
    live.backend.full = True
    with pytest.raises(anthropic.RateLimitError):
        client.messages.create(model="tiny", max_tokens=1, messages=ASK)
    live.backend.full, live.backend.breaks = False, RuntimeError("secret words")
    with pytest.raises(anthropic.APIStatusError, match="failed to answer"):
        list(client.messages.create(model="tiny", max_tokens=9, messages=ASK, stream=True))
