"""What tests ask of a cluster: kubectl, helm, one object, a port forward, and waiting for a state."""

import base64
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from .command import CommandFailed, run
from .layout import Cluster

T = TypeVar("T")
FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) ->")


def environment(cluster: Cluster) -> dict[str, str]:
    """The environment for a process that is to talk to this cluster and to no other."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.environ.get("HOME", "/"),
        "KUBECONFIG": str(cluster.kubeconfig),
    }


def kubectl(
    cluster: Cluster, *words: str | Path, input: str | None = None, seconds: float = 120
) -> str:
    """kubectl's stdout. Raises CommandFailed with its stderr."""
    return run(cluster.kubectl, *words, stdin=input, env=environment(cluster), seconds=seconds)


def helm(cluster: Cluster, *words: str | Path, seconds: float = 300) -> str:
    """helm's stdout. Raises CommandFailed with its stderr."""
    return run(cluster.helm, *words, env=environment(cluster), seconds=seconds)


def get(
    cluster: Cluster, kind: str, name: str, namespace: str = "default"
) -> dict[str, Any] | None:
    """One object; None where there is none of this name."""
    words = ("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found")
    text = kubectl(cluster, *words)
    return json.loads(text) if text.strip() else None


def items(
    cluster: Cluster, kind: str, namespace: str = "default", selector: str = ""
) -> list[dict[str, Any]]:
    """Objects of a kind; `selector` is a label selector."""
    text = kubectl(cluster, "get", kind, "-n", namespace, "-l", selector, "-o", "json")
    return list(json.loads(text)["items"])


def secret(cluster: Cluster, name: str, key: str, namespace: str) -> str:
    """A value of a Secret that is there."""
    found = get(cluster, "secret", name, namespace)
    assert found is not None, f"no Secret {namespace}/{name}"
    return base64.b64decode(found["data"][key]).decode()


def apply(cluster: Cluster, *objects: dict[str, Any]) -> None:
    """`kubectl apply` of objects."""
    kubectl(cluster, "apply", "-f", "-", input="\n---\n".join(json.dumps(o) for o in objects))


def wait_for(look: Callable[[], T | None], what: str, seconds: float = 60) -> T:
    """Look until there is an answer that is not falsy, and return it.

    A command that fails is a 'not yet'. Raises TimeoutError that says what was last seen.
    """
    until = time.monotonic() + seconds
    seen: object = None
    while True:
        try:
            answer = look()
            if answer:
                return answer
            seen = answer
        except CommandFailed as fault:
            seen = fault
        if time.monotonic() > until:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s; last seen: {seen}")
        time.sleep(0.1)


def condition(thing: dict[str, Any] | None, kind: str) -> dict[str, Any] | None:
    """A condition of an object's status by its type; None where it has none."""
    conditions = (thing or {}).get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == kind), None)


def is_true(thing: dict[str, Any] | None, kind: str) -> bool:
    """Whether a condition is there and True."""
    found = condition(thing, kind)
    return found is not None and found["status"] == "True"


def pod_logs(cluster: Cluster, pod: str, namespace: str = "default", container: str = "") -> str:
    """What a pod (or `deploy/NAME`, ...) wrote; raises CommandFailed where it has not started."""
    which = ("-c", container) if container else ("--all-containers",)
    return kubectl(cluster, "logs", pod, "-n", namespace, *which)


@contextmanager
def port_forward(
    cluster: Cluster, target: str, port: int, namespace: str = "default", seconds: float = 30
) -> Iterator[int]:
    """A free port on 127.0.0.1 that leads to a port of `svc/NAME`, `pod/NAME`, `deploy/NAME`.

    kubectl picks one pod and stays with it: when that pod ends, so does the forward.
    """
    words = [str(cluster.kubectl), "port-forward", "-n", namespace, target, f":{port}"]
    # A file and not a pipe: kubectl writes a line per connection, and a full pipe stops it.
    with tempfile.NamedTemporaryFile("r+", prefix="port-forward-") as said:
        process = subprocess.Popen(
            [*words, "--address", "127.0.0.1"],
            env=environment(cluster),
            stdin=subprocess.DEVNULL,
            stdout=said.fileno(),
            stderr=subprocess.STDOUT,
        )
        try:
            yield _forwarded(process, Path(said.name), f"{target}:{port}", seconds)
        finally:
            process.terminate()
            process.wait(10)


def _forwarded(process: "subprocess.Popen[bytes]", said: Path, target: str, seconds: float) -> int:
    """The local port, which kubectl prints when it listens."""
    until = time.monotonic() + seconds
    while not (found := FORWARDING.search(text := said.read_text())):
        if process.poll() is not None or time.monotonic() > until:
            raise TimeoutError(f"port-forward to {target}: {text.strip() or 'said nothing'}")
        time.sleep(0.02)
    return int(found[1])
