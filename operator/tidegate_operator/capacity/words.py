"""What people read of a wait: the arithmetic, who leaves, the place in the line."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

from tidegate_operator.capacity.room import Room, lacking
from tidegate_operator.capacity.values import Amounts, NodeView, QuotaView, Shape

_SHOWN: Final = 4
_QUOTED: Final = 300
_BINARY: Final = (("Ti", 2**40), ("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10))


def amount(name: str, thousandths: int) -> str:
    """As people write it: `4`, `1.5`, `16Gi`."""
    plain = Decimal(thousandths) / 1000
    if name.endswith(("memory", "storage")):
        for unit, size in _BINARY:
            if abs(plain) >= size:
                return f"{(plain / size).quantize(Decimal('0.1')).normalize():f}{unit}"
    return f"{plain.normalize():f}"


def needs(shape: Shape) -> str:
    """`needs 4 nvidia.com/gpu on one node`."""
    return f"needs {amount(shape.device, shape.requests[shape.device])} {shape.device} on one node"


def never(shape: Shape, nodes: Sequence[NodeView]) -> str:
    """It fits no node even when that is empty."""
    if not nodes:
        asked = ", ".join(f"{key}={value}" for key, value in sorted(shape.selector.items()))
        where = f" with {asked}" if asked else ""
        return f"{needs(shape)}; no node{where} admits it"
    most = max(node.allocatable.get(shape.device, 0) for node in nodes)
    if most < shape.requests[shape.device]:
        return f"{needs(shape)}; no node has more than {amount(shape.device, most)}"
    nearest = min(
        nodes, key=lambda node: (len(lacking(node.allocatable, shape.requests)), node.name)
    )
    short = _short(nearest, nearest.allocatable, shape)
    return f"{needs(shape)}; no node is large enough ({nearest.name}: {short})"


def refused(message: str) -> str:
    """It gets no node, whatever is free."""
    return f"the replica that is asked for already has no node: {message[:_QUOTED]}"


def full(shape: Shape, room: Room, left: Mapping[str, Amounts], nodes: Sequence[NodeView]) -> str:
    """No node has room now. `left`: what was free before anybody was looked at."""
    ranked = sorted(nodes, key=lambda node: (-left[node.name].get(shape.device, 0), node.name))
    said = [f"{node.name} has {_short(node, left[node.name], shape)}" for node in ranked[:_SHOWN]]
    if len(ranked) > _SHOWN:
        said.append(f"{len(ranked) - _SHOWN} more nodes have no more")
    late = " (what is free is for who waited longer)" if room.best(shape, left) else ""
    return f"{needs(shape)}; {', '.join(said)}{late}"


def _short(node: NodeView, left: Amounts, shape: Shape) -> str:
    names = [shape.device, *(n for n in lacking(left, shape.requests) if n != shape.device)]
    said = " and ".join(
        f"{amount(n, max(0, left.get(n, 0)))} of {amount(n, node.allocatable.get(n, 0))} {n}"
        for n in names
    )
    return f"{said} free" if node.usable else f"{said} free, but is not ready or takes no pods"


def over_quota(quota: QuotaView, name: str, left: int, asked: int) -> str:
    """`requests.nvidia.com/gpu: 4 more would exceed ...`."""
    hard = quota.hard[name]
    used = f"{amount(name, hard - left)} of {amount(name, hard)} are taken"
    where = f"ResourceQuota {quota.namespace}/{quota.name}"
    return f"needs {amount(name, asked)} {name}; {where}: {used}"
