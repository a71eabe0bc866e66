"""A factor on a price is worked in when the price is written down, or refused.

A discount that leaves a third of an atto has no exact price. Rounding it there would put an error
into every event that an invoice could not explain, so the document is refused and its writer
chooses a number that can be paid.
"""

from fractions import Fraction
from typing import Final

from tidegate_billing import money

ALLOWED: Final = "a factor that leaves each price whole in 1e-18 for one token, millisecond or unit"


class InexactError(ValueError):
    """A price times a factor needs more decimals than money has."""


def times(amount: int, factor: Fraction) -> int:
    """`amount` times `factor`, exactly. Raises InexactError."""
    product, rest = divmod(amount * factor.numerator, factor.denominator)
    if rest:
        raise InexactError(
            f"{money.plain(amount)} x {factor} needs more than {money.DECIMALS} decimals;"
            f" allowed: {ALLOWED}"
        )
    return product
