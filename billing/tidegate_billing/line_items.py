"""A rollup's amount by what it was paid for, pure: the line items of a tenant's costs.

Where every price is flat, an amount is quantities times prices and falls apart into them: `model,
input_tokens`. With tiers or an allowance what a day's tokens cost depends on the month before
them, and only the sum of all that a model was used for is exact: it is one line, `model, tiered`.
Whatever is left of an amount stays on a line too, so that lines always add up to it.
"""

from typing import Final, NamedTuple

from tidegate_billing.rates.meters import METERS, Meter, Quantities
from tidegate_billing.rates.pipeline import Rate

_UNITS: Final = {
    "token": "tokens",
    "second": "duration_seconds",
    "image": "images",
    "request": "requests",
}
TIERED: Final = "tiered"
REST: Final = "adjustments"


class Item(NamedTuple):
    """`amount` in atto. `counted` of the quantity are one `unit`; None: of several units."""

    name: str
    amount: int
    quantity: int = 0
    counted: int = 1
    unit: str | None = None


def split(model: str, rate: Rate, quantities: Quantities, amount: int) -> list[Item]:
    """The line items of `amount`, which `quantities` of `model` cost by `rate`."""
    if rate.linear is None:
        return [Item(f"{model}, {TIERED}", amount)]
    found = [
        Item(f"{model}, {_name(meter)}", unit * quantity, quantity, meter.counted, unit_of(meter))
        for meter, unit, quantity in zip(METERS, rate.linear, quantities, strict=True)
        if quantity and (unit or meter.unit == "token")
    ]
    rest = amount - sum(item.amount for item in found)
    return [*found, Item(f"{model}, {REST}", rest)] if rest else found


def _name(meter: Meter) -> str:
    return f"{meter.name}_tokens" if meter.unit == "token" else f"{meter.name}s"


def unit_of(meter: Meter) -> str:
    """The unit of a meter in OpenAI's words."""
    return _UNITS[meter.unit]
