"""Credit: grants, and the double entries by which they are burned, end, or are taken back.

A tenant has one purse per currency. What is in it is never stored: every movement is entries that
sum to zero, and a balance is the sum of an account's entries. An entry names its account and, where
it belongs to one, its grant; so an account can be read as a whole or by grant.

    issued     what grants were made of; negative
    grant      what is left of a grant, from 0
    revenue    what usage cost; by the grant that paid, or by none (not paid yet)
    overdraft  what usage cost beyond every grant; 0 or negative
    expired    what was left of a grant at its end
    refund     what was paid back to the tenant
    void       what was taken out of a grant that should not have been

Burning takes grants in one order: priority (lower first), end (sooner first, never last), age. A
negative burn (a correction that lowers a cost) is its inverse: first the overdraft, then grants from
the last of that order to the first. So what a purse looks like depends on what usage cost in sum,
not on the path there: burn 5 and give back 2 is burn 3.

A grant is there from `starts` on and no longer at `expires`: at that very instant it is gone.
Times are microseconds since the epoch, amounts are atto (`money`). A purse that is given holds what
the database holds in the transaction; the caller writes the entries that come back.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from tidegate_billing import money

Account = Literal["issued", "grant", "revenue", "overdraft", "expired", "refund", "void"]
NEVER: Final = 2**63 - 1
NONE: Final = ""
"""The grant of an entry that belongs to none."""


class CreditError(ValueError):
    """A movement that can't be: the message says what is allowed."""


class Grant(NamedTuple):
    """Credit that was sold or given. Of two with equal `priority`, `expires` and `created` the
    smaller id burns first, so that the order is one on every machine."""

    id: str
    amount: int
    currency: str
    priority: int
    starts: int
    expires: int | None
    created: int


class Entry(NamedTuple):
    """`amount` more on an account."""

    account: Account
    grant: str
    amount: int


Sums = Mapping[tuple[Account, str], int]


class Purse(NamedTuple):
    """Grants of one tenant in one currency, and the sum of entries by account and grant."""

    currency: str
    grants: tuple[Grant, ...] = ()
    sums: Sums = MappingProxyType({})

    def of(self, account: Account, grant: str = NONE) -> int:
        """What an account holds for one grant, or for none."""
        return self.sums.get((account, grant), 0)

    def total(self, account: Account) -> int:
        """What an account holds in all."""
        return sum(amount for (name, _), amount in self.sums.items() if name == account)


class Burn(NamedTuple):
    """Entries, and what no grant covered: above zero it went to the overdraft, below zero it could
    not be given back, since it had never been burned here."""

    entries: tuple[Entry, ...]
    shortfall: int


def turn(grant: Grant) -> tuple[int, int, int, str]:
    """A grant's place in the order of burning."""
    expires = NEVER if grant.expires is None else grant.expires
    return (grant.priority, expires, grant.created, grant.id)


def ended(purse: Purse, grant: Grant, now: int) -> bool:
    """Whether nothing can be in a grant any more."""
    over = grant.expires is not None and grant.expires <= now
    return over or bool(purse.of("void", grant.id))


def live(purse: Purse, now: int) -> list[Grant]:
    """The grants that can be burned at `now`, in their order."""
    there = [one for one in purse.grants if one.starts <= now and not ended(purse, one, now)]
    return sorted(there, key=turn)


def balance(purse: Purse, now: int) -> int:
    """What the tenant may still spend at `now`; below zero it owes that."""
    return sum(purse.of("grant", one.id) for one in live(purse, now)) + purse.of("overdraft")


def next_change(purse: Purse, now: int) -> int | None:
    """The next instant after `now` at which time alone changes the balance."""
    instants = [
        instant
        for one in purse.grants
        for instant in (one.starts, one.expires)
        if instant is not None and instant > now and purse.of("grant", one.id)
    ]
    return min(instants, default=None)


def term(purse: Purse, at: int) -> tuple[int, int]:
    """The time around `at` in which no grant ends: from the last end up to the next one."""
    ends = [one.expires for one in purse.grants if one.expires is not None]
    before = max((end for end in ends if end <= at), default=0)
    return before, min((end for end in ends if end > at), default=NEVER)


def pot(purse: Purse, tenant: str, at: int) -> str:
    """The name of the pot (`leases`) that what begins at `at` is paid from: a new one after each
    end of a grant.

    What routers were lent before may be of the grant that ended. In one pot it would be spent on, once
    requests that reserved it end below their worst case. So leases on a pot end with its `term`,
    nothing new is reserved there, and what is lent of older pots is kept back from the new one:

        balance of the newest pot = balance(purse, now) - outstanding of all older ones
    """
    return f"credit:{tenant}:{purse.currency}:{term(purse, at)[0]}"


def apply(purse: Purse, entries: Iterable[Entry]) -> Purse:
    """The purse after a movement. Raises CreditError where it doesn't sum to zero."""
    sums = dict(purse.sums)
    drift = 0
    for account, grant, amount in entries:
        sums[account, grant] = sums.get((account, grant), 0) + amount
        drift += amount
    if drift:
        raise CreditError(f"the entries of a movement sum to {money.plain(drift)}; allowed: 0")
    return purse._replace(sums=MappingProxyType(sums))


