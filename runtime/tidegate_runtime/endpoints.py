"""What the router knows of models and replicas, and what it counts about them."""

import asyncio
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tidegate_runtime.contract.links import (
    ModelDemand,
    ModelView,
    Replica,
    ReplicaDemand,
)
from tidegate_runtime.contract.links import (
    ReplicaState as State,
)
from tidegate_runtime.hold import HoldQueue
from tidegate_runtime.stall import Silence
from tidegate_runtime.upstream import Upstream

if TYPE_CHECKING:
    from tidegate_runtime.exchange import Exchange

_MAX_IDLE: Final = 256
TOLD_SECONDS: Final = 60.0
"""How long a first forward is told: longer than an operator is without its links."""


class ReplicaState:
    """One replica: its address, its connections, and what runs on it."""

    __slots__ = (
        "answer_error", "answered_at", "first_forward", "gone", "guard", "heard_at", "host", "host_header",
        "hung", "hung_at", "id", "idle", "in_flight", "model", "port", "probe", "silence", "start_id", "state",
        "suspect_until", "tells", "told",
    )  # fmt: skip

    def __init__(self, replica: Replica, model: "ModelState") -> None:
        self.model = model
        parts = urlsplit(replica.url)
        self.told = replica
        self.id = replica.id
        self.host = parts.hostname or "127.0.0.1"
        self.port = parts.port or 80
        self.host_header = parts.netloc.encode()
        self.guard = replica.guard.encode()
        self.start_id = replica.start_id
        self.state: State = replica.state
        self.in_flight = 0
        self.answered_at = 0.0
        self.answer_error = ""
        self.first_forward = 0.0
        self.suspect_until = inf if replica.lost else 0.0
        self.gone = False
        self.silence = Silence()
        self.heard_at = self.hung_at = 0.0
        self.hung = ""
        self.tells = False
        self.idle: list[Upstream] = []
        self.probe: asyncio.Task[None] | None = None

    def renew(self, replica: Replica) -> None:
        """Take what the world says of it now."""
        if replica.lost != self.told.lost:
            self.suspect_until = inf if replica.lost else 0.0
        self.told = replica
        self.guard = replica.guard.encode()
        self.state = replica.state

    @property
    def usable(self) -> bool:
        """It has answered (here or to another router), and it is not leaving."""
        if self.gone or self.hung or self.state == "draining":
            return False
        return self.state == "ready" or self.answered_at > 0

    def heard(self, at: float) -> None:
        """Its engine has done something for a request, at `at` by the loop's clock (0: it has not)."""
        if at > self.heard_at:
            self.heard_at, self.silence = at, Silence()

    def keep(self, connection: Upstream) -> bool:
        """Keep a connection for the next request, where there is one to come."""
        if self.gone or len(self.idle) >= _MAX_IDLE:
            return False
        self.idle.append(connection)
        return True

    def forget(self, connection: Upstream) -> None:
        """A connection is lost."""
        if connection in self.idle:
            self.idle.remove(connection)

    def leave(self) -> None:
        """The replica is no more: no new work, no idle connections, no probing."""
        self.gone = True
        if self.probe is not None:
            self.probe.cancel()
        for connection in self.idle[:]:
            connection.abort()

    def quiet(self, wall: float) -> bool:
        """Whether the operator knows all there is to say of it: that it has answered, which the
        world shows, and long since who was served first. Of a thousand models most are."""
        told = not self.first_forward or wall - self.first_forward > TOLD_SECONDS
        return (
            told
            and self.state == "ready"
            and not (self.in_flight or self.gone or self.answer_error or self.hung)
        )

    def demand(self) -> ReplicaDemand:
        """What the operator is told of it."""
        return ReplicaDemand(
            id=self.id,
            in_flight=self.in_flight,
            excluded=self.gone or self.state == "draining",
            mark=self.told.mark,
            answered_at=self.answered_at,
            answer_error=self.answer_error,
            first_forward=self.first_forward,
            hung=self.hung,
        )


class ModelState:
    """One model: its view, its replicas and who waits for it."""

    __slots__ = (
        "context", "in_flight", "last_request", "price_version", "queue", "replicas", "suspected_until", "told", "view",
    )  # fmt: skip

    def __init__(self, view: ModelView) -> None:
        self.view = view
        self.replicas: dict[str, ReplicaState] = {}
        self.queue: HoldQueue[Exchange] = HoldQueue()
        self.in_flight = 0
        self.context = 0  # tokens of prompt and answer together, once a replica has said it
        self.last_request = 0.0
        self.price_version = 0
        self.told: ModelDemand | None = None
        self.suspected_until = 0.0

    def demand(self, wall: float, mono: float) -> ModelDemand:
        """What the operator is told of it."""
        oldest = self.queue.oldest()
        return ModelDemand(
            deployment=self.view.deployment,
            in_flight=self.in_flight,
            held=len(self.queue),
            held_since=wall - (mono - oldest) if oldest else 0.0,
            last_request=self.last_request,
        )


def merge(
    model: ModelState, told: list[Replica], started: Callable[[ModelState, ReplicaState], None]
) -> bool:
    """Bring a model's replicas to what the world says now; `started` is called for new ones.

    Whether anything is different."""
    known = model.replicas
    urls = {r.id: r.url for r in told}
    gone = [k for k, state in known.items() if urls.get(k) != state.told.url]
    for key in gone:
        known.pop(key).leave()
    changed = bool(gone)
    for replica in told:
        state = known.get(replica.id)
        if state is not None and state.told == replica:
            continue
        changed = True
        if state is None:
            state = known[replica.id] = ReplicaState(replica, model)
        else:
            state.renew(replica)
        if state.probe is None:
            started(model, state)
    if changed:
        model.suspected_until = max((r.suspect_until for r in known.values()), default=0.0)
    return changed
