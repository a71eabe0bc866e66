"""`up` and sources that do not work: whoever asks is told why at once, in words that help.

No vLLM is needed: every one of these is found out before it is installed."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import hub_server
from up_process import Up, model


class Real(Up):
    """`up` with its real parts."""

    def ask(self, name: str) -> tuple[int, str]:
        key = (self.data / "api-key").read_text().strip()
        answer = httpx.post(
            self.part("router")["url"] + "/v1/completions",
            json={"model": name, "prompt": "one two", "max_tokens": 2},
            headers={"authorization": f"Bearer {key}"},
            timeout=30,
            trust_env=False,
        )
        return answer.status_code, answer.json()["error"]["message"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[hub_server.Hub]:
    with hub_server.serving() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        for name in ("HF_TOKEN", "HF_TOKEN_FILE", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        yield served


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
