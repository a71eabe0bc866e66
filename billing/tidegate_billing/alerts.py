"""What a tenant's endpoint is told, and how it knows that we said it (Standard Webhooks 1.0.0).

    POST /their/path
    webhook-id: msg_5f0c...           the same for every try and every replay: their idempotency key
    webhook-timestamp: 1774224000     of this try, in seconds
    webhook-signature: v1,K5oZ...     base64 of HMAC-SHA256 over `id.timestamp.body`, one per secret

    {"type":"budget.threshold_reached","timestamp":"2026-03-23T00:00:00Z","data":{...}}

A message's id is made of what the message says happened, so an alert that is made twice (a crash, a
second process, a rebuild) is one message to whoever receives it. The body is kept as it was first
encoded: what is signed is bytes, and a body encoded anew may differ.

A secret is `whsec_` and base64 of 24 to 64 random bytes, one per endpoint. While it is changed
the old and the new one sign, and a receiver that knows either is content.
"""

import base64
import binascii
import datetime as dt
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from tidegate_billing import money
from tidegate_billing.budgets import FOREVER, Alert, Budget, Window

PREFIX: Final = "whsec_"
SHORTEST: Final = 24
LONGEST: Final = 64
TOLERANCE: Final = 300
"""Seconds that a receiver's clock and ours may be apart, or a message may have been on its way."""
BUDGET: Final = "budget.threshold_reached"
CREDIT_LOW: Final = "credit.low"
CREDIT_EXHAUSTED: Final = "credit.exhausted"


class SignatureError(ValueError):
    """A message is not from who it says, or a secret is none; the message says why."""


class Message(NamedTuple):
    """One thing that happened, as it is sent."""

    id: str
    type: str
    body: bytes


def message(kind: str, at: int, data: Mapping[str, object], *identity: object) -> Message:
    """A message about something that happened at `at` (microseconds). `identity`: what makes it
    this happening and no other; together with the kind it makes the id."""
    known = msgspec.json.encode([kind, *identity])
    moment = dt.datetime.fromtimestamp(at // 1_000_000, dt.UTC)
    text = f"{moment:%Y-%m-%dT%H:%M:%S}Z"
    return Message(
        "msg_" + hashlib.sha256(known).hexdigest()[:32],
        kind,
        msgspec.json.encode({"type": kind, "timestamp": text, "data": data}),
    )


def of_budget(budget: Budget, window: Window, alert: Alert, at: int) -> Message:
    """A budget's threshold was reached."""
    data = {
        "budget": budget.id,
        "tenant": budget.tenant,
        "scope": budget.scope,
        "subject": budget.subject,
        "hard": budget.hard,
        "threshold": alert.threshold,
        "spent": money.plain(alert.spent),
        "limit": money.plain(alert.limit),
        "currency": budget.currency,
        "period": budget.kind,
        "window": {"start": window.start, "end": None if window.end == FOREVER else window.end},
    }
    return message(BUDGET, at, data, alert.budget, alert.start, alert.threshold)


def of_credit(tenant: str, currency: str, balance: int, at: int, since: str) -> Message:
    """A tenant's credit is low, or gone. `since`: the last grant before, so that each filling of
    the purse tells once."""
    kind = CREDIT_EXHAUSTED if balance <= 0 else CREDIT_LOW
    data = {"tenant": tenant, "balance": money.plain(balance), "currency": currency}
    return message(kind, at, data, tenant, currency, since)


def make_secret(random: bytes) -> str:
    """A secret of random bytes. Raises SignatureError where they are too few or too many."""
    if not SHORTEST <= len(random) <= LONGEST:
        raise SignatureError(
            f"a secret of {len(random)} bytes; allowed: {SHORTEST} to {LONGEST} random bytes"
        )
    return PREFIX + base64.b64encode(random).decode()


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or not SHORTEST <= len(key) <= LONGEST:
        raise SignatureError(
            f"not a secret; allowed: {PREFIX} and base64 of {SHORTEST} to {LONGEST} bytes"
        )
    return key


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """What one secret says to a message. Raises SignatureError.

    An id without dots: else a part of the body could pass for a timestamp.
    """
    if not message_id or "." in message_id or not message_id.isascii():
        raise SignatureError("a message id has no dots and is ASCII")
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    digest = hmac.digest(_key(secret), signed, "sha256")
    return "v1," + base64.b64encode(digest).decode()


def headers(secrets: Sequence[str], sent: Message, now: int) -> dict[str, str]:
    """The headers of one try at `now` (microseconds), signed with every secret that is in use."""
    if not secrets:
        raise SignatureError("an endpoint without a secret; allowed: one, or two while it changes")
    timestamp = now // 1_000_000
    signatures = [signature(one, sent.id, timestamp, sent.body) for one in secrets]
    return {
        "content-type": "application/json",
        "webhook-id": sent.id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }


def verify(
    secrets: Sequence[str], given: Mapping[str, str], body: bytes, now: int, tolerance: int = TOLERANCE
) -> str:  # fmt: skip
    """The id of a message that one of these secrets signed, at most `tolerance` seconds from `now`
    (microseconds). Raises SignatureError. What our tests and our documentation's receiver use.

    Header names are lower case. Signatures of other schemes (`v1a,`) are passed over.
    """
    try:
        message_id, stamp = given["webhook-id"], given["webhook-timestamp"]
        signatures = given["webhook-signature"].split(" ")
    except KeyError as missing:
        raise SignatureError(f"no header {missing}") from missing
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 15):
        raise SignatureError("the timestamp is no whole number of seconds")
    timestamp = int(stamp)
    if abs(now // 1_000_000 - timestamp) > tolerance:
        raise SignatureError(f"the timestamp is more than {tolerance} s from now")
    expected = [signature(one, message_id, timestamp, body).encode() for one in secrets]
    found = [
        hmac.compare_digest(mine, theirs.encode())
        for mine in expected
        for theirs in signatures
        if theirs.startswith("v1,")
    ]
    if not any(found):
        raise SignatureError("no signature is of a secret that we know")
    return message_id
