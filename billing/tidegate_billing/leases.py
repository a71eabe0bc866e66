"""Leases: how much of a pot each router may spend, so that all of them together can't overrun it.

A pot is money that admission must not overrun. A lease is the part of it lent to one router:
`granted` so far, less `consumed`, what usage that came through its journal has cost. What is
outstanding is the difference; what is free is the pot's balance less all that is outstanding.
Usage that arrives lowers balance and outstanding alike, so it frees nothing and takes nothing.

    balance 1.00, A has 0.30, B has 0.20: free 0.50. Usage of A for 0.10 arrives:
    balance 0.90, A has 0.20, B has 0.20: free 0.50.

How much to lend (`chunk`). At least what the router needs. Beyond it, not more than the 2N-th part of what
is free, so that N routers that all ask get shares of one size (1.00 and 4 routers: 0.125, 0.109, 0.096,
0.084; 0.586 stays free for whoever is busy); and as little as it holds already, or 16 times
the need, whichever is more: a busy router doubles with each question, one that asks rarely never sits
on much (a pot of 10,000 lends 0.16 to a first request that needs 0.01, not 1,250). Near the end the
chunk is the need itself: with 0.08 left, each of the last eight requests of 0.01 gets its own.

Before a pot says no, what others hold and have not reserved is recalled; only then a router gets
what there is if it can do with less (`least`), or a no. A question about several pots is answered
for all of them or for none.

A lease ends 30 s after it was last prolonged; its router admits nothing on it after. What is
outstanding stays blocked, since its usage may still arrive, until the router says what it holds or
10 minutes are over. Then it returns to the pot, and usage that comes still later burns the pot alone.

Everything is a value: a state goes in, the next one comes out. Times are microseconds since the epoch.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

SECOND: Final = 1_000_000
TERM: Final = 30 * SECOND
"""How long a lease lasts unless it is prolonged."""
BLOCKED: Final = 600 * SECOND
"""How long after its end what is outstanding is kept for the router's return."""
RECALL: Final = SECOND // 4
"""How long billing waits for what it recalls."""
AHEAD: Final = 16
"""Needs that a router which holds little is lent at once."""
FOREVER: Final = 2**63 - 1


class Lease(NamedTuple):
    """What one router was lent of one pot."""

    granted: int
    consumed: int
    ends: int

    @property
    def outstanding(self) -> int:
        """What the router may still spend, or has spent without our knowing."""
        return max(0, self.granted - self.consumed)


class Pot(NamedTuple):
    """`until`: when the balance changes by itself (a grant ends, a window closes); no lease on it
    ends later."""

    balance: int
    leases: Mapping[str, Lease] = MappingProxyType({})
    until: int = FOREVER

    @property
    def outstanding(self) -> int:
        """What is lent."""
        return sum(lease.outstanding for lease in self.leases.values())

    @property
    def free(self) -> int:
        """What may be lent; below zero where the balance fell under what is lent."""
        return self.balance - self.outstanding

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left and nothing can come back: all may be told that it is empty."""
        return self.balance <= 0 and not self.outstanding


Pots = Mapping[str, Pot]


class Want(NamedTuple):
    """What a router lacks: `need` for the request at its worst, `least` for its smallest form."""

    need: int
    least: int


class Granted(NamedTuple):
    """More of each pot, and when the leases end."""

    amounts: Mapping[str, int]
    ends: Mapping[str, int]


class Recall(NamedTuple):
    """Who shall give back first, by pot; ask again with `recalled` when they did, or at `until`."""

    routers: Mapping[str, tuple[str, ...]]
    until: int


class Refused(NamedTuple):
    """The pots that can't cover it, and what is free in each: nothing that costs more need ask."""

    free: Mapping[str, int]


Answer = Granted | Recall | Refused


def ask(
    pots: Pots,
    router: str,
    wants: Mapping[str, Want],
    now: int,
    *,
    routers: int,
    recalled: bool = False,
    ahead: bool = False,
) -> tuple[Pots, Answer]:
    """Lend a router what it wants of all these pots, or of none.

    `routers`: how many share the pots. `ahead`: nobody waits for the answer, so nobody is bothered
    for it, and less than the need is no help. A router that just began, or whose leases have ended,
    says what it holds (`returned`) before it asks.
    """
    free = {name: _lendable(pots.get(name), now) for name in wants}
    short = [name for name, want in wants.items() if free[name] < want.need]
    if short:
        refused = Refused({name: max(0, free[name]) for name in short})
        holders = {name: _holders(pots.get(name), router, now) for name in short}
        for name in short:
            hope = free[name] if ahead else free[name] + sum(holders[name].values())
            if hope < max(1, wants[name].least):
                return pots, refused
        found = {name: tuple(names) for name, names in holders.items() if names}
        if found and not recalled and not ahead:
            return pots, Recall(found, now + RECALL)
        if ahead or any(free[name] < max(1, wants[name].least) for name in short):
            return pots, refused
    return _lend(pots, router, wants, now, routers)


def _lendable(pot: Pot | None, now: int) -> int:
    return 0 if pot is None or pot.until <= now else pot.free


def _holders(pot: Pot | None, router: str, now: int) -> dict[str, int]:
    """Whom a recall may help, and with how much at most: others that are there."""
    if pot is None:
        return {}
    return {
        name: lease.outstanding
        for name, lease in pot.leases.items()
        if name != router and lease.outstanding and lease.ends > now
    }


