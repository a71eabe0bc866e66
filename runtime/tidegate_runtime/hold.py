"""The hold queue: requests that wait for a replica, bounded and fair between tenants.

Each tenant has a first-in first-out line; lines take turns, so a tenant that queues a thousand
requests delays another's single one by one turn. Bounds are per model (`max_held`) and per tenant
(its share of it). The queue knows no clock: `now` is an argument, as seconds of one clock.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Ticket(Generic[T]):
    """A waiting request. `known_failure` is the start that had failed before it came: only a
    later one answers it."""

    __slots__ = ("deadline", "item", "known_failure", "live", "since", "tenant")

    def __init__(
        self, item: T, tenant: str, since: float, deadline: float, known_failure: str
    ) -> None:
        self.item = item
        self.tenant = tenant
        self.since = since
        self.deadline = deadline
        self.known_failure = known_failure
        self.live = True


class Full(NamedTuple):
    """No place. `scope`: model (the queue is full) or tenant (its share is)."""

    scope: str
    limit: int


class HoldQueue(Generic[T]):
    """One model's waiting requests."""

    __slots__ = ("_count", "_lines", "_per_tenant")

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[Ticket[T]]] = OrderedDict()
        self._per_tenant: dict[str, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(
        self, ticket: Ticket[T], max_held: int, share: float, *, front: bool = False
    ) -> Full | None:
        """Queue a ticket, or say why not. A tenant may fill `share` (0..1] of the places.

        `front` puts a request that already waited once (its engine died) before its tenant's
        others."""
        if self._count >= max_held:
            return Full("model", max_held)
        mine = self._per_tenant.get(ticket.tenant, 0)
        limit = max(1, int(max_held * share))
        if mine >= limit:
            return Full("tenant", limit)
        line = self._lines.setdefault(ticket.tenant, deque())
        if front:
            line.appendleft(ticket)
        else:
            line.append(ticket)
        self._per_tenant[ticket.tenant] = mine + 1
        self._count += 1
        return None

    def pop(self) -> Ticket[T] | None:
        """The next request by turn, or None."""
        while self._lines:
            tenant, line = next(iter(self._lines.items()))
            ticket = self._first_live(line)
            if ticket is None:
                del self._lines[tenant]
                continue
            if line:
                self._lines.move_to_end(tenant)
            else:
                del self._lines[tenant]
            self._leave(ticket)
            return ticket
        return None

    def put_back(self, ticket: Ticket[T]) -> None:
        """Undo `pop`: the ticket is first of its line again, and its tenant's turn comes first."""
        self._lines.setdefault(ticket.tenant, deque()).appendleft(ticket)
        self._lines.move_to_end(ticket.tenant, last=False)
        self._per_tenant[ticket.tenant] = self._per_tenant.get(ticket.tenant, 0) + 1
        self._count += 1
        ticket.live = True

    def displace(self, tenant: str) -> Ticket[T] | None:
        """Make room in a full queue for a tenant that has less than its share of it: the newest
        ticket of the longest line is taken out and returned; None where `tenant` has its share."""
        longest = max(self._per_tenant, key=self._per_tenant.__getitem__, default=tenant)
        if self._per_tenant.get(longest, 0) <= self._per_tenant.get(tenant, 0) + 1:
            return None
        victim = next(t for t in reversed(self._lines[longest]) if t.live)
        self._leave(victim)
        return victim

    def remove(self, ticket: Ticket[T]) -> None:
        """Take a ticket out (its client left). Its place in the line is skipped later."""
        if ticket.live:
            self._leave(ticket)

    def expire(self, now: float) -> list[Ticket[T]]:
        """Take out all whose deadline has come."""
        return self._take([t for t in self if t.deadline <= now])

    def release(self, failed_start: str) -> list[Ticket[T]]:
        """Take out all that start `failed_start` answers: all but those that came after it."""
        return self._take([t for t in self if t.known_failure != failed_start])

    def oldest(self) -> float:
        """When the longest waiting request came; 0 with an empty queue."""
        return min((t.since for t in self), default=0.0)

    def __iter__(self) -> Iterator[Ticket[T]]:
        """All waiting tickets, by tenant."""
        for line in self._lines.values():
            for ticket in line:
                if ticket.live:
                    yield ticket

    def _take(self, tickets: list[Ticket[T]]) -> list[Ticket[T]]:
        for ticket in tickets:
            self._leave(ticket)
        return tickets

    def _leave(self, ticket: Ticket[T]) -> None:
        ticket.live = False
        self._count -= 1
        left = self._per_tenant[ticket.tenant] - 1
        if left:
            self._per_tenant[ticket.tenant] = left
            self._compact(ticket.tenant, left)
            return
        del self._per_tenant[ticket.tenant]
        if not self._count:
            self._lines.clear()

    def _compact(self, tenant: str, live: int) -> None:
        """Clients that come and leave must not make a line grow for ever."""
        line = self._lines.get(tenant)
        if line is not None and len(line) > 2 * live + 16:
            self._lines[tenant] = deque(t for t in line if t.live)

    @staticmethod
    def _first_live(line: deque[Ticket[T]]) -> Ticket[T] | None:
        while line:
            ticket = line.popleft()
            if ticket.live:
                return ticket
        return None
