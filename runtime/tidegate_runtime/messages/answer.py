"""A whole chat answer as a message: pure."""

from typing import Any, Final

import msgspec

from tidegate_runtime.messages.stop import UNSIGNED, ended, message_id, usage
from tidegate_runtime.stream import Counts, MalformedAnswer


class _Function(msgspec.Struct):
    name: str
    arguments: str | None = None


class _Call(msgspec.Struct):
    function: _Function
    id: str | None = None


class _Said(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    message: _Said
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class _Chat(msgspec.Struct):
    id: str
    model: str
    choices: list[_Choice]
    usage: Counts | None = None


class _Tokens(msgspec.Struct):
    count: int


_CHAT: Final = msgspec.json.Decoder(_Chat)
_TOKENS: Final = msgspec.json.Decoder(_Tokens)
_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])
INVALID: Final = "INVALID_JSON"
"""The only member of a call's input that is no object."""


def message(body: bytes) -> bytes:
    """The message that a chat answer means. Raises MalformedAnswer."""
    try:
        chat = _CHAT.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise MalformedAnswer(f"the engine's answer is not a chat's: {exc}") from exc
    if not chat.choices:
        raise MalformedAnswer("the engine's answer has no choices")
    choice = chat.choices[0]
    calls = choice.message.tool_calls or []
    inputs = [parsed(call.function.arguments or "") for call in calls]
    whole = bool(calls) and inputs[-1] is not None
    reason, sequence = ended(
        choice.finish_reason, choice.stop_reason, called=bool(calls), whole=whole
    )
    return msgspec.json.encode(
        {
            "id": message_id(chat.id),
            "type": "message",
            "role": "assistant",
            "model": chat.model,
            "content": _blocks(choice.message, calls, inputs),
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": usage(chat.usage),
        }
    )


def _blocks(
    said: _Said, calls: list[_Call], inputs: list[dict[str, Any] | None]
) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    thought = said.reasoning or said.reasoning_content
    if thought:
        blocks.append({"type": "thinking", "thinking": thought, "signature": UNSIGNED})
    if said.content:
        blocks.append({"type": "text", "text": said.content})
    for at, (call, given) in enumerate(zip(calls, inputs, strict=True)):
        blocks.append(
            {
                "type": "tool_use",
                "id": call.id or f"toolu_{at}",
                "name": call.function.name,
                # One cut short: a caller must see that, and may read what there is.
                "input": {INVALID: call.function.arguments} if given is None else given,
            }
        )
    return blocks or [{"type": "text", "text": ""}]


def parsed(arguments: str) -> dict[str, Any] | None:
    """A call's arguments; None where they are not a whole object. No arguments are none to give."""
    if not arguments.strip():
        return {}
    try:
        return _OBJECT.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        return None


def counted(body: bytes) -> bytes:
    """How many tokens a prompt has, by an engine's `/tokenize`. Raises MalformedAnswer."""
    try:
        count = _TOKENS.decode(body).count
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise MalformedAnswer(f"the engine's answer is not a count: {exc}") from exc
    return msgspec.json.encode({"input_tokens": count})
