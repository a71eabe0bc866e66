"""The API server as JSON over `kubernetes.aio`'s connections: its sign-in, its TLS, its pool.

The generated classes are left out: what is applied is planned as plain objects, and what is read is
compared with those. Every call names our field manager, so that `kubectl` shows who wrote what.
"""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client

from tidegate_runtime.contract.cluster import FIELD_MANAGER
from tidegate_runtime.kube import api as links

APPLY: Final = "application/apply-patch+yaml"
MERGE: Final = "application/merge-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"
_JSON: Final = "application/json"
TIMEOUT_SECONDS: Final = 10.0

Object = Mapping[str, Any]


class ApiError(Exception):
    """The API server refused a call, or did not answer it (`status` 0)."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message

    @property
    def passing(self) -> bool:
        """Whether the same call may succeed later without anybody changing anything."""
        return self.status in {0, 408, 409, 425, 429} or self.status >= 500


async def connect() -> client.ApiClient:
    """A client with what `KUBECONFIG` names, else the pod's service account, else the user's file.

    Raises config.ConfigException where there is none of them."""
    in_a_pod = "KUBERNETES_SERVICE_HOST" in os.environ
    file = os.environ.get("KUBECONFIG", "" if in_a_pod else "~/.kube/config")
    made: client.ApiClient = await links.connect(file)
    return made


class Api:
    """Calls of one client. Every method raises ApiError."""

    def __init__(self, api_client: client.ApiClient) -> None:
        self._client = api_client
        self.calls = self.failures = 0

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = _JSON,
        query: Sequence[tuple[str, str]] = (),
        timeout: float = TIMEOUT_SECONDS,
    ) -> dict[str, Any]:
        """One call; the decoded answer, empty where it has no body."""
        self.calls += 1
        url = self._client.configuration.host + path + ("?" + urlencode(query) if query else "")
        headers = {"Accept": _JSON, "Content-Type": content_type}
        await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        try:
            answer = await self._client.rest_client.request(
                method,
                url,
                headers=headers,
                body=body,
                _request_timeout=aiohttp.ClientTimeout(timeout),
            )
            raw = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.failures += 1
            said = f"no answer from the API server: {type(error).__name__} {error}".strip()
            raise ApiError(0, "NoAnswer", said) from error
        if answer.status >= 400:
            self.failures += answer.status not in {404, 409}
            raise _refusal(answer.status, raw)
        return json.loads(raw) if raw else {}

    async def get(self, path: str) -> dict[str, Any]:
        """The object at `path`."""
        return await self.call("GET", path)

    async def apply(
        self, path: str, obj: Object, *, manager: str = FIELD_MANAGER
    ) -> dict[str, Any]:
        """Server-side apply; takes what somebody else owns, for the plan is the truth."""
        query = (("fieldManager", manager), ("force", "true"))
        return await self.call("PATCH", path, obj, content_type=APPLY, query=query)

    async def create(self, path: str, obj: Object) -> dict[str, Any]:
        """POST to a collection."""
        return await self.call("POST", path, obj, query=(("fieldManager", FIELD_MANAGER),))

    async def patch(self, path: str, change: Object, kind: str = MERGE) -> dict[str, Any]:
        """A merge patch."""
        query = (("fieldManager", FIELD_MANAGER),)
        return await self.call("PATCH", path, change, content_type=kind, query=query)

    async def replace(self, path: str, obj: Object) -> dict[str, Any]:
        """PUT; refused with 409 where `metadata.resourceVersion` is not the newest."""
        return await self.call("PUT", path, obj, query=(("fieldManager", FIELD_MANAGER),))

    async def delete(self, path: str, grace_seconds: int | None = None) -> None:
        """DELETE; what is gone already is no error. `grace_seconds`: in place of the pod's own."""
        query = () if grace_seconds is None else (("gracePeriodSeconds", str(grace_seconds)),)
        try:
            await self.call("DELETE", path, query=query)
        except ApiError as error:
            if error.status != 404:
                raise

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()
        await asyncio.sleep(0)


def _refusal(status: int, raw: bytes) -> ApiError:
    try:
        said = json.loads(raw)
    except ValueError:
        said = {}
    if not isinstance(said, dict):
        said = {}
    message = said.get("message") or raw[:500].decode(errors="replace")
    return ApiError(status, said.get("reason") or str(status), message)


_CORE: Final = "/api/v1"
COLLECTIONS: Final[Mapping[str, tuple[str, str]]] = {
    "ConfigMap": (_CORE, "configmaps"),
    "Event": (_CORE, "events"),
    "PersistentVolumeClaim": (_CORE, "persistentvolumeclaims"),
    "Pod": (_CORE, "pods"),
    "Secret": (_CORE, "secrets"),
    "Service": (_CORE, "services"),
    "ServiceAccount": (_CORE, "serviceaccounts"),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "Lease": ("/apis/coordination.k8s.io/v1", "leases"),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
    "ModelDeployment": ("/apis/tidegate.dev/v1alpha1", "modeldeployments"),
}
"""Where objects of a kind live: (root of the group, plural)."""


def collection(kind: str, namespace: str) -> str:
    """The path of a kind's collection in a namespace."""
    root, plural = COLLECTIONS[kind]
    return f"{root}/namespaces/{namespace}/{plural}"


def path_of(obj: Object) -> str:
    """The path of an object that says its kind, namespace and name."""
    metadata = obj["metadata"]
    return f"{collection(obj['kind'], metadata['namespace'])}/{metadata['name']}"
