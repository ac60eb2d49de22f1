"""The body of OpenAI's Responses: the whole history in each request, nothing kept between two."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from .openai_wire import IGNORED, ObjectFormat, RefusalPart, TextFormat, text_of
from .prompts import JSON_OBJECT, Format, Message, arguments_of
from .tools import AUTO, NONE, REQUIRED, Tools, choose
from .wire import Effort, FunctionSpec, JsonSchemaFormat, MaxTokens, SampledBody, Wire, refusal

_ENCRYPTED = "reasoning.encrypted_content"  # of which there is none: a thought is sent as it is


class InputText(Wire):
    """Text of a message; annotations and log-probabilities of an earlier answer are not shown to the model."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None
    parsed: Any = None


InputPart = Annotated[InputText | RefusalPart, Field(discriminator="type")]
InputContent = str | list[InputPart]


class InputMessage(Wire):
    """A turn."""

    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: InputContent
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class FunctionCall(Wire):
    """A call that the model made. arguments: the text of a JSON object."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None
    parsed_arguments: Any = None


class FunctionOutput(Wire):
    """What a call gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: InputContent
    id: str | None = None
    status: str | None = None


class Reasoning(Wire):
    """An earlier thought, which is not shown to the model again."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: list[Any] | None = None
    content: list[Any] | None = None
    encrypted_content: str | None = None
    status: str | None = None


def _kind(item: Any) -> str:
    kind = item.get("type") if isinstance(item, dict) else getattr(item, "type", None)
    return kind if isinstance(kind, str) else "message"


InputItem = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionOutput, Tag("function_call_output")]
    | Annotated[Reasoning, Tag("reasoning")],
    Discriminator(_kind),
]


class FlatFunction(FunctionSpec):
    """A function that the model may call."""

    type: Literal["function"]


class OtherTool(BaseModel):
    """A tool that another server would run: it is not offered to the model. Clients send such tools to every server."""

    model_config = ConfigDict(extra="ignore", strict=True)
    type: str


def _tool_kind(tool: Any) -> str:
    kind = tool.get("type") if isinstance(tool, dict) else getattr(tool, "type", None)
    return "function" if kind == "function" else "other"


ResponsesTool = Annotated[
    Annotated[FlatFunction, Tag("function")] | Annotated[OtherTool, Tag("other")], Discriminator(_tool_kind)
]


class FlatSchemaFormat(JsonSchemaFormat):
    """JSON that follows a schema."""

    type: Literal["json_schema"]


class TextOptions(Wire):
    """What the answer must look like."""

    format: Annotated[TextFormat | ObjectFormat | FlatSchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Literal["medium"] | None = None


class ReasoningOptions(Wire):
    """effort: none or minimal for no thought, where the base has thoughts. There are no summaries."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed", "none"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class NamedFunction(Wire):
    """The function that the model must call."""

    type: Literal["function"]
    name: str


class ResponsesStreamOptions(Wire):
    """include_obfuscation: there is none."""

    include_obfuscation: bool | None = None


class ResponsesBody(SampledBody):
    """`POST /v1/responses`."""

    ignored: ClassVar[frozenset[str]] = IGNORED | {"max_tool_calls"}
    refused: ClassVar = {
        "background": (False,),
        "context_management": ([],),
        "conversation": (),
        "include": ([], [_ENCRYPTED]),
        "moderation": (),
        "previous_response_id": (),
        "prompt": (),
        "store": (False,),
        "top_logprobs": (0,),
        "truncation": ("disabled",),
    }
    input: str | list[InputItem]
    instructions: str | None = None
    max_output_tokens: MaxTokens | None = None
    stream_options: ResponsesStreamOptions | None = None
    text: TextOptions | None = None
    tools: list[ResponsesTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = None
    reasoning: ReasoningOptions | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.input == [] and not self.instructions:
            raise refusal("input", "must not be empty")
        return self

    def chosen_tools(self) -> Tools | None:
        """What may be called. Tools of other types are those that clients offer to every server."""
        functions = [tool for tool in self.tools or [] if isinstance(tool, FlatFunction)]
        if isinstance(self.tool_choice, NamedFunction):
            return choose(functions, REQUIRED, self.tool_choice.name)
        return choose(functions, self.tool_choice or (AUTO if functions else NONE))

    def format(self) -> Format:
        """What the answer must look like."""
        wanted = None if self.text is None else self.text.format
        if isinstance(wanted, FlatSchemaFormat):
            return wanted.schema_
        return JSON_OBJECT if isinstance(wanted, ObjectFormat) else None

    def thinks(self) -> bool | None:
        """Whether the model is to think first; None for its own way."""
        effort = None if self.reasoning is None else self.reasoning.effort
        return None if effort is None else effort not in ("none", "minimal")

    def messages(self) -> list[Message]:
        """The conversation as chat templates know it: calls belong to the assistant's turn before them."""
        out: list[Message] = []
        if self.instructions:
            out.append({"role": "system", "content": self.instructions})
        for item in [InputMessage(role="user", content=self.input)] if isinstance(self.input, str) else self.input:
            _append(out, item)
        return out


def _append(out: list[Message], item: InputMessage | FunctionCall | FunctionOutput | Reasoning) -> None:
    if isinstance(item, InputMessage):
        role = "system" if item.role == "developer" else item.role
        out.append({"role": role, "content": text_of(item.content)})
    elif isinstance(item, FunctionOutput):
        out.append({"role": "tool", "content": text_of(item.output), "tool_call_id": item.call_id})
    elif isinstance(item, FunctionCall):
        if not out or out[-1]["role"] != "assistant":
            out.append({"role": "assistant", "content": ""})
        function = {"name": item.name, "arguments": arguments_of(item.arguments, "input")}
        calls = out[-1].setdefault("tool_calls", [])
        calls.append({"id": item.call_id, "type": "function", "function": function})
