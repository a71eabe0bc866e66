"""How an engine that hangs is replaced. Routers have left it: what it had is tried again or told so."""

import time
from typing import TYPE_CHECKING

import msgspec

from tidegate_operator.hung import hangs
from tidegate_operator.local import counters, stopping
from tidegate_operator.local.replica import Running
from tidegate_operator.local.site import Site

if TYPE_CHECKING:
    from tidegate_operator.local.model import Model


def look(model: "Model", run: Running) -> None:
    """A router takes this one to hang: lets it go where no other has reason to keep it. The next one
    starts at once; where that hangs soon as well, later each time."""
    now = time.time()
    why = hangs(run.id, model.site.picture.lines(now))
    if not why or run.stopping or run.state == "starting":
        return
    del model.runs[run.id]
    run.stopping = True
    if run.drain is not None:
        run.drain.cancel()
    else:
        model.retry = model.retry.crashed(now - run.answered_at, now)
    model.publish()
    model.report_error(f"EngineHung: {why}; it is replaced{run.last_words()}")
    model.site.spawn(_end(run, model.site))
    model.evaluate(now)


async def _end(run: Running, site: Site) -> None:
    """Ends it, and tells billing its counters, which it may still be able to say and moves no more."""
    base = run.base_counters("final")
    read = await counters.measured(site.http, base, run.view.url, run.view.guard, run.truth)
    await run.child.stop(stopping.GRACE_SECONDS)
    known = msgspec.structs.replace(read, in_flight=0) if read.verified else run.last_counters()
    await site.count(await counters.after_death(known, run.truth))
