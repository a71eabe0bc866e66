"""Flags that several commands have, and the platform that they lead to."""

import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from tidegate_billing import settings as config

if TYPE_CHECKING:
    from tidegate_operator.cli.platform import Client

Json = Annotated[bool, typer.Option("--json", help="One JSON document (or NDJSON) on stdout.")]
Data = Annotated[
    Path | None, typer.Option(help="Data directory of the local platform.", show_default=False)
]
AdminUrl = Annotated[str | None, typer.Option(help="Management API of the platform.")]
Tenant = Annotated[str, typer.Option(help="The tenant.")]
OfTenant = Annotated[str | None, typer.Option(help="Only this tenant's.")]
IfMatch = Annotated[str | None, typer.Option(help="Change it only if this is its ETag.")]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LONGEST = 10 * 366 * 24 * 3600


def client(data: Path | None, admin_url: str | None) -> "Client":
    """A connection to the platform that flags and environment name. Raises CommandError."""
    from tidegate_operator.cli import platform

    flags = {"DATA": str(data) if data else None, "ADMIN_URL": admin_url}
    values = config.read(flags, os.environ)
    if data and not admin_url:  # a flag wins over the environment's other way to a platform
        values.pop("ADMIN_URL", None)
        values.pop("ADMIN_TOKEN", None)
    return platform.Client(platform.find(values, os.environ))


def data(given: Path | None) -> Path:
    """The data directory of the local platform that flag and environment name."""
    from tidegate_operator.cli.places import default_data

    values = config.read({"DATA": str(given) if given else None}, os.environ)
    return Path(values["DATA"]) if values.get("DATA") else default_data(os.environ)


def path(kind: str, name: str, *more: str) -> str:
    """The management API's path of one object."""
    return "/".join((f"/api/v1/{kind}", quote(name, safe=""), *more))


def given(**fields: Any) -> dict[str, Any]:
    """A body of the fields that were given."""
    return {name: value for name, value in fields.items() if value is not None}


def matching(tag: str | None) -> Mapping[str, str]:
    """The header of `--if-match`."""
    return {} if tag is None else {"If-Match": tag}


def seconds(value: str) -> int:
    """A duration: `90s`, `45m`, `12h`, `30d`."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", value)
    if found is None:
        raise typer.BadParameter(f"{value!r} is not a duration; allowed: 90s, 45m, 12h, 30d")
    length = timedelta(**{_UNITS[found[2]]: int(found[1])}).total_seconds()
    if length > _LONGEST:
        raise typer.BadParameter(f"{value!r} is too long; allowed: up to ten years")
    return int(length)


def moment(value: str) -> str:
    """A time: RFC 3339 with its zone, or how long from now."""
    if re.fullmatch(r"[0-9]+[smhd]", value):
        return (datetime.now(UTC) + timedelta(seconds=seconds(value))).isoformat(timespec="seconds")
    try:
        read = datetime.fromisoformat(value)
    except ValueError:
        read = None
    if read is None or read.tzinfo is None:
        allowed = "2030-12-31T00:00:00Z, or from now on: 12h, 30d"
        raise typer.BadParameter(f"{value!r} is not a time; allowed: {allowed}")
    return read.isoformat()


def words(value: str) -> list[str]:
    """Names joined by commas."""
    names = [name.strip() for name in value.split(",")]
    if not all(names):
        raise typer.BadParameter(f"{value!r} has an empty name; allowed: names joined by commas")
    return names
