"""What one attempt costs, exactly.

A price is written as a decimal string per million tokens, with at most twelve decimals, and is a
whole number of atto (`money`) per token: an amount is quantity times price, in integers, and nothing
is rounded before an invoice line.

Cached tokens are part of the prompt and reasoning tokens part of the completion. Cached tokens
bill at their own price only where the engine said how many there were and the price book has
such a price; else the whole prompt bills as plain input.
"""

from typing import NamedTuple

from tidegate_billing import money
from tidegate_billing.links import Pricing
from tidegate_billing.usage import Usage

DECIMALS = 12
DIGITS = 12
MILLION = 10**6


class PriceError(ValueError):
    """A price can't be used; the message names the field and what is allowed."""


class Price(NamedTuple):
    """One version of a price book: atto per token of each kind.

    `cached_input` None: cached tokens bill as plain input."""

    currency: str
    input: int
    output: int
    cached_input: int | None = None


class Quantities(NamedTuple):
    """Tokens by the price they bill at; together they are prompt plus completion."""

    input: int
    cached_input: int
    output: int


def parse(pricing: Pricing) -> Price:
    """The price a resource names. Raises PriceError, which names the field."""
    try:
        currency = money.check_currency(pricing.currency)
    except money.MoneyError as error:
        raise PriceError(f"pricing.currency {error}") from error
    cached = pricing.cached_input_per_million
    return Price(
        currency=currency,
        input=_per_token("inputPerMillion", pricing.input_per_million),
        output=_per_token("outputPerMillion", pricing.output_per_million),
        cached_input=None if cached is None else _per_token("cachedInputPerMillion", cached),
    )


def _per_token(field: str, value: str) -> int:
    try:
        return per_token(value)
    except money.MoneyError as error:
        allowed = str(error).partition("allowed: ")[2]
        raise PriceError(f"pricing.{field} {value!r} is not a price; allowed: {allowed}") from error


def per_token(per_million: str) -> int:
    """Atto per token of a price per million. Raises MoneyError."""
    return money.parse(per_million, digits=DIGITS, decimals=DECIMALS) // MILLION


def per_million(per_token: int) -> str:
    """A price per token as people write it, per million."""
    return money.plain(per_token * MILLION)


def split(usage: Usage, price: Price) -> Quantities:
    """The tokens of one attempt, by the price they bill at."""
    cached = 0
    if usage.cached_known and price.cached_input is not None:
        cached = min(usage.cached_tokens, usage.prompt_tokens)
    return Quantities(usage.prompt_tokens - cached, cached, usage.completion_tokens)


def amount(quantities: Quantities, price: Price) -> int:
    """What these tokens cost, in atto."""
    cached = price.input if price.cached_input is None else price.cached_input
    return (
        quantities.input * price.input
        + quantities.cached_input * cached
        + quantities.output * price.output
    )
