"""Helm, and the chart rendered by it. No cluster and no root: `lookup` finds nothing here."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "tidegate"

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # without libyaml: slower, the same

Object = dict[str, Any]
Values = Mapping[str, Any]
Helm = Callable[..., subprocess.CompletedProcess[str]]

CASES: dict[str, Object] = {
    "defaults": {},
    "many": {"router": {"replicas": 3}, "operator": {"replicas": 2}},
    "postgresql": {
        "billing": {"persistence": {"enabled": False}, "database": {"existingSecret": "pg"}}
    },
    "secrets of others": {
        "admin": {"existingSecret": "our-admin"},
        "secrets": {"existingSecret": "our-secrets"},
        "imagePullSecrets": ["registry"],
    },
    "placed": {
        part: {
            "nodeSelector": {"pool": "platform"},
            "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute"}],
            "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": "topology.kubernetes.io/zone",
                    "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": {"matchLabels": {"app.kubernetes.io/component": part}},
                }
            ],
            "priorityClassName": "system-cluster-critical",
            "podAnnotations": {"example.com/note": "yes"},
        }
        for part in ("router", "billing", "operator")
    },
    "storage": {
        "router": {"journal": {"size": "10Gi", "storageClass": "fast"}},
        "billing": {"persistence": {"size": "20Gi", "storageClass": "safe"}},
        "cache": {"storageClass": "wide", "accessMode": "ReadWriteMany"},
    },
    "network": {
        "networkPolicy": {
            "gatewayFrom": [{"namespaceSelector": {"matchLabels": {"tenant": "yes"}}}],
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
            "managementFrom": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
            "apiServerPorts": [6443],
        },
        "router": {"service": {"type": "LoadBalancer", "annotations": {"a/b": "c"}}},
    },
    "no network policy": {"networkPolicy": {"enabled": False}, "crds": {"upgrade": False}},
    "own profiles": {
        "profiles": {
            "nvidia-l4": None,
            "mine": {
                "gpus": 2,
                "gpuResource": "example.com/gpu",
                "requests": {"cpu": 2, "memory": 2147483648},
                "runtimeClassName": "nvidia",
                "env": {"A": "b"},
                "supplementalGroups": [44],
                "elastic": True,
            },
            "bare": {},
        },
        "capacity": {"giveWay": False, "minimumIdleSeconds": 20_000},
        "engines": {
            "vllm": {"versions": {"0.32": "example.com/vllm:0.32"}, "fetchEnv": {"P": "q"}}
        },
        "policy": {"prices": ["team-a"], "public": ["*"], "env": ["team-b"]},
    },
}


class Objects(list[Object]):
    """What the chart renders to."""

    def one(self, kind: str, name: str) -> Object:
        """The object of this kind and name."""
        (found,) = [o for o in self if (o["kind"], o["metadata"]["name"]) == (kind, name)]
        return found

    def pods(self) -> dict[str, Object]:
        """Everything that is or makes a pod: its metadata and spec, by `kind/name`."""
        made = {}
        for found in self:
            name = f"{found['kind']}/{found['metadata']['name']}"
            if found["kind"] == "Pod":
                made[name] = found
            elif "template" in found.get("spec", {}):
                made[name] = found["spec"]["template"]
        return made


Render = Callable[..., Objects]


def _program() -> Path:
    """TEST_HELM, else the one that the cluster harness builds and keeps."""
    given = os.environ.get("TEST_HELM")
    if given:
        return Path(given)
    cluster = str(ROOT / "tests" / "cluster")
    if cluster not in sys.path:
        sys.path.insert(0, cluster)
    from harness import tools

    return tools.helm()


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Run Helm with some words and values; its folders are its own, and no cluster is known."""
    program, home = _program(), tmp_path_factory.mktemp("helm")
    environment = {
        "HOME": str(home),
        "KUBECONFIG": str(home / "none"),
        "PATH": os.defpath,
        **{f"HELM_{kind}_HOME": str(home / kind) for kind in ("CACHE", "CONFIG", "DATA")},
    }

    def run(*words: str, values: Values | None = None) -> subprocess.CompletedProcess[str]:
        given = ["--values", "-"] if values is not None else []
        return subprocess.run(
            [str(program), *words, *given],
            input=yaml.safe_dump(dict(values or {})),
            env=environment,
            text=True,
            capture_output=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def render(helm: Helm) -> Render:
    """Every object of the chart for some values, hooks and tests among them."""

    def run(values: Values | None = None, *, release: str = "tidegate") -> Objects:
        done = helm("template", release, str(CHART), "-n", "tidegate-system", values=values or {})
        assert done.returncode == 0, done.stderr
        return Objects(found for found in yaml.load_all(done.stdout, Loader=LOADER) if found)

    return run


@pytest.fixture(scope="session")
def cases() -> dict[str, Object]:
    """Values by what is special about them."""
    return CASES


@pytest.fixture(scope="session", params=CASES)
def objects(request: pytest.FixtureRequest, render: Render) -> Objects:
    """What is rendered for each of the cases."""
    return render(CASES[request.param])


@pytest.fixture(scope="session")
def defaults(render: Render) -> Objects:
    """What is rendered when nothing is set."""
    return render({})
