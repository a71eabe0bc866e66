"""The platform's own pods on the test cluster: found, asked, killed, waited for.

Processes are killed as the kernel kills them: found by their pod's cgroup on this very machine, so
that nothing is told beforehand, as `kubectl delete` would.
"""

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import httpx

from .installed import SYSTEM
from .kubectl import get, is_true, items, wait_for
from .layout import Cluster


def parts(cluster: Cluster, part: str) -> list[dict[str, Any]]:
    """The running pods of a part of the platform."""
    found = items(cluster, "pods", SYSTEM, f"app.kubernetes.io/component={part}")
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def named(cluster: Cluster, name: str) -> dict[str, Any]:
    """A pod of the platform as it is now."""
    return get(cluster, "pod", name, SYSTEM) or {}


def restarts(pod: dict[str, Any]) -> int:
    """How often its container was started again."""
    return sum(one["restartCount"] for one in pod["status"].get("containerStatuses", []))


def kill(pod: dict[str, Any]) -> None:
    """SIGKILL to the process of a pod's own program, and to nothing else."""
    uid = pod["metadata"]["uid"]
    found = [
        int(folder.name)
        for folder in Path("/proc").iterdir()
        if folder.name.isdigit() and _runs_ours(folder, uid)
    ]
    assert len(found) == 1, f"{pod['metadata']['name']}: processes {found}"
    handle = os.pidfd_open(found[0])
    try:
        assert _runs_ours(Path("/proc") / str(found[0]), uid)
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    finally:
        os.close(handle)


def _runs_ours(process: Path, uid: str) -> bool:
    with contextlib.suppress(OSError):
        in_pod = f"/pod{uid}/" in (process / "cgroup").read_text()
        return in_pod and b"tidegate" in (process / "cmdline").read_bytes()
    return False


def metric(pod: dict[str, Any], name: str) -> float:
    """A number of a pod's metrics; -1 where it does not answer."""
    try:
        address = f"http://{pod['status']['podIP']}:9090/metrics"
        text = httpx.get(address, trust_env=False, timeout=2).text
    except (httpx.HTTPError, KeyError):  # no address yet
        return -1.0
    return next((float(x.split()[-1]) for x in text.splitlines() if x.startswith(f"{name} ")), -1.0)


def leads(cluster: Cluster) -> dict[str, Any]:
    """Wait until one operator leads; its pod."""

    def look() -> dict[str, Any] | None:
        pods = parts(cluster, "operator")
        return next((p for p in pods if metric(p, "tidegate_operator_leading") == 1), None)

    return wait_for(look, "a leading operator", 60)


def restarted(cluster: Cluster, part: str, before: dict[str, Any]) -> None:
    """Wait until the killed container runs again and is ready."""

    def look() -> bool:
        pod = named(cluster, before["metadata"]["name"])
        states = pod["status"].get("containerStatuses", []) if pod else []
        if not states or pod["metadata"]["uid"] != before["metadata"]["uid"]:
            return False
        return restarts(pod) > restarts(before) and all(one["ready"] for one in states)

    wait_for(look, f"{part} restarted", 60)


def ready(cluster: Cluster, part: str, count: int, seconds: float = 180) -> None:
    """Wait until so many pods of a part are ready, and no other is there."""

    def look() -> bool:
        found = parts(cluster, part)
        return len(found) == count and all(is_true(pod, "Ready") for pod in found)

    wait_for(look, f"{count} of {part} ready", seconds)
