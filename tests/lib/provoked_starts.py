"""Every way a start can fail, by its reason: on this machine for real, in a cluster from what is said there.

`document` holds a model for each reason of local mode; all are asked at once, so that the slowest
is all that is waited for. What only a cluster can do is read from statuses of the form that its
parts write; tests/cluster/test_failures.py brings the same about for real."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

import hub_server
import running
from pods import ended, pod, unscheduled, waiting
from tidegate_operator.kube.failing import not_created
from tidegate_operator.outcome import Trouble, overdue, trouble
from tidegate_runtime.contract.cluster import ANSWERED

VLLM = """
apiVersion: tidegate.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: {name}}}
spec:
  model: {{uri: "{uri}"}}
  engine: {{type: vllm}}
  coldStart: {{failGraceSeconds: 0, holdSeconds: 120, nonStreamHoldSeconds: 120}}
  pricing: {{currency: USD, inputPerMillion: "0.10", outputPerMillion: "0.40"}}
---
"""
SOURCES = {
    "ModelNotFound": "file:///no/such/model",
    "ModelUnavailable": "pkg://no-such-package-of-a-model==1.0",
    "VolumePending": "hf://team/huge",
    "OutOfMemory": "hf://team/long",
    "ImagePullBackOff": "hf://team/tiny",
}
"""What vLLM cannot be started from, by the reason it is told as."""


def name(reason: str) -> str:
    """The model that fails for this reason."""
    return f"x-{reason.lower()}"


def offline(hub: hub_server.Hub, folder: str) -> dict[str, str]:
    """The environment of an `up` that reaches a hub of models and no registry of packages."""
    return {
        "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "UV_OFFLINE": "1", "UV_CACHE_DIR": f"{folder}/uv",
    }  # fmt: skip


def fill(hub: hub_server.Hub) -> None:
    """The hub's models: too large for the disk, too long for the memory, and a good one."""
    header = b'{"x":{"dtype":"F16","shape":[2000],"data_offsets":[0,4000]}}'
    weights = len(header).to_bytes(8, "little") + header + bytes(4000)
    config = {"architectures": ["LlamaForCausalLM"]}
    shape = {"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096}
    long = {**config, **shape, "max_position_embeddings": 131072}
    files = {"config.json": json.dumps(config).encode(), "model.safetensors": weights}
    hub.add("team/tiny", files)
    hub.add("team/huge", files, claimed={"model.safetensors": 10**16})
    hub.add("team/long", {**files, "config.json": json.dumps(long).encode()})


def document() -> str:
    """A model for each reason of local mode."""
    late = running.sim(name("StartTimeout"), start_seconds=3600)
    late = late.replace("heartbeatSeconds: 10", "heartbeatSeconds: 10, startTimeoutSeconds: 10")
    hung = running.sim(name("EngineHung"), fail="hang@2")
    hung = hung.replace("type: sim,", "type: sim, stallSeconds: 1,")
    return "".join(
        (
            running.sim(name("EngineExited"), fail="die-at-start"),
            running.sim(name("AnswerFailed"), fail="http500@1"),
            late,
            hung,
            *(VLLM.format(name=name(reason), uri=uri) for reason, uri in SOURCES.items()),
        )
    )


LOCAL = ("EngineExited", "AnswerFailed", "StartTimeout", "EngineHung", *SOURCES)


def ask(up: running.Platform) -> dict[str, str]:
    """What whoever asks for each of the models is told, and what `up` said of it."""

    def one(reason: str) -> str:
        body = {
            "model": name(reason),
            "max_tokens": 4,
            "messages": [{"role": "user", "content": "x"}],
        }
        with up.client() as client:
            answer: httpx.Response = client.post("/v1/chat/completions", json=body, timeout=100)
        error = answer.json()["error"]
        return f"{answer.status_code} {error['code']}: {error['message']}"

    with ThreadPoolExecutor(len(LOCAL)) as pool:
        told = dict(zip(LOCAL, pool.map(one, LOCAL), strict=True))
    for event in up.told("error"):
        for reason in LOCAL:
            if event.get("name") == name(reason):
                told[reason] += f" | {event['message']}"
    return told


def _last(reason: str, **more: Any) -> Any:
    return pod(
        waiting("CrashLoopBackOff", last={"exitCode": 1, "reason": reason, **more}, restarts=2)
    )


def _failed(message: str) -> Trouble | None:
    condition = {"type": "ReplicaFailure", "status": "True", "message": message}
    return not_created({"status": {"conditions": [condition]}})


def _lost() -> Trouble | None:
    ready = {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:09Z"}
    gate = {"type": ANSWERED, "status": "True", "lastTransitionTime": "2026-01-01T00:00:01Z"}
    seen = pod(conditions=[ready, gate, {"type": "ContainersReady", "status": "True"}])
    return trouble({**seen, "spec": {"nodeName": "node-2"}})


def _overdue() -> Trouble | None:
    busy = {"name": "engine", "restartCount": 0,
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}  # fmt: skip
    return overdue(pod(busy), 1800, 1767225600.0 + 1801)


CLUSTER: Mapping[str, Trouble | None] = {
    "ImagePullBackOff": trouble(pod(waiting("ImagePullBackOff", "manifest unknown"))),
    "InvalidImageName": trouble(pod(waiting("InvalidImageName", "couldn't parse image name"))),
    "CrashLoopBackOff": trouble(_last("Error", message="no such option")),
    "EngineExited": trouble(pod(ended(1, message="no such option"))),
    "OOMKilled": trouble(_last("OOMKilled")),
    "Unschedulable": trouble(
        unscheduled("0/2 nodes are available: 2 Insufficient nvidia.com/gpu.")
    ),
    "VolumePending": trouble(unscheduled("pod has unbound immediate PersistentVolumeClaims")),
    "ModelNotFound": trouble(pod(initial=[ended(2, message="404 hf://a/b", name="fetch")])),
    "ModelUnavailable": trouble(pod(initial=[ended(3, message="timed out", name="fetch")])),
    "StartTimeout": _overdue(),
    "NodeLost": _lost(),
    "QuotaExceeded": _failed('pods "m-1" is forbidden: exceeded quota: gpus'),
    "PodsRefused": _failed('admission webhook "policy.example.com" denied the request'),
    "CreateContainerConfigError": trouble(
        pod(waiting("CreateContainerConfigError", 'secret "hub" not found'))
    ),
    "CreateContainerError": trouble(pod(waiting("CreateContainerError", "failed to reserve name"))),
    "RunContainerError": trouble(pod(waiting("RunContainerError", "exec: not found in $PATH"))),
}
"""What the operator makes of it, by reason."""
