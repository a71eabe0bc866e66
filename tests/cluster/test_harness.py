"""The cluster itself is real: what later tests stand on is shown here, part by part."""

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
from harness import faults
from harness.kubectl import (
    apply,
    condition,
    get,
    is_true,
    items,
    kubectl,
    pod_logs,
    port_forward,
    wait_for,
)
from harness.layout import BOX_IMAGE, Cluster

SPACE = "harness"
SECURE = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def box(name: str, script: str, **spec: Any) -> dict[str, Any]:
    """A pod of the busybox image that runs a shell script, as restricted as ours are."""
    container = {
        "name": "box",
        "image": BOX_IMAGE,
        "command": ["/bin/sh", "-c", script],
        "securityContext": SECURE,
        "volumeMounts": [
            {"name": v["name"], "mountPath": "/data"} for v in spec.get("volumes", [])
        ],
        "resources": spec.pop("resources", {}),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": SPACE, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "enableServiceLinks": False,
            "containers": [container],
            **spec,
        },
    }


@pytest.fixture(scope="module")
def space(own_cluster: Cluster) -> Iterator[Cluster]:
    """A namespace under Pod Security `restricted`, removed at the end."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    apply(
        own_cluster,
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE, "labels": labels}},
    )
    wait_for(lambda: get(own_cluster, "serviceaccount", "default", SPACE), "service account")
    yield own_cluster
    kubectl(own_cluster, "delete", "namespace", SPACE)


def ready(cluster: Cluster, pod: str) -> dict[str, Any]:
    """Wait until a pod is Ready, and return it."""
    return wait_for(
        lambda: p if is_true(p := get(cluster, "pod", pod, SPACE), "Ready") else None,
        f"pod {pod} Ready",
    )


@pytest.fixture(scope="module")
def servers(space: Cluster) -> dict[str, dict[str, Any]]:
    """A web server on each node, behind one Service; each says its node's name."""
    serve = "echo $0 > /tmp/index.html; echo serving; exec httpd -f -p 8000 -h /tmp"
    for node in space.nodes:
        pod = box(node.name, serve.replace("$0", node.name), nodeName=node.name)
        pod["metadata"]["labels"]["app"] = "web"
        apply(space, pod)
    apply(
        space,
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", "namespace": SPACE},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8000}]},
        },
    )
    return {node.name: ready(space, node.name) for node in space.nodes}


def fetch(host: str, port: int) -> str:
    """The page that a web server of ours answers with."""
    link = http.client.HTTPConnection(host, port, timeout=5)
    try:
        link.request("GET", "/index.html")
        return link.getresponse().read().decode().strip()
    finally:
        link.close()


def test_nodes_are_ready_and_have_the_pinned_version(own_cluster: Cluster) -> None:
    nodes = items(own_cluster, "node")
    assert {n["metadata"]["name"] for n in nodes} == {n.name for n in own_cluster.nodes}
    assert all(is_true(n, "Ready") for n in nodes)
    assert {n["status"]["nodeInfo"]["kubeletVersion"] for n in nodes} == {"v1.35.4"}


def test_a_pod_runs_on_each_node_and_is_reached_from_here(
    own_cluster: Cluster, servers: dict[str, dict[str, Any]]
) -> None:
    for name, pod in servers.items():
        assert pod["spec"]["nodeName"] == name
        assert fetch(pod["status"]["podIP"], 8000) == name
        assert pod_logs(own_cluster, name, SPACE) == "serving\n"


def test_a_service_leads_to_pods_of_both_nodes(
    space: Cluster, servers: dict[str, dict[str, Any]]
) -> None:
    service = get(space, "service", "web", SPACE)
    assert service is not None
    address = service["spec"]["clusterIP"]
    seen: set[str] = set()
    wait_for(lambda: seen.add(fetch(address, 80)) or seen == set(servers), "both pods answer")


def test_names_and_services_work_from_a_pod_of_each_node(
    space: Cluster, servers: dict[str, dict[str, Any]]
) -> None:
    for name in servers:
        inside = ("exec", "-n", SPACE, name, "--")
        assert space.dns in kubectl(space, *inside, "cat", "/etc/resolv.conf")
        assert "10.78.0.1" in kubectl(
            space, *inside, "nslookup", "kubernetes.default.svc.cluster.local"
        )
        page = ("timeout", "5", "wget", "-q", "-O", "-", "http://web/index.html")
        seen = {kubectl(space, *inside, *page).strip() for _ in range(12)}
        assert seen == set(servers)


