"""The names operator and router share in a cluster, and how Kubernetes' objects become link values.

The router reads resources, namespaces and pods, and nothing else: what the operator wants it to
know is written there. No secret is read either. An engine's guard is derived from a key that both
hold, so a router needs no right to read Secrets, and the Secret `mdep-<name>` exists for the pod.

    pod annotation  tidegate.dev/draining      set: no router may send it anything new; its value
                                               is the drain's mark, which routers repeat
    pod condition   tidegate.dev/answered      its message names the epoch that answered
    status.coldStart.startId, status.failure   which start is running, and how it failed
    status.conditions Valid                    False: holds no name and serves nobody
    status.visibility                          Public: the platform's policy allows it

An epoch (`Replica.id`) is `<pod uid>.<container restarts>`: one life of one engine process.
Everything here is pure; objects are the API's JSON as dicts.
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from tidegate_runtime.contract.links import Failure, ModelView, Replica, Visibility
from tidegate_runtime.contract.resource import view as view_of
from tidegate_runtime.contract.spec import Metadata, ModelDeployment, Spec

GROUP: Final = "tidegate.dev"
VERSION: Final = "v1alpha1"
PLURAL: Final = "modeldeployments"
FIELD_MANAGER: Final = "tidegate-operator"

LABEL_MODEL: Final = "tidegate.dev/model"
"""On every child and pod: the resource's name, as `label_value` shortens it."""
LABEL_TENANT: Final = "tidegate.dev/tenant"
"""On a namespace, set by the platform: the tenant that owns what is in it."""
DRAINING: Final = "tidegate.dev/draining"
REPLICAS: Final = "tidegate.dev/replicas"
REPLICAS_UNTIL: Final = "tidegate.dev/replicas-until"
OWNER_UID: Final = "tidegate.dev/resource-uid"
"""On a pod: the UID of the resource it was made for. Another one of the same name has another guard."""
CONFIG_HASH: Final = "tidegate.dev/config-hash"
ANSWERED: Final = "tidegate.dev/answered"
TRIED: Final = "tidegate.dev/tried"
"""On a Deployment: when its ReplicaSet was last told to try again to make pods."""

ENGINE_CONTAINER: Final = "engine"
ENGINE_PORT: Final = 8000
GUARD_KEY: Final = "guard"
_NAME_LIMIT: Final = 63

Object = Mapping[str, Any]


def child_name(name: str) -> str:
    """`mdep-<name>`, the name of a deployment's children; cut and hashed where it is no DNS label.

    A resource's name may have dots and 253 characters, a Service's may not."""
    plain = f"mdep-{name}"
    if len(plain) <= _NAME_LIMIT and "." not in plain:
        return plain
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{plain.replace('.', '-')[: _NAME_LIMIT - 9].rstrip('-')}-{digest}"


def label_value(name: str) -> str:
    """The value of `tidegate.dev/model`: the name, cut and hashed where a label cannot hold it."""
    if len(name) <= _NAME_LIMIT:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: _NAME_LIMIT - 9].rstrip('-.')}-{digest}"


def guard(key: bytes, uid: str) -> str:
    """The secret of the engines of the resource with this UID: HMAC-SHA-256 under the platform's
    guard key, in hex. It changes with the key and with the resource's recreation."""
    return hmac.digest(key, f"guard:{uid}".encode(), "sha256").hex()


def owner(namespace: str, labels: Mapping[str, str]) -> str:
    """The tenant that owns what is in a namespace with these labels."""
    return labels.get(LABEL_TENANT) or namespace


def seconds(stamp: str | None) -> float:
    """An RFC 3339 time of the API as seconds since the epoch; 0 where there is none."""
    return datetime.fromisoformat(stamp).timestamp() if stamp else 0.0


def condition(obj: Object, kind: str) -> Object | None:
    """A condition of an object's status by its type."""
    found: Iterable[Object] = obj.get("status", {}).get("conditions") or []
    return next((one for one in found if one.get("type") == kind), None)


def model(obj: Object, namespaces: Mapping[str, Mapping[str, str]]) -> ModelView:
    """A ModelDeployment of the API server as a router knows it.

    `namespaces`: labels by name. A resource this version cannot read, or whose status says so, is
    not valid: it holds no name, and hurts no other."""
    metadata = obj["metadata"]
    namespace, name = metadata["namespace"], metadata["name"]
    mine = owner(namespace, namespaces.get(namespace, {}))
    try:
        spec = msgspec.convert(obj.get("spec"), Spec, strict=False)
    except msgspec.ValidationError:
        return ModelView(deployment=f"{namespace}/{name}", owner=mine, name=name, valid=False)
    made = ModelDeployment(metadata=Metadata(name=name, namespace=namespace), spec=spec)
    verdict = condition(obj, "Valid")
    start_id, failure = _start(obj)
    known = view_of(made, seconds(metadata.get("creationTimestamp")))
    return msgspec.structs.replace(
        known,
        owner=mine,
        visibility=_allowed(known.visibility, obj.get("status", {}).get("visibility")),
        valid=verdict is None or verdict.get("status") != "False" or _lost_a_name(verdict),
        suspend=spec.suspend or bool(metadata.get("deletionTimestamp")),
        start_id=start_id,
        failure=failure,
    )


