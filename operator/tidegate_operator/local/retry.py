"""When a model whose engine failed may be started again, as a value."""

from typing import NamedTuple

from tidegate_operator.status import backoff

STEADY_SECONDS = 60.0
"""An engine that served so long and then dies has not failed at once."""


class Retry(NamedTuple):
    """Failed starts and crashes in a row, and when the next start may be."""

    starts: int = 0
    crashes: int = 0
    at: float = 0.0

    def start_failed(self, now: float) -> "Retry":
        """After a start that did not succeed: pauses of 1, 2, 4 ... 60 s."""
        starts = self.starts + 1
        return self._replace(starts=starts, at=now + backoff(starts))

    def crashed(self, served: float, now: float) -> "Retry":
        """After an engine died that had served for `served` seconds: the first time at once."""
        crashes = 1 if served >= STEADY_SECONDS else self.crashes + 1
        return self._replace(crashes=crashes, at=now + backoff(crashes - 1))

    def ended_well(self) -> "Retry":
        """After an engine served and ended when it was told to: crashes of before are over. Else one
        that scales to zero, and so never serves for long, would remember each of them for ever."""
        return self._replace(crashes=0)

    def answered(self) -> "Retry":
        """After a start that succeeded."""
        return self._replace(starts=0, at=0.0)
