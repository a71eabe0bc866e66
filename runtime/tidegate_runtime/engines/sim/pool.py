"""Scores, reranking and classes without a model, in vLLM's shapes; pure.

A score is the cosine of two texts' embeddings, as vLLM gives it over an embedding model; so a query
is counted once, however many documents there are. Classes are drawn from the same vectors.
"""

import math
from collections.abc import Sequence

import msgspec

from tidegate_runtime.engines.sim.embed import vector
from tidegate_runtime.engines.sim.request import Ask

Row = dict[str, object]


LABELS = ("LABEL_0", "LABEL_1")


def whole(
    ask: Ask, name: bytes, created: int, model: bytes, prompt: int | None, seed: int
) -> bytes:
    """The body of an answer; `name` and `model` are JSON already. `prompt`: the prompt tokens that it
    reports (None: no usage)."""
    told: Row = {"id": msgspec.Raw(name), "model": msgspec.Raw(model)}
    usage = {"prompt_tokens": prompt, "total_tokens": prompt}
    if ask.task == "rerank":
        told["results"] = _ranked(ask, seed)
    else:
        usage["completion_tokens"] = 0
        told |= {"object": "list", "created": created}
        told["data"] = _classes(ask.prompts, seed) if ask.task == "classify" else _scores(ask, seed)
    if prompt is not None:
        told["usage"] = usage
    return msgspec.json.encode(told)


def _pairs(ask: Ask, seed: int) -> list[float]:
    count = len(ask.documents)
    vectors = [vector(words, seed) for words in ask.prompts]
    queries, documents = vectors[:-count], vectors[-count:]
    if len(queries) == 1:
        queries = queries * count
    return [_cosine(one, other) for one, other in zip(queries, documents, strict=True)]


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Of unit vectors."""
    return round(math.fsum(a * b for a, b in zip(one, other, strict=True)), 7)


def _scores(ask: Ask, seed: int) -> list[Row]:
    return [
        {"index": index, "object": "score", "score": value}
        for index, value in enumerate(_pairs(ask, seed))
    ]


def _ranked(ask: Ask, seed: int) -> list[Row]:
    """The best first; all, or the `top_n` best."""
    scored = sorted(enumerate(_pairs(ask, seed)), key=lambda pair: -pair[1])
    return [
        {
            "index": index,
            "document": {"text": ask.documents[index], "multi_modal": None},
            "relevance_score": value,
        }
        for index, value in scored[: ask.top_n or None]
    ]


def _classes(prompts: Sequence[tuple[str, ...]], seed: int) -> list[Row]:
    rows: list[Row] = []
    for index, words in enumerate(prompts):
        raw = [math.exp(value) for value in vector(words, seed)[: len(LABELS)]]
        shares = [round(one / sum(raw), 7) for one in raw]
        label = LABELS[shares.index(max(shares))]
        rows.append({"index": index, "label": label, "probs": shares, "num_classes": len(LABELS)})
    return rows
