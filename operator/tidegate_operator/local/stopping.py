"""How a replica leaves: seen out by every router, counted, and only then ended.

Until the engine is counted the drain can be taken back by demand. From then on it cannot: what it
served later would be missing from its final count.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable

from tidegate_operator.drain import may_stop
from tidegate_operator.local import counters
from tidegate_operator.local.replica import Running
from tidegate_operator.local.site import Site

GRACE_SECONDS = 5.0
SETTLE_SECONDS = 5.0


def can_return(run: Running) -> bool:
    """Whether a draining replica may still serve again."""
    return run.state == "draining" and not run.stopping and bool(run.answered_at)


def take_back(run: Running) -> None:
    """Ends the drain; the replica serves again once the world says so."""
    if run.drain is not None:
        run.drain.cancel()
        run.drain = None
    run.move("ready")


async def drain(
    run: Running, site: Site, began: float, timeout: float, publish: Callable[[], None]
) -> None:
    """Waits until the replica is seen out, `timeout` seconds at most; counts and ends it."""
    while True:
        run.changed.clear()
        now = time.time()
        if may_stop(run.id, site.picture.lines(now), began, timeout, now).stop:
            break
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(run.changed.wait(), 1.0)
    run.stopping = True
    publish()
    await end(run, site, timeout + GRACE_SECONDS)


async def end(run: Running, site: Site, grace: float) -> None:
    """Reads the final counters, ends the process, tells billing."""
    final = run.base_counters("final")
    deadline = time.monotonic() + SETTLE_SECONDS
    while run.child.alive:
        # A request whose client left may run on for a moment inside the engine.
        final = await counters.measured(site.http, final, run.view.url, run.view.guard, run.truth)
        if not final.in_flight or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.05)
    await run.child.stop(grace)
    site.binding.forget(run.id)
    site.room.freed(time.time())
    if run.truth is not None:
        final = await counters.after_death(final, run.truth)
    site.spawn(site.count(final))


async def lost(run: Running, site: Site, *, stop: bool) -> None:
    """Tells billing what is known of an engine that died; `stop`: it has to be ended first."""
    if stop:
        await run.child.stop(GRACE_SECONDS)
    await site.count(await counters.after_death(run.last_counters(), run.truth))
