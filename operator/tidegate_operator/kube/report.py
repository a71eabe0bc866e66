"""A deployment's status for people and programs: derived anew from facts each time, and pure.

Conditions say what holds and what to do where it does not; a transition's time moves only with the
condition. What changes all the time (requests, loads) is not in it: an unchanged model costs no
write, and the last request is told to the minute.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tidegate_billing.links import PricedModel
from tidegate_operator.kube.coldstart import ColdStart
from tidegate_operator.kube.model import Model
from tidegate_operator.kube.verdict import Verdict
from tidegate_operator.status import Facts, Status, status
from tidegate_runtime.contract.cluster import seconds
from tidegate_runtime.contract.links import Failure

Object = Mapping[str, Any]
REQUEST_GRAIN = 60.0
CHILD_REFUSED = "ChildRefused"
"""The API server did not take one of the planned objects: a quota, an admission policy."""


class Condition(NamedTuple):
    """One condition. `status` None: not known."""

    type: str
    status: bool | None
    reason: str
    message: str


class Priced(NamedTuple):
    """What billing said of the prices; `answer` None: nothing yet, because of `error`."""

    answer: PricedModel | None = None
    error: str = "billing has not answered yet"


def facts(model: Model, verdict: Verdict, *, deleting: bool) -> Facts:
    """What the phase is derived from."""
    ready, failure = len(model.ready()), model.failure
    return Facts(
        desired=model.desired,
        ready=ready,
        starting=max(0, len(model.staying()) - ready),
        draining=len(model.draining),
        suspended=bool(verdict.resource and verdict.resource.spec.suspend),
        deleting=deleting,
        valid=verdict.valid,
        observed=model.scaling is not None or not verdict.valid,
        failure=failure.reason if failure else "",
        failure_final=bool(failure and failure.final),
    )


def conditions(model: Model, verdict: Verdict, priced: Priced, said: Status) -> list[Condition]:
    """All five."""
    return [
        _ready(model, verdict, priced, said),
        Condition("Valid", verdict.valid, verdict.reason, verdict.message),
        _scaled(model),
        _engine(model),
        _priced(priced),
    ]


def _ready(model: Model, verdict: Verdict, priced: Priced, said: Status) -> Condition:
    if not verdict.valid:
        return Condition("Ready", False, verdict.reason, verdict.message)
    if priced.answer is not None and not priced.answer.priced:
        return Condition("Ready", False, "NotPriced", _priced(priced).message)
    if said.phase == "Idle":
        return Condition("Ready", True, "Idle", "no replica runs; the next request starts one")
    if said.phase in {"Ready", "Degraded"}:
        return Condition("Ready", True, said.phase, said.reason)
    if said.phase == "Pending" and model.child_refused:
        return Condition("Ready", False, CHILD_REFUSED, model.child_refused)
    failure = model.failure
    message = failure.message if failure else said.reason
    return Condition("Ready", False, failure.reason if failure else said.phase, message)


def _scaled(model: Model) -> Condition:
    if model.child_refused:
        return Condition("Scaled", False, CHILD_REFUSED, model.child_refused)
    if model.replicas is None or model.scaling is None:
        return Condition("Scaled", None, "NotObserved", "the Deployment has not been seen yet")
    reason = "Override" if model.reason.startswith("override") else "Demand"
    if model.draining:
        words = f"{len(model.draining)} of {model.replicas} replicas are draining"
        return Condition("Scaled", False, "Draining", f"{words}, {_steady(model.reason)}")
    if model.wait is not None:
        return Condition("Scaled", False, model.wait.reason, model.wait.message)
    if model.replicas != model.desired:
        words = f"{model.replicas} of {model.desired} replicas are asked for"
        return Condition("Scaled", False, "Scaling", words)
    replicas = "1 replica is" if model.desired == 1 else f"{model.desired} replicas are"
    return Condition("Scaled", True, reason, f"{replicas} asked for")


def _steady(reason: str) -> str:
    """A reason without the seconds that count up in it, which would be a write each second."""
    return reason.partition(" for ")[0]


def _engine(model: Model) -> Condition:
    failure = model.failure
    if failure is not None:
        words = "" if failure.final else " (still trying)"
        return Condition("EngineHealthy", False, failure.reason, failure.message + words)
    if model.ready():
        return Condition("EngineHealthy", True, "Answering", "an engine answers")
    if model.staying():
        return Condition("EngineHealthy", None, "Starting", step(model.cold))
    return Condition("EngineHealthy", None, "NoReplica", "no engine runs")


def step(cold: ColdStart) -> str:
    """The step a start is in."""
    if cold.running_at:
        return "the engine is loading"
    if cold.scheduled_at:
        return "the container is being made"
    if cold.created_at:
        return "the pod waits for a node"
    return "the pod is being created"


def _priced(priced: Priced) -> Condition:
    if priced.answer is None:
        return Condition("Priced", None, "Unknown", priced.error)
    if priced.answer.priced:
        version = f"price version {priced.answer.price_version}"
        return Condition("Priced", True, "Priced", version)
    message = priced.answer.reason or "spec.pricing is missing: set it, or a price book for it"
    return Condition("Priced", False, "NotPriced", message)


def written(
    model: Model, verdict: Verdict, priced: Priced, obj: Object, url: str, now: float
) -> dict[str, Any]:
    """The whole status of `obj`, as the API has it."""
    metadata, before = obj["metadata"], obj.get("status") or {}
    known = facts(model, verdict, deleting="deletionTimestamp" in metadata)
    said = status(known)
    generation = metadata.get("generation", 0)
    made: dict[str, Any] = {
        "observedGeneration": generation,
        "phase": said.phase,
        "replicas": {"desired": known.desired, "ready": known.ready, "starting": known.starting},
        "url": url,
        "visibility": visibility(verdict),
        "conditions": [
            _merged(one, before, generation, now)
            for one in conditions(model, verdict, priced, said)
        ],
    }
    if model.cold.id or model.last_cold:
        made["coldStart"] = _cold(model)
    elif before.get("coldStart"):
        made["coldStart"] = before["coldStart"]
    if model.failure is not None:
        made["failure"] = _failure(model.failure)
    last = max(model.last_request, 0.0)
    told = seconds(before.get("lastRequestTime"))
    if last and (last - told >= REQUEST_GRAIN or not told):
        told = last
    if told:
        made["lastRequestTime"] = stamp(told)
    return made


def tells_price(before: Object) -> bool:
    """Whether a status says what billing had said of the prices."""
    return _of(before, "Priced").get("status") in {"True", "False"}


def visibility(verdict: Verdict) -> str:
    """Who may see it: what the spec says, where the policy allows it."""
    if verdict.resource is None or verdict.reason in {"InvalidSpec", "PolicyRefused"}:
        return "Private"
    return verdict.resource.spec.access.visibility


def _merged(one: Condition, before: Object, generation: int, now: float) -> dict[str, Any]:
    state = "Unknown" if one.status is None else str(one.status)
    known = _of(before, one.type)
    same = known.get("status") == state and known.get("lastTransitionTime")
    return {
        "type": one.type,
        "status": state,
        "observedGeneration": generation,
        "lastTransitionTime": known["lastTransitionTime"] if same else stamp(now),
        "reason": one.reason,
        "message": one.message[:1000],
    }


def _cold(model: Model) -> dict[str, Any]:
    made: dict[str, Any] = {"startId": model.cold.id} if model.cold.id else {}
    ended = model.last_cold
    if ended is not None:
        made["lastSeconds"] = round(ended.forwarded_at - ended.held_at, 3)
        made["phases"] = phases(ended)
    return made


def phases(cold: ColdStart) -> dict[str, float]:
    """Seconds of each step of a start. Kubernetes' own times are whole seconds."""
    steps = (
        ("scale", cold.held_at, cold.scaled_at),
        ("create", cold.scaled_at, cold.created_at),
        ("schedule", cold.created_at, cold.scheduled_at),
        ("pull", cold.scheduled_at, cold.running_at),
        ("engine", cold.running_at or cold.scaled_at, cold.answered_at),
        ("forward", cold.answered_at, cold.forwarded_at),
    )
    return {name: round(max(0.0, end - begin), 3) for name, begin, end in steps if begin and end}


