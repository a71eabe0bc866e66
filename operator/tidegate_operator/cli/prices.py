"""`tidegate price-book`, `contract`, `rerate` and `ledger`: what things cost, and whether it adds up."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tidegate_operator.cli import options
from tidegate_operator.cli.failure import CommandError
from tidegate_operator.cli.options import AdminUrl, Data, IfMatch, Json, OfTenant

book = typer.Typer(help="Price books: what models cost.", no_args_is_help=True)
contract = typer.Typer(help="Contracts: what a tenant has of its own.", no_args_is_help=True)
ledger = typer.Typer(
    help="The ledger: what waits, what was refused, what drifts.", no_args_is_help=True
)

Document = Annotated[
    Path, typer.Option("--file", "-f", help="The document, YAML or JSON; - is stdin.")
]
Name = Annotated[str, typer.Argument(metavar="NAME")]
VERSIONS = ("number", "name", "tenant", "effective_from", "created_at", "withdrawn")
ADJUSTMENTS = (
    "id",
    "event_id",
    "tenant",
    "posted_at",
    "reason",
    "before",
    "after",
    "actor",
    "note",
)


def _read(path: Path) -> dict[str, Any]:
    """The document in a file. Raises CommandError."""
    import yaml

    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
        found = yaml.safe_load(text)
        json.dumps(found)
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise CommandError(f"{path} is neither YAML nor JSON: {error}") from None
    except TypeError:
        raise CommandError(f"{path} has a time without quotes; put it in quotes") from None
    if not isinstance(found, dict):
        raise CommandError(f"{path} is not one document; allowed: an object")
    return found


def _versions(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    from tidegate_operator.cli import tables

    if as_json:
        return tables.print_json({"data": rows})
    for row in rows:
        row["withdrawn"] = row["document"] is None
    return tables.print_rows(rows, VERSIONS, "none")


def _version(row: dict[str, Any], *, as_json: bool) -> None:
    from tidegate_operator.cli import tables

    if as_json:
        return tables.print_json(row)
    _versions([row], as_json=False)
    if row.get("released"):
        print(f"{row['released']} parked events have a price by it")
    return None


def _write(
    kind: str,
    file: Path,
    if_match: str | None,
    data: Path | None,
    admin_url: str | None,
    *,
    as_json: bool,
) -> None:
    body = _read(file)
    with options.client(data, admin_url) as client:
        row = client.post(f"/api/v1/{kind}", body, options.matching(if_match))
    _version(row, as_json=as_json)


def _withdraw(
    kind: str,
    name: str,
    if_match: str | None,
    data: Path | None,
    admin_url: str | None,
    *,
    as_json: bool,
) -> None:
    with options.client(data, admin_url) as client:
        row = client.delete(options.path(kind, name), options.matching(if_match))
    _version(row, as_json=as_json)


@book.command("write")
def book_write(
    file: Document,
    if_match: IfMatch = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Write a version of a price book; docs/prices.md says how one looks."""
    _write("price-books", file, if_match, data, admin_url, as_json=as_json)


@book.command("list")
def book_list(
    name: Annotated[str | None, typer.Option(help="Only of this book.")] = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """List versions of price books."""
    with options.client(data, admin_url) as client:
        _versions(client.rows("/api/v1/price-books", "number", name=name), as_json=as_json)


@book.command("show")
def book_show(
    name: Name, data: Data = None, admin_url: AdminUrl = None, as_json: Json = False
) -> None:
    """Show the newest version of a price book, whole."""
    _show("price-books", name, data, admin_url, as_json=as_json)


@book.command("withdraw")
def book_withdraw(
    name: Name,
    if_match: IfMatch = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """End a price book: it prices nothing from now on."""
    _withdraw("price-books", name, if_match, data, admin_url, as_json=as_json)


@book.command("suggest")
def book_suggest(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="As its provider calls it.")],
    provider: Annotated[str | None, typer.Option(help="As genai-prices calls it.")] = None,
) -> None:
    """Draft a book from public price lists, for a person to read: it prices nothing as it is."""
    from datetime import UTC, datetime

    from tidegate_billing.rates import suggest

    try:
        found = suggest.suggest(model, now=datetime.now(UTC), provider=provider)
    except suggest.NoSuggestion as error:
        raise CommandError(str(error)) from None
    print(json.dumps(found._asdict(), indent=2, ensure_ascii=False))


