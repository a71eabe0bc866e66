"""Tidegate on a cluster: images loaded, chart installed, and what tests ask of it.

The values are those of a small machine: everything asks for little, so that two nodes on two cores
hold it all. What is tested is the chart's own default otherwise.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from tidegate_billing.usage import attempt_time
from tidegate_runtime.contract import cluster as cluster_contract

from . import evidence, images, kubectl
from .kubectl import environment, get, helm, items, wait_for
from .layout import Cluster

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "charts" / "tidegate"
SYSTEM = "tidegate-system"
RELEASE = "tidegate"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}

VALUES: dict[str, Any] = {
    "imagePullPolicy": "IfNotPresent",
    "profiles": {
        "cpu": {
            "requests": {"cpu": "10m", "memory": "64Mi"},
            "limits": {"memory": "8Gi"},
            "env": {"SIM_TRUTH": "/tmp/truth.ndjson"},
        },
        # Python does not fit into it; no node has the label, until a test gives it one.
        "too-small": {"requests": {"cpu": "10m", "memory": "12Mi"}, "limits": {"memory": "12Mi"}},
        "nowhere": {
            "requests": {"cpu": "10m", "memory": "64Mi"},
            "limits": {"memory": "8Gi"},
            "nodeSelector": {"tidegate.dev/test": "somewhere"},
        },
        "nvidia-l4": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "8Gi"}},
        "any-gpu": {
            "gpus": 1,
            "gpuResource": "nvidia.com/gpu",
            "requests": {"cpu": "10m", "memory": "64Mi"},
            "limits": {"memory": "8Gi"},
        },
    },
    "capacity": {"minimumIdleSeconds": 3},
    "policy": {
        "public": ["platform"],
        "images": ["builder"],
        "prices": ["*"],
        "env": ["builder"],
    },
}


WEIGHTS = "cpu-with-weights"
"""The profile of what runs the real engine: its image is on one node of a cluster of ours, and the
scheduler's own preference for that node is weaker than an even spread."""


def _with_weights(cluster: Cluster) -> dict[str, Any]:
    selector = {"kubernetes.io/hostname": cluster.nodes[0].name} if cluster.nodes else {}
    return {**VALUES["profiles"]["cpu"], "nodeSelector": selector}


def load_images(cluster: Cluster) -> dict[str, str]:
    """Build the platform's image if it is not cached, put it on the nodes, return all names."""
    given = os.environ.get("TEST_IMAGE")
    if given:
        return {"tidegate": given, "vllm": os.environ.get("TEST_VLLM_IMAGE", "")}
    tidegate = images.build("tidegate")
    images.load(tidegate.archive, [node.socket for node in cluster.nodes])
    vllm = images.RECIPES["vllm-cpu"].name
    return {"tidegate": tidegate.name, "vllm": vllm, "built": tidegate.key[:16]}


def build_engine() -> Path | None:
    """The archive of the CPU engine's image, built if it is not cached; None where one was given."""
    return None if os.environ.get("TEST_IMAGE") else images.build("vllm-cpu").archive


def load_engine(cluster: Cluster, archive: Path | None) -> None:
    """Put it on one node: unpacking its 3 GB takes a minute."""
    if archive is not None:
        images.load(archive, [node.socket for node in cluster.nodes[:1]])


def namespace(cluster: Cluster, name: str, tenant: str = "") -> None:
    """Make a namespace under Pod Security `restricted`, bound to a tenant where one is named."""
    labels = RESTRICTED | ({"tidegate.dev/tenant": tenant} if tenant else {})
    kubectl.apply(
        cluster,
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
    )


