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
from tidegate_runtime import http1, openai, pooling
from tidegate_runtime.ask import BROKEN, ask, get
from tidegate_runtime.endpoints import ModelState, ReplicaState
from tidegate_runtime.gate import Gate
from tidegate_runtime.settlement import settlement
from tidegate_runtime.stream import Counts, usage_of

log = structlog.get_logger()

INTERVAL: Final = 0.05
HEALTH_SECONDS: Final = 2.0
ANSWER_SECONDS: Final = 120.0


class _Model(msgspec.Struct):
    max_model_len: int | None = None


class _Listed(msgspec.Struct):
    data: list[_Model]


class Prober:
    """Probes the replicas of one router."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def start(self, model: ModelState, replica: ReplicaState) -> None:
        """Probe a replica that is starting, until it answers or goes."""
        if replica.state == "starting":
            replica.probe = self._gate.loop.create_task(self._probe(model, replica))
        elif replica.state == "ready" and not model.context:
            replica.probe = self._gate.loop.create_task(self._learn(model, replica))

    async def _probe(self, model: ModelState, replica: ReplicaState) -> None:
        while not await self._healthy(replica):
            await asyncio.sleep(INTERVAL)
            if replica.state == "ready":  # another router had its answer
                return
        await self._learn(model, replica)
        while (error := await self._answer(model, replica)) is None:
            await asyncio.sleep(1.0)
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
                status, _ = await ask(replica, request)
        except BROKEN:
            return False
        return status == 200

    @staticmethod
    async def _learn(model: ModelState, replica: ReplicaState) -> None:
        """Learn how many tokens the model takes, where its engine says so as vLLM does."""
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                _, answer = await ask(replica, get(replica, "/v1/models"))
            listed = msgspec.json.decode(answer, type=_Listed).data
        except (*BROKEN, msgspec.MsgspecError):
            return
        model.context = max((one.max_model_len or 0 for one in listed), default=0)

    async def _answer(self, model: ModelState, replica: ReplicaState) -> str | None:
        """Make the real request. Empty when it was answered, else what went wrong; None where it
        could not be put on record, which is not the engine's fault."""
        path, body = _question(model)
        attempt = Usage(
            attempt_id=uuid7(), kind="attempt", request_id="probe-" + uuid7(),
            tenant=model.view.owner, project="", key_id="", model=model.view.name,
            deployment=model.view.deployment, endpoint=path, replica=replica.id,
            started_at=int(time.time() * 1e6), reason="probe",
        )  # fmt: skip
        meter = self._gate.meter
        head = http1.upstream_head(
            openai.engine_path(path), replica.host_header, replica.guard, attempt.attempt_id,
            b"connection: close\r\n", len(body),
        )  # fmt: skip
        try:
            meter.attempt(attempt)
        except OSError:
            return None
        counts: Counts | None = None
        outcome: Outcome = "failed"
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                status, answer = await ask(replica, head + body)
            counts = usage_of(answer) if status == 200 else None
            outcome = "completed" if counts else "failed"
            said = answer[:500].decode(errors="replace")
            error = "" if counts else f"the readiness request was answered {status}: {said}"
        except TimeoutError:
            error = f"the readiness request had no answer in {ANSWER_SECONDS:.0f} s"
        except BROKEN as exc:
            error = f"the readiness request failed: {exc}"
        finally:  # also when the replica leaves meanwhile, which cancels this task
            settled = settlement(
                attempt, outcome, counts, partial=False, reason="probe", now=time.time()
            )
            meter.settle(settled, -1)
        return error


def believe(model: ModelState, replica: ReplicaState) -> None:
    """In place of a probe (TIDEGATE_PROBE=false): a replica with an address counts as answered.

    Whoever brings it to the model tells it on and lets go who waits, as with any new replica."""
    del model
    if replica.state == "starting" and not replica.answered_at:
        replica.answered_at = time.time()


def _question(model: ModelState) -> tuple[str, bytes]:
    name = model.view.name
    asked = pooling.question(model.view.task, name)
    if asked is not None:
        return asked
    question = {"model": name, "max_tokens": 1, "prompt": "ready"}
    return openai.COMPLETIONS, msgspec.json.encode(question)
