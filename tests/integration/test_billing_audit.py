"""The audit log: a row for every change, in its transaction, and no tampering that is not found."""

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import management
from management import Management
from tidegate_operator.cli.app import run

MODEL = {
    "deployment": "d/m",
    "model": "m",
    "owner": "owner-a",
    "pricing": {"currency": "USD", "inputPerMillion": "0.10", "outputPerMillion": "0.40"},
}


@pytest.fixture
def billing(tmp_path: Path) -> Iterator[Management]:
    with management.running(tmp_path) as one:
        yield one


def rows(billing: Management, **query: str) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = billing.get("/audit", **query)["data"]
    return data


def put_models(billing: Management, *models: dict[str, Any]) -> None:
    headers = {"authorization": f"Bearer {management.INTERNAL_TOKEN}"}
    httpx.put(billing.url + "/internal/models", json=models, headers=headers).raise_for_status()


def test_every_change_is_a_row(billing: Management) -> None:
    billing.post("/organizations", {"name": "o"})
    billing.post("/tenants", {"name": "t", "organization": "o"})
    billing.admin.patch("/api/v1/organizations/o", json={"display_name": "O"})
    billing.admin.patch("/api/v1/tenants/t", json={"suspended": True})
    key = billing.post("/keys", {"tenant": "t", "name": "ci"}, idempotency_key="k")
    billing.post("/keys", {"tenant": "t", "name": "ci"}, idempotency_key="k")
    billing.admin.patch(f"/api/v1/keys/{key['id']}", json={"routes": ["chat"]})
    billing.admin.patch(f"/api/v1/keys/{key['id']}", json={"routes": ["chat"]})  # no change
    new = billing.post(f"/keys/{key['id']}/rotate", {"overlap_seconds": 60})
    project = billing.get("/projects", tenant="t")["data"][0]["id"]
    billing.admin.patch(f"/api/v1/projects/{project}", json={"display_name": "P"})
    account = billing.post("/service-accounts", {"name": "x", "role": "owner", "tenant": "t"})
    billing.post(f"/service-accounts/{account['id']}/rotate", {"overlap_seconds": 60})
    with billing.bearer(account["token"]) as robot:
        robot.delete(f"/api/v1/keys/{new['id']}").raise_for_status()
    billing.admin.delete(f"/api/v1/service-accounts/{account['id']}").raise_for_status()
    put_models(billing, MODEL)
    put_models(billing, MODEL)
    put_models(billing, {**MODEL, "pricing": None})
    told = rows(billing)
    assert [(row["actor"], row["action"]) for row in told] == [
        ("admin", "organization.create"),
        ("admin", "tenant.create"),
        ("admin", "organization.update"),
        ("admin", "tenant.update"),
        ("admin", "project.create"),
        ("admin", "key.create"),
        ("admin", "key.update"),
        ("admin", "key.rotate"),
        ("admin", "key.update"),
        ("admin", "project.update"),
        ("admin", "service_account.create"),
        ("admin", "service_account.rotate"),
        (account["id"], "key.revoke"),
        ("admin", "service_account.disable"),
        ("operator", "tenant.create"),
        ("operator", "price.set"),
        ("operator", "price.set"),
    ]
    suspended = told[3]
    assert (suspended["before"]["suspended"], suspended["after"]["suspended"]) == (False, True)
    assert (suspended["tenant"], suspended["organization"]) == ("t", "o")
    assert told[-1]["before"]["input_per_million"] == "0.1"
    assert told[-1]["after"]["currency"] == ""
    text = json.dumps(told)
    for secret in (key["key"], new["key"], account["token"]):
        assert secret not in text
    assert [row["seq"] for row in told] == list(range(1, 18))
    assert len(rows(billing, tenant="t")) == 12
    assert len(rows(billing, actor="operator", action="price.set")) == 2
    assert {row["object_id"] for row in rows(billing, object_id=key["id"])} == {key["id"]}
    page = billing.get("/audit", limit="5", after="4")
    assert ([row["seq"] for row in page["data"]], page["has_more"]) == ([5, 6, 7, 8, 9], True)
    assert billing.get("/audit/head") == {"seq": 17, "hash": told[-1]["hash"]}
    wrong = billing.admin.get("/api/v1/audit?after=x").json()
    assert wrong["param"] == "after"


