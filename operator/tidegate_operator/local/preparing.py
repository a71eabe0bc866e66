"""Making ready what a model's start needs, before anybody waits for it."""

import asyncio
import time
from typing import TYPE_CHECKING

from tidegate_operator.local.engines import PrepareError
from tidegate_operator.local.retry import Retry

if TYPE_CHECKING:
    from tidegate_operator.local.model import Model


async def prepare(model: "Model") -> None:
    """Prepares the engine of the model's plan. What waiting may cure is tried again, as long as the
    plan's `grace_seconds` say; else the start has failed."""

    def progress(phase: str, detail: str) -> None:
        model.preparing = (phase, detail)
        model.show()

    plan, began = model.plan, time.time()
    model.preparing = ("preparing", "")
    while True:
        try:
            await plan.engine.prepare(progress)
        except PrepareError as error:
            final = not error.curable or time.time() - began > plan.grace_seconds
            model.preparing = ("", "") if final else ("waiting", str(error)[:200])
            start_id = f"{time.time_ns():016x}"
            model.start_failed(start_id, error.reason, str(error), final=final)
            if final:
                # Asking again costs nothing and may find another file: who asks next must not
                # wait for a back-off to hear it.
                model.retry = Retry()
                return
            await asyncio.sleep(max(0.0, model.retry.at - time.time()))
        else:
            break
    model.preparing, model.stuck = ("", ""), ""
    model.retry = model.retry.answered()
    model.prepared_at = time.time()
    model.evaluate(model.prepared_at)
