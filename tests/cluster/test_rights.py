"""What the operator may do and seldom does: each right that only an odd day needs is used here."""

from collections.abc import Iterator
from typing import Any

import pytest
from harness.installed import Platform, model
from harness.kubectl import apply, get, items, wait_for
from harness.spaces import KINDS, fresh


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
