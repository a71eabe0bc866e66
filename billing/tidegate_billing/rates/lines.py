"""From a month's quantities to an invoice: the only place where a rate's money is rounded.

A line is one tier of one meter under one version of a rate. `exact` is not rounded, and over a
total the exact amounts add up to what its events cost. `rounded` is, once; the invoice's total is
the sum of the rounded lines, so that what is printed adds up.

One Total per counter: what was counted together (`before` of `pipeline.charge`) is one Total,
since tiers are not linear. Totals of the same rate and version are added up here.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from tidegate_billing import money
from tidegate_billing.rates import commitment, meters
from tidegate_billing.rates.meters import METERS, NOTHING, TOKENS, Meter, Quantities
from tidegate_billing.rates.part import Part
from tidegate_billing.rates.pipeline import Rate

COMMITMENT: Final = "commitment"


class Total(NamedTuple):
    """What a tenant used in a month under one version of a rate."""

    version: int
    rate: Rate
    quantities: Quantities


class Line(NamedTuple):
    """One line. `meter` None: the commitment's. Amounts are atto."""

    model: str
    adapter: str
    service: str
    version: int
    meter: Meter | None
    part: Part
    exact: int
    rounded: int

    @property
    def kind(self) -> str:
        """What the line is of."""
        return COMMITMENT if self.meter is None else self.meter.name


class Bill(NamedTuple):
    """A tenant's month in one currency."""

    currency: str
    lines: tuple[Line, ...]
    total: int


def bill(totals: Iterable[Total], currency: str, minimum: int = 0) -> Bill:
    """The invoice over all totals in `currency`, filled up to the committed `minimum`.

    Steps 6 to 8 of the pipeline. Raises ValueError where a total has a quantity without a price:
    such usage is parked and on no invoice.
    """
    lines = [line for total in _merged(totals, currency) for line in _lines(total)]
    billed = sum(line.rounded for line in lines)
    missing = commitment.top_up(minimum, billed)
    if missing:
        part = Part(0, 1, missing)
        lines.append(Line("", "", "", 0, None, part, missing, missing))
    return Bill(currency, tuple(lines), billed + missing)


def _merged(totals: Iterable[Total], currency: str) -> list[Total]:
    found: dict[tuple[str, str, str, int], Total] = {}
    for total in totals:
        rate = total.rate
        if rate.currency != currency:
            continue
        key = (rate.model, rate.adapter, rate.service, total.version)
        seen = found.get(key)
        if seen is not None and seen.rate != rate:
            raise ValueError(f"version {total.version} of {rate.model} has two rates")
        quantities = meters.summed(NOTHING if seen is None else seen.quantities, total.quantities)
        found[key] = Total(total.version, rate, quantities)
    return [found[key] for key in sorted(found)]


def _lines(total: Total) -> Iterable[Line]:
    version, rate, quantities = total
    for place in rate.holes:
        if quantities[place]:
            raise ValueError(f"{METERS[place].name} of {rate.model} has no price")
    for meter, price, quantity in zip(METERS, rate.prices, quantities, strict=True):
        for part in () if price is None else price.parts(quantity):
            yield Line(
                rate.model,
                rate.adapter,
                rate.service,
                version,
                meter,
                part,
                part.amount,
                money.rounded(part.amount, rate.currency),
            )


def as_json(bill: Bill) -> dict[str, object]:
    """The bill as an answer has it; money is decimal strings.

    `quantity` is what was counted, `units` the same in units: 1,500 ms are 1.5 seconds.
    """
    return {
        "currency": bill.currency,
        "lines": [_line_json(line, bill.currency) for line in bill.lines],
        "total": money.printed(bill.total, bill.currency),
    }


def _line_json(line: Line, currency: str) -> dict[str, object]:
    shown: dict[str, object] = {
        "model": line.model,
        "adapter": line.adapter,
        "service_tier": line.service,
        "price_version": line.version,
        "kind": line.kind,
        **_priced(line),
        "amount_exact": money.plain(line.exact),
        "amount": money.printed(line.rounded, currency),
    }
    return shown


def _priced(line: Line) -> dict[str, object]:
    meter, part = line.meter, line.part
    if meter is None:
        return {}
    shown: dict[str, object] = {
        "quantity": part.quantity,
        "units": _in_units(part.quantity, meter),
        "unit": meter.unit,
        "tier": part.tier,
        "free": part.free,
        "fee": money.plain(part.fee),
    }
    if part.size > 1:
        shown["unit_price"] = money.plain(part.price)
        shown["unit_price_per"] = f"{_in_units(part.size, meter)} {meter.unit}s, begun"
        shown["packages"] = part.blocks
        return shown
    shown["unit_price"] = money.plain(part.price * meter.shift)
    shown["unit_price_per"] = meter.spoken
    if meter.per == TOKENS:
        shown["unit_price_per_million"] = shown["unit_price"]
    return shown


def _in_units(counted: int, meter: Meter) -> str:
    """A quantity in the meter's unit, exactly."""
    return money.plain(counted * (money.ATTO // meter.counted))
