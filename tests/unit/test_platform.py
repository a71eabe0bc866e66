"""platform.yaml: what is read, how a mistake is named, and what a tenant may not have."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tidegate_operator import platform
from tidegate_operator.platform import InvalidPlatform, Platform
from tidegate_runtime.contract.resource import ModelDeployment, judge

CPU: dict[str, Any] = {
    "gpus": 0,
    "gpuResource": "",
    "device": "cpu",
    "requests": {"cpu": "1", "memory": "2Gi"},
    "limits": {"memory": "8Gi"},
    "sharedMemory": "1Gi",
    "nodeSelector": {},
    "tolerations": [],
    "runtimeClassName": "",
    "env": {},
}
L4: dict[str, Any] = {
    "gpus": 1,
    "gpuResource": "nvidia.com/gpu",
    "device": "gpu",
    "requests": {"memory": "16Gi"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
}


def whole(**changes: Any) -> dict[str, Any]:
    """platform.yaml as the chart writes it."""
    labels = {"app.kubernetes.io/name": "tidegate"}
    values: dict[str, Any] = {
        "engines": {
            "vllm": {"image": "vllm:1", "pullPolicy": "IfNotPresent", "pullSecrets": []},
            "sim": {"image": "tidegate:1", "pullPolicy": "IfNotPresent", "pullSecrets": []},
        },
        "profiles": {"cpu": CPU, "nvidia-l4": L4},
        "policy": {"public": [], "prices": [], "images": [], "args": ["*"], "env": []},
        "routerSelector": {"namespace": "tidegate-system", "labels": labels},
        "operatorSelector": {"namespace": "tidegate-system", "labels": labels},
        "cache": {"storageClass": ""},
    }
    return values | changes


def parsed(**changes: Any) -> Platform:
    return platform.parse(yaml.safe_dump(whole(**changes)), "platform.yaml")


def resource(**spec: Any) -> ModelDeployment:
    value = {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "m", "namespace": "team-a"},
        "spec": {"model": {"uri": "sim://m"}, "engine": {"type": "sim"}} | spec,
    }
    made, problems = judge(value)
    assert made is not None, problems
    return made


def vllm(uri: str, **engine: Any) -> dict[str, Any]:
    return {"model": {"uri": uri}, "engine": {"type": "vllm"} | engine}


def test_all_fields_are_read() -> None:
    made = parsed()
    assert made.engines.vllm.image == "vllm:1"
    assert made.profiles["cpu"].requests == {"cpu": "1", "memory": "2Gi"}
    assert made.profiles["nvidia-l4"].tolerations[0].key == "nvidia.com/gpu"
    assert made.policy.args == ["*"]
    assert made.router_selector.namespace == "tidegate-system"
    assert made.cache.access_mode == "ReadWriteOnce"
    made = parsed(
        capacity={"giveWay": False, "minimumIdleSeconds": 5}, profiles={"cpu": CPU, "l": L4}
    )
    assert (made.capacity.give_way, made.capacity.minimum_idle_seconds) == (False, 5)
    assert not made.profiles["l"].elastic
    assert parsed(profiles={"cpu": CPU, "l": L4 | {"elastic": True}}).profiles["l"].elastic


def test_what_may_be_left_out() -> None:
    values = whole()
    del values["policy"], values["cache"]
    made = platform.parse(yaml.safe_dump(values), "platform.yaml")
    assert (made.policy.args, made.policy.prices) == (["*"], [])


BAD: list[tuple[dict[str, Any], str]] = [
    ({"profile": {}}, "profile: is not a known field (did you mean profiles?)"),
    ({"engines": {"sim": {"image": "x"}}}, "engines.vllm: is required"),
    (
        {"profiles": {"cpu": {"request": {}}}},
        "profiles.cpu.request: is not a known field (did you mean requests?)",
    ),
    ({"profiles": {"nvidia-l4": L4}}, "profiles.cpu: is required"),
    ({"profiles": {"cpu": CPU | {"gpus": "one"}}}, "profiles.cpu.gpus: must be an integer"),
    ({"profiles": {"cpu": CPU | {"gpus": 65}}}, "profiles.cpu.gpus: must be at most 64, got 65"),
    (
        {"profiles": {"cpu": CPU, "big": {"gpus": 1, "device": "gpu"}}},
        "profiles.big.gpuResource: is required where gpus is not 0",
    ),
    (
        {"profiles": {"cpu": CPU, "big": L4 | {"device": "cpu"}}},
        "profiles.big.device: must be gpu where gpus is not 0",
    ),
    (
        {"profiles": {"cpu": CPU | {"device": "tpu"}}},
        "profiles.cpu.device: must be one of cpu, gpu, got 'tpu'",
    ),
    (
        {"profiles": {"cpu": CPU | {"requests": {"cpu": 1}}}},
        "profiles.cpu.requests.cpu: must be a string, got 1 (put it in quotes)",
    ),
    (
        {"profiles": {"cpu": CPU | {"sharedMemory": "much"}}},
        "profiles.cpu.sharedMemory: must match",
    ),
    (
        {"profiles": {"cpu": CPU | {"tolerations": [{"effect": "Never"}]}}},
        "profiles.cpu.tolerations[0].effect: must be one of NoExecute, NoSchedule",
    ),
    ({"policy": {"public": "team-a"}}, "policy.public: must be an array, got 'team-a'"),
    ({"policy": {"publik": []}}, "policy.publik: is not a known field (did you mean public?)"),
    (
        {"capacity": {"minimumIdleSeconds": -1}},
        "capacity.minimumIdleSeconds: must be at least 0, got -1",
    ),
    ({"capacity": {"giveWay": "yes"}}, "capacity.giveWay: must be "),
    ({"cache": {"accessMode": "RWX"}}, "cache.accessMode: must be one of ReadWriteMany,"),
]


@pytest.mark.parametrize(("changes", "said"), BAD, ids=lambda value: str(value)[:40])
def test_a_mistake_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidPlatform) as caught:
        parsed(**changes)
    assert any(problem.startswith(said) for problem in caught.value.problems), str(caught.value)
    assert str(caught.value).startswith("platform.yaml: ")


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(InvalidPlatform) as caught:
        parsed(policy={"x": 1}, cache={"y": 1})
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("text", ["", "[]", "a: [", "a: 1\n---\nb: 1", "a: 1\na: 2"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(InvalidPlatform):
        platform.parse(text, "platform.yaml")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidPlatform, match="cannot be read: No such file"):
        platform.read(tmp_path / "platform.yaml")
    path = tmp_path / "good.yaml"
    path.write_text(yaml.safe_dump(whole()))
    assert platform.read(path) == parsed()


WISHES: list[tuple[str, dict[str, Any], str]] = [
    ("public", {"access": {"visibility": "Public"}}, "spec.access.visibility: Public is"),
    (
        "prices",
        {"pricing": {"inputPerMillion": "1", "outputPerMillion": "1"}},
        "spec.pricing: own prices are",
    ),
    ("images", {"engine": {"type": "sim", "image": "x"}}, "spec.engine.image: an own image is"),
    (
        "args",
        {"engine": {"type": "sim", "args": ["--seed", "1"]}},
        "spec.engine.args: own arguments are",
    ),
    (
        "env",
        {"engine": {"type": "sim", "env": [{"name": "TZ", "value": "UTC"}]}},
        "spec.engine.env: own variables are",
    ),
    (
        "public",
        {"adapters": [{"name": "a", "uri": "sim://a", "access": {"visibility": "Public"}}]},
        "spec.adapters[0].access.visibility: Public is",
    ),
    (
        "prices",
        {"adapters": [{"name": "a", "uri": "sim://a", "pricing": {"inputPerMillion": "1"}}]},
        "spec.adapters[0].pricing: own prices are",
    ),
]


@pytest.mark.parametrize(("rule", "spec", "said"), WISHES)
def test_policy(rule: str, spec: dict[str, Any], said: str) -> None:
    def refused(allowed: list[str]) -> list[str]:
        made = parsed(policy={"args": [], rule: allowed})
        return platform.refused(resource(**spec), "team-a", made)

    wanted = f"{said} not allowed for tenant team-a; ask the platform team (policy.{rule})"
    assert refused([]) == [wanted]
    assert refused(["team-b"]) == [wanted]
    assert refused(["team-a"]) == []
    assert refused(["*"]) == []


def test_the_owner_is_the_tenant_and_not_the_namespace() -> None:
    made = parsed(policy={"public": ["acme"]})
    public = resource(access={"visibility": "Public"})
    assert platform.refused(public, "acme", made) == []
    assert platform.refused(public, "team-a", made)


OFFERS: list[tuple[dict[str, Any], str]] = [
    (
        {"resources": {"profile": "nvidia-l40:1"}},
        "spec.resources.profile: nvidia-l40 is no profile of this platform (did you mean nvidia-l4?) (known: cpu, nvidia-l4)",
    ),
    (
        {"resources": {"profile": "zzz"}},
        "spec.resources.profile: zzz is no profile of this platform (known: cpu, nvidia-l4)",
    ),
    (
        {"resources": {"profile": "cpu:2"}},
        "spec.resources.profile: cpu has no devices to count; write cpu",
    ),
    (
        vllm("file:///m", version="9"),
        "spec.engine.version: 9 of vllm is not offered (known: none; leave it out for the platform's)",
    ),
    (
        {"model": {"uri": "sim://m", "task": "transcribe"}},
        "spec.model.task: transcribe is not served yet; allowed are generate, embed, rerank, classify and score",
    ),
    (vllm("file:///a/../b"), "spec.model.uri: the path must be without '..'"),
    (vllm("pvc://claim/../../etc"), "spec.model.uri: the path must be without '..'"),
    (
        vllm("file://a"),
        "spec.model.uri: file:// takes the absolute path of a folder in the engine's image",
    ),
    (
        vllm("pvc:///a"),
        "spec.model.uri: pvc:// takes CLAIM/PATH, a claim of the same namespace",
    ),
]


@pytest.mark.parametrize(("spec", "said"), OFFERS)
def test_what_the_platform_does_not_offer(spec: dict[str, Any], said: str) -> None:
    assert platform.refused(resource(**spec), "team-a", parsed()) == [said]


@pytest.mark.parametrize("profile", ["cpu", "cpu:1", "nvidia-l4", "nvidia-l4:8"])
def test_profiles_that_exist(profile: str) -> None:
    made = resource(resources={"profile": profile})
    assert platform.refused(made, "team-a", parsed()) == []


@pytest.mark.parametrize(
    ("profile", "gpus"), [("cpu", 0), ("cpu:1", 0), ("nvidia-l4", 1), ("nvidia-l4:4", 4)]
)
def test_a_count_multiplies_devices_only(profile: str, gpus: int) -> None:
    made = parsed()
    found = platform.chosen(resource(resources={"profile": profile}), made)
    assert found.gpus == gpus
    assert found.profile is made.profiles[profile.partition(":")[0]]


def test_a_count_multiplies_what_a_unit_has() -> None:
    made = parsed(profiles={"cpu": CPU, "pair": L4 | {"gpus": 2}})
    assert platform.chosen(resource(resources={"profile": "pair:3"}), made).gpus == 6
