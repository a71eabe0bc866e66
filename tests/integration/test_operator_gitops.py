"""Price books and tenants as resources: the operator's part, over real billing and a small API server."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from kubernetes import aio as kubernetes

from fake_api import BOOKS, NAMESPACES, SECRETS, TENANTS, FakeApi
from management import INTERNAL_TOKEN, Management, running
from tidegate_operator.kube.api import Api
from tidegate_operator.kube.gitops.follow import GitOps
from tidegate_operator.kube.gitops.ledger import Ledger

BOOK = {
    "currency": "USD",
    "effectiveFrom": "2026-01-01T00:00:00Z",
    "entries": [{"model": "m", "prices": {"input": "2", "output": "8"}}],
}


@pytest.fixture
async def kube(tmp_path: Path) -> AsyncIterator[FakeApi]:
    async with FakeApi(tmp_path).running() as made:
        made.define_ours()  # type: ignore[attr-defined]
        yield made  # type: ignore[misc]


@pytest.fixture
def billing(tmp_path: Path) -> Iterator[Management]:
    with running(tmp_path) as made:
        yield made


@contextlib.asynccontextmanager
async def operator(kube: FakeApi, url: str) -> AsyncIterator[GitOps]:
    """One that leads, until the block ends as after a kill."""
    api = Api(await kubernetes.config.new_client_from_config(kube.kubeconfig))
    async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
        made = GitOps(api, Ledger(http, url, INTERNAL_TOKEN), kube.kubeconfig)
        tasks = [asyncio.ensure_future(job) for job in made.jobs()]
        made.lead(True)
        try:
            yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await api.close()


async def until(look: Callable[[], Any], what: str) -> Any:
    for _ in range(1500):
        if found := look():
            return found
        await asyncio.sleep(0.01)
    raise AssertionError(f"never came: {what}")


def generation(kube: FakeApi, path: str, name: str) -> int:
    found = kube.find(path, name, "")
    return 0 if found is None else int(found["metadata"]["generation"])


def apply(kube: FakeApi, path: str, name: str, **spec: Any) -> None:
    known = kube.find(path, name, "") or {}
    metadata = {"name": name, "uid": f"uid-{name}", "generation": generation(kube, path, name) + 1}
    kube.store(path, {"metadata": metadata, "spec": spec, "status": known.get("status", {})})


def ready(kube: FakeApi, path: str, name: str) -> dict[str, Any]:
    """The condition, where it is of the newest generation; else empty."""
    found = (kube.find(path, name, "") or {}).get("status", {}).get("conditions", [])
    now = generation(kube, path, name)
    return next((one for one in found if one["observedGeneration"] == now), {})


async def reason(kube: FakeApi, path: str, name: str, wanted: str) -> dict[str, Any]:
    found: dict[str, Any] = await until(
        lambda: (one := ready(kube, path, name)).get("reason") == wanted and one,
        f"{name} {wanted}, but {kube.find(path, name, '')}",
    )
    return found


def key(name: str = "ci", **fields: Any) -> dict[str, Any]:
    where = {"namespace": "team", "name": f"{name}-key"}
    return {"name": name, "secretRef": where | fields.pop("where", {}), **fields}


def secret(kube: FakeApi, name: str = "ci-key", field: str = "key") -> str:
    found = kube.find(SECRETS, name)
    return base64.b64decode((found or {}).get("data", {}).get(field, "")).decode()


def told(kube: FakeApi, name: str = "acme") -> list[dict[str, str]]:
    found: list[dict[str, str]] = (kube.find(TENANTS, name, "") or {})["status"]["keys"]
    return found


def live(billing: Management, tenant: str = "acme") -> set[str]:
    """Ids of the keys that work."""
    return {one["id"] for one in billing.get("/keys", tenant=tenant)["data"]}


def matches(billing: Management, plain: str, key_id: str) -> bool:
    prefix: str = billing.get(f"/keys/{key_id}")["prefix"]
    return plain.startswith(prefix)


async def test_a_book_is_written_and_ends_with_its_resource(
    kube: FakeApi, billing: Management
) -> None:
    apply(kube, BOOKS, "list", **BOOK)
    apply(kube, BOOKS, "bad", **{**BOOK, "currency": "usd", "entries": [{"model": "x"}]})
    async with operator(kube, billing.url):
        await reason(kube, BOOKS, "list", "Written")
        status = (kube.find(BOOKS, "list", "") or {})["status"]
        assert (status["number"], status["effectiveFrom"]) == (1, BOOK["effectiveFrom"])
        said = (await reason(kube, BOOKS, "bad", "Refused"))["message"]
        assert "spec.currency: " in said
        assert "spec.entries[0].prices: " in said
        kube.remove(BOOKS, "list")
        await until(
            lambda: billing.get("/price-books/list")["document"] is None, "the book withdrawn"
        )


async def test_a_key_is_delivered_and_replaced_where_its_secret_goes(
    kube: FakeApi, billing: Management
) -> None:
    apply(kube, TENANTS, "acme", displayName="Acme", projects=[{"name": "web"}], keys=[key()])
    async with operator(kube, billing.url):
        await reason(kube, TENANTS, "acme", "Settled")
        (one,) = told(kube)
        assert one["secret"] == "team/ci-key"
        assert live(billing) == {one["id"]}
        plain = secret(kube)
        assert matches(billing, plain, one["id"])
        assert plain not in str(kube.find(TENANTS, "acme", ""))
        kube.remove(SECRETS, "ci-key", "team")
        await until(lambda: secret(kube) not in {"", plain}, "another key")
        await until(lambda: told(kube)[0]["id"] != one["id"], "told")
        assert live(billing) == {told(kube)[0]["id"]}
        edited = {**(kube.find(SECRETS, "ci-key") or {}), "data": {"key": "bm8="}}
        kube.store(SECRETS, edited)
        await until(lambda: secret(kube).startswith("sk-"), "the edit undone by a new key")
    assert (await asyncio.to_thread(billing.get, "/tenants/acme"))["display_name"] == "Acme"


async def test_a_death_between_key_and_secret_leaves_no_key(
    kube: FakeApi, billing: Management
) -> None:
    async with operator(kube, billing.url) as first:
        dead = asyncio.Event()

        def dies() -> None:
            first.lead(False)
            dead.set()
            raise RuntimeError("the connection breaks, and nothing is written")

        kube.before_create = dies  # type: ignore[assignment]
        apply(kube, TENANTS, "acme", keys=[key()])
        await asyncio.wait_for(dead.wait(), 10)
        (stranded,) = live(billing)
    kube.before_create = lambda: None
    assert kube.find(SECRETS, "ci-key") is None
    async with operator(kube, billing.url):
        await reason(kube, TENANTS, "acme", "Settled")
        assert live(billing) == {told(kube)[0]["id"]} != {stranded}
        assert matches(billing, secret(kube), told(kube)[0]["id"])


async def test_somebody_elses_secret_is_never_touched(kube: FakeApi, billing: Management) -> None:
    theirs = {"metadata": {"name": "ci-key", "namespace": "team"}, "data": {"key": "eA=="}}
    kube.store(SECRETS, theirs)
    lost, twice = key("lost", where={"namespace": "x"}), key("twice", where={"name": "other-key"})
    apply(kube, TENANTS, "acme", keys=[key(), key("other"), lost, twice])
    async with operator(kube, billing.url):
        said = (await reason(kube, TENANTS, "acme", "SecretNotWritten"))["message"]
        assert "spec.keys[0].secretRef: Secret team/ci-key is there" in said
        assert 'spec.keys[2].secretRef: namespaces "x" not found' in said
        assert "spec.keys[3].secretRef: Secret team/other-key is another key's" in said
        assert secret(kube) == "x"
        assert [one["name"] for one in told(kube)] == ["other"]
        assert live(billing) == {told(kube)[0]["id"]}, "no key is made that can't arrive"
        kube.remove(SECRETS, "ci-key", "team")
        kube.store(NAMESPACES, {"metadata": {"name": "x"}})
        apply(kube, TENANTS, "acme", keys=[key(), key("other"), lost])
        await reason(kube, TENANTS, "acme", "Settled")
        assert {one["name"] for one in told(kube)} == {"ci", "other", "lost"}
    assert kube.find(SECRETS, "lost-key", "x")


async def test_a_key_that_moves_is_another_and_an_entry_that_goes_takes_its_key(
    kube: FakeApi, billing: Management
) -> None:
    apply(kube, TENANTS, "acme", keys=[key(), key("stays")])
    async with operator(kube, billing.url):
        await reason(kube, TENANTS, "acme", "Settled")
        before, plain = {one["name"]: one["id"] for one in told(kube)}, secret(kube)
        apply(kube, TENANTS, "acme", keys=[key(rotation=1, where={"key": "token"}), key("stays")])
        await until(lambda: secret(kube, field="token"), "the successor")
        await reason(kube, TENANTS, "acme", "Settled")
        after = {one["name"]: one["id"] for one in told(kube)}
        assert after["stays"] == before["stays"]
        assert secret(kube, field="token") != plain
        assert secret(kube) == "", "no dead key is left beside it"
        apply(kube, TENANTS, "acme", keys=[key("stays")])
        await until(lambda: kube.find(SECRETS, "ci-key") is None, "its Secret deleted")
        await reason(kube, TENANTS, "acme", "Settled")
        assert live(billing) == {before["stays"]}


async def test_the_old_key_works_until_the_overlap_is_over(
    kube: FakeApi, billing: Management
) -> None:
    apply(kube, TENANTS, "acme", keys=[key()])
    async with operator(kube, billing.url):
        await reason(kube, TENANTS, "acme", "Settled")
        old = told(kube)[0]["id"]
        apply(kube, TENANTS, "acme", keys=[key(rotation=1, overlapSeconds=60)])
        await until(lambda: told(kube)[0]["id"] != old, "the successor")
        assert live(billing) == {old, told(kube)[0]["id"]}
        assert billing.get(f"/keys/{old}")["expires_at"]


async def test_what_went_while_nobody_looked_is_acted_on(
    kube: FakeApi, billing: Management
) -> None:
    apply(kube, TENANTS, "acme", keys=[key()])
    apply(kube, TENANTS, "stays", keys=[key("other")])
    apply(kube, BOOKS, "list", **BOOK)
    async with operator(kube, billing.url):
        await reason(kube, TENANTS, "acme", "Settled")
        await reason(kube, TENANTS, "stays", "Settled")
        await reason(kube, BOOKS, "list", "Written")
    kube.remove(TENANTS, "acme")
    kube.remove(BOOKS, "list")
    async with operator(kube, billing.url):
        await until(lambda: kube.find(SECRETS, "ci-key") is None, "its Secret deleted")
        await until(lambda: billing.get("/price-books/list")["document"] is None, "withdrawn")
    assert billing.get("/tenants/acme")["suspended"]
    assert live(billing) == set()
    assert not billing.get("/tenants/stays")["suspended"]
    assert len(live(billing, "stays")) == 1


async def test_a_definition_that_is_away_ends_nobody(kube: FakeApi, billing: Management) -> None:
    apply(kube, TENANTS, "acme", keys=[key()])
    async with operator(kube, billing.url) as running_one:
        await reason(kube, TENANTS, "acme", "Settled")
        kept = kube._objects.pop(TENANTS)
        running_one.queue.add("tenant/acme")
        running_one._objects.pop("tenant/acme")  # as a watch that broke might have it
        await asyncio.sleep(0.5)
        kube._objects[TENANTS] = kept
    assert not billing.get("/tenants/acme")["suspended"]


async def test_what_somebody_elses_finalizer_holds_ends_all_the_same(
    kube: FakeApi, billing: Management
) -> None:
    apply(kube, TENANTS, "acme", keys=[key()])
    async with operator(kube, billing.url):
        await reason(kube, TENANTS, "acme", "Settled")
        held = kube.find(TENANTS, "acme", "") or {}
        ending = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["theirs/waits"]}
        kube.store(TENANTS, {**held, "metadata": {**held["metadata"], **ending}})
        await until(lambda: kube.find(SECRETS, "ci-key") is None, "its Secret deleted")
    assert live(billing) == set()


async def test_billing_that_is_away_is_told_of_and_asked_again(
    kube: FakeApi, tmp_path: Path
) -> None:
    apply(kube, BOOKS, "list", **BOOK)
    with running(tmp_path) as billing:
        url = billing.url
    async with operator(kube, url):
        said = await reason(kube, BOOKS, "list", "BillingAway")
        assert said["status"] == "Unknown"


async def test_a_follower_does_nothing(kube: FakeApi, billing: Management) -> None:
    async with operator(kube, billing.url) as one:
        one.lead(False)
        apply(kube, TENANTS, "acme", keys=[key()])
        await asyncio.sleep(0.5)
        assert "status" not in kube.writes
        assert not ready(kube, TENANTS, "acme")
        one.lead(True)
        await reason(kube, TENANTS, "acme", "Settled")
