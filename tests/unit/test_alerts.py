"""Messages: the reference's own signature, and nothing that was changed on the way passes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_billing import alerts
from tidegate_billing.alerts import Message, SignatureError
from tidegate_billing.budgets import FOREVER, Alert, Budget, Window

# The vector that Standard Webhooks' and Svix's own libraries are tested with.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
VECTOR = Message("msg_p5jXN8AQM9LWM0D4loKWxJek", "test", b'{"test": 2432232314}')
STAMP = 1614265330
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
NOW = STAMP * 10**6
OTHER = alerts.make_secret(bytes(range(32)))

BUDGET = Budget("b1", "acme", "project", "web", "month", "UTC", 10**19, "USD", hard=True)
ALERT = Alert("b1", 5, 80, 8 * 10**18 + 1, 10**19)


def test_the_signature_is_the_references() -> None:
    assert alerts.signature(SECRET, VECTOR.id, STAMP, VECTOR.body) == SIGNATURE
    assert alerts.headers([SECRET], VECTOR, NOW + 999_999) == {
        "content-type": "application/json",
        "webhook-id": VECTOR.id,
        "webhook-timestamp": str(STAMP),
        "webhook-signature": SIGNATURE,
    }


def test_both_secrets_sign_while_one_replaces_the_other() -> None:
    given_ = alerts.headers([OTHER, SECRET], VECTOR, NOW)
    assert given_["webhook-signature"].endswith(" " + SIGNATURE)
    for known in ([SECRET], [OTHER], [OTHER, SECRET]):
        assert alerts.verify(known, given_, VECTOR.body, NOW) == VECTOR.id
    with pytest.raises(SignatureError, match="no signature"):
        alerts.verify([alerts.make_secret(b"x" * 24)], given_, VECTOR.body, NOW)


@pytest.mark.parametrize("seconds", [-300, 0, 300])
def test_a_message_may_be_five_minutes_old_or_early(seconds: int) -> None:
    sent = alerts.headers([SECRET], VECTOR, NOW)
    assert alerts.verify([SECRET], sent, VECTOR.body, NOW + seconds * 10**6)
    for late in (-301, 301):
        with pytest.raises(SignatureError, match="from now"):
            alerts.verify([SECRET], sent, VECTOR.body, NOW + late * 10**6)


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": "msg_other"},
        {"webhook-id": "msg.other"},
        {"webhook-timestamp": str(STAMP + 1)},
        {"webhook-timestamp": "1e9"},
        {"webhook-timestamp": "٣"},
        {"webhook-timestamp": ""},
        {"webhook-signature": ""},
        {"webhook-signature": "v1a," + SIGNATURE[3:]},
        {"webhook-signature": "v1," + SIGNATURE[3:].lower()},
        {"webhook-signature": "v1,ü"},
    ],
)
def test_what_was_changed_does_not_pass(change: dict[str, str]) -> None:
    sent = alerts.headers([SECRET], VECTOR, NOW)
    with pytest.raises(SignatureError):
        alerts.verify([SECRET], {**sent, **change}, VECTOR.body, NOW)
    with pytest.raises(SignatureError):
        alerts.verify([SECRET], sent, VECTOR.body + b" ", NOW)
    with pytest.raises(SignatureError, match="no header"):
        alerts.verify([SECRET], {k: v for k, v in sent.items() if k not in change}, b"", NOW)


def test_a_signature_of_another_scheme_is_passed_over() -> None:
    sent = alerts.headers([SECRET], VECTOR, NOW)
    sent["webhook-signature"] = f"v1a,abc= {SIGNATURE} v2,x"
    assert alerts.verify([SECRET], sent, VECTOR.body, NOW)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        SECRET[6:],
        "whsec_####",
        "whsec_c2hvcnQ=",
        SECRET + "\n",
        "whsec_ü",
        SECRET[:-1],
    ],
)
def test_what_is_no_secret_is_refused(secret: str) -> None:
    with pytest.raises(SignatureError, match="allowed") as caught:
        alerts.signature(secret, "msg_1", 0, b"")
    assert "c2hvcnQ" not in str(caught.value)


def test_a_secret_is_as_long_as_the_specification_says() -> None:
    assert alerts.make_secret(b"\0" * 24) == "whsec_" + "A" * 32
    for size in (0, 23, 65):
        with pytest.raises(SignatureError, match="24 to 64"):
            alerts.make_secret(bytes(size))
    with pytest.raises(SignatureError, match="allowed"):
        alerts.headers([], VECTOR, NOW)


def test_a_budgets_alert_in_full() -> None:
    sent = alerts.of_budget(BUDGET, Window(5, 9), ALERT, 1_774_224_000_000_000)
    assert json.loads(sent.body) == {
        "type": "budget.threshold_reached",
        "timestamp": "2026-03-23T00:00:00Z",
        "data": {
            "budget": "b1", "tenant": "acme", "scope": "project", "subject": "web", "hard": True,
            "threshold": 80, "spent": "8.000000000000000001", "limit": "10", "currency": "USD",
            "period": "month", "window": {"start": 5, "end": 9},
        },
    }  # fmt: skip
    assert sent.body.startswith(b'{"type":"budget.threshold_reached","timestamp":"2026-03-23')
    total = alerts.of_budget(BUDGET._replace(kind="total"), Window(0, FOREVER), ALERT, 0)
    assert json.loads(total.body)["data"]["window"] == {"start": 0, "end": None}


def test_the_same_happening_is_the_same_message() -> None:
    window = Window(5, 9)
    first = alerts.of_budget(BUDGET, window, ALERT, 0)
    again = alerts.of_budget(BUDGET, window, ALERT._replace(spent=9 * 10**18), 1)
    assert first.id == again.id
    others = [
        alerts.of_budget(BUDGET, window, ALERT._replace(threshold=100), 0),
        alerts.of_budget(BUDGET, Window(9, 12), ALERT._replace(start=9), 0),
        alerts.of_budget(BUDGET, window, ALERT._replace(budget="b2"), 0),
        alerts.of_credit("acme", "USD", 5, 0, "g1"),
        alerts.of_credit("acme", "USD", 0, 0, "g1"),
        alerts.of_credit("acme", "USD", 0, 0, "g2"),
    ]
    assert len({first.id, *(one.id for one in others)}) == 7
    assert all("." not in one.id and len(one.id) == 36 for one in others)
    assert [one.type for one in others[3:]] == ["credit.low", *["credit.exhausted"] * 2]


@given(st.binary(max_size=50), st.binary(min_size=24, max_size=64), st.integers(0, 2**40))
def test_what_is_signed_is_verified(body: bytes, random: bytes, stamp: int) -> None:
    secret = alerts.make_secret(random)
    sent = alerts.headers([secret], Message("msg_1", "t", body), stamp * 10**6)
    assert alerts.verify([secret], sent, body, stamp * 10**6) == "msg_1"
