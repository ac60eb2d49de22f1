"""A conversation -> its text by the model's chat template, and the spans of it that are learned.

Learned is every assistant turn as the template shows it. One that a template rewrites, such as an earlier turn that loses its
thoughts, is learned as it is shown; the last turn must keep its words.
"""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import DataError
from ..fsio import Json
from .example import Example

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper

_OTHER = ("\ue000", "\ue001")  # private-use letters that no template looks at
_OPEN, _CLOSE = "<think>", "</think>"


class Shown(NamedTuple):
    """text: the conversation; spans: [begin, end) of what is learned in it; hidden: thoughts are not shown at all."""

    text: str
    spans: list[tuple[int, int]]
    hidden: bool


def shown(example: Example, tokenizer: TokenizerWrapper) -> Shown:
    """What the template makes of `example`. Raises `DataError` where it refuses it or changes the words of its last turn."""
    messages = example.chat_messages()
    view = _View(example, tokenizer, messages)
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    unsupervised = example.unsupervised()
    spans, hidden = [], False
    for index in answers:
        if index in unsupervised:
            continue
        last = index == answers[-1]
        span = view.exact(index)
        if span is None:
            span = view.rewritten(index, last)
            if last:
                span, unseen = view.whole(index, span)
                hidden = hidden or unseen
        if span[0] < span[1]:
            spans.append(span)
    return Shown(view.text, spans, hidden)


class _View:
    """One conversation, rendered, and again with other words in the place of a turn."""

    def __init__(self, example: Example, tokenizer: TokenizerWrapper, messages: list[Json]) -> None:
        self.example, self.tokenizer, self.messages = example, tokenizer, messages
        self.text = self._render(messages)

    def exact(self, index: int) -> tuple[int, int] | None:
        """The span of a turn of words alone that is shown unchanged; None for any other.

        It begins where the conversation with another content in its place first differs: it cannot be taken for the same
        words elsewhere, such as in a header or an empty block of thoughts.
        """
        message = self.messages[index]
        content = message["content"]
        if "tool_calls" in message or _thoughts(message):
            return None
        begin = _common_prefix(self.text, self._with(index, {**message, "content": _other(content)}))
        trims = (content, content.strip(), content.rstrip(), content.lstrip())  # templates may trim
        said = next((text for text in trims if self.text.startswith(text, begin)), None)
        return None if said is None else (begin, begin + len(said))

    def rewritten(self, index: int, last: bool) -> tuple[int, int]:
        """The span that differs when one unseen letter stands in the turn's place; with the mark that opens its thoughts."""
        message = self.messages[index]
        letter = _other(message["content"])
        plain = self._with(index, {"role": "assistant", "content": letter})
        begin = _common_prefix(self.text, plain)
        after = plain.find(letter, begin) + 1
        calls = "tool_calls" in message
        if calls and (
            not after or self._with(index, {"role": "assistant", "content": message["content"]}) == self.text
        ):
            raise DataError(
                "the model's chat template does not show tool calls, so they cannot be learned",
                path=self.example.source,
                field=f"messages[{index}].tool_calls",
                hint="use a base whose template knows tools, or rows without tool calls",
            )
        if not after:
            if last:
                raise self._changed(index)
            return begin, begin
        end = len(self.text) - _common_prefix(self.text[begin:][::-1], plain[after:][::-1])
        if last and not calls and _bare(_answer(message)) not in _bare(self.text[begin:end]):
            raise self._changed(index)
        return (self._opened(index, begin) if _thoughts(message) else begin), end

    def whole(self, index: int, span: tuple[int, int]) -> tuple[tuple[int, int], bool]:
        """(the span of the last turn with its thoughts, whether they stay hidden).

        Thoughts in the content that the template cuts off are put back, as the model wrote them; thoughts of their own
        field are not, since nothing says how this model marks them.
        """
        message, (begin, end) = self.messages[index], span
        thoughts = _thoughts(message)
        if not thoughts or _bare(thoughts) in _bare(self.text[begin:end]):
            return span, False
        if message.get("reasoning_content") or "tool_calls" in message:
            return span, True
        head = self.text[:begin].removesuffix(_CLOSE)
        content = message["content"]
        if head.rstrip().endswith(_OPEN) and content.lstrip().startswith(_OPEN):
            head = head.rstrip().removesuffix(_OPEN)
        self.text = head + content + self.text[end:]
        return (len(head), len(head) + len(content)), False

    def _opened(self, index: int, begin: int) -> int:
        """Where the model begins to write a turn whose thoughts begin at or before `begin`: behind the generation prompt."""
        before = self.messages[:index]
        try:
            asked = self._render(before, add_generation_prompt=True)
            header = asked[_common_prefix(asked, self._render(before)) :]
        except DataError:
            return begin
        place = self.text.rfind(header, 0, begin) if header else -1
        start = place + len(header)
        between = self.text[start:begin]
        marks = [*self.tokenizer.all_special_tokens]
        return start if place >= 0 and start <= begin and not any(mark in between for mark in marks) else begin

    def _with(self, index: int, turn: Json) -> str:
        return self._render([*self.messages[:index], turn, *self.messages[index + 1 :]])

    def _render(self, messages: list[Json], add_generation_prompt: bool = False) -> str:
        tools = self.example.tool_list()
        options: dict[str, Any] = {"tools": tools} if tools else {}
        options["add_generation_prompt"] = add_generation_prompt
        try:
            return _apply(self.tokenizer, messages, options)
        except Exception as error:  # a template is a program of the model's: whatever it raises is about this row
            raise DataError(
                _reason(self.example, self.tokenizer), path=self.example.source, found=type(error).__name__
            ) from error

    def _changed(self, index: int) -> DataError:
        return DataError(
            "the model's chat template changes this turn's text, so it cannot be supervised",
            path=self.example.source,
            field=f"messages[{index}].content",
        )


