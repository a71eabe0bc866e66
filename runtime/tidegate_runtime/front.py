"""The client's side of a connection: requests in, one answer at a time out.

httptools parses; this class bounds what a stranger may make us keep (head, body, pipelined
requests, time) and frames answers. What a request means is the gate's business.
"""

import asyncio
import re
from collections import deque
from typing import Final, Protocol

import httptools

from tidegate_billing.usage import uuid7
from tidegate_runtime import http1, shape
from tidegate_runtime.errors import PlatformError, Refusal, TenantError

MAX_HEAD: Final = 64 * 1024
MAX_URL: Final = 8 * 1024
MAX_BODY: Final = 32 * 1024 * 1024
TRUSTED_BODY: Final = 64 * 1024
"""A body beyond this is read only from somebody with a valid key."""
MAX_BUFFERED: Final = 1024 * 1024 * 1024
"""All request bodies in memory together, held ones included."""
MAX_CONNECTIONS: Final = 16_384
MAX_PIPELINED: Final = 16
HEAD_SECONDS: Final = 15.0
BODY_SECONDS: Final = 60.0
KEEP_ALIVE_SECONDS: Final = 75.0
LINGER_SECONDS: Final = 2.0
STALL_SECONDS: Final = 30.0
_UPGRADE: Final = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_HIGH_WATER: Final = 256 * 1024


class Incoming:
    """One request as it came. `request_id` is ours; the client's own is kept beside it."""

    __slots__ = (
        "body", "buffered", "client_request_id", "close", "http10", "method", "path", "query", "request_id",
        "size", "token", "trace",
    )  # fmt: skip

    def __init__(self) -> None:
        self.method = b""
        self.path = ""
        self.query = ""
        self.token = b""
        self.client_request_id = ""
        self.trace = b""
        self.body = bytearray()
        self.size = 0
        self.buffered = 0
        self.close = False
        self.http10 = False
        self.request_id = "req-" + uuid7()


class Listener(Protocol):
    """What the answer's producer hears of its client."""

    def client_gone(self) -> None:
        """The connection is lost."""

    def client_paused(self, paused: bool) -> None:
        """The client reads slower than we write (or caught up)."""


class Handler(Protocol):
    """Where requests go."""

    fronts: set["Front"]
    buffered: int
    heard_at: float
    """When somebody last came (or, as we end, an answer ended), by the loop's clock."""

    @property
    def leaving(self) -> bool:
        """No connection is kept after the answer it carries."""

    def handle(self, front: "Front", incoming: Incoming) -> None:
        """Answer one request through `front`."""

    def stranger(self, incoming: Incoming) -> Refusal | None:
        """Why the body of this request is not worth reading."""

    def refused(self, incoming: Incoming, refusal: Refusal) -> None:
        """A request was refused before it was whole."""


