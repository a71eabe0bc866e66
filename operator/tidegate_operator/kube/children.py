"""Brings a deployment's children to what is planned: applies what differs, deletes what is not.

The live objects come from watches, so that an unchanged world costs no call.

A Deployment's `replicas` has a writer of its own (`scale`), so the plan leaves it out. Left out, it
would be set to its default of 1 by the apply that first lacks it, if nobody else owned it: a new
Deployment is applied at zero, and then, under a second name, its count alone. From then on a scale
write owns it.
"""

from collections.abc import Mapping
from typing import Any

import structlog

from tidegate_operator import plan as planning
from tidegate_operator.kube.api import Api, ApiError, collection, path_of
from tidegate_operator.kube.state import Child, State
from tidegate_operator.platform import Platform
from tidegate_runtime.contract import cluster
from tidegate_runtime.contract.spec import ModelDeployment

log = structlog.get_logger()

Object = Mapping[str, Any]
SCALE_MANAGER = "tidegate-scale"
KINDS = (
    "ServiceAccount", "Secret", "ConfigMap", "NetworkPolicy", "PersistentVolumeClaim", "Service",
    "PodDisruptionBudget", "Deployment",
)  # fmt: skip


class Children:
    """Plans and applies."""

    def __init__(self, api: Api, state: State, platform: Platform, guard_key: bytes) -> None:
        self._api, self._state, self._platform = api, state, platform
        self._guard_key = guard_key

    async def settle(self, resource: ModelDeployment, uid: str) -> None:
        """Apply, create, delete. Raises ApiError where the API server refuses one of them."""
        namespace = resource.metadata.namespace
        planned = planning.plan(
            resource,
            uid,
            self._platform,
            cluster.guard(self._guard_key, uid),
            secret_hashes=await self._hashes(namespace, planning.secrets(resource)),
        )
        live = dict(self._state.children_of(resource.deployment))
        refused: list[ApiError] = []
        for one in planned:
            found = live.get(Child(one["kind"], one["metadata"]["name"]))
            if found is None or planning.drifted(one, found):
                try:
                    await self._apply(one, found)
                except ApiError as error:
                    if error.passing:
                        raise
                    refused.append(error)
        for where in planning.prune(planned, list(live.values())):
            log.info("prune", kind=where[0], name=where[1], namespace=namespace)
            await self._api.delete(f"{collection(where[0], namespace)}/{where[1]}")
        if refused:
            raise refused[0]

    async def _apply(self, planned: Object, found: Object | None) -> None:
        kind, path = planned["kind"], path_of(planned)
        log.info("apply", kind=kind, path=path)
        if kind != "Deployment":
            await self._api.apply(path, planned)
        elif found is None:
            await self._api.apply(path, {**planned, "spec": {**planned["spec"], "replicas": 0}})
            await self._own_replicas(planned, 0)
        else:
            if not owns_replicas(found):
                await self._own_replicas(planned, int(found["spec"].get("replicas", 1)))
            await self._api.apply(path, planned)

    async def _own_replicas(self, planned: Object, replicas: int) -> None:
        alone = {
            "apiVersion": planned["apiVersion"],
            "kind": planned["kind"],
            "metadata": {key: planned["metadata"][key] for key in ("name", "namespace")},
            "spec": {"replicas": replicas},
        }
        await self._api.apply(path_of(planned), alone, manager=SCALE_MANAGER)

    async def _hashes(self, namespace: str, names: frozenset[str]) -> dict[str, str]:
        found = {}
        for name in sorted(names):
            try:
                secret = await self._api.get(f"{collection('Secret', namespace)}/{name}")
            except ApiError as error:
                if error.status != 404:  # a missing one is the pod's trouble, and told there
                    raise
            else:
                found[name] = planning.secret_hash(secret.get("data") or {})
        return found


def owns_replicas(deployment: Object) -> bool:
    """Whether somebody besides the plan's own apply owns the count, so that it outlives one."""
    for entry in deployment["metadata"].get("managedFields") or []:
        plan_itself = (entry.get("manager"), entry.get("operation")) == (
            cluster.FIELD_MANAGER,
            "Apply",
        )
        fields = entry.get("fieldsV1") or {}
        if not plan_itself and "f:replicas" in (fields.get("f:spec") or {}):
            return True
    return False
