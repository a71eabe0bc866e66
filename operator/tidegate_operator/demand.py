"""What routers report: one long-lived request to each, and the sum of what they said.

A line is acted on in the loop iteration that read it, for a wake is in it: the parser calls back
straight from the socket, with no task or queue between. A router that says nothing is *no data*,
never no demand: until `FORGET_AFTER` the sum is unknown without it, and nothing is scaled down on
an unknown sum. Reconnecting is immediate, then ten times a second.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools
import msgspec
import structlog

from tidegate_runtime.contract.links import DemandLine, ModelDemand

log = structlog.get_logger()

SILENT_AFTER = 3.0
FORGET_AFTER = 60.0
"""How long a router may be silent, by our own clock, before it is taken for gone."""
_RETRY = 0.1
_LONGEST_LINE = 16 * 1024 * 1024


class Heard(NamedTuple):
    """A router's last words. `line` None: none yet; `at` is then when it was first expected."""

    line: DemandLine | None
    at: float


class Total(NamedTuple):
    """Demand for one deployment over all routers. None: not known."""

    in_flight: int | None
    held: int | None
    held_since: float = 0.0
    last_request: float = 0.0


class Picture:
    """The last line of every router that is expected to report. Times are arguments."""

    def __init__(self) -> None:
        self.heard: dict[str, Heard] = {}

    def expect(self, router: str, now: float) -> None:
        """From now on silence of `router` means no data."""
        self.heard.setdefault(router, Heard(None, now))

    def leave(self, router: str) -> None:
        """The router is gone for good; what it said counts no more."""
        self.heard.pop(router, None)

    def hear(self, router: str, line: DemandLine, now: float) -> None:
        """Takes in a line."""
        self.heard[router] = Heard(line, now)

    def silent(self, now: float) -> list[str]:
        """Routers that should have spoken: what they do is not known."""
        return [
            name
            for name, heard in self.heard.items()
            if (heard.line is None or now - heard.at > SILENT_AFTER)
            and now - heard.at <= FORGET_AFTER
        ]

    def total(self, deployment: str, now: float) -> Total:
        """The sum over routers that speak. With a silent one `in_flight` is None; what waits at
        the others is still told, for it may wake a model, and None only where nobody speaks."""
        found: list[ModelDemand] = []
        speaking = 0
        for heard in self.heard.values():
            if heard.line is not None and now - heard.at <= SILENT_AFTER:
                speaking += 1
                found += [model for model in heard.line.models if model.deployment == deployment]
        held = sum(model.held for model in found)
        since = min((model.held_since for model in found if model.held_since), default=0.0)
        last = max((model.last_request for model in found), default=0.0)
        if not speaking:
            return Total(None, None)
        if self.silent(now):
            return Total(None, held, since, last)
        return Total(sum(model.in_flight for model in found), held, since, last)

    def lines(self, now: float) -> dict[str, DemandLine | None]:
        """Each router's last line; None for one that is silent, none for one taken for gone."""
        silent = set(self.silent(now))
        return {
            name: None if name in silent else heard.line
            for name, heard in self.heard.items()
            if now - heard.at <= FORGET_AFTER
        }


class _Reader(asyncio.Protocol):
    """HTTP in, lines out. `refused` is set where the answer is not 200."""

    def __init__(self, request: bytes, on_line: Callable[[bytes], None]) -> None:
        self._request, self._on_line = request, on_line
        self._parser = httptools.HttpResponseParser(self)
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by class
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            # The parser wraps what a callback raises: a line that cannot be read, or a fault of
            # ours in acting on one. Either way the link is made anew, and somebody is told.
            log.warning("demand_link_broken", error=str(error), exc_info=error.__context__)
            self._close()

    def on_headers_complete(self) -> None:
        if self._parser.get_status_code() != 200:
            self._close()

    def on_body(self, body: bytes) -> None:
        *lines, self._buffer = (self._buffer + body).split(b"\n")
        for line in lines:
            if line:
                self._on_line(line)
        if len(self._buffer) > _LONGEST_LINE:
            self._close()

    def on_message_complete(self) -> None:
        self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.closed.set()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def follow(url: str, token: str, on_line: Callable[[DemandLine], None]) -> None:
    """Keeps a link to the router whose operations port is at `url`, until cancelled.

    A link that brought no line for `SILENT_AFTER` seconds is given up and made anew.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    request = (
        f"GET /internal/demand HTTP/1.1\r\nhost: {parts.netloc}\r\n"
        f"authorization: Bearer {token}\r\naccept: application/x-ndjson\r\n\r\n"
    ).encode("ascii")
    decode = msgspec.json.Decoder(DemandLine).decode
    loop = asyncio.get_running_loop()
    last = 0.0

    def heard(raw: bytes) -> None:
        nonlocal last
        last = loop.time()
        on_line(decode(raw))

    while True:
        last = loop.time()
        try:
            transport, reader = await loop.create_connection(
                lambda: _Reader(request, heard), host, port
            )
        except OSError:
            await asyncio.sleep(_RETRY)
            continue
        try:
            while not reader.closed.is_set() and loop.time() - last < SILENT_AFTER:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.closed.wait(), SILENT_AFTER / 3)
        finally:
            transport.abort()
        if reader.closed.is_set():
            await asyncio.sleep(_RETRY)
