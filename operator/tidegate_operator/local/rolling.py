"""How many replicas to start and to let go while a model goes over to another build: pure.

With a surge, a new replica is started beside the old ones and an old one is let go for each that
has answered; the number that can serve never falls below what is wanted. Without one
(`maxSurge: 0`) an old one is let go first and its process is gone before the new one starts, for on
one machine that is what it is asked for: there is no room for two. Then `maxUnavailable` says how
many may be missing at a time; requests wait meanwhile. Where the machine has room, `maxUnavailable`
gains nothing and is passed over.
"""

from typing import NamedTuple


class Group(NamedTuple):
    """Replicas of the old builds, or of the new one. `leaving`: their processes are still there."""

    ready: int = 0
    starting: int = 0
    leaving: int = 0

    @property
    def active(self) -> int:
        """Those that serve or will."""
        return self.ready + self.starting


class Moves(NamedTuple):
    """How many to start (of the new build), and how many of each to let go, those first that are
    not ready."""

    start: int
    stop_old: int
    stop_new: int


def moves(
    old: Group, new: Group, desired: int, *, able: bool, surge: int = 1, unavailable: int = 0
) -> Moves:
    """What to do now, for `desired` replicas. `able`: the new build may be started at this time;
    otherwise the old ones stay, as many as are wanted.

    1 wanted, surge 1:  old 1 -> old 1, new starting -> new ready: the old one goes
    1 wanted, surge 0:  old 1 -> old leaving -> nothing there: new starting -> new ready
    """
    stop_new = max(0, new.active - desired)
    kept = new.active - stop_new
    room = desired + surge - old.active - kept
    if not surge:
        room -= old.leaving
    start = min(desired - kept, room) if able else 0
    floor = desired if surge or not able else max(0, desired - unavailable)
    ready = old.ready + min(new.ready, kept)
    stop_ready = max(0, min(old.ready, ready - floor))
    # An old one that has not answered yet is of use only where too few others have.
    stop_starting = old.starting if ready >= floor else 0
    stop_old = max(stop_ready + stop_starting, old.active - desired)
    return Moves(max(0, start), stop_old, stop_new)
