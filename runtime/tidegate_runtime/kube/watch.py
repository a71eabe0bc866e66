"""One resource of the API server, listed and then watched for ever.

`Cursor` is the protocol without the socket: bytes in, events out. `Watch` is the loop around it,
and survives what happens to watches:

    server away, cut off, refusing    try again, after 50 ms and at last every second
    401, another authority            the same; each new connection reads its files anew
    410, or an error event            what was known is too old to go on from: list again
    end of its time (five minutes)    go on from the last version seen
    silence                           bookmarks come every minute: a link without them is dead
    404                               the resource's definition is not there (yet): try again

Whatever happens, what was known stays known: a sink hears of a deletion from an event or a whole
list, and never from a failure. A list an hour heals what no event tells, such as an API server
restored from a backup, whose versions start again below ours.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec
import structlog

from tidegate_runtime.kube.api import Refused, Unavailable

log = structlog.get_logger()

PAGE: Final = 100
"""Objects a page: few enough that decoding one does not hold up the loop."""
LIFE: Final = 240.0
"""Seconds after which the server ends a watch, and up to half as many more by chance."""
SILENCE: Final = 80.0
LIST_SILENCE: Final = 30.0
RELIST: Final = 3600.0
_TOO_OLD: Final = frozenset({400, 410, 504})
"""Gone, and what a server says to a version that it has never had (it was restored)."""
FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 1.0

Object = Mapping[str, Any]


class Source(NamedTuple):
    """What to follow. `shape`: a type msgspec decodes an object to (a TypedDict keeps what it
    names and skips the rest). `selector`: of labels; `fields`: of fields."""

    path: str
    shape: Any
    selector: str = ""
    fields: str = ""


class Event(NamedTuple):
    """`put`: it is there, and like this; `gone`: it is not."""

    kind: Literal["put", "gone"]
    object: Object


class Expired(Exception):
    """The version a watch starts from is too old: list again."""


class Malformed(Exception):
    """The answer is not what an API server sends."""


class _Meta(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    resource_version: str = msgspec.field(name="resourceVersion", default="")
    more: str = msgspec.field(name="continue", default="")


class _Bare(msgspec.Struct):
    metadata: _Meta


class _Line(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    code: int = 0
    reason: str = ""
    message: str = ""


class _Page(msgspec.Struct):
    metadata: _Meta
    items: list[msgspec.Raw] | None = None


class Cursor:
    """Where the watch of a source stands. `version`: the last one seen; empty: a list is due."""

    def __init__(self, source: Source) -> None:
        self.version = ""
        self._decoder = msgspec.json.Decoder(source.shape)
        self._part = b""

    def cut(self) -> None:
        """The stream ended: what is left of a line means nothing."""
        self._part = b""

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events of the next bytes of a watch; bookmarks only move the version.

        Raises Expired (an error event), Malformed."""
        *lines, self._part = (self._part + chunk).split(b"\n")
        for line in lines:
            if line and (event := self._event(line)) is not None:
                yield event

    def page(self, body: bytes) -> tuple[list[Object], str]:
        """The objects of a page of a list, and the token of the next page (empty: none).

        Raises Malformed."""
        try:
            page = msgspec.json.decode(body, type=_Page)
            objects = [self._object(raw) for raw in page.items or ()]
        except msgspec.DecodeError as exc:
            raise Malformed(str(exc)) from exc
        self.version = "" if page.metadata.more else page.metadata.resource_version
        return [one for one in objects if one is not None], page.metadata.more

    def _event(self, line: bytes) -> Event | None:
        try:
            told = msgspec.json.decode(line, type=_Line)
            if told.type == "ERROR":
                status = msgspec.json.decode(told.object, type=_Status)
                raise Expired(f"{status.code}: {status.message or status.reason}")
            bare = msgspec.json.decode(told.object, type=_Bare)
            found = None if told.type == "BOOKMARK" else self._object(told.object)
        except msgspec.DecodeError as exc:
            raise Malformed(str(exc)) from exc
        self.version = bare.metadata.resource_version or self.version
        if told.type == "BOOKMARK":
            return None
        if found is None or told.type == "DELETED":
            names = {"name": bare.metadata.name, "namespace": bare.metadata.namespace}
            return Event("gone", {"metadata": names})
        return Event("put", found)

    def _object(self, raw: msgspec.Raw) -> Object | None:
        """An object as its shape; None where it does not fit, which hurts no other."""
        try:
            found: Object = self._decoder.decode(raw)
        except msgspec.ValidationError as exc:
            log.warning("object_unreadable", object=_named(raw), error=str(exc))
            return None
        return found