def issue(purse: Purse, grant: Grant, now: int) -> tuple[Purse, tuple[Entry, ...]]:
    """Put a grant into a purse; what is owed is paid out of it first. Raises CreditError."""
    if grant.currency != purse.currency:
        raise CreditError(f"a grant in {grant.currency}; allowed: {purse.currency}, as the purse")
    if grant.amount <= 0:
        raise CreditError(f"a grant of {money.plain(grant.amount)}; allowed: more than 0")
    if grant.expires is not None and grant.expires <= grant.starts:
        raise CreditError("a grant that ends before it starts; allowed: an end after the start")
    if any(one.id == grant.id for one in purse.grants):
        raise CreditError(f"grant {grant.id[:80]!r} twice; allowed: once")
    made = (Entry("issued", grant.id, -grant.amount), Entry("grant", grant.id, grant.amount))
    purse = apply(purse._replace(grants=(*purse.grants, grant)), made)
    paid = pay(purse, now)
    return apply(purse, paid), (*made, *paid)


def pay(purse: Purse, now: int) -> tuple[Entry, ...]:
    """What is owed, paid by the grants that are there by now. Usage that nobody had paid becomes
    usage that those grants paid. To be called when a grant starts, too."""
    owed = -purse.of("overdraft")
    entries: list[Entry] = []
    for one in live(purse, now):
        part = min(owed, purse.of("grant", one.id))
        if part > 0:
            entries += (Entry("grant", one.id, -part), Entry("overdraft", NONE, part))
            entries += (Entry("revenue", NONE, -part), Entry("revenue", one.id, part))
            owed -= part
    return tuple(entries)


def burn(purse: Purse, amount: int, now: int) -> Burn:
    """Take what usage cost out of a purse, or give back what it turned out not to have cost.

    `now` decides which grants are there. It may lie in the past (when the usage was): what has
    been moved to `expired` meanwhile is not there in any case.
    """
    return _give_back(purse, -amount, now) if amount < 0 else _take(purse, amount, now)


def _take(purse: Purse, amount: int, now: int) -> Burn:
    paid = pay(purse, now)
    purse = apply(purse, paid)
    entries = list(paid)
    left = amount
    for one in live(purse, now):
        part = min(left, purse.of("grant", one.id))
        if part > 0:
            entries += (Entry("grant", one.id, -part), Entry("revenue", one.id, part))
            left -= part
    if left:
        entries += (Entry("overdraft", NONE, -left), Entry("revenue", NONE, left))
    return Burn(tuple(entries), left)


def _give_back(purse: Purse, amount: int, now: int) -> Burn:
    """Grants that have ended come after all others; what they get is gone with them."""
    left = amount
    part = min(left, -purse.of("overdraft"))
    entries: list[Entry] = []
    if part > 0:
        entries += (Entry("revenue", NONE, -part), Entry("overdraft", NONE, part))
        left -= part
    backwards = sorted(purse.grants, key=turn, reverse=True)
    for one in sorted(backwards, key=lambda grant: ended(purse, grant, now)):
        part = min(left, purse.of("revenue", one.id))
        if part > 0:
            entries += (
                Entry("revenue", one.id, -part),
                Entry(_home(purse, one, now), one.id, part),
            )
            left -= part
    return Burn(tuple(entries), -left)


def _home(purse: Purse, grant: Grant, now: int) -> Account:
    """Where the rest of a grant is at `now`."""
    if purse.of("void", grant.id):
        return "void"
    return "expired" if ended(purse, grant, now) else "grant"


def expire(purse: Purse, now: int) -> tuple[Entry, ...]:
    """Move what is left of grants that have ended by `now`. Twice is once."""
    entries: list[Entry] = []
    for one in sorted(purse.grants, key=turn):
        rest = purse.of("grant", one.id)
        if rest and one.expires is not None and one.expires <= now:
            entries += (Entry("grant", one.id, -rest), Entry("expired", one.id, rest))
    return tuple(entries)


def refund(purse: Purse, grant_id: str, amount: int, now: int) -> tuple[Entry, ...]:
    """Pay back a part of what is left of a grant. Raises CreditError."""
    grant = _find(purse, grant_id)
    left = 0 if ended(purse, grant, now) else purse.of("grant", grant_id)
    if not 0 < amount <= left:
        raise CreditError(
            f"a refund of {money.plain(amount)}; allowed: more than 0, and at most the"
            f" {money.plain(left)} that is left of the grant"
        )
    return (Entry("grant", grant_id, -amount), Entry("refund", grant_id, amount))


def void(purse: Purse, grant_id: str, *, reclaim: bool = False) -> tuple[Entry, ...]:
    """Take a grant back that should not have been; nothing comes into it any more.

    `reclaim`: what it has paid for, too (its own payment was reversed): that becomes overdraft.
    Raises CreditError where nothing is left to take.
    """
    _find(purse, grant_id)
    rest = purse.of("grant", grant_id)
    burned = purse.of("revenue", grant_id) if reclaim else 0
    if not rest and not burned:
        raise CreditError(f"nothing is left of grant {grant_id[:80]!r}; allowed: one with a rest")
    entries: list[Entry] = []
    if rest:
        entries += (Entry("grant", grant_id, -rest), Entry("void", grant_id, rest))
    if burned:
        entries += (Entry("overdraft", NONE, -burned), Entry("void", grant_id, burned))
        entries += (Entry("revenue", grant_id, -burned), Entry("revenue", NONE, burned))
    return tuple(entries)


def _find(purse: Purse, grant_id: str) -> Grant:
    for one in purse.grants:
        if one.id == grant_id:
            return one
    raise CreditError(f"no grant {grant_id[:80]!r}; allowed: a grant of this purse")
