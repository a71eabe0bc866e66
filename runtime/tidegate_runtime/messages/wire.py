"""What a request of the Messages API may look like, as types: unknown fields of a request are errors,
those inside of blocks (`cache_control`, `citations`, ...) change nothing here and are passed over."""

from typing import Any, Literal

import msgspec


class Text(msgspec.Struct, tag="text"):
    """A block of text."""

    text: str


class Base64(msgspec.Struct, tag="base64"):
    """Data within the request."""

    media_type: str
    data: str


class Url(msgspec.Struct, tag="url"):
    """Data that the engine fetches."""

    url: str


class Image(msgspec.Struct, tag="image"):
    """An image."""

    source: Base64 | Url


class ToolUse(msgspec.Struct, tag="tool_use"):
    """A tool that the model called."""

    id: str
    name: str
    input: dict[str, Any]


class ToolResult(msgspec.Struct, tag="tool_result"):
    """What a called tool said."""

    tool_use_id: str
    content: str | list[Text | Image] | None = None
    is_error: bool | None = None


class Thinking(msgspec.Struct, tag="thinking"):
    """What the model thought. Its signature is not looked at."""

    thinking: str


class RedactedThinking(msgspec.Struct, tag="redacted_thinking"):
    """Thoughts that only their maker can read."""


Block = Text | Image | ToolUse | ToolResult | Thinking | RedactedThinking


class Message(msgspec.Struct):
    """One message of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(msgspec.Struct):
    """A tool that the caller runs."""

    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None
    type: Literal["custom"] | None = None


class ToolChoice(msgspec.Struct):
    """Whether, and which, tools shall be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(msgspec.Struct):
    """Whether the model shall think."""

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: int | None = None


class OutputFormat(msgspec.Struct):
    """A schema that the answer shall follow."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct):
    """How the answer shall be."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class Counted(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A request to count the tokens of its prompt, and what every request has."""

    model: str
    messages: list[Message]
    system: str | list[Text] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    # Taken, and without a meaning here:
    cache_control: msgspec.Raw = msgspec.Raw()
    context_management: msgspec.Raw = msgspec.Raw()
    speed: Literal["standard"] | None = None


class Ask(Counted, kw_only=True, forbid_unknown_fields=True):
    """A request for a message."""

    max_tokens: int
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    cache_salt: str | None = None
    # Taken, and without a meaning here:
    diagnostics: msgspec.Raw = msgspec.Raw()
    inference_geo: msgspec.Raw = msgspec.Raw()
    metadata: msgspec.Raw = msgspec.Raw()
    service_tier: msgspec.Raw = msgspec.Raw()
