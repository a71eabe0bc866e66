"""What a watch must do, on whatever API server: the fake one and a real one run the same stories.

A story gets a place of its own (a namespace's ConfigMaps) and reaches the server through a relay,
which cuts connections, goes away or falls silent, as networks do.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol, TypedDict
from urllib.parse import urlsplit

import yaml

from tidegate_runtime.kube import watch as module
from tidegate_runtime.kube.api import Api
from tidegate_runtime.kube.watch import Object, Sink, Source, Watch

DEADLINE = 60.0


class _Metadata(TypedDict, total=False):
    name: str
    namespace: str
    labels: dict[str, str]


class Shape(TypedDict, total=False):
    """What is kept of a ConfigMap."""

    metadata: _Metadata
    data: dict[str, str]


class Place(Protocol):
    """Where a story's objects are, and who makes them."""

    kubeconfig: str
    namespace: str

    async def put(self, name: str, value: str, label: str = "yes") -> None:
        """Make or change a ConfigMap: its label `story`, and `value` in its data."""

    async def delete(self, name: str) -> None:
        """Delete it."""


class Seen:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.there: dict[str, str] = {}
        self.lists = 0
        self.events: list[str] = []
        self.settled = 0
        self._news = asyncio.Event()

    def sink(self) -> Sink:
        return Sink(self._replaced, self._put, self._gone, self._settled)

    def _replaced(self, objects: list[Object]) -> None:
        self.lists += 1
        self.there = {o["metadata"]["name"]: o.get("data", {}).get("value", "") for o in objects}

    def _put(self, found: Object) -> None:
        name = found["metadata"]["name"]
        self.there[name] = found.get("data", {}).get("value", "")
        self.events.append(f"put {name}")

    def _gone(self, found: Object) -> None:
        self.there.pop(found["metadata"]["name"], None)
        self.events.append(f"gone {found['metadata']['name']}")

    def _settled(self) -> None:
        self.settled += 1
        self._news.set()

    async def until(self, look: Callable[[], bool], what: str) -> None:
        """Wait for a state."""
        try:
            async with asyncio.timeout(DEADLINE):
                while not look():
                    self._news.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.05):
                            await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"never came: {what}; there: {self.there}") from None

    async def holds(self, **there: str) -> None:
        """Wait until these are all there are."""
        await self.until(lambda: self.there == there, f"{there}")


