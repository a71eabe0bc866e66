"""Minimum commitment: what a month's invoice is filled up with.

It compares with the sum of the rounded lines and not with the exact sum. Both round once; but only
so does the printed total equal the committed minimum, instead of missing it by the cents that
rounding the lines has moved. It exists on the invoice alone: no event can know it.
"""

from tidegate_billing import money


def check(minimum: int, currency: str) -> None:
    """Raises MoneyError where the minimum could not be printed on an invoice."""
    if money.rounded(minimum, currency) != minimum:
        raise money.MoneyError(
            f"{money.plain(minimum)} {currency} cannot be paid; allowed: at most"
            f" {money.exponent(currency)} decimals"
        )


def top_up(minimum: int, billed: int) -> int:
    """What is missing from `minimum`."""
    return max(0, minimum - billed)
