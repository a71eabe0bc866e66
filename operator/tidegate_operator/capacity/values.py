"""The terms of capacity. Amounts are thousandths of Kubernetes' units, so that all are integers:
`1500` of cpu is one and a half processors, `2000` of nvidia.com/gpu are two devices."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

Amounts = Mapping[str, int]
_NONE: Final[Mapping[str, Any]] = MappingProxyType({})
Reason = Literal["QuotaExceeded", "Unschedulable"]


class Tolerated(NamedTuple):
    """A toleration. Empty `key` or `effect`: any."""

    key: str = ""
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str = ""
    effect: str = ""


class Taint(NamedTuple):
    """A taint of a node."""

    key: str
    value: str
    effect: str


class Shape(NamedTuple):
    """What one replica asks for. `device`: the resource of its accelerators; empty: it has none,
    and nodes are not looked at. `quota`: what a ResourceQuota may count of it. `elastic`: a node
    autoscaler answers a pod that waits, so that one is asked for where no node has room.
    `barred`: nodes that the scheduler does not give it, whatever the forecast says."""

    device: str = ""
    requests: Amounts = _NONE
    quota: Amounts = _NONE
    selector: Mapping[str, str] = _NONE
    tolerations: tuple[Tolerated, ...] = ()
    elastic: bool = False
    barred: frozenset[str] = frozenset()


class NodeView(NamedTuple):
    """A node. `usable`: ready, and not closed to new pods."""

    name: str
    allocatable: Amounts = _NONE
    labels: Mapping[str, str] = _NONE
    taints: tuple[Taint, ...] = ()
    usable: bool = True


class Placed(NamedTuple):
    """A pod on a node. `deployment`: of a model of ours; empty: somebody else's.
    `leaving`: its end has begun, or it drains: its room comes free without anybody else's doing.
    `pinned`: of ours, and kept by a warm minimum or a person: nothing makes it leave.
    `quota`: of one of ours, what its namespace has back when it leaves. `ends`: when it is to be
    gone, once its end has begun: seconds since the epoch, 0 before."""

    uid: str
    node: str
    requests: Amounts
    deployment: str = ""
    leaving: bool = False
    pinned: bool = False
    quota: Amounts = _NONE
    ends: float = 0.0


class QuotaView(NamedTuple):
    """A ResourceQuota of a namespace, as its status tells."""

    namespace: str
    name: str
    hard: Amounts
    used: Amounts


class Ask(NamedTuple):
    """A model that has fewer replicas on nodes than it shall have.

    `wanted`: replicas without a node; `written` of them are asked for already and not to be taken
    back; of these, `unseen` have no pod yet, so that no quota counts them. `has`: replicas on nodes.
    `since`: when the waiting began. `refused`: why the scheduler places none of what is written, in
    its words; empty: it has not said so of all."""

    deployment: str
    tenant: str
    shape: Shape
    wanted: int
    since: float
    written: int = 0
    unseen: int = 0
    has: int = 0
    refused: str = ""

    @property
    def namespace(self) -> str:
        """The one it is in."""
        return self.deployment.partition("/")[0]


class Idle(NamedTuple):
    """A model that could give way now: nobody uses it, nobody waits for it, and nothing but the
    time since `last_demand` keeps it. `quota`: what its namespace would have back."""

    deployment: str
    last_demand: float
    quota: Amounts = _NONE


class Rules(NamedTuple):
    """The platform's policy. `minimum_idle`: seconds without demand before a model may be made to
    give way."""

    give_way: bool = True
    minimum_idle: float = 60.0


class Wait(NamedTuple):
    """Why an ask gets nothing (more) now."""

    reason: Reason
    message: str


class GiveWay(NamedTuple):
    """`victim` shall go to zero, to make room for `waiter`."""

    victim: str
    waiter: str


class Outcome(NamedTuple):
    """`granted`: replicas to ask for beyond what is written, by deployment (left out: none).
    `waits`: the asks that did not get all they want. `gives`: in the order of choice. `doubted`: of
    each ask that is refused, the nodes where the forecast lets it in."""

    granted: Mapping[str, int]
    waits: Mapping[str, Wait]
    gives: tuple[GiveWay, ...]
    doubted: Mapping[str, frozenset[str]] = _NONE
