"""What the management API shows of organizations, tenants, projects, keys and service accounts.

The same values are `before` and `after` in the audit log. No secret and no digest is in any.
"""

import datetime as dt
from typing import Annotated, Generic, TypeVar

import msgspec
from msgspec import Meta

from tidegate_billing.who.roles import Role
from tidegate_billing.who.scopes import Limits

T = TypeVar("T")
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


def shown(microseconds: int) -> str:
    """A time in UTC as RFC 3339, to the second."""
    moment = dt.datetime.fromtimestamp(microseconds // 1_000_000, dt.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def shown_or_null(microseconds: int | None) -> str | None:
    """The same, of a time that may not have come."""
    return None if microseconds is None else shown(microseconds)


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some rows of a list; `has_more`: ask again `after` the last one."""

    data: list[T]
    has_more: bool


class Organization(msgspec.Struct, frozen=True, kw_only=True):
    """What tenants belong to together."""

    id: str
    name: str
    display_name: str
    created_at: Time


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """Who pays. `suspended`: the gateway refuses its keys. `plan`: `prepaid` is served only as far as
    its credit goes, `postpaid` gets an invoice."""

    id: str
    name: str
    created_at: Time
    organization: str | None
    display_name: str
    time_zone: str
    suspended: bool
    plan: str


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a tenant. `archived`: no key can be made in it."""

    id: str
    tenant: str
    name: str
    display_name: str
    created_at: Time
    archived: bool


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key as lists show it. `pepper_outdated`: it is hashed under a pepper of before; rotate it.
    `last_used_at` may be a minute old."""

    id: str
    prefix: str
    tenant: str
    project: str
    name: str
    created_at: Time
    revoked_at: Time | None
    expires_at: Time | None
    last_used_at: Time | None
    models: list[str] | None
    routes: list[str] | None
    limits: Limits | None
    rotated_from: str | None
    pepper_version: int
    pepper_outdated: bool


class MadeKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key that was just made. `key` is in this answer alone. What was not asked for is left out;
    `rotated_from_until`: until when the key works that this one follows."""

    id: str
    key: str
    prefix: str
    tenant: str
    project: str
    name: str
    created_at: Time
    expires_at: Time | None = None
    models: list[str] | None = None
    routes: list[str] | None = None
    limits: Limits | None = None
    rotated_from: str | None = None
    rotated_from_until: Time | None = None


class RevokedKey(Key, frozen=True, kw_only=True):
    """A key that does not work any more."""

    revoked: bool = True


class ServiceAccount(msgspec.Struct, frozen=True, kw_only=True):
    """A program's account. `tenant` null: it may act in all of its organization."""

    id: str
    name: str
    role: Role
    organization: str
    tenant: str | None
    created_at: Time
    disabled_at: Time | None


class MadeServiceAccount(ServiceAccount, frozen=True, kw_only=True):
    """A service account with a new token, which is in this answer alone. `tokens_until`: until when
    older tokens work."""

    token: str
    tokens_until: Time | None = None


class AuditHead(msgspec.Struct, frozen=True, kw_only=True):
    """The newest row's number and hash; note it elsewhere, and a log that was cut off is found."""

    seq: int
    hash: str
