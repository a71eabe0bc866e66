"""Where everything of the test cluster lies: addresses, folders, names. Values only.

All addresses are ours alone: a bridge link without ports carries the gateway (API server, DNS)
and one address per node, so every part can use its usual port and nothing is on 127.0.0.1 or on
an address of the machine.
"""

import os
from dataclasses import dataclass
from pathlib import Path

LINK = "tgt0"
GATEWAY = "10.77.0.1"
NETWORK = "10.77.0.0/16"
SERVICES = "10.78.0.0/16"
API_SERVICE = "10.78.0.1"
DNS_SERVICE = "10.78.0.10"
DOMAIN = "cluster.local"
API_PORT = 6443
API = f"https://{GATEWAY}:{API_PORT}"
ETCD = f"https://{GATEWAY}:2379"
GPUS = 4

STORAGE_CLASS = "standard"
SIZED_CLASS = "sized"
PROVISIONER = "tidegate.dev/test-storage"

# Small images that every node has.
PAUSE_IMAGE = "registry.invalid/tidegate-test/pause:1"
BOX_IMAGE = "registry.invalid/tidegate-test/busybox:1"


@dataclass(frozen=True, slots=True)
class Node:
    """One node: `socket` is its containerd's (namespace `k8s.io` holds the kubelet's images)."""

    name: str
    address: str
    pods: str
    root: Path

    @property
    def socket(self) -> Path:
        return self.root / "containerd.sock"

    @property
    def cgroup(self) -> str:
        return f"{self.root.parent.name}-{self.name}"  # a state folder of its own, a group too

    @property
    def kubelet(self) -> str:
        """The name of its kubelet's process in the record; `containerd` alike."""
        return f"kubelet-{self.name}"

    @property
    def containerd(self) -> str:
        return f"containerd-{self.name}"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster for tests. One that was not brought up here has only a kubeconfig and tools.

    `audit_log` is the API server's: one JSON event a line, level Metadata, every request.
    """

    kubeconfig: Path
    kubectl: Path
    helm: Path
    folder: Path | None = None
    nodes: tuple[Node, ...] = ()
    audit_log: Path | None = None
    gateway: str = GATEWAY
    service_cidr: str = SERVICES
    dns: str = DNS_SERVICE


def state_folder() -> Path:
    """The machine-wide folder; CLUSTER_STATE names another one."""
    return Path(os.environ.get("CLUSTER_STATE", "/var/lib/tidegate-test"))


def nodes(folder: Path) -> tuple[Node, ...]:
    """The two nodes, in a folder."""
    return tuple(
        Node(f"node-{letter}", f"10.77.0.1{n}", f"10.77.{n}.0/24", folder / f"node-{letter}")
        for n, letter in enumerate("ab", start=1)
    )


def cluster(folder: Path, *, kubectl: Path, helm: Path, nodes: tuple[Node, ...]) -> Cluster:
    """The cluster that is, or will be, in a folder."""
    return Cluster(
        kubeconfig=folder / "kubeconfig",
        kubectl=kubectl,
        helm=helm,
        folder=folder,
        nodes=nodes,
        audit_log=folder / "audit.log",
    )