class Front(asyncio.Protocol):
    """A client connection. `listener` is set while an answer is being made."""

    __slots__ = (
        "_busy", "_expect", "_handler", "_head_bytes", "_in", "_loop", "_parser", "_queue",
        "_refusal", "_since", "_stalled_since", "_stalled_size", "_whole", "listener", "paused",
        "transport",
    )  # fmt: skip

    def __init__(self, handler: Handler, loop: asyncio.AbstractEventLoop) -> None:
        self._handler = handler
        self._loop = loop
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[Incoming] = deque()
        self._in: Incoming | None = None
        self._whole = True
        self._busy: Incoming | None = None
        self._refusal: Refusal | None = None
        self._expect = False
        self._head_bytes = 0
        self._since = loop.time()
        self._stalled_since = 0.0
        self._stalled_size = 0
        self.listener: Listener | None = None
        self.paused = False
        self.transport: asyncio.Transport | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(_HIGH_WATER)  # type: ignore[union-attr]
        self._handler.fronts.add(self)
        self._handler.heard_at = self._loop.time()
        if len(self._handler.fronts) > MAX_CONNECTIONS:
            self.transport.abort()  # type: ignore[union-attr]

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: whoever answers it must stop."""
        self.transport = None
        self._handler.fronts.discard(self)
        for incoming in (self._in, self._busy, *self._queue):
            self._forget(incoming)
        self._queue.clear()
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.client_gone()

    def _forget(self, incoming: Incoming | None) -> None:
        """Its body no longer counts."""
        if incoming is not None:
            self._handler.buffered -= incoming.buffered
            incoming.buffered = 0

    def pause_writing(self) -> None:
        """The client does not keep up."""
        self.paused = True
        if self.listener is not None:
            self.listener.client_paused(True)

    def resume_writing(self) -> None:
        """The client caught up."""
        self.paused = False
        if self.listener is not None:
            self.listener.client_paused(False)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        if self._refusal is not None:
            return
        if self._whole:
            self._since = self._loop.time()
            self._whole = False
        self._head_bytes += len(data)
        if self._in is None and b"pgrade" in data:
            data = _without_upgrade(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # refused where the head was whole
        except httptools.HttpParserError:
            self._refuse(TenantError(400, "bad_request", "The request is not valid HTTP/1.1"))
        if self._refusal is None and self._in is not None and self._head_bytes > 2 * MAX_HEAD:
            self._refuse(TenantError(431, "header_too_large", f"Headers pass {MAX_HEAD} bytes"))
        if self._refusal is not None and self._busy is None:
            self._send_refusal()

    # httptools

    def on_message_begin(self) -> None:
        """A request starts."""
        self._in = Incoming()
        self._whole = False
        self._head_bytes = 0
        self._expect = False

    def on_url(self, url: bytes) -> None:
        """The request target, in pieces where it is long."""
        incoming = self._in
        if incoming is None:
            return
        incoming.path += url.decode("latin-1")
        if len(incoming.path) > MAX_URL:
            self._refuse(TenantError(414, "url_too_long", f"The URL passes {MAX_URL} bytes"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; only those we need are kept."""
        incoming = self._in
        if incoming is None or incoming.method:  # after the body: a trailer, which means nothing
            return
        incoming.size += len(name) + len(value) + 4
        if incoming.size > MAX_HEAD:
            self._refuse(TenantError(431, "header_too_large", f"Headers pass {MAX_HEAD} bytes"))
            return
        name = name.lower()
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer":
                incoming.token = token.strip()
        elif name == b"x-api-key":
            incoming.token = incoming.token or value.strip()
        elif name == b"x-request-id":
            incoming.client_request_id = value[:128].decode("latin-1")
        elif name in {b"traceparent", b"tracestate"}:
            incoming.trace += name + b": " + value + b"\r\n"
        elif name == b"expect":
            self._expect = value.lower() == b"100-continue"
        elif name == b"content-length":
            self._check_size(int(value) if value.isdigit() else 0)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        incoming, self._head_bytes = self._in, 0
        if incoming is None or self._refusal is not None:
            return
        incoming.size = 0
        incoming.method = self._parser.get_method()
        incoming.http10 = self._parser.get_http_version() == "1.0"
        if self._parser.should_upgrade():  # CONNECT, or an Upgrade that data_received did not see
            self._refuse(TenantError(400, "upgrade_refused", "Protocol upgrades are not served"))
            return
        if (
            self._expect
            and not incoming.http10
            and self._busy is None
            and self.transport is not None
        ):
            self.transport.write(http1.CONTINUE)

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        incoming = self._in
        if incoming is None or self._refusal is not None:
            return
        self._head_bytes = 0
        known = incoming.size > TRUSTED_BODY
        incoming.size += len(data)
        incoming.body += data
        self._handler.buffered += len(data)
        incoming.buffered += len(data)
        self._check_size(incoming.size)
        if not known and incoming.size > TRUSTED_BODY:
            refusal = self._handler.stranger(incoming)
            if refusal is not None:
                self._refuse(refusal)
        if self._handler.buffered > MAX_BUFFERED:
            self._refuse(
                PlatformError(
                    503, "overloaded", "Request bodies fill the memory kept for them", retry_after=1
                )
            )

    def on_message_complete(self) -> None:
        """The request is whole: answer it, or queue it behind the one being answered."""
        incoming, self._in = self._in, None
        if incoming is None or self._refusal is not None:
            return
        self._whole = True
        incoming.close = self._handler.leaving or not self._parser.should_keep_alive()
        incoming.path, _, incoming.query = incoming.path.partition("?")
        if self._busy is None:
            self._start(incoming)
            return
        self._queue.append(incoming)
        if len(self._queue) > MAX_PIPELINED:
            allowed = f"{MAX_PIPELINED} requests may follow one that is not answered"
            self._refuse(TenantError(400, "too_many_pipelined", f"Too many at once: {allowed}"))

    # Answers

    def _start(self, incoming: Incoming) -> None:
        self._busy = incoming
        self._handler.handle(self, incoming)

    def send(self, data: bytes) -> None:
        """Write bytes of an answer that is framed already."""
        if self.transport is not None:
            self.transport.write(data)

    @property
    def receiving(self) -> bool:
        """Whether a request has begun to come and is not whole."""
        return not self._whole and self._refusal is None

    def finish(self) -> None:
        """The answer is whole: close, or take the next request."""
        incoming, self._busy, self.listener = self._busy, None, None
        self._forget(incoming)
        self._since = self._loop.time()
        if self.transport is None or incoming is None:
            return
        if incoming.close:
            self._queue.clear()
            self.transport.close()
        elif self._queue:
            self._loop.call_soon(self._next)
        elif self._refusal is not None:
            self._send_refusal()

    def _next(self) -> None:
        if self._busy is None and self._queue and self.transport is not None:
            self._start(self._queue.popleft())

    def close(self) -> None:
        """End the connection once what was written is sent."""
        if self.transport is not None:
            self.transport.close()

    # Refusals of what is not a whole request

    def _check_size(self, size: int) -> None:
        if size > MAX_BODY and self._refusal is None:
            self._refuse(TenantError(413, "body_too_large", f"The body passes {MAX_BODY} bytes"))

    def _refuse(self, refusal: Refusal) -> None:
        if self._refusal is None:
            self._refusal = refusal

    def _send_refusal(self) -> None:
        """Say why, then read and drop for a moment: a reset would destroy the answer."""
        refusal, incoming = self._refusal, self._in or Incoming()
        if refusal is None or self.transport is None or self._since < 0:
            return
        self._in = None
        self._forget(incoming)
        self._handler.refused(incoming, refusal)
        self.transport.write(shape.refused(refusal, incoming.path, incoming.request_id, close=True))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._since = -self._loop.time()

    # Time

    def sweep(self, now: float) -> None:
        """Once a second: end what takes too long."""
        if self.transport is None:
            return
        if self._since < 0:
            if now + self._since > LINGER_SECONDS:
                self.transport.abort()
            return
        self._sweep_stall(now)
        if self._busy is not None:
            return
        age = now - self._since
        if self._whole:
            if age > KEEP_ALIVE_SECONDS:
                self.transport.close()
        elif age > (HEAD_SECONDS if self._in is None or not self._in.method else BODY_SECONDS):
            message = (
                f"The request was not whole in time: its head has {HEAD_SECONDS:.0f} s, all of it"
                f" {BODY_SECONDS:.0f} s"
            )
            self._refuse(TenantError(408, "request_timeout", message))
            self._send_refusal()

    def _sweep_stall(self, now: float) -> None:
        """A client that reads nothing for STALL_SECONDS is gone."""
        assert self.transport is not None
        size = self.transport.get_write_buffer_size()
        if not size or size != self._stalled_size:
            self._stalled_since, self._stalled_size = now, size
        elif now - self._stalled_since > STALL_SECONDS:
            self.transport.abort()


def _without_upgrade(data: bytes) -> bytes:
    """An offer to upgrade may be ignored (RFC 9110, 7.8), but the parser stops at one: rename the
    header of a request that begins here. Many HTTP/2 clients offer `h2c` on every request."""
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nX-Ignored:", head) + end + rest
