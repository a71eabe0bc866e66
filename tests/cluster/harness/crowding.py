"""The shell of `crowd`: makes the models, plays the changes, and looks at what came of it."""

import json
import ssl
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Final

import httpx

from . import crowd
from .layout import API, Cluster

WRITERS: Final = 4
_STRATEGIC: Final = {"content-type": "application/strategic-merge-patch+json"}
_MERGE: Final = {"content-type": "application/merge-patch+json"}
_ROOT: Final = "/apis/tidegate.dev/v1alpha1"


class Crowd:
    """So many models of one cluster. Every call raises httpx.HTTPError where it is refused."""

    def __init__(self, cluster: Cluster, models: int) -> None:
        assert cluster.folder is not None
        secrets = cluster.folder / "certs"
        context = ssl.create_default_context(cafile=str(secrets / "ca.crt"))
        context.load_cert_chain(secrets / "admin.crt", secrets / "admin.key")
        self._http = httpx.Client(base_url=API, verify=context, timeout=60, trust_env=False)
        self._models = models
        self._pods: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def create(self) -> None:
        """Every namespace, then every model, as fast as they are taken."""
        spaces = sorted({crowd.place(number)[0] for number in range(self._models)})
        for space in spaces:
            self._send("POST", "/api/v1/namespaces", {"metadata": {"name": space}})

        def one(number: int) -> None:
            namespace, _ = crowd.place(number)
            path = f"{_ROOT}/namespaces/{namespace}/modeldeployments"
            self._send("POST", path, crowd.resource(number))

        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(one, range(self._models)))

    def look(self) -> None:
        """Learn the pods there are, which `play` changes."""
        self._pods.clear()
        for pod in self._items("/api/v1/pods?labelSelector=tidegate.dev/model"):
            metadata = pod["metadata"]
            key = (metadata["namespace"], metadata["labels"]["tidegate.dev/model"])
            self._pods.setdefault(key, []).append(pod)

    def play(self, planned: Sequence[crowd.Change], seconds: float) -> float:
        """Make the changes, each at its time, in so many seconds; how late the latest one was."""
        begun, late = time.monotonic(), 0.0
        for change in planned:
            behind = time.monotonic() - begun - change.at
            late = max(late, behind)
            time.sleep(max(0.0, -behind))
            self._change(change)
        time.sleep(max(0.0, begun + seconds - time.monotonic()))
        return late

    def amiss(self) -> list[str]:
        """Models whose status is not what it should be, at most ten."""
        found = {}
        for one in self._items(f"{_ROOT}/modeldeployments"):
            metadata = one["metadata"]
            found[metadata["namespace"], metadata["name"]] = one
        wrong = []
        for number in range(self._models):
            told = found.get(crowd.place(number), {})
            status, keep = told.get("status", {}), crowd.replicas(number)
            phase, ready = status.get("phase"), status.get("replicas", {}).get("ready")
            generation = told.get("metadata", {}).get("generation")
            seen = status.get("observedGeneration")
            if (phase, ready, seen) != ("Ready" if keep else "Idle", keep, generation):
                wrong.append(f"model {number}: {phase}, {ready} of {keep} ready, seen {seen}")
        return wrong[:10]

    def _change(self, change: crowd.Change) -> None:
        namespace, name = crowd.place(change.model)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if change.kind == "note":
            path = f"{_ROOT}/namespaces/{namespace}/modeldeployments/{name}"
            body: dict[str, Any] = {"metadata": {"annotations": {"tests/note": str(change.at)}}}
            self._send("PATCH", path, body, _MERGE)
            return
        pods = self._pods[namespace, name]
        pod = pods[change.pod % len(pods)]
        status = _unready(now) if change.kind == "unready" else _restarted(pod, now)
        path = f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}/status"
        self._send("PATCH", path, {"status": status}, _STRATEGIC)

    def _items(self, path: str) -> list[dict[str, Any]]:
        answer = self._http.get(path)
        answer.raise_for_status()
        return list(answer.json()["items"])

    def _send(
        self, method: str, path: str, body: object, headers: dict[str, str] | None = None
    ) -> None:
        kind = headers or {"content-type": "application/json"}
        self._http.request(method, path, content=json.dumps(body), headers=kind).raise_for_status()


def _unready(now: str) -> dict[str, Any]:
    """As a kubelet tells that a probe failed; the simulated one sees it pass a moment later."""
    kinds = ("ContainersReady", "Ready")
    return {
        "conditions": [
            {"type": kind, "status": "False", "lastTransitionTime": now, "reason": "Probe"}
            for kind in kinds
        ]
    }


def _restarted(pod: dict[str, Any], now: str) -> dict[str, Any]:
    """As a kubelet tells that a container has started anew. The pod that is known is changed too."""
    for container in pod["status"]["containerStatuses"]:
        container["restartCount"] += 1
        container["state"] = {"running": {"startedAt": now}}
    return {"containerStatuses": pod["status"]["containerStatuses"]}
