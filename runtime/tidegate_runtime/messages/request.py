"""A request of the Messages API as a request to an engine's chat route: pure.

What a chat cannot say is refused by name, never dropped, unless it changes no token (`wire`).
"""

import re
from typing import Any, Final, TypeVar

import msgspec

from tidegate_runtime.errors import TenantError
from tidegate_runtime.messages import wire
from tidegate_runtime.openai import MESSAGES, Request

_ASK: Final = msgspec.json.Decoder(wire.Ask)
_COUNTED: Final = msgspec.json.Decoder(wire.Counted)
_ALLOWED: Final = {
    "content": "text, image, tool_use, tool_result, thinking, redacted_thinking (in a tool's result: "
    "text, image)",
    "system": "text",
    "source": "base64, url",
    "tools": "custom (tools that the caller runs)",
    "thinking": "enabled, adaptive, disabled",
    "tool_choice": "auto, any, tool, none",
}
"""Values of `type` by the field that has them."""
_WITHIN: Final = re.compile(r"(\w+)(?:\[[^\]]*\])?\.type$")
_BY_ROLE: Final[dict[str, tuple[type, ...]]] = {
    "user": (wire.Text, wire.Image, wire.ToolResult),
    "assistant": (wire.Text, wire.ToolUse, wire.Thinking, wire.RedactedThinking),
    "system": (wire.Text,),
}
Chat = dict[str, Any]
Kind = TypeVar("Kind", wire.Ask, wire.Counted)


def read(body: bytes) -> tuple[Request, bytes]:
    """What routing and metering need of a request, and the chat request that it means.

    Raises TenantError (400) with the field at fault."""
    ask = _decoded(_ASK, body)
    if ask.max_tokens < 1:
        raise _bad("max_tokens", f"must be at least 1, got {ask.max_tokens}")
    for at, text in enumerate(ask.stop_sequences or ()):
        if not text:
            raise _bad(f"stop_sequences[{at}]", "must not be empty")
    chat = _chat(ask)
    chat["max_tokens"] = ask.max_tokens
    said = {
        "stream": ask.stream, "stop": ask.stop_sequences, "temperature": ask.temperature,
        "top_p": ask.top_p, "top_k": ask.top_k,
    }  # fmt: skip
    chat.update({name: value for name, value in said.items() if value is not None})
    _think(ask, chat)
    request = Request(
        ask.model,
        MESSAGES,
        stream=bool(ask.stream),
        max_tokens=ask.max_tokens,
        want_usage=True,
        want_continuous=True,
        cache_salt=ask.cache_salt or "",
    )
    return request, msgspec.json.encode(chat)


def read_counted(body: bytes) -> tuple[Request, bytes]:
    """The same for a request to count its prompt's tokens; the engine's route is `/tokenize`."""
    ask = _decoded(_COUNTED, body)
    chat = _chat(ask)
    for name in ("tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort"):
        chat.pop(name, None)
    if ask.thinking is not None and ask.thinking.type == "disabled":
        chat["chat_template_kwargs"] = {"enable_thinking": False}
    return Request(ask.model, MESSAGES, max_tokens=1), msgspec.json.encode(chat)


