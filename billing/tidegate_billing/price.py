"""What one attempt costs, exactly.

Prices are decimal strings per million tokens; an amount is quantity times price, shifted by six
places. Arithmetic runs in a context that traps inexactness: a result that would need rounding
can't come out, it raises. Rounding happens once, on an invoice line (`invoice`).

Cached tokens are part of the prompt and reasoning tokens part of the completion. Cached tokens
bill at their own price only where the engine said how many there were and the price book has
such a price; else the whole prompt bills as plain input.
"""

from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import NamedTuple

from tidegate_billing.links import Pricing
from tidegate_billing.usage import Usage

EXACT = Context(prec=60, traps=[Inexact, InvalidOperation, Overflow])
"""Every amount is computed here: sums and products are exact or raise."""
DECIMALS = 12
DIGITS = 12


class PriceError(ValueError):
    """A price can't be used; the message names the field and what is allowed."""


class Price(NamedTuple):
    """One version of a price book: money per million tokens of each kind.

    `cached_input` None: cached tokens bill as plain input."""

    currency: str
    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None


class Quantities(NamedTuple):
    """Tokens by the price they bill at; together they are prompt plus completion."""

    input: int
    cached_input: int
    output: int


def parse(pricing: Pricing) -> Price:
    """The price a resource names. Raises PriceError, which names the field."""
    currency = pricing.currency
    if not (
        len(currency) == 3 and currency.isascii() and currency.isalpha() and currency.isupper()
    ):
        raise PriceError(
            f"pricing.currency {currency!r} is not a currency; allowed: an ISO 4217 code like USD"
        )
    cached = pricing.cached_input_per_million
    return Price(
        currency=currency,
        input=_decimal("inputPerMillion", pricing.input_per_million),
        output=_decimal("outputPerMillion", pricing.output_per_million),
        cached_input=None if cached is None else _decimal("cachedInputPerMillion", cached),
    )


def _decimal(field: str, value: str) -> Decimal:
    allowed = (
        f"a decimal string from 0, with at most {DIGITS} digits before and {DECIMALS} after"
        " the point"
    )
    whole, point, fraction = value.partition(".")
    good = (
        value.isascii()
        and whole.isdigit()
        and len(whole) <= DIGITS
        and (not point or (fraction.isdigit() and len(fraction) <= DECIMALS))
    )
    if not good:
        raise PriceError(f"pricing.{field} {value!r} is not a price; allowed: {allowed}")
    return Decimal(value)


def split(usage: Usage, price: Price) -> Quantities:
    """The tokens of one attempt, by the price they bill at."""
    cached = 0
    if usage.cached_known and price.cached_input is not None:
        cached = min(usage.cached_tokens, usage.prompt_tokens)
    return Quantities(usage.prompt_tokens - cached, cached, usage.completion_tokens)


def amount(quantities: Quantities, price: Price) -> Decimal:
    """What these tokens cost, unrounded."""
    total = product(quantities.input, price.input)
    total = EXACT.add(total, product(quantities.output, price.output))
    if quantities.cached_input:
        cached = price.input if price.cached_input is None else price.cached_input
        total = EXACT.add(total, product(quantities.cached_input, cached))
    return total


def product(quantity: int, per_million: Decimal) -> Decimal:
    """The unrounded cost of `quantity` tokens at a price per million."""
    return EXACT.scaleb(EXACT.multiply(Decimal(quantity), per_million), -6)


def add(left: Decimal, right: Decimal) -> Decimal:
    """An exact sum."""
    return EXACT.add(left, right)


def plain(value: Decimal) -> str:
    """A decimal as people write it: no exponent, no trailing zeros."""
    written = format(value, "f")
    if "." in written:
        written = written.rstrip("0").rstrip(".")
    return "0" if written in {"", "-0"} else written
