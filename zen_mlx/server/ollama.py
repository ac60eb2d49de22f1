"""Ollama's `GET /api/tags` and `POST /api/chat`, for apps that speak nothing else: a thin translation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from ..engine import request as engine
from .documents import answers_of
from .faults import OLLAMA, Fault
from .openai_wire import Tool, stops_of
from .prompts import JSON_OBJECT, Format, Message, Talk, prepare
from .reading import TEXT
from .running import Answer, Answers, Called, Ended, Event, sampling_of
from .shared import Serving
from .sse import EventStream, whole
from .tools import AUTO, NONE, Call, choose
from .wire import Body, JsonSchema, ModelName, Seed, StopText, StopTexts, Temperature, TopP, Wire

LATEST = ":latest"


class OllamaFunction(Wire):
    """A call that the assistant made."""

    name: str
    arguments: JsonSchema
    index: int | None = None


class OllamaCall(Wire):
    """A call that the assistant made."""

    function: OllamaFunction
    id: str | None = None


class OllamaMessage(Wire):
    """One turn; text only."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: str | None = None
    tool_calls: list[OllamaCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class OllamaOptions(Body):
    """Sampling. num_predict -1 or -2: as many tokens as there is room for."""

    ignored: ClassVar[frozenset[str]] = frozenset({"num_batch", "num_gpu", "num_keep", "num_thread", "use_mmap"})
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: Seed | None = None
    stop: StopText | StopTexts | None = None
    num_predict: Annotated[int, Field(ge=-2, le=2**31 - 1)] | None = None


class OllamaBody(Body):
    """`POST /api/chat`; it streams unless `stream` is false."""

    ignored: ClassVar[frozenset[str]] = frozenset({"keep_alive"})
    model: ModelName
    messages: list[OllamaMessage] = Field(min_length=1)
    stream: bool | None = None
    format: Literal["json", ""] | JsonSchema | None = None
    options: OllamaOptions | None = None
    tools: list[Tool] | None = None
    think: bool | None = None

    def wanted_format(self) -> Format:
        """What the answer must look like."""
        return {"json": JSON_OBJECT, "": None}[self.format] if isinstance(self.format, str) else self.format

    def talk(self) -> Talk:
        """The conversation as chat templates know it."""
        functions = [tool.function for tool in self.tools or []]
        tools = choose(functions, AUTO if functions else NONE)
        return Talk(
            [_templated(each) for each in self.messages], tools, self.wanted_format(), self.think, False, "format"
        )


def router(serving: Serving) -> APIRouter:
    """The routes of Ollama."""
    routes = APIRouter()

    @routes.get("/api/tags", summary="All models", responses=answers_of(OLLAMA, ["models"]))
    def tags(request: Request) -> dict[str, Any]:
        names = serving.profiles_for(request)
        return {"models": [_tag(serving.model_of(name), serving) for name in names]}

    @routes.post(
        "/api/chat",
        summary="Continue a conversation",
        responses=answers_of(OLLAMA, ["model", "message", "done"], "application/x-ndjson"),
    )
    async def chat(body: OllamaBody, request: Request) -> Response:
        profile = serving.profile_of(body.model.removesuffix(LATEST), request)
        prompt = await asyncio.to_thread(prepare, serving, body.talk())
        options = body.options or OllamaOptions()
        limit = options.num_predict if options.num_predict is not None and options.num_predict > 0 else None
        sampling = sampling_of(serving, len(prompt.ids), limit, options.temperature, options.top_p, options.seed)
        wanted = engine.Request(prompt.ids, profile, sampling, stops_of(options.stop), grammar=prompt.grammar)
        answers = Answers(serving, prompt, [wanted])
        head = {"model": body.model}
        if body.stream is False:
            return await whole(request, answers, lambda collected: _whole(head, collected[0]))
        return EventStream(request, answers, _lines(head, answers), _failed, "application/x-ndjson")

    return routes


def _tag(model: str, serving: Serving) -> dict[str, Any]:
    made = datetime.fromtimestamp(serving.started, UTC).isoformat()
    details = {"format": "mlx", "family": "", "families": [], "parameter_size": "", "quantization_level": ""}
    return {"name": model, "model": model, "modified_at": made, "size": 0, "digest": "", "details": details}


def _templated(message: OllamaMessage) -> Message:
    out: Message = {"role": message.role, "content": message.content}
    if message.tool_name is not None:
        out["name"] = message.tool_name
    if message.tool_call_id is not None:
        out["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        out["tool_calls"] = [
            {"type": "function", "function": {"name": call.function.name, "arguments": call.function.arguments}}
            for call in message.tool_calls
        ]
    return out


def _whole(head: dict[str, Any], answer: Answer) -> dict[str, Any]:
    assert answer.finish is not None
    message: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if answer.thought:
        message["thinking"] = answer.thought
    if answer.calls:
        message["tool_calls"] = [_call(call) for call in answer.calls]
    return _now(head) | {"message": message} | _done(answer.finish)


def _now(head: dict[str, Any]) -> dict[str, Any]:
    return head | {"created_at": datetime.now(UTC).isoformat()}


def _done(finish: engine.Finish) -> dict[str, Any]:
    counts = {"prompt_eval_count": finish.prompt_tokens, "eval_count": finish.completion_tokens}
    return {"done": True, "done_reason": finish.finish_reason, **counts}


def _call(call: Call) -> dict[str, Any]:
    return {"function": {"name": call.name, "arguments": json.loads(call.arguments)}}


async def _lines(head: dict[str, Any], answers: Answers) -> AsyncIterator[str]:
    async for event in answers.events():
        if event is not None:  # lines of JSON have no comments: an empty text keeps the connection alive
            yield _line(_now(head) | _chunk(event))
        else:
            yield _line(_now(head) | {"message": {"role": "assistant", "content": ""}, "done": False})


def _chunk(event: Event) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    if isinstance(event, Ended):
        return {"message": message} | _done(event.finish)
    if isinstance(event, Called):
        message["tool_calls"] = [_call(event.call)]
    else:
        message["content" if event.kind == TEXT else "thinking"] = event.text
    return {"message": message, "done": False}


def _failed(fault: Fault) -> str:
    return _line({"error": fault.message})


def _line(document: dict[str, Any]) -> str:
    return json.dumps(document) + "\n"
