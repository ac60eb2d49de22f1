"""The bodies of OpenAI's chat completions and completions."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ..errors import InputError
from .prompts import JSON_OBJECT, Format, Message, arguments_of
from .tools import AUTO, NONE, REQUIRED, Tools, choose
from .wire import (
    Count,
    Effort,
    FunctionChoice,
    FunctionSpec,
    JsonSchemaFormat,
    MaxTokens,
    SampledBody,
    Seed,
    StopText,
    StopTexts,
    TextPart,
    Wire,
    refusal,
)

IGNORED = frozenset(
    {
        "client_metadata",
        "metadata",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "user",
    }
)
Text = str | list[TextPart]


class RefusalPart(Wire):
    """A part of an earlier answer."""

    type: Literal["refusal"]
    refusal: str


class CalledFunction(Wire):
    """arguments: the text of a JSON object."""

    name: str
    arguments: str


class ToolCall(Wire):
    """A call that the assistant made."""

    id: str
    type: Literal["function"]
    function: CalledFunction
    index: int | None = None


class SystemMessage(Wire):
    """Instructions."""

    role: Literal["system", "developer"]
    content: Text
    name: str | None = None


class UserMessage(Wire):
    """What the user says; text only."""

    role: Literal["user"]
    content: Text
    name: str | None = None


class AssistantMessage(Wire):
    """An earlier answer, as it was sent; its thought is not shown to the model again."""

    role: Literal["assistant"]
    content: str | list[Annotated[TextPart | RefusalPart, Field(discriminator="type")]] | None = None
    tool_calls: list[ToolCall] | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    annotations: list[Any] | None = None
    parsed: Any = None
    audio: None = None
    function_call: None = None


class ToolMessage(Wire):
    """What a call gave."""

    role: Literal["tool"]
    content: Text
    tool_call_id: str
    name: str | None = None


ChatMessage = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class TextFormat(Wire):
    """Free text."""

    type: Literal["text"]


class ObjectFormat(Wire):
    """Any JSON object."""

    type: Literal["json_object"]


class SchemaFormat(Wire):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchemaFormat


class Tool(Wire):
    """A function that the model may call."""

    type: Literal["function"]
    function: FunctionSpec


class NamedTool(Wire):
    """The function that the model must call."""

    type: Literal["function"]
    function: FunctionChoice


class StreamOptions(Wire):
    """include_usage: a last chunk with the counts of tokens."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatBody(SampledBody):
    """`POST /v1/chat/completions`."""

    ignored: ClassVar[frozenset[str]] = IGNORED
    refused: ClassVar = {
        "audio": (),
        "frequency_penalty": (0,),
        "function_call": (),
        "functions": ([],),
        "logit_bias": ({},),
        "modalities": (["text"],),
        "moderation": (),
        "presence_penalty": (0,),
        "store": (False,),
        "verbosity": ("medium",),
        "web_search_options": (),
    }
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    n: Count | None = None
    stop: StopText | StopTexts | None = None
    seed: Seed | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    stream_options: StreamOptions | None = None
    response_format: Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    reasoning_effort: Effort | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise refusal("top_logprobs", "needs logprobs: true")
        if self.stream_options is not None and not self.stream:
            raise refusal("stream_options", "needs stream: true")
        return self

    def chosen_tools(self) -> Tools | None:
        """What may be called."""
        functions = [tool.function for tool in self.tools or []]
        if isinstance(self.tool_choice, NamedTool):
            return choose(functions, REQUIRED, self.tool_choice.function.name)
        return choose(functions, self.tool_choice or (AUTO if functions else NONE))

    def format(self) -> Format:
        """What the answer must look like."""
        if isinstance(self.response_format, SchemaFormat):
            return self.response_format.json_schema.schema_
        return JSON_OBJECT if isinstance(self.response_format, ObjectFormat) else None


class CompletionBody(SampledBody):
    """`POST /v1/completions`: a prompt as text or tokens, or a list of such."""

    ignored: ClassVar[frozenset[str]] = IGNORED
    refused: ClassVar = {
        "best_of": (1,),
        "frequency_penalty": (0,),
        "logit_bias": ({},),
        "presence_penalty": (0,),
        "suffix": ("",),
    }
    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: MaxTokens | None = Field(None, description="Default: 16.")
    n: Count | None = None
    stop: StopText | StopTexts | None = None
    seed: Seed | None = None
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool | None = Field(None, description="Begin with the prompt; with `logprobs` its tokens have theirs.")
    stream_options: StreamOptions | None = None

    def prompts(self) -> list[str | list[int]]:
        """Each prompt. InputError for none, or for more than 64."""
        prompt = self.prompt
        one = isinstance(prompt, str) or (bool(prompt) and isinstance(prompt[0], int))
        prompts: list[Any] = [prompt] if one else list(prompt)
        if not 1 <= len(prompts) <= 64:
            raise InputError("a request has 1 to 64 prompts", field="prompt", found=len(prompts))
        return prompts


def text_of(content: Any) -> str:
    """The text of a message: its parts on lines of their own."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.refusal if isinstance(part, RefusalPart) else part.text for part in content)


def stops_of(stop: str | list[str] | None) -> tuple[str, ...]:
    """Texts that end the answer."""
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def templated(message: ChatMessage) -> Message:
    """`message` as chat templates know it."""
    role = "system" if message.role == "developer" else message.role
    out: Message = {"role": role, "content": text_of(message.content)}
    if isinstance(message, ToolMessage):
        out["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        out["name"] = message.name
    if isinstance(message, AssistantMessage) and message.tool_calls:
        out["tool_calls"] = [_templated_call(call) for call in message.tool_calls]
    return out


def _templated_call(call: ToolCall) -> Message:
    arguments = arguments_of(call.function.arguments, "messages")
    return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}
