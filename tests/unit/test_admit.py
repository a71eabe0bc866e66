"""Who is refused at the gateway's door, and what a scoped key sees."""

import fnmatch
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_billing.keys import digest
from tidegate_billing.links import KeyView, SnapshotLine
from tidegate_billing.snapshot import Snapshots
from tidegate_billing.who import scopes
from tidegate_runtime import openai, pooling
from tidegate_runtime.admit import catalogue, identify, resolve, standing
from tidegate_runtime.contract.links import ModelView
from tidegate_runtime.contract.names import NameTable
from tidegate_runtime.errors import TenantError
from tidegate_runtime.front import Incoming
from tidegate_runtime.tenants import Tenants

PEPPER = b"p"
SCORING = {pooling.RERANK, pooling.RERANK_2, pooling.SCORE}
NAMES = NameTable.build(
    ModelView(deployment=f"t/{name}", owner="t", name=name, aliases=aliases)
    for name, aliases in (("qwen-1", ["small"]), ("qwen-2", []), ("llama", []))
)


def key(**values: object) -> KeyView:
    given_values = {"id": "k", "digest": digest(PEPPER, b"sk").hex(), "tenant": "t", "project": "p"}
    return msgspec.convert({**given_values, **values}, KeyView)


def told(*views: KeyView, **values: object) -> Tenants:
    made = Tenants({1: PEPPER})
    made.apply(SnapshotLine(type="snapshot", version=1, keys=list(views), **values), 0.0)  # type: ignore[arg-type]
    return made


def asking(path: str = "/v1/models", token: bytes = b"sk") -> Incoming:
    incoming = Incoming()
    incoming.path, incoming.method, incoming.token = path, b"GET", token
    return incoming


def refusal(tenants: Tenants, wall: float) -> tuple[int, str]:
    with pytest.raises(TenantError) as caught:
        identify(tenants, asking(), 0.0, wall)
    return caught.value.status, caught.value.code


def test_a_key_expires_by_the_routers_clock() -> None:
    tenants = told(key(expires_at=10_000_000))
    assert identify(tenants, asking(), 0.0, 9.999).id == "k"
    assert refusal(tenants, 10.0) == (401, "invalid_api_key")


def test_what_waits_hears_of_its_keys_end() -> None:
    old = key()
    tenants = told(old)
    assert standing(tenants, old, 5.0) is None
    rotated = key(expires_at=4_000_000)
    tenants.apply(SnapshotLine(type="change", version=2, keys=[rotated]), 0.0)
    late = standing(tenants, old, 5.0)
    assert late is not None
    assert late.status == 401
    tenants.apply(SnapshotLine(type="change", version=3, removed_keys=["k"]), 0.0)
    assert standing(tenants, old, 1.0) is not None


def test_a_suspended_tenant_is_refused_until_it_is_resumed_and_the_picture_keeps_it() -> None:
    tenants = told(key())
    tenants.apply(SnapshotLine(type="change", version=2, suspended=["t"]), 0.0)
    assert refusal(tenants, 0.0) == (403, "tenant_suspended")
    restored = Tenants({1: PEPPER})
    restored.apply(tenants.picture(), 0.0)
    assert refusal(restored, 0.0) == (403, "tenant_suspended")
    tenants.apply(SnapshotLine(type="change", version=3, resumed=["t"]), 0.0)
    assert identify(tenants, asking(), 0.0, 0.0).tenant == "t"
    tenants.apply(SnapshotLine(type="snapshot", version=4, keys=[key()], suspended=["u"]), 0.0)
    assert identify(tenants, asking(), 0.0, 0.0).tenant == "t"


def test_a_model_out_of_scope_looks_unknown_and_is_not_listed() -> None:
    scoped = key(models=["qwen-*"])
    tenants = told(scoped)

    def refused(model: str) -> tuple[str, str]:
        with pytest.raises(TenantError) as caught:
            resolve(NAMES, tenants, scoped, openai.Request(model))
        return caught.value.code, caught.value.message.replace(model, "M")

    assert resolve(NAMES, tenants, scoped, openai.Request("qwen-2")).name == "qwen-2"
    assert refused("llama") == refused("nobody")
    assert refused("small")[0] == "model_not_found"  # a scope is over the names that are sent
    listed = json.loads(catalogue(NAMES, tenants, scoped, asking()))["data"]
    assert [model["id"] for model in listed] == ["qwen-1", "qwen-2"]
    with pytest.raises(TenantError, match="does not exist"):
        catalogue(NAMES, tenants, scoped, asking("/v1/models/llama"))
    everything = json.loads(catalogue(NAMES, tenants, key(), asking()))["data"]
    assert len(everything) == 4