def _apply(tokenizer: TokenizerWrapper, messages: list[Json], options: dict[str, Any]) -> str:
    """The rendered messages; templates that join a call's arguments to text take them as a string of JSON."""
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    except Exception:
        spoken = [_spoken(message) for message in messages]
        if spoken == messages:
            raise
        return str(tokenizer.apply_chat_template(spoken, tokenize=False, **options))


def _spoken(message: Json) -> Json:
    calls = []
    for call in message.get("tool_calls", []):
        arguments = call["function"].get("arguments")
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        calls.append({**call, "function": {**call["function"], "arguments": text}})
    return {**message, "tool_calls": calls} if calls else message


def _reason(example: Example, tokenizer: TokenizerWrapper) -> str:
    """Why the template refuses `example`, from its roles and from what the template says of a conversation of ours."""
    turn = {"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}
    roles = [role for role, _ in example.messages or ()]
    spoken = [role for role in roles if role != "system"]
    if (
        "system" in roles
        and _takes(tokenizer, [*turn])
        and not _takes(tokenizer, [{"role": "system", "content": "x"}, *turn])
    ):
        return "the model's chat template takes no system message"
    if spoken[:1] == ["assistant"] or any(a == b != "tool" for a, b in itertools.pairwise(spoken)):
        return "the model's chat template refuses turns that do not alternate"
    if "tool" in roles or example.tools or any("tool_calls" in json.loads(fields) for _, fields in example.extras):
        return "the model's chat template refuses tools or tool calls"
    return "the model's chat template refuses this conversation"


def _takes(tokenizer: TokenizerWrapper, messages: list[Json]) -> bool:
    try:
        tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:  # as above: any error is the template's no
        return False
    return True


def _thoughts(message: Json) -> str:
    """What an assistant thought, from its own field or the block in its content."""
    before, mark, _ = message["content"].rpartition(_CLOSE)
    return str(message.get("reasoning_content") or (before.split(_OPEN)[-1] if mark else ""))


def _answer(message: Json) -> str:
    return str(message["content"].rpartition(_CLOSE)[2])


def _bare(text: str) -> str:
    return "".join(text.split())


def _other(content: str) -> str:
    return _OTHER[content.strip().startswith(_OTHER[0])]


def _common_prefix(a: str, b: str) -> int:
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return length
