"""Secrets of keys, statuses and billing's answers: what of resources in git needs no server."""

import base64
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tidegate_billing.links import SettledKey, SettledTenant
from tidegate_billing.rates import book, contract
from tidegate_operator.kube.gitops import secrets, told
from tidegate_operator.kube.gitops.ledger import Away, Ledger, Refused
from tidegate_operator.kube.gitops.secrets import Place
from tidegate_operator.kube.gitops.tenants import Entry, desired
from tidegate_operator.kube.gitops.tenants import told as told_of
from tidegate_operator.kube.gitops.told import Told

WHERE = Place("team", "ci-key", "key")
KEY = SettledKey(name="ci", id="key_1", prefix="sk-tg-ab", key="sk-tg-abcdef")


EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_the_examples_documents_are_good() -> None:
    prices = yaml.safe_load((EXAMPLES / "price-book.yaml").read_text())
    name = prices["metadata"]["name"]
    assert book.parse({**prices["spec"], "name": name}).name == name
    tenant = yaml.safe_load((EXAMPLES / "tenant.yaml").read_text())
    terms = contract.parse({**tenant["spec"]["contract"], "tenant": "team-a"})
    assert terms.currency == "USD"


def secret(**change: Any) -> dict[str, Any]:
    made = secrets.fresh("acme", WHERE, KEY)
    made["metadata"]["resourceVersion"] = "7"
    made["metadata"]["annotations"] |= change.pop("annotations", {})
    return {**made, **change}


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("found", "entry", "field", "key"),
    [
        (secret(), "ci", "key", "key_1"),
        (None, "ci", "key", ""),
        (secret(), "other", "key", ""),
        (secret(), "ci", "token", ""),
        (secret(data={}), "ci", "key", ""),
        (secret(data=None), "ci", "key", ""),
        (secret(data={"key": "***"}), "ci", "key", ""),
        (secret(data={"key": encoded("sk-tg-ab")}), "ci", "key", ""),
        (secret(data={"key": encoded("something else")}), "ci", "key", ""),
        (secret(annotations={secrets.KEY_ID: ""}), "ci", "key", ""),
        (secret(annotations={secrets.PREFIX: ""}), "ci", "key", ""),
    ],
)
def test_a_key_has_arrived_where_its_secret_holds_it(
    found: dict[str, Any] | None, entry: str, field: str, key: str
) -> None:
    assert secrets.delivered(found, entry, field) == key


def test_another_key_takes_the_place_of_all_that_was_there() -> None:
    before = secret(data={"key": encoded("old"), "more": encoded("x")})
    change = secrets.changed(before, Place("team", "ci-key", "token"), KEY)
    assert change["data"] == {"key": None, "more": None, "token": encoded(KEY.key)}
    assert change["metadata"]["resourceVersion"] == "7", "as it was read, and no other"
    assert secrets.changed(before, WHERE, KEY)["data"]["key"] == encoded(KEY.key)


def test_a_spec_is_told_with_what_has_arrived() -> None:
    spec = {
        "displayName": "Acme",
        "projects": [{"name": "web"}],
        "contract": {"currency": "USD"},
        "keys": [
            {"name": "ci", "scopes": {"routes": ["chat"]}, "rotation": 2, "overlapSeconds": 0},
            {"name": "new"},
        ],
    }
    entries = [
        Entry(spec["keys"][0], WHERE, secret(), ""),  # type: ignore[arg-type, index]
        Entry(spec["keys"][1], Place("team", "new", "key"), None, "no such namespace"),  # type: ignore[arg-type, index]
    ]
    wanted = desired(spec, entries)
    assert (wanted.display_name, wanted.time_zone, wanted.projects) == ("Acme", "UTC", ["web"])
    assert (wanted.organization, wanted.suspended) == (None, None)
    first, second = wanted.keys
    assert (first.delivered, first.routes, first.rotation, first.overlap_seconds) == (
        "key_1", ["chat"], 2, 0,
    )  # fmt: skip
    assert (second.delivered, second.deliverable, second.overlap_seconds) == ("", False, 3600)


def test_a_status_names_the_keys_and_no_secret_of_theirs() -> None:
    entries = [Entry({"name": "ci"}, WHERE, None, ""), Entry({"name": "old"}, WHERE, None, "")]
    keys = [KEY, SettledKey(name="old")]
    found = told_of(entries, SettledTenant(suspended=False, keys=keys), [])
    assert found.fields["keys"] == [
        {"name": "ci", "id": "key_1", "prefix": "sk-tg-ab", "secret": "team/ci-key"}
    ]
    assert "expired: old" in found.message
    suspended = told_of(entries, SettledTenant(suspended=True, keys=keys), [])
    assert (suspended.ready, suspended.reason) == (True, "Suspended")


def test_a_status_keeps_what_is_not_told_anew_and_the_time_of_its_last_turn() -> None:
    obj: dict[str, Any] = {"metadata": {"generation": 1}, "spec": {}}
    obj["status"] = told.status(obj, Told(True, "Written", "", {"number": 3, "gone": 1}), 0.0)
    assert obj["status"]["conditions"][0]["lastTransitionTime"] == "1970-01-01T00:00:00Z"
    obj["metadata"]["generation"] = 2
    after = told.status(obj, Told(True, "Written", "", {"gone": None}), 60.0)
    assert (after["number"], after["observedGeneration"]) == (3, 2)
    assert after["conditions"][0]["lastTransitionTime"] == "1970-01-01T00:00:00Z"
    assert told.patch(obj["status"], after)["status"]["gone"] is None
    bad = told.status(obj, Told(False, "Refused", "x" * 99_999), 60.0)["conditions"][0]
    assert bad["lastTransitionTime"] == "1970-01-01T00:01:00Z"
    assert len(bad["message"]) == told.LONGEST


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, b'{"code": "invalid_document", "detail": "spec.currency: no"}', Refused),
        (404, b'{"code": "organization_not_found", "detail": "none"}', Refused),
        (404, b'{"code": "unknown_route", "detail": "an older release"}', Away),
        (401, b'{"code": "invalid_token", "detail": "no"}', Away),
        (503, b'{"code": "ledger_unavailable", "detail": "no"}', Away),
        (502, b"<html>a proxy</html>", Away),
        (200, b"<html>a portal</html>", Away),
        (200, b'{"number": "x"}', Away),
        (404, b"[]", Away),
    ],
)
async def test_billings_answers(status: int, body: bytes, error: type[Exception]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer token"
        return httpx.Response(status, content=body)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        with pytest.raises(error):
            await Ledger(http, "http://billing", "token").put_book("list", {})


async def test_no_answer_is_away() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        with pytest.raises(Away, match="ConnectError"):
            await Ledger(http, "http://billing", "token").managed()
