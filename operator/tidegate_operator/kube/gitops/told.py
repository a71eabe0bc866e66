"""What a status tells of a price book or a tenant. Pure."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from tidegate_operator.kube.report import stamp

Object = Mapping[str, Any]
LONGEST: Final = 16_000


class Told(NamedTuple):
    """What became of a resource. `ready` None: not known. `fields`: of the status, None to take one
    away; what is not named stays. `again`: why it has to be tried again soon; empty: it has not."""

    ready: bool | None
    reason: str
    message: str
    fields: Mapping[str, Any] = {}
    again: str = ""


def status(obj: Object, told: Told, now: float) -> dict[str, Any]:
    """The status as it is to be."""
    before = obj.get("status") or {}
    known: Object = next(
        (one for one in before.get("conditions") or () if one.get("type") == "Ready"), {}
    )
    state = "Unknown" if told.ready is None else str(told.ready)
    same = known.get("status") == state and known.get("lastTransitionTime")
    generation = obj["metadata"].get("generation", 0)
    condition = {
        "type": "Ready",
        "status": state,
        "observedGeneration": generation,
        "lastTransitionTime": known["lastTransitionTime"] if same else stamp(now),
        "reason": told.reason,
        "message": told.message[:LONGEST],
    }
    after = {**before, **told.fields}
    kept = {name: value for name, value in after.items() if value is not None}
    # What was seen is what was acted on: a refused or an unanswered one was seen, too.
    return {**kept, "observedGeneration": generation, "conditions": [condition]}


def patch(before: Object, after: Object) -> dict[str, Any]:
    """The merge patch that makes one status of another."""
    gone = {name: None for name in before if name not in after}
    return {"status": {**after, **gone}}
