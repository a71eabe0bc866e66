"""Budgets and webhooks through the API: the real process, both databases, and a real receiver."""

import datetime as dt
import json
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from sqlalchemy import Connection, insert, text

from billing_process import ADMIN, Billing
from ledgers import Ledgers
from receivers import Receiver, receiving
from running import wait_for
from tidegate_billing import api, app, budgets, money, watch
from tidegate_billing.budgeting import spent
from tidegate_billing.budgeting.tables import BUDGET_SPENT
from tidegate_billing.database import connect
from tidegate_billing.destinations import Policy
from tidegate_billing.links import ModelPricing, UsageBatch
from tidegate_billing.service import Service
from tidegate_billing.settings import SettingError
from tidegate_billing.snapshot import Snapshots
from tidegate_billing.tables import TENANT
from tidegate_billing.usage import Usage, uuid7

MODEL = ModelPricing(deployment="d/m", model="m", owner="o")
BOOK = {
    "name": "list", "currency": "USD", "effectiveFrom": "2026-01-01T00:00:00Z",
    "entries": [{"model": "m", "prices": {"input": "1", "output": "0"}}],
}  # fmt: skip
ZONE = "America/St_Johns"
WITHOUT_WAITING = "UPDATE webhook_delivery SET due = 1 WHERE state = 'waiting'"


@pytest.fixture
def billing(ledgers: Ledgers, tmp_path: Path) -> Iterator[Billing]:
    made = Billing(tmp_path, ledgers.url(), ledgers.server)
    made.flags = ["--webhook-destinations", "local"]
    try:
        made.start()
        made.put("/internal/models", [MODEL])
        call(made, "POST", "/price-books", 201, json=BOOK)
        made.key(tenant="acme", project="web")
        call(made, "PATCH", "/tenants/acme", json={"time_zone": ZONE})
        yield made
    finally:
        made.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def ask(billing: Billing, method: str, path: str, **more: Any) -> httpx.Response:
    headers = {**ADMIN, **more.pop("headers", {})}
    return httpx.request(method, billing.url("/api/v1" + path), headers=headers, **more)


def call(
    billing: Billing, method: str, path: str, status: int = 200, **more: Any
) -> dict[str, Any]:
    answer = ask(billing, method, path, **more)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def budget(billing: Billing, **more: Any) -> dict[str, Any]:
    wanted = {"tenant": "acme", "period": "month", "limit": "1", **more}
    return call(billing, "POST", "/budgets", 201, json=wanted)


def endpoint(billing: Billing, receiver: Receiver, **more: Any) -> dict[str, Any]:
    wanted = {"tenant": "acme", "url": receiver.url(), **more}
    made = call(billing, "POST", "/webhook-endpoints", 201, json=wanted)
    receiver.secrets.append(made["secret"])
    return made


def usage(*tokens: int, at: int | None = None, **more: Any) -> list[Usage]:
    fields: dict[str, Any] = {"tenant": "acme", "project": "web", "key_id": "k", **more}
    return [
        Usage(
            attempt_id=uuid7() if at is None else uuid7(at * 1000), kind="settlement",
            request_id="r", model="m", deployment="d/m", endpoint="chat", started_at=1,
            prompt_tokens=count, outcome="completed", source="engine", billed=True, **fields,
        )
        for count in tokens
    ]  # fmt: skip


def send(billing: Billing, *events: Usage, journal: str = "j") -> None:
    batch = UsageBatch(journal=journal, first=1, last=len(events), events=list(events))
    billing.send(batch)


def told(receiver: Receiver) -> list[int]:
    return sorted(body["data"]["threshold"] for body in receiver.bodies)


def test_alerts_come_once_whatever_comes_together_and_again(
    billing: Billing, receiver: Receiver
) -> None:
    endpoint(billing, receiver)
    made = budget(billing, period="total")
    batches = [usage(*[1000] * 20) for _ in range(60)]
    with ThreadPoolExecutor(8) as pool:
        jobs = [
            pool.submit(send, billing, *batch, journal=f"j{number}")
            for number, batch in enumerate([*batches, *batches])
        ]
        for job in jobs:
            job.result()
    wait_for(lambda: told(receiver) == [50, 80, 100], "three alerts came")
    billing.end(signal.SIGKILL)
    billing.start()
    for batch in batches:
        send(billing, *batch)
    state = call(billing, "GET", f"/budgets/{made['id']}")
    assert (state["spent"], state["left"], state["reached"]) == ("1.2", "-0.2", [50, 80, 100])
    assert state["window"] == {"start": "1970-01-01T00:00:00Z", "end": None}
    listed = call(billing, "GET", "/webhook-messages")["data"]
    assert [one["body"]["data"]["threshold"] for one in listed] == [50, 80, 100]
    wait_for(
        lambda: not call(billing, "GET", "/webhook-deliveries?state=waiting")["data"], "all is sent"
    )
    assert set(receiver.ids) == {one["id"] for one in listed}
    assert receiver.refused == []


