"""Capacity's terms out of Kubernetes' objects, and out of what a model asks for.

What is read of nodes and of everybody's pods is named by types, so that a watch of thousands of
them decodes and keeps no more than is counted.
"""

from collections.abc import Mapping
from decimal import ROUND_CEILING
from functools import lru_cache
from typing import Any, TypedDict

from tidegate_operator.capacity.values import (
    NodeView,
    Placed,
    QuotaView,
    Shape,
    Taint,
    Tolerated,
)
from tidegate_operator.plan.compare import amount
from tidegate_operator.platform import Platform, chosen
from tidegate_runtime.contract.cluster import condition, seconds
from tidegate_runtime.contract.spec import ModelDeployment

Object = Mapping[str, Any]

_Requests = TypedDict("_Requests", {"requests": dict[str, str]}, total=False)  # noqa: UP013
_Labels = TypedDict("_Labels", {"tidegate.dev/model": str}, total=False)


class _Meta(TypedDict, total=False):
    name: str
    namespace: str
    uid: str
    resourceVersion: str
    deletionTimestamp: str


class _Owner(TypedDict, total=False):
    kind: str
    name: str


class _PodMeta(_Meta, total=False):
    labels: _Labels
    ownerReferences: list[_Owner]


class _Container(TypedDict, total=False):
    resources: _Requests
    restartPolicy: str


class _PodSpec(TypedDict, total=False):
    nodeName: str
    containers: list[_Container]
    initContainers: list[_Container]
    overhead: dict[str, str]
    resources: _Requests


class SlimPod(TypedDict, total=False):
    """A pod, as far as it takes room."""

    metadata: _PodMeta
    spec: _PodSpec


class _NodeMeta(_Meta, total=False):
    labels: dict[str, str]


class _NodeTaint(TypedDict, total=False):
    key: str
    value: str
    effect: str


class _NodeSpec(TypedDict, total=False):
    unschedulable: bool
    taints: list[_NodeTaint]


class _Condition(TypedDict, total=False):
    type: str
    status: str


class _NodeStatus(TypedDict, total=False):
    allocatable: dict[str, str]
    conditions: list[_Condition]


class SlimNode(TypedDict, total=False):
    """A node, as far as it has room."""

    metadata: _NodeMeta
    spec: _NodeSpec
    status: _NodeStatus


class _QuotaSpec(TypedDict, total=False):
    scopes: list[str]
    scopeSelector: dict[str, Any]


class _QuotaStatus(TypedDict, total=False):
    hard: dict[str, str]
    used: dict[str, str]


class SlimQuota(TypedDict, total=False):
    """A ResourceQuota."""

    metadata: _Meta
    spec: _QuotaSpec
    status: _QuotaStatus


@lru_cache(4096)
def thousandths(quantity: str) -> int:
    """A quantity of Kubernetes (`500m`, `16Gi`, `1e3`) in thousandths, rounded up; 0 where it is
    none, for one object that cannot be read must not hide the others."""
    found = amount(quantity.strip())
    return 0 if found is None else int((found * 1000).to_integral_value(ROUND_CEILING))


def amounts(quantities: Mapping[str, str] | None) -> dict[str, int]:
    """Quantities by name."""
    return {name: thousandths(str(one)) for name, one in (quantities or {}).items()}


def shape(resource: ModelDeployment, platform: Platform) -> Shape:
    """What a replica of `resource` asks for. Raises KeyError where its profile is not known."""
    profile, gpus = chosen(resource, platform)
    limits = amounts(profile.limits)
    requests = {**limits, **amounts(profile.requests)}  # as Kubernetes fills in what is left out
    if gpus:
        requests[profile.gpu_resource] = limits[profile.gpu_resource] = 1000 * gpus
    counted = {
        **requests,
        **{f"requests.{name}": amount for name, amount in requests.items()},
        **{f"limits.{name}": amount for name, amount in limits.items()},
        "pods": 1000,
        "count/pods": 1000,
    }
    borne = tuple(
        Tolerated(one.key, one.operator, one.value, one.effect) for one in profile.tolerations
    )
    device = profile.gpu_resource if gpus else ""
    return Shape(device, requests, counted, profile.node_selector, borne, profile.elastic)


def node(obj: Object) -> NodeView:
    """A node of the API server."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    ready = condition(obj, "Ready") or {}
    taints = tuple(
        Taint(one.get("key", ""), one.get("value", ""), one.get("effect", ""))
        for one in spec.get("taints") or ()
    )
    usable = ready.get("status") == "True" and not spec.get("unschedulable")
    metadata = obj["metadata"]
    return NodeView(
        metadata["name"],
        amounts(status.get("allocatable")),
        metadata.get("labels") or {},
        taints,
        usable,
    )


def pod(obj: Object, deployment: str = "") -> Placed:
    """A pod, bound or not."""
    metadata, spec = obj["metadata"], obj.get("spec") or {}
    return Placed(
        metadata["uid"],
        spec.get("nodeName") or "",
        requests(spec),
        deployment,
        "deletionTimestamp" in metadata,
        ends=seconds(metadata.get("deletionTimestamp")),
    )


def requests(spec: Object) -> dict[str, int]:
    """What the scheduler counts of a pod: its containers, or an init container that asks for more
    beside the sidecars that run by then; its own requests, where it states them; its overhead."""
    total, most, sidecars = dict[str, int](), dict[str, int](), dict[str, int]()
    for container in spec.get("containers") or ():
        _add(total, _asked(container))
    for container in spec.get("initContainers") or ():
        asked = _asked(container)
        if container.get("restartPolicy") == "Always":
            _add(total, asked)
            _add(sidecars, asked)
            asked = {}
        for name in {*asked, *sidecars}:
            needed = asked.get(name, 0) + sidecars.get(name, 0)
            most[name] = max(most.get(name, 0), needed)
    made = {name: max(total.get(name, 0), most.get(name, 0)) for name in {*total, *most}}
    made |= _asked(spec)
    _add(made, amounts(spec.get("overhead")))
    return made


def _asked(container: Object) -> dict[str, int]:
    return amounts((container.get("resources") or {}).get("requests"))


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, count in more.items():
        total[name] = total.get(name, 0) + count


def quota(obj: Object) -> QuotaView | None:
    """A quota that counts every pod; None for one with a scope, which may not count ours."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    if spec.get("scopes") or spec.get("scopeSelector"):
        return None
    metadata = obj["metadata"]
    hard, used = amounts(status.get("hard")), amounts(status.get("used"))
    return QuotaView(metadata["namespace"], metadata["name"], hard, used)
