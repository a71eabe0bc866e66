"""Money as whole numbers of 1e-18 of a currency's unit ("atto"), so that every sum is exact.

A price per million tokens with twelve decimals is a whole number of atto per token, hence what
tokens cost is one multiplication of integers and nothing is ever rounded on the way. Python's
integers do not overflow; a database's do, so a stored amount is two columns (`halves`): whole
nano-units, and what is left of one in atto. Each column can be summed by SQL alone, and the sum
of the halves is the half of the sums: a projection adds amounts up without leaving the database.

Rounding happens once, on an invoice line (`rounded`): half to even, to the currency's smallest
unit as ISO 4217 counts it.
"""

from typing import Final, NamedTuple

DECIMALS: Final = 18
ATTO: Final = 10**DECIMALS
NANO: Final = 10**9
"""Atto in a nano-unit; also nano-units in a unit."""

NO_MINOR: Final = frozenset(
    "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF".split()  # noqa: SIM905 - a list of codes reads as one line
)
THREE_MINOR: Final = frozenset(["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"])


class MoneyError(ValueError):
    """A text is no exact amount, or no currency; the message says what is allowed."""


class Halves(NamedTuple):
    """An amount as two columns: `nano` nano-units and `rest` atto, from 0 to 999,999,999."""

    nano: int
    rest: int


def parse(text: str, *, digits: int = 12, decimals: int = DECIMALS, signed: bool = False) -> int:
    """A decimal string as atto. Raises MoneyError where it isn't one, or is not exact.

    `digits` and `decimals`: at most so many before and after the point.
    """
    unsigned = text[1:] if signed and text.startswith("-") else text
    whole, point, fraction = unsigned.partition(".")
    good = (
        text.isascii()
        and whole.isdigit()
        and len(whole) <= digits
        and (not point or (fraction.isdigit() and len(fraction) <= decimals))
    )
    if not good:
        lowest = "a decimal string" if signed else "a decimal string from 0"
        raise MoneyError(
            f"{text[:80]!r} is not an amount; allowed: {lowest}, with at most {digits} digits"
            f" before and {decimals} after the point"
        )
    value = int(whole) * ATTO + int(fraction.ljust(DECIMALS, "0") or "0")
    return -value if unsigned is not text else value


def plain(amount: int) -> str:
    """An amount as people write it: no exponent, no trailing zeros."""
    whole, rest = divmod(abs(amount), ATTO)
    sign = "-" if amount < 0 else ""
    if not rest:
        return f"{sign}{whole}"
    return f"{sign}{whole}." + f"{rest:0{DECIMALS}d}".rstrip("0")


def halves(amount: int) -> Halves:
    """An amount as its two columns; `whole` is the way back."""
    return Halves(*divmod(amount, NANO))


def whole(nano: int, rest: int) -> int:
    """The amount of two columns, or of two sums of them."""
    return nano * NANO + rest


def check_currency(code: str) -> str:
    """`code`, where it has the form of an ISO 4217 code. Raises MoneyError."""
    if len(code) == 3 and code.isascii() and code.isalpha() and code.isupper():
        return code
    raise MoneyError(f"{code[:80]!r} is not a currency; allowed: an ISO 4217 code like USD")


def exponent(currency: str) -> int:
    """How many decimals a currency's smallest unit has (ISO 4217)."""
    if currency in NO_MINOR:
        return 0
    return 3 if currency in THREE_MINOR else 2


def rounded(amount: int, currency: str) -> int:
    """The nearest amount that is whole in the currency's smallest unit; a tie goes to even."""
    unit = ATTO // int(10 ** exponent(currency))
    count, rest = divmod(amount, unit)
    up = 2 * rest > unit or (2 * rest == unit and count % 2 == 1)
    return (count + up) * unit


def printed(amount: int, currency: str) -> str:
    """A rounded amount with all the decimals of its currency: `2.50`."""
    places = exponent(currency)
    unit = ATTO // int(10**places)
    count, rest = divmod(amount, unit)
    if rest:
        raise MoneyError(f"{plain(amount)} {currency} is not rounded")
    sign, count = ("-", -count) if count < 0 else ("", count)
    text = f"{count:0{places + 1}d}"
    return sign + (f"{text[:-places]}.{text[-places:]}" if places else text)
