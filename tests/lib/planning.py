"""Resources and settings for tests of the operator's plan."""

from typing import Any

import msgspec
from hypothesis import strategies as st

from tidegate_operator import platform
from tidegate_operator.plan import Object, plan
from tidegate_runtime.contract import cluster
from tidegate_runtime.contract.resource import judge
from tidegate_runtime.contract.spec import Metadata, ModelDeployment, Spec

GUARD = "7" * 64
PLATFORM = """
engines:
  vllm: {image: "vllm:1", pullSecrets: [registry], versions: {"0.33": "vllm:0.33"}, fetchEnv: {HTTPS_PROXY: "http://p"}}
  sim: {image: "tidegate:1", pullPolicy: Always}
profiles:
  cpu: {requests: {cpu: "1", memory: 2Gi}, limits: {memory: 8Gi}, env: {VLLM_CPU_KVCACHE_SPACE: "4"}}
  nvidia-l4:
    gpus: 1
    gpuResource: nvidia.com/gpu
    device: gpu
    sharedMemory: 8Gi
    requests: {memory: 16Gi}
    nodeSelector: {nvidia.com/gpu.product: NVIDIA-L4}
    tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
    runtimeClassName: nvidia
  bare: {supplementalGroups: [44]}
policy: {public: ["*"], prices: ["*"], images: ["*"], args: ["*"], env: ["*"]}
routerSelector: {namespace: tidegate-system, labels: {app.kubernetes.io/component: router}}
operatorSelector: {namespace: tidegate-system, labels: {app.kubernetes.io/component: operator}}
cache: {storageClass: standard}
"""
SETTINGS = platform.parse(PLATFORM, "platform.yaml")
SIM: dict[str, Any] = {"model": {"uri": "sim://m"}, "engine": {"type": "sim"}}
VLLM: dict[str, Any] = {"model": {"uri": "file:///opt/models/m"}}


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    made = dict(one)
    for key, value in other.items():
        inner = made.get(key)
        both = isinstance(value, dict) and isinstance(inner, dict)
        made[key] = merged(inner, value) if both and isinstance(inner, dict) else value
    return made


def resource(
    base: dict[str, Any] = SIM, name: str = "m", **changes: dict[str, Any]
) -> ModelDeployment:
    value = {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": "team-a"},
        "spec": merged(base, changes),
    }
    made, problems = judge(value)
    assert made is not None, problems
    return made


def planned(
    one: ModelDeployment, on: platform.Platform = SETTINGS, **secrets: str
) -> dict[str, Object]:
    made = plan(one, "uid-1", on, GUARD, secret_hashes=secrets)
    assert len({item["kind"] for item in made}) == len(made)
    return {item["kind"]: item for item in made}


def pod(one: ModelDeployment, on: platform.Platform = SETTINGS, **secrets: str) -> Object:
    spec: Object = planned(one, on, **secrets)["Deployment"]["spec"]["template"]["spec"]
    return spec


def engine(one: ModelDeployment) -> Object:
    (container,) = pod(one)["containers"]
    assert container["name"] == cluster.ENGINE_CONTAINER
    made: Object = container
    return made


def env(container: Object) -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


def pod_hash(one: ModelDeployment, on: platform.Platform = SETTINGS, **secrets: str) -> str:
    template = planned(one, on, **secrets)["Deployment"]["spec"]["template"]
    made: str = template["metadata"]["annotations"][cluster.CONFIG_HASH]
    return made


NAMES = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,80}[a-z0-9])?", fullmatch=True)
URIS = st.sampled_from(["file:///opt/m", "pvc://claim/m", "pkg://m==1", "pkg://m#a/b", "hf://o/m"])
TEXT = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=20)
ENV = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from(["TZ", "VLLM_X", "OMP_Y"]), "value": TEXT}),
    max_size=2,
    unique_by=lambda one: one["name"],
)


@st.composite
def resources(draw: st.DrawFn) -> ModelDeployment:
    sim = draw(st.booleans())
    args = [f"--seed={draw(st.integers(0, 99))}"] if draw(st.booleans()) else []
    spec: dict[str, Any] = {
        "model": {"uri": "sim://m" if sim else draw(URIS), "revision": draw(st.sampled_from("ab"))},
        "engine": {"type": "sim" if sim else "vllm", "args": args, "env": draw(ENV)},
        "resources": {"profile": draw(st.sampled_from(["cpu", "nvidia-l4:4", "bare"]))},
        "drain": {"timeoutSeconds": draw(st.integers(0, 86400))},
    }
    if draw(st.booleans()):
        spec["model"]["cache"] = {"size": "5Gi"}
    if draw(st.booleans()):
        spec["model"]["secretRef"] = {"name": "token"}
    metadata = Metadata(name=draw(NAMES), namespace="team-a")
    return ModelDeployment(metadata=metadata, spec=msgspec.convert(spec, Spec))
