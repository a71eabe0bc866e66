"""From a resource to the Kubernetes objects that serve it: pure, and the whole of them.

`plan` is a function of the resource, its UID, the platform's settings and the secrets: the same
inputs give the same bytes, so an unchanged world needs no writes. What it returns is applied by
server-side apply, in order: what a pod needs comes before what makes pods. There is no null in it,
no status, and no `replicas`: how many is decided elsewhere and written by another path, and an
apply that carried a count would undo it.

Two hashes of what was planned stand in annotations, both keyed with the guard secret, so that
nobody can try values of a tenant's secret against them:

    on each object     of the object itself: a plan that lost a field (a variable, say) differs from
                       the live object although everything planned is in it
    on the pods        of all that a running engine has read: its pod, the ConfigMap, its secrets;
                       a change of any rolls the pods, and a change of prices or scaling does not

    plan/engine.py     what runs in the pod, by engine type
    plan/weights.py    where the model's files are, and how they get there
    plan/pod.py        the pod around it
    plan/children.py   the other objects
    plan/compare.py    planned against found: what to apply, what to delete
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

import msgspec

from tidegate_operator.plan import children, engine, names, pod
from tidegate_operator.plan.compare import drifted, kept, prune
from tidegate_operator.plan.weights import token_secret
from tidegate_operator.platform import Platform, chosen
from tidegate_runtime.contract import cluster
from tidegate_runtime.contract.spec import ModelDeployment

__all__ = ["Object", "drifted", "kept", "plan", "prune", "secret_hash", "secrets"]

Object = dict[str, Any]
"""A Kubernetes object as the API's JSON."""


def plan(
    resource: ModelDeployment,
    uid: str,
    platform: Platform,
    guard_secret: str,
    *,
    secret_hashes: Mapping[str, str] | None = None,
) -> list[Object]:
    """All children of `resource` in the order to apply them.

    `uid` is the resource's, `guard_secret` its engines' (`cluster.guard`). `secret_hashes` has a
    `secret_hash` for each of `secrets(resource)` that exists; further ones do not matter.
    Only for a resource that `platform.refused` has nothing against; raises KeyError for a profile
    that does not exist, ValueError for a source that no engine can be given."""
    runs = engine.runs(resource, platform, guard_secret)
    config = children.config_map(resource, runs)
    template = pod.template(resource, chosen(resource, platform), runs)
    read = {name: (secret_hashes or {}).get(name, "") for name in sorted(secrets(resource))}
    rolls = _hash(guard_secret, [template, config["data"], read])
    template["metadata"]["annotations"] |= {cluster.CONFIG_HASH: rolls, cluster.OWNER_UID: uid}
    made = [
        children.service_account(resource),
        children.guard(resource, guard_secret),
        config,
        children.network_policy(resource, platform),
        *children.cache_claim(resource, platform),
        children.service(resource),
        children.disruption_budget(resource),
        children.deployment(resource, template),
    ]
    return [_owned(one, resource, uid, guard_secret) for one in made]


def secrets(resource: ModelDeployment) -> frozenset[str]:
    """The tenant's own Secrets, in the resource's namespace, that its pods read."""
    by_variable = {
        one.value_from.secret_key_ref.name
        for one in resource.spec.engine.env
        if one.value_from is not None
    }
    token = token_secret(resource)
    return frozenset(by_variable if token is None else by_variable | {token})


def secret_hash(data: Mapping[str, str]) -> str:
    """What stands for a Secret's content (`data` as the API gives it). Keep it in memory only."""
    return hashlib.sha256(_canonical(dict(data))).hexdigest()


def _owned(one: Object, resource: ModelDeployment, uid: str, key: str) -> Object:
    """With its place, its labels, its owner and its hash."""
    mark = _hash(key, one)
    one["metadata"] |= {
        "namespace": resource.metadata.namespace,
        "labels": names.labels(resource),
        "annotations": {cluster.CONFIG_HASH: mark},
        "ownerReferences": [
            {
                "apiVersion": f"{cluster.GROUP}/{cluster.VERSION}",
                "kind": "ModelDeployment",
                "name": resource.metadata.name,
                "uid": uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    return one


def _hash(key: str, value: Any) -> str:
    return hmac.digest(key.encode(), _canonical(value), "sha256").hex()


def _canonical(value: Any) -> bytes:
    return msgspec.json.encode(value, order="deterministic")
