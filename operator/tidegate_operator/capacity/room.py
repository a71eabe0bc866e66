"""The arithmetic of nodes and quotas.

Two sums are kept of every node: what is free now, and what will be when those that leave are gone.
One that waits is put on a node all the same, which takes both below zero: who comes after it then
finds there only what it does not need, so that a stream of small models never starves a large one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from tidegate_operator.capacity.values import (
    Amounts,
    NodeView,
    Placed,
    QuotaView,
    Shape,
    Taint,
    Tolerated,
)

_BINDING: Final = frozenset({"NoSchedule", "NoExecute"})


def free(nodes: Iterable[NodeView], pods: Iterable[Placed]) -> dict[str, dict[str, int]]:
    """What each node has left beside these pods; below zero where they ask for more than it has."""
    left = {node.name: dict(node.allocatable) for node in nodes}
    for pod in pods:
        if pod.node in left:
            take(left[pod.node], pod.requests)
    return left


def take(left: dict[str, int], amounts: Amounts, times: int = 1) -> None:
    """Take amounts off what is left; with `times` -1 they come back. The number of pods is one."""
    left["pods"] = left.get("pods", 0) - 1000 * times
    for name, amount in amounts.items():
        left[name] = left.get(name, 0) - amount * times


def lacking(left: Amounts, amounts: Amounts) -> dict[str, int]:
    """By how much each resource falls short."""
    asked = {"pods": 1000, **amounts}
    return {
        name: amount - left.get(name, 0)
        for name, amount in asked.items()
        if amount > left.get(name, 0) and (amount or name == "pods")
    }


def admits(node: NodeView, shape: Shape) -> bool:
    """Whether its labels and taints let the shape in."""
    if any(node.labels.get(key) != value for key, value in shape.selector.items()):
        return False
    binding = [taint for taint in node.taints if taint.effect in _BINDING]
    return all(any(_bears(one, taint) for one in shape.tolerations) for taint in binding)


def _bears(one: Tolerated, taint: Taint) -> bool:
    if one.effect not in {"", taint.effect}:
        return False
    if one.operator == "Exists":
        return one.key in {"", taint.key}
    return (one.key, one.value) == (taint.key, taint.value)


class Room:
    """The nodes while asks are gone through. `now`, `soon`: what is left, by node."""

    def __init__(self, nodes: Sequence[NodeView], pods: Sequence[Placed]) -> None:
        self.nodes = {node.name: node for node in sorted(nodes, key=lambda one: one.name)}
        self.now = free(nodes, pods)
        self.soon = free(nodes, [pod for pod in pods if not pod.leaving])
        self._ours: dict[str, list[Placed]] = {}
        for pod in pods:
            if pod.deployment and not pod.leaving and pod.node in self.nodes:
                self._ours.setdefault(pod.deployment, []).append(pod)
        staying = [pod for pod in pods if not pod.leaving]
        self._ever = free(nodes, [pod for pod in staying if pod.pinned or not pod.deployment])

    def admitting(self, shape: Shape) -> list[NodeView]:
        """The nodes whose labels and taints let it in, usable or not."""
        return [node for node in self.nodes.values() if admits(node, shape)]

    def best(self, shape: Shape, left: Mapping[str, Amounts]) -> str:
        """The usable node that has room in `left` and has the least to spare; empty: none."""
        fitting = [
            name
            for name in (node.name for node in self.admitting(shape) if node.usable)
            if not lacking(left[name], shape.requests)
        ]
        return min(fitting, key=lambda name: (left[name].get(shape.device, 0), name), default="")

    def nearest(self, shape: Shape) -> str:
        """Of the usable nodes that could hold it if our other models left, the one that lacks
        least; empty: none."""
        able = [
            node.name
            for node in self.admitting(shape)
            if node.usable and not lacking(self._ever[node.name], shape.requests)
        ]

        def missing(name: str) -> tuple[int, str]:
            return shape.requests[shape.device] - self.soon[name].get(shape.device, 0), name

        return min(able, key=missing, default="")

    def place(self, node: str, amounts: Amounts) -> None:
        """Put a replica on a node, or reserve what it waits for."""
        take(self.now[node], amounts)
        take(self.soon[node], amounts)

    def leaves(self, deployment: str) -> None:
        """All replicas of a model of ours will go."""
        for pod in self._ours.pop(deployment, []):
            take(self.soon[pod.node], pod.requests, -1)

    def on(self, node: str) -> Mapping[str, list[Placed]]:
        """Our models that have staying replicas there, with these."""
        found = {
            deployment: [pod for pod in pods if pod.node == node]
            for deployment, pods in self._ours.items()
        }
        return {deployment: pods for deployment, pods in found.items() if pods}


class Quotas:
    """The quotas while asks are gone through. They name what they count; the rest is free."""

    def __init__(self, quotas: Iterable[QuotaView]) -> None:
        self._left: dict[str, dict[str, dict[str, int]]] = {}
        self._views: dict[tuple[str, str], QuotaView] = {}
        for quota in sorted(quotas, key=lambda one: (one.namespace, one.name)):
            left = {name: hard - quota.used.get(name, 0) for name, hard in quota.hard.items()}
            self._left.setdefault(quota.namespace, {})[quota.name] = left
            self._views[quota.namespace, quota.name] = quota

    def take(self, namespace: str, amounts: Amounts, times: int = 1) -> None:
        """Take amounts off every quota of a namespace; a negative `times` gives them back."""
        for left in self._left.get(namespace, {}).values():
            for name in left:
                left[name] -= amounts.get(name, 0) * times

    def short(self, namespace: str, amounts: Amounts, back: Amounts | None = None) -> bool:
        """Whether a quota lacks something of `amounts`, were `back` given back before."""
        return any(True for _ in self._short(namespace, amounts, back or {}))

    def shortest(self, namespace: str, amounts: Amounts) -> tuple[QuotaView, str, int]:
        """The first quota that is short, of what, and what is left of it."""
        return next(self._short(namespace, amounts, {}))

    def ever(self, namespace: str, amounts: Amounts) -> bool:
        """Whether the quotas would hold this with nothing else in the namespace."""
        return all(
            amounts.get(name, 0) <= hard
            for (space, _), quota in self._views.items()
            if space == namespace
            for name, hard in quota.hard.items()
        )

    def _short(
        self, namespace: str, amounts: Amounts, back: Amounts
    ) -> Iterator[tuple[QuotaView, str, int]]:
        for quota, left in self._left.get(namespace, {}).items():
            for name, amount in left.items():
                if amounts.get(name, 0) > max(0, amount + back.get(name, 0)):
                    yield self._views[namespace, quota], name, amount
