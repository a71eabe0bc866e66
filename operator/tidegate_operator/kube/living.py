"""How long pods have lived, and in which phase: looked at once a second, told by whoever leads.

When a replica began and when it answered is what its pod says, in whole seconds, so every operator
says the same. A first life begins when its node is chosen: from then on it holds its devices. The
next one, in the same pod, begins with its container. Followers look as well, so that a new leader
has seen what the last one did not tell; how far that one got, billing says.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import structlog

from tidegate_operator.demand import Picture
from tidegate_operator.drain import busy
from tidegate_operator.kube.model import Model
from tidegate_operator.local.billing import Billing, BillingError
from tidegate_operator.replica_time import Lives, Whose
from tidegate_runtime.contract.cluster import (
    ANSWERED,
    answered,
    condition,
    engine_status,
    epoch,
    lost,
    reachable,
    seconds,
)
from tidegate_runtime.contract.links import DemandLine

log = structlog.get_logger()

Object = Mapping[str, Any]
TELL_SECONDS: Final = 5.0


class Named(Protocol):
    """An epoch that the fleet knows."""

    @property
    def model(self) -> str:
        """What its tenants call it."""


class Living:
    """The lives of all pods of `models`. `owner` says whose a deployment is, `named` what an
    epoch's model is called."""

    def __init__(
        self,
        billing: Billing,
        models: Mapping[str, Model],
        named: Mapping[str, Named],
        owner: Callable[[str], str],
    ) -> None:
        self.lives = Lives()
        self._billing, self._models, self._named, self._owner = billing, models, named, owner
        self._asked: dict[str, float] = {}
        self._looked: dict[str, float] = {}
        self._silent: set[str] = set()

    def look(self, picture: Picture, now: float) -> None:
        """Take in what pods and routers say at `now`, once everything is known."""
        lines = picture.lines(now)
        for line in lines.values():
            self._hear(line)
        there: set[str] = set()
        silent: set[str] = set()
        for model in self._models.values():
            if model.pods:
                self._look_at(model, lines, now, there, silent)
        for gone in [one for one in self.lives.running() if one not in there]:
            # Of one on a lost node nobody knows how long it went on: it ended when it was last seen.
            self.lives.ended(gone, 0.0 if gone in self._silent else now)
        self._silent = silent
        for known in (self._asked, self._looked):
            for name in known.keys() - self._models.keys():
                del known[name]

    def _hear(self, line: DemandLine | None) -> None:
        for said in line.models if line is not None else ():
            before = self._asked.get(said.deployment, 0.0)
            self._asked[said.deployment] = max(before, said.last_request)

    def _look_at(
        self,
        model: Model,
        lines: Mapping[str, DemandLine | None],
        now: float,
        there: set[str],
        silent: set[str],
    ) -> None:
        alive = {epoch(pod): pod for pod in model.pods.values() if not _over(pod)}
        there.update(alive)
        for key, pod in alive.items():
            self._meet(model.deployment, key, pod, now)
        serving = [key for key, pod in alive.items() if answered(pod) and not lost(pod)]
        silent.update(key for key, pod in alive.items() if lost(pod))
        loads = busy(serving, lines)
        if not serving or any(one.in_flight is None for one in loads):
            return  # nobody knows; the next one who does looks back over it
        asked = self._asked.get(model.deployment, 0.0)
        came = asked > self._looked.get(model.deployment, 0.0)
        self._looked[model.deployment] = asked
        staying = {epoch(model.pods[uid]) for uid in model.staying()}
        kept = staying if len(staying) <= model.policy.min_replicas else set()
        for one in loads:
            used = bool(one.in_flight) or one.id in kept
            self.lives.watched(one.id, now, busy=used, came=came)

    def _meet(self, deployment: str, key: str, pod: Object, now: float) -> None:
        named = self._named.get(key)
        begun = _begun(pod)
        if key not in self.lives and named is not None and begun:
            whose = Whose(deployment, key, named.model, self._owner(deployment))
            self.lives.begin(whose, begun, now)
        if answered(pod):
            gate = condition(pod, ANSWERED) or {}
            self.lives.answered(key, seconds(gate.get("lastTransitionTime")))

    async def tell(self, leads: Callable[[], bool]) -> None:
        """Tell billing while we lead, for ever. What is said twice counts once."""
        while True:
            if leads():
                try:
                    await self._billing.settle(self.lives)
                except BillingError as error:
                    log.error("replica_time_refused", error=str(error))
            await asyncio.sleep(TELL_SECONDS)


def _begun(pod: Object) -> float:
    """When this life began; 0: it has not."""
    status = engine_status(pod)
    if status.get("restartCount", 0):
        return seconds(((status.get("state") or {}).get("running") or {}).get("startedAt"))
    placed = condition(pod, "PodScheduled") or {}
    return seconds(placed.get("lastTransitionTime")) if placed.get("status") == "True" else 0.0


def _over(pod: Object) -> bool:
    """Whether an engine that had answered is no more, though its pod is there: another may come."""
    return answered(pod) and not reachable(pod)
