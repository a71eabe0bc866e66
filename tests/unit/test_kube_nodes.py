"""Replicas on lost nodes: as many are replaced as are missing, and none where all nodes are silent."""

from typing import Any

from tidegate_operator.kube import nodes
from tidegate_operator.kube.nodes import LOST_SECONDS, Lost
from tidegate_operator.outcome import trouble
from tidegate_runtime.contract import cluster

T = 1_000_000.0


def pod(uid: str, node: str, *, lost: bool = True, answered: bool = True) -> dict[str, Any]:
    ready = {"type": "Ready", "status": str(not lost), "lastTransitionTime": "2026-01-01T00:00:09Z"}
    gate = {
        "type": cluster.ANSWERED, "status": str(answered), "message": f"{uid}.0",
        "lastTransitionTime": "2026-01-01T00:00:01Z",
    }  # fmt: skip
    whole = {"type": "ContainersReady", "status": "True"}
    return {
        "metadata": {"uid": uid},
        "spec": {"nodeName": node},
        "status": {"conditions": [ready, gate, whole]},
    }


def pods(*made: dict[str, Any]) -> dict[str, Any]:
    return {one["metadata"]["uid"]: one for one in made}


def due(lost: Lost, there: dict[str, Any], desired: int, now: float) -> list[str]:
    lost.due(there, desired, now - LOST_SECONDS)
    return lost.due(there, desired, now)


def test_a_pod_is_let_be_for_as_long_as_a_kubelet_may_take_to_speak() -> None:
    lost, there = Lost(), pods(pod("a", "n1"))
    assert lost.due(there, 1, T) == []
    assert lost.due(there, 1, T + LOST_SECONDS - 0.1) == []
    assert lost.due(pods(pod("a", "n1", lost=False)), 1, T + LOST_SECONDS) == [], "it spoke"
    assert lost.due(there, 1, T + LOST_SECONDS + 1) == [], "and is lost anew"


def test_no_more_are_replaced_than_are_missing() -> None:
    there = pods(pod("a", "n1"), pod("b", "n1"), pod("c", "n2", lost=False))
    assert due(Lost(), there, 1, T) == []
    assert due(Lost(), there, 2, T) == ["a"]
    assert due(Lost(), there, 3, T) == ["a", "b"]
    assert due(Lost(), there, 0, T) == []


def test_rounds_are_later_each_time() -> None:
    lost = Lost()
    assert due(lost, pods(pod("a", "n1")), 1, T) == ["a"]
    again = pods(pod("b", "n1"))
    lost.due(again, 1, T + 1)
    assert lost.due(again, 1, T + 1 + LOST_SECONDS) == ["b"], "a back-off shorter than the wait"
    for _ in range(6):
        lost._losses += 1
    lost._next = T + 100
    assert due(lost, pods(pod("c", "n1")), 1, T + 60) == []


def test_nothing_is_replaced_where_every_node_is_silent() -> None:
    lost = Lost()
    lost.deaf = True
    assert due(lost, pods(pod("a", "n1")), 1, T) == []
    found = trouble(pod("a", "n1"))
    assert found
    assert found.reason == "NodeLost"
    assert "nothing is replaced" in lost.explained(found).message
    lost.deaf = False
    assert "being replaced" in lost.explained(found).message


def routers(**ready: bool) -> list[dict[str, Any]]:
    return [{"endpoints": [{"nodeName": n, "conditions": {"ready": r}} for n, r in ready.items()]}]


def test_whether_any_node_is_heard_of() -> None:
    gone, well = pod("a", "n1"), pod("b", "n2", lost=False)
    assert not nodes.deaf([], [])
    assert nodes.deaf([gone], [])
    assert nodes.deaf([gone, pod("b", "n2")], [])
    assert not nodes.deaf([gone, well], [])
    assert nodes.deaf([gone, pod("b", "n2", lost=False, answered=False)], []), "it proves nothing"
    assert not nodes.deaf([gone], routers(n2=True))
    assert nodes.deaf([gone], routers(n1=False, n2=False))
    assert nodes.deaf([gone], routers(n1=True)), "of its node only"
