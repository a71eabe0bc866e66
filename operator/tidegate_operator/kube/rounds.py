"""Which resources are looked at again although nothing was told of them. Pure.

All of them every ten minutes, should a watch have missed something. Every quarter of a minute those
with pods that have read a Secret of their tenant's: Secrets are not watched, since a watch of them
would show the operator every Secret of the cluster. One read each, and only while pods run, so that
a thousand sleeping models cost nothing.
"""

from collections.abc import Callable, Iterable
from typing import Final

ALL_SECONDS: Final = 600.0
SECRET_SECONDS: Final = 15.0


class Rounds:
    """Times are of a monotonic clock, in seconds; `begun` is now."""

    def __init__(self, begun: float) -> None:
        self._all = begun + ALL_SECONDS
        self._secrets = begun + SECRET_SECONDS

    def due(self, now: float, known: Iterable[str], reads: Callable[[str], bool]) -> list[str]:
        """Those of `known` to look at now; `reads`: whether a running pod of it reads a Secret."""
        if now >= self._all:
            self._all, self._secrets = now + ALL_SECONDS, now + SECRET_SECONDS
            return list(known)
        if now >= self._secrets:
            self._secrets = now + SECRET_SECONDS
            return [one for one in known if reads(one)]
        return []
