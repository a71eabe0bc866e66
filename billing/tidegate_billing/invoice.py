"""From rated quantities to an invoice: the only place where money is rounded.

Each line is one model, one kind of token and one unit price. `amount_exact` is unrounded;
`amount` is rounded once, half to even, to the currency's smallest unit; the total is the sum of
the rounded lines, so that what is printed adds up.
"""

from collections.abc import Iterable
from decimal import ROUND_HALF_EVEN, Decimal
from typing import NamedTuple

from tidegate_billing import price
from tidegate_billing.price import EXACT, Price, Quantities

NO_MINOR = frozenset(
    "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF".split()  # noqa: SIM905 - a list of codes reads as one line
)
THREE_MINOR = frozenset(["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"])


class Rated(NamedTuple):
    """What a tenant used of one model under one price."""

    model: str
    price: Price
    quantities: Quantities


class Line(NamedTuple):
    """One line of an invoice; `kind` is input, cached_input or output."""

    model: str
    kind: str
    quantity: int
    unit_price: Decimal
    exact: Decimal
    rounded: Decimal


class Invoice(NamedTuple):
    """A tenant's month in one currency."""

    tenant: str
    period: str
    currency: str
    lines: tuple[Line, ...]
    total: Decimal


def exponent(currency: str) -> int:
    """How many decimals a currency's smallest unit has (ISO 4217)."""
    if currency in NO_MINOR:
        return 0
    return 3 if currency in THREE_MINOR else 2


def rounded(value: Decimal, currency: str) -> Decimal:
    """A value in whole smallest units of its currency, half to even."""
    return value.quantize(Decimal(1).scaleb(-exponent(currency)), rounding=ROUND_HALF_EVEN)


def build(tenant: str, period: str, currency: str, usage: Iterable[Rated]) -> Invoice:
    """The invoice over all usage that is rated in `currency`."""
    quantities: dict[tuple[str, str, Decimal], int] = {}
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
    total = Decimal(0).scaleb(-exponent(currency))
    for line in lines:
        total = EXACT.add(total, line.rounded)
    return Invoice(tenant, period, currency, lines, total)


def _kinds(rated: Rated) -> list[tuple[str, int, Decimal]]:
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


def _line(model: str, kind: str, quantity: int, unit: Decimal, currency: str) -> Line:
    exact = price.product(quantity, unit)
    return Line(model, kind, quantity, unit, exact, rounded(exact, currency))


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
                "unit_price_per_million": price.plain(line.unit_price),
                "amount_exact": price.plain(line.exact),
                "amount": format(line.rounded, "f"),
            }
            for line in invoice.lines
        ],
        "total": format(invoice.total, "f"),
    }
