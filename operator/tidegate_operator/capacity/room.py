"""The arithmetic of nodes and quotas.

Two sums are kept of every node: what is free now, and what will be when those that leave are gone.
One that waits is put on a node all the same, which takes both below zero: who comes after it then
finds there only what it does not need, so that a stream of small models never starves a large one.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
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


def fits(left: Amounts, amounts: Amounts) -> bool:
    """Whether what is left holds one more pod that asks for this."""
    if left.get("pods", 0) < 1000:
        return False
    return all(not amount or amount <= left.get(name, 0) for name, amount in amounts.items())


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
    """The nodes while asks are gone through. `now`, `soon`: what is left, by node.

    What has no room `now` will have none in the rest of the round, nor `soon` until somebody is made
    to leave: with many that wait for the same, nodes are gone through once and not for each."""

    def __init__(self, nodes: Sequence[NodeView], pods: Sequence[Placed]) -> None:
        self.nodes = {node.name: node for node in sorted(nodes, key=lambda one: one.name)}
        self.now = free(nodes, pods)
        self.soon = {name: dict(left) for name, left in self.now.items()}
        self._ever = free(nodes, ())
        self._on: dict[str, dict[str, list[Placed]]] = {name: {} for name in self.nodes}
        self._where: dict[str, set[str]] = {}
        self._admitting: dict[Hashable, list[NodeView]] = {}
        self._full: set[Hashable] = set()
        self.hopeless: set[Hashable] = set()
        for pod in pods:
            if pod.node not in self.nodes:
                continue
            if pod.leaving:
                take(self.soon[pod.node], pod.requests, -1)
            elif pod.deployment:
                self._on[pod.node].setdefault(pod.deployment, []).append(pod)
                self._where.setdefault(pod.deployment, set()).add(pod.node)
            if not pod.leaving and (pod.pinned or not pod.deployment):
                take(self._ever[pod.node], pod.requests)

    def admitting(self, shape: Shape) -> list[NodeView]:
        """The nodes whose labels and taints let it in, usable or not, but for those barred to it."""
        key = (tuple(sorted(shape.selector.items())), shape.tolerations, shape.barred)
        if key not in self._admitting:
            open_ = [node for node in self.nodes.values() if node.name not in shape.barred]
            found = [node for node in open_ if admits(node, shape)]
            self._admitting[key] = found
        return self._admitting[key]

    def best_now(self, shape: Shape) -> str:
        """The usable node that has room now and has the least to spare; empty: none."""
        key = alike(shape)
        if key in self._full:
            return ""
        found = self.best(shape, self.now)
        if not found:
            self._full.add(key)
        return found

    def best(self, shape: Shape, left: Mapping[str, Amounts]) -> str:
        """The same, of what is `left`."""
        fitting = [
            node.name
            for node in self.admitting(shape)
            if node.usable and fits(left[node.name], shape.requests)
        ]
        return min(fitting, key=lambda name: (left[name].get(shape.device, 0), name), default="")

    def nearest(self, shape: Shape) -> str:
        """Of the usable nodes that could hold it if our other models left, the one that lacks
        least; empty: none."""
        able = [
            node.name
            for node in self.admitting(shape)
            if node.usable and fits(self._ever[node.name], shape.requests)
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
        for node in self._where.pop(deployment, ()):
            for pod in self._on[node].pop(deployment):
                take(self.soon[node], pod.requests, -1)
        self.hopeless.clear()

    def on(self, node: str) -> Mapping[str, list[Placed]]:
        """Our models that have staying replicas there, with these."""
        return self._on[node]


def alike(shape: Shape) -> Hashable:
    """What two shapes share that fit alike."""
    selector = tuple(sorted(shape.selector.items()))
    return tuple(sorted(shape.requests.items())), selector, shape.tolerations, shape.barred


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
