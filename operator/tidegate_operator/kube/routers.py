"""The routers, found through their EndpointSlices, each with a demand link that is kept warm.

A router that leaves the slices is gone; one that is only not ready or terminating still serves and
still reports. Every operator keeps the links, so that a new leader knows the demand at once.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import structlog

from tidegate_operator import demand
from tidegate_runtime.contract.links import DemandLine

log = structlog.get_logger()

Object = Mapping[str, Any]

OPS_PORT: Final = 9090


def addresses(slices: Iterable[Object]) -> dict[str, str]:
    """The operations URL of each router, by pod name (or address where there is none)."""
    found = {}
    for one in slices:
        for endpoint in one.get("endpoints") or []:
            for address in endpoint.get("addresses") or []:
                name = (endpoint.get("targetRef") or {}).get("name") or address
                host = f"[{address}]" if ":" in address else address
                found[name] = f"http://{host}:{OPS_PORT}"
    return found


class Routers:
    """The links. `heard(router, line)` is called straight from the socket."""

    def __init__(
        self, picture: demand.Picture, token: str, heard: Callable[[str, DemandLine], None]
    ) -> None:
        self._picture, self._token, self._heard = picture, token, heard
        self._slices: dict[str, Object] = {}
        self._links: dict[str, tuple[str, asyncio.Task[None]]] = {}

    def slice(self, obj: Object, *, deleted: bool) -> None:
        """An EndpointSlice of the routers' Service."""
        name = obj["metadata"]["name"]
        if deleted:
            self._slices.pop(name, None)
        else:
            self._slices[name] = obj
        self._settle(addresses(self._slices.values()))

    def slices(self) -> list[Object]:
        """The EndpointSlices as they are."""
        return list(self._slices.values())

    def _settle(self, wanted: Mapping[str, str]) -> None:
        for name in [n for n, (url, _) in self._links.items() if wanted.get(n) != url]:
            self._links.pop(name)[1].cancel()
            if name not in wanted:
                self._picture.leave(name)
        for name, url in wanted.items():
            if name not in self._links:
                self._picture.expect(name, time.time())
                self._links[name] = (url, asyncio.ensure_future(self._follow(name, url)))

    async def _follow(self, name: str, url: str) -> None:
        """A link for as long as it is wanted: a fault in one is told, and it begins again."""
        while True:
            try:
                await demand.follow(url, self._token, lambda line: self._heard(name, line))
            except Exception:  # the link's boundary: a router unheard would stop every scaling down
                log.exception("link_failed", router=name)
            await asyncio.sleep(1.0)

    def close(self) -> None:
        """Ends every link."""
        for _, task in self._links.values():
            task.cancel()
        self._links.clear()
