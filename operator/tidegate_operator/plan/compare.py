"""Planned against found: what needs an apply, and what nobody plans any more.

A live object has more in it than we planned: defaults of the server, fields of other writers.
`drifted` asks only whether all that we planned is still there. That a plan lost something is seen
by the object's own hash, which is part of the plan.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

Object = Mapping[str, Any]

NEVER_PRUNED: Final = frozenset({"PersistentVolumeClaim"})

# Lists that Kubernetes merges by a key: there, items of other writers may stand beside ours, and
# no apply of ours would remove them. All other lists are ours as a whole.
_MergeKeys = Mapping[str, tuple[str, ...]]
_MERGE_KEYS: Final[_MergeKeys] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "volumeMounts": ("mountPath",),
    "ownerReferences": ("uid",),
    "ports": ("containerPort", "port", "protocol"),
}
_POLICY_KEYS: Final[_MergeKeys] = {"ownerReferences": ("uid",)}
"""In a NetworkPolicy, one more port is a hole and not somebody else's business."""
_AMOUNTS: Final = frozenset({"requests", "limits"})
_NUMBER: Final = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_QUANTITY: Final = re.compile(rf"({_NUMBER}[eE][+-]?[0-9]+|{_NUMBER})(n|u|m|k|[MGTPE]i?|Ki|)\Z")
_SCALE: Final = {
    "": Decimal(1),
    "n": Decimal("0.000000001"),
    "u": Decimal("0.000001"),
    "m": Decimal("0.001"),
    "k": Decimal(1000),
    "Ki": Decimal(1024),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("MGTPE", 2)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("MGTPE", 2)},
}


def drifted(planned: Object, live: Object | None) -> bool:
    """Whether `live` lacks anything of `planned`, so that it must be applied. None: it is gone."""
    keys = _POLICY_KEYS if planned["kind"] == "NetworkPolicy" else _MERGE_KEYS
    return live is None or not _holds(planned, live, "", keys)


def prune(planned: Sequence[Object], found: Iterable[Object]) -> list[tuple[str, str]]:
    """Kind and name of what is to be deleted: children of the same resource that are not planned.

    `found` may hold anything with the labels. What the resource does not control itself (pods,
    slices of a Service) is not its child, and a claim is never deleted: see `kept`."""
    return [name for name in _orphans(planned, found) if name[0] not in NEVER_PRUNED]


def kept(planned: Sequence[Object], found: Iterable[Object]) -> list[str]:
    """Names of claims that are no longer planned and stay for the sake of their data, until a
    person deletes them or their resource goes."""
    return [name for kind, name in _orphans(planned, found) if kind in NEVER_PRUNED]


def _orphans(planned: Sequence[Object], found: Iterable[Object]) -> list[tuple[str, str]]:
    wanted = {_name(one) for one in planned}
    owners = {uid for one in planned for uid in _controllers(one)}
    return sorted(
        _name(one)
        for one in found
        if _name(one) not in wanted and owners.intersection(_controllers(one))
    )


def _name(one: Object) -> tuple[str, str]:
    return one["kind"], one["metadata"]["name"]


def _controllers(one: Object) -> set[str]:
    references: Iterable[Object] = one["metadata"].get("ownerReferences") or []
    return {reference["uid"] for reference in references if reference.get("controller")}


def _holds(planned: Any, live: Any, field: str, keys: _MergeKeys) -> bool:
    if live is None:
        return planned in ({}, [], "")  # the server drops what is empty
    if isinstance(planned, Mapping):
        if not isinstance(live, Mapping):
            return False
        if field in _AMOUNTS:
            return all(_same_amount(wanted, live.get(key)) for key, wanted in planned.items())
        return all(_holds(value, live.get(key), key, keys) for key, value in planned.items())
    if isinstance(planned, list):
        return isinstance(live, list) and _holds_list(planned, live, field, keys)
    if field == "sizeLimit":
        return _same_amount(planned, live)
    return type(planned) is type(live) and bool(planned == live)


def _holds_list(planned: list[Any], live: list[Any], field: str, keys: _MergeKeys) -> bool:
    if field not in keys:
        pairs = zip(planned, live, strict=False)
        return len(planned) == len(live) and all(_holds(a, b, "", keys) for a, b in pairs)
    by_key = {_key(one, keys[field]): one for one in live}
    return all(_holds(one, by_key.get(_key(one, keys[field])), "", keys) for one in planned)


def _key(item: Any, keys: Iterable[str]) -> tuple[Any, ...]:
    return tuple(item.get(key) for key in keys) if isinstance(item, Mapping) else (item,)


def _same_amount(planned: str, live: Any) -> bool:
    return planned == live or (amount(planned) is not None and amount(planned) == amount(live))


def amount(text: Any) -> Decimal | None:
    """A Kubernetes quantity in its base unit; None where it is none."""
    match = _QUANTITY.match(text) if isinstance(text, str) else None
    return Decimal(match[1]) * _SCALE[match[2]] if match else None
