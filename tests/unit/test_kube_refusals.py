"""What nobody has judged yet, and what the API server would not take: seen and told."""

from typing import Any

import pytest

from tidegate_operator.autoscale import State
from tidegate_operator.kube import report
from tidegate_operator.kube.model import Model
from tidegate_operator.kube.report import Priced
from tidegate_operator.kube.verdict import Verdict
from tidegate_runtime.contract import cluster
from tidegate_runtime.contract import resource as resources

QUOTA = "services is forbidden: exceeded quota: none"


def resource(wanted: str, **status: Any) -> dict[str, Any]:
    return {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"namespace": "a", "name": "m", "uid": "1"},
        "spec": {
            "model": {"uri": "sim://m"},
            "engine": {"type": "sim"},
            "access": {"visibility": wanted, "tenants": ["b"]},
        },
        "status": status,
    }


def public(*conditions: dict[str, str]) -> dict[str, Any]:
    return resource("Public", conditions=list(conditions))


@pytest.mark.parametrize(
    ("wanted", "judged", "seen"),
    [
        ("Public", {}, "Private"),
        ("Public", {"visibility": "Private"}, "Private"),
        ("Public", {"visibility": "Public"}, "Public"),
        ("Private", {"visibility": "Public"}, "Private"),
        ("Private", {}, "Private"),
    ],
    ids=["not judged", "edited to Public", "judged Public", "edited to Private", "private"],
)
def test_public_holds_once_it_was_judged_and_private_at_once(
    wanted: str, judged: dict[str, str], seen: str
) -> None:
    view = cluster.model(resource(wanted, **judged), {})
    assert (view.visibility, view.tenants, view.valid) == (seen, ["b"], True)


def test_what_the_policy_refused_serves_nobody() -> None:
    refusal = {"type": "Valid", "status": "False", "reason": "PolicyRefused"}
    assert not cluster.model(public(refusal), {}).valid


@pytest.mark.parametrize(
    ("reason", "told"),
    [("Valid", "Public"), ("NameConflict", "Public"), ("PolicyRefused", "Private")],
)
def test_the_status_tells_who_may_see_it(reason: Any, told: str) -> None:
    made, _ = resources.judge(public())
    assert report.visibility(Verdict(made, reason, "")) == told
    assert report.visibility(Verdict(None, "InvalidSpec", "")) == "Private"


@pytest.mark.parametrize("seen", [True, False])
def test_a_refused_child_is_told(seen: bool) -> None:
    """`seen`: whether there is a Deployment, so that only something beside it is missing."""
    model = Model("a/m")
    model.child_refused = QUOTA
    if seen:
        model.replicas, model.scaling = 0, State.initial(0, 1.0)
    obj = {**public(), "status": {}}
    made = report.written(model, Verdict(None, "Valid", ""), Priced(), obj, "", 1.0)
    told = {one["type"]: one for one in made["conditions"]}
    assert (told["Scaled"]["status"], told["Scaled"]["reason"]) == ("False", "ChildRefused")
    assert told["Scaled"]["message"] == QUOTA
    assert told["Ready"]["status"] == ("True" if seen else "False")
    assert seen or told["Ready"]["message"] == QUOTA
    told_once = report.transition({}, made)
    assert told_once is not None
    assert (told_once.reason, told_once.message) == ("ChildRefused", QUOTA)
    assert report.transition(made, made) is None
    model.child_refused = ""
    after = report.written(model, Verdict(None, "Valid", ""), Priced(), obj, "", 2.0)
    assert "ChildRefused" not in {one["reason"] for one in after["conditions"]}


def test_each_new_reason_of_a_start_that_fails_is_an_event_once() -> None:
    def said(status: str, reason: str, phase: str = "Starting") -> dict[str, Any]:
        engine = {"type": "EngineHealthy", "status": status, "reason": reason, "message": "why"}
        ready = {"type": "Ready", "status": "False", "reason": reason, "message": "why"}
        return {"phase": phase, "conditions": [engine, ready]}

    well, pull = said("Unknown", "Starting"), said("False", "ImagePullBackOff")
    found = report.transition(well, pull)
    assert found is not None
    assert (found.status, found.reason) == (False, "ImagePullBackOff")
    assert report.transition(pull, pull) is None
    final = report.transition(pull, said("False", "ImagePullBackOff", "Failed"))
    assert final is not None
    assert (final.type, final.reason) == ("Phase", "ImagePullBackOff")
    other = report.transition(pull, said("False", "CrashLoopBackOff"))
    assert other is not None
    assert other.reason == "CrashLoopBackOff"
