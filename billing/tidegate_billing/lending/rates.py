"""What routers take a request to cost at most, before anybody knows what it costs.

A router prices at admission, where neither the month's tiers nor the free allowance are known, so each meter goes
by its dearest unit. What it takes too much comes back with the usage itself (`leases.agree`).
Too little it may take in two places: a volume price that rises re-prices what was used before, and a price that
rises is known to routers a second later.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from tidegate_billing import money, pricebook, tariff
from tidegate_billing.lending.said import RateView
from tidegate_billing.rates import meters
from tidegate_billing.rates.allowance import Allowed, Price
from tidegate_billing.rates.flat import Flat
from tidegate_billing.rates.package import Package
from tidegate_billing.rates.pipeline import Rate
from tidegate_billing.tables import MODEL, PRICE, PRICE_DOCUMENT
from tidegate_billing.tariff import Tariffs


class Dearest(NamedTuple):
    """Atto: `unit` for one more of the counted, and `once` for a request that has any."""

    unit: int = 0
    once: int = 0


def dearest(price: Price | None) -> Dearest:
    """The most that a meter's price may come to."""
    if isinstance(price, Allowed):
        return dearest(price.then)
    if price is None:
        return Dearest()
    if isinstance(price, Flat):
        return Dearest(price.unit)
    if isinstance(price, Package):
        return Dearest(-(-price.price // price.size), price.price)
    return Dearest(max(tier.unit for tier in price.tiers), max(tier.fee for tier in price.tiers))


def view(rate: Rate, tenant: str, deployment: str) -> RateView:
    """A rate at its dearest, as routers have it."""
    found = [dearest(price) for price in rate.prices]
    request = found[meters.REQUEST]
    made = (meters.INPUT, meters.CACHED_INPUT, meters.OUTPUT, meters.REASONING)
    once = request.unit + request.once + sum(found[place].once for place in made)
    read = max(found[meters.INPUT].unit, found[meters.CACHED_INPUT].unit)
    written = max(found[meters.OUTPUT].unit, found[meters.REASONING].unit)
    return RateView(
        tenant=tenant,
        deployment=deployment,
        currency=rate.currency,
        input=money.plain(read),
        output=money.plain(written),
        request=money.plain(once),
    )


def views(
    connection: Connection, tenants: Iterable[str], known: Tariffs, now: int
) -> list[RateView]:
    """The rates of every model that is there: for all, and for each of `tenants` whose contract may
    make another one of it."""
    tariff.refresh(connection, known)
    models = connection.execute(
        select(MODEL.c.deployment, MODEL.c.model)
        .where(MODEL.c.present)
        .order_by(MODEL.c.deployment)
    ).all()
    named = ["", *sorted(set(tenants) & known.documents.contracts.keys())]
    history = pricebook.history(connection, [model.deployment for model in models])
    found = []
    for deployment, model in models:
        base = pricebook.in_force(history.get(deployment, ()), now)
        for tenant in named:
            rate = tariff.offered(known, tenant, deployment, model, base, now)
            if rate is not None:
                found.append(view(rate, tenant, deployment))
    return found


def state(connection: Connection, now: int) -> Sequence[int | None]:
    """What rates depend on: equal to what it was, and they are what they were."""
    # every tenant: only whether anything is new
    queries = (
        select(func.max(PRICE_DOCUMENT.c.number)),
        select(func.max(PRICE.c.version)),
        select(func.count()).where(MODEL.c.present),
        select(func.max(PRICE_DOCUMENT.c.effective_from)).where(
            PRICE_DOCUMENT.c.effective_from <= now
        ),
    )
    return [connection.execute(query).scalar() for query in queries]
