"""What the operator may do and seldom does: each right that only an odd day needs is used here."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from harness import installed
from harness.command import CommandFailed
from harness.installed import Platform, model
from harness.kubectl import apply, get, items, wait_for
from harness.layout import Cluster
from harness.spaces import KINDS, fresh

from tidegate_runtime.contract import cluster


@pytest.fixture(scope="module")
def space(tidegate: Platform) -> Iterator[str]:
    """A namespace of its own."""
    with fresh(tidegate, "rights") as name:
        yield name


def orphans(metadata: dict[str, Any]) -> list[dict[str, Any]]:
    """An object of each kind that a model's children have, and that its plan does not name."""
    selector = {"matchLabels": {"app": "orphan"}}
    pod = {
        "metadata": {"labels": {"app": "orphan"}},
        "spec": {"containers": [{"name": "box", "image": "registry.invalid/none:1"}]},
    }
    made: list[tuple[str, str, dict[str, Any]]] = [
        ("v1", "ServiceAccount", {}),
        ("v1", "Secret", {}),
        ("v1", "ConfigMap", {}),
        ("v1", "Service", {"spec": {"ports": [{"port": 1}]}}),
        ("networking.k8s.io/v1", "NetworkPolicy", {"spec": {"podSelector": selector}}),
        ("policy/v1", "PodDisruptionBudget", {"spec": {"selector": selector, "maxUnavailable": 1}}),
        ("apps/v1", "Deployment", {"spec": {"replicas": 0, "selector": selector, "template": pod}}),
    ]
    return [{"apiVersion": v, "kind": k, "metadata": metadata, **more} for v, k, more in made]


def test_an_orphan_of_any_kind_is_removed(tidegate: Platform, space: str) -> None:
    apply(tidegate.cluster, model("parent", space))
    tidegate.phase("parent", space, "Idle")
    service = get(tidegate.cluster, "service", "mdep-parent", space)
    assert service is not None
    made = orphans(
        {
            "name": "orphan",
            "namespace": space,
            "labels": {"tidegate.dev/model": "parent"},
            "ownerReferences": service["metadata"]["ownerReferences"],
        }
    )
    assert {one["kind"].lower() for one in made} == set(KINDS)
    apply(tidegate.cluster, *made)

    def left() -> set[str]:
        found = items(tidegate.cluster, ",".join(KINDS), space, "tidegate.dev/model=parent")
        return {one["kind"] for one in found if one["metadata"]["name"] == "orphan"}

    wait_for(lambda: not left(), "no orphan", 20)
    names = {one["kind"] for one in items(tidegate.cluster, ",".join(KINDS), space)}
    assert {kind.lower() for kind in names} == set(KINDS)  # its own are all there


def test_a_cache_has_a_claim(tidegate: Platform, space: str) -> None:
    # Only what is fetched is kept; nothing is, for the model stays at zero.
    weights = {"uri": "hf://nobody/nothing", "cache": {"size": "1Gi"}}
    engine = {"type": "vllm", "args": []}
    apply(tidegate.cluster, model("cached", space, model=weights, engine=engine))
    claim = wait_for(
        lambda: get(tidegate.cluster, "pvc", "mdep-cached-cache", space), "the claim", 30
    )
    assert claim["spec"]["resources"]["requests"]["storage"] == "1Gi"


def test_a_pod_whose_engine_refuses_its_first_request_is_replaced(
    tidegate: Platform, space: str
) -> None:
    args = ["--start-seconds", "0.1", "--fail", "http500"]
    apply(tidegate.cluster, model("refuses", space, args=args, scaling={"minReplicas": 1}))
    first = wait_for(lambda: tidegate.pods("refuses", space), "a pod", 60)[0]["metadata"]["uid"]

    def replaced() -> bool:
        found = tidegate.pods("refuses", space)
        leaving = [p for p in found if "deletionTimestamp" in p["metadata"]]
        return any(p["metadata"]["uid"] == first for p in leaving) or (
            bool(found) and all(p["metadata"]["uid"] != first for p in found)
        )

    wait_for(replaced, "another pod", 60)
    tidegate.delete("refuses", space)


DEFINITION = "modeldeployments.tidegate.dev"


def columns(tidegate: Platform) -> list[str]:
    definition = get(tidegate.cluster, "crd", DEFINITION) or {}
    return [one["name"] for one in definition["spec"]["versions"][0]["additionalPrinterColumns"]]


