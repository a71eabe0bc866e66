"""What a book and a contract say, as values: no text is left to be understood.

Prices are tuples in the order of METERS, None where a meter is not priced; allowances likewise,
in the counted. `book` and `contract` make these from documents, `pipeline` works with them.
"""

from collections.abc import Mapping
from fractions import Fraction

import msgspec

from tidegate_billing.rates.allowance import Kind
from tidegate_billing.rates.meters import FREE, METERS, Shares
from tidegate_billing.rates.service import ServiceTier

Prices = tuple[Kind | None, ...]
UNPRICED: Prices = (None,) * len(METERS)
NONE_FREE: tuple[int, ...] = (0,) * len(METERS)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What a model costs. `adapter` "": every adapter that has no entry of its own, and none."""

    model: str
    adapter: str = ""
    prices: Prices
    free: tuple[int, ...] = NONE_FREE
    services: Mapping[str, ServiceTier] = {}
    shares: Shares = FREE


class Book(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a price book. `effective_from`: microseconds since the epoch."""

    name: str
    currency: str
    effective_from: int = 0
    entries: tuple[Entry, ...]


class Override(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant has of its own for a model.

    With an `entry` it replaces the book's. Without one the book's prices stay, and the allowance
    and the discount that are not None take the place of the book's and the contract's.
    """

    model: str
    adapter: str = ""
    entry: Entry | None = None
    free: tuple[int, ...] | None = None
    discount: Fraction | None = None


class Contract(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a tenant's terms. `discount`: what is left of a price."""

    tenant: str
    currency: str
    effective_from: int = 0
    discount: Fraction = Fraction(1)
    minimum: int = 0
    overrides: tuple[Override, ...] = ()
