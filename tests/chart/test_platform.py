"""The operator's settings, the resource's definition, `helm test` and the notes, as rendered."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tidegate_operator import platform
from tidegate_runtime.contract import definitions
from tidegate_runtime.contract.resource import judge

CHART = Path(__file__).resolve().parents[2] / "charts" / "tidegate"


def settings_of(objects: Any) -> platform.Platform:
    text = objects.one("ConfigMap", "tidegate-platform")["data"]["platform.yaml"]
    return platform.parse(text, "platform.yaml")


def test_the_operator_can_read_its_settings(objects: Any) -> None:
    found = settings_of(objects)
    for selector, part in (
        (found.router_selector, "router"),
        (found.operator_selector, "operator"),
    ):
        assert selector.namespace == "tidegate-system"
        assert selector.labels["app.kubernetes.io/component"] == part


def test_the_operators_settings_are_the_values(cases: Any, defaults: Any, render: Any) -> None:
    found = settings_of(defaults)
    assert (found.engines.sim.image, found.engines.vllm.image) == (
        "tidegate:dev",
        "tidegate-vllm-cpu:dev",
    )
    assert found.policy == platform.Policy(prices=["*"], args=["*"])
    assert found.capacity == platform.Capacity(give_way=True, minimum_idle_seconds=60)
    assert not found.profiles["nvidia-h100"].elastic
    assert found.profiles["nvidia-h100"].gpu_resource == "nvidia.com/gpu"
    assert found.profiles["cpu"].gpus == 0
    assert settings_of(render({"image": "a/b:c"})).engines.sim.image == "a/b:c"
    own = settings_of(render(cases["own profiles"]))
    assert "nvidia-l4" not in own.profiles
    assert own.profiles["bare"] == platform.Profile()
    assert own.profiles["mine"] == platform.Profile(
        gpus=2,
        gpu_resource="example.com/gpu",
        device="gpu",
        requests={"cpu": "2", "memory": "2147483648"},
        runtime_class_name="nvidia",
        env={"A": "b"},
        supplemental_groups=[44],
        elastic=True,
    )
    assert own.capacity == platform.Capacity(give_way=False, minimum_idle_seconds=20_000)
    assert own.engines.vllm.versions == {"0.32": "example.com/vllm:0.32"}
    assert own.policy.prices == ["team-a"]


@pytest.mark.parametrize("made", definitions.crds(), ids=lambda made: made["metadata"]["name"])
def test_the_chart_ships_the_definitions_that_the_command_prints(made: Any) -> None:
    plural = made["spec"]["names"]["plural"]
    shipped = (CHART / "crds" / f"{plural}.yaml").read_text()
    assert shipped == definitions.text(made), "write it anew: tidegate crd, one file for each"
    kubernetes_validate.validate(
        yaml.safe_load(shipped), kubernetes_validate.latest_version(), strict=True
    )


def test_the_chart_ships_no_other_definition() -> None:
    shipped = {path.stem for path in (CHART / "crds").iterdir()}
    assert shipped == {made["spec"]["names"]["plural"] for made in definitions.crds()}


def test_the_definition_is_upgraded_by_one_who_can_do_nothing_else(defaults: Any) -> None:
    job = defaults.one("Job", "tidegate-crds")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == ["crd", "--apply"]
    (rule,) = defaults.one("ClusterRole", "tidegate-system-tidegate-crds")["rules"]
    assert rule["resourceNames"] == [made["metadata"]["name"] for made in definitions.crds()]


def test_helm_test_wakes_a_model_where_it_may(defaults: Any, render: Any) -> None:
    model = defaults.one("ModelDeployment", "tidegate-test")
    parsed, problems = judge(model)
    assert problems == []
    assert parsed is not None
    assert not platform.refused(parsed, "tidegate-system", settings_of(defaults))
    args = defaults.one("Pod", "tidegate-test")["spec"]["containers"][0]["args"]
    assert "--model=tidegate-test" in args
    for values in ({"policy": {"prices": []}}, {"test": {"profile": "none"}}):
        shallow = render(values)
        assert not [each for each in shallow if each["kind"] == "ModelDeployment"]
        args = shallow.one("Pod", "tidegate-test")["spec"]["containers"][0]["args"]
        assert args[0] == "check"
        assert not [each for each in args if each.startswith("--model")]


def test_the_notes_name_the_next_three_commands(helm: Any) -> None:
    done = helm("install", "tidegate", str(CHART), "-n", "tidegate-system", "--dry-run=client")
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    for words in ("tidegate key create --tenant", "kubectl -n team-a apply -f examples/sim.yaml",
                  "curl http://127.0.0.1:8080/v1/chat/completions"):  # fmt: skip
        assert words in notes
