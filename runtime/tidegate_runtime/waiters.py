"""Requests that wait to learn whether they can be paid for, in the order in which they came."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tidegate_runtime.exchange import Exchange

TENANT_WAITS: Final = 512
"""So many of one tenant may wait: their bodies are in memory."""


class Waiters:
    """Who waits for which pots. What is dropped is dropped together, however many that are."""

    def __init__(self) -> None:
        self._all: list[Exchange] = []
        self._pots: Counter[str] = Counter()
        self._tenants: Counter[str] = Counter()

    def __iter__(self) -> "Iterator[Exchange]":
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def before(self, pots: Iterable[str]) -> bool:
        """Whether somebody waits for one of these already: nobody passes him."""
        return any(self._pots[pot] for pot in pots)

    def full(self, tenant: str) -> bool:
        """Whether no more of a tenant may wait."""
        return self._tenants[tenant] >= TENANT_WAITS

    def add(self, exchange: "Exchange") -> None:
        """Wait, as the last."""
        assert exchange.draw is not None
        exchange.draw.waits = True
        self._all.append(exchange)
        self._count(exchange, 1)

    def drop(self, those: "Iterable[Exchange]") -> None:
        """These wait no longer."""
        gone = set()
        for exchange in those:
            if exchange.draw is not None and exchange.draw.waits:
                exchange.draw.waits = False
                gone.add(id(exchange))
                self._count(exchange, -1)
        if gone:
            self._all = [one for one in self._all if id(one) not in gone]

    def _count(self, exchange: "Exchange", by: int) -> None:
        assert exchange.draw is not None
        for counter, names in (
            (self._pots, exchange.draw.pots),
            (self._tenants, (exchange.key.tenant,)),
        ):
            for name in names:
                counter[name] += by
                if not counter[name]:
                    del counter[name]