def _allowed(wanted: Visibility, judged: str | None) -> Visibility:
    # Public takes the operator's word, which knows the policy; Private holds from the edit on.
    return "Public" if wanted == judged == "Public" else "Private"


NAME_CONFLICT: Final = "NameConflict"
"""Reason of Valid=False where another deployment holds a name: each reader sees that by itself."""


def _lost_a_name(verdict: Object) -> bool:
    # The name table decides again from what is there, so that the loser is promoted at once when
    # the winner goes, and not when the operator has said so.
    return verdict.get("reason") == NAME_CONFLICT


def _start(obj: Object) -> tuple[str, Failure | None]:
    status = obj.get("status", {})
    start_id = (status.get("coldStart") or {}).get("startId", "")
    failed = status.get("failure")
    if not failed:
        return start_id, None
    failure = Failure(
        start_id=failed.get("startId", ""),
        reason=failed.get("reason", ""),
        message=failed.get("message", ""),
        at=seconds(failed.get("at")),
        final=bool(failed.get("final")),
    )
    return start_id, failure


def engine_status(pod: Object) -> Object:
    """The engine container's status; empty before there is one."""
    found: Iterable[Object] = pod.get("status", {}).get("containerStatuses") or []
    return next((one for one in found if one.get("name") == ENGINE_CONTAINER), {})


def made_for(pod: Object, name: str) -> str:
    """The UID of the resource `name` that a pod was made for; empty where its Deployment is not what
    made it: the label alone, which anybody who makes pods can write, makes no replica."""
    metadata = pod["metadata"]
    owners: Iterable[Object] = metadata.get("ownerReferences") or []
    ours = any(
        one.get("controller")
        and one.get("kind") == "ReplicaSet"
        and str(one.get("name", "")).startswith(f"{child_name(name)}-")
        for one in owners
    )
    return str((metadata.get("annotations") or {}).get(OWNER_UID, "")) if ours else ""


def epoch(pod: Object) -> str:
    """`<pod uid>.<container restarts>`."""
    return f"{pod['metadata']['uid']}.{engine_status(pod).get('restartCount', 0)}"


def answered(pod: Object) -> bool:
    """Whether this life of its engine has answered, as the operator has marked it."""
    gate = condition(pod, ANSWERED)
    return gate is not None and gate.get("status") == "True" and gate.get("message") == epoch(pod)


def lost(pod: Object) -> bool:
    """Whether the control plane has given up on a pod that had answered: its node is silent.

    Only the node's controller sets `Ready` to False and leaves the containers' readiness and our
    gate as they are. (So does the kubelet for a moment before it has seen the gate: then `Ready`
    is older than the gate.)"""
    ready = condition(pod, "Ready") or {}
    if ready.get("status") != "False":
        return False
    containers = condition(pod, "ContainersReady") or {}
    gate = condition(pod, ANSWERED) or {}
    later = (ready.get("lastTransitionTime") or "") > (gate.get("lastTransitionTime") or "")
    return later and containers.get("status") == gate.get("status") == "True"


def ended(pod: Object) -> bool:
    """Whether all of it has ended for good, and it is kept as a record: evicted, for one."""
    return pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}


def reachable(pod: Object) -> bool:
    """Whether an engine process may be there to be reached, or to come for the first time."""
    if not pod.get("status", {}).get("podIP") or ended(pod):
        return False
    state = engine_status(pod).get("state") or {}
    restarted = engine_status(pod).get("restartCount", 0) > 0
    between_lives = "terminated" in state or (restarted and "running" not in state)
    return not between_lives


def replica(pod: Object, deployment: str, secret: str) -> Replica | None:
    """A pod as a replica; None while no engine process can be reached in it."""
    if not reachable(pod):
        return None
    metadata, address = pod["metadata"], pod["status"]["podIP"]
    annotations = metadata.get("annotations") or {}
    leaving = "deletionTimestamp" in metadata or DRAINING in annotations
    host = f"[{address}]" if ":" in address else address
    return Replica(
        id=epoch(pod),
        deployment=deployment,
        url=f"http://{host}:{ENGINE_PORT}",
        state="draining" if leaving else "ready" if answered(pod) else "starting",
        guard=secret,
        mark=annotations.get(DRAINING, ""),
    )
