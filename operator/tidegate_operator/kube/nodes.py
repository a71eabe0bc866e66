"""Replicas on nodes that the control plane has lost: which of them are replaced, and when.

Kubernetes' node controller takes their pods out of service at once and evicts them after five
minutes, by deleting the objects; their ReplicaSets then make others elsewhere. A model that is
asked for cannot wait so long, so the same is done here, within seconds, for the pods that are
needed. A kubelet that comes back ends what it still runs, in order.

Two things look the same and are not a node's loss. After an outage of the API server the node
controller may judge before the kubelets have spoken again: so a pod is let be for `LOST_SECONDS`,
in which a kubelet renews its Lease. And where every node is silent at once, it is the control
plane that is deaf: then nothing is replaced, for there is nowhere to go.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from tidegate_operator.outcome import Trouble
from tidegate_operator.status import backoff
from tidegate_runtime.contract.cluster import answered, lost

Object = Mapping[str, Any]

LOST_SECONDS = 8.0
"""A kubelet tries to renew its Lease at least once in 7 s, and takes a moment."""


class Lost:
    """One deployment's lost pods. `deaf`: no node at all is heard of."""

    def __init__(self) -> None:
        self.deaf = False
        self._since: dict[str, float] = {}
        self._losses = 0
        self._next = 0.0

    def due(self, pods: Mapping[str, Object], desired: int, now: float) -> list[str]:
        """The pods, by uid, to delete now: as many as are missing, one round per back-off."""
        gone = {uid: pod for uid, pod in pods.items() if lost(pod)}
        self._since = {uid: self._since.get(uid, now) for uid in gone}
        if not gone:
            self._losses = 0
            return []
        if self.deaf or now < self._next:
            return []
        old = [uid for uid in gone if now - self._since[uid] >= LOST_SECONDS]
        missing = desired - (len(pods) - len(gone))
        chosen = old[: max(0, missing)]
        if chosen:
            self._losses += 1
            self._next = now + backoff(self._losses)
        return chosen

    def explained(self, found: Trouble) -> Trouble:
        """`found`, with what is done about it where it is a loss."""
        if found.reason != "NodeLost":
            return found
        if not self.deaf:
            return found._replace(message=f"{found.message}; it is being replaced")
        words = (
            "no node that runs engines or routers is heard of, so it may be the control plane: "
            "nothing is replaced"
        )
        return found._replace(message=f"{found.message}; {words}")


def deaf(pods: Iterable[Object], endpoints: Iterable[Object]) -> bool:
    """Whether every node that is known of is silent: those of all engines that had answered, and
    those of the routers, as their EndpointSlices tell."""
    silent: set[str] = set()
    heard: set[str] = set()
    for pod in pods:
        if answered(pod):
            (silent if lost(pod) else heard).add(pod.get("spec", {}).get("nodeName") or "")
    for one in endpoints:
        for endpoint in one.get("endpoints") or []:
            if (endpoint.get("conditions") or {}).get("ready"):
                heard.add(endpoint.get("nodeName") or "")
    return bool(silent) and heard <= silent


class HasPods(Protocol):
    """A model, as far as its pods tell of nodes."""

    @property
    def pods(self) -> Mapping[str, Object]:
        """By uid."""


class Hearing:
    """`deaf` of all models' pods, worked out once a second: each model that has lost one asks."""

    def __init__(self) -> None:
        self._at, self._deaf = 0.0, False

    def deaf(
        self, models: Mapping[str, HasPods], routers: Callable[[], Iterable[Object]], now: float
    ) -> bool:
        """Whether every node that is known of is silent, as of the last second."""
        if now - self._at >= 1.0:
            every = (pod for model in models.values() for pod in model.pods.values())
            self._at, self._deaf = now, deaf(every, routers())
        return self._deaf
