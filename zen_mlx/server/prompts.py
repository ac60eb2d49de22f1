"""Messages -> token ids through the model's chat template, and output formats -> grammars."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..engine.constraints import Constraints
from ..engine.decoding import check_text
from ..engine.request import Grammar
from ..errors import InputError
from .reading import THOUGHT, Span
from .shared import Backend, Serving
from .tools import Tools, call_span, check_template

_SLACK = 4  # a tokenizer may take characters away before it looks for tokens

Message = dict[str, Any]
JSON_OBJECT = "json_object"
Format = dict[str, Any] | str | None  # a JSON Schema; JSON_OBJECT; None for text


@dataclass(frozen=True)
class Talk:
    """A conversation that the model is to continue. thinks: None for the model's own way. format_field: where it stands.

    Messages are as chat templates know them; a call's arguments are a dict. continues: the last message is the
    beginning of the answer.
    """

    messages: Sequence[Message]
    tools: Tools | None = None
    format: Format = None
    thinks: bool | None = None
    continues: bool = False
    format_field: str = "response_format"


@dataclass(frozen=True)
class Prompt:
    """Token ids; what may answer them; the spans that an answer may have, and the one that the prompt has opened."""

    ids: list[int]
    grammar: Grammar | None = None
    tools: Tools | None = None
    spans: tuple[Span, ...] = ()
    inside: Span | None = None


def prepare(serving: Serving, talk: Talk) -> Prompt:
    """Render `talk` and compile its format. InputError where the template or the grammar's compiler refuses."""
    backend, tokenizer = serving.backend, serving.backend.tokenizer
    if talk.tools is not None:
        check_template(tokenizer)
        if talk.format is not None and not talk.tools.forced:
            raise InputError(
                "an answer cannot both keep to a format and call functions",
                field="tools",
                hint='set tool_choice to "none", or leave the format out',
            )
    _check_length(backend, sum(len(text) for each in talk.messages if isinstance(text := each.get("content"), str)))
    with backend.tokenizing:
        ids = _render(tokenizer, talk)
        thought = _thought(tokenizer)
        inside = thought if thought and not _shaped(talk) and _ends_in_thought(tokenizer, ids) else None
    spans = ([thought] if thought else []) + ([call_span(tokenizer)] if talk.tools else [])
    return Prompt(ids, _grammar(serving.constraints, talk), talk.tools, tuple(spans), inside)


def plain(backend: Backend, texts: Sequence[str | Sequence[int]]) -> list[list[int]]:
    """Token ids of prompts that are continued without a template. InputError for empty ones and unknown tokens."""
    for text in texts:
        _check_length(backend, len(text) if isinstance(text, str) else 0)
    with backend.tokenizing:
        return [_plain_ids(backend, text) for text in texts]


def _check_length(backend: Backend, characters: int) -> None:
    """InputError for text that cannot fit, whatever its tokens are: to count them would hold up everybody's prompts."""
    most = _SLACK * backend.context * _longest(backend.tokenizer)
    if characters > most:
        raise InputError(
            "the prompt is longer than the model's context",
            field="messages",
            expected=f"fewer than {backend.context} tokens",
            found=f"{characters} characters",
        )


@functools.lru_cache(maxsize=4)
def _longest(tokenizer: Any) -> int:
    """Characters of the longest token."""
    return max(map(len, tokenizer.get_vocab()))


def arguments_of(text: str, field: str) -> dict[str, Any]:
    """The arguments of an earlier call, which OpenAI's dialects send as JSON text."""
    try:
        arguments = json.loads(text or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise InputError("the arguments of a call must be the text of a JSON object", field=field)
    return arguments


def _plain_ids(backend: Backend, text: str | Sequence[int]) -> list[int]:
    if not isinstance(text, str):
        ids = list(text)
    else:
        try:
            ids = [int(token) for token in backend.tokenizer.encode(text)]
        except (TypeError, ValueError) as error:
            raise InputError("the prompt is not valid text", field="prompt") from error
    if not ids:
        raise InputError("the prompt is empty", field="prompt")
    if not all(0 <= token < backend.vocab_size for token in ids):
        raise InputError("the prompt has tokens that the model does not know", field="prompt")
    return ids


def _render(tokenizer: Any, talk: Talk) -> list[int]:
    if not tokenizer.has_chat_template:
        raise InputError(
            "this model has no chat template, so it cannot hold a conversation",
            hint="use /v1/completions, or serve an instruction-tuned base",
        )
    for message in talk.messages:
        check_text(message.get("content"), "messages")
    options: dict[str, Any] = {"add_generation_prompt": not talk.continues}
    if talk.continues:
        options["continue_final_message"] = True
    if talk.tools is not None:
        options["tools"] = talk.tools.for_template()
    if tokenizer.has_thinking and (talk.thinks is not None or _shaped(talk)):
        options["enable_thinking"] = bool(talk.thinks) and not _shaped(talk)
    try:
        ids = tokenizer.apply_chat_template(list(talk.messages), tokenize=True, **options)
    except Exception as error:  # a template is a program of the model's: whatever it raises is about this conversation
        raise InputError(
            "the model's chat template refuses this conversation",
            field="messages",
            found=", ".join(message["role"] for message in talk.messages[-20:]),
            hint="some models accept no system message, or none after the first, or want turns to alternate",
        ) from error
    return [int(token) for token in ids]


def _shaped(talk: Talk) -> bool:
    """Whether a grammar describes the whole answer, so that there is no place for a thought."""
    return talk.format is not None or (talk.tools is not None and talk.tools.forced)


def _thought(tokenizer: Any) -> Span | None:
    return Span(THOUGHT, tokenizer.think_start, tokenizer.think_end) if tokenizer.has_thinking else None


def _ends_in_thought(tokenizer: Any, ids: list[int]) -> bool:
    """Whether the template has opened a thought for the model."""
    tail = tokenizer.decode(ids[-16:]).rstrip()
    return bool(tail.endswith(tokenizer.think_start))


def _grammar(constraints: Constraints, talk: Talk) -> Grammar | None:
    if talk.tools is not None and talk.tools.forced:
        return constraints.tool_call(talk.tools.for_template())
    if talk.format is None:
        return None
    if isinstance(talk.format, str):
        return constraints.json_object()
    return constraints.json_schema(talk.format, talk.format_field)