class Relay:
    """A network between a watch and its server."""

    def __init__(self, kubeconfig: str, folder: Path) -> None:
        self._folder = folder
        self._config = yaml.safe_load(Path(kubeconfig).read_text())
        (self._cluster,) = [c["cluster"] for c in self._config["clusters"]]
        target = urlsplit(self._cluster["server"])
        self._host, self._port = target.hostname or "", target.port or 443
        self._scheme = target.scheme
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._deaf: set[asyncio.Task[None]] = set()
        self._broken = 0
        self.port = 0
        self.taken = 0

    @property
    def kubeconfig(self) -> str:
        """A kubeconfig that leads through here."""
        path = self._folder / "relayed.kubeconfig"
        self._cluster["server"] = f"{self._scheme}://127.0.0.1:{self.port}"
        if self._scheme == "https":
            self._cluster["tls-server-name"] = self._host
        path.write_text(yaml.safe_dump(self._config))
        return str(path)

    async def open(self) -> None:
        """Take connections (again, at the same port)."""
        self._server = await asyncio.start_server(self._take, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Break every connection, and those that are about to be."""
        self._broken += 1
        for writer in list(self._links):
            writer.transport.abort()

    def go(self) -> None:
        """Be away: refuse connections, and break those there are."""
        assert self._server is not None
        self._server.close()
        self.cut()

    def silence(self) -> None:
        """Carry nothing more on the connections there are, and leave them open."""
        self._deaf |= self._tasks

    async def close(self) -> None:
        """End all of it."""
        self.go()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        broken = self._broken
        try:
            back, forth = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        if broken != self._broken:
            writer.transport.abort()
            forth.transport.abort()
            return
        self._links |= {writer, forth}
        for a, b in ((reader, forth), (back, writer)):
            task = asyncio.create_task(self._carry(a, b))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        me = asyncio.current_task()
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if me in self._deaf:
                    continue
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


@contextlib.asynccontextmanager
async def following(
    kubeconfig: str, path: str, selector: str = "story=yes"
) -> AsyncIterator[tuple[Seen, Watch]]:
    """A watch that runs."""
    seen = Seen()
    watch = Watch(Api(kubeconfig), Source(path, Shape, selector), seen.sink())
    task = asyncio.create_task(watch.run())
    try:
        yield seen, watch
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def maps(place: Place) -> str:
    """The path of a place's ConfigMaps."""
    return f"/api/v1/namespaces/{place.namespace}/configmaps"


async def events_follow_the_list(place: Place, relay: Relay, patch: Any) -> None:
    """A list, then every change, and what leaves the selector is gone."""
    await place.put("a", "1")
    await place.put("other", "1", label="no")
    async with following(relay.kubeconfig, maps(place)) as (seen, watch):
        await seen.holds(a="1")
        assert watch.listed
        await place.put("b", "1")
        await seen.holds(a="1", b="1")
        await place.put("b", "2")
        await seen.holds(a="1", b="2")
        await place.put("a", "1", label="no")
        await seen.holds(b="2")
        await place.put("other", "3")
        await seen.holds(b="2", other="3")
        await place.delete("b")
        await seen.holds(other="3")
        assert seen.lists == 1


async def a_list_comes_in_pages(place: Place, relay: Relay, patch: Any) -> None:
    """More objects than a page holds."""
    patch.setattr(module, "PAGE", 2)
    for number in range(5):
        await place.put(f"m{number}", str(number))
    async with following(relay.kubeconfig, maps(place)) as (seen, _):
        await seen.holds(**{f"m{n}": str(n) for n in range(5)})
        assert seen.lists == 1
        await place.put("m5", "5")
        await seen.holds(**{f"m{n}": str(n) for n in range(6)})


async def a_watch_goes_on_when_its_time_is_over(place: Place, relay: Relay, patch: Any) -> None:
    """The server ends a watch; the next one starts where it was, and without a list."""
    patch.setattr(module, "LIFE", 1.0)
    await place.put("a", "0")
    async with following(relay.kubeconfig, maps(place)) as (seen, _):
        for number in range(1, 8):
            await place.put("a", str(number))
            await seen.holds(a=str(number))
            await asyncio.sleep(0.3)
        assert seen.lists == 1


async def what_was_known_stays_known(place: Place, relay: Relay, patch: Any) -> None:
    """Connections break, the server goes away and comes back; no change is missed or made up."""
    await place.put("a", "1")
    await place.put("b", "1")
    async with following(relay.kubeconfig, maps(place)) as (seen, _):
        await seen.holds(a="1", b="1")
        for number in range(2, 5):
            taken = relay.taken
            relay.cut()
            await place.put("a", str(number))
            await seen.holds(a=str(number), b="1")
            assert relay.taken > taken
        relay.go()
        await place.delete("b")
        await asyncio.sleep(1.0)
        assert seen.there == {"a": "4", "b": "1"}
        await relay.open()
        await seen.holds(a="4")
        assert seen.lists == 1


async def a_dead_connection_is_left(place: Place, relay: Relay, patch: Any) -> None:
    """A connection that is open and carries nothing is given up, and nothing is missed."""
    patch.setattr(module, "SILENCE", 2.0)
    await place.put("a", "1")
    async with following(relay.kubeconfig, maps(place)) as (seen, _):
        await seen.holds(a="1")
        relay.silence()
        await place.put("a", "2")
        await seen.holds(a="2")
        assert seen.lists == 1


async def what_is_not_there_may_come(place: Place, relay: Relay, patch: Any) -> None:
    """A resource that the server does not have (yet) is asked for again, and is not empty."""
    path = f"/apis/absent.tidegate.dev/v1/namespaces/{place.namespace}/things"
    async with following(relay.kubeconfig, path) as (seen, watch):
        taken = relay.taken
        await seen.until(lambda: relay.taken > taken + 2, "three attempts")
        assert not watch.listed
        assert seen.lists == seen.settled == 0


Story = Callable[[Place, Relay, Any], Awaitable[None]]
STORIES: tuple[Story, ...] = (
    events_follow_the_list,
    a_list_comes_in_pages,
    a_watch_goes_on_when_its_time_is_over,
    what_was_known_stays_known,
    a_dead_connection_is_left,
    what_is_not_there_may_come,
)


async def tell(story: Story, place: Place, folder: Path, patch: Any) -> None:
    """Run a story."""
    relay = Relay(place.kubeconfig, folder)
    await relay.open()
    try:
        await story(place, relay, patch)
    finally:
        await relay.close()