def test_windows_follow_the_zone_at_a_months_end(billing: Billing) -> None:
    now = int(dt.datetime.now(dt.UTC).timestamp()) * 1_000_000
    month = budgets.window("month", ZONE, now)
    made = budget(billing)
    utc = budget(billing, time_zone="UTC", thresholds=[])
    send(billing, *usage(1000, at=month.start), *usage(20_000, at=month.start - 1000))
    state = call(billing, "GET", f"/budgets/{made['id']}")
    assert state["spent"] == "0.001"
    shown = dt.datetime.fromtimestamp(month.start // 1_000_000, dt.UTC)
    assert state["window"]["start"] == shown.strftime("%Y-%m-%dT%H:%M:%SZ")
    utc_start = budgets.window("month", "UTC", now).start
    expected = "0.021" if utc_start < month.start else "0"
    assert call(billing, "GET", f"/budgets/{utc['id']}")["spent"] == expected
    call(billing, "PATCH", f"/budgets/{utc['id']}", json={"time_zone": None})
    assert call(billing, "GET", f"/budgets/{utc['id']}")["spent"] == "0.001"
    call(billing, "PATCH", "/tenants/acme", json={"time_zone": "UTC"})
    assert call(billing, "GET", f"/budgets/{made['id']}")["spent"] == expected


def test_a_limit_that_is_lowered_and_a_budget_over_usage_tell_at_once(
    billing: Billing, receiver: Receiver
) -> None:
    endpoint(billing, receiver)
    send(billing, *usage(600_000))
    made = budget(billing, limit="10")
    path = f"/budgets/{made['id']}"
    tag = ask(billing, "GET", path).headers["etag"]
    assert call(billing, "GET", path)["reached"] == []
    low = call(billing, "PATCH", path, json={"limit": "0.7"}, headers={"if-match": tag})
    assert (low["limit"], low["thresholds"]) == ("0.7", [50, 80, 100])
    wait_for(lambda: told(receiver) == [50, 80], "the lowered limit was told")
    call(billing, "PATCH", path, 412, json={"limit": "1"}, headers={"if-match": tag})
    other = budget(billing, limit="0.1", scope="project", subject="web")
    wait_for(lambda: len(receiver.bodies) == 5, "the new budget was told")
    assert {body["data"]["scope"] for body in receiver.bodies[2:]} == {"project"}
    call(billing, "DELETE", f"/budgets/{other['id']}")
    call(billing, "GET", f"/budgets/{other['id']}", 404)
    assert [one["id"] for one in call(billing, "GET", "/budgets?tenant=acme")["data"]] == [
        made["id"]
    ]
    rows = call(billing, "GET", "/audit?tenant=acme")["data"]
    changes = [row for row in rows if row["object_type"] == "budget"]
    assert [row["action"] for row in changes] == [
        "budget.create", "budget.update", "budget.create", "budget.delete",
    ]  # fmt: skip
    assert (changes[1]["before"]["limit"], changes[1]["after"]["limit"]) == ("10", "0.7")


@pytest.mark.parametrize(
    ("wrong", "status", "param"),
    [
        ({"tenant": "nobody"}, 404, "tenant"),
        ({"scope": "project"}, 400, "subject"),
        ({"scope": "project", "subject": "nothing"}, 400, "subject"),
        ({"scope": "key", "subject": "key_of_nobody"}, 400, "subject"),
        ({"scope": "tenant", "subject": "other"}, 400, "subject"),
        ({"period": "hour"}, 400, "period"),
        ({"limit": "-1"}, 400, "limit"),
        ({"limit": "1e3"}, 400, "limit"),
        ({"currency": "usd"}, 400, "currency"),
        ({"time_zone": "Mars/Olympus"}, 400, "time_zone"),
        ({"thresholds": [80, 50]}, 400, "thresholds"),
        ({"thresholds": [0]}, 400, "thresholds"),
    ],
)
@pytest.mark.parametrize("ledgers", ["sqlite"], indirect=True)
def test_a_budget_that_cannot_be_is_refused(
    billing: Billing, wrong: dict[str, Any], status: int, param: str
) -> None:
    wanted = {"tenant": "acme", "period": "day", "limit": "1", **wrong}
    problem = call(billing, "POST", "/budgets", status, json=wanted)
    assert param in (problem["param"] or problem["detail"]), problem


def test_a_secret_is_shown_once_signs_and_is_changed_without_a_gap(
    billing: Billing, receiver: Receiver
) -> None:
    wanted = {"tenant": "acme", "url": receiver.url(), "description": "ours"}
    again = {"idempotency-key": "once"}
    made, repeated = (
        call(billing, "POST", "/webhook-endpoints", 201, json=wanted, headers=again)
        for _ in range(2)
    )
    assert made == repeated
    receiver.secrets = [made["secret"]]
    path = f"/webhook-endpoints/{made['id']}"
    call(billing, "POST", path + "/test", 201)
    wait_for(lambda: receiver.came == 1, "the test message came")
    assert receiver.bodies[0]["type"] == "webhook.test"
    turned = call(billing, "POST", path + "/rotate", 201, json={"overlap_seconds": 3600})
    assert turned["secret"] != made["secret"]
    call(billing, "POST", path + "/test", 201)
    wait_for(lambda: receiver.came == 2, "the old secret still signs")
    receiver.secrets = [turned["secret"]]
    call(billing, "POST", path + "/test", 201)
    wait_for(lambda: receiver.came == 3, "the new one signs, too")
    last = call(billing, "POST", path + "/rotate", 201, json={"overlap_seconds": 0})
    assert last["old_secrets_until"] is None
    call(billing, "POST", path + "/test", 201)
    wait_for(lambda: len(receiver.refused) == 1, "no old secret signs any more")
    shown = [
        call(billing, "GET", path), call(billing, "GET", "/webhook-endpoints"),
        call(billing, "GET", "/audit?tenant=acme"), call(billing, "DELETE", path),
    ]  # fmt: skip
    assert not [word for word in ("whsec_", last["secret"]) if word in json.dumps(shown)]
    assert last["secret"].encode() not in (billing.directory / "log").read_bytes()
    assert billing.query("SELECT secrets FROM webhook_endpoint") == [["[]"]]


def test_deliveries_are_logged_put_off_replayed_and_ended(
    billing: Billing, receiver: Receiver
) -> None:
    receiver.answer = lambda number: {1: 500, 2: 200, 3: 200}.get(number, 410)
    made = endpoint(billing, receiver, events=["budget.threshold_reached"])
    path = f"/webhook-endpoints/{made['id']}"
    budget(billing, limit="0.001", thresholds=[100])
    send(billing, *usage(2000))

    def deliveries(state: str) -> list[dict[str, Any]]:
        found = call(billing, "GET", f"/webhook-deliveries?endpoint={made['id']}&state={state}")
        return [one for one in found["data"] if one["tries"]]

    wait_for(lambda: deliveries("waiting"), "it was tried once")
    (first,) = deliveries("waiting")
    assert first["next_try_at"] > first["created_at"]
    _execute(billing, WITHOUT_WAITING)
    wait_for(lambda: deliveries("delivered"), "it was tried again")
    logged = call(billing, "GET", f"/webhook-deliveries/{first['id']}")
    assert [(line["status"], line["state"]) for line in logged["log"]] == [
        (500, "waiting"), (200, "delivered"),
    ]  # fmt: skip
    again = call(billing, "POST", f"/webhook-deliveries/{first['id']}/replay", 201)
    assert (again["by_hand"], again["message"]) == (True, first["message"])
    wait_for(lambda: len(deliveries("delivered")) == 2, "it was replayed")
    assert set(receiver.ids) == {first["message"]}
    call(billing, "POST", path + "/test", 201)
    wait_for(lambda: call(billing, "GET", path)["disabled_at"], "410 disabled it")
    assert call(billing, "GET", path)["disabled_reason"] == "answered 410"
    for refused in (path + "/test", f"/webhook-deliveries/{first['id']}/replay"):
        assert call(billing, "POST", refused, 409)["code"] == "endpoint_disabled"
    receiver.answer = lambda _number: 200
    assert call(billing, "PATCH", path, json={"disabled": False})["disabled_at"] is None
    call(billing, "POST", f"/webhook-deliveries/{first['id']}/replay", 201)
    wait_for(lambda: len(deliveries("delivered")) == 3, "it takes messages again")
    actions = call(billing, "GET", "/audit?tenant=acme&actor=system")["data"]
    assert [row["action"] for row in actions][-1:] == ["webhook_endpoint.disable"]


def _execute(billing: Billing, statement: str) -> None:
    if billing.server is not None:
        billing.query(statement)
        return
    import sqlite3

    path = billing.database_url.removeprefix("sqlite:///")
    connection = sqlite3.connect(path, timeout=10)
    with connection:
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize("ledgers", ["sqlite"], indirect=True)
def test_a_message_is_sent_after_a_kill_before_it_could_be(
    billing: Billing, receiver: Receiver
) -> None:
    receiver.answer = lambda _number: 503
    made = endpoint(billing, receiver)
    call(billing, "POST", f"/webhook-endpoints/{made['id']}/test", 201)
    wait_for(lambda: receiver.came == 1, "it was tried")
    billing.end(signal.SIGKILL)
    receiver.answer = lambda _number: 200
    _execute(billing, WITHOUT_WAITING)
    billing.start()
    wait_for(
        lambda: call(billing, "GET", "/webhook-deliveries?state=delivered")["data"], "it arrived"
    )
    assert len(set(receiver.ids)) == 1


@pytest.mark.parametrize("ledgers", ["sqlite"], indirect=True)
async def test_routers_are_told_of_hard_budgets_after_the_change_and_before_its_answer(
    ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[list[str]] = []
    database = connect(ledgers.url())
    service = Service(database, Snapshots(version=1), "admin-token", "i", {1: b"p"})
    told = service.lender.tell

    async def tell(tenants: Iterable[str] | None = None) -> int:
        hard = await database.read(lambda connection: spent.hard(connection, "acme"))
        noted.append([money.plain(one.limit) for one in hard])
        return await told(tenants)

    monkeypatch.setattr(service.lender, "tell", tell)
    transport = httpx.ASGITransport(api.build(service))
    url = "http://billing/api/v1"
    async with httpx.AsyncClient(transport=transport, base_url=url, headers=ADMIN) as client:

        async def change(method: str, path: str, status: int, **body: Any) -> dict[str, Any]:
            answer = await client.request(method, path, json=body)
            assert answer.status_code == status, answer.text
            found: dict[str, Any] = answer.json()
            return found

        await change("POST", "/tenants", 201, name="acme")
        wanted: dict[str, Any] = {"tenant": "acme", "period": "day", "limit": "1"}
        soft = await change("POST", "/budgets", 201, **wanted)
        assert noted == []
        hard = await change("POST", "/budgets", 201, **wanted, hard=True)
        assert noted == [["1"]]
        await change("PATCH", f"/budgets/{soft['id']}", 200, limit="2")
        await change("PATCH", f"/budgets/{hard['id']}", 200, limit="1")  # nothing is another
        assert len(noted) == 1
        await change("PATCH", f"/budgets/{hard['id']}", 200, limit="3")
        await change("PATCH", f"/budgets/{soft['id']}", 200, hard=True)
        await change("PATCH", f"/budgets/{soft['id']}", 200, hard=False)
        assert (await client.delete(f"/budgets/{hard['id']}")).status_code == 200
    assert noted == [["1"], ["3"], ["2", "3"], ["3"], []]
    await database.close()


@pytest.mark.parametrize("ledgers", ["sqlite"], indirect=True)
async def test_a_window_that_drifts_is_told_in_the_log(ledgers: Ledgers) -> None:
    database = connect(ledgers.url())
    service = Service(database, Snapshots(version=1), "a", "i", {1: b"p"})

    def damage(connection: Connection) -> None:
        connection.execute(insert(TENANT).values(id="acme", created_at=0))
        connection.execute(
            text(
                "INSERT INTO budget (id, tenant, scope, subject, kind, limit_nano, limit_atto,"
                " currency, thresholds, created) VALUES"
                " ('b', 'acme', 'tenant', 'acme', 'day', 1, 0, 'USD', '[]', 0)"
            )
        )
        connection.execute(
            insert(BUDGET_SPENT).values(budget="b", start=0, finish=99, units=1, atto=0)
        )

    await database.write(damage)
    with structlog.testing.capture_logs() as lines:
        await watch.check_budgets(service, 0)
        await watch.check_budgets(service, 200_000_000_000)
    assert [(line["event"], line["budget"]) for line in lines] == [("budget_drift", "b")]
    await database.close()


@pytest.mark.parametrize("ledgers", ["sqlite"], indirect=True)
def test_roles_and_reach(billing: Billing, receiver: Receiver) -> None:
    mine = budget(billing)["id"]
    hook = endpoint(billing, receiver)["id"]
    billing.key(tenant="other")
    accounts = {
        name: call(billing, "POST", "/service-accounts", 201, json={"name": name, **fields})
        for name, fields in {
            "billing": {"role": "billing", "tenant": "acme"},
            "viewer": {"role": "viewer", "tenant": "acme"},
            "foreign": {"role": "owner", "tenant": "other"},
        }.items()
    }

    def status(who: str, method: str, path: str, **more: Any) -> int:
        headers = {"authorization": f"Bearer {accounts[who]['token']}"}
        return ask(billing, method, path, headers=headers, **more).status_code

    new = {"tenant": "acme", "period": "day", "limit": "1"}
    for path in (f"/budgets/{mine}", f"/webhook-endpoints/{hook}"):
        assert [status(who, "GET", path) for who in accounts] == [200, 200, 404]
        assert [status(who, "PATCH", path, json={}) for who in accounts] == [200, 403, 404]
    assert [status(who, "POST", "/budgets", json=new) for who in accounts] == [201, 403, 404]
    for path in ("/budgets", "/webhook-endpoints", "/webhook-messages", "/webhook-deliveries"):
        assert [status(who, "GET", path) for who in accounts] == [200, 200, 200]
    assert call(billing, "GET", "/budgets")["data"]
    foreign = {"authorization": f"Bearer {accounts['foreign']['token']}"}
    assert call(billing, "GET", "/budgets", headers=foreign)["data"] == []


@pytest.mark.parametrize("ledgers", ["sqlite"], indirect=True)
def test_where_messages_may_go_is_a_setting(billing: Billing, receiver: Receiver) -> None:
    billing.end(signal.SIGTERM)
    billing.flags = []
    billing.start()
    for url in (
        receiver.url(), "https://127.0.0.1/", "https://169.254.169.254/", "ftp://x.test/",
        "https://u:p@x.test/", "https://10.0.0.1/", "x",
    ):  # fmt: skip
        wanted = {"tenant": "acme", "url": url}
        problem = call(billing, "POST", "/webhook-endpoints", 400, json=wanted)
        assert (problem["param"], "allowed" in problem["detail"]) == ("url", True), problem
    made = call(
        billing, "POST", "/webhook-endpoints", 201,
        json={"tenant": "acme", "url": f"https://localhost:{receiver.port}/"},
    )  # fmt: skip
    call(billing, "POST", f"/webhook-endpoints/{made['id']}/test", 201)
    path = f"/webhook-deliveries?endpoint={made['id']}"
    wait_for(lambda: call(billing, "GET", path)["data"][0]["tries"], "it was tried")
    name = call(billing, "GET", path)["data"][0]["id"]
    (line,) = call(billing, "GET", f"/webhook-deliveries/{name}")["log"]
    assert (line["status"], receiver.came) == (0, 0)
    assert "allowed: public addresses" in line["note"]


def test_a_policy_that_there_is_not_is_refused() -> None:
    values = {"KEY_PEPPER": "1:p", "ADMIN_TOKEN": "a", "INTERNAL_TOKEN": "i", "DATA": "/nowhere"}
    assert app.configure(values).destinations == Policy()
    local = app.configure({**values, "WEBHOOK_DESTINATIONS": "local"}).destinations
    assert local == Policy(private=True, loopback_http=True)
    with pytest.raises(SettingError, match=r"WEBHOOK_DESTINATIONS='all'.*public \| private"):
        app.configure({**values, "WEBHOOK_DESTINATIONS": "all"})
