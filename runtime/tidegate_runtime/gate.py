"""The gate: identify, resolve, admit, hold, route. One per router process.

It owns the models' states and decides with the pure parts (names, route, hold); exchanges do what
it decides. All of it runs on one event loop, so a decision and its effect are one step.
"""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from tidegate_billing.links import KeyView
from tidegate_billing.usage import Usage
from tidegate_runtime import http1, openai, refusals, roster, shape
from tidegate_runtime.account import PREFIXES, Account
from tidegate_runtime.admit import catalogue, identify, resolve, standing
from tidegate_runtime.boundary import bounded
from tidegate_runtime.contract.links import DemandLine, ModelView, Replica, WorldLine
from tidegate_runtime.contract.names import NameTable
from tidegate_runtime.dial import Dialer
from tidegate_runtime.endpoints import ModelState, ReplicaState
from tidegate_runtime.errors import PlatformError, Refusal, TenantError, model_not_found
from tidegate_runtime.exchange import Exchange
from tidegate_runtime.front import Front, Incoming
from tidegate_runtime.hold import Ticket
from tidegate_runtime.messages.route import DIALECTS
from tidegate_runtime.meter import Meter
from tidegate_runtime.roster import suspended
from tidegate_runtime.route import Wait, least_load
from tidegate_runtime.stall import Stalls
from tidegate_runtime.tenants import Tenants
from tidegate_runtime.till import Till

log = structlog.get_logger()

SUSPECT_SECONDS: Final = 1.0
TENANT_SHARE: Final = 1.0
"""The part of a model's held places one tenant may fill; a plan's setting later."""


