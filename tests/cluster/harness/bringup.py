"""From nothing to two Ready nodes, or to a control plane without any.

The order is what waits for what: certificates, then etcd, API server and both containerds at
once; images while the API server starts; everything that talks to the API server when it is
ready, because a part that finds it away backs off for seconds.
"""

import http.client
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from . import certs, configs, debian, machine, parts, small_images
from .api import JSON_PATCH, Api, Refused
from .layout import GATEWAY, GPUS, Cluster, Node, cluster, nodes
from .record import Book, alive, read
from .tools import Tools, build, say

DEVICE_PLUGINS = Path("/var/lib/kubelet/device-plugins/kubelet.sock")


class NotUp(RuntimeError):
    """A part did not come up in time; the message names it and ends with its log."""


def _await(look: Callable[[], Any], what: str, seconds: float, log: Path | None = None) -> Any:
    """Look until there is an answer; a refused connection is a 'not yet'."""
    until = time.monotonic() + seconds
    seen: object = None
    while time.monotonic() < until:
        try:
            if seen := look():
                return seen
        except (OSError, Refused, http.client.HTTPException) as fault:
            seen = fault
        time.sleep(0.05)
    tail = log.read_text(errors="replace")[-3000:] if log is not None and log.exists() else ""
    raise NotUp(f"{what}: not within {seconds:.0f} s; last seen: {seen}\n{tail}")


def _folders(folder: Path, nodes: tuple[Node, ...]) -> None:
    for name in ("logs", "volumes"):
        (folder / name).mkdir()
    for node in nodes:
        for name in ("cni", "opt", "pod-logs", "kubelet"):
            (node.root / name).mkdir(parents=True)
        for registry in ("_default", "docker.io"):
            (node.root / "registries" / registry).mkdir(parents=True)


def _write_configs(folder: Path, nodes: tuple[Node, ...]) -> None:
    secrets = folder / "certs"
    texts = {
        folder / "kubeconfig": configs.kubeconfig(secrets, "admin"),
        folder / "audit-policy.yaml": configs.audit_policy(),
        folder / "Corefile": configs.corefile(folder),
    }
    if nodes:
        texts[folder / "kube-proxy.yaml"] = configs.kube_proxy(folder, nodes[0])
    for client in ("controller-manager", "scheduler", "kube-proxy", "coredns"):
        texts[folder / f"{client}.kubeconfig"] = configs.kubeconfig(secrets, client)
    for node in nodes:
        texts[node.root / "kubeconfig"] = configs.kubeconfig(secrets, node.name)
        texts[node.root / "kubelet.yaml"] = configs.kubelet(node, secrets)
        texts[node.root / "containerd.toml"] = configs.containerd(node)
        texts[node.root / "cni" / "10-tidegate-test.conflist"] = configs.cni(node)
        texts[node.root / "resolv.conf"] = ""
        for registry in ("_default", "docker.io"):
            texts[node.root / "registries" / registry / "hosts.toml"] = configs.registry()
    for path, text in texts.items():
        path.touch(0o600)
        path.write_text(text)


def start_node(book: Book, node: Node) -> None:
    """Its containerd; the kubelet comes when the API server is ready."""
    machine.control_groups(book, node.cgroup)
    book.enter("sockets", str(node.socket))
    containerd = shutil.which("containerd")
    if containerd is None:
        raise FileNotFoundError("containerd is not on PATH")
    book.spawn(node.containerd, parts.containerd(Path(containerd), node))


def _control_plane(book: Book, tools: Tools, nodes: tuple[Node, ...]) -> Api:
    folder, programs = book.folder, tools.kubernetes
    book.spawn("etcd", parts.etcd(tools.etcd / "server", folder))
    server = book.spawn("apiserver", parts.apiserver(programs / "kube-apiserver", folder))
    for node in nodes:
        start_node(book, node)
    for node in nodes:
        log = folder / "logs" / f"{node.containerd}.log"
        _await(node.socket.exists, f"{node.name}'s containerd", 20, log)
        for archive in (small_images.pause(), small_images.busybox()):
            machine.load_image(archive, node)
    api = Api(folder / "certs")
    _await(
        lambda: (not alive(server)) or api.text("/readyz") == "ok",
        *("the API server", 60, folder / "logs" / "apiserver.log"),
    )
    return api


def _controllers(book: Book, tools: Tools, *limits: str, grace_seconds: int = 10) -> None:
    """`grace_seconds`: how long a node may be silent."""
    folder, programs = book.folder, tools.kubernetes
    manager = programs / "kube-controller-manager"
    silent = f"--node-monitor-grace-period={grace_seconds}s"
    book.spawn("controller-manager", [*parts.controller_manager(manager, folder), silent, *limits])
    scheduler = programs / "kube-scheduler"
    book.spawn("scheduler", [*parts.scheduler(scheduler, folder), *limits])


def _everything_else(book: Book, tools: Tools, nodes: tuple[Node, ...]) -> None:
    folder, programs = book.folder, tools.kubernetes
    _controllers(book, tools)
    book.spawn("kube-proxy", parts.kube_proxy(programs / "kube-proxy", folder))
    book.spawn("coredns", parts.coredns(tools.coredns / "coredns", folder))
    book.spawn("provisioner", parts.provisioner(folder))
    for node in nodes:
        _kubelet(book, programs / "kubelet", node)


