"""The objects of a model: what is in them, where its weights come from, what rolls its pods."""

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from planning import GUARD, SETTINGS, SIM, VLLM, engine, env, planned, pod, pod_hash, resource
from tidegate_operator import platform
from tidegate_operator.local.engines import Start
from tidegate_operator.local.vllm import Vllm
from tidegate_operator.plan import Object, plan, secret_hash, secrets
from tidegate_runtime.contract import cluster, tasks
from tidegate_runtime.engines.sim import settings as sim_settings
from tidegate_runtime.engines.vllm.args import guard_source
from tidegate_runtime.engines.vllm.guard.tidegate_guard import SECRET_VARIABLE

# What stands in the objects


LEAVES = ["python3", "-I", "-S", "/etc/tidegate/guard/leave.py", "8000"]


def test_the_order_is_what_pods_need_first() -> None:
    one = resource(VLLM, model={"uri": "pkg://m==1", "cache": {"size": "5Gi"}})
    assert [item["kind"] for item in plan(one, "u", SETTINGS, GUARD)] == [
        *("ServiceAccount", "Secret", "ConfigMap", "NetworkPolicy", "PersistentVolumeClaim"),
        *("Service", "PodDisruptionBudget", "Deployment"),
    ]


def test_a_sim_pod() -> None:
    one = resource(
        model={"name": "q", "aliases": ["r"]},
        engine={"args": ["--seed", "1"]},
        drain={"timeoutSeconds": 30},
    )
    container = engine(one)
    assert container["image"] == "tidegate:1"
    assert container["imagePullPolicy"] == "Always"
    assert "command" not in container
    assert container["args"] == [
        *("sim", "--host", "0.0.0.0", "--port", "8000", "--model", "q", "--alias", "r"),
        *("--shutdown-timeout", "30", "--seed", "1"),
    ]
    spec = pod(one)
    assert "initContainers" not in spec
    assert [volume["name"] for volume in spec["volumes"]] == ["tmp", "dshm", "guard"]
    assert spec["volumes"][2]["configMap"]["items"] == [{"key": "leave.py", "path": "leave.py"}]
    assert spec["terminationGracePeriodSeconds"] == 45


def test_sim_understands_what_it_is_given() -> None:
    one = resource(model={"name": "q", "aliases": ["r"]}, engine={"args": ["--fail", "crash@5"]})
    options = sim_settings.options(engine(one)["args"][1:])
    assert options.names == ("q", "r")
    assert (options.host, options.port) == ("0.0.0.0", cluster.ENGINE_PORT)
    assert options.shutdown_timeout == 600


def test_a_vllm_pod() -> None:
    one = resource(VLLM, model={"name": "q", "aliases": ["r"]}, engine={"args": ["--seed", "1"]})
    container = engine(one)
    assert container["command"] == [
        *("python3", "-m", "vllm.entrypoints.launchers.api_server.entry"),
        *("--model", "/opt/models/m", "--served-model-name", "q", "r"),
        *("--host", "0.0.0.0", "--port", "8000", "--middleware", "tidegate_guard.Guard"),
        *("--shutdown-timeout", "600", "--max-num-seqs", "32"),
        *("--enable-prompt-tokens-details", "--disable-uvicorn-access-log"),
        *("--dtype", "float32", "--enforce-eager", "--seed", "1"),
    ]
    assert container["lifecycle"] == {"preStop": {"exec": {"command": [*LEAVES, "5", "600"]}}}
    values = env(container)
    assert values["VLLM_CPU_KVCACHE_SPACE"] == "4"  # the profile's, over our default
    assert (values["HOME"], values["TMPDIR"]) == ("/tmp", "/tmp")
    assert values["PYTHONPATH"] == "/etc/tidegate/guard"
    spec = pod(one)
    assert spec["terminationGracePeriodSeconds"] == 615
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert "initContainers" not in spec


@pytest.mark.parametrize("base", [SIM, VLLM])
def test_no_probe_and_a_gate(base: dict[str, Any]) -> None:
    spec = pod(resource(base))
    assert spec["readinessGates"] == [{"conditionType": "tidegate.dev/answered"}]
    assert not [key for one in spec["containers"] for key in one if key.endswith("Probe")]


