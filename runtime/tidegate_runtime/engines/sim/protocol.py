"""HTTP/1.1 in front of the engine: one `asyncio.Protocol` per connection.

Requests of a connection are answered in order, one at a time. What the guard refuses never reaches
the engine; `/health` alone is open, as a kubelet has no secret.
"""

import asyncio
import hmac
import socket
import struct
from collections import deque
from typing import NamedTuple, cast

import httptools
import msgspec

from tidegate_runtime.engines.sim import fault, render
from tidegate_runtime.engines.sim.answer import Answer
from tidegate_runtime.engines.sim.engine import Engine
from tidegate_runtime.engines.sim.request import RefusedError, Task, read

MAX_BODY = 64 << 20
MAX_PIPELINED = 64
HIGH_WATER = 64 << 10

_TASKS: dict[bytes, Task] = {
    b"/v1/chat/completions": "chat",
    b"/v1/completions": "completion",
    b"/v1/embeddings": "embedding",
    b"/rerank": "rerank",
    b"/v1/rerank": "rerank",
    b"/v2/rerank": "rerank",
    b"/score": "score",
    b"/v1/score": "score",
    b"/classify": "classify",
}
_METHODS = {
    **dict.fromkeys(_TASKS, b"POST"),
    b"/tokenize": b"POST",
    b"/health": b"GET",
    b"/metrics": b"GET",
    b"/v1/models": b"GET",
    b"/sim/faults": b"PUT",
}


class _Request(NamedTuple):
    method: bytes
    path: bytes
    known: bool
    attempt: str
    body: bytes
    keep_alive: bool


class _FaultsBody(msgspec.Struct):
    fail: str | list[str] | None


class Opened:
    """The connections that are open; `none` is set while there are none."""

    def __init__(self) -> None:
        self.members: set[Connection] = set()
        self.none = asyncio.Event()
        self.none.set()

    def add(self, connection: "Connection") -> None:
        """Count one in."""
        self.members.add(connection)
        self.none.clear()

    def discard(self, connection: "Connection") -> None:
        """Count one out."""
        self.members.discard(connection)
        if not self.members:
            self.none.set()


