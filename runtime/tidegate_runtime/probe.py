"""Readiness: when has a replica really answered?

A starting replica is asked `/health` every 50 ms as soon as it has an address, then one real
request of the model's task, since an engine can be healthy and die on its first request. That
request goes through the journal like any other, unbilled, with the reason `probe`.
"""

import asyncio
import time
from typing import Final

import msgspec
import structlog

from tidegate_billing.usage import Outcome, Usage, uuid7
from tidegate_runtime import http1, openai
from tidegate_runtime.endpoints import ModelState, ReplicaState
from tidegate_runtime.gate import Gate
from tidegate_runtime.settlement import settlement
from tidegate_runtime.stream import MalformedAnswer, usage_of

log = structlog.get_logger()

INTERVAL: Final = 0.05
HEALTH_SECONDS: Final = 2.0
ANSWER_SECONDS: Final = 120.0
_LIMIT: Final = 16 * 1024 * 1024


class Prober:
    """Probes the replicas of one router."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def start(self, model: ModelState, replica: ReplicaState) -> None:
        """Probe a replica that has just appeared, until it answers or goes."""
        if replica.state == "starting":
            replica.probe = self._gate.loop.create_task(self._probe(model, replica))

    async def _probe(self, model: ModelState, replica: ReplicaState) -> None:
        while not await self._healthy(replica):
            await asyncio.sleep(INTERVAL)
            if replica.state == "ready":  # another router had its answer
                return
        error = await self._answer(model, replica)
        if error:
            log.warning("readiness_refused", replica=replica.id, error=error)
            replica.answer_error = error
            self._gate.news.set()
        else:
            replica.answered_at = time.time()
            self._gate.answered(model)

    @staticmethod
    async def _healthy(replica: ReplicaState) -> bool:
        request = (
            b"GET /health HTTP/1.1\r\nhost: %b\r\nconnection: close\r\n\r\n" % replica.host_header
        )
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                status, _ = await _ask(replica, request)
        except (OSError, ValueError, asyncio.IncompleteReadError):
            return False
        return status == 200

    async def _answer(self, model: ModelState, replica: ReplicaState) -> str:
        """Make the real request; empty when it was answered, else what went wrong."""
        path, body = _question(model)
        attempt = Usage(
            attempt_id=uuid7(), kind="attempt", request_id="probe-" + uuid7(),
            tenant=model.view.owner, project="", key_id="", model=model.view.name,
            deployment=model.view.deployment, endpoint=path, replica=replica.id,
            started_at=int(time.time() * 1e6), reason="probe",
        )  # fmt: skip
        meter = self._gate.meter
        head = http1.upstream_head(
            path, replica.host_header, replica.guard, attempt.attempt_id,
            b"connection: close\r\n", len(body),
        )  # fmt: skip
        error, answer = "", b""
        try:
            meter.attempt(attempt)
            async with asyncio.timeout(ANSWER_SECONDS):
                status, answer = await _ask(replica, head + body)
            counts = usage_of(answer) if status == 200 else None
            if counts is None:
                error = f"the readiness request was answered {status}: {answer[:500].decode(errors='replace')}"
        except TimeoutError:
            error, counts = f"the readiness request had no answer in {ANSWER_SECONDS:.0f} s", None
        except (OSError, ValueError, asyncio.IncompleteReadError, MalformedAnswer) as exc:
            error, counts = f"the readiness request failed: {exc}", None
        outcome: Outcome = "failed" if error else "completed"
        settled = settlement(
            attempt, outcome, counts, partial=False, reason="probe", now=time.time()
        )
        if attempt.attempt_id in meter.journal.open_attempts:
            meter.settle(settled, -1)
        return error


def _question(model: ModelState) -> tuple[str, bytes]:
    name = model.view.name
    if model.view.task == "embed":
        return openai.EMBEDDINGS, msgspec.json.encode({"model": name, "input": "ready"})
    question = {"model": name, "max_tokens": 1, "prompt": "ready"}
    return openai.COMPLETIONS, msgspec.json.encode(question)


async def _ask(replica: ReplicaState, request: bytes) -> tuple[int, bytes]:
    """One request on a connection of its own: (status, body). Raises OSError, ValueError."""
    reader, writer = await asyncio.open_connection(replica.host, replica.port)
    try:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        lower = head.lower()
        at = lower.find(b"\r\ncontent-length:")
        if at >= 0:
            length = int(lower[at + 17 : lower.index(b"\r", at + 17)])
            return status, await reader.readexactly(min(length, _LIMIT))
        body = await reader.read(_LIMIT)
        return status, _dechunk(body) if b"chunked" in lower else body
    finally:
        writer.close()


def _dechunk(body: bytes) -> bytes:
    parts, at = [], 0
    while (end := body.find(b"\r\n", at)) >= 0:
        size = int(body[at:end], 16)
        if not size:
            break
        parts.append(body[end + 2 : end + 2 + size])
        at = end + 4 + size
    return b"".join(parts)