def test_the_guard_comes_by_reference_and_stands_nowhere_else() -> None:
    made = planned(resource(VLLM))
    assert base64.b64decode(made["Secret"]["data"]["guard"]).decode() == GUARD
    container = made["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert env(container)[SECRET_VARIABLE] == {"secretKeyRef": {"name": "mdep-m", "key": "guard"}}
    for kind, item in made.items():
        assert kind == "Secret" or GUARD not in json.dumps(item)


def test_the_guards_code_comes_with_the_config_map() -> None:
    made = planned(resource(VLLM))
    assert made["ConfigMap"]["data"]["tidegate_guard.py"] == guard_source()
    spec = made["Deployment"]["spec"]["template"]["spec"]
    (volume,) = (one for one in spec["volumes"] if one["name"] == "guard")
    assert volume["configMap"]["name"] == made["ConfigMap"]["metadata"]["name"]
    assert json.loads(made["ConfigMap"]["data"]["argv.json"]) == spec["containers"][0]["command"]


def test_no_value_is_expanded_by_kubernetes() -> None:
    sneaky = f"$({SECRET_VARIABLE})"
    one = resource(
        VLLM,
        model={"uri": f"pkg://m==1#{sneaky}"},
        engine={
            "args": ["--override-generation-config", sneaky],
            "env": [{"name": "VLLM_X", "value": f"$${sneaky}"}],
        },
    )
    container = engine(one)
    assert container["command"][-1] == f"$${sneaky[1:]}"
    assert env(container)["VLLM_X"] == f"$$$$$${sneaky[1:]}"
    assert pod(one)["initContainers"][0]["command"][1] == f"pkg://m==1#$${sneaky[1:]}"


def test_variables_of_the_resource_win_over_the_profiles_and_lose_to_the_fixed_ones() -> None:
    one = resource(
        VLLM,
        engine={
            "env": [
                {"name": "VLLM_CPU_KVCACHE_SPACE", "value": "9"},
                {
                    "name": "OMP_NUM_THREADS",
                    "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}},
                },
            ]
        },
    )
    values = env(engine(one))
    assert values["VLLM_CPU_KVCACHE_SPACE"] == "9"
    assert values["OMP_NUM_THREADS"] == {"secretKeyRef": {"name": "s", "key": "k"}}
    assert values["VLLM_PLUGINS"] == ""
    assert secrets(one) == {"s"}


@pytest.mark.parametrize(
    ("changes", "image"),
    [
        ({}, "vllm:1"),
        ({"version": "0.33"}, "vllm:0.33"),
        ({"image": "mine:1", "version": "7"}, "mine:1"),
    ],
)
def test_images(changes: dict[str, Any], image: str) -> None:
    assert engine(resource(VLLM, engine=changes))["image"] == image


def test_a_profile_with_devices() -> None:
    one = resource(VLLM, resources={"profile": "nvidia-l4:2"})
    spec, container = pod(one), engine(one)
    assert container["resources"] == {
        "requests": {"memory": "16Gi", "nvidia.com/gpu": "2"},
        "limits": {"nvidia.com/gpu": "2"},
    }
    assert "--enforce-eager" not in container["command"]
    assert spec["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    assert spec["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]
    assert spec["runtimeClassName"] == "nvidia"
    (shared,) = (one["emptyDir"] for one in spec["volumes"] if one["name"] == "dshm")
    assert shared == {"medium": "Memory", "sizeLimit": "8Gi"}


def test_a_profile_with_nothing_in_it() -> None:
    one = resource(resources={"profile": "bare"})
    assert "resources" not in engine(one)
    assert pod(one)["securityContext"]["supplementalGroups"] == [44]


@pytest.mark.parametrize("task", tasks.SERVED)
def test_the_task_decides_what_the_engine_runs(task: tasks.EngineTask) -> None:
    """As on one machine: both give the same arguments for a task."""
    one = resource(VLLM, model={"task": task})
    command = engine(one)["command"]
    local = Vllm(one, {}, Path("/cache"))._made(Start("", 1, "guard", Path()), Path("p"), Path("m"))
    for option in ("--runner", "--convert"):
        assert (option in command) is (option in local.argv)
        if option in command:
            assert command[command.index(option) + 1] == local.argv[local.argv.index(option) + 1]
    assert ("--runner" in command) is (task != "generate")


def test_the_deployment_has_no_count_and_no_deadline() -> None:
    spec = planned(resource(rollout={"maxSurge": 0, "maxUnavailable": 2}))["Deployment"]["spec"]
    assert "replicas" not in spec
    assert spec["progressDeadlineSeconds"] == 2147483647
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 2}
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()


