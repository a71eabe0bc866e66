"""What events cost: each finds its tariff by its own time, and adds to its month where tiers count.

A flat price is quantity times price. With tiers, packages or an allowance an event costs what it
adds to the month so far, and that is a running count: `counter`, by tenant, month and rate. There
is one writer, so nobody counts beside us.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec
from sqlalchemy import Connection, insert, select, update

from tidegate_billing import money, pricebook, tariff
from tidegate_billing.entry import Rating, used
from tidegate_billing.pricebook import Version
from tidegate_billing.rates import meters, pipeline
from tidegate_billing.rates.meters import NOTHING, Quantities
from tidegate_billing.tables import COUNTER
from tidegate_billing.tariff import Tariff, Tariffs
from tidegate_billing.usage import Usage, day_of

LARGEST_NANO = 10**15
"""A single event that costs a million units has a wrong price: it is parked, not billed."""
Key = tuple[str, str, int]


@dataclass
class Counts:
    """The months' running counts that a transaction has looked at, by tenant, month and rate."""

    now: dict[Key, Quantities] = field(default_factory=dict)
    new: set[Key] = field(default_factory=set)
    changed: set[Key] = field(default_factory=set)

    def get(self, connection: Connection, key: Key) -> Quantities:
        """What was counted so far."""
        known = self.now.get(key)
        if known is None:
            tenant, month, version = key
            row = connection.execute(
                select(COUNTER.c.quantities).where(
                    COUNTER.c.tenant == tenant,
                    COUNTER.c.month == month,
                    COUNTER.c.version == version,
                )
            ).scalar()
            if row is None:
                self.new.add(key)
            known = NOTHING if row is None else msgspec.json.decode(row, type=Quantities)
            self.now[key] = known
        return known

    def put(self, key: Key, quantities: Quantities) -> None:
        """Count on."""
        self.now[key] = quantities
        self.changed.add(key)

    def write(self, connection: Connection) -> None:
        """Keep what has changed."""
        for tenant, month, version in sorted(self.changed):
            text = msgspec.json.encode(self.now[tenant, month, version]).decode()
            if (tenant, month, version) in self.new:
                connection.execute(
                    insert(COUNTER).values(
                        tenant=tenant, month=month, version=version, quantities=text
                    )
                )
            else:
                connection.execute(
                    update(COUNTER)
                    .where(
                        COUNTER.c.tenant == tenant,
                        COUNTER.c.month == month,
                        COUNTER.c.version == version,
                    )
                    .values(quantities=text)
                )


def rate(
    connection: Connection, events: Sequence[tuple[Usage, int]], known: Tariffs
) -> list[Rating | None]:
    """What each event (of a time in milliseconds) costs; None: not billed, or its price isn't known."""
    counts = Counts()
    found = [
        None if one is None else charge(connection, event, at, one, counts)
        for (event, at), one in zip(events, find(connection, events, known), strict=True)
    ]
    counts.write(connection)
    return found


def find(
    connection: Connection, events: Sequence[tuple[Usage, int]], known: Tariffs
) -> list[Tariff | None]:
    """The tariff of each event."""
    tariff.refresh(connection, known)
    billed = [event for event, _ in events if event.billed]
    named = {event.price_version for event in billed if event.price_version}
    known.priced.update(pricebook.versions(connection, named - known.priced.keys()))
    unnamed = {event.deployment for event in billed if not event.price_version}
    history = pricebook.history(connection, unnamed)
    return [
        tariff.find(connection, event, at, _base(event, at, known.priced, history), known)
        if event.billed
        else None
        for event, at in events
    ]


def _base(
    event: Usage, at: int, named: dict[int, Version], history: dict[str, list[Version]]
) -> Version | None:
    """The price an event was promised, else the one in force when its attempt began."""
    if event.price_version:
        version = named.get(event.price_version)
        right = version is not None and version.deployment == event.deployment
        return version if right else None
    return pricebook.in_force(history.get(event.deployment, ()), at * 1000)


def charge(
    connection: Connection, event: Usage, at: int, one: Tariff, counts: Counts
) -> Rating | None:
    """What an event costs by its tariff, and counted; None: no price can be right."""
    quantities = pipeline.quantities(one.rate, used(event))
    if one.rate.linear is not None:
        return _rating(one, quantities, pipeline.charge(one.rate, quantities))
    key = (event.tenant, day_of(at)[:7], one.version)
    before = counts.get(connection, key)
    found = _rating(one, quantities, pipeline.charge(one.rate, quantities, before))
    if found is not None:
        counts.put(key, meters.summed(before, quantities))
    return found


def take_off(
    connection: Connection, event: Usage, at: int, was: Rating, one: Tariff, counts: Counts
) -> Rating:
    """What the bill loses with an event that was rated by `one`.

    Under tiers that is what the last units cost now, not what the event once added: only so is the
    rest of the month still worth its total.
    """
    if one.rate.linear is not None:
        return was
    quantities = pipeline.quantities(one.rate, used(event))
    key = (event.tenant, day_of(at)[:7], one.version)
    total = counts.get(connection, key)
    left = Quantities(*(a - b for a, b in zip(total, quantities, strict=True)))
    lost = pipeline.charge(one.rate, quantities, left)
    assert lost is not None  # it was rated by this
    counts.put(key, left)
    nano, rest = money.halves(lost)
    return was._replace(amount_nano=nano, amount_atto=rest)


def _rating(one: Tariff, quantities: Quantities, cost: int | None) -> Rating | None:
    if cost is None:
        return None
    nano, rest = money.halves(cost)
    if abs(nano) >= LARGEST_NANO:
        return None
    currency = one.rate.currency
    return Rating(one.version, quantities.cached_input, quantities.reasoning, nano, rest, currency)


def tariffs_of(
    connection: Connection, ratings: Iterable[tuple[Rating, Usage]]
) -> dict[int, Tariff]:
    """The tariffs that events were rated by, by their numbers."""
    return tariff.tariffs(
        connection, {(rating.rated_version, event.model) for rating, event in ratings}
    )
