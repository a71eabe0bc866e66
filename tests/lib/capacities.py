"""Nodes, pods and asks for tests of capacity: whole devices, whole processors."""

from typing import Any

from tidegate_operator.capacity import (
    Ask,
    Idle,
    NodeView,
    Outcome,
    Placed,
    QuotaView,
    Rules,
    Shape,
    decide,
)

GPU = "nvidia.com/gpu"
NOW = 1_000_000.0


def shape(gpus: int = 1, **more: Any) -> Shape:
    requests = {GPU: 1000 * gpus} if gpus else {"cpu": 1000}
    quota = {f"requests.{name}": amount for name, amount in requests.items()}
    return Shape(GPU if gpus else "", requests, {**quota, "pods": 1000}, **more)


def node(name: str, gpus: int = 4, **more: Any) -> NodeView:
    return NodeView(name, {GPU: 1000 * gpus, "cpu": 64_000, "pods": 110_000}, **more)


def on(where: str, gpus: int, deployment: str = "", number: int = 0, **more: Any) -> Placed:
    asked = shape(gpus)
    uid = f"{deployment or 'other'}-{where}-{number}"
    return Placed(
        uid, where, asked.requests, deployment, quota=asked.quota if deployment else {}, **more
    )


def ask(
    name: str, gpus: int = 1, *, since: float = 0.0, wanted: int = 1, tenant: str = "", **more: Any
) -> Ask:
    """`name` is NAMESPACE/NAME; the tenant is the namespace unless one is named."""
    owner = tenant or name.partition("/")[0]
    asked = more.pop("shape", None) or shape(gpus)
    return Ask(name, owner, asked, wanted, NOW - 100 + since, **more)


def idle(name: str, seconds: float = 600.0, gpus: int = 1) -> Idle:
    return Idle(name, NOW - seconds, shape(gpus).quota)


def gpus(space: str, hard: int, used: int = 0, **more: int) -> QuotaView:
    name = f"requests.{GPU}"
    return QuotaView(space, "gpus", {name: 1000 * hard, **more}, {name: 1000 * used})


def decided(
    asks: list[Ask],
    nodes: list[NodeView],
    pods: list[Placed] | None = None,
    quotas: list[QuotaView] | None = None,
    idles: list[Idle] | None = None,
    rules: Rules | None = None,
    served: dict[str, float] | None = None,
) -> Outcome:
    given = (asks, nodes, pods or [], quotas or [], idles or [])
    return decide(*given, rules or Rules(), served or {}, NOW)
