"""Tells billing who owns which model at what price: always the whole list, one call at a time.

Billing takes a list for all there is and marks what is not in it as gone, so a list of one would
unprice the others. Changes that come while a call is under way lead to one more call after it.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

from tidegate_billing.links import ModelPricing
from tidegate_operator.kube.report import Priced
from tidegate_operator.local.billing import Billing, BillingError

Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]

REFUSED_SECONDS: Final = 60.0
"""After which billing is asked again what it refused: a new version of it may think otherwise."""
AGREED_SECONDS: Final = 600.0
"""After which it is told again what it took: its store may be another one by then."""

SHARE: Final = 4.0
LONGEST_PAUSE: Final = 5.0
"""Between two calls passes so many times what the first one took, at most so many seconds."""


class Prices:
    """What billing was told and said. `wanted`: every model that may serve, as it should be told;
    `changed`: called with each deployment of which billing says something else now."""

    def __init__(
        self,
        billing: Billing,
        wanted: Callable[[], Iterable[ModelPricing]],
        changed: Callable[[str], None],
        spawn: Spawn,
    ) -> None:
        self._billing, self._wanted = billing, wanted
        self._changed, self._spawn = changed, spawn
        self._told: dict[str, ModelPricing] = {}
        self._answers: dict[str, Priced] = {}
        self._running = self._again = False
        self._due = 0.0

    def of(self, deployment: str) -> Priced:
        """What billing said of a deployment."""
        return self._answers.get(deployment, Priced())

    def tell(self, wanted: ModelPricing) -> None:
        """This is how a model should be told; ask where billing knows it otherwise."""
        if self._told.get(wanted.deployment) != wanted:
            self.ask()

    def remind(self) -> None:
        """Tell it all again where that was too long ago."""
        if self._told and time.monotonic() > self._due:
            self.ask()

    def forget(self, deployment: str, *, tell: bool) -> None:
        """A deployment is gone, or is another one now; `tell`: billing as well."""
        self._answers.pop(deployment, None)
        if self._told.pop(deployment, None) is not None and tell:
            self.ask()

    def begin(self) -> None:
        """Another operator may have told billing something else meanwhile."""
        self._told = {}

    def ask(self) -> None:
        """Tell billing the whole list, now or right after the call that is under way."""
        if self._running:
            self._again = True
            return
        self._running = True
        self._spawn(self._run())

    async def _run(self) -> None:
        try:
            self._again = True
            while self._again:
                self._again, begun = False, time.monotonic()
                await self._call(await self._all())
                if self._again:  # a thousand new models are not worth a thousand whole lists
                    took = time.monotonic() - begun
                    await asyncio.sleep(min(LONGEST_PAUSE, SHARE * took))
        finally:
            self._running = False

    async def _all(self) -> dict[str, ModelPricing]:
        found = {}
        for one in self._wanted():
            found[one.deployment] = one
            await asyncio.sleep(0)  # each may have to be judged first, and a wake must not wait
        return found

    async def _call(self, wanted: dict[str, ModelPricing]) -> None:
        try:
            answers = await self._billing.price(list(wanted.values()))
        except BillingError as error:
            self._due = time.monotonic() + REFUSED_SECONDS
            found = dict.fromkeys(wanted, Priced(None, str(error)))
        else:
            self._due = time.monotonic() + AGREED_SECONDS
            found = dict.fromkeys(wanted, Priced(None, "billing said nothing of it"))
            found |= {one.deployment: Priced(one, "") for one in answers}
        # What came meanwhile is not in it, and is asked for by the call after this one.
        before, self._answers, self._told = self._answers, found, wanted
        for deployment, priced in found.items():
            if before.get(deployment) != priced:
                self._changed(deployment)