class Connection(asyncio.Protocol):
    """One client. It is the outlet of the answer it waits for."""

    def __init__(self, engine: Engine, guard: bytes, opened: Opened) -> None:
        """`guard`: the secret callers must present (empty: none). `opened`: all connections."""
        self.paused = False
        self._engine = engine
        self._guard = b"Bearer " + guard if guard else b""
        self._opened = opened
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[_Request] = deque()
        self._answer: Answer | None = None
        self._keep_alive = True
        self._url = b""
        self._authorization = b""
        self._attempt = b""
        self._body: list[bytes] = []
        self._size = 0
        self._known = False

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        # uvloop's transports have the methods of asyncio.Transport and do not derive from it.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        self._opened.add(self)

    def data_received(self, data: bytes) -> None:
        """Parse; what no parser takes is refused and the connection ends."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._give_up("Upgrade is not supported.", 400)
        except httptools.HttpParserError as error:
            self._give_up(f"Invalid HTTP request: {error}", 400)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left: its answer is aborted."""
        self._opened.discard(self)
        self._transport = None
        self._waiting.clear()
        if self._answer is not None:
            self._engine.abort(self._answer)
            self._answer = None

    def pause_writing(self) -> None:
        """The client does not keep up."""
        self.paused = True

    def resume_writing(self) -> None:
        """The client reads again."""
        self.paused = False
        if self._answer is not None:
            self._engine.wake(self._answer)

    # the parser's side

    def on_message_begin(self) -> None:
        """A request starts."""
        self._url = self._authorization = self._attempt = b""
        self._body = []
        self._size = 0

    def on_url(self, url: bytes) -> None:
        """The target, maybe in parts."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Three headers matter."""
        name = name.lower()
        if name == b"authorization":
            self._authorization = value
        elif name == b"x-request-id":
            self._attempt = value
        elif name == b"expect" and value.lower() == b"100-continue":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_headers_complete(self) -> None:
        """Who asks is known before the body comes."""
        given = self._authorization if self._guard else b""
        self._known = hmac.compare_digest(self._guard, given)

    def on_body(self, body: bytes) -> None:
        """Collect the body, bounded; that of a stranger is dropped."""
        if not self._known:
            return
        self._size += len(body)
        if self._size > MAX_BODY:
            self._body = []
            self._give_up(f"The body is larger than {MAX_BODY} bytes.", 413)
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """A whole request is here."""
        if self._transport is None or self._transport.is_closing():
            return
        request = _Request(
            self._parser.get_method(),
            self._url.partition(b"?")[0],
            self._known,
            self._attempt.decode("latin-1"),
            b"".join(self._body),
            self._parser.should_keep_alive(),
        )
        self._waiting.append(request)
        if len(self._waiting) > MAX_PIPELINED:
            self.reset()
        elif self._answer is None:
            self._next()

    # the engine's side

    def write(self, data: bytes) -> None:
        """Queue bytes for the client."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def done(self) -> None:
        """The answer ended: take the next request."""
        self._answer = None
        if self._keep_alive:
            self._next()
        else:
            self.close()

    def close(self) -> None:
        """End the connection after what was written."""
        self._waiting.clear()
        self._answer = None
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """End the connection with a reset."""
        self._waiting.clear()
        if self._transport is not None:
            raw = self._transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    # requests

    def _next(self) -> None:
        """Answer waiting requests until one takes time."""
        while self._waiting and self._answer is None:
            request = self._waiting.popleft()
            self._keep_alive = request.keep_alive
            try:
                reply = self._respond(request)
            except RefusedError as error:
                self._keep_alive = self._keep_alive and not self._engine.draining
                reply = render.response(
                    error.status, render.refusal(error), close=not self._keep_alive
                )
            if reply:
                self.write(reply)
                if not self._keep_alive:
                    self.close()

    def _respond(self, request: _Request) -> bytes:
        """The response, or nothing where the engine will write one. Raises RefusedError."""
        path, method = request.path, request.method
        if path != b"/health" and not request.known:
            return render.response(401, b'{"error":"Unauthorized"}', close=not self._keep_alive)
        allowed = _METHODS.get(path)
        if allowed is None:
            raise RefusedError(404, "Not Found", "Not Found")
        if method != allowed:
            raise RefusedError(405, "Method Not Allowed", "Method Not Allowed")
        task = _TASKS.get(path)
        if task is not None:
            self._generate(task, request)
            return b""
        return self._report(request)

    def _generate(self, task: Task, request: _Request) -> None:
        engine = self._engine
        try:
            ask = read(task, request.body, engine.options.names)
            self._answer = engine.begin(ask, request.attempt, self)
        except RefusedError:
            engine.refused(request.attempt)
            raise

    def _report(self, request: _Request) -> bytes:
        """The paths that say or change something about the engine itself."""
        engine, close = self._engine, not self._keep_alive
        match request.path:
            case b"/health":
                return render.response(200, b"", close=close)
            case b"/metrics":
                kind = b"text/plain; version=0.0.4; charset=utf-8"
                return render.response(200, engine.metrics(), kind=kind, close=close)
            case b"/v1/models":
                body = render.models(engine.options.names, engine.created)
                return render.response(200, body, close=close)
            case b"/tokenize":
                ask = read("chat", request.body, engine.options.names)
                return render.response(200, render.tokens(ask), close=close)
        engine.set_faults(_faults(request.body))
        return render.response(200, request.body, close=close)

    def _give_up(self, message: str, status: int) -> None:
        if self._answer is None:
            error = RefusedError(status, "BadRequestError", message)
            self.write(render.response(status, render.refusal(error), close=True))
            self.close()
        else:
            self.reset()


def _faults(body: bytes) -> tuple[fault.Fault, ...]:
    """Read `{"fail": "crash@5"}`, a list of such, or null. Raises RefusedError."""
    try:
        found = msgspec.json.decode(body, type=_FaultsBody).fail
        texts = [] if found is None else [found] if isinstance(found, str) else found
        faults = tuple(map(fault.parse, texts))
    except (msgspec.DecodeError, ValueError) as error:
        raise RefusedError(400, "BadRequestError", f"fail: {error}", "fail") from error
    if any(item.kind == "die-at-start" for item in faults):
        message = "fail: die-at-start cannot be set while the engine runs"
        raise RefusedError(400, "BadRequestError", message, "fail")
    return faults
