"""What runs for as long as `up` does: its clock, its links, the following of files."""

import asyncio
import traceback
from collections.abc import Callable, Coroutine
from typing import Any


def told(fault: BaseException) -> str:
    """A fault of ours in words for whoever runs `up`, with where it was."""
    where = "".join(traceback.format_exception(fault)).strip()
    return f"a fault of ours, please report it: {where}"


class Beside:
    """Tasks none of which is to end by itself. One that does has met a fault of ours: `lost` is told it, at
    once and with where it was, for without its clock or its links `up` would look well and do nothing."""

    def __init__(self, lost: Callable[[str], None]) -> None:
        self._lost = lost
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work`."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.append(task)
        task.add_done_callback(self._ended)

    async def cancel(self) -> None:
        """Ends them all."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def _ended(self, task: asyncio.Task[None]) -> None:
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            self._lost(told(fault))
