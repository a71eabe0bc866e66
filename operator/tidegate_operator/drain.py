"""Taking replicas away without losing a request: which ones, and when one may go.

A replica leaves in steps. It is marked draining; every router stops sending to it and says so on
its demand link; what it still serves runs out; only then is it stopped. The routers' word is the
proof, so a router that says nothing proves nothing: for `SILENCE_SECONDS` it is waited for, and
after that it is taken for gone. Until the stop itself a drain can be cancelled.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tidegate_runtime.contract.links import DemandLine, ReplicaDemand

SILENCE_SECONDS = 60.0
"""How long a router may be silent before it is taken for gone."""


class Verdict(NamedTuple):
    """Whether a draining replica may be stopped now, and why (not)."""

    stop: bool
    reason: str


class Busy(NamedTuple):
    """A replica and the requests it serves; None: some router is silent, so nobody knows."""

    id: str
    in_flight: int | None
    ready: bool = True


def busy(replica_ids: Iterable[str], lines: Mapping[str, DemandLine | None]) -> list[Busy]:
    """What each replica serves, summed over routers."""
    unknown = any(line is None for line in lines.values())
    counts: dict[str, int] = {}
    for line in lines.values():
        for replica in line.replicas if line is not None else ():
            counts[replica.id] = counts.get(replica.id, 0) + replica.in_flight
    return [Busy(one, None if unknown else counts.get(one, 0)) for one in replica_ids]


def choose(replicas: Sequence[Busy], count: int) -> list[str]:
    """The `count` replicas to drain: those not ready yet, then the least busy, then by id.

    A replica whose load is unknown counts as busier than any known one.
    """

    def cost(replica: Busy) -> tuple[bool, bool, int, str]:
        known = replica.in_flight
        return replica.ready, known is None, known or 0, replica.id

    return [replica.id for replica in sorted(replicas, key=cost)[: max(0, count)]]


def may_stop(
    replica_id: str,
    demand_lines: Mapping[str, DemandLine | None],
    since: float,
    timeout: float,
    now: float,
) -> Verdict:
    """May the replica that is draining since `since` be stopped at `now`?

    `demand_lines` holds each connected router's latest line, None for one that has not spoken;
    `at` of a line is when it was received, since clocks of two machines must not be compared.
    A line from before the drain began proves nothing. `timeout` seconds end all waiting.
    """
    if now - since >= timeout:
        return Verdict(True, f"drain.timeoutSeconds ({timeout:.0f}) is over")
    for router, line in sorted(demand_lines.items()):
        waiting = _waits_for(router, line, replica_id, since, now)
        if waiting:
            return Verdict(False, waiting)
    return Verdict(True, "every router has excluded it and nothing is in flight")


def _waits_for(
    router: str, line: DemandLine | None, replica_id: str, since: float, now: float
) -> str:
    spoke = since if line is None else line.at
    if now - spoke >= SILENCE_SECONDS:
        return ""
    if line is None or line.at < since:
        return f"router {router} has not spoken since the drain began"
    found = next((one for one in line.replicas if one.id == replica_id), None)
    return _remaining(router, found)


def _remaining(router: str, found: ReplicaDemand | None) -> str:
    # A replica a router leaves out is one with nothing in flight, but leaving it out does not say
    # that the router knows of the drain: only `excluded` does.
    if found is None or not found.excluded:
        return f"router {router} has not excluded it"
    if found.in_flight:
        return f"router {router} has {found.in_flight} in flight there"
    return ""