def _decoded(decoder: msgspec.json.Decoder[Kind], body: bytes) -> Kind:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as exc:
        raise _invalid(str(exc)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise _bad(None, f"The request body is not valid JSON: {exc}") from exc
    except RecursionError as exc:
        raise _bad(None, "The request body is nested too deeply") from exc


def _invalid(said: str) -> TenantError:
    """msgspec's complaint, by the field's path."""
    what, _, path = said.partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    if "missing required field" in what or "unknown field" in what:
        name = what.split("`")[1]
        path = f"{path}.{name}" if path else name
        what = "Field required" if "missing" in what else "Field not supported"
    within = _WITHIN.search(path)
    if within is not None and within[1] in _ALLOWED:
        what += f"; allowed: {_ALLOWED[within[1]]}"
    return _bad(path or None, what)


def _bad(field: str | None, what: str) -> TenantError:
    message = what if field is None else f"{field}: {what}"
    return TenantError(400, "invalid_request", message, param=field)


# The conversation


def _chat(ask: wire.Counted) -> Chat:
    if not ask.messages:
        raise _bad("messages", "at least one message is required")
    said: list[Chat] = []
    system = _system(ask)
    if system:
        said.append({"role": "system", "content": system})
    for role, blocks in _turns(ask.messages):
        _SAY[role](blocks, said)
    chat: Chat = {"model": ask.model, "messages": said}
    if ask.messages[-1].role == "assistant" and not said[-1].get("tool_calls"):
        chat.update(add_generation_prompt=False, continue_final_message=True)
    _tools(ask, chat)
    _output(ask, chat)
    return chat


def _system(ask: wire.Counted) -> Any:
    if ask.system is None or isinstance(ask.system, str):
        return ask.system
    return _content([{"type": "text", "text": block.text} for block in ask.system])


def _turns(messages: list[wire.Message]) -> list[tuple[str, list[wire.Block]]]:
    """Messages of one role in a row are one turn: many chat templates take no other order."""
    turns: list[tuple[str, list[wire.Block]]] = []
    for at, message in enumerate(messages):
        content = message.content
        blocks: list[wire.Block] = [wire.Text(content)] if isinstance(content, str) else content
        for i, block in enumerate(blocks):
            if not isinstance(block, _BY_ROLE[message.role]):
                kind = block.__struct_config__.tag
                raise _bad(
                    f"messages[{at}].content[{i}].type",
                    f"`{kind}` is not for the role `{message.role}`",
                )
        if turns and turns[-1][0] == message.role:
            turns[-1][1].extend(blocks)
        else:
            turns.append((message.role, list(blocks)))
    return turns


def _content(parts: list[Chat]) -> Any:
    """Parts as a chat's content: one text is the text itself, which every template takes."""
    if len(parts) == 1 and parts[0]["type"] == "text":
        return parts[0]["text"]
    return parts


def _part(block: wire.Block) -> Chat:
    if isinstance(block, wire.Text):
        return {"type": "text", "text": block.text}
    assert isinstance(block, wire.Image)
    source = block.source
    if isinstance(source, wire.Url):
        url = source.url
    else:
        url = f"data:{source.media_type};base64,{source.data}"
    return {"type": "image_url", "image_url": {"url": url}}


def _user(blocks: list[wire.Block], said: list[Chat]) -> None:
    """Results of tools come first, as messages of their own; images in them belong to the user."""
    parts: list[Chat] = []
    for block in blocks:
        if not isinstance(block, wire.ToolResult):
            parts.append(_part(block))
            continue
        content = block.content or ""
        inner = [wire.Text(content)] if isinstance(content, str) else content
        text = "\n".join(one.text for one in inner if isinstance(one, wire.Text))
        if block.is_error:
            text = f"Error: {text}"
        said.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": text})
        parts += [_part(one) for one in inner if isinstance(one, wire.Image)]
    if parts:
        said.append({"role": "user", "content": _content(parts)})


def _assistant(blocks: list[wire.Block], said: list[Chat]) -> None:
    message: Chat = {"role": "assistant"}
    parts = [_part(block) for block in blocks if isinstance(block, wire.Text)]
    thought = "".join(block.thinking for block in blocks if isinstance(block, wire.Thinking))
    calls = [
        {
            "id": block.id,
            "type": "function",
            "function": {
                "name": block.name,
                "arguments": msgspec.json.encode(block.input).decode(),
            },
        }
        for block in blocks
        if isinstance(block, wire.ToolUse)
    ]
    message["content"] = _content(parts) if parts else None if calls else ""
    if thought:
        message["reasoning"] = thought
    if calls:
        message["tool_calls"] = calls
    said.append(message)


def _inline_system(blocks: list[wire.Block], said: list[Chat]) -> None:
    said.append({"role": "system", "content": _content([_part(block) for block in blocks])})


_SAY: Final = {"user": _user, "assistant": _assistant, "system": _inline_system}


# What shall come of it


def _tools(ask: wire.Counted, chat: Chat) -> None:
    if ask.tools:
        chat["tools"] = [{"type": "function", "function": _function(tool)} for tool in ask.tools]
        chat["tool_choice"] = "auto"
    choice = ask.tool_choice
    if choice is None:
        return
    if not ask.tools:
        if choice.type in {"any", "tool"}:
            raise _bad("tool_choice", f"`{choice.type}` needs `tools`")
        return
    if choice.type == "tool":
        if choice.name not in {tool.name for tool in ask.tools}:
            raise _bad("tool_choice.name", "must be the name of one of `tools`")
        chat["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    else:
        chat["tool_choice"] = "required" if choice.type == "any" else choice.type
    if choice.disable_parallel_tool_use:
        chat["parallel_tool_calls"] = False


def _function(tool: wire.Tool) -> Chat:
    function: Chat = {"name": tool.name, "parameters": {"type": "object", **tool.input_schema}}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return function


def _output(ask: wire.Counted, chat: Chat) -> None:
    output = ask.output_config
    if output is None:
        return
    if output.format is not None:
        schema = {"name": "output", "schema": output.format.schema}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    if output.effort is not None:
        chat["reasoning_effort"] = output.effort


def _think(ask: wire.Ask, chat: Chat) -> None:
    thinking = ask.thinking
    if thinking is None:
        return
    if thinking.type == "disabled":
        chat["reasoning_effort"] = "none"
    elif thinking.type == "enabled":
        budget = thinking.budget_tokens
        if budget is None:
            raise _bad("thinking.budget_tokens", "Field required")
        if not 1 <= budget < ask.max_tokens:
            raise _bad(
                "thinking.budget_tokens",
                f"must be from 1 to less than `max_tokens` ({ask.max_tokens}), got {budget}",
            )
        chat["thinking_token_budget"] = budget
