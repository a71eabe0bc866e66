"""What every model of the platform shares: the world, the demand, and the ways out."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tidegate_billing.links import EngineCounters
from tidegate_operator.demand import Picture
from tidegate_operator.local import beside
from tidegate_operator.local.binding import Binding
from tidegate_operator.local.making_room import Room
from tidegate_operator.local.options import Event
from tidegate_operator.local.replica import Running
from tidegate_operator.local.world import World
from tidegate_operator.replica_time import Lives


@dataclass(kw_only=True)
class Site:
    """The surroundings of a model. `count` tells billing the counters of an ended engine and
    returns when it has them; `started` notes a new engine; `changed` says that the list of engines
    is another one. `mark` is what every engine carries in its environment; `lives` is what its time
    comes to, `room` the memory that engines may take, `binding` the cores they compute on."""

    data: Path
    mark: Mapping[str, str]
    world: World
    picture: Picture
    http: httpx.AsyncClient
    report: Callable[[Event], None]
    count: Callable[[EngineCounters], Coroutine[Any, Any, None]]
    started: Callable[[Running], None]
    changed: Callable[[], None]
    lives: Lives = field(default_factory=Lives)
    room: Room = field(default_factory=Room)
    binding: Binding = field(default_factory=Binding)
    closing: bool = False
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs `work` beside everything else and keeps it until it ends."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            self.report(Event(ts=time.time(), event="error", message=beside.told(fault)))

    async def finish(self, timeout: float) -> None:
        """Waits for what runs beside, then cancels it."""
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=timeout)
        for task in list(self.tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
