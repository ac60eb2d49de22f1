"""One training example: a conversation or a text, and its source."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

from ..fsio import Json


@dataclass(frozen=True)
class Example:
    """A conversation (`messages`) or a text without template (`text`); `source` is `file:line`, never content.

    tools: the tools on offer, as JSON. extras: (index of a message, its other fields as JSON): tool calls, a tool's name,
    thoughts, a weight. conversation: rows with the same one are parts of one conversation and stay on one side of a split.
    """

    source: str
    messages: tuple[tuple[str, str], ...] | None = None
    text: str | None = None
    tools: str | None = None
    extras: tuple[tuple[int, str], ...] = ()
    conversation: str | None = field(default=None, compare=False)

    def digest(self) -> bytes:
        """SHA-256 of the content: the identity of a row wherever it lies."""
        content: object = [list(turn) for turn in self.messages] if self.messages is not None else self.text
        if self.tools or self.extras:
            content = {"messages": content, "tools": self.tools, "extras": [list(extra) for extra in self.extras]}
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).digest()

    def chat_messages(self) -> list[Json]:
        """The messages as a chat template takes them."""
        messages: list[Json] = [{"role": role, "content": content} for role, content in self.messages or ()]
        for index, fields in self.extras:
            messages[index].update(json.loads(fields))
            messages[index].pop("weight", None)
            if "reasoning_content" in messages[index]:  # Qwen3's name for it; gpt-oss's template reads the other one
                messages[index]["thinking"] = messages[index]["reasoning_content"]
        return messages

    def tool_list(self) -> list[Json] | None:
        """The tools as a chat template takes them; None without any."""
        return json.loads(self.tools) if self.tools else None

    def unsupervised(self) -> set[int]:
        """Indices of the assistant messages that are not to be learned: those of weight 0."""
        return {index for index, fields in self.extras if json.loads(fields).get("weight") == 0}