class Gate:
    """One router's data plane."""

    def __init__(self, name: str, meter: Meter, tenants: Tenants) -> None:
        self.name = name
        self.meter = meter
        self.tenants = tenants
        self.loop = asyncio.get_running_loop()
        self.fronts: set[Front] = set()
        self.live: set[Exchange] = set()
        self.buffered = 0
        self.models: dict[str, ModelState] = {}
        self.names = NameTable.build([])
        self.pictured = False
        """Whether a picture of the world has come, from whom or wherever."""
        self.news = asyncio.Event()
        self.requests: Counter[tuple[str, int]] = Counter()
        self.tokens: Counter[tuple[str, str]] = Counter()
        self.stopping = self.ending = False
        self.heard_at = self.loop.time()
        self.probe_started: Callable[[ModelState, ReplicaState], None] = lambda model, replica: None
        self.dialer = Dialer(self.loop)
        self.stalls = Stalls(self)
        self.account: Account | None = None
        """Who answers tenants' questions of their usage; None: there is no billing."""
        self.till: Till | None = None
        """Who lets in only what can be paid for; None: there is no billing."""

    # Requests

    @bounded
    def handle(self, front: Front, incoming: Incoming) -> None:
        """Answer one request (called by the front; errors become answers here)."""
        self.heard_at = self.loop.time()
        try:
            self._handle(front, incoming)
        except Refusal as refusal:
            self.refuse(front, incoming, refusal)

    def fail(self, *args: object) -> None:
        """A fault of ours before or while a request became an exchange (see `boundary`)."""
        front, incoming = args[:2]
        assert isinstance(front, Front)
        assert isinstance(incoming, Incoming)
        if isinstance(front.listener, Exchange):
            front.listener.fail()
            return
        log.exception("request_failed", request_id=incoming.request_id)
        refusal = PlatformError(500, "internal_error", "Tidegate failed on this request.")
        self.refuse(front, incoming, refusal)

    def refuse(self, front: Front, incoming: Incoming, refusal: Refusal) -> None:
        """Answer a request with an error."""
        self.refused(incoming, refusal)
        self.requests["", refusal.status] += 1
        front.send(
            shape.refused(
                refusal, incoming.path, incoming.request_id,
                close=incoming.close, head=incoming.method == b"HEAD",
            )
        )  # fmt: skip
        front.finish()

    def stranger(self, incoming: Incoming) -> Refusal | None:
        """Why a large body is not worth reading: nobody known sends it."""
        try:
            identify(self.tenants, incoming, self.loop.time(), time.time())
        except Refusal as refusal:
            return refusal
        return None

    def _handle(self, front: Front, incoming: Incoming) -> None:
        endpoint = incoming.path
        key = identify(self.tenants, incoming, self.loop.time(), time.time())
        dialect = DIALECTS.get(endpoint)
        if dialect is None and endpoint not in openai.TASKS:
            if self.account is not None and endpoint.startswith(PREFIXES):
                self.account.ask(front, incoming, key)
                return
            self.send(front, incoming, catalogue(self.names, self.tenants, key, incoming))
            return
        if incoming.method != b"POST":
            raise TenantError(405, "method_not_allowed", f"{endpoint} takes POST")
        body = bytes(incoming.body)
        incoming.body.clear()
        if dialect is None:
            request = openai.parse(endpoint, body)
        else:
            request, body = dialect.read(body)
        model = self.models[resolve(self.names, self.tenants, key, request).deployment]
        exchange = Exchange(self, front, incoming, key, model, request, body)
        model.last_request = exchange.started
        front.listener = exchange
        self.live.add(exchange)
        self.place(exchange)

    def send(self, front: Front, incoming: Incoming, body: bytes) -> None:
        """Answer a request with JSON of our own."""
        front.send(http1.plain(200, body, incoming.request_id, close=incoming.close))
        front.finish()

    # Hold and route

    def place(self, exchange: Exchange, *, again: bool = False) -> None:
        """Dispatch an exchange, or hold it. `again`: it was dispatched before and failed."""
        model = roster.callable_model(self, exchange)
        if model is None:
            exchange.refuse(model_not_found(exchange.request.model))
            return
        refusal = self._closed(exchange)
        if refusal is not None:
            exchange.refuse(refusal)
            return
        if self._unpaid(exchange):
            return
        if not model.queue and (model.price_version or not self.tenants.priced):
            chosen = self._pick(model, exchange)
            if isinstance(chosen, ReplicaState):
                exchange.dispatch(chosen)
                return
        self._hold(exchange, front=again)
        self.freed(model)  # those before it may all be waiting for something else

    def _closed(self, exchange: Exchange) -> Refusal | None:
        """Why nothing may be dispatched for this exchange now, however it came here."""
        view = exchange.model.view
        if self.stopping:
            return refusals.stopping()
        if self.meter.refusal:
            return self.unmetered()
        if view.suspend:
            return suspended(view)
        return standing(self.tenants, exchange.key, time.time()) if self.tenants.priced else None

    def _unpaid(self, exchange: Exchange) -> bool:
        """Whether a request was refused, or waits, for what it may cost. Asked whenever one could go: a
        tenant whose requests wait for an engine may have turned prepaid meanwhile."""
        return self.till is not None and exchange.draw is None and not self.till.admit(exchange)

    def _pick(self, model: ModelState, exchange: Exchange) -> ReplicaState | Wait:
        if self.loop.time() < model.suspected_until:
            now = self.loop.time()
            sound = [r for r in model.replicas.values() if r.suspect_until <= now]
            chosen = least_load(sound, model.view.max_concurrency, exchange.failed)
            if isinstance(chosen, ReplicaState) or chosen.reason == "all_busy":
                return chosen
        return least_load(model.replicas.values(), model.view.max_concurrency, exchange.failed)

    def _hold(self, exchange: Exchange, *, front: bool) -> None:
        view = exchange.model.view
        seconds = view.hold_seconds if exchange.request.stream else view.non_stream_hold_seconds
        failure = view.failure
        known = failure.start_id if failure is not None and failure.final else ""
        if exchange.ticket is not None:  # it waited before: what it knew then goes on
            known = exchange.ticket.known_failure
        ticket = Ticket(
            exchange, exchange.key.tenant, exchange.since, exchange.since + seconds, known
        )
        queue = exchange.model.queue
        full = queue.push(ticket, view.max_held, TENANT_SHARE, front=front)
        if full is not None and (victim := queue.displace(ticket.tenant)) is not None:
            victim.item.refuse(refusals.too_many(full))
            full = queue.push(ticket, view.max_held, TENANT_SHARE, front=front)
        if full is not None:
            exchange.refuse(refusals.too_many(full))
            return
        exchange.ticket = ticket
        if len(exchange.model.queue) == 1:
            self.news.set()

    def unhold(self, exchange: Exchange) -> None:
        """Take an exchange out of its queue, if it waits."""
        if exchange.ticket is not None:
            exchange.model.queue.remove(exchange.ticket)

    def freed(self, model: ModelState) -> None:
        """A place became free: the next in line goes (after this step, never inside it)."""
        if model.queue:
            self.loop.call_soon(self.drain_queue, model)

    def drain_queue(self, model: ModelState) -> None:
        """Dispatch held requests while a replica can take them."""
        if self.tenants.priced and not model.price_version:
            return
        skipped: list[Ticket[Exchange]] = []
        while (ticket := model.queue.pop()) is not None:
            exchange = ticket.item
            refusal = self._closed(exchange)
            if refusal is not None:
                exchange.refuse(refusal)
                continue
            if self._unpaid(exchange):
                continue
            chosen = self._pick(model, exchange)
            if isinstance(chosen, ReplicaState):
                exchange.dispatch(chosen)
                continue
            skipped.append(ticket)
            if chosen.reason != "all_failed":
                break
        for ticket in reversed(skipped):  # a turn that led to nothing is not a turn
            model.queue.put_back(ticket)

    def suspect(self, model: ModelState, replica: ReplicaState | None, reason: str) -> None:
        """A replica failed a request: while others can serve, nobody else shall try it at once."""
        if replica is None:
            return
        log.warning("attempt_failed", replica=replica.id, reason=reason)
        until = self.loop.time() + SUSPECT_SECONDS
        replica.suspect_until = max(replica.suspect_until, until)
        model.suspected_until = max(model.suspected_until, until)

    # The world

    def apply(self, world: WorldLine) -> None:
        """Take a new picture of models and replicas."""
        roster.replace(self, world)

    def change(
        self, views: Mapping[str, ModelView | None], replicas: Mapping[str, list[Replica]]
    ) -> None:
        """Take what is new: views by deployment (None: it is gone), and all replicas of each
        deployment that has other ones now."""
        roster.change(self, views, replicas)

    def repriced(self) -> None:
        """Prices changed: what waited for one may go."""
        for deployment, model in self.models.items():
            model.price_version = self.tenants.prices.get(deployment, 0)
            self.drain_queue(model)

    def answered(self, model: ModelState) -> None:
        """A replica answered its readiness request."""
        self.drain_queue(model)
        self.news.set()

    def first_forward(self, replica: ReplicaState) -> None:
        """The first held request goes to a replica: the end of a cold start."""
        replica.first_forward = time.time()
        self.news.set()

    def demand(self) -> DemandLine:
        """What this router tells the operator now. Quiet models and replicas are left out."""
        wall, mono = time.time(), self.loop.time()
        models = []
        for model in self.models.values():
            now = model.demand(wall, mono)
            if now.in_flight or now.held or now != model.told:
                models.append(now)
                model.told = now
        known = (r for m in self.models.values() for r in m.replicas.values())
        replicas = [one.demand() for one in known if not one.quiet(wall)]
        return DemandLine(router=self.name, at=wall, models=models, replicas=replicas)

    # Time and ends

    def sweep(self) -> None:
        """Once a second: deadlines, heartbeats, silence."""
        now = self.loop.time()
        for front in list(self.fronts):
            front.sweep(now)
        self.stalls.sweep(list(self.live), now)
        for model in self.models.values():
            self.stalls.readmit(model.replicas.values(), now)
            if model.queue:
                self._sweep_queue(model, now)
        if self.till is not None:
            self.till.sweep()
        self.meter.sweep(time.time())

    def _sweep_queue(self, model: ModelState, now: float) -> None:
        for ticket in model.queue.expire(now):
            priced = bool(model.price_version) or not self.tenants.priced
            ticket.item.refuse(refusals.not_ready(model.view, now - ticket.since, priced=priced))
        every = model.view.heartbeat_seconds
        for ticket in model.queue:
            exchange = ticket.item
            exchange.failed.clear()  # after a second even the one that failed may be asked again
            if exchange.request.stream and now - exchange.heard_at >= every:
                exchange.heard_at = now
                exchange.heartbeat()
        roster.release(model)  # one that waits again may have missed the news
        self.drain_queue(model)

    def end(self) -> None:
        """Serve what is here, what waits and what still comes, each connection to its answer's end."""
        self.ending = True
        self.heard_at = self.loop.time()

    @property
    def leaving(self) -> bool:
        """Whether callers should go elsewhere next time: we end, or soon cannot meter them."""
        return self.ending or bool(self.meter.scarce)

    def quiet(self, seconds: float) -> bool:
        """Whether nothing is being served or received, and for so long nobody has come and no answer
        has ended: who gets one asks again on the same connection, not knowing that we leave."""
        asking = self.account is not None and bool(self.account.live)
        if self.live or asking or self.loop.time() - self.heard_at < seconds:
            return False
        return not any(front.receiving for front in self.fronts)

    def stop(self) -> None:
        """Refuse what waits and what comes; what runs goes on."""
        self.stopping = True
        refusal = refusals.stopping()
        if self.till is not None:
            self.till.stop()
        for model in self.models.values():
            for ticket in list(model.queue):
                model.queue.remove(ticket)
                ticket.item.refuse(refusal)

    def unmetered(self) -> PlatformError:
        """Nothing is served that cannot be metered."""
        return refusals.unmetered(self.meter.refusal or "the usage journal cannot be written")

    def salt(self, key: KeyView, request: openai.Request) -> str:
        """The prefix cache's salt: the tenant's, with the caller's own mixed in."""
        if not self.tenants.priced:
            return ""
        return hashlib.sha256(f"{key.tenant}\0{request.cache_salt}".encode()).hexdigest()[:32]

    def refused(self, incoming: Incoming, refusal: Refusal) -> None:
        """Log why a request was refused (never what it said)."""
        log.info(
            "refused", request_id=incoming.request_id, status=refusal.status, code=refusal.code,
            path=incoming.path[:100], param=refusal.param,
        )  # fmt: skip

    def settled(self, exchange: Exchange, settled: Usage) -> None:
        """An attempt has ended; called in the step in which its journal has it."""
        if exchange.draw is not None and self.till is not None and settled.reason != "retry":
            self.till.settle(exchange.draw, settled)
        if not settled.billed:
            return
        self.tokens[settled.model, "prompt"] += settled.prompt_tokens
        self.tokens[settled.model, "completion"] += settled.completion_tokens

    def ended(self, exchange: Exchange, status: int) -> None:
        """An exchange is over."""
        self.live.discard(exchange)
        if exchange.draw is not None and self.till is not None:
            self.till.release(exchange.draw)
        if self.ending:
            self.heard_at = self.loop.time()
        self.requests[exchange.model.view.name, status] += 1
