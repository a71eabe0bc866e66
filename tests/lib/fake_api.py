"""The small API server, made writable: what an operator asks of one, discovery included.

Objects live in their cluster-wide collection, whichever path they are written by. A merge patch and
an apply both merge; `scale` is a Deployment's count. Nothing runs: there are no controllers.
"""

import json
import re
from pathlib import Path
from typing import Any

import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fake_kube import FakeKube, Object, _status

MODELS = "/apis/tidegate.dev/v1alpha1/modeldeployments"
DEPLOYMENTS = "/apis/apps/v1/deployments"
NAMESPACES = "/api/v1/namespaces"
LEASES = "/apis/coordination.k8s.io/v1/leases"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/system/endpointslices"
OURS = ("tenants", "pricebooks")
TENANTS, BOOKS = (f"/apis/tidegate.dev/v1alpha1/{plural}" for plural in OURS)
SECRETS = "/api/v1/secrets"
_SERVED = {
    "/api/v1": (
        "namespaces", "pods", "secrets", "configmaps", "services", "serviceaccounts",
        "persistentvolumeclaims", "events", "nodes", "resourcequotas",
    ),
    "/apis/apps/v1": ("deployments",),
    "/apis/networking.k8s.io/v1": ("networkpolicies",),
    "/apis/policy/v1": ("poddisruptionbudgets",),
    "/apis/coordination.k8s.io/v1": ("leases",),
    "/apis/apiextensions.k8s.io/v1": ("customresourcedefinitions",),
}  # fmt: skip
_PLACE = re.compile(
    r"(?P<root>/api/v1|/apis/[^/]+/[^/]+)/namespaces/(?P<space>[^/]+)/(?P<plural>[^/]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<part>status|scale))?"
)


_WIDE = re.compile(
    rf"(?P<root>/apis/tidegate.dev/v1alpha1)/(?P<plural>{'|'.join(OURS)})"
    r"/(?P<name>[^/]+)/status"
)


