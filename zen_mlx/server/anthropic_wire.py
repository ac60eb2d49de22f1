"""The bodies of Anthropic's Messages and of counting their tokens."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from .prompts import Format, Message
from .tools import AUTO, NONE, REQUIRED, Tools, choose
from .wire import Body, Effort, FunctionSpec, JsonSchema, MaxTokens, ModelName, SampledBody, StopTexts, Wire, refusal

_CLEAR_THINKING = "clear_thinking_20251015"


class Cached(Wire):
    """cache_control: prompts are cached by themselves, and answers are the same."""

    cache_control: dict[str, Any] | None = None


class TextBlock(Cached):
    """Text."""

    type: Literal["text"]
    text: str
    citations: None = None
    parsed_output: Any = None


class ToolUseBlock(Cached):
    """A call that the model made."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: JsonSchema
    caller: dict[str, Any] | None = None


class ToolResultBlock(Cached):
    """What a call gave."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[TextBlock] | None = None
    is_error: bool | None = None


class ThinkingBlock(Wire):
    """An earlier thought, which is not shown to the model again."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedBlock(Wire):
    """An earlier thought of another server."""

    type: Literal["redacted_thinking"]
    data: str


Block = Annotated[
    TextBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock | RedactedBlock, Field(discriminator="type")
]


class Turn(Wire):
    """One turn."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class AnthropicTool(Cached):
    """A function that the model may call."""

    type: Literal["custom"] | None = None
    name: str = Field(min_length=1, max_length=200)
    description: str | None = None
    input_schema: JsonSchema
    strict: bool | None = None
    eager_input_streaming: bool | None = None


class Choice(Wire):
    """Whether the model may or must call something."""

    type: Literal["auto", "any", "none", "tool"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Wire):
    """Whether the model is to think first, where the base has thoughts; their length is the model's own."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(Wire):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    schema_: JsonSchema = Field(alias="schema")


class OutputConfig(Wire):
    """What the answer must look like."""

    format: OutputFormat | None = None
    effort: Effort | None = None


class Edit(Wire):
    """Earlier thoughts are left out; they always are."""

    type: Literal["clear_thinking_20251015"]
    keep: Any = None


class ContextManagement(Wire):
    """What is to be left out of the conversation."""

    edits: list[Edit] | None = None


class Conversation(Body):
    """What a message and a count of tokens have in common."""

    ignored: ClassVar[frozenset[str]] = frozenset({"cache_control", "inference_geo", "metadata", "service_tier"})
    refused: ClassVar = {"container": (), "mcp_servers": ([],), "speed": ("standard",), "top_k": ()}
    model: ModelName
    messages: list[Turn] = Field(min_length=1)
    system: str | list[TextBlock] | None = None
    tools: list[AnthropicTool] | None = None
    tool_choice: Choice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    context_management: ContextManagement | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.tool_choice is not None and (self.tool_choice.type == "tool") != (self.tool_choice.name is not None):
            raise refusal("tool_choice", "has a name if and only if its type is `tool`")
        return self

    def chosen_tools(self) -> Tools | None:
        """What may be called."""
        functions = [
            FunctionSpec(name=tool.name, description=tool.description, parameters=tool.input_schema, strict=tool.strict)
            for tool in self.tools or []
        ]
        kind = "auto" if self.tool_choice is None else self.tool_choice.type
        choice = {"auto": AUTO if functions else NONE, "none": NONE}.get(kind, REQUIRED)
        return choose(functions, choice, None if self.tool_choice is None else self.tool_choice.name)

    def format(self) -> Format:
        """What the answer must look like."""
        wanted = None if self.output_config is None else self.output_config.format
        return None if wanted is None else wanted.schema_

    def thinks(self) -> bool:
        """Whether the model is to think first: only when it is asked to."""
        return self.thinking is not None and self.thinking.type != "disabled"

    def templated(self) -> list[Message]:
        """The conversation as chat templates know it."""
        out: list[Message] = []
        if self.system:
            out.append({"role": "system", "content": _text(self.system)})
        for turn in self.messages:
            out += _assistant(turn) if turn.role == "assistant" else _told(turn)
        return out


class CountBody(Conversation):
    """`POST /v1/messages/count_tokens`."""


class MessagesBody(Conversation, SampledBody):
    """`POST /v1/messages`."""

    max_tokens: MaxTokens
    stop_sequences: StopTexts | None = None


def _text(content: str | list[Any]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block.text for block in content if isinstance(block, TextBlock))


def _assistant(turn: Turn) -> list[Message]:
    out: Message = {"role": "assistant", "content": _text(turn.content)}
    blocks = turn.content if isinstance(turn.content, list) else []
    calls = [block for block in blocks if isinstance(block, ToolUseBlock)]
    if calls:
        out["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.input}}
            for call in calls
        ]
    return [out]


def _told(turn: Turn) -> list[Message]:
    """A user's turn: what calls gave comes first, each as a message of its own."""
    blocks = turn.content if isinstance(turn.content, list) else []
    results = [block for block in blocks if isinstance(block, ToolResultBlock)]
    out: list[Message] = [
        {"role": "tool", "content": _text(each.content or ""), "tool_call_id": each.tool_use_id} for each in results
    ]
    text = _text(turn.content)
    return out if results and not text else [*out, {"role": turn.role, "content": text}]
