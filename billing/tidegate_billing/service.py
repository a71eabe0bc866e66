"""What billing's routes work with, and the few steps that more than one of them takes."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
import structlog
from sqlalchemy import Connection

from tidegate_billing import accounts, counters, pricebook
from tidegate_billing.database import Database
from tidegate_billing.destinations import Policy
from tidegate_billing.intake import Intake
from tidegate_billing.lending.lender import Lender
from tidegate_billing.links import EngineCounters
from tidegate_billing.metrics import Metrics
from tidegate_billing.reconcile import Balance
from tidegate_billing.snapshot import Snapshots

LIVE_SECONDS = 2.0
"""How long the operator may take to read its running engines."""

EXPIRE_SECONDS = 60.0

log: structlog.stdlib.BoundLogger = structlog.get_logger("billing")


def now() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


@dataclass(frozen=True)
class Service:
    """Everything a route needs. `operator_url` empty: there is no operator to ask. `changing` is held
    from a change's transaction until the picture has it: else a key that was changed and then
    revoked could come to routers in the other order, and live on. `destinations`: where messages to
    tenants may go."""

    database: Database
    snapshots: Snapshots
    admin_token: str
    internal_token: str
    peppers: dict[int, bytes]
    operator_url: str = ""
    metrics: Metrics = field(default_factory=Metrics)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    destinations: Policy = field(default_factory=Policy)
    intake: Intake = field(init=False)
    lender: Lender = field(init=False)

    def __post_init__(self) -> None:
        """Usage and leases go into the same database."""
        object.__setattr__(self, "intake", Intake(self.database, now))
        object.__setattr__(self, "lender", Lender(self.database, self.snapshots, now))


async def load(service: Service) -> None:
    """Fill the picture for routers from the database."""

    def query(connection: Connection) -> None:
        live = accounts.live_views(connection, now())
        lost = [key.id for key in live if key.pepper_version not in service.peppers]
        if lost:
            log.error("keys_without_pepper", alarm=True, keys=len(lost), first=lost[0])
        service.snapshots.load(
            live,
            pricebook.views(connection, now()),
            accounts.all_tenants(connection),
            accounts.suspended_tenants(connection),
        )

    await service.database.read(query)
    await service.lender.tell()


async def expire_keys(service: Service) -> None:
    """Take expired keys out of the picture for ever, once in EXPIRE_SECONDS."""
    while True:
        await asyncio.sleep(EXPIRE_SECONDS)
        over = service.snapshots.expire(now())
        if over:
            log.info("keys_expired", keys=len(over), first=over[0])


async def live_counters(service: Service) -> list[EngineCounters]:
    """Counters of running engines; empty where the operator can't tell, which is logged."""
    if not service.operator_url:
        return []
    import httpx

    url = service.operator_url.rstrip("/") + "/internal/counters"
    headers = {"authorization": f"Bearer {service.internal_token}"}
    try:
        async with httpx.AsyncClient(timeout=LIVE_SECONDS, trust_env=False) as client:
            answer = await client.get(url, headers=headers)
            answer.raise_for_status()
            return msgspec.json.decode(answer.content, type=list[EngineCounters])
    except (httpx.HTTPError, httpx.InvalidURL, msgspec.MsgspecError, UnicodeDecodeError) as error:
        log.warning("live_counters_unread", error=type(error).__name__, detail=str(error)[:200])
        return []


async def conservation(service: Service) -> list[Balance]:
    """Every epoch balanced, running ones as they are now."""
    live = await live_counters(service)
    balances = await service.database.read(
        lambda connection: counters.conservation(connection, live)
    )
    service.metrics.balanced(balances)
    return balances


async def rebalance(service: Service, epochs: Iterable[str]) -> list[Balance]:
    """These epochs balanced from what is stored, for the drift metric."""
    chosen = set(epochs)
    if not chosen:
        return []
    balances = await service.database.read(
        lambda connection: counters.conservation(connection, [], chosen)
    )
    service.metrics.balanced(balances)
    return balances
