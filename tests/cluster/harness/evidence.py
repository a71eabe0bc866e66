"""What is left to look at when a platform did not come up: a failure that nobody can repeat is told
once, so it has to tell everything."""

from typing import Any

import httpx

from . import kubectl
from .command import CommandFailed
from .layout import Cluster

PATHS = ("/livez", "/readyz")


def of(cluster: Cluster, namespace: str) -> str:
    """Pods, events, and of each pod that is not ready: its description, its log, and what answers
    at its address."""
    parts = [_said(cluster, "-n", namespace, "get", "pods,events", "-o", "wide")]
    for pod in kubectl.items(cluster, "pods", namespace):
        if not kubectl.is_true(pod, "Ready"):
            name = pod["metadata"]["name"]
            words = ("--all-containers", "--tail=100", "--prefix", "--timestamps")
            parts.append(_said(cluster, "-n", namespace, "describe", "pod", name))
            parts.append(_said(cluster, "-n", namespace, "logs", name, *words))
            parts.append(_said(cluster, "-n", namespace, "logs", name, "--previous", *words))
            parts += _answers(pod)
    parts.append(_said(cluster, "get", "pods", "-A", "-o", "wide"))
    return "\n".join(parts)


def _said(cluster: Cluster, *words: str) -> str:
    try:
        return f"$ kubectl {' '.join(words)}\n{kubectl.kubectl(cluster, *words)}"
    except CommandFailed as fault:
        return f"$ kubectl {' '.join(words)}\n{fault}"


def _answers(pod: dict[str, Any]) -> list[str]:
    address = pod.get("status", {}).get("podIP")
    ports = [
        one["containerPort"]
        for container in pod["spec"]["containers"]
        for one in container.get("ports", [])
    ]
    told = []
    for url in (f"http://{address}:{port}{path}" for port in ports for path in PATHS):
        try:
            answer = httpx.get(url, timeout=5, trust_env=False)
            told.append(
                f"GET {url}: {answer.status_code} {dict(answer.headers)} {answer.text[:500]}"
            )
        except httpx.HTTPError as fault:
            told.append(f"GET {url}: {type(fault).__name__}: {fault}")
    return told
