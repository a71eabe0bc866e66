"""What the management API answers about usage and money, for the OpenAPI document.

These say which fields are there and what they are; the ledger's own modules fill them. Money is
decimal strings, days are UTC, times are microseconds since the epoch.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

Money = Annotated[str, Meta(extra_json_schema={"pattern": r"^-?[0-9]+(\.[0-9]+)?$"})]


class UsageRow(msgspec.Struct):
    """Billed usage of one group; what was not grouped by is null."""

    model: str | None
    key_id: str | None
    day: str | None
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    amount_exact: Money
    currency: str


class UsageAnswer(msgspec.Struct):
    """`unshipped`: records that routers still hold; `parked`: events that wait for a price."""

    data: list[UsageRow]
    unshipped: int
    parked: int


class InvoiceLine(msgspec.Struct, kw_only=True):
    """One tier of one meter under one version of a rate. `quantity` is what was counted, `units` the
    same in units; a package has `packages`, a price per million is there where tokens are sold so.
    A line of kind `commitment` has only its amounts."""

    model: str
    adapter: str
    service_tier: str
    price_version: int
    kind: str
    quantity: int = 0
    units: Money = ""
    unit: str = ""
    tier: int = 0
    free: bool = False
    fee: Money = ""
    unit_price: Money = ""
    unit_price_per: str = ""
    unit_price_per_million: Money = ""
    packages: int = 0
    amount_exact: Money
    amount: Money


class InvoiceAnswer(msgspec.Struct):
    """A tenant's invoice for a month."""

    tenant: str
    period: str
    currency: str
    lines: list[InvoiceLine]
    total: Money


class EventRow(msgspec.Struct):
    """One event of the ledger; `amount_exact` null: it has no price yet, or is not billed."""

    event_id: str
    attempt_id: str
    request_id: str
    kind: str
    tenant: str
    project: str
    key_id: str
    model: str
    adapter: str
    billed: bool
    reason: str
    source: str
    outcome: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    amount_exact: Money | None
    currency: str | None
    started_at: int
    finished_at: int


class BalanceRow(msgspec.Struct):
    """One engine epoch against the ledger, in completion tokens."""

    model: str
    epoch: str
    generated: int
    billed: int
    unbilled: dict[str, int]
    unverified: int
    unexplained: int
