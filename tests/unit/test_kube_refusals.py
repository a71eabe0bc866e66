"""What nobody has judged yet, and what the API server would not take: seen and told."""

from typing import Any

import pytest

from tidegate_operator.autoscale import State
from tidegate_operator.kube import report
from tidegate_operator.kube.model import Model
from tidegate_operator.kube.report import Priced
from tidegate_operator.kube.verdict import Verdict
from tidegate_runtime.contract import cluster

QUOTA = "services is forbidden: exceeded quota: none"


def public(*conditions: dict[str, str]) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "a", "name": "m", "uid": "1"},
        "spec": {
            "model": {"uri": "sim://m"},
            "engine": {"type": "sim"},
            "access": {"visibility": "Public", "tenants": ["b"]},
        },
        "status": {"conditions": list(conditions)},
    }


def test_nobody_sees_a_public_model_before_the_policy_has_been_asked() -> None:
    unjudged = cluster.model(public(), {})
    assert (unjudged.visibility, unjudged.tenants, unjudged.valid) == ("Private", ["b"], True)
    judged = cluster.model(public({"type": "Valid", "status": "True", "reason": "Valid"}), {})
    assert judged.visibility == "Public"
    refusal = {"type": "Valid", "status": "False", "reason": "PolicyRefused"}
    assert not cluster.model(public(refusal), {}).valid


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
    model.child_refused = ""
    after = report.written(model, Verdict(None, "Valid", ""), Priced(), obj, "", 2.0)
    assert "ChildRefused" not in {one["reason"] for one in after["conditions"]}