def model(
    name: str,
    space: str,
    *,
    idle: int = 300,
    maximum: int = 1,
    args: list[str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """A ModelDeployment of the sim engine that starts and answers quickly."""
    made: dict[str, Any] = {
        "model": {"uri": f"sim://{name}"},
        "engine": {"type": "sim", "args": args or ["--start-seconds", "0.1", "--ttft-ms", "5"]},
        "scaling": {
            "minReplicas": 0, "maxReplicas": maximum, "idleSeconds": idle,
            "scaleDownDelaySeconds": 1, "stableWindowSeconds": 6, "targetConcurrency": 16,
        },
        "drain": {"timeoutSeconds": 30},
        "pricing": {"currency": "USD", "inputPerMillion": "0.10", "outputPerMillion": "0.40"},
    }  # fmt: skip
    for key, value in spec.items():
        made[key] = {**made[key], **value} if isinstance(made.get(key), dict) else value
    return {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": space},
        "spec": made,
    }


class Platform:
    """An installed platform."""

    def __init__(self, cluster: Cluster, gateway: str, management: str) -> None:
        self.cluster, self.gateway, self.management = cluster, gateway, management
        self._keys: dict[str, str] = {}

    def kubectl(self, *words: str, **more: Any) -> str:
        """kubectl on its cluster."""
        return kubectl.kubectl(self.cluster, *words, **more)

    def key(self, tenant: str) -> str:
        """A key of a tenant, made as the README says."""
        if tenant not in self._keys:
            made = self.kubectl(
                "-n", SYSTEM, "exec", "deploy/tidegate-billing", "--", "tidegate", "key", "create",
                "--tenant", tenant, "--project", "test", "--name", "test", "--json",
            )  # fmt: skip
            self._keys[tenant] = json.loads(made)["key"]
        return self._keys[tenant]

    def client(self, tenant: str, timeout: float = 120) -> httpx.Client:
        """An HTTP client of the gateway with a tenant's key."""
        headers = {"authorization": f"Bearer {self.key(tenant)}"}
        return httpx.Client(
            base_url=self.gateway, headers=headers, timeout=timeout, trust_env=False
        )

    def ask(
        self, tenant: str, name: str, tokens: int = 5, *, timeout: float = 120, **more: Any
    ) -> httpx.Response:
        """One chat request."""
        body = {
            "model": name, "max_tokens": tokens,
            "messages": [{"role": "user", "content": "a b c"}], **more,
        }  # fmt: skip
        with self.client(tenant, timeout) as client:
            return client.post("/v1/chat/completions", json=body)

    def api(self, path: str, **params: Any) -> Any:
        """GET of the management API."""
        token = kubectl.secret(self.cluster, "tidegate-admin", "token", SYSTEM)
        answer = httpx.get(
            self.management + path, params=params, trust_env=False, timeout=30,
            headers={"authorization": f"Bearer {token}"},
        )  # fmt: skip
        answer.raise_for_status()
        return answer.json()

    def events(self, **params: Any) -> list[dict[str, Any]]:
        """Settlements."""
        return list(self.api("/api/v1/events", limit=500, **params)["data"])

    def ledger(self, since: float) -> list[dict[str, Any]]:
        """Every settlement of an attempt that was made since then (seconds since the epoch)."""
        found: list[dict[str, Any]] = []
        after: dict[str, str] = {}
        while True:
            page = self.api("/api/v1/events", limit=10_000, **after)
            found += page["data"]
            if not page["has_more"]:
                return [x for x in found if attempt_time(x["attempt_id"]) >= since * 1000]
            after = {"after": found[-1]["event_id"]}

    def mdep(self, name: str, space: str) -> dict[str, Any]:
        """A resource; empty where there is none."""
        return get(self.cluster, "modeldeployments.tidegate.dev", name, space) or {}

    def phase(self, name: str, space: str, *phases: str, seconds: float = 90) -> dict[str, Any]:
        """Wait until a resource is in one of these phases; the resource."""

        def look() -> dict[str, Any] | None:
            found = self.mdep(name, space)
            return found if found.get("status", {}).get("phase") in phases else None

        return wait_for(look, f"{space}/{name} {'/'.join(phases)}", seconds)

    def condition(self, name: str, space: str, kind: str) -> dict[str, Any]:
        """A condition of a resource; empty where it has none yet."""
        return kubectl.condition(self.mdep(name, space), kind) or {}

    def guard(self, name: str, space: str) -> str:
        """The secret of a model's engines, as soon as there is one."""
        child = cluster_contract.child_name(name)
        wait_for(lambda: get(self.cluster, "secret", child, space), f"the guard of {space}/{name}")
        return kubectl.secret(self.cluster, child, cluster_contract.GUARD_KEY, space)

    def pods(self, name: str, space: str) -> list[dict[str, Any]]:
        """A model's pods."""
        return items(self.cluster, "pods", space, f"tidegate.dev/model={name}")

    def gone(self, name: str, space: str, seconds: float = 90) -> None:
        """Wait until a model has no pod."""
        wait_for(lambda: not self.pods(name, space), f"no pods of {space}/{name}", seconds)

    def delete(self, name: str, space: str) -> None:
        """Delete a resource and wait until nothing of it is left."""
        self.kubectl("-n", space, "delete", "mdep", name, "--ignore-not-found", "--wait=true")
        self.gone(name, space)

    def closes(self, seconds: float = 60) -> None:
        """Wait until conservation holds in every epoch."""

        def look() -> bool:
            rows = self.api("/api/v1/conservation")["data"]
            return all(row["unexplained"] == 0 for row in rows)

        wait_for(look, "conservation closes", seconds)


def install(
    cluster: Cluster,
    names: dict[str, str],
    *flags: str,
    chart: Path = CHART,
    values: dict[str, Any] = VALUES,
    seconds: float = 180,
) -> None:
    """`helm install` (or upgrade) with the values above, waiting until everything is ready."""
    profiles = {**values["profiles"], WEIGHTS: _with_weights(cluster)}
    values = values | {"image": names["tidegate"], "profiles": profiles}
    # An image that was built anew has its old name: pods of the old one are to be replaced.
    built = {"podAnnotations": {"tests/image": names.get("built", "")}}
    values |= dict.fromkeys(("router", "billing", "operator"), built)
    if names["vllm"]:
        values |= {"engines": {"vllm": {"image": names["vllm"]}}}
    if get(cluster, "namespace", SYSTEM) is None:
        namespace(cluster, SYSTEM)
    done = subprocess.run(
        [str(cluster.helm), "upgrade", "--install", RELEASE, str(chart), "-n", SYSTEM, "--wait",
         "--timeout", f"{seconds:.0f}s", "-f", "-", *flags],
        input=json.dumps(values), text=True, capture_output=True, check=False,
        env=environment(cluster),
    )  # fmt: skip
    if done.returncode:
        raise AssertionError(f"helm: {done.stderr}\n{evidence.of(cluster, SYSTEM)}")


@contextmanager
def platform(cluster: Cluster) -> Iterator[Platform]:
    """The platform that is installed: by its Services' own addresses on a cluster of ours, which
    outlive a pod and an API server; by port forwards on any other."""
    services = (("tidegate-router", 8080), ("tidegate-billing", 8081))
    with ExitStack() as stack:
        if cluster.folder is None:
            ports = [
                stack.enter_context(kubectl.port_forward(cluster, f"svc/{name}", port, SYSTEM))
                for name, port in services
            ]
            hosts = [f"127.0.0.1:{port}" for port in ports]
        else:
            found = [(get(cluster, "service", name, SYSTEM) or {}, port) for name, port in services]
            hosts = [f"{one['spec']['clusterIP']}:{port}" for one, port in found]
        yield Platform(cluster, *(f"http://{host}" for host in hosts))


def uninstall(cluster: Cluster) -> None:
    """`helm uninstall`."""
    helm(cluster, "uninstall", RELEASE, "-n", SYSTEM, "--wait")
