"""Taking replicas away without losing a request: which ones, and when one may go.

A replica leaves in steps. It is marked draining; every router stops sending to it and says so on
its demand link, with the mark that it saw; what it still serves runs out; only then is it stopped.
The routers' word is the proof, so a router that says nothing proves nothing: it is waited for until
it is taken for gone (`demand.FORGET_AFTER`). Until the stop itself a drain can be cancelled; the
next one has another mark, so that no word on the first is taken for one on the second.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tidegate_runtime.contract.links import DemandLine


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


def mark(since: float) -> str:
    """The mark of the drain that began at `since`, seconds since the epoch: each has its own."""
    return f"{since:.3f}".removesuffix(".000")


def may_stop(
    replica_id: str,
    demand_lines: Mapping[str, DemandLine | None],
    since: float,
    timeout: float,
    now: float,
) -> Verdict:
    """May the replica that is draining since `since` be stopped at `now`?

    `demand_lines` holds the latest line of each router that is not taken for gone, None for one
    that is silent. When a line was written is not asked, for that is another machine's clock: one
    that names this drain's mark was written after it. `timeout` seconds end all waiting.
    """
    if now - since >= timeout:
        return Verdict(True, f"drain.timeoutSeconds ({timeout:.0f}) is over")
    for router, line in sorted(demand_lines.items()):
        waiting = _waits_for(router, line, replica_id, mark(since))
        if waiting:
            return Verdict(False, waiting)
    return Verdict(True, "every router has excluded it and nothing is in flight")


def _waits_for(router: str, line: DemandLine | None, replica_id: str, drain: str) -> str:
    if line is None:
        return f"router {router} is silent"
    found = next((one for one in line.replicas if one.id == replica_id), None)
    # A replica a router leaves out is one with nothing in flight, but leaving it out does not say
    # that the router knows of the drain. Nor does an exclusion for a drain that was taken back:
    # such a router has yet to see that, and would send there until it sees the next mark.
    if found is None or not found.excluded or found.mark != drain:
        return f"router {router} has not excluded it"
    if found.in_flight:
        return f"router {router} has {found.in_flight} in flight there"
    return ""