def _failure(failure: Failure) -> dict[str, Any]:
    return {
        "startId": failure.start_id,
        "reason": failure.reason,
        "message": failure.message[:1000],
        "at": stamp(failure.at, digits=True),
        "final": failure.final,
    }


def stamp(at: float, *, digits: bool = False) -> str:
    """RFC 3339 in UTC, to the second or the microsecond."""
    moment = datetime.fromtimestamp(at, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if digits else "%Y-%m-%dT%H:%M:%SZ")


def transition(before: Object, after: Object) -> Condition | None:
    """What is worth an Event: a new phase, a resource that is no longer valid or priced, a child
    that the API server refuses, a new reason why the engine does not serve."""
    for kind in ("Valid", "Priced"):
        old, new = _of(before, kind), _of(after, kind)
        if new.get("status") == "False" and old.get("reason") != new.get("reason"):
            return Condition(kind, False, new["reason"], new["message"])
    scaled = _of(after, "Scaled")
    if scaled.get("reason") == CHILD_REFUSED != _of(before, "Scaled").get("reason"):
        return Condition("Scaled", False, CHILD_REFUSED, scaled["message"])
    engine, known = _of(after, "EngineHealthy"), _of(before, "EngineHealthy")
    if engine.get("status") == "False" and engine.get("reason") != known.get("reason"):
        return Condition("EngineHealthy", False, engine["reason"], engine["message"])
    if before.get("phase") == after.get("phase"):
        return None
    ready = _of(after, "Ready")
    bad = after["phase"] in {"Failed", "Degraded"}
    reason = ready["reason"] if bad else after["phase"]
    return Condition("Phase", not bad, reason, ready["message"])


def _of(told: Object, kind: str) -> Object:
    found: list[Object] = told.get("conditions") or []
    return next((one for one in found if one.get("type") == kind), {})


def told(model: Model) -> tuple[object, ...]:
    """What of a decision the status tells; the last request only now and then."""
    minute = model.last_request // REQUEST_GRAIN
    return model.desired, model.failure, model.cold.id, minute, model.wait
