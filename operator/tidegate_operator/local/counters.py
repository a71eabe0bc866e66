"""What an engine says it generated, and where that is told.

An engine's `/metrics` is the number the ledger is held against. The simulator's truth file goes
further: it survives the engine's death and tells each attempt apart. Parsing is pure.
"""

import asyncio
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec

from tidegate_billing.links import EngineCounters
from tidegate_runtime.contract.exposition import samples

PROMPT = "vllm:prompt_tokens_total"
GENERATED = "vllm:generation_tokens_total"
RUNNING = ("vllm:num_requests_running", "vllm:num_requests_waiting")


class Tokens(NamedTuple):
    """Token counts of one engine since it started, and the requests it is serving now."""

    prompt: int
    generated: int
    in_flight: int = 0


class Truth(msgspec.Struct, frozen=True):
    """One line of a simulator's truth file; the last line of an attempt counts."""

    attempt_id: str
    prompt_tokens: int = 0
    generated_tokens: int = 0


def parse(text: str) -> Tokens | None:
    """Counts from Prometheus text, summed over labels; None where the token counters lack."""
    sums: dict[str, float] = {}
    for name, value in samples(text):
        if name in {PROMPT, GENERATED, *RUNNING} and value:
            sums[name] = sums.get(name, 0.0) + float(value[0])
    if PROMPT not in sums or GENERATED not in sums:
        return None
    serving = int(sum(sums.get(name, 0.0) for name in RUNNING))
    return Tokens(int(sums[PROMPT]), int(sums[GENERATED]), serving)


def truth(content: bytes) -> dict[str, Truth]:
    """The last word on each attempt; a line cut off by a crash is passed over."""
    found = {}
    decode = msgspec.json.Decoder(Truth).decode
    for line in content.splitlines():
        try:
            one = decode(line)
        except msgspec.MsgspecError:
            continue
        found[one.attempt_id] = one
    return found


def read_truth(path: Path | None) -> dict[str, Truth] | None:
    """A truth file's attempts; None where the engine keeps none. Not for the event loop."""
    if path is None:
        return None
    try:
        return truth(path.read_bytes())
    except OSError:
        return {}


async def read_metrics(http: httpx.AsyncClient, url: str, guard: str) -> Tokens | None:
    """An engine's own counters, now; None where it does not answer with them."""
    try:
        answer = await http.get(f"{url}/metrics", headers={"authorization": f"Bearer {guard}"})
    except httpx.HTTPError:
        return None
    return parse(answer.text) if answer.status_code == 200 else None


async def measured(
    http: httpx.AsyncClient, base: EngineCounters, url: str, guard: str, path: Path | None
) -> EngineCounters:
    """`base` with the numbers of a running engine; unverified where it would not tell them."""
    tokens = await read_metrics(http, url, guard)
    attempts = await asyncio.to_thread(read_truth, path) if path else None
    if tokens is None:
        return (
            from_truth(base, attempts)
            if attempts
            else msgspec.structs.replace(base, verified=False)
        )
    return msgspec.structs.replace(
        base,
        prompt=tokens.prompt,
        generated=tokens.generated,
        in_flight=tokens.in_flight,
        verified=True,
        attempts={key: one.generated_tokens for key, one in (attempts or {}).items()},
    )


def from_truth(base: EngineCounters, attempts: dict[str, Truth]) -> EngineCounters:
    """`base` with the numbers of a truth file, which outlived its engine."""
    return msgspec.structs.replace(
        base,
        prompt=sum(one.prompt_tokens for one in attempts.values()),
        generated=sum(one.generated_tokens for one in attempts.values()),
        verified=True,
        attempts={key: one.generated_tokens for key, one in attempts.items()},
    )


async def after_death(base: EngineCounters, path: Path | None) -> EngineCounters:
    """The numbers of an engine that is gone: its truth file's, or `base` as it was last read."""
    attempts = await asyncio.to_thread(read_truth, path)
    return base if attempts is None else from_truth(base, attempts)
