"""A POST that may be sent again: `Idempotency-Key`, and the one answer it has for 24 hours.

The answer is kept in the transaction that makes the change, and writers are one at a time, so two
requests at once with one key are one change and two equal answers. Errors are not kept: nothing was
done. A key may not be used for another request.

No secret is kept, not even encrypted. A secret that is made under an idempotency key is derived
from the pepper, the key as the caller sent it, and a random nonce; the nonce is kept, the key only
as a digest. Who repeats the request has the key and we have the pepper: together we derive the same
secret again. Who has the database alone has neither, and after 24 hours the nonce is gone too.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, delete, insert, select

from tidegate_billing.keys import current
from tidegate_billing.who.tables import IDEMPOTENCY

KEPT = 24 * 3600 * 1_000_000
LONGEST = 255


class Claim(NamedTuple):
    """One request under an idempotency key. `ids` by pepper version: the newest is written."""

    ids: dict[int, str]
    name: bytes
    fingerprint: str


class Kept(NamedTuple):
    """The answer that was given."""

    status: int
    body: dict[str, Any]
    etag: str


class Reused(Exception):
    """The key was used for another request."""


class Underivable(Exception):
    """The pepper under which the answer's secret was made is gone."""


def key_error(value: str) -> str | None:
    """What is wrong with an idempotency key, or None."""
    if 1 <= len(value) <= LONGEST and all("!" <= character <= "~" for character in value):
        return None
    allowed = f"1 to {LONGEST} visible ASCII characters, best a random UUID"
    return f"is not a key; allowed: {allowed}"


def claim(
    peppers: Mapping[int, bytes], *, principal: str, key: str, target: str, body: bytes
) -> Claim:
    """What `key` stands for when `principal` sends `body` to `target`."""
    name = f"{principal}\0{key}".encode()
    ids = {version: _mac(pepper, b"id", name).hex() for version, pepper in peppers.items()}
    content = target.encode() + b"\0" + body
    return Claim(ids, name, hashlib.sha256(content).hexdigest())


def new_nonce() -> str:
    """Randomness for one answer."""
    return secrets.token_hex(24)


def derived(pepper: bytes, name: bytes, nonce: str, start: str) -> str:
    """A secret of 192 bits that only this pepper, this key and this nonce give."""
    made = _mac(pepper, b"secret", name + b"\0" + nonce.encode())[:24]
    return start + base64.urlsafe_b64encode(made).decode()


def _mac(pepper: bytes, use: bytes, content: bytes) -> bytes:
    return hmac.digest(pepper, b"idempotency\0" + use + b"\0" + content, "sha256")


def known(
    connection: Connection, claimed: Claim, peppers: Mapping[int, bytes], now: int
) -> Kept | None:
    """The answer that was given to this request, if one was. Raises Reused, Underivable."""
    row = connection.execute(
        select(IDEMPOTENCY).where(
            IDEMPOTENCY.c.id.in_(claimed.ids.values()), IDEMPOTENCY.c.created_at > now - KEPT
        )
    ).first()
    if row is None:
        return None
    if row.fingerprint != claimed.fingerprint:
        raise Reused
    body: dict[str, Any] = msgspec.json.decode(row.body)
    if row.secret_field:
        pepper = peppers.get(row.pepper_version)
        if pepper is None:
            raise Underivable
        body[row.secret_field] = derived(pepper, claimed.name, row.nonce, row.secret_start)
    return Kept(row.status, body, row.etag)


def keep(
    connection: Connection,
    claimed: Claim,
    answer: Kept,
    *,
    secret: tuple[str, str],
    nonce: str,
    peppers: Mapping[int, bytes],
    now: int,
) -> None:
    """Keep an answer, without the secret in its field `secret[0]`, which begins as `secret[1]`;
    and forget those whose time is over."""
    connection.execute(delete(IDEMPOTENCY).where(IDEMPOTENCY.c.created_at <= now - KEPT))
    field, start = secret
    body = {**answer.body, field: ""} if field else answer.body
    connection.execute(
        insert(IDEMPOTENCY).values(
            id=claimed.ids[current(peppers)],
            fingerprint=claimed.fingerprint,
            status=answer.status,
            body=msgspec.json.encode(body).decode(),
            etag=answer.etag,
            secret_field=field,
            secret_start=start,
            nonce=nonce,
            pepper_version=current(peppers),
            created_at=now,
        )
    )
