"""Parts of the cluster that go away, and come back: what operators must survive.

Only for a cluster of our own: parts are found in its record. Each returns when the state is
reached: a stopped part has ended, a started one answers.
"""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .api import Api, Refused
from .bringup import fake_gpus, ready_nodes
from .command import run
from .kubectl import wait_for
from .layout import Cluster, Node
from .record import Book, end, send
from .takedown import end_pods


def _folder(cluster: Cluster) -> Path:
    if cluster.folder is None:
        raise LookupError("only a cluster that was brought up here has parts to stop")
    return cluster.folder


def stop(cluster: Cluster, part: str, grace: float = 0) -> None:
    """End a part: `apiserver`, `etcd`, `scheduler`, `controller-manager`, `coredns`, ...

    SIGKILL right after SIGTERM unless it is given `grace` seconds.
    """
    end([Book.of(_folder(cluster)).part(part)], grace=grace)


def start(cluster: Cluster, part: str) -> None:
    """Start a part that has ended, with the words it had."""
    book = Book.of(_folder(cluster))
    book.spawn(part, book.part(part).argv)


def api_answers(cluster: Cluster) -> bool:
    """Whether the API server says it is ready."""
    try:
        return Api(_folder(cluster) / "certs").text("/readyz") == "ok"
    except (OSError, Refused):
        return False


@contextmanager
def api_away(cluster: Cluster) -> Iterator[None]:
    """No API server inside of the block: connections are refused, watches break off.

    Its controllers and scheduler end too, and start when it is back: where they are elected, as by
    Kubernetes' defaults, one that cannot renew its Lease ends. Controllers that live on take all nodes
    for lost on the API server's return, since they know no heartbeat newer than its end.
    """
    parts = ("apiserver", "controller-manager", "scheduler")
    for part in parts:
        stop(cluster, part)
    try:
        yield
    finally:
        start(cluster, parts[0])
        wait_for(lambda: api_answers(cluster), "the API server's return", 60)
        for part in parts[1:]:
            start(cluster, part)


@contextmanager
def frozen(cluster: Cluster, part: str) -> Iterator[None]:
    """A part that hangs inside of the block: its connections stay open and nothing answers."""
    process = Book.of(_folder(cluster)).part(part)
    send(process, signal.SIGSTOP)
    try:
        yield
    finally:
        send(process, signal.SIGCONT)


@contextmanager
def lost(cluster: Cluster, node: Node) -> Iterator[None]:
    """A node that is gone inside of the block: its kubelet, containerd and pods killed.

    The node turns NotReady 10 s later. On the way out it is Ready again, GPUs included.
    """
    folder = _folder(cluster)
    stop(cluster, node.kubelet)
    stop(cluster, node.containerd)
    end_pods((str(node.socket),), (node.cgroup,))
    try:
        yield
    finally:
        api = Api(folder / "certs")
        before = time.time()
        start(cluster, node.containerd)
        # It answers, and not only its socket's file is there, which outlived the last one: a kubelet
        # that finds nobody behind it ends.
        ask = ("ctr", "-a", node.socket, "version")
        wait_for(lambda: run(*ask), f"{node.name}'s containerd", 60)
        start(cluster, node.kubelet)
        wait_for(lambda: _beat_since(api, node.name, before), f"{node.name}'s heartbeat", 60)
        wait_for(lambda: node.name in ready_nodes(api), f"{node.name} Ready", 60)
        fake_gpus(api, node.name)


@contextmanager
def short_of_disk(cluster: Cluster, node: Node) -> Iterator[None]:
    """A node whose kubelet finds its disk too full inside of the block, and evicts its pods.

    It also removes images that no container uses: load them again afterwards."""
    config = node.root / "kubelet.yaml"
    before = config.read_text()
    told = json.loads(before)
    told["evictionHard"] = {**told.get("evictionHard", {}), "nodefs.available": "99.9%"}
    config.write_text(json.dumps(told))
    _again(cluster, node)
    try:
        yield
    finally:
        config.write_text(before)
        _again(cluster, node)
        api = Api(_folder(cluster) / "certs")
        wait_for(lambda: not _pressed(api, node.name), f"{node.name} without pressure", 120)


def _again(cluster: Cluster, node: Node) -> None:
    """The kubelet started again; pods run on meanwhile."""
    with silent(cluster, node):
        pass


def _pressed(api: Api, node: str) -> bool:
    found = api.call("GET", f"/api/v1/nodes/{node}")
    taints = {one["key"] for one in found["spec"].get("taints", [])}
    said = {one["type"]: one["status"] for one in found["status"]["conditions"]}
    return said["DiskPressure"] == "True" or "node.kubernetes.io/disk-pressure" in taints


@contextmanager
def silent(cluster: Cluster, node: Node) -> Iterator[None]:
    """A node that is not heard of inside of the block: what runs on it runs on, without a kubelet."""
    api = Api(_folder(cluster) / "certs")
    stop(cluster, node.kubelet)
    try:
        yield
    finally:
        before = time.time()
        start(cluster, node.kubelet)
        wait_for(lambda: _beat_since(api, node.name, before), f"{node.name}'s heartbeat", 60)
        wait_for(lambda: node.name in ready_nodes(api), f"{node.name} Ready", 60)
        fake_gpus(api, node.name)


def _beat_since(api: Api, node: str, before: float) -> bool:
    path = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}"
    renewed = str(api.call("GET", path)["spec"]["renewTime"])
    return renewed[:19] > time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(before))
