"""What is sent and when. Pure: the same seed makes the same load."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

VOCABULARY = [
    "the",
    "of",
    "system",
    "you",
    "assistant",
    "must",
    "answer",
    "user",
    "policy",
    "tool",
    "result",
    "token",
    "cache",
    "model",
    "request",
    "when",
    "never",
    "always",
    "json",
    "field",
    "value",
    "return",
    "table",
    "price",
    "order",
    "invoice",
    "customer",
]

MOST_WORDS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Load:
    """One load. `rate`: requests per second of an open loop; None: a closed one of `concurrency`
    callers. `seconds`: nothing is sent later (None: until `requests` were sent). `streams`: which
    share of the requests streams. `prompts`: lengths in words, each with its weight."""

    model: str
    concurrency: int = 8
    rate: float | None = None
    arrivals: Literal["poisson", "even"] = "poisson"
    requests: int = 100
    seconds: float | None = None
    streams: float = 1.0
    prompts: tuple[tuple[int, float], ...] = ((100, 1.0),)
    max_tokens: int = 64
    seed: int = 1
    warmup: int = 1
    timeout: float = 600.0


class Item(NamedTuple):
    """One request. `at`: seconds after the start at which it is to be sent (None: when a caller is
    free). `words` is its prompt's length."""

    number: int
    at: float | None
    words: int
    stream: bool


def items(load: Load) -> Iterator[Item]:
    """The requests, in order, without the warm-up."""
    chooser = random.Random(load.seed)  # noqa: S311 - a load, not a secret
    lengths, weights = zip(*load.prompts, strict=True)
    at = 0.0
    for number in range(load.requests):
        words = chooser.choices(lengths, weights)[0]
        stream = chooser.random() < load.streams
        if load.rate is None:
            yield Item(number, None, words, stream)
            continue
        if load.seconds is not None and at > load.seconds:
            return
        yield Item(number, at, words, stream)
        even = 1 / load.rate
        at += even if load.arrivals == "even" else chooser.expovariate(load.rate)


def body(load: Load, item: Item) -> dict[str, Any]:
    """The request's body. No two prompts begin alike, so that no prefix cache answers for the
    engine."""
    chooser = random.Random(f"{load.seed} {item.number}")  # noqa: S311 - the same
    words = [f"r{load.seed}x{item.number}", *chooser.choices(VOCABULARY, k=item.words)]
    asked = {
        "model": load.model,
        "messages": [{"role": "user", "content": " ".join(words[: item.words])}],
        "max_tokens": load.max_tokens,
        "stream": item.stream,
    }
    return asked | ({"stream_options": {"include_usage": True}} if item.stream else {})


def prompts(text: str) -> tuple[tuple[int, float], ...]:
    """Lengths in words with weights: `50,500` or `50:9,2000:1`. Raises ValueError."""
    found = []
    for part in text.split(","):
        words, _, weight = part.strip().partition(":")
        try:
            length, share = int(words), float(weight or 1)
        except ValueError:
            length, share = 0, 0.0
        if not (0 < length <= MOST_WORDS and 0 < share < float("inf")):
            allowed = (
                f"lengths of 1 to {MOST_WORDS} words, joined by commas, each WORDS or WORDS:WEIGHT"
            )
            raise ValueError(f"{text!r}: allowed are {allowed}")
        found.append((length, share))
    return tuple(found)
