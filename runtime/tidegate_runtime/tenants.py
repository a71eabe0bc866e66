"""What the router knows of tenants, keys and prices: a picture that billing pushes.

`priced` says whether there is a billing service at all; a router alone serves a fixed list of keys
and meters into its own journal only.
"""

import hmac
from collections.abc import Callable, Mapping
from typing import Final

from tidegate_billing.keys import digest
from tidegate_billing.lending.said import PotView
from tidegate_billing.links import KeyView, PriceView, SnapshotLine
from tidegate_billing.who.scopes import matcher
from tidegate_runtime.purview import Purview

MAX_AGE: Final = 3600.0


class Tenants:
    """Keys by digest, prices by deployment, and how old the picture is."""

    def __init__(self, peppers: Mapping[int, bytes], *, priced: bool = True) -> None:
        self._peppers = dict(sorted(peppers.items(), reverse=True))
        self._by_digest: dict[bytes, KeyView] = {}
        self._by_id: dict[str, KeyView] = {}
        self._models: dict[str, Callable[[str], bool]] = {}
        self._seen_at: float | None = None
        self.suspended: set[str] = set()
        self.priced = priced
        self.version = 0
        self.prices: dict[str, int] = {}
        self.purview = Purview()

    def fresh(self, now: float) -> bool:
        """Whether the picture is young enough to serve anybody (`snapshot.maxAge`)."""
        if not self.priced:
            return True
        return self._seen_at is not None and now - self._seen_at <= MAX_AGE

    def known(self, key_id: str) -> KeyView | None:
        """A key as it is now; None: it is not valid (any more)."""
        return self._by_id.get(key_id)

    def in_scope(self, key: KeyView, model: str) -> bool:
        """Whether a key may ask for a model by this name. Its globs were compiled when it came."""
        if key.models is None:
            return True
        matches = self._models.get(key.id)
        return matches is not None and matches(model)

    def age(self, now: float) -> float | None:
        """Seconds since billing last confirmed this picture; None before it ever did."""
        return None if self._seen_at is None else now - self._seen_at

    def lookup(self, token: bytes) -> KeyView | None:
        """The key's owner, or None. Time does not depend on how much of a key is right."""
        for version, pepper in self._peppers.items():
            mine = digest(pepper, token)
            view = self._by_digest.get(mine)
            if (
                view is not None
                and view.pepper_version == version
                and hmac.compare_digest(bytes.fromhex(view.digest), mine)
            ):
                return view
        return None

    def apply(self, line: SnapshotLine, now: float) -> list[PotView]:
        """Take a line of the snapshot stream that came at `now`; the pots that have changed."""
        if line.type == "beat":
            if self._seen_at is not None:
                self._seen_at = now
            return []
        self._seen_at = now
        if line.type == "snapshot":
            self._by_digest.clear()
            self._by_id.clear()
            self._models.clear()
            self.prices.clear()
            self.suspended.clear()
        self.version = line.version
        for key_id in line.removed_keys:
            self._forget(key_id)
        for view in line.keys:
            self.add(view)
        self.prices.update({p.deployment: p.version for p in line.prices})
        self.suspended.update(line.suspended)
        self.suspended.difference_update(line.resumed)
        return self.purview.apply(line)

    def add(self, view: KeyView) -> None:
        """Know a key."""
        self._forget(view.id)
        self._by_id[view.id] = view
        self._by_digest[bytes.fromhex(view.digest)] = view
        if view.models is not None:
            self._models[view.id] = matcher(view.models)

    def _forget(self, key_id: str) -> None:
        old = self._by_id.pop(key_id, None)
        if old is not None:
            self._by_digest.pop(bytes.fromhex(old.digest), None)
            self._models.pop(key_id, None)

    def picture(self) -> SnapshotLine:
        """All of it, as the line that would bring it about."""
        return SnapshotLine(
            type="snapshot",
            version=self.version,
            keys=list(self._by_id.values()),
            prices=[PriceView(deployment=d, version=v) for d, v in self.prices.items()],
            suspended=sorted(self.suspended),
            pots=self.purview.pots,
            rates=self.purview.rates,
        )