def _named(raw: msgspec.Raw) -> str:
    meta = msgspec.json.decode(raw, type=_Bare).metadata
    return f"{meta.namespace}/{meta.name}"


class Sink(NamedTuple):
    """Whom to tell. `replaced`: these are all there are; `put`: this is new, or has changed;
    `gone`: this is gone (only its name and namespace are told); `settled`: all that came in one
    piece has been told."""

    replaced: Callable[[list[Object]], None]
    put: Callable[[Object], None]
    gone: Callable[[Object], None]
    settled: Callable[[], None]


class Asker(Protocol):
    """What a watch needs of `api.Api`."""

    def chunks(
        self, path: str, query: Mapping[str, str], silence: float
    ) -> AsyncGenerator[bytes, None]:
        """The body of a GET. Raises Unavailable, Refused."""

    async def close(self) -> None:
        """Forget the connection."""


class Watch:
    """Tells a sink of one source until it is cancelled."""

    def __init__(
        self,
        api: Asker,
        source: Source,
        sink: Sink,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._api = api
        self._source = source
        self._sink = sink
        self._chance = chance
        self._cursor = Cursor(source)
        self.listed = False
        """Whether the sink has had a whole list."""
        self._pause = 0.0
        self._down = ""
        self._listed_at = 0.0

    async def run(self) -> None:
        """Follow the source for ever."""
        try:
            while True:
                try:
                    await self._follow()
                except (Expired, Unavailable, Refused, Malformed) as exc:
                    self._lost(exc)
                if self._pause:
                    await asyncio.sleep(self._pause * (0.5 + self._chance() / 2))
        finally:
            await self._api.close()

    async def _follow(self) -> None:
        """One watch, after a list where one is due. Returns when the server ends it in order."""
        clock = asyncio.get_running_loop().time
        # Only a watch that works makes the pauses short again: a server that lists, and then
        # refuses to watch, must not be made to list twenty times a second.
        self._pause = min(max(2 * self._pause, FIRST_PAUSE), LONGEST_PAUSE)
        if not self._cursor.version or clock() - self._listed_at > RELIST:
            await self._list()
            self._listed_at = clock()
        started = clock()
        await self._watch()
        if clock() - started > LONGEST_PAUSE:
            self._pause = 0.0

    async def _list(self) -> None:
        objects: list[Object] = []
        query = {"limit": str(PAGE), **self._selector()}
        while True:
            body = b"".join([chunk async for chunk in self._chunks(query, LIST_SILENCE)])
            found, more = self._cursor.page(body)
            objects += found
            if not more:
                break
            query["continue"] = more
        self._up()
        self._sink.replaced(objects)
        self.listed = True
        self._sink.settled()

    async def _watch(self) -> None:
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._cursor.version,
            "timeoutSeconds": str(int(LIFE * (1 + self._chance() / 2))),
            **self._selector(),
        }
        self._cursor.cut()
        async with contextlib.aclosing(self._chunks(query, SILENCE)) as chunks:
            async for chunk in chunks:
                for event in self._cursor.feed(chunk):
                    if event.kind == "put":
                        self._sink.put(event.object)
                    else:
                        self._sink.gone(event.object)
                self._sink.settled()
                self._up()
                self._pause = 0.0

    async def _chunks(
        self, query: Mapping[str, str], silence: float
    ) -> AsyncGenerator[bytes, None]:
        try:
            async with contextlib.aclosing(
                self._api.chunks(self._source.path, query, silence)
            ) as chunks:
                async for chunk in chunks:
                    yield chunk
        except Refused as exc:
            if exc.status in _TOO_OLD:
                raise Expired(str(exc)) from exc
            raise

    def _selector(self) -> dict[str, str]:
        both = {"labelSelector": self._source.selector, "fieldSelector": self._source.fields}
        return {name: selector for name, selector in both.items() if selector}

    def _lost(self, exc: Exception) -> None:
        """Say it once for each reason, and not every second for an hour."""
        self._pause = max(self._pause, FIRST_PAUSE)
        if isinstance(exc, (Expired, Malformed)):
            self._cursor.version = ""
        reason = str(exc)[:300]
        if reason != self._down:
            self._down = reason
            log.warning("watch_lost", path=self._source.path, error=reason)

    def _up(self) -> None:
        if self._down:
            self._down = ""
            log.info("watch_restored", path=self._source.path)
