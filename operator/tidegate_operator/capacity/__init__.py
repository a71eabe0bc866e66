"""Which replicas may be asked for: what is free, whose turn it is, who gives way. Pure.

A replica that is asked for where there is no room is a pod that waits for a node: it says nothing
to the others that wait, takes the next device that comes free whoever was first, and makes nobody
leave. So the count is written only when a node has room for it, and whoever waits until then waits
in a line of ours. It is a forecast: the scheduler has the last word, and says it on the pod.

`values` are the terms, `shape` reads them out of Kubernetes' objects, `room` is the arithmetic of
nodes and quotas, `turns` the order of waiting, `victims` who gives way, `decide` the decision, `words` what people
read.
"""

from tidegate_operator.capacity.decide import decide
from tidegate_operator.capacity.room import free
from tidegate_operator.capacity.values import (
    Ask,
    GiveWay,
    Idle,
    NodeView,
    Outcome,
    Placed,
    QuotaView,
    Rules,
    Shape,
    Taint,
    Tolerated,
    Wait,
)
from tidegate_operator.capacity.victims import fewest

__all__ = [
    "Ask",
    "GiveWay",
    "Idle",
    "NodeView",
    "Outcome",
    "Placed",
    "QuotaView",
    "Rules",
    "Shape",
    "Taint",
    "Tolerated",
    "Wait",
    "decide",
    "fewest",
    "free",
]
