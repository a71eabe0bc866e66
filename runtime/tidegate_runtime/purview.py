"""Which pots pay for whom, and at which rates: billing's picture of them, ready to look up.

Pots that follow each other (a budget's days, credit's terms) share their name up to the last colon. The next one
is told a minute ahead, and each is drawn on from its own beginning by this router's clock.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from tidegate_billing import money
from tidegate_billing.lending.said import PotView, RateView
from tidegate_billing.links import KeyView, SnapshotLine
from tidegate_runtime.wallet import Rates

CREDIT: Final = "credit:"
DIGITS: Final = 18


class Offer(NamedTuple):
    """What a model costs a tenant at most."""

    currency: str
    rates: Rates


class Purview:
    """Pots by tenant, and rates by deployment."""

    def __init__(self) -> None:
        self._pots: dict[str, PotView] = {}
        self._chains: dict[str, list[list[PotView]]] = {}
        self._rates: dict[tuple[str, str], RateView] = {}
        self._offers: dict[tuple[str, str], Offer] = {}

    def apply(self, line: SnapshotLine) -> list[PotView]:
        """Take a line of the snapshot; the pots that are new or other than they were."""
        if line.type == "snapshot":
            fresh = {pot.name for pot in line.pots}
            gone = [name for name in self._pots if name not in fresh]
            self._rates.clear()
            self._offers.clear()
        else:
            gone = line.removed_pots
        for rate in line.rates:
            key = (rate.tenant, rate.deployment)
            self._rates[key] = rate
            self._offers[key] = _offer(rate)
        changed = [pot for pot in line.pots if self._pots.get(pot.name) != pot]
        touched = {pot.tenant for pot in changed}
        for name in gone:
            old = self._pots.pop(name, None)
            if old is not None:
                touched.add(old.tenant)
        self._pots.update((pot.name, pot) for pot in changed)
        for tenant in touched:
            self._chain(tenant)
        return changed

    def _chain(self, tenant: str) -> None:
        chains: dict[str, list[PotView]] = {}
        for pot in self._pots.values():
            if pot.tenant == tenant:
                chains.setdefault(pot.name.rpartition(":")[0], []).append(pot)
        self._chains.pop(tenant, None)
        if chains:
            found = [sorted(chain, key=lambda pot: pot.since) for chain in chains.values()]
            self._chains[tenant] = found

    @property
    def limits(self) -> bool:
        """Whether anybody's spending is bounded."""
        return bool(self._pots)

    def limited(self, tenant: str) -> bool:
        """Whether anything bounds what this tenant spends."""
        return tenant in self._chains

    def offer(self, tenant: str, deployment: str) -> Offer | None:
        """What a model costs this tenant at most; None: not known (yet)."""
        return self._offers.get((tenant, deployment)) or self._offers.get(("", deployment))

    def covering(self, key: KeyView, currency: str, wall: int) -> tuple[str, ...] | None:
        """The pots that pay for what a key spends in a currency at `wall` (microseconds); None: the
        tenant is prepaid, and has no credit in it."""
        found = []
        prepaid = paid = False
        for chain in self._chains.get(key.tenant, ()):
            first = chain[0]
            credit = first.name.startswith(CREDIT)
            prepaid |= credit
            if first.currency != currency or not _covers(first, key):
                continue
            paid |= credit
            begun = [pot for pot in chain if pot.since <= wall]
            found.append((begun[-1] if begun else first).name)
        return None if prepaid and not paid else tuple(found)

    @property
    def pots(self) -> list[PotView]:
        """All of them."""
        return list(self._pots.values())

    @property
    def rates(self) -> list[RateView]:
        """All of them."""
        return list(self._rates.values())

    def names(self) -> Iterable[str]:
        """Of every pot that there is."""
        return self._pots.keys()


def amounts(texts: Mapping[str, str]) -> dict[str, int]:
    """What billing said of pots, in atto."""
    return {pot: money.parse(text, digits=DIGITS) for pot, text in texts.items()}


def _covers(pot: PotView, key: KeyView) -> bool:
    return pot.project in {"", key.project} and pot.key_id in {"", key.id}


def _offer(rate: RateView) -> Offer:
    read, written, request = (
        money.parse(text, digits=DIGITS) for text in (rate.input, rate.output, rate.request)
    )
    return Offer(rate.currency, Rates(read, written, request))
