"""A backend for the server's tests: a real tokenizer, and given answers; a token is a character."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper, load
from tokenizers import Tokenizer

from zen_mlx.config import SEEDS
from zen_mlx.engine.request import Finish, Piece, Request, TokenLogprob
from zen_mlx.errors import InputError, ProfileNotFoundError, QueueFull
from zen_mlx.format.spec import Facts

TOOL_TEMPLATE = (
    "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% for tool_call in m.tool_calls or [] %}{% set tool_call = tool_call.function %}"
    '<tool_call>\n{"name": "{{ tool_call.name }}", "arguments": {{ tool_call.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


THINKING_TEMPLATE = TOOL_TEMPLATE.removesuffix("{% endif %}") + (
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}{% endif %}"
)


def tool_tokenizer(
    model: Path, folder: Path, template: str = TOOL_TEMPLATE, words: tuple[str, ...] = ()
) -> TokenizerWrapper:
    """The tokenizer of `model` with another template and added `words`, kept in `folder`."""
    folder.mkdir()
    (folder / "config.json").write_bytes((model / "config.json").read_bytes())
    tokens = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokens.add_tokens(list(words))
    tokens.save(str(folder / "tokenizer.json"))
    config = json.loads((model / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    return load(folder)


@dataclass
class CannedBackend:
    """says: the answer; step: characters in a piece; slow_s: before each piece; first_s: before the first one.

    asked: what was opened; given: the streams. refuses: raised by `open`; breaks: in place of the answer's end.
    """

    tokenizer: TokenizerWrapper
    says: str = "Hello there."
    step: int = 3
    slow_s: float = 0.0
    first_s: float = 0.0
    full: bool = False
    refuses: Exception | None = None
    breaks: Exception | None = None
    model_name: str = "tiny"
    context: int = 2000
    vocab_size: int = 258
    names: list[str] = field(default_factory=lambda: ["cynic", "hacker"])
    asked: list[Request] = field(default_factory=list)
    given: list[CannedStream] = field(default_factory=list)
    tokenizing: threading.Lock = field(default_factory=threading.Lock)

    def open(self, request: Request) -> CannedStream:
        if self.refuses is not None:
            raise self.refuses
        if self.full:
            raise QueueFull("too many requests are waiting", retry_after=2.5)
        if request.profile is not None and request.profile not in self.names:
            raise ProfileNotFoundError(f"no profile {request.profile}", path="/secret/place")
        if len(request.ids) >= self.context:
            raise InputError("the prompt is longer than the model's context", field="prompt")
        self.asked.append(request)
        self.given.append(CannedStream(self, request))
        return self.given[-1]

    def profiles(self) -> list[str]:
        return list(self.names)

    def facts(self, name: str) -> Facts:
        if name not in self.names:
            raise ProfileNotFoundError(f"no profile {name}", path="/secret/place")
        metrics = {"base_loss": 3.5, "profile_loss": float("nan"), "note": "text"}
        return Facts(target_count=800, model_count=900, file_bytes=100, metrics=metrics)

    def pin(self, name: str, pinned: bool = True) -> None:
        self.facts(name)

    def forget(self, name: str) -> None:
        """Nothing is kept."""

    failed: str | None = None

    def stats(self) -> dict[str, Any]:
        running = sum(stream.finish is None for stream in self.given)
        return {"running": running, "queued": 0, "resident_bytes": 7, "completion_tokens": 11, "prompt_tokens": 5}

    def prompt(self, number: int = -1) -> str:
        """What the model was shown."""
        return str(self.tokenizer.decode(list(self.asked[number].ids)))


def fits(request: Request, tokenizer: TokenizerWrapper, text: str) -> bool:
    """Whether the grammar of `request` allows `text`, and the end of the turn after it."""
    assert request.grammar is not None
    matcher = request.grammar.matcher()
    for token in tokenizer.encode(text):
        if not matcher.allowed()[token]:
            return False
        matcher.consume([token])
    return bool(matcher.allowed()[tokenizer.eos_token_id])


class CannedStream:
    """One answer. sent: the characters that were made."""

    def __init__(self, backend: CannedBackend, request: Request) -> None:
        self.finish: Finish | None = None
        self.sent = 0
        self.cancelled = False
        self._backend = backend
        self._request = request

    def cancel(self) -> None:
        self.cancelled = self.finish is None or self.cancelled

    async def __aiter__(self) -> AsyncIterator[Piece]:
        backend, limit = self._backend, self._request.sampling.max_tokens
        stops = [(backend.says.find(stop), stop) for stop in self._request.stop if stop in backend.says]
        end, stop = min(stops) if stops else (len(backend.says), None)
        text = backend.says[: min(end, limit)]
        await asyncio.sleep(backend.first_s)
        for at in range(0, len(text), backend.step):
            await asyncio.sleep(backend.slow_s)
            if self.cancelled:
                break
            piece = text[at : at + backend.step]
            self.sent += len(piece)
            yield Piece(piece, len(piece), self._logprobs(piece))
        if backend.breaks is not None:
            raise backend.breaks
        reason = "interrupted" if self.cancelled else "length" if limit < end else "stop"
        seed = self._request.sampling.seed
        self.finish = Finish(
            reason,
            stop if reason == "stop" else None,
            len(self._request.ids),
            2,
            self.sent,
            1.0,
            1.0,
            (seed or 0) % SEEDS,
        )

    def _logprobs(self, piece: str) -> tuple[TokenLogprob, ...]:
        top = self._request.top_logprobs
        if top is None:
            return ()
        others = tuple(TokenLogprob(number, chr(97 + number), -float("inf")) for number in range(top))
        return tuple(TokenLogprob(ord(letter) % 258, letter, -0.5, others) for letter in piece)
