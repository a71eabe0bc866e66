"""The shapes of price documents, as JSON or YAML has them, and how their mistakes are said.

msgspec checks each object's shape and stops at its first mistake. So a document is read object by
object: one with mistakes in three entries gets three problems and not one at a time. A shape says
what may be written; what it means is `reading`'s.

Money, percent and multipliers are strings. A YAML writer who leaves out the quotes gets a float,
which is not what was typed any more, and is told so.
"""

import re
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from tidegate_billing import money
from tidegate_billing.rates.problem import DocumentError, Problem

Text = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=1)]
Rows = Annotated[list[Any], Meta(min_length=1)]
Prices = Annotated[dict[str, Any], Meta(min_length=1)]
Percent = Annotated[int, Meta(ge=1, le=99)]
T = TypeVar("T")


class Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """An object of a document. An unknown field is a mistake: it may be a misspelt price."""


class FlatShape(Shape, frozen=True, tag="flat", tag_field="kind"):
    """`{kind: flat, unitPrice}`; a string alone is the same."""

    unit_price: str


class TierShape(Shape, frozen=True):
    """One row of a table. `upTo` is in units, the last row has none."""

    unit_price: str
    up_to: Count | None = None
    flat_fee: str = "0"


class GraduatedShape(Shape, frozen=True, tag="graduated", tag_field="kind"):
    """`{kind: graduated, tiers}`."""

    tiers: Rows


class VolumeShape(Shape, frozen=True, tag="volume", tag_field="kind"):
    """`{kind: volume, tiers}`."""

    tiers: Rows


class PackageShape(Shape, frozen=True, tag="package", tag_field="kind"):
    """`{kind: package, size, price}`. `size` is in units."""

    size: Count
    price: str


KindShape = FlatShape | GraduatedShape | VolumeShape | PackageShape
KINDS: Final[dict[str, type[KindShape]]] = {
    "flat": FlatShape,
    "graduated": GraduatedShape,
    "volume": VolumeShape,
    "package": PackageShape,
}


class SplitShape(Shape, frozen=True):
    """A phase that customer and platform share: the customer's percent."""

    split: Percent


class ReplicaShape(Shape, frozen=True):
    """Whose a replica's start and idle tail are."""

    cold_start: Any
    idle_tail: Any


class ServiceShape(Shape, frozen=True):
    """A service tier: a multiplier, or prices of its own."""

    multiplier: str | None = None
    prices: Prices | None = None


class EntryShape(Shape, frozen=True):
    """What a model costs."""

    model: Text
    prices: Prices
    adapter: Text | None = None
    allowance: dict[str, Any] = {}
    service_tiers: dict[str, Any] = {}
    replica: dict[str, Any] | None = None


class OverrideShape(Shape, frozen=True):
    """What a tenant has of its own for a model: an entry, or changes to the book's."""

    model: Text
    adapter: Text | None = None
    prices: Prices | None = None
    allowance: dict[str, Any] | None = None
    service_tiers: dict[str, Any] = {}
    replica: dict[str, Any] | None = None
    discount: str | None = None


class BookShape(Shape, frozen=True):
    """A price book."""

    name: Text
    currency: str
    effective_from: str
    entries: Rows


class ContractShape(Shape, frozen=True):
    """A tenant's terms."""

    tenant: Text
    currency: str
    effective_from: str
    discount: str = "0"
    minimum_commitment: str = "0"
    overrides: list[Any] = []


class Reader:
    """Collects everything that is wrong while a document is read.

    Each of its methods answers None, or a harmless value, where it has noted a problem; nothing
    that was read may be used before `done` has not raised.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def wrong(self, path: str, said: str) -> None:
        """Note a problem at a field."""
        self.problems.append(Problem(path, said))

    def done(self) -> None:
        """Raises DocumentError where anything was noted."""
        if self.problems:
            raise DocumentError(tuple(self.problems))

    def shape(self, path: str, value: object, wanted: type[T]) -> T | None:
        """`value` in a shape."""
        try:
            return msgspec.convert(value, wanted)
        except msgspec.ValidationError as error:
            where, said = _explained(str(error), wanted)
            self.wrong(".".join(filter(None, [path, where])), said)
            return None

    def amount(self, path: str, text: str) -> int:
        """A price or a fee in atto: from 0, with at most 12 decimals."""
        try:
            return money.parse(text, decimals=12)
        except money.MoneyError as error:
            self.wrong(path, str(error))
            return 0


_SPOKEN: Final = re.compile(r"(.+?)(?: - at (?:`key` in )?`\$\.?(.*)`)?")
_EXPECTED: Final = re.compile(r"Expected (`[^`]+`)(?: (.+?))?(?:, got `(\w+)`)?")
_FIELD: Final = re.compile(r"Object (contains unknown|missing required) field `(.*)`")
_TYPES: Final = {
    "`str`": "a string (in quotes)",
    "`str | null`": "a string (in quotes)",
    "`int`": "a whole number",
    "`int | null`": "a whole number",
    "`array`": "a list",
    "`object`": "an object",
    "`object | null`": "an object",
}


def _explained(error: str, wanted: type) -> tuple[str, str]:
    """msgspec's sentence as a path and ours, which ends in what is allowed."""
    spoken = _SPOKEN.fullmatch(error)
    assert spoken is not None
    said, where = spoken[1], spoken[2] or ""
    field = _FIELD.fullmatch(said)
    if field is not None:
        how = "is unknown" if field[1] == "contains unknown" else "is missing"
        return field[2], f"{how}; allowed: {', '.join(_fields(wanted))}"
    expected = _EXPECTED.fullmatch(said)
    assert expected is not None
    got = f"is {expected[3]}" if expected[3] else "is empty or out of range"
    limit = (expected[2] or "").replace("of length >= 1", "that is not empty")
    return where, f"{got}; allowed: {_TYPES[expected[1]]} {limit}".rstrip()


def _fields(shape: type) -> tuple[str, ...]:
    fields: tuple[str, ...] = getattr(shape, "__struct_encode_fields__", ())
    return fields