def test_a_port_forward_leads_to_a_service(
    space: Cluster, servers: dict[str, dict[str, Any]]
) -> None:
    with port_forward(space, "svc/web", 80, SPACE) as port:
        assert fetch("127.0.0.1", port) in servers


def test_a_claim_is_bound_written_by_a_plain_user_and_removed(space: Cluster) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "disk", "namespace": SPACE},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    disk = {"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}}
    apply(space, claim, box("writer", "echo kept > /data/f; sleep 600", volumes=[disk]))
    ready(space, "writer")
    bound = get(space, "pvc", "disk", SPACE)
    assert bound is not None
    assert bound["status"]["phase"] == "Bound"
    name = bound["spec"]["volumeName"]
    assert space.folder is not None
    folder = space.folder / "volumes" / name
    wait_for(lambda: (folder / "f").exists() and (folder / "f").read_text() == "kept\n", "the file")
    kubectl(space, "delete", "-n", SPACE, "pod/writer", "pvc/disk")
    wait_for(lambda: get(space, "pv", name) is None and not folder.exists(), "the volume's removal")


def test_gpus_are_counted_by_the_real_scheduler(space: Cluster) -> None:
    counts = {n["status"]["allocatable"].get("nvidia.com/gpu") for n in items(space, "node")}
    assert counts == {"4"}
    for name, gpus in (("fits", "4"), ("greedy", "9")):
        limits = {"limits": {"nvidia.com/gpu": gpus}}
        apply(space, box(name, "sleep 600", resources=limits))
    found = wait_for(
        lambda: condition(get(space, "pod", "greedy", SPACE), "PodScheduled"), "a verdict"
    )
    assert (found["status"], found["reason"]) == ("False", "Unschedulable")
    assert "Insufficient nvidia.com/gpu" in found["message"]
    wait_for(lambda: is_true(get(space, "pod", "fits", SPACE), "PodScheduled"), "4 GPUs fit")
    kubectl(space, "delete", "-n", SPACE, "pod/fits", "pod/greedy")


def test_an_image_that_is_not_here_is_refused_at_once(space: Cluster) -> None:
    pod = box("stranger", "true")
    pod["spec"]["containers"][0]["image"] = "nobody/nothing:1"
    apply(space, pod)

    def reason() -> str:
        status = (get(space, "pod", "stranger", SPACE) or {}).get("status", {})
        waiting = [c["state"].get("waiting", {}) for c in status.get("containerStatuses", [])]
        return "".join(w.get("reason", "") for w in waiting)

    wait_for(lambda: reason() in ("ErrImagePull", "ImagePullBackOff"), "the pull's end", 20)
    kubectl(space, "delete", "-n", SPACE, "pod/stranger")


def test_pod_security_is_enforced(space: Cluster) -> None:
    pod = box("root", "true")
    pod["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    text = json.dumps(pod)
    with pytest.raises(RuntimeError, match='violates PodSecurity "restricted'):
        kubectl(space, "apply", "-f", "-", input=text)


def test_the_audit_log_names_who_asked_for_what(own_cluster: Cluster) -> None:
    assert own_cluster.audit_log is not None
    kubectl(own_cluster, "get", "leases", "-n", "kube-node-lease")
    events = [json.loads(line) for line in own_cluster.audit_log.read_text().splitlines()]
    assert any(
        e["verb"] == "list"
        and e["user"]["username"] == "admin"
        and e["objectRef"]["resource"] == "leases"
        for e in events
        if "objectRef" in e
    )


def test_the_api_server_goes_away_and_comes_back(own_cluster: Cluster) -> None:
    with faults.api_away(own_cluster), pytest.raises(RuntimeError, match="refused"):
        kubectl(own_cluster, "get", "nodes")
    assert len(items(own_cluster, "node")) == 2


def test_a_node_is_lost_and_comes_back(space: Cluster) -> None:
    node = space.nodes[1]
    apply(space, box("victim", "sleep 600", nodeName=node.name, restartPolicy="Never"))
    ready(space, "victim")
    with faults.lost(space, node):
        wait_for(lambda: not is_true(get(space, "node", node.name), "Ready"), "NotReady", 30)
        wait_for(lambda: not is_true(get(space, "pod", "victim", SPACE), "Ready"), "the pod's", 30)
    found = get(space, "node", node.name)
    assert found is not None
    assert found["status"]["allocatable"]["nvidia.com/gpu"] == "4"
    kubectl(space, "delete", "-n", SPACE, "pod/victim")
    apply(space, box("survivor", "sleep 600", nodeName=node.name))
    ready(space, "survivor")
