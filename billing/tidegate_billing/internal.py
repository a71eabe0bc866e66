"""Billing's side of the internal links (`links`): usage, snapshots, prices and counters."""

import msgspec
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tidegate_billing import adjust, counters, inquiry, pricebook, replicas
from tidegate_billing.ingest import Outcome, prepare
from tidegate_billing.lending import loans
from tidegate_billing.links import (
    EngineCounters,
    ModelPricing,
    SnapshotAck,
    UsageAck,
    UsageBatch,
)
from tidegate_billing.pricebook import Applied
from tidegate_billing.service import Service, log, now, rebalance
from tidegate_billing.usage import LARGEST
from tidegate_billing.web import ApiError, bad, body, guarded, only, reply

NAME_LENGTH = 200


def routes(service: Service) -> list[Route]:
    """The routes under `/internal`, for bearers of the internal token."""
    links = Links(service)
    token = service.internal_token
    return [
        Route("/internal/usage", guarded(token, links.usage), methods=["POST"]),
        Route("/internal/snapshot", guarded(token, links.snapshot), methods=["GET"]),
        Route("/internal/snapshot/ack", guarded(token, links.ack), methods=["POST"]),
        Route("/internal/models", guarded(token, links.models), methods=["PUT"]),
        Route("/internal/counters", guarded(token, links.counters), methods=["POST"]),
        *inquiry.routes(service),
        *loans.routes(service),
        *replicas.routes(service),
    ]


class Links:
    """One method a route."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def usage(self, request: Request) -> Response:
        """Keep a batch durably, then acknowledge it."""
        batch = await body(request, UsageBatch, nul=True)
        if not 1 <= len(batch.journal) <= NAME_LENGTH or "\0" in batch.journal:
            raise bad("journal", f"is not a name; allowed: 1 to {NAME_LENGTH} characters")
        if not 0 <= batch.first <= batch.last + 1 <= LARGEST:
            raise bad("first", "records must run from first to last, neither below 0")
        loans.check(batch.leases)
        held = request.headers.get("x-journal-unacked", "0")
        unshipped = int(held) if held.isascii() and held.isdigit() and len(held) < 16 else 0
        outcome = await self._service.intake.keep(prepare(batch, unshipped))
        self._report(batch, outcome)
        self._service.lender.active(outcome.tenants)
        refused = [*outcome.conflicts, *outcome.malformed]
        return reply(UsageAck(acked=outcome.acked, conflicts=refused, leases=outcome.kept))

    def _report(self, batch: UsageBatch, outcome: Outcome) -> None:
        metrics = self._service.metrics
        metrics.events += outcome.added
        metrics.replays += outcome.replayed
        metrics.conflicts += len(outcome.conflicts)
        metrics.malformed += len(outcome.malformed)
        metrics.parked += len(outcome.parked)
        named = {"journal": batch.journal, "first": batch.first, "last": batch.last}
        if outcome.gap:
            metrics.gaps += 1
            log.error("journal_gap", alarm=True, missing=outcome.gap, **named)
        for event_id in outcome.conflicts:
            log.error("ledger_conflict", alarm=True, event_id=event_id, **named)
        for event_id in outcome.malformed:
            log.error("ledger_malformed_event", alarm=True, event_id=event_id[:100], **named)
        if outcome.parked:
            log.error(
                "ledger_unpriced",
                alarm=True,
                events=len(outcome.parked),
                first_id=outcome.parked[0],
            )

    async def snapshot(self, request: Request) -> Response:
        """Stream the picture and its changes to one router."""
        only(request, {"router"})
        router = request.query_params.get("router", "")
        if not 1 <= len(router) <= NAME_LENGTH:
            raise bad("router", f"is not a name; allowed: 1 to {NAME_LENGTH} characters")
        return StreamingResponse(
            self._service.snapshots.stream(router), media_type="application/x-ndjson"
        )

    async def ack(self, request: Request) -> Response:
        """Hear how far a router got."""
        said = await body(request, SnapshotAck)
        if not self._service.snapshots.ack(said.router, said.version):
            raise ApiError(
                404,
                "router_not_connected",
                f"router {said.router!r} has no snapshot stream",
                "router",
            )
        return Response(status_code=204)

    async def models(self, request: Request) -> Response:
        """Take the operator's whole list of models; version what changed, tell the routers."""
        models = await body(request, list[ModelPricing])
        names = [model.deployment for model in models]
        if len(set(names)) != len(names):
            raise bad("deployment", "a deployment is listed twice; allowed: once")

        def transaction(connection: Connection) -> tuple[Applied, int]:
            at = now()
            applied = pricebook.apply(connection, models, at)
            changed = [view.deployment for view in applied.changed if view.version]
            return applied, adjust.release(connection, at, changed) if changed else 0

        applied, released = await self._service.database.write(transaction)
        if released:
            log.info("ledger_released", events=released)
        self._service.lender.repriced()
        if applied.changed or applied.tenants:
            self._service.snapshots.change(prices=applied.changed, tenants=applied.tenants)
        await self._service.lender.tell()
        return reply(applied.answers)

    async def counters(self, request: Request) -> Response:
        """Keep engines' counters, and balance the epochs that have ended."""
        reports = await body(request, list[EngineCounters])
        await self._service.database.write(lambda connection: counters.upsert(connection, reports))
        ended = [report.epoch for report in reports if report.state != "live"]
        for one in await rebalance(self._service, ended):
            if one.unexplained:
                log.warning("conservation_drift", **msgspec.to_builtins(one._asdict()))
        return Response(status_code=204)
