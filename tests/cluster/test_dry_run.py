"""A real API server takes every object that the chart renders, hooks and tests among them.

Server-side apply with strict validation, nothing kept: admission, Pod Security among it, says what
no offline check can see. Each case is rendered under a release of its own, so that no object meets
one that is there (a StatefulSet's volumes, a Service's address) and is judged as a change of it.
"""

from typing import Any

import pytest
import yaml
from harness import installed
from harness.command import run
from harness.installed import CHART, Platform
from harness.kubectl import environment, kubectl

SPACE = "dry-run"

CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "many": {"router": {"replicas": 3}, "operator": {"replicas": 2}},
    "external": {
        "billing": {"persistence": {"enabled": False}, "database": {"existingSecret": "pg"}},
        "admin": {"existingSecret": "our-admin"},
        "secrets": {"existingSecret": "our-secrets"},
        "imagePullSecrets": ["registry"],
    },
    "placed and exposed": {
        "router": {
            "service": {"type": "LoadBalancer", "annotations": {"a.b/c": "d"}},
            "nodeSelector": {"pool": "platform"},
            "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute"}],
        },
        "networkPolicy": {
            "gatewayFrom": [{"namespaceSelector": {"matchLabels": {"team": "edge"}}}],
            "metricsFrom": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}],
        },
        "profiles": {"cpu": {"env": {"OMP_NUM_THREADS": "2"}}, "nvidia-h100": None},
        "cache": {"storageClass": "standard", "accessMode": "ReadWriteMany"},
    },
    "bare": {"networkPolicy": {"enabled": False}, "crds": {"upgrade": False}},
}


@pytest.mark.parametrize("case", CASES)
def test_every_object_is_taken(tidegate: Platform, case: str) -> None:
    cluster = tidegate.cluster
    installed.namespace(cluster, SPACE)
    words = ("template", "fresh", CHART, "-n", SPACE, "--include-crds", "-f", "-")
    text = run(cluster.helm, *words, stdin=yaml.safe_dump(CASES[case]), env=environment(cluster))
    count = sum(1 for found in yaml.safe_load_all(text) if found)
    assert count > 10
    said = kubectl(
        cluster, "apply", "--server-side", "--dry-run=server", "--validate=strict", "-n", SPACE,
        "--force-conflicts", "-f", "-", input=text,
    )  # fmt: skip
    lines = said.splitlines()
    assert len(lines) == count, said
    assert all(line.endswith("serverside-applied (server dry run)") for line in lines), said