def test_a_route_out_of_scope_is_told() -> None:
    scoped = key(routes=["embeddings"])
    with pytest.raises(TenantError) as caught:
        resolve(NAMES, told(scoped), scoped, openai.Request("qwen-1"))
    assert (caught.value.status, caught.value.code) == (403, "route_not_allowed")
    chat = key(routes=["chat"])
    assert resolve(NAMES, told(chat), chat, openai.Request("qwen-1")).name == "qwen-1"
    assert set(openai.TASKS) <= set(scopes.ROUTE_OF)


@pytest.mark.parametrize(
    ("task", "endpoints", "needs"),
    [
        (
            "generate",
            {openai.CHAT, openai.COMPLETIONS, openai.MESSAGES},
            "needs `embed` or `rerank` or `score`",
        ),
        ("embed", {openai.EMBEDDINGS, *SCORING}, "needs `classify`"),
        ("rerank", SCORING, "needs `embed`"),
        ("score", SCORING, "needs `generate`"),
        ("classify", {pooling.CLASSIFY}, "needs `generate`"),
        ("transcribe", set(), "needs `generate`"),
    ],
)
def test_a_task_serves_its_routes_and_no_others(task: str, endpoints: set[str], needs: str) -> None:
    names = NameTable.build([ModelView(deployment="t/m", owner="t", name="m", task=task)])
    anybody, said = key(), []
    for endpoint in openai.TASKS:
        request = openai.Request("m", endpoint)
        if endpoint in endpoints:
            assert resolve(names, told(anybody), anybody, request).task == task
            continue
        with pytest.raises(TenantError) as caught:
            resolve(names, told(anybody), anybody, request)
        assert (caught.value.status, caught.value.code) == (400, "task_not_served")
        assert caught.value.param == "model"
        said.append(caught.value.message)
    assert any(f"serves `{task}`" in one and needs in one for one in said), said


def test_both_reranks_are_one_scope() -> None:
    names = NameTable.build([ModelView(deployment="t/m", owner="t", name="m", task="embed")])
    scoped = key(routes=["rerank"])
    for endpoint in (pooling.RERANK, pooling.RERANK_2):
        assert resolve(names, told(scoped), scoped, openai.Request("m", endpoint)).name == "m"
    with pytest.raises(TenantError, match="may not use /v1/score"):
        resolve(names, told(scoped), scoped, openai.Request("m", pooling.SCORE))
    assert len(set(scopes.ROUTES)) == len(scopes.ROUTES)


def test_old_and_new_parts_understand_each_other() -> None:
    old_view = b'{"id":"k","digest":"00","tenant":"t","project":"p","pepper_version":1}'
    assert msgspec.json.decode(old_view, type=KeyView).models is None
    old_line = b'{"type":"change","version":1,"keys":[],"removed_keys":[],"prices":[],"tenants":[]}'
    assert msgspec.json.decode(old_line, type=SnapshotLine).suspended == []
    future = b'{"id":"k","digest":"00","tenant":"t","project":"p","colour":"red"}'
    assert msgspec.json.decode(future, type=KeyView).id == "k"


async def test_expired_keys_leave_the_picture() -> None:
    hub = Snapshots(1)
    hub.load([key(expires_at=10), key(id="l", digest="01")], [], ["t"], ["t"])
    assert (hub.expire(9), hub.version) == ([], 1)
    assert (hub.expire(10), hub.version) == (["k"], 2)
    assert [one.id for one in hub.whole().keys] == ["l"]
    assert hub.whole().suspended == ["t"]
    hub.change(resumed=["t"])
    assert hub.whole().suspended == []


@given(
    st.lists(st.text("ab*?.+", min_size=1, max_size=6), min_size=1, max_size=4),
    st.text("ab.+", max_size=8),
)
def test_globs_match_as_in_a_shell(models: list[str], name: str) -> None:
    expected = any(fnmatch.fnmatchcase(name, pattern) for pattern in models)
    assert scopes.matcher(models)(name) == expected


def test_a_hostile_name_costs_little_and_a_bad_scope_is_named() -> None:
    assert not scopes.matcher(["*a*a*a*a"])("a" * 10_000_000 + "b")
    assert scopes.models_error(["*a*a*a*a*"]) is not None
    assert scopes.models_error(["two words"]) is not None
    assert scopes.models_error([]) is not None
    assert scopes.models_error(["qwen-*", "llama"]) is None
    assert "allowed: some of chat" in str(scopes.routes_error(["chats"]))
    assert scopes.routes_error([]) is not None
    assert scopes.routes_error(["chat"]) is None
