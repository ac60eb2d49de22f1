"""A conversation: messages, settings, and a prompt cache (KV cache) that each turn goes on from.

The tokens of the whole conversation are rendered anew for each answer; what a cache already holds of them is read from
there, the rest is fed. Another profile means other caches and the same conversation. Oldest exchanges leave when the
context is full.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import fsio
from ..config import Sampling
from ..errors import InputError
from .batch import Batch, finished
from .decoding import Message, context_length, render
from .request import Request

if TYPE_CHECKING:
    import mlx.nn as nn
    from mlx_lm.tokenizer_utils import TokenizerWrapper

ROLES = ("system", "user", "assistant")
_LEAST_ANSWER = 16  # tokens that must be left for an answer


@dataclass(frozen=True)
class ChatAnswer:
    """What one turn took. cached_tokens: of the prompt, found in the cache; dropped: exchanges that left the context."""

    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    prompt_tps: float
    generation_tps: float
    seed: int
    dropped: int


class ChatSession:
    """One conversation with one model, under one profile at a time."""

    def __init__(
        self, model: nn.Module, tokenizer: TokenizerWrapper, sampling: Sampling | None = None, system: str | None = None
    ) -> None:
        self.sampling = sampling or Sampling()
        self.system = system
        self.messages: list[Message] = []
        self.last: ChatAnswer | None = None
        self._model = model
        self._tokenizer = tokenizer
        self._batch: Batch | None = None

    def use(self, model: nn.Module) -> None:
        """Go on with `model` (another profile); the conversation stays and is read again by it."""
        self._model = model
        self._batch = None

    def clear(self) -> None:
        """Forget every turn; the system message and the settings stay."""
        self.messages.clear()
        self.last = None
        self._batch = None

    def ask(self, text: str, should_stop: Callable[[], bool] = lambda: False) -> Iterator[str]:
        """Yield the pieces of the answer to `text`; `last` says what it took.

        An answer stopped half-way stays in the conversation as far as it came. After an error the question is gone.
        """
        self.messages.append({"role": "user", "content": text})
        yield from self._answer(should_stop)

    def retry(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[str]:
        """Yield another answer to the last question in place of the one it got."""
        while self.messages and self.messages[-1]["role"] == "assistant":
            self.messages.pop()
        if not self.messages:
            raise InputError("there is no question to answer again")
        yield from self._answer(should_stop)

    def save(self, path: Path) -> None:
        """Write system message and turns as JSON that only the user can read."""
        fsio.write_json(path, {"messages": [*self._head(), *self.messages]}, mode=fsio.PRIVATE_FILE_MODE)

    def load(self, path: Path) -> None:
        """Take system message and turns from a saved conversation; InputError names what is wrong with the file."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not JSON"
            raise InputError("the conversation cannot be read", path=path, found=reason) from error
        messages = document.get("messages") if isinstance(document, dict) else None
        if not isinstance(messages, list):
            raise InputError("not a saved conversation", path=path, field="messages", expected="a list of turns")
        turns: list[Message] = []
        for index, message in enumerate(messages):
            role = message.get("role") if isinstance(message, dict) else None
            content = message.get("content") if isinstance(message, dict) else None
            if role not in ROLES or not isinstance(content, str) or (role == "system" and index):
                raise InputError("not a turn of a conversation", path=path, field=f"messages[{index}]")
            turns.append({"role": role, "content": content})
        self.clear()
        self.system = turns.pop(0)["content"] if turns and turns[0]["role"] == "system" else None
        self.messages = turns

    def _head(self) -> list[Message]:
        return [{"role": "system", "content": self.system}] if self.system else []

    def _answer(self, should_stop: Callable[[], bool]) -> Iterator[str]:
        try:
            ids, dropped = self._fit()
        except InputError:
            self.messages.pop()
            raise
        limit = min(self.sampling.max_tokens, context_length(self._model) - len(ids))
        batch = Batch(self._model, self._tokenizer, streams=1) if self._batch is None else self._batch
        self._batch = None  # until it is known that nothing broke off inside a step
        row = batch.add(Request(ids, sampling=replace(self.sampling, max_tokens=limit)))
        pieces: list[str] = []
        try:
            for piece in batch.pieces(row, should_stop):
                pieces.append(piece.text)
                yield piece.text
            self._batch = batch
        finally:
            self.messages.append({"role": "assistant", "content": "".join(pieces)})
            if row.finish is None:
                row.interrupt()
            finish = finished(row)
            self.last = ChatAnswer(
                finish_reason=finish.finish_reason,
                prompt_tokens=finish.prompt_tokens,
                cached_tokens=finish.cached_tokens,
                completion_tokens=finish.completion_tokens,
                prompt_tps=finish.prompt_tps,
                generation_tps=finish.generation_tps,
                seed=finish.seed,
                dropped=dropped,
            )

    def _fit(self) -> tuple[list[int], int]:
        """(tokens of the conversation, exchanges dropped from its beginning so that an answer has room)."""
        context = context_length(self._model)
        reserve = min(self.sampling.max_tokens, max(_LEAST_ANSWER, context // 4))
        messages, dropped = self.messages, 0
        while True:
            ids = render(self._tokenizer, [*self._head(), *messages])
            if len(ids) <= context - reserve:
                self.messages = list(messages)
                return ids, dropped
            later = next((i for i, message in enumerate(messages) if i and message["role"] == "user"), None)
            if later is None:
                raise InputError(
                    "this message is longer than the model's context",
                    expected=f"at most {context - reserve} tokens",
                    found=f"{len(ids)} tokens",
                )
            messages = messages[later:]
            dropped += 1
