"""The objects beside the pods. Each is written without place, owner and labels: `plan` adds them."""

import base64
import json
from typing import Any, Final

from tidegate_operator.plan import names
from tidegate_operator.plan.engine import Runs
from tidegate_operator.plan.weights import cached
from tidegate_operator.platform import Platform, Selector
from tidegate_runtime.contract import cluster
from tidegate_runtime.contract.spec import ModelDeployment

Object = dict[str, Any]

ARGV_KEY: Final = "argv.json"
NO_DEADLINE: Final = 2**31 - 1
"""Of `progressDeadlineSeconds`: the controller takes this value for none."""


def _object(kind: str, version: str, resource: ModelDeployment, **fields: Any) -> Object:
    metadata = {"name": names.child(resource)}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}


def service_account(resource: ModelDeployment) -> Object:
    """An account without a token: an engine has nothing to ask the API server."""
    return _object("ServiceAccount", "v1", resource, automountServiceAccountToken=False)


def guard(resource: ModelDeployment, secret: str) -> Object:
    """The engines' secret, for the pods. Routers and operators derive it and never read it here."""
    data = {cluster.GUARD_KEY: base64.b64encode(secret.encode()).decode()}
    return _object("Secret", "v1", resource, type="Opaque", data=data)


def config_map(resource: ModelDeployment, runs: Runs) -> Object:
    """What the engine is started with, for people to read, and the files that its pod mounts."""
    data = {ARGV_KEY: json.dumps(list(runs.argv), indent=1) + "\n", **runs.files}
    return _object("ConfigMap", "v1", resource, data=data)


def network_policy(resource: ModelDeployment, platform: Platform) -> Object:
    """Routers and operators reach the engine's port, and nobody else reaches anything.

    Egress stays open, since the pod fetches its model. The guard does not rely on this: not every
    cluster enforces policies."""
    rule = {
        "from": [_peer(platform.router_selector), _peer(platform.operator_selector)],
        "ports": [{"port": cluster.ENGINE_PORT, "protocol": "TCP"}],
    }
    spec = {
        "podSelector": {"matchLabels": names.selector(resource)},
        "policyTypes": ["Ingress"],
        "ingress": [rule],
    }
    return _object("NetworkPolicy", "networking.k8s.io/v1", resource, spec=spec)


def _peer(pods: Selector) -> Object:
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": pods.namespace}},
        "podSelector": {"matchLabels": dict(pods.labels)},
    }


def cache_claim(resource: ModelDeployment, platform: Platform) -> list[Object]:
    """The claim that keeps the weights; none where none is asked for.

    A claim cannot be changed but to grow: another class or a smaller size is refused by the API
    server, which is then the resource's owner to mend."""
    cache = resource.spec.model.cache
    if cache.size is None or not cached(resource):
        return []
    spec: Object = {
        "accessModes": [platform.cache.access_mode],
        "resources": {"requests": {"storage": cache.size}},
    }
    storage_class = cache.storage_class or platform.cache.storage_class
    if storage_class:
        spec["storageClassName"] = storage_class
    made = _object("PersistentVolumeClaim", "v1", resource, spec=spec)
    made["metadata"]["name"] = names.claim(resource)
    return [made]


def service(resource: ModelDeployment) -> Object:
    """A stable address for people; routers talk to pods, which they choose themselves."""
    port = {
        "name": cluster.ENGINE_CONTAINER,
        "port": cluster.ENGINE_PORT,
        "protocol": "TCP",
        "targetPort": cluster.ENGINE_CONTAINER,
    }
    spec = {"type": "ClusterIP", "selector": names.selector(resource), "ports": [port]}
    return _object("Service", "v1", resource, spec=spec)


def disruption_budget(resource: ModelDeployment) -> Object:
    """One pod at a time may be evicted, also when it is the only one.

    `minAvailable: 1` would block the drain of a node with a single replica for ever. An evicted
    replica is no lost request: it drains what it serves, and what arrives meanwhile is held. A pod
    that does not answer (yet) is never protected: nothing would be gained by it."""
    spec = {
        "maxUnavailable": 1,
        "selector": {"matchLabels": names.selector(resource)},
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    return _object("PodDisruptionBudget", "policy/v1", resource, spec=spec)


def deployment(resource: ModelDeployment, template: Object) -> Object:
    """The pods' controller, without `replicas`.

    A start has no deadline here: weights take their time, and a start that fails is judged by the
    operator, which knows why, and not by the Deployment's clock."""
    rollout = resource.spec.rollout
    spec = {
        "selector": {"matchLabels": names.selector(resource)},
        "template": template,
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {
                "maxSurge": rollout.max_surge,
                "maxUnavailable": rollout.max_unavailable,
            },
        },
        "progressDeadlineSeconds": NO_DEADLINE,
        "revisionHistoryLimit": 2,
    }
    return _object("Deployment", "apps/v1", resource, spec=spec)