def test_a_budget_never_blocks_a_single_replica() -> None:
    spec = planned(resource())["PodDisruptionBudget"]["spec"]
    assert spec["maxUnavailable"] == 1
    assert "minAvailable" not in spec


def test_only_router_and_operator_reach_the_port() -> None:
    spec = planned(resource())["NetworkPolicy"]["spec"]
    (rule,) = spec["ingress"]
    assert rule["ports"] == [{"port": 8000, "protocol": "TCP"}]
    assert [list(peer["podSelector"]["matchLabels"].values()) for peer in rule["from"]] == [
        ["router"],
        ["operator"],
    ]
    for peer in rule["from"]:
        assert peer["namespaceSelector"]["matchLabels"] == {
            "kubernetes.io/metadata.name": "tidegate-system"
        }


# Where the model comes from


def mounts(container: Object) -> dict[str, Any]:
    return {
        one["mountPath"]: (one["name"], one.get("readOnly", False))
        for one in container["volumeMounts"]
    }


def model_path(container: Object) -> str:
    command: list[str] = container["command"]
    return command[command.index("--model") + 1]


def test_a_claim_is_served_read_only() -> None:
    one = resource(VLLM, model={"uri": "pvc://weights/llama/8b/"})
    assert model_path(engine(one)) == "/models/llama/8b"
    assert mounts(engine(one))["/models"] == ("models", True)
    (volume,) = (item for item in pod(one)["volumes"] if item["name"] == "models")
    assert volume["persistentVolumeClaim"] == {"claimName": "weights", "readOnly": True}
    assert "initContainers" not in pod(one)


@pytest.mark.parametrize("uri", ["pkg://m==1", "hf://o/m", "file:///opt/m.gguf"])
def test_what_is_not_there_is_fetched(uri: str) -> None:
    one = resource(VLLM, model={"uri": uri, "revision": "v2", "secretRef": {"name": "mine"}})
    (fetch,) = pod(one)["initContainers"]
    path = model_path(engine(one))
    assert path.startswith("/models/")
    assert fetch["command"] == ["tidegate-fetch", uri, path, "--revision", "v2"]
    assert fetch["image"] == "vllm:1"
    assert mounts(fetch)["/models"] == ("models", False)
    assert mounts(engine(one))["/models"] == ("models", True)
    assert env(fetch)["HTTPS_PROXY"] == "http://p"
    assert SECRET_VARIABLE not in env(fetch)
    assert "HTTPS_PROXY" not in env(engine(one))
    (volume,) = (item for item in pod(one)["volumes"] if item["name"] == "models")
    assert volume["emptyDir"] == {}


@pytest.mark.parametrize(("uri", "read"), [("hf://o/m", {"mine"}), ("pkg://m", set())])
def test_a_hubs_token_is_one_variable_of_the_fetching_step(uri: str, read: set[str]) -> None:
    one = resource(VLLM, model={"uri": uri, "secretRef": {"name": "mine"}})
    (fetch,) = pod(one)["initContainers"]
    wanted = {"secretKeyRef": {"name": "mine", "key": "token"}} if read else None
    assert env(fetch).get("HF_TOKEN") == wanted
    assert "HF_TOKEN" not in env(engine(one))
    assert secrets(one) == read


def test_another_image_may_fetch() -> None:
    images = {"image": "vllm/vllm-openai:v1"}
    on = msgspec.structs.replace(
        SETTINGS,
        engines=msgspec.structs.replace(
            SETTINGS.engines, vllm=platform.EngineImage(**images, fetch_image="fetch:1")
        ),
    )
    spec = pod(resource(VLLM, model={"uri": "hf://o/m"}), on)
    assert spec["initContainers"][0]["image"] == "fetch:1"
    assert spec["containers"][0]["image"] == images["image"]


def test_a_profile_may_have_an_image_for_its_devices() -> None:
    on_gpus = msgspec.structs.replace(SETTINGS.profiles["cpu"], image="vllm-for-these:1")
    on = msgspec.structs.replace(SETTINGS, profiles={**SETTINGS.profiles, "cpu": on_gpus})
    assert pod(resource(VLLM), on)["containers"][0]["image"] == "vllm-for-these:1"
    assert engine(resource(VLLM))["image"] == SETTINGS.engines.vllm.image
    assert pod(resource(SIM), on)["containers"][0]["image"] == SETTINGS.engines.sim.image


