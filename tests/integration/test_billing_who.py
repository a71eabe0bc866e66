"""Organizations, tenants, projects, keys and service accounts over the real process."""

import concurrent.futures
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, select

import management
from management import Management
from tidegate_billing import accounts, database, migrate
from tidegate_billing.tables import API_KEY


@pytest.fixture(scope="module")
def billing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Management]:
    with management.running(tmp_path_factory.mktemp("who"), "1:old,2:new") as one:
        yield one


def refused(answer: httpx.Response, status: int, code: str, param: str | None = None) -> str:
    """A problem document, which holds the older shape too; its sentence."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["code"], problem["param"]) == (status, code, param)
    assert problem["type"] == f"urn:tidegate:problem:{code}"
    assert problem["title"]
    older = problem["error"]
    assert (older["message"], older["code"]) == (problem["detail"], code)
    assert older["param"] == param
    assert older["type"]
    return str(problem["detail"])


def later(**delta: float) -> str:
    return (datetime.now(UTC) + timedelta(**delta)).isoformat()


def test_an_organization_its_tenant_and_its_project(billing: Management) -> None:
    made = billing.post("/organizations", {"name": "acme", "display_name": "Acme Inc."})
    assert made == billing.get("/organizations/acme")
    refused(
        billing.admin.post("/api/v1/organizations", json={"name": "acme"}),
        409, "organization_exists", "name",
    )  # fmt: skip
    tenant = billing.post("/tenants", {"name": "acme-a", "organization": "acme"})
    assert (tenant["organization"], tenant["time_zone"], tenant["suspended"]) == (
        "acme", "UTC", False,
    )  # fmt: skip
    plain = billing.post("/tenants", {"name": "plain"})
    assert plain["organization"] == "default"
    path = "/api/v1/tenants/acme-a"
    change = {"display_name": "A", "time_zone": "Europe/Berlin"}
    changed = billing.admin.patch(path, json=change).json()
    assert (changed["display_name"], changed["time_zone"]) == ("A", "Europe/Berlin")
    wrong = billing.admin.patch(path, json={"time_zone": "Mars/Olympus"})
    assert "IANA" in refused(wrong, 400, "invalid_value", "time_zone")
    for missing in ("/tenants/nobody", "/organizations/nobody", "/projects/x", "/keys/x"):
        kind = missing.split("/")[1].removesuffix("s")
        refused(billing.admin.get("/api/v1" + missing), 404, f"{kind}_not_found", "id")
    only = billing.get("/tenants", organization="acme")["data"]
    assert [one["id"] for one in only] == ["acme-a"]

    project = billing.post("/projects", {"tenant": "acme-a", "name": "web"})
    body = {"tenant": "acme-a", "name": "web"}
    refused(billing.admin.post("/api/v1/projects", json=body), 409, "project_exists", "name")
    key = billing.post("/keys", {"tenant": "acme-a", "project": "web"})
    one = f"/api/v1/projects/{project['id']}"
    stuck = billing.admin.patch(one, json={"archived": True})
    refused(stuck, 409, "project_has_keys", "archived")
    billing.admin.delete(f"/api/v1/keys/{key['id']}").raise_for_status()
    assert billing.admin.patch(one, json={"archived": True}).json()["archived"] is True
    again = billing.admin.post("/api/v1/keys", json={"tenant": "acme-a", "project": "web"})
    refused(again, 409, "project_archived", "project")
    assert billing.get("/projects", tenant="acme-a")["data"] == []
    assert len(billing.get("/projects", tenant="acme-a", archived="true")["data"]) == 1


def test_an_etag_guards_a_change(billing: Management) -> None:
    billing.post("/tenants", {"name": "guarded"})
    path = "/api/v1/tenants/guarded"
    first = billing.admin.get(path).headers["etag"]
    assert first.startswith('"')
    done = billing.admin.patch(path, json={"display_name": "x"}, headers={"if-match": first})
    assert done.status_code == 200
    assert done.headers["etag"] == billing.admin.get(path).headers["etag"] != first
    for stale in (first, f"W/{done.headers['etag']}", '"x", "y"'):
        headers = {"if-match": stale}
        late = billing.admin.patch(path, json={"display_name": "y"}, headers=headers)
        refused(late, 412, "changed_meanwhile", "If-Match")
    for good in (f'"x", {done.headers["etag"]}', "*"):
        headers = {"if-match": good}
        assert billing.admin.patch(path, json={}, headers=headers).status_code == 200
    key = billing.post("/keys", {"tenant": "guarded"})
    one = f"/api/v1/keys/{key['id']}"
    seen = billing.admin.get(one).headers["etag"]
    refused(
        billing.admin.delete(one, headers={"if-match": '"9"'}), 412, "changed_meanwhile", "If-Match"
    )
    assert billing.admin.delete(one, headers={"if-match": seen}).status_code == 200


def test_a_scoped_key(billing: Management) -> None:
    ends = later(days=1)
    scope = {
        "models": ["qwen-*", "llama"],
        "routes": ["chat"],
        "limits": {"requests_per_minute": 60, "tokens_per_minute": None, "max_concurrency": 2},
        "expires_at": ends,
    }
    made = billing.post("/keys", {"tenant": "scoped", **scope})
    shown = billing.get(f"/keys/{made['id']}")
    assert {name: shown[name] for name in ("models", "routes", "limits")} == {
        name: scope[name] for name in ("models", "routes", "limits")
    }
    assert shown["expires_at"][:19] == ends[:19]
    assert (shown["pepper_version"], shown["pepper_outdated"]) == (2, False)
    assert "key" not in shown
    changed = billing.admin.patch(
        f"/api/v1/keys/{made['id']}", json={"models": None, "expires_at": None, "name": "ci"}
    ).json()
    assert (changed["models"], changed["expires_at"], changed["routes"]) == (None, None, ["chat"])
    for field, value, said in (
        ("models", [], "allowed: 1 to 100"),
        ("models", ["a b"], "without spaces"),
        ("routes", ["chats"], "allowed: some of chat"),
        ("expires_at", later(seconds=-5), "allowed: a time to come"),
        ("expires_at", "2030-01-01T00:00:00", ""),
        ("limits.max_concurrency", {"max_concurrency": 0}, ">= 1"),
    ):
        body = {"tenant": "scoped", field.partition(".")[0]: value}
        answer = billing.admin.post("/api/v1/keys", json=body)
        assert said in refused(answer, 400, "invalid_value", field)


def test_a_rotated_key_ends_by_itself(billing: Management) -> None:
    old = billing.post("/keys", {"tenant": "turning", "models": ["m"], "name": "ci"})
    path = f"/keys/{old['id']}/rotate"
    new = billing.post(path, {"overlap_seconds": 2})
    assert new["key"] != old["key"]
    assert (new["rotated_from"], new["models"], new["name"]) == (old["id"], ["m"], "ci")
    ids = [key["id"] for key in billing.get("/keys", tenant="turning")["data"]]
    assert ids == [old["id"], new["id"]]
    deadline = time.monotonic() + 10
    while len(billing.get("/keys", tenant="turning")["data"]) == 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert billing.get("/keys", tenant="turning")["data"][0]["id"] == new["id"]
    expired = billing.admin.post("/api/v1" + path, json={"overlap_seconds": 1})
    refused(expired, 409, "key_expired", "id")
    last = billing.post(f"/keys/{new['id']}/rotate", {"overlap_seconds": 0})
    gone = billing.get(f"/keys/{new['id']}")
    assert gone["revoked_at"] is not None
    refused(
        billing.admin.patch(f"/api/v1/keys/{new['id']}", json={"name": "x"}),
        409, "key_revoked", "id",
    )  # fmt: skip
    ending = billing.post("/keys", {"tenant": "turning", "expires_at": later(hours=1)})
    after = billing.post(f"/keys/{ending['id']}/rotate", {"overlap_seconds": 7200})
    assert after["rotated_from_until"] == ending["expires_at"] == after["expires_at"]
    assert billing.get("/keys", tenant="turning", revoked="true")["data"][0]["id"] == old["id"]
    assert last["id"] in str(billing.get("/keys", tenant="turning"))


def test_a_post_that_is_sent_again(billing: Management) -> None:
    body = {"tenant": "again", "name": "ci"}
    first = billing.admin.post(
        "/api/v1/keys", json=body, headers={"idempotency-key": "a-key-of-mine"}
    )
    second = billing.admin.post(
        "/api/v1/keys", json=body, headers={"idempotency-key": "a-key-of-mine"}
    )
    assert first.json() == second.json()
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.headers["etag"] == second.headers["etag"]
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert len(billing.get("/keys", tenant="again")["data"]) == 1
    other = billing.admin.post(
        "/api/v1/keys", json={"tenant": "again"}, headers={"idempotency-key": "a-key-of-mine"}
    )
    refused(other, 422, "idempotency_key_reused", "Idempotency-Key")
    wrong = billing.admin.post("/api/v1/keys", json=body, headers={"idempotency-key": "x" * 256})
    refused(wrong, 400, "invalid_value", "Idempotency-Key")

    def at_once(_number: int) -> httpx.Response:
        return httpx.post(
            billing.url + "/api/v1/keys", json={"tenant": "at-once"},
            headers={"idempotency-key": "shared", **dict(billing.admin.headers)},
        )  # fmt: skip

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(at_once, range(8)))
    assert len({answer.json()["key"] for answer in answers}) == 1
    assert len(billing.get("/keys", tenant="at-once")["data"]) == 1
    stored = billing.database.read_bytes() + Path(f"{billing.database}-wal").read_bytes()
    for secret in (first.json()["key"], answers[0].json()["key"], "a-key-of-mine"):
        assert secret.encode() not in stored
        assert secret not in billing.log.read_text()


def test_an_error_is_not_kept(billing: Management) -> None:
    headers = {"idempotency-key": "error-first"}
    body = {"tenant": "not-yet", "name": "web"}
    for _ in range(2):
        missing = billing.admin.post("/api/v1/projects", json=body, headers=headers)
        refused(missing, 404, "tenant_not_found", "tenant")
    billing.post("/tenants", {"name": "not-yet"})
    made = billing.admin.post("/api/v1/projects", json=body, headers=headers)
    assert made.status_code == 201


def test_service_accounts_act_in_their_place_and_by_their_role(billing: Management) -> None:
    for name in ("north", "south"):
        billing.post("/organizations", {"name": name})
        billing.post("/tenants", {"name": f"{name}-a", "organization": name})
    foreign = billing.post("/keys", {"tenant": "south-a"})
    project = billing.get("/projects", tenant="south-a")["data"][0]
    with billing.account("owner", organization="north") as owner:
        assert [t["id"] for t in owner.get("/api/v1/tenants").json()["data"]] == ["north-a"]
        made = owner.post("/api/v1/tenants", json={"name": "north-b"})
        assert made.json()["organization"] == "north"
        assert owner.post("/api/v1/keys", json={"tenant": "north-b"}).status_code == 201
        assert len(owner.get("/api/v1/keys").json()["data"]) == 1
        # What is foreign looks like what is not there.
        for method, path, nothing in (
            ("GET", "/tenants/south-a", "/tenants/nobody"),
            ("PATCH", "/tenants/south-a", "/tenants/nobody"),
            ("GET", "/organizations/south", "/organizations/nobody"),
            ("GET", f"/keys/{foreign['id']}", "/keys/nobody"),
            ("DELETE", f"/keys/{foreign['id']}", "/keys/nobody"),
            ("GET", f"/projects/{project['id']}", "/projects/nobody"),
            ("GET", "/usage?tenant=south-a", "/usage?tenant=nobody"),
            ("GET", "/events?tenant=south-a", "/events?tenant=nobody"),
            ("GET", "/invoices/2026-01?tenant=south-a", "/invoices/2026-01?tenant=nobody"),
            ("GET", f"/keys?after={foreign['id']}", "/keys?after=nobody"),
            ("GET", "/tenants?after=south-a", "/tenants?after=nobody"),
        ):
            found, not_there = (
                owner.request(method, "/api/v1" + one, json={} if method == "PATCH" else None)
                for one in (path, nothing)
            )
            assert found.status_code == not_there.status_code >= 400
            name = path.rpartition("=")[2] if "=" in path else path.rpartition("/")[2]
            assert found.text.replace(name, "nobody") == not_there.text
        for path, body in (
            ("/keys", {"tenant": "south-a"}),
            ("/keys", {"tenant": "never-was"}),
            ("/projects", {"tenant": "south-a", "name": "x"}),
            ("/service-accounts", {"name": "x", "role": "viewer", "tenant": "south-a"}),
        ):
            refused(owner.post("/api/v1" + path, json=body), 404, "tenant_not_found", "tenant")
        assert "never-was" not in str(billing.get("/tenants"))
        moved = owner.patch("/api/v1/tenants/north-a", json={"organization": "south"})
        assert "admin token" in refused(moved, 403, "forbidden")
        stopped = owner.patch("/api/v1/tenants/north-a", json={"suspended": True})
        refused(stopped, 403, "forbidden")
        for path in ("/conservation", "/audit/head"):
            refused(owner.get("/api/v1" + path), 403, "forbidden")
        refused(owner.get("/api/v1/events"), 400, "invalid_value", "tenant")
        assert owner.get("/api/v1/events?tenant=north-a").status_code == 200
        seen = owner.get("/api/v1/audit?limit=1000").json()["data"]
        assert {row["organization"] for row in seen} == {"north"}
        internal = owner.put("/internal/models", json=[])
        refused(internal, 401, "invalid_token")
    with billing.account("developer", tenant="north-a") as developer:
        assert developer.post("/api/v1/keys", json={"tenant": "north-a"}).status_code == 201
        same_place = developer.post("/api/v1/keys", json={"tenant": "north-b"})
        refused(same_place, 404, "tenant_not_found", "tenant")
        assert developer.get("/api/v1/organizations").json()["data"] == []
        assert developer.get("/api/v1/events").json()["data"] == []
        for method, path in (
            ("GET", "/audit"), ("GET", "/service-accounts"), ("GET", "/invoices/2026-01"),
            ("POST", "/tenants"), ("PATCH", "/tenants/north-a"),
        ):  # fmt: skip
            said = refused(developer.request(method, "/api/v1" + path), 403, "forbidden")
            assert "the role developer may not" in said
    with billing.account("owner", tenant="north-a") as inner:
        outer = {"name": "x", "role": "owner", "organization": "north"}
        escalated = inner.post("/api/v1/service-accounts", json=outer)
        refused(escalated, 404, "organization_not_found", "organization")
        refused(inner.post("/api/v1/tenants", json={"name": "x"}), 403, "forbidden")


def test_a_service_account_s_tokens_turn_and_end(billing: Management) -> None:
    billing.post("/tenants", {"name": "robots"})
    body = {"name": "ci", "role": "viewer", "tenant": "robots"}
    made = billing.post("/service-accounts", body, idempotency_key="robot")
    assert made == billing.post("/service-accounts", body, idempotency_key="robot")
    path = f"/service-accounts/{made['id']}"
    assert "token" not in billing.get(path)

    def works(token: str) -> bool:
        with billing.bearer(token) as client:
            return client.get("/api/v1/tenants").status_code == 200

    assert works(made["token"])
    assert not works(made["token"][:-1])
    newer = billing.post(path + "/rotate", {"overlap_seconds": 60})
    assert works(made["token"])
    newest = billing.post(path + "/rotate", {"overlap_seconds": 0})
    assert [works(one["token"]) for one in (made, newer, newest)] == [False, False, True]
    assert billing.admin.patch("/api/v1" + path, json={"role": "owner"}).json()["role"] == "owner"
    with billing.bearer(newest["token"]) as itself:
        refused(itself.delete("/api/v1" + path), 409, "own_account", "id")
    assert billing.admin.delete("/api/v1" + path).json()["disabled_at"] is not None
    assert not works(newest["token"])
    assert billing.get("/service-accounts", tenant="robots")["data"] == []
    ended = billing.admin.post(f"/api/v1{path}/rotate", json={"overlap_seconds": 0})
    refused(ended, 409, "service_account_disabled", "id")
    neither = billing.admin.post("/api/v1/service-accounts", json={"name": "x", "role": "viewer"})
    refused(neither, 400, "invalid_value", "tenant")


def test_methods_and_text_that_are_not_served(billing: Management) -> None:
    wrong = billing.admin.put("/api/v1/keys", json={})
    refused(wrong, 405, "method_not_allowed")
    assert set(wrong.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}
    refused(billing.admin.get("/api/v1/keys?tenant=%00"), 400, "invalid_value", "tenant")
    refused(billing.admin.get("/api/v1/keys/%00"), 400, "invalid_value", "id")


def test_a_pepper_is_turned_and_old_keys_are_told(tmp_path: Path) -> None:
    with management.running(tmp_path, "1:old") as one:
        old = one.post("/keys", {"tenant": "t"}, idempotency_key="first")
    with management.running(tmp_path, "1:old,2:new") as one:
        new = one.post("/keys", {"tenant": "t"})
        listed = one.get("/keys", pepper_outdated="true")["data"]
        assert [key["id"] for key in listed] == [old["id"]]
        assert one.get(f"/keys/{new['id']}")["pepper_outdated"] is False
        assert one.post("/keys", {"tenant": "t"}, idempotency_key="first") == old


def test_last_use_is_a_minute_old_at_most(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/billing.db"
    migrate.migrate(url)
    now, minute = 1_800_000_000_000_000, 60_000_000
    engine = create_engine(url)

    def used(**seen: int) -> list[int | None]:
        with engine.begin() as connection:
            accounts.touch(connection, seen)
            rows = connection.execute(select(API_KEY.c.last_used_at).order_by(API_KEY.c.id))
            return list(rows.scalars())

    with engine.begin() as connection:
        accounts.ensure_tenant(connection, "t", now)
        for name in ("a", "b"):
            values: dict[str, Any] = {
                "id": name, "digest": name, "pepper_version": 1, "prefix": "", "tenant": "t",
                "project": "p", "name": "", "created_at": now,
            }  # fmt: skip
            connection.execute(API_KEY.insert().values(values))
    assert used() == [None, None]
    assert used(a=now) == [now, None]
    assert used(a=now + minute - 1, gone=now) == [now, None]
    assert used(a=now + minute, b=now) == [now + minute, now]
    assert used(a=now - minute) == [now + minute, now]
    engine.dispose()


def test_rows_of_before_survive_the_migration(tmp_path: Path) -> None:
    from alembic import command
    from alembic.config import Config

    path = tmp_path / "billing.db"
    engine = create_engine(f"sqlite:///{path}")
    config = Config()
    folder = Path(database.__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()
    before = sqlite3.connect(path)
    before.executescript(
        "INSERT INTO tenant (id, created_at) VALUES ('t', 1), ('u', 2);"
        "INSERT INTO project (id, tenant, name, created_at) VALUES ('proj_1', 't', 'web', 3);"
        "INSERT INTO api_key (id, digest, pepper_version, prefix, tenant, project, name,"
        " created_at) VALUES ('key_1', 'aa', 1, 'sk-tg-', 't', 'web', 'ci', 4);"
        "INSERT INTO model VALUES ('d/m', 'm', 't', '[]', 1);"
    )
    before.close()
    with management.running(tmp_path) as one:
        tenants = one.get("/tenants")["data"]
        assert [(t["id"], t["organization"]) for t in tenants] == [
            ("t", "default"),
            ("u", "default"),
        ]
        assert [key["id"] for key in one.get("/keys", tenant="t")["data"]] == ["key_1"]
        assert one.get("/projects")["data"][0]["name"] == "web"
        assert one.get("/organizations")["data"][0]["id"] == "default"
        assert one.get("/audit/head") == {"seq": 0, "hash": "0" * 64}
        assert one.admin.patch("/api/v1/tenants/t", json={"suspended": True}).status_code == 200
