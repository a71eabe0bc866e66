"""Service tiers: the same model served sooner or later, at a price of its own.

A tier multiplies the entry's prices, or names its own for some meters and keeps the rest. What it
makes is a list price that customers read, so it must be exact before any discount comes off it.

A tier counts apart: its own volume tiers and packages start at zero, and the entry's allowance is
the default tier's. One allowance per tier would multiply what is given away by their number, one
over all would make the price of an event depend on which tier was used first.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Final

import msgspec

from tidegate_billing import money
from tidegate_billing.rates.allowance import Kind

DEFAULT: Final = "default"
ALLOWED: Final = "a decimal string above 0"


class ServiceTier(msgspec.Struct, frozen=True):
    """`own`: prices by a meter's place in METERS; `factor` is for those that it does not name."""

    factor: Fraction = Fraction(1)
    own: Mapping[int, Kind] = {}


def multiplier(text: str) -> Fraction:
    """The factor of a tier. Raises MoneyError."""
    try:
        amount = money.parse(text, digits=6)
    except money.MoneyError:
        amount = 0
    if amount == 0:
        raise money.MoneyError(f"{text[:80]!r} is not a multiplier; allowed: {ALLOWED}")
    return Fraction(amount, money.ATTO)


def applied(place: int, price: Kind | None, tier: ServiceTier) -> Kind | None:
    """What a meter costs in a tier. Raises InexactError."""
    own = tier.own.get(place)
    if own is not None or price is None:
        return own
    return price if tier.factor == 1 else price.scaled(tier.factor)
