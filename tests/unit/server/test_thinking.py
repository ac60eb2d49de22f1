"""A base that thinks: its thoughts come apart from its answers, and callers may do without them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from canned_backend import THINKING_TEMPLATE, CannedBackend, tool_tokenizer
from served import Live, serving

from zen_mlx.config import ServeOptions

ASK: Any = [{"role": "user", "content": "Hi"}]
OPEN, CLOSED = "<|im_start|>assistant\n<think>\n", "<|im_start|>assistant\n<think>\n\n</think>\n\n"


@pytest.fixture(scope="module")
def thinker(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("thinks") / "tiny"
    tokenizer = tool_tokenizer(tiny_model, folder, THINKING_TEMPLATE, ("<think>", "</think>"))
    backend = CannedBackend(tokenizer, says="Hm, a greeting.</think>\n\nHello.", vocab_size=260)
    with serving(backend, ServeOptions(ollama=True)) as live:
        yield live


def test_chat(thinker: Live) -> None:
    with openai.OpenAI(base_url=f"{thinker.url}/v1", api_key="none", max_retries=0) as client:
        message: Any = client.chat.completions.create(model="tiny", messages=ASK).choices[0].message
        assert (message.content, message.reasoning_content) == ("Hello.", "Hm, a greeting.")
        assert thinker.backend.prompt().endswith(OPEN)
        texts = {"content": "", "reasoning_content": ""}
        for chunk in client.chat.completions.create(model="tiny", messages=ASK, stream=True):
            for name in texts:
                texts[name] += getattr(chunk.choices[0].delta, name, None) or ""
        assert texts == {"content": "Hello.", "reasoning_content": "Hm, a greeting."}
        client.chat.completions.create(model="tiny", messages=[*ASK, message], reasoning_effort="none")
        assert thinker.backend.prompt().endswith(CLOSED)
        assert "greeting" not in thinker.backend.prompt()


def test_a_format_leaves_no_place_for_thoughts(thinker: Live) -> None:
    body = {"model": "tiny", "messages": ASK, "response_format": {"type": "json_object"}}
    assert thinker.http.post("/v1/chat/completions", json=body).status_code == 200
    assert thinker.backend.prompt().endswith(CLOSED)


def test_responses(thinker: Live) -> None:
    with openai.OpenAI(base_url=f"{thinker.url}/v1", api_key="none", max_retries=0) as client:
        whole = client.responses.create(model="tiny", input="Hi")
        with client.responses.stream(model="tiny", input="Hi") as stream:
            streamed = stream.get_final_response()
        for response in (whole, streamed):
            thought: Any = response.output[0]
            assert (thought.content[0].text, response.output_text) == ("Hm, a greeting.", "Hello.")
        history: Any = [{"role": "user", "content": "Hi"}, *streamed.output, {"role": "user", "content": "So?"}]
        client.responses.create(model="tiny", input=history, reasoning={"effort": "minimal"})
        assert "greeting" not in thinker.backend.prompt()
        assert thinker.backend.prompt().endswith(CLOSED)


def test_messages(thinker: Live) -> None:
    with anthropic.Anthropic(base_url=thinker.url, api_key="none", max_retries=0) as client:
        ask: Any = {"model": "tiny", "max_tokens": 100, "messages": ASK}
        message = client.messages.create(**ask, thinking={"type": "enabled", "budget_tokens": 1024})
        assert thinker.backend.prompt().endswith(OPEN)
        with client.messages.stream(**ask, thinking={"type": "adaptive"}) as stream:
            final = stream.get_final_message()
        for each in (message, final):
            thought, text = each.content
            assert thought.type == "thinking"
            assert text.type == "text"
            assert (thought.thinking, text.text) == ("Hm, a greeting.", "Hello.")
        client.messages.create(**ask)
        assert thinker.backend.prompt().endswith(CLOSED)


def test_ollama(thinker: Live) -> None:
    body = {"model": "tiny", "messages": ASK, "stream": False, "think": True}
    message = thinker.http.post("/api/chat", json=body).json()["message"]
    assert (message["content"], message["thinking"]) == ("Hello.", "Hm, a greeting.")
