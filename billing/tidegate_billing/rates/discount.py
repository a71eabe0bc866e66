"""A discount in percent, worked into the unit prices or refused.

It is taken off prices and not off the sum, so that every event, every usage query and every line
shows what is paid, and no line of its own has to be shared out over projects and keys.
"""

from fractions import Fraction
from typing import Final

from tidegate_billing import money
from tidegate_billing.rates.allowance import Kind

PERCENT: Final = 100 * money.ATTO
ALLOWED: Final = "a decimal string from 0 to 100, in percent"


def parse(percent: str) -> Fraction:
    """The factor that is left after a discount. Raises MoneyError."""
    try:
        taken = money.parse(percent, digits=3)
    except money.MoneyError:
        taken = PERCENT + 1
    if taken > PERCENT:
        raise money.MoneyError(f"{percent[:80]!r} is not a discount; allowed: {ALLOWED}")
    return Fraction(PERCENT - taken, PERCENT)


def applied(price: Kind, left: Fraction) -> Kind:
    """`price` with the discount in it. Raises InexactError."""
    return price if left == 1 else price.scaled(left)
