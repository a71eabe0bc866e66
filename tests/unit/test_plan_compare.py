"""Planned against found: what is drift and what is not, and what is deleted."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings

from planning import GUARD, SETTINGS, VLLM, planned, resource, resources
from tidegate_operator.plan import Object, drifted, kept, plan, prune
from tidegate_operator.plan.compare import amount
from tidegate_runtime.contract.resource import ModelDeployment
from tidegate_runtime.engines.vllm.guard.tidegate_guard import SECRET_VARIABLE


def as_the_server_has_it(item: Object) -> Object:
    """A live object: defaults and other writers' fields added, amounts in their normal form."""
    live = copy.deepcopy(item)
    live["metadata"] |= {"resourceVersion": "7", "uid": "x", "generation": 1, "managedFields": []}
    live["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "1"
    if item["kind"] == "Deployment":
        live["spec"] |= {"replicas": 3}
        live["status"] = {"replicas": 3}
        spec = live["spec"]["template"]["spec"]
        spec |= {"dnsPolicy": "ClusterFirst", "restartPolicy": "Always"}
        spec["volumes"].reverse()
        spec["containers"].insert(0, {"name": "sidecar", "image": "mesh"})
        one = spec["containers"][1]
        one["terminationMessagePath"] = "/dev/termination-log"
        one["env"] = [
            {key: value for key, value in variable.items() if value != ""}
            for variable in one["env"]
        ]
        if "resources" in one and "cpu" in one["resources"].get("requests", {}):
            one["resources"]["requests"]["cpu"] = "1000m"
    return live


@settings(deadline=None)
@given(resources())
def test_a_live_object_has_not_drifted(one: ModelDeployment) -> None:
    for item in plan(one, "uid-1", SETTINGS, GUARD):
        assert not drifted(item, item)
        assert not drifted(item, as_the_server_has_it(item))
        assert drifted(item, None)


def edits() -> dict[str, Any]:
    def container(change: Any) -> Any:
        return lambda made: change(made["Deployment"]["spec"]["template"]["spec"]["containers"][1])

    return {
        "an argument": container(lambda one: one["command"].append("--x")),
        "no argument": container(lambda one: one["command"].pop()),
        "another image": container(lambda one: one.update(image="evil")),
        "no guard": container(
            lambda one: one.update(env=[v for v in one["env"] if v["name"] != SECRET_VARIABLE])
        ),
        "another value": container(lambda one: one["env"][0].update(value="2")),
        "memory": container(lambda one: one["resources"]["limits"].update(memory="9Gi")),
        "root": container(lambda one: one["securityContext"].update(readOnlyRootFilesystem=False)),
        "an open port": lambda made: made["NetworkPolicy"]["spec"]["ingress"][0]["ports"].append(
            {"port": 9, "protocol": "TCP"}
        ),
        "a peer": lambda made: made["NetworkPolicy"]["spec"]["ingress"][0]["from"].append({}),
        "a rule": lambda made: made["NetworkPolicy"]["spec"]["ingress"].append({}),
        "no label": lambda made: made["Service"]["metadata"]["labels"].clear(),
        "no owner": lambda made: made["Secret"]["metadata"].pop("ownerReferences"),
        "the secret": lambda made: made["Secret"]["data"].update(guard="eA=="),
        "the guard's code": lambda made: made["ConfigMap"]["data"].update(
            {"tidegate_guard.py": ""}
        ),
        "a token": lambda made: made["ServiceAccount"].pop("automountServiceAccountToken"),
        "the budget": lambda made: made["PodDisruptionBudget"]["spec"].update(maxUnavailable="0%"),
    }


@pytest.mark.parametrize("edit", edits())
def test_an_edit_is_drift(edit: str) -> None:
    made = planned(resource(VLLM))
    live = {kind: as_the_server_has_it(item) for kind, item in made.items()}
    edits()[edit](live)
    assert [kind for kind, item in made.items() if drifted(item, live[kind])] != []


def test_what_a_plan_has_lost_is_drift() -> None:
    before = planned(resource(VLLM, engine={"env": [{"name": "TZ", "value": "UTC"}]}))
    after = planned(resource(VLLM))
    changed = [kind for kind, item in after.items() if drifted(item, before[kind])]
    assert changed == ["Deployment"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1", "1000m", True),
        ("0.5", "500m", True),
        ("1024Mi", "1Gi", True),
        ("1G", "1Gi", False),
        ("1k", "1000", True),
        ("2", "1", False),
    ],
)
def test_amounts(one: str, other: str, *, same: bool) -> None:
    assert (amount(one) == amount(other)) is same


@pytest.mark.parametrize("text", ["", "x", "1 Gi", "Gi", None, 1])
def test_what_is_no_amount(text: Any) -> None:
    assert amount(text) is None


def found(kind: str, name: str, uid: str = "uid-1", *, controller: bool = True) -> Object:
    owner = {"uid": uid, "controller": controller}
    return {"kind": kind, "metadata": {"name": name, "ownerReferences": [owner]}}


def test_prune_deletes_children_that_nobody_plans_and_no_data() -> None:
    made = plan(resource(), "uid-1", SETTINGS, GUARD)
    world = [
        *made,
        found("ConfigMap", "mdep-m-old"),
        found("PersistentVolumeClaim", "mdep-m-cache"),
        found("Pod", "mdep-m-x", uid="a replica set's"),
        found("Secret", "theirs", uid="other"),
        found("Secret", "half", controller=False),
        {"kind": "Secret", "metadata": {"name": "free"}},
    ]
    assert prune(made, world) == [("ConfigMap", "mdep-m-old")]
    assert kept(made, world) == ["mdep-m-cache"]
    assert prune([], world) == []