def test_an_upgrade_brings_an_older_definition_up_to_date(tidegate: Platform) -> None:
    """Helm itself never touches a definition again: the chart's Job does."""
    before = columns(tidegate)
    older = [{"op": "remove", "path": "/spec/versions/0/additionalPrinterColumns/0"}]
    tidegate.kubectl("patch", "crd", DEFINITION, "--type=json", "-p", json.dumps(older))
    assert columns(tidegate) == before[1:]
    names = installed.load_images(tidegate.cluster)
    installed.install(tidegate.cluster, names, "--force-conflicts")
    assert columns(tidegate) == before


@pytest.mark.parametrize(
    ("role", "may", "may_not"),
    [
        ("view", ["get modeldeployments"], ["create modeldeployments"]),
        (
            "edit",
            ["create modeldeployments", "patch modeldeployments", "patch modeldeployments/scale"],
            ["patch modeldeployments/status", "update modeldeployments/status"],
        ),
        ("admin", ["delete modeldeployments"], ["patch modeldeployments/status"]),
    ],
)
def test_tenants_have_kubernetes_own_roles(
    tidegate: Platform, space: str, role: str, may: list[str], may_not: list[str]
) -> None:
    """Models are made by whoever may edit a namespace; what the operator says of them by nobody."""
    user = f"{role}-of-{space}"
    binding = ("create", "rolebinding", user, f"--clusterrole={role}", f"--user={user}")
    tidegate.kubectl("-n", space, *binding)

    def can(words: str) -> bool:
        verb, _, kind = words.partition(" ")
        kind, _, below = kind.partition("/")
        more = (f"--subresource={below}",) if below else ()
        asked = ("auth", "can-i", verb, f"{kind}.tidegate.dev", *more, "-n", space, "--as", user)
        try:
            return tidegate.kubectl(*asked).strip() == "yes"
        except CommandFailed:  # kubectl says no by its exit status, too
            return False

    for words in may:
        wait_for(lambda words=words: can(words), f"{user} may {words}", 20)
    assert not [words for words in may_not if can(words)]


def test_a_single_replica_can_be_drained_off_its_node(tidegate: Platform, space: str) -> None:
    """Its PodDisruptionBudget does not keep a node for good: another one takes its place."""
    apply(tidegate.cluster, model("moves", space, scaling={"minReplicas": 1}))
    tidegate.phase("moves", space, "Ready")
    pod = tidegate.pods("moves", space)[0]
    node = pod["spec"]["nodeName"]
    words = ("--ignore-daemonsets", "--delete-emptydir-data", "--timeout=90s")
    try:
        tidegate.kubectl(
            "drain", node, f"--pod-selector={cluster.LABEL_MODEL}=moves", *words, seconds=120
        )
    finally:
        tidegate.kubectl("uncordon", node)
    left = [one["metadata"]["uid"] for one in tidegate.pods("moves", space)]
    assert pod["metadata"]["uid"] not in left
    assert tidegate.ask(space, "moves").status_code == 200
    tidegate.delete("moves", space)


def test_a_gpu_profile_goes_where_gpus_are_and_says_so_where_none_is_left(
    tidegate: Platform, space: str, own_cluster: Cluster
) -> None:
    """Nodes here have invented GPUs; the scheduler that counts them is the real one."""
    nodes = items(own_cluster, "nodes")
    offered = [int(one["status"]["allocatable"].get("nvidia.com/gpu", 0)) for one in nodes]
    node = nodes[offered.index(max(offered))]["metadata"]["name"]
    label = ("nvidia.com/gpu.product", "NVIDIA-L4")
    tidegate.kubectl("label", "node", node, "=".join(label))
    try:
        whole = {"profile": f"nvidia-l4:{max(offered)}"}
        apply(
            tidegate.cluster,
            model("on-gpus", space, resources=whole, scaling={"minReplicas": 1}),
        )
        tidegate.phase("on-gpus", space, "Ready")
        pod = tidegate.pods("on-gpus", space)[0]
        assert pod["spec"]["nodeName"] == node
        limits = pod["spec"]["containers"][0]["resources"]["limits"]
        assert limits["nvidia.com/gpu"] == str(max(offered))
        apply(
            tidegate.cluster,
            model("too-many", space, resources=whole, scaling={"minReplicas": 1}),
        )
        told = wait_for(
            lambda: tidegate.mdep("too-many", space).get("status", {}).get("failure"),
            "the failure",
            60,
        )
        assert told["reason"] == "Unschedulable"
        assert "nvidia.com/gpu" in told["message"]
    finally:
        tidegate.kubectl("-n", space, "delete", "mdep", "on-gpus", "too-many", "--ignore-not-found")
        tidegate.kubectl("label", "node", node, f"{label[0]}-")