def test_what_fails_leaves_no_row(billing: Management) -> None:
    billing.post("/tenants", {"name": "t"})
    assert billing.admin.post("/api/v1/tenants", json={"name": "t"}).status_code == 409
    assert billing.admin.patch("/api/v1/tenants/t", json={}).status_code == 200
    wrong = billing.admin.patch("/api/v1/tenants/t", json={"organization": "nobody"})
    assert wrong.status_code == 404
    assert len(rows(billing)) == 1


class CommandLine:
    """`tidegate` on one billing, in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str]:
        """The exit status, and what was printed on both outputs."""
        try:
            status = run(list(arguments))
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        shown = self._capsys.readouterr()
        return status, shown.out + shown.err


@pytest.fixture
def tidegate(
    billing: Management, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> CommandLine:
    for name in [name for name in os.environ if name.startswith("TIDEGATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TIDEGATE_ADMIN_URL", billing.url)
    monkeypatch.setenv("TIDEGATE_ADMIN_TOKEN", management.ADMIN_TOKEN)
    return CommandLine(capsys)


def test_tampering_with_the_database_is_found(billing: Management, tidegate: CommandLine) -> None:
    for number in range(6):
        billing.post("/tenants", {"name": f"t{number}"})
    head = billing.get("/audit/head")["hash"]
    assert tidegate("audit", "verify") == (0, f"OK 6 rows, head {head}\n")
    status, shown = tidegate("audit", "verify", "--since-head", head, "--json")
    assert (status, json.loads(shown)["ok"]) == (0, True)
    raw = sqlite3.connect(billing.database, isolation_level=None)
    for statement in (
        "DELETE FROM audit WHERE seq = 6",
        "UPDATE audit SET actor = 'nobody' WHERE seq = 3",
        "INSERT OR REPLACE INTO audit SELECT * FROM audit WHERE seq = 3",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            raw.execute(statement)
    for name in ("audit_never_edited", "audit_never_deleted", "audit_only_grows"):
        raw.execute(f"DROP TRIGGER {name}")

    @contextlib.contextmanager
    def tampered(*statements: str) -> Iterator[None]:
        raw.execute("CREATE TEMP TABLE kept AS SELECT * FROM audit")
        for statement in statements:
            raw.execute(statement)
        yield
        raw.execute("DELETE FROM audit")
        raw.execute("INSERT INTO audit SELECT * FROM kept")
        raw.execute("DROP TABLE kept")

    with tampered("UPDATE audit SET actor = 'nobody' WHERE seq = 3"):
        status, said = tidegate("audit", "verify")
        assert (status, "row 3 was changed" in said) == (1, True)
    edit = """UPDATE audit SET after = replace("after", 'UTC', 'GMT') WHERE seq = 4"""
    with tampered(edit):
        status, shown = tidegate("audit", "verify", "--json")
        broken = json.loads(shown.splitlines()[0])
        assert (status, broken["ok"], broken["rows"]) == (1, False, 3)
        assert "row 4 was changed" in broken["broken"]
    for text in ("x", "[]"):
        with tampered(f"UPDATE audit SET after = '{text}' WHERE seq = 4"):
            assert "row 4 was changed" in tidegate("audit", "verify")[1]
    with tampered("UPDATE audit SET at = 'noon' WHERE seq = 4"):
        status, said = tidegate("audit", "verify")
        assert (status, said.count("\n"), "is no row" in said) == (1, 1, True)
    with tampered("DELETE FROM audit WHERE seq = 2"):
        assert "row 2 is missing" in tidegate("audit", "verify")[1]
    with tampered(
        "UPDATE audit SET seq = 99 WHERE seq = 2",
        "UPDATE audit SET seq = 2 WHERE seq = 3",
        "UPDATE audit SET seq = 3 WHERE seq = 99",
    ):
        assert "row 2 does not follow" in tidegate("audit", "verify")[1]
    with tampered("DELETE FROM audit WHERE seq > 4"):
        assert tidegate("audit", "verify")[0] == 0
        status, said = tidegate("audit", "verify", "--since-head", head)
        assert status == 1
        assert "cut off" in said
    assert tidegate("audit", "verify", "--since-head", head)[0] == 0
    assert tidegate("audit", "verify", "--since-head", "xyz")[0] == 2
    status, shown = tidegate("audit", "list", "--tenant", "t3", "--json")
    assert [row["object_id"] for row in json.loads(shown)["data"]] == ["t3"]
    raw.close()