def test_a_fetched_model_may_be_kept() -> None:
    one = resource(VLLM, model={"uri": "pkg://m==1", "cache": {"size": "5Gi"}})
    claim = planned(one)["PersistentVolumeClaim"]
    assert claim["metadata"]["name"] == "mdep-m-cache"
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "5Gi"}},
        "storageClassName": "standard",
    }
    (volume,) = (item for item in pod(one)["volumes"] if item["name"] == "models")
    assert volume["persistentVolumeClaim"] == {"claimName": "mdep-m-cache"}


@pytest.mark.parametrize("uri", ["file:///opt/m", "pvc://claim/m"])
def test_what_is_there_needs_no_cache(uri: str) -> None:
    one = resource(VLLM, model={"uri": uri, "cache": {"size": "5Gi"}})
    assert "PersistentVolumeClaim" not in planned(one)


def test_another_revision_lies_elsewhere() -> None:
    paths = {
        model_path(engine(resource(VLLM, model={"uri": "pkg://m", "revision": revision})))
        for revision in ("1", "2")
    }
    assert len(paths) == 2


# What rolls pods


ROLLS: list[tuple[dict[str, Any], bool]] = [
    ({"engine": {"args": ["--seed", "1"]}}, True),
    ({"engine": {"env": [{"name": "TZ", "value": "UTC"}]}}, True),
    ({"model": {"name": "other"}}, True),
    ({"model": {"aliases": ["b"]}}, True),
    ({"drain": {"timeoutSeconds": 5}}, True),
    ({"resources": {"profile": "nvidia-l4:1"}}, True),
    ({"pricing": {"inputPerMillion": "1", "outputPerMillion": "1"}}, False),
    ({"access": {"visibility": "Public"}}, False),
    ({"access": {"tenants": ["b"]}}, False),
    ({"suspend": True}, False),
    ({"scaling": {"minReplicas": 1, "maxReplicas": 9, "idleSeconds": 1}}, False),
    ({"coldStart": {"holdSeconds": 5}}, False),
    ({"routing": {"strategy": "LeastLoad"}}, False),
    ({"rollout": {"maxSurge": 2}}, False),
]


@pytest.mark.parametrize("base", [SIM, VLLM])
@pytest.mark.parametrize(("changes", "rolls"), ROLLS, ids=str)
def test_pods_roll_when_what_they_read_changes(
    base: dict[str, Any], changes: dict[str, Any], *, rolls: bool
) -> None:
    before, after = resource(base), resource(base, **changes)
    assert (pod_hash(before) != pod_hash(after)) is rolls
    templates = [planned(one)["Deployment"]["spec"]["template"] for one in (before, after)]
    assert (templates[0] != templates[1]) is rolls


def test_concurrency_rolls_vllm_only() -> None:
    for base, rolls in ((SIM, False), (VLLM, True)):
        changed = resource(base, scaling={"maxConcurrency": 99})
        assert (pod_hash(resource(base)) != pod_hash(changed)) is rolls


def test_secrets_roll_pods_if_they_are_read() -> None:
    entry = {"name": "TZ", "valueFrom": {"secretKeyRef": {"name": "mine", "key": "k"}}}
    one = resource(engine={"env": [entry]})
    first, second = (secret_hash({"k": value}) for value in ("YQ==", "Yg=="))
    seen = [
        pod_hash(one),
        pod_hash(one, mine=first),
        pod_hash(one, mine=second),
    ]
    assert len(set(seen)) == 3
    assert pod_hash(one, mine=first, other=second) == seen[1]


def test_another_guard_rolls_pods_and_no_hash_tells_a_secret() -> None:
    one = resource()
    hashes = {
        plan(one, "uid-1", SETTINGS, guard)[-1]["spec"]["template"]["metadata"]["annotations"][
            cluster.CONFIG_HASH
        ]
        for guard in ("a" * 64, "b" * 64)
    }
    assert len(hashes) == 2
    assert secret_hash({"k": "v"}) not in json.dumps(planned(one, mine=secret_hash({"k": "v"})))
