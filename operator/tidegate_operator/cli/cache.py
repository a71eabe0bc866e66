"""`tidegate cache`: what lies in the cache directory, and throwing away what nobody uses."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate_operator.cli import options
from tidegate_operator.cli.failure import CommandError
from tidegate_operator.cli.options import Json

if TYPE_CHECKING:
    from tidegate_operator.local.shelf import Entry

app = typer.Typer(
    help="Models and engines that were fetched to this machine.", no_args_is_help=True
)

Folder = Annotated[
    Path | None, typer.Option("--cache", help="The cache directory.", show_default=False)
]


@app.command("list")
def list_entries(cache: Folder = None, as_json: Json = False) -> None:
    """List what is there, with sizes and the time of its last use."""
    from tidegate_operator.local import shelf

    place = _place(cache)
    found = shelf.entries(place)
    if as_json:
        return _json({"cache": str(place), "data": [_row(one) for one in found]})
    return _table(found, f"{place} is empty")


@app.command()
def prune(
    cache: Folder = None,
    older_than: Annotated[
        str, typer.Option(help="Not used for so long: 90s, 45m, 12h, 30d.")
    ] = "30d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Throw away what has not been used for a while; never what a running platform uses."""
    from tidegate_operator.local import shelf

    place = _place(cache)
    gone = shelf.stale(shelf.entries(place), time.time(), options.seconds(older_than))
    if not dry_run:
        try:
            gone = [entry for entry in gone if shelf.remove(place, entry)]
        except OSError as error:
            raise CommandError(f"{error.filename or place}: {error.strerror}") from error
    if as_json:
        freed = sum(entry.size for entry in gone)
        data = [_row(one) for one in gone]
        return _json({"cache": str(place), "dry_run": dry_run, "freed": freed, "data": data})
    return _table(gone, f"nothing to throw away in {place}")


def _place(cache: Path | None) -> Path:
    from tidegate_billing import settings as config
    from tidegate_operator.cli.places import default_cache

    values = config.read({"CACHE": str(cache) if cache else None}, os.environ)
    place = Path(values["CACHE"]) if "CACHE" in values else default_cache(os.environ)
    return place.expanduser().absolute()


def _row(entry: "Entry") -> dict[str, Any]:
    return {
        "kind": entry.kind,
        "name": entry.name,
        "size": entry.size,
        "used": int(entry.used),
        "busy": entry.busy,
        "path": str(entry.path),
    }


def _json(value: dict[str, Any]) -> None:
    from tidegate_operator.cli import tables

    tables.print_json(value)


def _table(found: "list[Entry]", otherwise: str) -> None:
    from tidegate_operator.cli import tables

    rows = [
        {
            "kind": entry.kind,
            "name": entry.name,
            "size": f"{entry.size / 2**20:,.1f} MiB",
            "used": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime(entry.used)),
            "now": "in use" if entry.busy else "",
        }
        for entry in found
    ]
    tables.print_rows(rows, ("kind", "name", "size", "used", "now"), otherwise)
    if rows:
        print(f"{sum(entry.size for entry in found) / 2**20:,.1f} MiB in all")