def _kubelet(book: Book, program: Path, node: Node) -> None:
    """Start a kubelet and wait for its device plugins' socket, whose place no setting moves.

    Each takes the place for itself: two that do so at once end one of them.
    """
    DEVICE_PLUGINS.unlink(missing_ok=True)
    kubelet = book.spawn(node.kubelet, parts.kubelet(program, node))
    log = book.folder / "logs" / f"{node.kubelet}.log"
    _await(lambda: DEVICE_PLUGINS.exists() or not alive(kubelet), node.kubelet, 60, log)


def fake_gpus(api: Api, node: str, count: int = GPUS) -> None:
    """Let the scheduler count GPUs that do not exist. A restarted kubelet sets them to 0 again."""
    amount = str(count)
    change = [
        {"op": "add", "path": f"/status/{part}/nvidia.com~1gpu", "value": amount}
        for part in ("capacity", "allocatable")
    ]
    api.call("PATCH", f"/api/v1/nodes/{node}/status", change, JSON_PATCH)


def _ready(node: dict[str, Any]) -> bool:
    conditions = node["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def ready_nodes(api: Api) -> set[str]:
    """Names of the nodes that are Ready."""
    return {n["metadata"]["name"] for n in api.call("GET", "/api/v1/nodes")["items"] if _ready(n)}


def _is_ready(api: Api, node: Node) -> bool:
    return node.name in ready_nodes(api)


def _plain_get(port: int, path: str) -> bool:
    link = http.client.HTTPConnection(GATEWAY, port, timeout=2)
    try:
        link.request("GET", path)
        return link.getresponse().status == 200
    finally:
        link.close()


def _await_all(api: Api, folder: Path, nodes: tuple[Node, ...]) -> None:
    logs = folder / "logs"
    for node in nodes:
        log = logs / f"{node.kubelet}.log"
        _await(partial(_is_ready, api, node), f"{node.name} Ready", 90, log)
    for node in nodes:
        fake_gpus(api, node.name)
    _await(lambda: _plain_get(8181, "/ready"), "CoreDNS", 30, logs / "coredns.log")
    _await(lambda: _plain_get(10256, "/healthz"), "kube-proxy", 30, logs / "kube-proxy.log")
    _await_controllers(api, folder)


def _await_controllers(api: Api, folder: Path) -> None:
    account = "/api/v1/namespaces/default/serviceaccounts/default"
    log = folder / "logs" / "controller-manager.log"
    _await(lambda: api.call("GET", account), "controllers", 30, log)


def _begun(folder: Path, tools: Tools, made: Cluster) -> tuple[Book, Api]:
    """Folders, certificates, network, and an API server that is ready."""
    begun = time.monotonic()
    debian.ensure()
    folder.mkdir(mode=0o711, parents=True)
    book = Book(folder)
    _folders(folder, made.nodes)
    certs.make(folder / "certs", made.nodes)
    _write_configs(folder, made.nodes)
    machine.network(book, made.nodes)
    api = _control_plane(book, tools, made.nodes)
    say(f"API server ready after {time.monotonic() - begun:.1f} s")
    return book, api


# Kubernetes' own controllers ask at most 20 times a second by default, which is slower than what
# is measured beside them.
UNHURRIED = ("--kube-api-qps=1000", "--kube-api-burst=2000")


def bring_up_bare(folder: Path, tools: Tools) -> Cluster:
    """A control plane without a node: etcd, API server, controllers, scheduler. Else as `bring_up`.

    For who brings nodes that only the API server knows; pods need neither kubelet nor network
    then."""
    made = cluster(folder, kubectl=tools.kubernetes / "kubectl", helm=tools.helm / "helm", nodes=())
    book, api = _begun(folder, tools, made)
    # kwok renews a node's Lease every 10 s, as kubelets by default: so the default grace.
    _controllers(book, tools, *UNHURRIED, grace_seconds=50)
    _await_controllers(api, folder)
    return made


def bring_up(folder: Path, tools: Tools) -> Cluster:
    """A fresh cluster in a folder that does not exist yet. The caller holds the machine's lock.

    Raises NotUp, Occupied, CommandFailed; what was made by then is in the record.
    """
    begun = time.monotonic()
    made = cluster(
        folder,
        kubectl=tools.kubernetes / "kubectl",
        helm=tools.helm / "helm",
        nodes=nodes(folder),
    )
    book, api = _begun(folder, tools, made)
    _everything_else(book, tools, made.nodes)
    for path, body in configs.addons():
        api.call("POST", path, body)
    _await_all(api, folder, made.nodes)
    say(f"up after {time.monotonic() - begun:.1f} s: {folder}")
    return made


def running(folder: Path) -> Cluster | None:
    """The cluster in a folder if its API server runs, for tests that join one; else None."""
    record = read(folder)
    if record is None or not any(p.name == "apiserver" and alive(p) for p in record.processes):
        return None
    tools = build()
    return cluster(
        folder,
        kubectl=tools.kubernetes / "kubectl",
        helm=tools.helm / "helm",
        nodes=nodes(folder),
    )
