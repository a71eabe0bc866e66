"""The router's side of tenants' questions: shares, deadlines, and whose fault an error is."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tidegate_billing.links import KeyView
from tidegate_runtime import account
from tidegate_runtime.account import AT_ONCE, TENANT_AT_ONCE, Account
from tidegate_runtime.errors import PlatformError, Refusal, TenantError
from tidegate_runtime.front import Incoming


class Gate:
    """What an account needs of a gate."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.heard_at = 0.0
        self.answers: list[object] = []

    def refuse(self, front: Any, incoming: Incoming, refusal: Refusal) -> None:
        self.answers.append((refusal.status, refusal.code))
        front.listener = None

    def send(self, front: Any, incoming: Incoming, body: bytes) -> None:
        self.answers.append(body)
        front.listener = None

    def fail(self, *args: object) -> None:
        self.answers.append("failed")


class Front:
    listener: Any = None


Answer = Callable[[httpx.Request], Any]


class Asking:
    """An account whose billing is a function."""

    def __init__(self, billing: Answer) -> None:
        self.gate = Gate()
        self.seen: list[dict[str, Any]] = []

        async def handle(request: httpx.Request) -> httpx.Response:
            self.seen.append(json.loads(request.content))
            found = billing(request)
            if asyncio.iscoroutine(found):
                found = await found
            assert isinstance(found, httpx.Response)
            return found

        self.client = httpx.AsyncClient(transport=httpx.MockTransport(handle))
        self.account = Account(self.gate, self.client, "http://billing")  # type: ignore[arg-type]

    def ask(
        self, tenant: str = "t", method: bytes = b"GET", routes: tuple[str, ...] | None = None
    ) -> Front:
        incoming, front = Incoming(), Front()
        incoming.method, incoming.path, incoming.query = method, "/v1/organization/costs", "a=b"
        key = KeyView(id="k", digest="", tenant=tenant, project="p", routes=routes)
        self.account.ask(front, incoming, key)  # type: ignore[arg-type]
        return front

    async def all(self) -> list[object]:
        while self.account.live:
            await asyncio.sleep(0.01)
        return self.gate.answers


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "PAUSE", 0.0)


async def for_ever(_: httpx.Request) -> httpx.Response:
    await asyncio.sleep(60)
    raise AssertionError


async def test_an_answer_is_passed_on_as_it_came_and_the_tenant_is_the_keys() -> None:
    asking = Asking(lambda _: httpx.Response(200, content=b'{"a": 1.0}'))
    asking.ask("acme")
    assert await asking.all() == [b'{"a": 1.0}']
    assert asking.seen == [{"tenant": "acme", "path": "/v1/organization/costs", "query": "a=b"}]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((400, {"error": {"message": "m", "code": "invalid_value", "param": "x"}}), (400, "invalid_value")),
        ((404, {"error": {"message": "m", "code": "not_found"}, "status": 404}), (404, "not_found")),
        ((404, {"error": {"message": "m", "code": "unknown_route"}}), (503, "usage_unavailable")),
        ((404, {"detail": "not ours"}), (503, "usage_unavailable")),
        ((401, {"error": {"message": "m", "code": "invalid_token"}}), (503, "usage_unavailable")),
        ((503, {"error": {"message": "m", "code": "ledger"}}), (503, "usage_unavailable")),
        ((500, "oops"), (503, "usage_unavailable")),
        ((302, ""), (503, "usage_unavailable")),
    ],
)  # fmt: skip
async def test_only_what_is_the_callers_to_know_is_passed_on(
    answer: tuple[int, Any], told: tuple[int, str]
) -> None:
    asking = Asking(lambda _: httpx.Response(answer[0], json=answer[1]))
    asking.ask()
    assert await asking.all() == [told]


async def test_billing_that_is_away_or_silent_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    away = Asking(refuse)
    away.ask()
    assert await away.all() == [(503, "usage_unavailable")]
    monkeypatch.setattr(account, "SECONDS", 0.05)
    silent = Asking(for_ever)
    silent.ask()
    assert await silent.all() == [(503, "usage_unavailable")]


async def test_a_fault_of_ours_ends_the_one_question() -> None:
    def broken(_: httpx.Request) -> httpx.Response:
        raise KeyError("a bug")

    asking = Asking(broken)
    asking.ask()
    assert await asking.all() == ["failed"]


async def test_a_tenant_asks_one_after_the_other_and_holds_up_no_other() -> None:
    first = asyncio.Event()

    async def slow(request: httpx.Request) -> httpx.Response:
        if b"greedy" in request.content:
            await first.wait()
        return httpx.Response(200, content=b"x")

    asking = Asking(slow)
    for _ in range(3):
        asking.ask("greedy")
    asking.ask("other")
    await asyncio.sleep(0.05)
    assert [one["tenant"] for one in asking.seen] == ["greedy", "other"]
    assert asking.gate.answers == [b"x"]
    first.set()
    assert len(await asking.all()) == 4


async def test_each_tenant_has_a_share_and_all_have_a_limit() -> None:
    asking = Asking(for_ever)
    fronts = [asking.ask("greedy") for _ in range(TENANT_AT_ONCE)]
    with pytest.raises(TenantError) as caught:
        asking.ask("greedy")
    assert (caught.value.status, caught.value.retry_after) == (429, 1)
    fronts += [asking.ask(f"t{n}") for n in range(AT_ONCE - TENANT_AT_ONCE)]
    with pytest.raises(PlatformError) as busy:
        asking.ask("one more")
    assert (busy.value.status, busy.value.code) == (503, "usage_busy")
    for front in fronts:
        front.listener.client_gone()
        front.listener = None
    assert await asking.all() == []


async def test_who_asks_in_a_row_is_slowed_down_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "PAUSE", 0.1)
    monkeypatch.setattr(account, "_KNOWN", 2)
    asking = Asking(lambda _: httpx.Response(200, content=b"x"))
    begun = asking.gate.loop.time()
    for _ in range(3):
        asking.ask("a")
    asking.ask("b")
    await asyncio.sleep(0.05)
    assert sorted(one["tenant"] for one in asking.seen) == ["a", "b"]
    assert len(await asking.all()) == 4
    assert asking.gate.loop.time() - begun >= 0.2
    asking.ask("c")
    assert len(await asking.all()) == 5


async def test_only_get_is_taken() -> None:
    asking = Asking(for_ever)
    with pytest.raises(TenantError) as caught:
        asking.ask(method=b"POST")
    assert caught.value.status == 405
    assert not asking.account.live


async def test_a_key_that_names_its_routes_has_to_name_usage() -> None:
    asking = Asking(lambda _: httpx.Response(200, content=b"x"))
    with pytest.raises(TenantError) as caught:
        asking.ask(routes=("chat", "embeddings"))
    assert (caught.value.status, caught.value.code) == (403, "route_not_allowed")
    asking.ask(routes=("chat", "usage"))
    assert await asking.all() == [b"x"]


async def test_a_gate_is_opened_and_closed() -> None:
    gate: Any = Gate()
    async with account.opened(gate, "http://127.0.0.1:9", "token"):
        assert isinstance(gate.account, Account)