@contract.command("write")
def contract_write(
    file: Document,
    if_match: IfMatch = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Write a version of a tenant's contract; docs/prices.md says how one looks."""
    _write("contracts", file, if_match, data, admin_url, as_json=as_json)


@contract.command("list")
def contract_list(
    tenant: OfTenant = None, data: Data = None, admin_url: AdminUrl = None, as_json: Json = False
) -> None:
    """List versions of contracts."""
    with options.client(data, admin_url) as client:
        _versions(client.rows("/api/v1/contracts", "number", tenant=tenant), as_json=as_json)


@contract.command("show")
def contract_show(
    tenant: Annotated[str, typer.Argument(metavar="TENANT")],
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Show the newest version of a tenant's contract, whole."""
    _show("contracts", tenant, data, admin_url, as_json=as_json)


@contract.command("withdraw")
def contract_withdraw(
    tenant: Annotated[str, typer.Argument(metavar="TENANT")],
    if_match: IfMatch = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """End a tenant's contract now."""
    _withdraw("contracts", tenant, if_match, data, admin_url, as_json=as_json)


def _show(kind: str, name: str, data: Path | None, admin_url: str | None, *, as_json: bool) -> None:
    from tidegate_operator.cli import tables

    with options.client(data, admin_url) as client:
        row = client.get(options.path(kind, name))
    if as_json:
        return tables.print_json(row)
    return print(json.dumps(row["document"], indent=2, ensure_ascii=False))


@ledger.command("rerate")
def rerate(
    first: Annotated[str, typer.Option("--from", help="First month, YYYY-MM.")],
    note: Annotated[str, typer.Option(help="Why, for the adjustments and the audit log.")],
    last: Annotated[
        str | None, typer.Option("--to", help="Last month; default: the first.")
    ] = None,
    tenant: OfTenant = None,
    deployment: Annotated[str | None, typer.Option(help="Only NAMESPACE/NAME.")] = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Price usage again by the documents as they are now; differences become adjustments."""
    from tidegate_operator.cli import tables

    body = options.given(
        first=first, last=last or first, note=note, tenant=tenant, deployment=deployment
    )
    with options.client(data, admin_url) as client:
        answer = client.post("/api/v1/rerate", body)
    if as_json:
        return tables.print_json(answer)
    return print(f"{answer['changed']} events cost otherwise now")


@ledger.command("adjustments")
def adjustments(
    tenant: OfTenant = None,
    event_id: Annotated[str | None, typer.Option("--event", help="Only of this event.")] = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """List adjustments."""
    with options.client(data, admin_url) as client:
        rows = client.rows("/api/v1/adjustments", "id", tenant=tenant, event_id=event_id)
    _listed(rows, ADJUSTMENTS, "no adjustments", as_json=as_json)


@ledger.command("parked")
def parked(data: Data = None, admin_url: AdminUrl = None, as_json: Json = False) -> None:
    """List deployments whose usage waits for a price."""
    with options.client(data, admin_url) as client:
        rows = client.rows("/api/v1/parked", "deployment")
    _listed(rows, ("deployment", "events", "first_month"), "nothing waits", as_json=as_json)


@ledger.command("refused")
def refused(data: Data = None, admin_url: AdminUrl = None, as_json: Json = False) -> None:
    """List events that could not be kept, and why."""
    with options.client(data, admin_url) as client:
        rows = client.rows("/api/v1/refused", "id")
    _listed(rows, ("id", "at", "journal", "event_id", "reason"), "none", as_json=as_json)


def _listed(
    rows: list[dict[str, Any]], columns: tuple[str, ...], empty: str, *, as_json: bool
) -> None:
    from tidegate_operator.cli import tables

    if as_json:
        return tables.print_json({"data": rows})
    return tables.print_rows(rows, columns, empty)


@ledger.command("conservation")
def conservation(
    first: Annotated[
        str | None, typer.Option("--from", help="First day; default: yesterday.")
    ] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last day; default: today.")] = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Compare engines with the ledger, and the ledger with its rollups; exit code 1 on a difference."""
    from tidegate_operator.cli import tables

    with options.client(data, admin_url) as client:
        epochs = client.rows("/api/v1/conservation", "epoch")
        days = client.get(
            "/api/v1/conservation/days", **options.given(**{"from": first, "to": last})
        )
    off = [row for row in epochs if row["unexplained"]]
    if as_json:
        tables.print_json({"epochs": epochs, "days": days})
    else:
        for row in off:
            print(
                f"engine {row['epoch']} of {row['model']}: {row['unexplained']} tokens unexplained"
            )
        for row in days["data"]:
            print(row["says"])
        if not off and not days["data"]:
            print(f"{len(epochs)} engine epochs and {days['first']} to {days['last']} add up")
    if off or days["data"]:
        raise typer.Exit(1)
