"""The order of pricing: argued here, and applied here only.

1. **Which price.** The tenant's own (an override with prices), else the book's entry for the
   adapter, else the book's entry for the model, else what the deployment names itself. The more
   special word is the later promise: somebody wrote it knowing the general one. Exactly one entry
   applies, as a whole; prices are never mixed from two, so that a change of the book cannot change
   half of a negotiated price.
2. **Service tier.** It belongs to the list: a customer compares `flex` with `default` before
   anything is taken off. So it works on the picked entry's prices.
3. **Discount.** It comes off whatever price applies, an override's too: "15 % off" means off what
   this customer would pay otherwise. It cannot come later, since after the tiers there are sums,
   and a percentage of a sum has to be rounded somewhere; nor earlier, since a tier's own prices
   would escape it.
4. **Allowance.** A number of units, not of money, so no discount touches it. It is in front of
   the tiers, which then count paid units only.
5. **Tiers.** What a month's quantity of one meter costs, in exact integers. An event costs what
   it adds (`allowance.marginal`).
6. **Lines.** The same costs, cut by tier. Their exact sum is the cost of the total.
7. **Rounding.** Once, on the line, half to even, in the currency's smallest unit.
8. **Commitment.** What the rounded lines leave missing from the minimum, as a line of its own.
   The committed sum is one that can be paid, hence this line needs no rounding.

Steps 1 to 4 happen once per rate (`rate`), when documents change. Step 5 is the hot path
(`charge`), 6 to 8 are the invoice (`lines.bill`). Where a step cannot be exact, the documents
are refused (`check`); the hot path cannot meet such a price.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from operator import mul
from typing import NamedTuple, TypeVar

import msgspec

from tidegate_billing.rates import allowance, discount, meters, service
from tidegate_billing.rates.allowance import Kind, Price
from tidegate_billing.rates.exact import InexactError
from tidegate_billing.rates.flat import Flat
from tidegate_billing.rates.meters import METERS, NOTHING, Apart, Quantities, Used
from tidegate_billing.rates.problem import Problem
from tidegate_billing.rates.terms import NONE_FREE, Book, Contract, Entry, Override, Prices

Named = TypeVar("Named", Entry, Override)


class Rate(NamedTuple):
    """What one model costs one tenant in one service tier: ready to multiply.

    `model`, `adapter`: the entry that was picked, so an entry for all adapters counts them
    together. `linear`: atto for one of each meter's counted where every price is flat and nothing
    is free; None: an event's cost depends on what came before. `holes`: meters that must be priced
    where they are used, and are not.
    """

    currency: str
    model: str
    adapter: str
    service: str
    reason: str
    prices: tuple[Price | None, ...]
    apart: Apart
    linear: tuple[int, ...] | None
    holes: tuple[int, ...]


class _Picked(NamedTuple):
    currency: str
    entry: Entry
    free: tuple[int, ...]
    discount: Fraction
    reason: str


def rate(
    model: str,
    adapter: str,
    tier: str,
    *,
    books: Sequence[Book],
    contract: Contract | None = None,
) -> Rate | None:
    """The rate for a model; None: nobody has named a price, and usage waits for one.

    `books`: the platform's book, then the deployment's own pricing (`book.from_pricing`).
    A `tier` that the entry does not have is the default one, as it was served.
    Raises InexactError, which `check` finds when the documents are written.
    """
    picked = _pick(model, adapter, books, contract)
    if picked is None:
        return None
    entry = picked.entry
    served = tier if tier in entry.services else service.DEFAULT
    prices = _discounted(_served(entry, served), picked.discount)
    free = picked.free if served == service.DEFAULT else NONE_FREE
    return _ready(picked, served, _allowed(prices, free))


def _pick(
    model: str, adapter: str, books: Sequence[Book], contract: Contract | None
) -> _Picked | None:
    """Step 1."""
    own = None if contract is None else _special(contract.overrides, model, adapter)
    left = Fraction(1) if contract is None else contract.discount
    if own is not None and own.discount is not None:
        left = own.discount
    if own is not None and own.entry is not None and contract is not None:
        reason = f"contract of {contract.tenant}: {_named(own.entry)}"
        return _Picked(contract.currency, own.entry, own.entry.free, left, reason)
    for book in books:
        entry = _special(book.entries, model, adapter)
        if entry is not None:
            free = entry.free if own is None or own.free is None else own.free
            return _Picked(book.currency, entry, free, left, f"{book.name}: {_named(entry)}")
    return None


def _special(entries: Iterable[Named], model: str, adapter: str) -> Named | None:
    named = {entry.adapter: entry for entry in entries if entry.model == model}
    return named.get(adapter) or named.get("")


def _named(entry: Entry) -> str:
    return f"{entry.model}, adapter {entry.adapter}" if entry.adapter else entry.model


def _served(entry: Entry, tier: str) -> Prices:
    """Step 2."""
    found = entry.services.get(tier)
    if found is None:
        return entry.prices
    return _each(entry.prices, lambda place, price: service.applied(place, price, found))


def _discounted(prices: Prices, left: Fraction) -> Prices:
    """Step 3."""
    return _each(prices, lambda _, price: None if price is None else discount.applied(price, left))


def _each(prices: Prices, change: Callable[[int, Kind | None], Kind | None]) -> Prices:
    """Every price changed; what cannot be changed exactly is named by its meter."""
    changed = []
    for place, price in enumerate(prices):
        try:
            changed.append(change(place, price))
        except InexactError as error:
            raise InexactError(f"{METERS[place].field}: {error}") from None
    return tuple(changed)


def _allowed(prices: Prices, free: tuple[int, ...]) -> tuple[Price | None, ...]:
    """Step 4."""
    return tuple(
        None if price is None else allowance.applied(price, units)
        for price, units in zip(prices, free, strict=True)
    )


def _ready(picked: _Picked, served: str, prices: tuple[Price | None, ...]) -> Rate:
    units = [price.unit for price in prices if isinstance(price, Flat)]
    priced = [price is not None for price in prices]
    linear = None
    if len(units) == sum(priced):
        linear = tuple(price.unit if isinstance(price, Flat) else 0 for price in prices)
    return Rate(
        currency=picked.currency,
        model=picked.entry.model,
        adapter=picked.entry.adapter,
        service=served,
        reason=picked.reason,
        prices=prices,
        apart=Apart(priced[meters.CACHED_INPUT], priced[meters.REASONING], picked.entry.shares),
        linear=linear,
        holes=tuple(place for place in meters.MADE if not priced[place]),
    )


def quantities(rate: Rate, used: Used) -> Quantities:
    """The counted of an event by the meter that it bills on."""
    return meters.quantities(used, rate.apart)


def charge(rate: Rate, used: Quantities, before: Quantities = NOTHING) -> int | None:
    """Step 5: what an event costs, in atto; below zero where it makes a volume cheaper.

    `before`: what this rate has counted in the month. It is not looked at where `rate.linear` is
    there. None: something was made that has no price, and the event waits for one.
    """
    for place in rate.holes:
        if used[place]:
            return None
    if rate.linear is not None:
        cost: int = sum(map(mul, rate.linear, used))
        return cost
    return sum(
        allowance.marginal(price, earlier, quantity)
        for price, earlier, quantity in zip(rate.prices, before, used, strict=True)
        if price is not None and quantity
    )


def fingerprint(rate: Rate) -> str:
    """The same for rates that charge the same: a name for a version of a rate.

    Storage that numbers rates by it does not restart a model's tiers because a new book has
    changed another model. Who promised the price is not in it, nor are meters without one: a
    meter that is added to METERS one day leaves the fingerprints of today's rates as they are.
    """
    priced = {
        meter.name: price
        for meter, price in zip(METERS, rate.prices, strict=True)
        if price is not None
    }
    said = (rate.currency, rate.model, rate.adapter, rate.service, rate.apart.shares, priced)
    return hashlib.sha256(msgspec.json.encode(said, order="deterministic")).hexdigest()


def check(books: Sequence[Book], contract: Contract | None = None) -> tuple[Problem, ...]:
    """What of these documents could not be charged exactly: to be asked when one is written."""
    return tuple(_inexact(books, contract))


def _inexact(books: Sequence[Book], contract: Contract | None) -> Iterator[Problem]:
    for book in books:
        named = "" if contract is None else f"{book.name}."
        for place, entry in enumerate(book.entries):
            yield from _tried(f"{named}entries[{place}]", entry, [book], contract)
    for place, override in enumerate(() if contract is None else contract.overrides):
        path = f"overrides[{place}]"
        picked = _pick(override.model, override.adapter, books, contract)
        if picked is None:
            said = f"changes {override.model!r}, which no book prices"
            yield Problem(path, f"{said}; allowed: a model that has an entry")
            continue
        changed = msgspec.structs.replace(picked.entry, adapter=override.adapter)
        yield from _tried(path, changed, books, contract)
        yield from _given(path, override, picked.entry.prices)


def _given(path: str, override: Override, prices: Prices) -> Iterator[Problem]:
    """Units can be free only of what has a price."""
    for meter, price, free in zip(METERS, prices, override.free or NONE_FREE, strict=True):
        if free and price is None:
            said = "is free but has no price; allowed: meters that the entry prices"
            yield Problem(f"{path}.allowance.{meter.field}", said)


def _tried(
    path: str, entry: Entry, books: Sequence[Book], contract: Contract | None
) -> Iterator[Problem]:
    """Every rate that an entry can become."""
    for tier in (service.DEFAULT, *entry.services):
        try:
            rate(entry.model, entry.adapter, tier, books=books, contract=contract)
        except InexactError as error:
            where = path if tier == service.DEFAULT else f"{path}.serviceTiers.{tier}"
            yield Problem(where, str(error))
