"""The engine's side: keep-alive connections, one request at a time on each.

The parser's callbacks only collect; what a read meant is told to the exchange once per read.
"""

import asyncio
from typing import TYPE_CHECKING, Protocol

import httptools

if TYPE_CHECKING:
    from tidegate_runtime.endpoints import ReplicaState


class Reader(Protocol):
    """Whoever waits for the answer on a connection."""

    def answer_head(self, status: int, content_type: bytes) -> None:
        """The answer's head is whole."""

    def answer_body(self, data: bytes) -> None:
        """Bytes of its body."""

    def answer_end(self) -> None:
        """The answer is whole."""

    def answer_lost(self, reason: str, *, stale: bool) -> None:
        """The connection broke. `stale`: it had been idle, and not a byte came back."""


class Upstream(asyncio.Protocol):
    """One connection to an engine."""

    __slots__ = (
        "_alive",
        "_body", "_content_type", "_headed", "_heard", "_parser", "_reader", "_reused", "_whole",
        "replica", "transport",
    )  # fmt: skip

    def __init__(self, replica: "ReplicaState") -> None:
        self.replica = replica
        self.transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._reader: Reader | None = None
        self._reused = False
        self._reset()

    def _reset(self) -> None:
        self._body: list[bytes] = []
        self._content_type = b""
        self._headed = False
        self._heard = False
        self._whole = False
        self._alive = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self.transport = transport  # type: ignore[assignment]

    def begin(self, reader: Reader, data: bytes) -> None:
        """Send a request; its answer goes to `reader`."""
        self._reader = reader
        self._reset()
        if self.transport is not None:
            self.transport.write(data)

    def abort(self) -> None:
        """Nobody wants the answer any more: the engine shall stop."""
        self._reader = None
        if self.transport is not None:
            self.transport.abort()

    def pause(self, paused: bool) -> None:
        """Stop (or go on) reading."""
        if self.transport is None or self._reader is None:
            return
        if paused:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer."""
        reader = self._reader
        if reader is None:
            self.abort()
            return
        self._heard = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self.abort()
            reader.answer_lost(f"invalid HTTP: {exc}", stale=False)
            return
        if self._body:
            body = self._body
            self._body = []
            reader.answer_body(body[0] if len(body) == 1 else b"".join(body))
        if self._whole and self._reader is reader:
            self._release()
            reader.answer_end()

    def _release(self) -> None:
        self._reader = None
        self._reused = True
        transport = self.transport
        if transport is None:
            return
        if self._alive and self.replica.keep(self):
            transport.resume_reading()
        else:
            transport.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Only the content type matters."""
        if len(name) == 12 and name.lower() == b"content-type":
            self._content_type = value

    def on_headers_complete(self) -> None:
        """The head is whole; a 1xx one is not the answer's."""
        status = self._parser.get_status_code()
        if status >= 200 and self._reader is not None:
            self._headed = True
            self._reader.answer_head(status, self._content_type)

    def on_body(self, data: bytes) -> None:
        """Collect; told once per read."""
        self._body.append(data)

    def on_message_complete(self) -> None:
        """The answer is whole, unless it was a 1xx."""
        self._whole = self._headed
        self._alive = self._parser.should_keep_alive()  # only true to ask inside the callback

    def connection_lost(self, exc: Exception | None) -> None:
        """The engine closed, or died."""
        self.transport = None
        self.replica.forget(self)
        reader, self._reader = self._reader, None
        if reader is not None:
            reason = "connection lost" if exc is None else f"connection lost: {exc}"
            reader.answer_lost(reason, stale=self._reused and not self._heard)
