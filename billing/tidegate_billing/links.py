"""What travels over billing's links, as JSON: usage in, snapshots out, prices and counters in.

router -> billing   POST /internal/usage       UsageBatch -> UsageAck
router -> billing   POST /internal/inquiry     TenantInquiry -> what the tenant sees, or its error
router <- billing   GET  /internal/snapshot    NDJSON: one SnapshotLine, then one per change
router -> billing   POST /internal/snapshot/ack SnapshotAck (how far a router has got)
router -> billing   POST /internal/leases/*   see `lending.said`
operator -> billing PUT  /internal/models      ModelPricing list -> PricedModel list
operator -> billing POST /internal/counters    EngineCounters list
billing -> operator GET  /internal/counters    EngineCounters list, read from live engines now
operator -> billing GET  /internal/managed     Managed list: what resources hold
operator -> billing PUT, DELETE /internal/price-books/{name}   a book's document -> WrittenBook
operator -> billing PUT, DELETE /internal/tenants/{name}       DesiredTenant -> SettledTenant

Every request carries `Authorization: Bearer <internal token>`.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tidegate_billing.lending.said import LeaseKept, LeaseWord, PotView, RateView
from tidegate_billing.usage import Usage
from tidegate_billing.who.scopes import Limits


class UsageBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Records `first`..`last` of one journal, in order. Records a router need not tell
    (an attempt whose settlement is in the same batch) are left out of `events`."""

    journal: str
    first: int
    last: int
    events: list[Usage]
    leases: LeaseWord | None = None


class UsageAck(msgspec.Struct, frozen=True, kw_only=True):
    """Records up to `acked` are durable. `conflicts`: event ids refused for other content."""

    acked: int
    conflicts: list[str] = []
    leases: LeaseKept | None = None


class TenantInquiry(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant asks of its own usage: a GET of the gateway, and whose key it came with."""

    tenant: str
    path: str
    query: str = ""


class KeyView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A live key as routers know it: `digest` is hex HMAC-SHA-256 under pepper `pepper_version`.

    Fields since the second release have defaults, so that routers and billing of both releases
    understand each other. `expires_at` is microseconds, null: never. `models` (names and globs) and
    `routes` null: all."""

    id: str
    digest: str
    tenant: str
    project: str
    pepper_version: int = 1
    expires_at: int | None = None
    models: tuple[str, ...] | None = None
    routes: tuple[str, ...] | None = None
    limits: Limits | None = None


class PriceView(msgspec.Struct, frozen=True, kw_only=True):
    """The price version now in force for a deployment (`namespace/name`)."""

    deployment: str
    version: int


class SnapshotLine(msgspec.Struct, frozen=True, kw_only=True):
    """`snapshot`: everything, replacing what was known. `change`: upserts and removals.
    `beat`: nothing new, the picture is current (every 5 s). `suspended`: tenants whose keys are
    refused, in a change those that are so now; `resumed`: those that are so no more. `recall`: give
    back what is unused of these pots, now; it changes nothing in the picture."""

    type: Literal["snapshot", "change", "beat", "recall"]
    version: int
    keys: list[KeyView] = []
    removed_keys: list[str] = []
    prices: list[PriceView] = []
    tenants: list[str] = []
    suspended: list[str] = []
    resumed: list[str] = []
    pots: list[PotView] = []
    removed_pots: list[str] = []
    rates: list[RateView] = []
    recall: list[str] = []


class SnapshotAck(msgspec.Struct, frozen=True, kw_only=True):
    """Router `router` has applied the snapshot up to `version`."""

    router: str
    version: int


class Pricing(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Prices per million tokens, as decimal strings, in the resource's spelling."""

    currency: str = "USD"
    input_per_million: str = "0"
    output_per_million: str = "0"
    cached_input_per_million: str | None = None


class ModelPricing(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment's owner and prices. `pricing` None: the resource names no price."""

    deployment: str
    model: str
    owner: str
    pricing: Pricing | None = None
    adapters: list[str] = []


class PricedModel(msgspec.Struct, frozen=True, kw_only=True):
    """Billing's answer, which becomes the condition `Priced`."""

    deployment: str
    priced: bool
    price_version: int = 0
    reason: str = ""


class EngineCounters(msgspec.Struct, frozen=True, kw_only=True):
    """Token counters of one engine epoch (replica id: pod UID and restart).

    `state`: live (read just now), final (drained, read before the stop), lost (died unread: the
    counters are the last ones read, `verified` false). `attempts`: completion tokens generated per
    attempt id, where the engine's truth tells it (sim); `in_flight`: requests it was serving.
    """

    model: str
    deployment: str
    epoch: str
    prompt: int
    generated: int
    state: Literal["live", "final", "lost"]
    verified: bool = True
    in_flight: int = 0
    attempts: dict[str, int] = {}


class Managed(msgspec.Struct, frozen=True):
    """Something that a resource holds, and that ends with it."""

    kind: Literal["price-book", "tenant"]
    name: str


class WrittenBook(msgspec.Struct, frozen=True, kw_only=True):
    """The version that a resource's document is, and from when it holds."""

    number: int
    effective_from: str


class DesiredKey(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """A key that there should be. `delivered`: the id of the key that its Secret holds, as read just
    now (empty: none). `deliverable`: a new one could be written there."""

    name: str
    project: str = "default"
    models: list[str] | None = None
    routes: list[str] | None = None
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None
    rotation: int = 0
    overlap_seconds: int = 3600
    delivered: str = ""
    deliverable: bool = True


class DesiredTenant(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """All that a resource says of a tenant. `organization`, `suspended` and `plan` null: as they are."""

    display_name: str = ""
    time_zone: str = "UTC"
    organization: str | None = None
    suspended: bool | None = None
    plan: Literal["postpaid", "prepaid"] | None = None
    contract: dict[str, Any] | None = None
    projects: list[str] = []
    keys: list[DesiredKey] = []


class SettledKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The key that an entry has now; no id: none. `key`: itself, where this call has made it."""

    name: str
    id: str = ""
    prefix: str = ""
    key: str = ""


class SettledTenant(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant as it is now."""

    suspended: bool
    keys: list[SettledKey] = []