def overlent(pots: Pots, now: int) -> dict[str, tuple[str, ...]]:
    """Whom to recall from, because a balance fell under what is lent of it: a grant ended, a limit was
    lowered. What they have reserved by then is all that may still be overdrawn."""
    found = {name: tuple(_holders(pot, "", now)) for name, pot in pots.items() if pot.free < 0}
    return {name: routers for name, routers in found.items() if routers}


def _lend(
    pots: Pots, router: str, wants: Mapping[str, Want], now: int, routers: int
) -> tuple[Pots, Granted]:
    changed = dict(pots)
    amounts, ends = {}, {}
    for name, want in wants.items():
        pot = changed.get(name, Pot(0))
        lease = pot.leases.get(router, Lease(0, 0, now))
        amounts[name] = min(pot.free, chunk(want.need, pot.free, lease.outstanding, routers))
        ends[name] = min(now + TERM, pot.until)
        lease = lease._replace(granted=lease.granted + amounts[name], ends=ends[name])
        changed[name] = _with(pot, router, lease)
    return changed, Granted(amounts, ends)


def chunk(need: int, free: int, held: int, routers: int) -> int:
    """How much to lend to a router that needs `need` and holds `held`, were there enough."""
    return max(need, min(free // (2 * max(1, routers)), max(AHEAD * need, held)))


def move(pots: Pots, name: str, amount: int) -> Pots:
    """A pot's balance changes by what is no router's doing: credit, a correction, a new limit."""
    pot = pots.get(name, Pot(0))
    return {**pots, name: pot._replace(balance=pot.balance + amount)}


def put(pots: Pots, name: str, balance: int, until: int = FOREVER) -> Pots:
    """A pot's balance as its purse or its window says it is now, and until when that is so."""
    return {**pots, name: pots.get(name, Pot(0))._replace(balance=balance, until=until)}


def consume(pots: Pots, router: str, name: str, cost: int) -> Pots:
    """Usage arrived through a router's journal: what it cost is burned, and no longer lent."""
    pot = pots.get(name, Pot(0))
    pot = pot._replace(balance=pot.balance - cost)
    lease = pot.leases.get(router)
    if lease is not None:
        pot = _with(pot, router, lease._replace(consumed=lease.consumed + cost))
    return {**pots, name: pot}


def give_back(pots: Pots, router: str, name: str, amount: int) -> Pots:
    """A router holds so much less, of its own accord or because it was recalled."""
    pot = pots.get(name, Pot(0))
    lease = pot.leases.get(router)
    if lease is None:
        return pots
    amount = min(amount, lease.outstanding)
    return {**pots, name: _with(pot, router, lease._replace(granted=lease.granted - amount))}


def agree(pots: Pots, router: str, spent: Mapping[str, int]) -> Pots:
    """Take a router's word for what it has spent of its leases, up to the same record of its journal that
    we have got to.

    What usage cost is ours to say (a discount, a price that came later), and the balance follows
    that. What is left in a lease is the router's to say: it goes by the price that it knew. Without
    this the difference would be lent for ever, or be spent twice.
    """
    changed = dict(pots)
    for name, total in spent.items():
        pot = pots.get(name)
        if pot is not None and router in pot.leases:
            changed[name] = _with(pot, router, pot.leases[router]._replace(consumed=total))
    return changed


def renew(pots: Pots, router: str, now: int) -> tuple[Pots, Mapping[str, int]]:
    """Prolong what a connected router holds; a pot that isn't in the answer is over, or no longer lent
    to it."""
    changed = dict(pots)
    ends = {}
    for name, pot in pots.items():
        lease = pot.leases.get(router)
        if lease is not None and now < lease.ends + BLOCKED and now < pot.until:
            ends[name] = min(now + TERM, pot.until)
            changed[name] = _with(pot, router, lease._replace(ends=ends[name]))
    return changed, ends


def returned(
    pots: Pots, router: str, holds: Mapping[str, int], now: int
) -> tuple[Pots, Mapping[str, int]]:
    """A router came back (or starts) under its name, has shipped its journal, and says what it
    holds; how much of that it may keep. So it does after a question without an answer, too: it may
    have been lent what it never heard of. It may be said any number of times.

    What it doesn't name it has lost, and that returns to the pot. What had returned already is lent
    again if it is still free. Its leases count from here: nothing granted before, nothing consumed.
    """
    changed = dict(pots)
    kept = {}
    for name, pot in pots.items():
        lease = pot.leases.get(router, Lease(0, 0, now))
        keep = min(holds.get(name, 0), max(0, lease.outstanding + pot.free))
        if keep:
            kept[name] = keep
            ends = min(now + TERM, pot.until)
            changed[name] = _with(pot, router, Lease(keep, 0, ends))
        elif router in pot.leases:
            changed[name] = _without(pot, [router])
    return changed, kept


def expire(pots: Pots, now: int) -> tuple[Pots, list[tuple[str, str, int]]]:
    """Forget leases whose routers are lost for good; which (pot, router), and what came back."""
    changed = dict(pots)
    back = []
    for name, pot in pots.items():
        lost = [router for router, lease in pot.leases.items() if lease.ends + BLOCKED <= now]
        if lost:
            back += [(name, router, pot.leases[router].outstanding) for router in lost]
            changed[name] = _without(pot, lost)
    return changed, back


def _with(pot: Pot, router: str, lease: Lease) -> Pot:
    return pot._replace(leases={**pot.leases, router: lease})


def _without(pot: Pot, routers: Iterable[str]) -> Pot:
    gone = set(routers)
    return pot._replace(leases={name: one for name, one in pot.leases.items() if name not in gone})
