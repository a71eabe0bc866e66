"""Where the scheduler refuses what the forecast lets in.

A replica that is written is a pod, and Kubernetes keeps nothing for a pod that is pending. We keep
its place in the line, as long as it waits for what we count. A claim without a volume, an affinity,
a volume in another zone are not counted: the forecast sees room where there is none for this pod,
and devices kept there would stand idle for ever. So where the scheduler has refused a pod for
`SECONDS` although the forecast lets it in, that node is none for it, until it is placed or another
pod is there in its stead.

The scheduler's message tells how many nodes have which reason, and names no node. One that names
nothing that is short is of the pod itself: all nodes are in doubt. One that names a shortage: those
that have room all the same. Shortages alone: the pod waits as it should, and a node that fills up
again is no longer in doubt.
"""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

SECONDS: Final = 15.0
"""Longer than the scheduler lets pass between two tries of a pod (10 s), and than most volumes take
to be made."""
_SHORTAGE: Final = re.compile(r"\bInsufficient \S|\bToo many pods\b")
_COUNTED: Final = re.compile(
    r"\bInsufficient \S|\bToo many pods\b|\btaint|\btolerate\b|\bnode affinity/selector\b|\bunschedulable\b"
)
_NOTHING: Final[Mapping[str, float]] = MappingProxyType({})


class Refusal(NamedTuple):
    """What is known of the pods of one model that are refused. `since`: of each node in doubt, since
    when it is. `elsewhere`: nodes that were so for long while the scheduler named a reason beside
    shortages, which the next shortage does not take away."""

    pods: frozenset[str]
    message: str
    since: Mapping[str, float] = _NOTHING
    elsewhere: frozenset[str] = frozenset()

    def barred(self, now: float) -> frozenset[str]:
        """The nodes that are none for it."""
        return self.elsewhere | {node for node, at in self.since.items() if now - at >= SECONDS}


def told(known: Refusal | None, messages: Mapping[str, str]) -> Refusal:
    """What the scheduler says now, by pod; `known` counts while the pods are the same."""
    pods = frozenset(messages)
    # Of several the one that waits for devices: it is the next to be placed.
    message = max((messages[one] for one in sorted(pods)), key=names_shortage)
    if known is None or known.pods != pods:
        return Refusal(pods, message)
    return known._replace(message=message)


def doubted(known: Refusal, nodes: Iterable[str], now: float) -> Refusal:
    """`nodes`: where the forecast lets it in now."""
    made = known._replace(since={node: known.since.get(node, now) for node in nodes})
    if names_shortage(known.message) and not counted(known.message):
        made = made._replace(elsewhere=made.barred(now))
    return made


def names_shortage(message: str) -> bool:
    """Whether a node lacks something that the forecast counts."""
    return bool(_SHORTAGE.search(_of_nodes(message)))


def counted(message: str) -> bool:
    """Whether the forecast looks at every reason that is named."""
    reasons = _of_nodes(message).rpartition(" available: ")[2].split(", ")
    return all(_COUNTED.search(one) for one in reasons)


def _of_nodes(message: str) -> str:
    return message.partition(" preemption: ")[0]  # what follows says what evicting others would do
