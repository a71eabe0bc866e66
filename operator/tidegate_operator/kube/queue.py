"""Work by key: each key at most once at a time, coalesced while it waits, later after it failed.

One key's failures never hold up another: a failed one waits by itself (1, 2, 4 ... 60 s), and the
workers go on with the rest. What is asked for while a key is being worked on runs once more after.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from tidegate_operator.kube.api import ApiError
from tidegate_operator.status import backoff

log = structlog.get_logger()

WORKERS: Final = 8
"""They wait for the API server nearly all the time: a resource takes about ten calls in a row."""


class Again(Exception):
    """What was to be done can't be done now; the message says why."""


class Queue:
    """Runs `work(key)` for every key that was added, until cancelled."""

    def __init__(self, work: Callable[[str], Awaitable[None]]) -> None:
        self._work = work
        self._order: asyncio.Queue[str] = asyncio.Queue()
        self._waiting: set[str] = set()
        self._running: set[str] = set()
        self._again: set[str] = set()
        self._failures: dict[str, int] = {}
        self.failures = 0
        self._timers: dict[str, asyncio.TimerHandle] = {}

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing runs; keys that wait after a failure do not count."""
        return not self._waiting and not self._running

    @property
    def depth(self) -> int:
        """Keys that wait for a worker or are worked on."""
        return len(self._waiting) + len(self._running)

    def add(self, key: str) -> None:
        """Soon, please."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if key in self._running:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._order.put_nowait(key)

    def later(self, key: str, seconds: float) -> None:
        """In so many seconds, unless it is added before."""
        if key in self._waiting or key in self._again:
            return
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        loop = asyncio.get_running_loop()
        self._timers[key] = loop.call_later(seconds, self._due, key)

    def within(self, key: str, seconds: float) -> None:
        """Once, at the latest in so many seconds; the first of many calls sets the time."""
        if key not in self._timers:
            self.later(key, seconds)

    def _due(self, key: str) -> None:
        self._timers.pop(key, None)
        self.add(key)

    async def run(self) -> None:
        """The workers."""
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._worker())

    async def _worker(self) -> None:
        while True:
            key = await self._order.get()
            self._waiting.discard(key)
            self._running.add(key)
            try:
                await self._work(key)
            except (ApiError, Again) as error:
                self._failed(key, str(error))
            except Exception as error:  # the reconcile boundary: one resource stalls no other
                log.exception("reconcile_failed", key=key)
                self._failed(key, f"{type(error).__name__}: {error}")
            else:
                self._failures.pop(key, None)
            finally:
                self._running.discard(key)
                if key in self._again:
                    self._again.discard(key)
                    self.add(key)

    def _failed(self, key: str, message: str) -> None:
        failures = self._failures.get(key, 0) + 1
        self._failures[key] = failures
        self.failures += 1
        pause = backoff(failures)
        log.warning("reconcile_again", key=key, seconds=pause, error=message[:500])
        self.later(key, pause)
