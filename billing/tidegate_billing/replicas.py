"""Replicas' time in: a replica's life comes in stretches, each is kept once, and its owner pays.

The operator tells a life from its begin to its end, and may tell a part again: after a lost answer,
or since it has been started anew and does not know how far another one got. So a life has one mark,
up to which it is in the ledger. What begins before the mark is passed over, whatever is said of
it, and the answer says where to go on. The mark moves in the transaction that keeps the event, and
the event's id is made of the replica and its stretch's begin: there is no way to count it twice.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, insert, select, update
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidegate_billing import accounts, ingest
from tidegate_billing.ingest import Memory, Sorted
from tidegate_billing.links import ReplicaCounted, ReplicaTime, UsageBatch
from tidegate_billing.service import Service, log, now
from tidegate_billing.tables import REPLICA_LIFE
from tidegate_billing.usage import LARGEST, Usage
from tidegate_billing.web import bad, body, guarded, reply

SOURCE: Final = "operator"
"""Stands for a journal where an event has to be set aside."""
LONGEST_MS: Final = 3_600_000
"""A stretch has one time in the ledger, its begin: a longer one would lie in the wrong day."""
NAME_LENGTH: Final = 400
"""Of each: a resource may have 253 characters, its namespace 63, and a replica is named like it."""
PROJECT: Final = "default"
"""Nobody's key asked for a replica: its time is in the owner's first project."""


def routes(service: Service) -> list[Route]:
    """The route, for bearers of the internal token."""

    async def tell(request: Request) -> Response:
        reports = await body(request, list[ReplicaTime])
        for report in reports:
            wrong = problem(report)
            if wrong is not None:
                raise bad("replicas", wrong)
        counted, batch = await service.database.write(
            lambda connection: keep(connection, reports, now())
        )
        metrics = service.metrics
        metrics.events += len(batch.fresh)
        for event in (*batch.conflicts, *(event for event, _ in batch.malformed)):
            log.error("replica_time_refused", alarm=True, event_id=event.event_id)
        return reply(counted)

    return [Route("/internal/replicas", guarded(service.internal_token, tell), methods=["POST"])]


def problem(report: ReplicaTime) -> str | None:
    """Why a stretch can't be one, or None."""
    phases = (report.cold_start, report.serving, report.idle_tail)
    if not 0 <= report.begin < report.end <= min(report.begin + LONGEST_MS, LARGEST):
        return f"{report.begin} to {report.end} is no stretch; allowed: 1 to {LONGEST_MS} ms"
    if min(phases) < 0 or sum(phases) != report.end - report.begin:
        return f"the phases {phases} are not the {report.end - report.begin} ms that they are of"
    names = (report.deployment, report.epoch, report.model)
    if not all(names) or max(map(len, names)) > NAME_LENGTH or "\0" in "".join(names):
        return "deployment, epoch and model must be names of reasonable length"
    wrong = accounts.slug_error(report.owner)
    return None if wrong is None else f"owner {wrong}"


def keep(
    connection: Connection, reports: Sequence[ReplicaTime], now: int
) -> tuple[list[ReplicaCounted], Sorted]:
    """Keep what is new of some replicas' lives; how far each is counted, and what became of it."""
    marks: dict[tuple[str, str], int] = {}
    known: set[tuple[str, str]] = set()
    fresh = []
    for report in reports:
        key = (report.deployment, report.epoch)
        if key not in marks:
            until = _until(connection, *key)
            if until is not None:
                known.add(key)
            marks[key] = until or 0
        if report.begin >= marks[key]:
            fresh.append(event(report))
            marks[key] = report.end
    delivery = ingest.prepare(UsageBatch(journal=SOURCE, first=0, last=0, events=fresh))
    (batch,), _ = ingest.enter(connection, [delivery], Memory(), now)
    for key, until in marks.items():
        _mark(connection, key, until, known=key in known)
    counted = [
        ReplicaCounted(deployment=deployment, epoch=epoch, until=until)
        for (deployment, epoch), until in marks.items()
    ]
    return counted, batch


def event(report: ReplicaTime) -> Usage:
    """The event that a stretch is in the ledger."""
    return Usage(
        attempt_id=_id(report),
        kind="replica",
        request_id="",
        tenant=report.owner,
        project=PROJECT,
        key_id="",
        model=report.model,
        deployment=report.deployment,
        endpoint="",
        started_at=report.begin * 1000,
        finished_at=report.end * 1000,
        replica=report.epoch,
        outcome="completed",
        billed=True,
        cold_start_ms=report.cold_start,
        serving_ms=report.serving,
        idle_tail_ms=report.idle_tail,
    )


def _id(report: ReplicaTime) -> str:
    """A UUIDv7 of the stretch's begin whose other bits are of the replica: the same each time."""
    named = f"{report.deployment}\0{report.epoch}\0{report.begin}".encode()
    told = hashlib.sha256(named).hexdigest()
    at, variant = f"{report.begin:012x}", "89ab"[int(told[0], 16) % 4]
    return f"{at[:8]}-{at[8:]}-7{told[1:4]}-{variant}{told[4:7]}-{told[7:19]}"


def _until(connection: Connection, deployment: str, epoch: str) -> int | None:
    found = connection.execute(
        select(REPLICA_LIFE.c.until).where(
            REPLICA_LIFE.c.deployment == deployment, REPLICA_LIFE.c.epoch == epoch
        )
    ).scalar()
    return None if found is None else int(found)


def _mark(connection: Connection, key: tuple[str, str], until: int, *, known: bool) -> None:
    deployment, epoch = key
    if not known:
        values = {"deployment": deployment, "epoch": epoch, "until": until}
        connection.execute(insert(REPLICA_LIFE).values(**values))
        return
    connection.execute(
        update(REPLICA_LIFE)
        .where(REPLICA_LIFE.c.deployment == deployment, REPLICA_LIFE.c.epoch == epoch)
        .values(until=until)
    )