class FakeApi(FakeKube):
    """`writes`: (method, path) of every write. `conflicts`: writes to answer 409 from now on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.writes: list[tuple[str, str]] = []
        self.conflicts = 0
        self.before_create = lambda: None
        for root, plurals in _SERVED.items():
            for plural in plurals:
                self.serve(f"{root}/{plural}")
        self.serve(SLICES)
        self.store(NAMESPACES, {"metadata": {"name": "team", "labels": {}}})

    def _write_kubeconfig(self, port: int) -> None:
        super()._write_kubeconfig(port)
        place = Path(self.kubeconfig)  # kopf reads no tokenFile
        config = yaml.safe_load(place.read_text())
        config["users"][0]["user"] = {"token": "first"}
        place.write_text(yaml.safe_dump(config))

    def define(self) -> None:
        """Create the definition of ModelDeployments."""
        self.serve(MODELS)
        self.store(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            {
                "metadata": {"name": "modeldeployments.tidegate.dev"},
                "spec": {"group": "tidegate.dev"},
            },
        )

    def define_ours(self) -> None:
        """Create the definitions of tenants and price books."""
        self.serve(TENANTS)
        self.serve(BOOKS)

    def find(self, path: str, name: str, namespace: str = "team") -> Object | None:
        """An object."""
        return self._objects.get(path, {}).get((namespace, name))

    async def _answer(self, request: Request) -> Response:
        path = request.url.path
        if request.method == "GET" and (told := self._discovery(path)) is not None:
            return JSONResponse(told)
        if (wide := _WIDE.fullmatch(path)) is not None:
            return await self._wide(request, wide)
        place = _PLACE.fullmatch(path)
        if request.method != "GET" and place is not None:
            return await self._write(request, place)
        if request.method == "GET" and place is not None and place["name"]:
            collection = f"{place['root']}/{place['plural']}"
            found = self.find(collection, place["name"], place["space"])
            return JSONResponse(found) if found else _status(404, "not found")
        return await super()._answer(request)

    async def _wide(self, request: Request, place: "re.Match[str]") -> Response:
        """A status of what belongs to no namespace; nobody writes its spec."""
        collection, name = f"{place['root']}/{place['plural']}", place["name"]
        found = self.find(collection, name, "")
        if found is None or request.method != "PATCH":
            return _status(404, "not found")
        self.writes.append((request.method, request.url.path))
        status = _merged(found.get("status"), (await request.json())["status"])
        if status != found.get("status"):
            self.store(collection, {**found, "status": status})
        return JSONResponse(self.find(collection, name, ""))

    def _list(self, path: str, query: dict[str, str]) -> Response:
        listed = json.loads(bytes(super()._list(path, {"limit": "500", **query}).body))
        field, _, name = query.get("fieldSelector", "").partition("=")
        if field == "metadata.name":
            listed["items"] = [one for one in listed["items"] if one["metadata"]["name"] == name]
        # As a real one: built-in objects in a list do not say what they are, custom ones do.
        for one in listed["items"] if path != MODELS else ():
            one.pop("kind", None)
            one.pop("apiVersion", None)
        return JSONResponse(listed)

    def _discovery(self, path: str) -> Object | None:
        served = dict(_SERVED)
        if MODELS in self._objects:
            served["/apis/tidegate.dev/v1alpha1"] = ("modeldeployments",)
        if path == "/api":
            return {"versions": ["v1"]}
        if path == "/apis":
            return {"groups": [_group(root) for root in served if root != "/api/v1"]}
        if path in served:
            return {"resources": [_resource(plural) for plural in served[path]]}
        return {"major": "1", "minor": "34"} if path == "/version" else None

    async def _write(self, request: Request, place: "re.Match[str]") -> Response:
        if place["plural"] == "secrets" and (no := await self._no_secret(request, place)):
            return no
        self.writes.append((request.method, request.url.path))
        if self.conflicts:
            self.conflicts -= 1
            return _status(409, "the object has been modified")
        body: Object = await request.json() if request.method != "DELETE" else {}
        collection, space = f"{place['root']}/{place['plural']}", place["space"]
        name = place["name"] or body["metadata"]["name"]
        known = self.find(collection, name, space)
        if request.method == "DELETE":
            self.remove(collection, name, space)
            return JSONResponse({})
        apply = "apply" in request.headers.get("content-type", "")
        if known is None and request.method == "PATCH" and not apply:
            return _status(404, "not found")
        if request.method == "PUT" and known is not None and _version(known) != _version(body):
            return _status(409, "the object has been modified")
        made = body if known is None or request.method == "PUT" else _merged(known, body)
        made["metadata"] |= {"name": name, "namespace": space}
        made["metadata"].setdefault("uid", f"uid-{self.version}")
        if made != known:
            self.store(collection, made)
        return JSONResponse(self.find(collection, name, space))

    async def _no_secret(self, request: Request, place: "re.Match[str]") -> Response | None:
        """What a real one has against a Secret, and the answer to a trial."""
        if request.method == "DELETE":
            return None
        body = await request.json()
        known = self.find(SECRETS, place["name"] or body["metadata"]["name"], place["space"])
        if request.method == "POST":
            if self.find(NAMESPACES, place["space"], "") is None:
                return _status(404, f'namespaces "{place["space"]}" not found')
            if known is not None:
                said = {"reason": "AlreadyExists", "code": 409, "message": "it exists"}
                return JSONResponse(said, 409)
            if request.query_params.get("dryRun"):
                return JSONResponse(body, 201)
            self.before_create()
        seen = body["metadata"].get("resourceVersion")
        if request.method == "PATCH" and known is not None and seen not in {None, _version(known)}:
            return _status(409, "the object has been modified")
        return None


def _version(one: Object) -> str:
    return str(one["metadata"].get("resourceVersion", ""))


def _merged(one: Any, change: Any) -> Any:
    if not isinstance(one, dict) or not isinstance(change, dict):
        return change
    made = dict(one)
    for key, value in change.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = _merged(made.get(key), value)
    return made


def _group(root: str) -> Object:
    _, _, group, version = root.split("/")
    here = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [here], "preferredVersion": here}


def _resource(plural: str) -> Object:
    kinds = {"modeldeployments": "ModelDeployment", "namespaces": "Namespace"}
    return {
        "name": plural,
        "singularName": plural[:-1],
        "kind": kinds.get(plural, plural.capitalize()),
        "namespaced": plural not in {"namespaces", "customresourcedefinitions"},
        "verbs": ["get", "list", "watch", "patch", "create", "delete", "update"],
    }
