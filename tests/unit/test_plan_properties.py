"""What holds for the objects of any resource.

The rules of Pod Security `restricted` are written out here from its definition, apart from the
code they judge; the real admission controller judges the same pods in the cluster's tests.
"""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings

from planning import GUARD, SETTINGS, SIM, VLLM, planned, pod, pod_hash, resource, resources
from tidegate_operator import platform
from tidegate_operator.plan import Object, plan
from tidegate_runtime.contract import cluster
from tidegate_runtime.contract.resource import ModelDeployment, read

CORPUS = Path(__file__).parents[1] / "lib" / "corpus" / "good"


@settings(deadline=None)
@given(resources())
def test_the_same_in_gives_the_same_out_and_it_is_json(one: ModelDeployment) -> None:
    first, second = (plan(one, "uid-1", SETTINGS, GUARD) for _ in range(2))
    assert json.dumps(first) == json.dumps(second)
    assert json.loads(json.dumps(first)) == first
    assert None not in leaves(first)
    assert all("status" not in item for item in first)


@settings(deadline=None)
@given(resources())
def test_every_object_has_its_name_its_owner_and_its_labels(one: ModelDeployment) -> None:
    for item in plan(one, "uid-1", SETTINGS, GUARD):
        metadata = item["metadata"]
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", metadata["name"])
        assert metadata["namespace"] == "team-a"
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "tidegate"
        value = metadata["labels"]["tidegate.dev/model"]
        assert re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?", value)
        (owner,) = metadata["ownerReferences"]
        assert (owner["uid"], owner["name"]) == ("uid-1", one.metadata.name)
        assert owner["controller"] is True
        assert owner["blockOwnerDeletion"] is True


@settings(deadline=None)
@given(resources())
def test_what_a_pod_names_is_there(one: ModelDeployment) -> None:
    made = planned(one)
    spec = pod(one)
    volumes = {item["name"] for item in spec["volumes"]}
    assert len(volumes) == len(spec["volumes"])
    for container in spec["containers"] + spec.get("initContainers", []):
        assert {item["name"] for item in container["volumeMounts"]} <= volumes
        paths = [item["mountPath"] for item in container["volumeMounts"]]
        variables = [item["name"] for item in container["env"]]
        assert len(set(paths)) == len(paths)
        assert sorted(set(variables)) == variables
    claim = f"{cluster.child_name(one.metadata.name)[:40]}"
    if "PersistentVolumeClaim" in made:
        assert made["PersistentVolumeClaim"]["metadata"]["name"].startswith(claim)
    assert spec["serviceAccountName"] == made["ServiceAccount"]["metadata"]["name"]
    assert (
        made["Service"]["spec"]["selector"].items()
        <= made["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    )


VOLUMES_ALLOWED = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"}
VOLUMES_ALLOWED |= {"persistentVolumeClaim", "projected", "secret"}


def restricted(spec: Object) -> Iterator[str]:
    """Everything in which a pod breaks Pod Security `restricted`, and our own rules beyond it."""
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield key
    for volume in spec["volumes"]:
        if not (set(volume) - {"name"}) <= VOLUMES_ALLOWED:
            yield f"volume {volume}"
    around = spec.get("securityContext", {})
    for one in spec["containers"] + spec.get("initContainers", []):
        own = around | one.get("securityContext", {})
        rules = {
            "privileged": not own.get("privileged"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "runAsNonRoot": own.get("runAsNonRoot") is True and own.get("runAsUser", 0) != 0,
            "seccomp": own.get("seccompProfile", {}).get("type") in {"RuntimeDefault", "Localhost"},
            "drop": own.get("capabilities", {}).get("drop") == ["ALL"],
            "add": not own.get("capabilities", {}).get("add"),
            "procMount": own.get("procMount", "Default") == "Default",
            "hostPort": not any(port.get("hostPort") for port in one.get("ports", [])),
            "sysctls": not own.get("sysctls"),
            "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
        }
        yield from (f"{one['name']}: {rule}" for rule, kept in rules.items() if not kept)
    for key in ("automountServiceAccountToken", "enableServiceLinks"):
        if spec.get(key) is not False:
            yield key


@settings(deadline=None)
@given(resources())
def test_pods_are_restricted(one: ModelDeployment) -> None:
    assert list(restricted(pod(one))) == []


def test_the_checker_sees_what_is_not_restricted() -> None:
    def broken(change: Any) -> list[str]:
        spec = copy.deepcopy(pod(resource()))
        change(spec, spec["containers"][0])
        return list(restricted(spec))

    assert broken(lambda spec, _: spec.update(hostNetwork=True)) == ["hostNetwork"]
    assert broken(lambda spec, _: spec["volumes"].append({"name": "h", "hostPath": {"path": "/"}}))
    assert broken(lambda _, one: one["securityContext"].update(privileged=True))
    assert broken(lambda _, one: one["securityContext"]["capabilities"].update(drop=[]))
    assert broken(lambda spec, _: spec["securityContext"].pop("seccompProfile"))
    assert broken(lambda spec, _: spec.pop("enableServiceLinks"))


@settings(deadline=None)
@given(resources(), resources())
def test_hashes_differ_if_and_only_if_pods_do(one: ModelDeployment, other: ModelDeployment) -> None:
    def bare(which: ModelDeployment) -> Any:
        template = copy.deepcopy(planned(which)["Deployment"]["spec"]["template"])
        del template["metadata"]["annotations"][cluster.CONFIG_HASH]
        return template, planned(which)["ConfigMap"]["data"]

    assert (pod_hash(one) == pod_hash(other)) is (bare(one) == bare(other))


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in leaves(inner)]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in leaves(inner)]
    return [value]


# By others' rules


@settings(max_examples=5, deadline=None)  # it reads its schemas anew each time
@given(resources())
def test_kubernetes_own_schemas_strictly(one: ModelDeployment) -> None:
    for item in plan(one, "uid-1", SETTINGS, GUARD):
        kubernetes_validate.validate(item, "1.35", strict=True)


@pytest.mark.parametrize("base", [SIM, VLLM])
def test_the_schemas_are_strict(base: dict[str, Any]) -> None:
    made = planned(resource(base))["Deployment"]
    made["spec"]["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]["exce"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(made, "1.35", strict=True)


def test_every_good_resource_can_be_planned_or_is_refused_with_a_reason() -> None:
    for one in read([CORPUS]).resources:
        if not platform.refused(one, "team-a", SETTINGS):
            assert yaml.safe_dump(plan(one, "uid-1", SETTINGS, GUARD))
