"""The pod around an engine: its rights, its volumes, its end.

It passes Pod Security `restricted`: no root, nothing writable but emptyDirs and the claim it asked
for, no token, no capability, no host.

There is no probe of the kubelet's in it. Readiness is the gate `tidegate.dev/answered`, which the
operator sets when a router has had a real answer: a probe's period would only come on top. A
startup probe would be a second clock for the start beside the operator's, and the worse informed.
A liveness probe could see one thing only that nothing else sees, an event loop that stands still;
and it cannot tell that from one that is busy with a large prompt, so on its worst day it would
kill a working engine and every stream on it. An engine that dies ends its process by itself and is
started again; what hangs is seen by the routers, who have requests there.
"""

from typing import Any, Final

import msgspec

from tidegate_operator.plan import names
from tidegate_operator.plan.engine import Runs, leaves, mounted
from tidegate_operator.platform import Chosen, Profile
from tidegate_runtime.contract import cluster
from tidegate_runtime.contract.spec import ModelDeployment

Object = dict[str, Any]

ENGINE_USER: Final = 65532
GRACE_BEYOND_DRAIN: Final = 15
"""The time that an engine takes to end once it has drained, and to be told so."""


def template(resource: ModelDeployment, on: Chosen, runs: Runs) -> Object:
    """The pod template; its annotations lack the hash still."""
    spec: Object = {
        "automountServiceAccountToken": False,
        "containers": [_engine(on, runs, leaves(resource))],
        "enableServiceLinks": False,
        "readinessGates": [{"conditionType": cluster.ANSWERED}],
        "securityContext": _pod_security(on.profile),
        "serviceAccountName": names.child(resource),
        "terminationGracePeriodSeconds": resource.spec.drain.timeout_seconds + GRACE_BEYOND_DRAIN,
        "volumes": _volumes(on.profile, runs),
    }
    if runs.fetch is not None:
        spec["initContainers"] = [_fetch(on, runs, runs.fetch)]
    if runs.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in runs.pull_secrets]
    spec |= _placement(on.profile)
    default = {"kubectl.kubernetes.io/default-container": cluster.ENGINE_CONTAINER}
    return {"metadata": {"annotations": default, "labels": names.labels(resource)}, "spec": spec}


def _engine(on: Chosen, runs: Runs, leaving: list[str]) -> Object:
    requests, limits = dict(on.profile.requests), dict(on.profile.limits)
    if on.gpus:
        requests[on.profile.gpu_resource] = limits[on.profile.gpu_resource] = str(on.gpus)
    port = {
        "containerPort": cluster.ENGINE_PORT,
        "name": cluster.ENGINE_CONTAINER,
        "protocol": "TCP",
    }
    return _container(cluster.ENGINE_CONTAINER, runs, requests, limits) | {
        **runs.process,
        "env": list(runs.env),
        "lifecycle": {"preStop": {"exec": {"command": leaving}}},
        "ports": [port],
        "volumeMounts": [*mounted(tmp="/tmp", dshm="/dev/shm"), *runs.mounts],  # noqa: S108
    }


def _fetch(on: Chosen, runs: Runs, command: tuple[str, ...]) -> Object:
    # The same requests as the engine, which the pod's sum does not count twice, and no devices:
    # without any, a namespace with a quota would refuse the pod.
    made = _container("fetch", runs, dict(on.profile.requests), dict(on.profile.limits))
    return made | {
        "image": runs.fetch_image,
        "command": list(command),
        "env": list(runs.fetch_env),
        "volumeMounts": [*mounted(tmp="/tmp"), *runs.fetch_mounts],  # noqa: S108
    }


def _container(name: str, runs: Runs, requests: Object, limits: Object) -> Object:
    made: Object = {
        "name": name,
        "image": runs.image,
        "imagePullPolicy": runs.pull_policy,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        # The last lines of a log become the reason that a person reads in the resource's status.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    named = {"requests": requests, "limits": limits}
    asked = {kind: amounts for kind, amounts in named.items() if amounts}
    return made | ({"resources": asked} if asked else {})


def _pod_security(profile: Profile) -> Object:
    made: Object = {
        "fsGroup": ENGINE_USER,
        # A claim full of weights is not walked file by file at each start.
        "fsGroupChangePolicy": "OnRootMismatch",
        "runAsGroup": ENGINE_USER,
        "runAsNonRoot": True,
        "runAsUser": ENGINE_USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if profile.supplemental_groups:
        made["supplementalGroups"] = list(profile.supplemental_groups)
    return made


def _volumes(profile: Profile, runs: Runs) -> list[Object]:
    # Workers share tensors through /dev/shm, of which a container has 64 MiB by itself.
    shared = {"medium": "Memory", "sizeLimit": profile.shared_memory}
    return [{"name": "tmp", "emptyDir": {}}, {"name": "dshm", "emptyDir": shared}, *runs.volumes]


def _placement(profile: Profile) -> Object:
    made: Object = {}
    if profile.node_selector:
        made["nodeSelector"] = dict(profile.node_selector)
    if profile.tolerations:
        made["tolerations"] = [msgspec.to_builtins(one) for one in profile.tolerations]
    if profile.runtime_class_name:
        made["runtimeClassName"] = profile.runtime_class_name
    return made
