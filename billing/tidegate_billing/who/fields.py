"""Fields of bodies: their schemas for the document, and their checks, which name the field.

The checks are ours and not msgspec's, so that a refusal says what is allowed in words.
"""

import zoneinfo
from datetime import UTC, datetime
from typing import Annotated

from msgspec import Meta

from tidegate_billing.accounts import NAME_LENGTH, SLUG, name_error, slug_error
from tidegate_billing.web import bad

Slug = Annotated[str, Meta(extra_json_schema={"pattern": f"^{SLUG.pattern}$"})]
Words = Annotated[
    str,
    Meta(
        extra_json_schema={"maxLength": NAME_LENGTH, "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$"}
    ),
]
"""Printable characters; the pattern names the worst of what is not."""
Zone = Annotated[str, Meta(extra_json_schema={"examples": ["UTC", "Europe/Berlin"]})]
LAST_YEAR = 9000
END = int(datetime(LAST_YEAR, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
Future = Annotated[datetime, Meta(tz=True)]


def check_slug(param: str, value: str) -> None:
    """A name that stands in URLs."""
    wrong = slug_error(value)
    if wrong is not None:
        raise bad(param, wrong)


def check_name(param: str, value: str) -> None:
    """A name for people."""
    wrong = name_error(value)
    if wrong is not None:
        raise bad(param, wrong)


def check_zone(param: str, value: str) -> None:
    """A time zone of the IANA database."""
    if value not in zoneinfo.available_timezones() or value == "localtime":
        allowed = "a name of the IANA time zone database, as UTC or Europe/Berlin"
        raise bad(param, f"{value[:80]!r} is not a time zone; allowed: {allowed}")


def future(param: str, value: datetime, now: int) -> int:
    """A time to come, in microseconds of a whole second."""
    at = int(value.timestamp()) * 1_000_000
    if not now < at < END:
        allowed = f"a time to come, before the year {LAST_YEAR}"
        raise bad(param, f"{value.isoformat()} can't be used; allowed: {allowed}")
    return at
