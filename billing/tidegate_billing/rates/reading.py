"""What the parts of a price document mean: from shapes to terms.

Books and contracts have these parts in common. Everything that can be wrong is noted at the
reader, with its path; a harmless value stands in for it until the reader is done.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from tidegate_billing import money
from tidegate_billing.rates import meters, service, tiers
from tidegate_billing.rates.allowance import Kind
from tidegate_billing.rates.document import (
    KINDS,
    Count,
    EntryShape,
    FlatShape,
    GraduatedShape,
    PackageShape,
    Reader,
    ReplicaShape,
    ServiceShape,
    SplitShape,
    TierShape,
    VolumeShape,
)
from tidegate_billing.rates.flat import Flat
from tidegate_billing.rates.graduated import Graduated
from tidegate_billing.rates.meters import FOLDS, FREE, METERS, PLACES, Meter, Shares
from tidegate_billing.rates.package import Package
from tidegate_billing.rates.service import ServiceTier
from tidegate_billing.rates.terms import UNPRICED, Entry, Prices
from tidegate_billing.rates.tiers import Tier
from tidegate_billing.rates.volume import Volume

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
RFC3339: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
SOLD: Final = ", ".join(PLACES)
POLICY: Final = "charge, absorb or {split: PERCENT}, a whole number from 1 to 99"
SLUG: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")


def moment(reader: Reader, path: str, text: str) -> int:
    """An RFC 3339 time as microseconds since the epoch."""
    try:
        found = datetime.fromisoformat(text.upper()) if RFC3339.fullmatch(text) else None
    except ValueError:
        found = None
    if found is None:
        said = "is no time; allowed: RFC 3339 with an offset, to the microsecond"
        reader.wrong(path, f"{text[:80]!r} {said}, like 2026-01-01T00:00:00Z")
        return 0
    return (found - EPOCH) // MICROSECOND


def currency(reader: Reader, path: str, code: str) -> str:
    """An ISO 4217 code."""
    try:
        return money.check_currency(code)
    except money.MoneyError as error:
        reader.wrong(path, str(error))
        return "USD"


def entry(reader: Reader, path: str, shape: EntryShape) -> Entry:
    """What a model costs."""
    found = prices(reader, f"{path}.prices", shape.prices)
    for part, whole in FOLDS.items():
        if found[part] is not None and found[whole] is None:
            said = f"needs a price of {METERS[whole].field} beside it; allowed: both or neither"
            reader.wrong(f"{path}.prices.{METERS[part].field}", said)
    free = allowance(reader, f"{path}.allowance", shape.allowance)
    for meter, price, units in zip(METERS, found, free, strict=True):
        if units and price is None:
            said = "is free but has no price; allowed: meters that the entry prices"
            reader.wrong(f"{path}.allowance.{meter.field}", said)
    return Entry(
        model=shape.model,
        adapter=shape.adapter or "",
        prices=found,
        free=free,
        services=_services(reader, f"{path}.serviceTiers", shape.service_tiers, found),
        shares=_shares(reader, f"{path}.replica", shape.replica, found),
    )


def prices(reader: Reader, path: str, named: Mapping[str, object]) -> Prices:
    """A price per meter, in the order of METERS."""
    found = list(UNPRICED)
    for field, value in named.items():
        place = _place(reader, f"{path}.{field}", field)
        if place is not None:
            found[place] = _kind(reader, f"{path}.{field}", value, METERS[place])
    return tuple(found)


def allowance(reader: Reader, path: str, named: Mapping[str, object]) -> tuple[int, ...]:
    """Free units per meter, in the counted."""
    found = [0] * len(METERS)
    for field, value in named.items():
        place = _place(reader, f"{path}.{field}", field)
        units = reader.shape(f"{path}.{field}", value, Count)
        if place is not None and units is not None:
            found[place] = units * METERS[place].counted
    return tuple(found)


def _place(reader: Reader, path: str, field: str) -> int | None:
    if field not in PLACES:
        reader.wrong(path, f"is no meter; allowed: {SOLD}")
    return PLACES.get(field)


def _kind(reader: Reader, path: str, value: object, meter: Meter) -> Kind:
    """The price of a meter. Where it is wrong, a price of 0 stands in."""
    if isinstance(value, str):
        return Flat(_unit(reader, path, value, meter))
    if not isinstance(value, dict):
        said = f"is {type(value).__name__}; allowed: a price as a string (in quotes), or an object"
        reader.wrong(path, f"{said} with a kind")
        return Flat(0)
    kind = value.get("kind")
    wanted = KINDS.get(kind) if isinstance(kind, str) else None
    if wanted is None:
        said = f"{kind!r} is no kind of price; allowed: {', '.join(KINDS)}"
        reader.wrong(f"{path}.kind", said)
        return Flat(0)
    shape = reader.shape(path, value, wanted)
    match shape:
        case None:
            return Flat(0)
        case FlatShape():
            return Flat(_unit(reader, f"{path}.unitPrice", shape.unit_price, meter))
        case PackageShape():
            price = reader.amount(f"{path}.price", shape.price)
            return Package(shape.size * meter.counted, price)
        case GraduatedShape():
            return Graduated(_table(reader, f"{path}.tiers", shape.tiers, meter))
        case VolumeShape():
            return Volume(_table(reader, f"{path}.tiers", shape.tiers, meter))


def _unit(reader: Reader, path: str, text: str, meter: Meter) -> int:
    """Atto for one of the counted. Twelve decimals leave nothing over, whatever the meter."""
    return reader.amount(path, text) // meter.shift


def _table(reader: Reader, path: str, rows: list[object], meter: Meter) -> tuple[Tier, ...]:
    found = []
    for place, row in enumerate(rows):
        where = f"{path}[{place}]"
        shape = reader.shape(where, row, TierShape)
        if shape is None:
            return (Tier(None, 0),)
        unit = _unit(reader, f"{where}.unitPrice", shape.unit_price, meter)
        fee = reader.amount(f"{where}.flatFee", shape.flat_fee)
        up_to = None if shape.up_to is None else shape.up_to * meter.counted
        found.append(Tier(up_to, unit, fee))
    try:
        tiers.check(tuple(found))
    except tiers.TierError as error:
        reader.wrong(f"{path}[{error.place}]", str(error))
        return (Tier(None, 0),)
    return tuple(found)


def _services(
    reader: Reader, path: str, named: Mapping[str, object], listed: Prices
) -> dict[str, ServiceTier]:
    found = {}
    for name, value in named.items():
        where = f"{path}.{name}"
        if name == service.DEFAULT or not SLUG.fullmatch(name):
            said = "cannot be a tier's name; allowed: lower case, digits and -, and not `default`"
            reader.wrong(where, f"{said}, which is the entry itself")
        shape = reader.shape(where, value, ServiceShape)
        if shape is not None:
            found[name] = _service(reader, where, shape, listed)
    return found


def _service(reader: Reader, path: str, shape: ServiceShape, listed: Prices) -> ServiceTier:
    if (shape.multiplier is None) == (shape.prices is None):
        reader.wrong(path, "names both or neither; allowed: one of multiplier, prices")
    if shape.multiplier is not None:
        try:
            return ServiceTier(factor=service.multiplier(shape.multiplier))
        except money.MoneyError as error:
            reader.wrong(f"{path}.multiplier", str(error))
    own = prices(reader, f"{path}.prices", shape.prices or {})
    for meter, price, default in zip(METERS, own, listed, strict=True):
        if price is not None and default is None:
            said = "has no price in the default tier; allowed: meters that the entry prices"
            reader.wrong(f"{path}.prices.{meter.field}", said)
    return ServiceTier(own={place: price for place, price in enumerate(own) if price is not None})


def _shares(
    reader: Reader, path: str, value: Mapping[str, object] | None, listed: Prices
) -> Shares:
    """Whose the phases are: said where replica seconds have a price, and only there."""
    priced = listed[meters.REPLICA] is not None
    if priced and value is None:
        reader.wrong(
            path, "is missing beside a price of replicaSecond; allowed: {coldStart, idleTail}"
        )
    if value is None:
        return FREE
    if not priced:
        reader.wrong(path, "has no price to share; allowed: beside prices.replicaSecond")
    shape = reader.shape(path, value, ReplicaShape)
    if shape is None:
        return FREE
    return Shares(
        _share(reader, f"{path}.coldStart", shape.cold_start),
        _share(reader, f"{path}.idleTail", shape.idle_tail),
    )


def _share(reader: Reader, path: str, policy: object) -> int:
    if policy == "charge":
        return 100
    if policy == "absorb":
        return 0
    if isinstance(policy, dict):
        shape = reader.shape(path, policy, SplitShape)
        return 0 if shape is None else shape.split
    reader.wrong(path, f"{policy!r} is no policy; allowed: {POLICY}")
    return 0
