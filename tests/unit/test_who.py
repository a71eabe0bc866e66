"""The pure parts of who may do what: the table of roles, and the audit chain."""

import hashlib
import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_billing.who import chain, idempotency, roles
from tidegate_billing.who.actor import ADMIN, Actor
from tidegate_billing.who.chain import GENESIS, Entry, Verdict


@pytest.mark.parametrize(
    ("action", "allowed"),
    [
        ("organization.create", []),
        ("tenant.suspend", []),
        ("tenant.move", []),
        ("platform.read", []),
        ("audit.verify", []),
        ("tenant.create", ["owner"]),
        ("service_account.create", ["owner"]),
        ("service_account.read", ["owner"]),
        ("key.create", ["developer", "owner"]),
        ("invoice.read", ["billing", "owner"]),
        ("audit.read", ["billing", "owner"]),
        ("key.read", ["billing", "developer", "owner", "viewer"]),
        ("usage.read", ["billing", "developer", "owner", "viewer"]),
        ("budget.read", ["billing", "developer", "owner", "viewer"]),
        ("budget.update", ["billing", "owner"]),
        ("webhook.read", ["billing", "developer", "owner", "viewer"]),
        ("webhook.update", ["billing", "owner"]),
    ],
)
def test_who_may_what(action: roles.Action, allowed: list[str]) -> None:
    assert sorted(roles.roles_with(action)) == allowed
    assert ADMIN.may(action)


def test_the_table_names_every_role_and_only_actions_that_there_are() -> None:
    assert set(roles.ALLOWED) == set(get_args(roles.Role)) == set(roles.ROLES)
    assert set().union(*roles.ALLOWED.values()) <= set(get_args(roles.Action))
    for role in roles.ROLES:
        assert roles.ALLOWED["viewer"] <= roles.ALLOWED[role] <= roles.ALLOWED["owner"]


def test_an_account_is_bound_to_its_place() -> None:
    organization = Actor("sa_1", "owner", "acme")
    assert organization.covers("acme", "acme-a")
    assert organization.covers("acme", None)
    assert not organization.covers("other", "b")
    tenant = Actor("sa_2", "owner", "acme", "acme-a")
    assert tenant.covers("acme", "acme-a")
    assert not tenant.covers("acme", "acme-b")
    assert not tenant.covers("acme", None)


JSON = st.dictionaries(
    st.text(max_size=5),
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8)
    | st.lists(st.text(max_size=3), max_size=3),
    max_size=4,
)  # fmt: skip


def chained(values: list[dict[str, Any]]) -> list[Entry]:
    made: list[Entry] = []
    for number, value in enumerate(values, 1):
        entry = Entry(
            seq=number,
            at=number * 1000,
            actor="admin",
            action="tenant.update",
            object_type="tenant",
            object_id="t",
            organization="default",
            tenant="t",
            before=None,
            after=value,
            prev_hash=made[-1].hash if made else GENESIS,
        )
        made.append(chain.sealed(entry))
    return made


@given(st.lists(JSON, max_size=6), st.integers(0, 6))
def test_a_chain_holds_however_it_is_cut_into_pages(values: list[dict[str, Any]], cut: int) -> None:
    entries = chained(values)
    whole = chain.verify(entries)
    assert whole == Verdict(len(entries), entries[-1].hash if entries else GENESIS)
    assert chain.verify(entries[cut:], chain.verify(entries[:cut])) == whole


@given(JSON)
def test_the_hash_is_what_the_documentation_says(value: dict[str, Any]) -> None:
    (entry,) = chained([value])
    fields = msgspec.structs.asdict(entry)
    del fields["hash"]
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert entry.hash == hashlib.sha256(text.encode()).hexdigest()


FIELDS = [name for name in Entry.__struct_fields__ if name not in {"seq", "prev_hash", "hash"}]


@given(st.lists(JSON, min_size=2, max_size=5), st.data())
def test_an_edit_is_found_in_its_row(values: list[dict[str, Any]], data: st.DataObject) -> None:
    entries = chained(values)
    place = data.draw(st.integers(0, len(entries) - 1))
    name = data.draw(st.sampled_from(FIELDS))
    new = {"at": 5, "before": {"x": 1}, "after": {"new": "y", **entries[place].after}}  # type: ignore[dict-item]
    changed = msgspec.structs.replace(entries[place], **{name: new.get(name, "else")})
    entries[place] = changed
    verdict = chain.verify(entries)
    assert (verdict.rows, "was changed" in verdict.broken) == (place, True)
    entries[place] = chain.sealed(changed)  # who recomputes its hash breaks the next row
    verdict = chain.verify(entries)
    assert "does not follow" in verdict.broken or place == len(entries) - 1


@given(st.lists(JSON, min_size=3, max_size=6), st.data())
def test_a_deletion_and_a_move_are_found(values: list[dict[str, Any]], data: st.DataObject) -> None:
    entries = chained(values)
    place = data.draw(st.integers(0, len(entries) - 2))
    without = entries[:place] + entries[place + 1 :]
    assert f"row {place + 1} is missing" in chain.verify(without).broken
    moved = [*entries]
    moved[place], moved[place + 1] = moved[place + 1], moved[place]
    assert chain.verify(moved).broken
    renumbered = [
        msgspec.structs.replace(entry, seq=number) for number, entry in enumerate(moved, 1)
    ]
    assert chain.verify(renumbered).broken
    cut_off = chain.verify(entries[:-1])
    assert (cut_off.broken, cut_off.head == entries[-1].hash) == ("", False)


def test_a_secret_is_derived_from_pepper_key_and_nonce_together() -> None:
    peppers = {1: b"one", 2: b"two"}

    def claim(key: str, principal: str = "admin") -> idempotency.Claim:
        return idempotency.claim(peppers, principal=principal, key=key, target="/x", body=b"{}")

    def secret(pepper: bytes = b"two", key: str = "k", nonce: str = "n") -> str:
        return idempotency.derived(pepper, claim(key).name, nonce, "sk-")

    made = secret()
    assert made == secret()
    assert len(made) == len("sk-") + 32
    assert len({made, secret(pepper=b"one"), secret(key="l"), secret(nonce="m")}) == 4
    assert claim("k").ids != claim("k", "sa_1").ids
    assert claim("k").fingerprint == claim("l").fingerprint
    assert idempotency.key_error("") is not None
    assert idempotency.key_error("x" * 256) is not None
    assert idempotency.key_error("é") is not None
    assert idempotency.key_error("a-uuid") is None
