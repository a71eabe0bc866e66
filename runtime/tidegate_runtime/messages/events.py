"""A stream of chat chunks as a stream of a message's events: bytes in, bytes out, counts on the side.

The scanner below counts on the engine's bytes as for any chat; what it passes on is turned around
here, whole events at a time. A message's blocks come one after another: text that a model says
while it writes a tool's arguments waits for the tool's block to end.
"""

from typing import Any, Final

import msgspec

from tidegate_runtime.messages import errors
from tidegate_runtime.messages.answer import INVALID, parsed
from tidegate_runtime.messages.stop import UNSIGNED, ended, message_id, usage
from tidegate_runtime.stream import Counts, MalformedAnswer, Scanner


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class _Chunk(msgspec.Struct):
    id: str = ""
    model: str = ""
    choices: list[_Choice] | None = None
    usage: Counts | None = None
    error: dict[str, Any] | None = None


_CHUNK: Final = msgspec.json.Decoder(_Chunk)
_DATA: Final = b"data: "
_DELTA: Final = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":%b}}\n\n'
)


class Events(Scanner):
    """One answer's state."""

    __slots__ = (
        "_arguments", "_called", "_finish", "_held", "_index", "_kind", "_matched", "_out", "_shape",
        "_started", "_tool", "_tools",
    )  # fmt: skip

    def __init__(
        self, want_usage: bool, want_continuous: bool, choices: int = 1, prompts: int = 1
    ) -> None:
        super().__init__(want_usage, want_continuous, choices, prompts)
        self._out: list[bytes] = []
        self._started = self._called = False
        self._kind = ""  # of the open block: text, thinking, tool_use, or none
        self._index = 0  # of the open block, else of the next
        self._tool = -1
        self._tools: set[int] = set()
        self._arguments: list[str] = []  # of the last call
        self._shape = ""  # how they begin
        self._held: list[str] = []
        self._finish: str | None = None
        self._matched: int | str | None = None

    def feed(self, data: bytes) -> bytes:
        """Take an engine's bytes, give a message's events. Raises MalformedAnswer."""
        for event in super().feed(data).split(b"\n\n"):
            line = event.lstrip(b"\n")
            if line.startswith(_DATA):
                self._take(line[len(_DATA) :])
        out, self._out = self._out, []
        return b"".join(out)

    def _take(self, payload: bytes) -> None:
        if payload == b"[DONE]":
            if not self.error:
                self._end()
            return
        try:
            chunk = _CHUNK.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise MalformedAnswer(f"the engine sent an event that is not a chunk: {exc}") from exc
        if chunk.error is not None:
            self._out.append(errors.event(errors.from_engine(500, payload, "")))
            return
        if not self._started:
            self._start(chunk)
        for choice in chunk.choices or ():
            self._said(choice.delta)
            if choice.finish_reason is not None:
                self._finish, self._matched = choice.finish_reason, choice.stop_reason

    def _start(self, chunk: _Chunk) -> None:
        self._started = True
        message: dict[str, Any] = {
            "id": message_id(chunk.id), "type": "message", "role": "assistant", "model": chunk.model,
            "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage(chunk.usage),
        }  # fmt: skip
        self._event("message_start", {"message": message})

    def _said(self, delta: _Delta) -> None:
        thought = delta.reasoning or delta.reasoning_content
        if thought:
            self._open("thinking", {"thinking": "", "signature": ""})
            self._add(b"thinking_delta", b"thinking", thought)
        if delta.content:
            if self._kind == "tool_use":
                self._held.append(delta.content)
            else:
                self._text(delta.content)
        for call in delta.tool_calls or ():
            self._call(call)

    def _text(self, text: str) -> None:
        self._open("text", {"text": ""})
        self._add(b"text_delta", b"text", text)

    def _call(self, call: _Call) -> None:
        function = call.function or _Function()
        if call.index not in self._tools:
            if not function.name:
                raise MalformedAnswer("the engine called a tool without a name")
            self._close()
            self._called = True
            self._arguments.clear()
            self._shape = ""
            self._tools.add(call.index)
            self._tool = call.index
            name = call.id or f"toolu_{call.index}"
            self._open("tool_use", {"id": name, "name": function.name, "input": {}})
        elif call.index != self._tool or self._kind != "tool_use":
            raise MalformedAnswer("the engine went on with a tool's call that it had ended")
        if function.arguments:
            self._argue(function.arguments)

    def _argue(self, text: str) -> None:
        """Pass on a piece of a call's arguments, unless they are no object: clients parse as they read."""
        self._arguments.append(text)
        if not self._shape:
            self._shape = text.lstrip()[:1]
        if self._shape == "{":
            self._add(b"input_json_delta", b"partial_json", text)

    def _open(self, kind: str, block: dict[str, Any]) -> None:
        """Make sure that a block of this kind is open."""
        if self._kind == kind:
            return
        self._close()
        self._kind = kind
        content = {"type": kind, **block}
        self._event("content_block_start", {"index": self._index, "content_block": content})

    def _close(self) -> None:
        if not self._kind:
            return
        if self._kind == "thinking":
            self._add(b"signature_delta", b"signature", UNSIGNED)
        if self._shape not in {"", "{"}:
            broken = msgspec.json.encode({INVALID: "".join(self._arguments)}).decode()
            self._add(b"input_json_delta", b"partial_json", broken)
            self._shape = ""
        self._event("content_block_stop", {"index": self._index})
        self._index += 1
        self._kind = ""
        if self._held:
            text, self._held = "".join(self._held), []
            self._text(text)
            self._close()

    def _end(self) -> None:
        if not self._started:
            raise MalformedAnswer("the engine ended its answer before it began")
        if not self._kind and not self._index:
            self._open("text", {"text": ""})
        whole = parsed("".join(self._arguments)) is not None
        reason, sequence = ended(self._finish, self._matched, called=self._called, whole=whole)
        self._close()
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        self._event("message_delta", {"delta": delta, "usage": usage(self.seen())})
        self._event("message_stop", {})

    def _add(self, kind: bytes, field: bytes, text: str) -> None:
        self._out.append(_DELTA % (self._index, kind, field, msgspec.json.encode(text)))

    def _event(self, kind: str, members: dict[str, Any]) -> None:
        data = msgspec.json.encode({"type": kind, **members})
        self._out.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), data))
