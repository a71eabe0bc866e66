"""Every refusal of the gateway that needs no billing, by the row of docs/errors.md: what a client gets.

A gate over real sockets, one for each; the few limits that would take gigabytes or minutes to meet
are met by telling it that they are."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import httpx
import msgspec

import gates
import sim_process
from gates import BODY, CHAT, VIEW, Running
from tidegate_billing.lending.said import PotView
from tidegate_billing.links import PriceView, SnapshotLine
from tidegate_runtime.account import AT_ONCE, TENANT_AT_ONCE, Account
from tidegate_runtime.contract.links import Failure, ModelView
from tidegate_runtime.front import BODY_SECONDS, MAX_BODY, MAX_BUFFERED, MAX_HEAD, MAX_URL
from tidegate_runtime.till import Till

HASTY = msgspec.structs.replace(VIEW, heartbeat_seconds=0)
COSTS = "/v1/organization/costs"


class Answer(NamedTuple):
    """An error as a client sees it. `in_band`: as the last event of a stream that had begun."""

    status: int
    kind: str
    code: object
    message: str
    retry_after: str | None
    in_band: bool


class Stage(NamedTuple):
    """Where a refusal is provoked: a folder of its own, and an engine that can be made to fail."""

    folder: Path
    sim: sim_process.Sim


Provoke = Callable[[Stage], Awaitable[list[Answer]]]


def answer(got: httpx.Response) -> Answer:
    """What there is to be told of an answer."""
    said = gates.error(got)
    in_band = got.headers.get("content-type", "").startswith("text/event-stream")
    assert got.headers["x-request-id"].startswith("req-")
    retry = got.headers.get("retry-after")
    return Answer(got.status_code, said["type"], said["code"], said["message"], retry, in_band)


def _asked(*requests: tuple[str, str, Any], view: ModelView = VIEW, **keys: Any) -> Provoke:
    """Requests that are refused as they come: method, path, body (bytes or JSON)."""

    async def provoke(stage: Stage) -> list[Answer]:
        async with gates.running(stage.folder, view) as one:
            one.gate.tenants.add(gates.key(**keys))
            found = []
            for method, path, body in requests:
                content = body if isinstance(body, bytes) else msgspec.json.encode(body)
                found.append(answer(await one.client.request(method, path, content=content)))
            return found

    return provoke


def _raw(data: bytes, cause: Callable[[Running], None] = lambda _: None) -> Provoke:
    """Bytes that are no whole request."""

    async def provoke(stage: Stage) -> list[Answer]:
        async with gates.running(stage.folder) as one:
            reader, writer = await asyncio.open_connection("127.0.0.1", one.client.base_url.port)
            cause(one)
            writer.write(data)
            reading = asyncio.ensure_future(reader.read())  # to the end: we close what we refuse so
            while not reading.done():
                cause(one)
                await asyncio.sleep(0.01)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            last = reading.result().rpartition(b"HTTP/1.1 ")[2]
            head, _, rest = last.partition(b"\r\n\r\n")
            status, *lines = head.decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines)
            return [answer(httpx.Response(int(status[:3]), headers=headers, content=rest))]

    return provoke


def _waiting(
    cause: Callable[[Running, Stage], None], view: ModelView = HASTY, *, priced: bool = False
) -> Provoke:
    """A plain request and a stream that wait for an engine, and then something happens."""

    async def provoke(stage: Stage) -> list[Answer]:
        async with gates.running(stage.folder, view, priced=priced, connections=9) as one:
            if priced:
                _tell(one, type="snapshot", keys=[gates.key()])
            asked = [await one.held(), await one.streaming()]
            cause(one, stage)
            await one.until(lambda: all(task.done() for task in asked))
            return [answer(task.result()) for task in asked]

    return provoke


def _tell(one: Running, **line: Any) -> None:
    """Billing says something of keys, prices, tenants."""
    told = SnapshotLine(version=1, **line)
    one.gate.tenants.apply(told, one.gate.loop.time())
    one.gate.repriced()


def _world(**changes: Any) -> Callable[[Running, Stage], None]:
    def cause(one: Running, _: Stage) -> None:
        one.world(msgspec.structs.replace(one.view, **changes))

    return cause


def _engine(fault: str | None, guard: str = sim_process.GUARD) -> Callable[[Running, Stage], None]:
    def cause(one: Running, stage: Stage) -> None:
        stage.sim.set_fault(fault)
        one.engine(stage.sim.url, guard)

    return cause


def _price(one: Running, _: Stage) -> None:
    _tell(one, type="change", prices=[PriceView(deployment="t/m", version=1)])


def _then(told: Callable[[Running], None]) -> Callable[[Running, Stage], None]:
    def cause(one: Running, stage: Stage) -> None:
        told(one)
        _price(one, stage)  # what waits is looked at again

    return cause


async def _keys_unknown(stage: Stage) -> list[Answer]:
    async with gates.running(stage.folder, priced=True) as one:
        return [answer(await one.client.post(CHAT, json=BODY))]


async def _expired(stage: Stage) -> list[Answer]:
    async with gates.running(stage.folder) as one:
        found = []
        one.gate.tenants.add(gates.key(token="old", expires_at=1))
        for sent in ("Bearer sk-wrong", "Bearer old", ""):
            got = await one.client.post(CHAT, json=BODY, headers={"authorization": sent})
            found.append(answer(got))
    revoked = _waiting(
        _then(lambda one: _tell(one, type="change", removed_keys=["k-sk"])), priced=True
    )
    return found + await revoked(stage)


async def _full(stage: Stage) -> list[Answer]:
    small = msgspec.structs.replace(HASTY, max_held=2, visibility="Public")
    async with gates.running(stage.folder, small, connections=9) as one:
        one.gate.tenants.add(gates.key("u", "sk-u"))
        first, second = await one.streaming(), await one.streaming()
        third = await one.client.post(CHAT, json=BODY)
        headers = {"authorization": "Bearer sk-u"}
        other = asyncio.create_task(one.client.post(CHAT, json=BODY, headers=headers))
        done, _ = await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
        one.gate.stop()
        await asyncio.gather(first, second, other)
        return [answer(third), *(answer(task.result()) for task in done)]


async def _share(stage: Stage) -> list[Answer]:
    small = msgspec.structs.replace(VIEW, max_held=2)
    with mock.patch("tidegate_runtime.gate.TENANT_SHARE", 0.5):
        async with gates.running(stage.folder, small, connections=2) as one:
            first = await one.held()
            found = answer(await one.client.post(CHAT, json=BODY))
            one.gate.stop()
            await first
            return [found]


async def _streams(stage: Stage) -> list[Answer]:
    stage.sim.set_fault(None)
    async with gates.running(stage.folder, HASTY, connections=9) as one:
        waiting = await one.streaming()
        while one.gate.meter.slots.take("0" * 32) >= 0:
            pass
        one.engine(stage.sim.url, sim_process.GUARD)
        got = await one.client.post(CHAT, json={**BODY, "stream": True})
        return [answer(got), answer(await waiting)]


async def _broken_off(stage: Stage) -> list[Answer]:
    stage.sim.set_fault("malformed@3")
    async with gates.running(stage.folder) as one:
        one.engine(stage.sim.url, sim_process.GUARD)
        return [answer(await one.client.post(CHAT, json={**BODY, "max_tokens": 9, "stream": True}))]


async def _fault(stage: Stage) -> list[Answer]:
    broken = mock.Mock(side_effect=RuntimeError("a fault of ours"))
    splice = mock.patch("tidegate_runtime.exchange.openai.splice", broken)
    with splice, mock.patch("tidegate_runtime.exchange.log"):  # its traceback takes seconds to draw
        return await _waiting(_engine(None))(stage)


async def _no_disk(stage: Stage) -> list[Answer]:
    none = SimpleNamespace(f_bavail=0, f_frsize=4096)
    full = mock.patch("tidegate_runtime.meter.os.statvfs", return_value=none)
    with contextlib.ExitStack() as held:
        return await _waiting(lambda one, _: held.enter_context(full) and None)(stage)


async def _unpaid(stage: Stage) -> list[Answer]:
    """Prepaid meanwhile, while nobody knows what the model costs; then while billing is away."""

    def prepaid(one: Running) -> None:
        one.gate.till = Till(one.gate, one.client, "http://127.0.0.1:9")
        pot = PotView(name="credit:t:USD:1", tenant="t", currency="USD")
        _tell(one, type="change", pots=[pot])

    return await _waiting(_then(prepaid), priced=True)(stage)


@contextlib.asynccontextmanager
async def _billing(one: Running, url: str) -> AsyncIterator[None]:
    async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
        one.gate.account = Account(one.gate, client, url)
        yield


async def _usage_away(stage: Stage) -> list[Answer]:
    async with gates.running(stage.folder) as one, _billing(one, "http://127.0.0.1:9"):
        return [answer(await one.client.get(COSTS))]


async def _many_questions(stage: Stage, tenants: int) -> list[Answer]:
    """Each tenant asks as often as it may of a billing that does not answer; then the last once more."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        async with gates.running(stage.folder, connections=99) as one, _billing(one, url):
            names = [f"sk-{number}" for number in range(AT_ONCE // TENANT_AT_ONCE + 1)]
            for name in names:
                one.gate.tenants.add(gates.key(f"t-{name}", name))

            def ask(name: str) -> "asyncio.Task[httpx.Response]":
                headers = {"authorization": f"Bearer {name}"}
                return asyncio.create_task(one.client.get(COSTS, headers=headers))

            asked = [ask(name) for name in names[:tenants] for _ in range(TENANT_AT_ONCE)]
            account = one.gate.account
            assert account is not None
            while len(account.live) < len(asked):
                await asyncio.sleep(0.005)
            last = names[tenants] if tenants > 1 else names[0]
            found = answer(await ask(last))
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            while account.live:
                await asyncio.sleep(0.005)
            return [found]


def _late(one: Running) -> None:
    """A minute and more passes for every connection."""
    for front in list(one.gate.fronts):
        front.sweep(one.gate.loop.time() + BODY_SECONDS + 1)


def _crowd(one: Running) -> None:
    one.gate.buffered = MAX_BUFFERED


_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer sk\r\n"


def _whole(body: bytes) -> bytes:
    return _HEAD + b"content-length: %d\r\n\r\n" % len(body) + body


def _stop_when_crowded(one: Running) -> None:
    if one.gate.models["t/m"].queue:  # the first of them waits for an engine, the others for it
        one.gate.stop()


FAILURE = Failure(start_id="9", reason="EngineExited", message="boom", at=1.0, final=True)

REQUESTS: dict[str, Provoke] = {
    "bad_request 400": _raw(b"\x00garbage\r\n\r\n"),
    "upgrade_refused 400": _raw(b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com\r\n\r\n"),
    "too_many_pipelined 400": _raw(_whole(msgspec.json.encode(BODY)) * 20, _stop_when_crowded),
    "request_timeout 408": _raw(_HEAD + b"content-length: 9\r\n\r\n{", _late),
    "overloaded 503": _raw(_HEAD + b"content-length: 9\r\n\r\n{", _crowd),
    "url_too_long 414": _asked(("GET", "/v1/models/" + "x" * MAX_URL, b"")),
    "header_too_large 431": _raw(_HEAD + b"x-long: " + b"x" * MAX_HEAD + b"\r\n\r\n"),
    "body_too_large 413": _asked(("POST", CHAT, b"x" * (MAX_BODY + 1))),
    "invalid_request 400": _asked(
        ("POST", CHAT, b"{"),
        ("POST", CHAT, {**BODY, "model": 7}),
        ("POST", CHAT, {**BODY, "messages": []}),
        ("POST", CHAT, {**BODY, "n": 0}),
    ),
    "invalid_api_key 401": _expired,
    "route_not_allowed 403": _asked(("POST", CHAT, BODY), routes=("embeddings",)),
    "tenant_suspended 403": _waiting(
        _then(lambda one: _tell(one, type="change", suspended=["t"])), priced=True
    ),
    "not_found 404": _asked(("POST", "/v1/nothing", {})),
    "model_not_found 404": _waiting(lambda one, _: one.world()),
    "method_not_allowed 405": _asked(("GET", CHAT, b""), ("POST", "/v1/models", b"")),
    "task_not_served 400": _asked(("POST", "/v1/embeddings", {"model": "m", "input": "x"})),
    "too_many_inquiries 429": lambda stage: _many_questions(stage, 1),
    "usage_busy 503": lambda stage: _many_questions(stage, AT_ONCE // TENANT_AT_ONCE),
    "usage_unavailable 503": _usage_away,
    "held_queue_full 429": _share,
    "held_queue_full 503": _full,
    "internal_error 500": _fault,
    "engine_error 502": _waiting(_engine(None, "another's guard")),
    "engine_failed 502": _waiting(_engine("refuse")),
    "engine_broke_off 502": _broken_off,
    "passed-on 500": _waiting(_engine("http500")),
    "model_start_failed 503": _waiting(_world(start_id="9", failure=FAILURE)),
    "model_not_ready 503": _waiting(
        lambda one, _: None,
        msgspec.structs.replace(HASTY, hold_seconds=1, non_stream_hold_seconds=1),
    ),
    "model_suspended 503": _waiting(_world(suspend=True)),
    "model_not_priced 503": _waiting(
        lambda one, _: None,
        msgspec.structs.replace(HASTY, hold_seconds=1, non_stream_hold_seconds=1), priced=True,
    ),
    "stopping 503": _waiting(lambda one, _: one.gate.stop()),
    "metering_unavailable 503": _no_disk,
    "tenants_unknown 503": _keys_unknown,
    "too_many_streams 503": _streams,
    "credit_unknown 503": _unpaid,
}  # fmt: skip
