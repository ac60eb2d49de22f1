"""Chat completions and completions, through OpenAI's own client over a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from canned_backend import CannedBackend, fits
from mlx_lm.tokenizer_utils import TokenizerWrapper
from pydantic import BaseModel
from served import Live, serving

from zen_mlx.config import ServeOptions
from zen_mlx.errors import KernelError

ASK: Any = [{"role": "user", "content": "Hi"}]
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
CALL = 'Look:<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


class Person(BaseModel):
    """What `parse` is to read."""

    name: str
    age: int


@pytest.fixture
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_whole_answer(live: Live, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny@cynic", messages=ASK, temperature=0, top_p=0.5, seed=3)
    choice = answer.choices[0]
    assert (choice.message.content, choice.finish_reason, choice.message.role) == ("Hello there.", "stop", "assistant")
    assert answer.model == "tiny@cynic"
    asked = live.backend.asked[0]
    assert (asked.profile, asked.sampling.temperature, asked.sampling.top_p, asked.sampling.seed) == (
        "cynic",
        0,
        0.5,
        3,
    )
    assert asked.sampling.max_tokens == live.backend.context - len(asked.ids)
    assert live.backend.prompt() == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    usage = answer.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (
        len(asked.ids),
        12,
        len(asked.ids) + 12,
    )
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 2


def test_every_kind_of_message_reaches_the_template(live: Live, client: openai.OpenAI) -> None:
    call: Any = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    messages: Any = [
        {"role": "developer", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]
    client.chat.completions.create(model="tiny", messages=messages)
    shown = live.backend.prompt()
    assert "<|im_start|>system\nBe\nbrief.<|im_end|>" in shown
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>' in shown
    assert "<|im_start|>tool\nrain<|im_end|>" in shown


def test_an_answer_can_be_sent_back_as_it_came(live: Live, client: openai.OpenAI) -> None:
    live.backend.says = CALL
    message = client.chat.completions.create(model="tiny", messages=ASK, tools=[WEATHER]).choices[0].message
    again: Any = [*ASK, message, {"role": "tool", "tool_call_id": "c1", "content": "rain"}]
    client.chat.completions.create(model="tiny", messages=again)
    dumped: Any = [*ASK, message.model_dump()]
    client.chat.completions.create(model="tiny", messages=dumped)


def test_stop_limit_and_their_reasons(live: Live, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=ASK, stop=["there", "zzz"])
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("Hello ", "stop")
    answer = client.chat.completions.create(model="tiny", messages=ASK, max_tokens=2)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("He", "length")
    answer = client.chat.completions.create(model="tiny", messages=ASK, max_completion_tokens=4, stop="zzz")
    assert answer.choices[0].message.content == "Hell"


def test_several_answers_have_their_own_seeds_and_one_prompt(live: Live, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=ASK, n=3, seed=2**32 - 1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [request.sampling.seed for request in live.backend.asked] == [2**32 - 1, 0, 1]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(live.backend.asked[0].ids)
    assert answer.usage.completion_tokens == 36


def test_log_probabilities(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=ASK, logprobs=True, top_logprobs=2)
    content = answer.choices[0].logprobs and answer.choices[0].logprobs.content
    assert content
    assert "".join(token.token for token in content) == "Hello there."
    assert (content[0].logprob, content[0].bytes) == (-0.5, [72])
    assert [(top.token, top.logprob) for top in content[0].top_logprobs] == [("a", -9999.0), ("b", -9999.0)]
    plain = client.chat.completions.create(model="tiny", messages=ASK)
    assert plain.choices[0].logprobs is None


def test_a_stream_has_one_role_and_usage_only_when_asked(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="tiny", messages=ASK, stream=True))
    assert [chunk.choices[0].delta.role for chunk in chunks if chunk.choices[0].delta.role] == ["assistant"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello there."
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)
    options: Any = {"include_usage": True}
    *_, last = client.chat.completions.create(model="tiny", messages=ASK, stream=True, stream_options=options)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 12


def test_streamed_answers_side_by_side_with_log_probabilities(client: openai.OpenAI) -> None:
    texts, tokens = ["", ""], ["", ""]
    for chunk in client.chat.completions.create(model="tiny", messages=ASK, stream=True, n=2, logprobs=True):
        choice = chunk.choices[0]
        texts[choice.index] += choice.delta.content or ""
        tokens[choice.index] += "".join(each.token for each in (choice.logprobs and choice.logprobs.content) or [])
    assert texts == tokens == ["Hello there."] * 2


def test_the_stream_helper_and_parse(live: Live, client: openai.OpenAI) -> None:
    live.backend.says = '{"name": "Ann", "age": 22}'
    with client.chat.completions.stream(model="tiny", messages=ASK, response_format=Person) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == Person(name="Ann", age=22)
    parsed = client.chat.completions.parse(model="tiny", messages=ASK, response_format=Person)
    assert parsed.choices[0].message.parsed == Person(name="Ann", age=22)
    for asked in live.backend.asked:
        assert fits(asked, live.backend.tokenizer, '{"name":"Ann","age":22}')
        assert not fits(asked, live.backend.tokenizer, '{"name":"Ann","age":"22"}')


def test_any_json_object(live: Live, client: openai.OpenAI) -> None:
    client.chat.completions.create(model="tiny", messages=ASK, response_format={"type": "json_object"})
    assert fits(live.backend.asked[0], live.backend.tokenizer, '{"a":[1]}')
    assert not fits(live.backend.asked[0], live.backend.tokenizer, "[1]")
    client.chat.completions.create(model="tiny", messages=ASK, response_format={"type": "text"})
    assert live.backend.asked[-1].grammar is None


@pytest.mark.parametrize("step", [1, 2, 7, 100])
def test_calls_whole_and_streamed_in_odd_pieces(live: Live, client: openai.OpenAI, step: int) -> None:
    live.backend.says, live.backend.step = CALL + CALL[5:], step
    whole = client.chat.completions.create(model="tiny", messages=ASK, tools=[WEATHER]).choices[0]
    assert '"name": "weather"' in live.backend.prompt()
    assert (whole.message.content, whole.finish_reason) == ("Look:", "tool_calls")
    calls: Any = whole.message.tool_calls
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        ("weather", {"city": "Oslo"})
    ] * 2
    assert calls[0].id != calls[1].id
    with client.chat.completions.stream(model="tiny", messages=ASK, tools=[WEATHER]) as stream:
        final = stream.get_final_completion().choices[0]
    calls = final.message.tool_calls
    assert (final.message.content, final.finish_reason, len(calls)) == ("Look:", "tool_calls", 2)
    assert json.loads(calls[1].function.arguments) == {"city": "Oslo"}


@pytest.mark.parametrize("limit", [6, 20, len(CALL) - 1])
def test_a_cut_call_is_never_sent(live: Live, client: openai.OpenAI, limit: int) -> None:
    live.backend.says = CALL
    ask: Any = {"model": "tiny", "messages": ASK, "tools": [WEATHER], "max_tokens": limit}
    choice = client.chat.completions.create(**ask).choices[0]
    assert (choice.message.tool_calls, choice.finish_reason) == (None, "length")
    assert choice.message.content in ("Look:", "Look:<")
    chunks = list(client.chat.completions.create(**ask, stream=True))
    assert not any(chunk.choices[0].delta.tool_calls for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"


def test_what_is_no_call_after_all_is_text(live: Live, client: openai.OpenAI) -> None:
    live.backend.says = "<tool_call>no json</tool_call>"
    choice = client.chat.completions.create(model="tiny", messages=ASK, tools=[WEATHER]).choices[0]
    assert (choice.message.content, choice.finish_reason) == (live.backend.says, "stop")


def test_tool_choice(live: Live, client: openai.OpenAI) -> None:
    live.backend.says = CALL
    none = client.chat.completions.create(model="tiny", messages=ASK, tools=[WEATHER], tool_choice="none").choices[0]
    assert (none.message.content, none.message.tool_calls) == (CALL, None)
    assert "weather" not in live.backend.prompt()
    live.backend.says = CALL[5:].replace("Oslo", "Rome")
    named: Any = {"type": "function", "function": {"name": "weather"}}
    for choice in ("required", named):
        forced = client.chat.completions.create(model="tiny", messages=ASK, tools=[WEATHER], tool_choice=choice)
        call: Any = forced.choices[0].message.tool_calls
        assert (call[0].function.name, call[0].function.arguments) == ("weather", '{"city": "Rome"}')
        assert fits(live.backend.asked[-1], live.backend.tokenizer, live.backend.says)
        assert not fits(live.backend.asked[-1], live.backend.tokenizer, "Hello there.")
    cut = client.chat.completions.create(
        model="tiny", messages=ASK, tools=[WEATHER], tool_choice="required", max_tokens=30
    )
    assert (cut.choices[0].message.tool_calls, cut.choices[0].finish_reason) == (None, "length")


def test_a_base_without_tools_says_so(plain_tokenizer: TokenizerWrapper) -> None:
    with (
        serving(CannedBackend(plain_tokenizer), ServeOptions()) as live,
        openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.BadRequestError, match="knows no tools") as refused,
    ):
        client.chat.completions.create(model="tiny", messages=ASK, tools=[WEATHER])
    assert refused.value.param == "tools"


def test_completions(live: Live, client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt=["ab", "c"], n=2, logprobs=1, max_tokens=5)
    assert [(choice.index, choice.text, choice.finish_reason) for choice in answer.choices] == [
        (index, "Hello", "length") for index in range(4)
    ]
    assert [live.backend.prompt(number) for number in range(4)] == ["ab", "ab", "c", "c"]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 20)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert (logprobs.tokens, logprobs.text_offset) == (list("Hello"), [0, 1, 2, 3, 4])
    chunks = list(client.completions.create(model="tiny", prompt=[65, 66], stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Hello there."
    assert list(live.backend.asked[-1].ids) == [65, 66]
    assert live.backend.asked[-1].sampling.max_tokens == 16


@pytest.mark.parametrize("prompt", ["", [], [[]], [300], [-1], ["a", ""]])
def test_prompts_that_are_none(client: openai.OpenAI, prompt: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="tiny", prompt=prompt)
    assert refused.value.param == "prompt"


def test_errors_as_the_client_knows_them(live: Live, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nobody", messages=ASK)
    assert missing.value.code == "model_not_found"
    assert "secret" not in str(missing.value)
    live.backend.full = True
    with pytest.raises(openai.RateLimitError) as full:
        client.chat.completions.create(model="tiny", messages=ASK)
    assert full.value.response.headers["retry-after"] == "3"


def test_what_goes_wrong_on_the_way(live: Live, client: openai.OpenAI) -> None:
    live.backend.breaks = KernelError("the kernel is wrong")
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="tiny", messages=ASK)
    with pytest.raises(openai.APIError, match="failed to answer"):
        list(client.chat.completions.create(model="tiny", messages=ASK, stream=True))
    live.backend.breaks, live.backend.slow_s = None, 0.05
    stream = client.chat.completions.create(model="tiny", messages=ASK, stream=True)
    next(stream)
    live.backend.given[-1].cancel()
    with pytest.raises(openai.APIError, match="before it was complete"):
        list(stream)


def test_keep_alives_in_a_long_prefill(live: Live, client: openai.OpenAI) -> None:
    live.backend.first_s = 0.35
    body = {"model": "tiny", "messages": ASK, "stream": True}
    text = live.http.post("/v1/chat/completions", json=body).text
    assert text.count(": keep-alive\n\n") in (2, 3)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**body)) == (  # type: ignore[call-overload]
        "Hello there."
    )
