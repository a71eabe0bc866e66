"""The decision: the asks in their order, each against what those before it have left.

For each replica: its namespace's quota, then a node that has room. Where there is none it waits,
and what it waits for is reserved: on a node whose room comes free by itself, else on one where idle
models are made to give way, else on the one that lacks least. What it could never have is neither
waited for nor reserved. What is wanted beyond a quota reserves nothing either: a namespace that is
at its limit delays nobody. Nor does a pod that the scheduler refuses where the forecast has room.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

from tidegate_operator.capacity import refused, words
from tidegate_operator.capacity.room import Quotas, Room, alike, fits, take
from tidegate_operator.capacity.turns import ordered
from tidegate_operator.capacity.values import (
    Amounts,
    Ask,
    GiveWay,
    Idle,
    NodeView,
    Outcome,
    Placed,
    QuotaView,
    Reason,
    Rules,
    Shape,
    Wait,
)
from tidegate_operator.capacity.victims import fewest


def decide(
    asks: Iterable[Ask],
    nodes: Sequence[NodeView],
    pods: Sequence[Placed],
    quotas: Iterable[QuotaView],
    idle: Iterable[Idle],
    rules: Rules,
    served: Mapping[str, float],
    now: float,
) -> Outcome:
    """Who gets how many replicas now, who waits for what, and who gives way for it.

    `pods` are those on nodes; `served`: when each tenant was last granted something."""
    old_enough = [one for one in idle if now - one.last_demand >= rules.minimum_idle]
    round_ = _Round(nodes, pods, quotas, old_enough if rules.give_way else [])
    known = list(asks)
    for ask in known:
        round_.quotas.take(ask.namespace, ask.shape.quota, ask.unseen)
    for unit in ordered(known, served):
        round_.look_at(unit.ask, written=unit.written)
    return round_.outcome()


class _Held(NamedTuple):
    """A wait, before its place in the line is known. `line`: of which line; empty: of none."""

    reason: Reason
    message: str
    line: str


class _Round:
    """One pass over the asks."""

    def __init__(
        self,
        nodes: Sequence[NodeView],
        pods: Sequence[Placed],
        quotas: Iterable[QuotaView],
        idle: Sequence[Idle],
    ) -> None:
        self.quotas = Quotas(quotas)
        self._room = Room(nodes, pods)
        self._began = {name: dict(left) for name, left in self._room.now.items()}
        self._idle = {one.deployment: one for one in sorted(idle, key=_oldest)}
        self._leaving: dict[str, dict[str, int]] = {}
        for pod in pods:
            if pod.leaving and pod.deployment:
                self._goes(pod.deployment, pod.quota)
        self._granted: dict[str, int] = {}
        self._held: dict[str, _Held] = {}
        self._gives: list[GiveWay] = []
        self._words: dict[Hashable, str] = {}
        self._doubted: dict[str, frozenset[str]] = {}

    def look_at(self, ask: Ask, *, written: bool) -> None:
        """One replica of an ask; after one that waits, none of the same ask is granted."""
        if ask.refused and ask.shape.device and ask.deployment not in self._doubted:
            self._doubted[ask.deployment] = self._lets_in(ask)
        if ask.deployment in self._held:
            return
        if not written and not self._within_quota(ask):
            return
        if ask.shape.device and not self._has_room(ask):
            return
        if not written:
            self.quotas.take(ask.namespace, ask.shape.quota)
            self._granted[ask.deployment] = self._granted.get(ask.deployment, 0) + 1

    def outcome(self) -> Outcome:
        """What came of it."""
        lines: dict[str, list[str]] = {}
        for deployment, held in self._held.items():
            if held.line:
                lines.setdefault(held.line, []).append(deployment)
        waits = {
            deployment: Wait(held.reason, held.message + _place(lines.get(held.line), deployment))
            for deployment, held in self._held.items()
        }
        return Outcome(self._granted, waits, tuple(self._gives), self._doubted)

    def _lets_in(self, ask: Ask) -> frozenset[str]:
        """The nodes that the scheduler would give it if it went by the forecast."""
        shape = ask.shape._replace(barred=frozenset())
        waits = refused.names_shortage(ask.refused)
        return frozenset(
            node.name
            for node in self._room.admitting(shape)
            if node.usable and not (waits and not fits(self._room.now[node.name], shape.requests))
        )

    def _within_quota(self, ask: Ask) -> bool:
        space, amounts = ask.namespace, ask.shape.quota
        if not self.quotas.short(space, amounts):
            return True
        quota, name, left = self.quotas.shortest(space, amounts)
        message = words.over_quota(quota, name, left, amounts[name])
        line = f"quota {space}" if self.quotas.ever(space, amounts) else ""
        if line and ask.shape.device and not self._could_run(ask):
            message += "; no node has room for it either"  # nobody leaves for what could not run
        elif line:
            victims = self._of_the_namespace(ask)
            self._give(victims, ask)
            if victims:
                message += f"; waits for {', '.join(victims)} to leave"
        self._held[ask.deployment] = _Held("QuotaExceeded", message, line)
        return False

    def _could_run(self, ask: Ask) -> bool:
        """Whether a node has room, or would have if somebody idle left."""
        shape, room = ask.shape, self._room
        if shape.elastic or room.best_now(shape) or room.best(shape, room.soon):
            return True
        return bool(self._on_a_node(ask)[1])

    def _of_the_namespace(self, ask: Ask) -> list[str]:
        """Idle models of the namespace that would bring it below its quota, as few as may be."""
        space, amounts = ask.namespace, ask.shape.quota
        back = dict(self._leaving.get(space, {}))
        if not self.quotas.short(space, amounts, back):
            return []
        mine = [
            one
            for name, one in self._idle.items()
            if name.startswith(f"{space}/") and name != ask.deployment
        ]

        def enough(chosen: Sequence[Idle]) -> bool:
            total = dict(back)
            for one in chosen:
                for name, amount in one.quota.items():
                    total[name] = total.get(name, 0) + amount
            return not self.quotas.short(space, amounts, total)

        return [one.deployment for one in fewest(mine, enough)]

    def _has_room(self, ask: Ask) -> bool:
        shape, room = ask.shape, self._room
        node = room.best_now(shape)
        if node:
            room.place(node, shape.requests)
            return True
        if shape.elastic:
            return True
        nodes = room.admitting(shape)
        if not any(fits(node.allocatable, shape.requests) for node in nodes):
            why = words.refused(ask.refused) if shape.barred else words.never(shape, nodes)
            self._held[ask.deployment] = _Held("Unschedulable", why, "")
            return False
        key = alike(shape)
        if key not in self._words:
            self._words[key] = words.full(shape, room, self._began, nodes)
        message = self._words[key]
        node, more = ("", "") if key in room.hopeless else self._comes_free(ask, key)
        if not node and not ask.has:  # a further replica keeps nobody's first one waiting
            node = room.nearest(shape)
        if node:
            room.place(node, shape.requests)
        self._held[ask.deployment] = _Held("Unschedulable", message + more, "nodes")
        return False

    def _comes_free(self, ask: Ask, key: Hashable) -> tuple[str, str]:
        """The node where room for it comes free, or is made now, and that in words."""
        node = self._room.best(ask.shape, self._room.soon)
        if node:
            return node, f"; room comes free on {node}"
        if ask.refused and not refused.names_shortage(ask.refused):
            return "", ""  # nobody leaves for what no room would help
        node, victims = self._on_a_node(ask)
        if victims:
            self._give(victims, ask)
            return node, f"; waits for {', '.join(victims)} to leave {node}"
        if ask.deployment not in self._idle:  # it might be another's victim
            self._room.hopeless.add(key)
        return "", ""

    def _on_a_node(self, ask: Ask) -> tuple[str, list[str]]:
        """The node where whoever has to go was used longest ago, and who that is."""
        found = []
        for node in self._room.admitting(ask.shape):
            if node.usable and (chosen := self._victims(node.name, ask.shape, ask.deployment)):
                last = max(self._idle[one].last_demand for one in chosen)
                found.append((last, len(chosen), node.name, chosen))
        if not found:
            return "", []
        _, _, name, chosen = min(found)
        return name, chosen

    def _victims(self, node: str, shape: Shape, waiter: str) -> list[str]:
        there = self._room.on(node)
        names = (self._idle.keys() & there.keys()) - {waiter}
        mine = sorted((self._idle[one] for one in names), key=_oldest)

        def enough(chosen: Sequence[Idle]) -> bool:
            left = dict(self._room.soon[node])
            for one in chosen:
                for pod in there[one.deployment]:
                    take(left, pod.requests, -1)
            return fits(left, shape.requests)

        return [one.deployment for one in fewest(mine, enough)]

    def _give(self, victims: Iterable[str], ask: Ask) -> None:
        for victim in victims:
            self._gives.append(GiveWay(victim, ask.deployment))
            self._goes(victim, self._idle.pop(victim).quota)
            self._room.leaves(victim)

    def _goes(self, deployment: str, quota: Amounts) -> None:
        back = self._leaving.setdefault(deployment.partition("/")[0], {})
        for name, amount in quota.items():
            back[name] = back.get(name, 0) + amount


def _oldest(one: Idle) -> tuple[float, str]:
    return one.last_demand, one.deployment


def _place(line: Sequence[str] | None, deployment: str) -> str:
    if line is None:
        return ""
    return f"; place {line.index(deployment) + 1} of {len(line)} in the queue"
