"""From rated quantities to an invoice: the only place where money is rounded.

Each line is one model, one kind of token and one unit price. `amount_exact` is unrounded;
`amount` is rounded once, half to even, to the currency's smallest unit; the total is the sum of
the rounded lines, so that what is printed adds up.
"""

from collections.abc import Iterable
from typing import NamedTuple

from tidegate_billing import money, price
from tidegate_billing.price import Price, Quantities


class Rated(NamedTuple):
    """What a tenant used of one model under one price."""

    model: str
    price: Price
    quantities: Quantities


class Line(NamedTuple):
    """One line of an invoice; `kind` is input, cached_input or output. Money is in atto."""

    model: str
    kind: str
    quantity: int
    unit_price: int
    exact: int
    rounded: int


class Invoice(NamedTuple):
    """A tenant's month in one currency."""

    tenant: str
    period: str
    currency: str
    lines: tuple[Line, ...]
    total: int


def build(tenant: str, period: str, currency: str, usage: Iterable[Rated]) -> Invoice:
    """The invoice over all usage that is rated in `currency`."""
    quantities: dict[tuple[str, str, int], int] = {}
    for rated in usage:
        if rated.price.currency != currency:
            continue
        for kind, quantity, unit in _kinds(rated):
            key = (rated.model, kind, unit)
            quantities[key] = quantities.get(key, 0) + quantity
    order = {"input": 0, "cached_input": 1, "output": 2}
    lines = tuple(
        _line(model, kind, quantity, unit, currency)
        for (model, kind, unit), quantity in sorted(
            quantities.items(), key=lambda item: (item[0][0], order[item[0][1]], item[0][2])
        )
        if quantity
    )
    total = sum(line.rounded for line in lines)
    return Invoice(tenant, period, currency, lines, total)


def _kinds(rated: Rated) -> list[tuple[str, int, int]]:
    cached = rated.price.cached_input
    return [
        ("input", rated.quantities.input, rated.price.input),
        (
            "cached_input",
            rated.quantities.cached_input,
            rated.price.input if cached is None else cached,
        ),
        ("output", rated.quantities.output, rated.price.output),
    ]


def _line(model: str, kind: str, quantity: int, unit: int, currency: str) -> Line:
    exact = quantity * unit
    return Line(model, kind, quantity, unit, exact, money.rounded(exact, currency))


def as_json(invoice: Invoice) -> dict[str, object]:
    """The shape of `GET /api/v1/invoices/{month}`; money as decimal strings."""
    return {
        "tenant": invoice.tenant,
        "period": invoice.period,
        "currency": invoice.currency,
        "lines": [
            {
                "model": line.model,
                "kind": line.kind,
                "quantity": line.quantity,
                "unit_price_per_million": price.per_million(line.unit_price),
                "amount_exact": money.plain(line.exact),
                "amount": money.printed(line.rounded, invoice.currency),
            }
            for line in invoice.lines
        ],
        "total": money.printed(invoice.total, invoice.currency),
    }
