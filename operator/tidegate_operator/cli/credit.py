"""`tidegate credit`: what tenants have paid ahead, and where it went."""

from typing import Annotated, Any

import typer

from tidegate_operator.cli import options
from tidegate_operator.cli.options import AdminUrl, Data, Json, OfTenant, Tenant

app = typer.Typer(help="Prepaid credit: grants, and what is left.", no_args_is_help=True)
Id = Annotated[str, typer.Argument(metavar="GRANT")]
Amount = Annotated[str, typer.Argument(metavar="AMOUNT", help="As 12.50.")]
Note = Annotated[str, typer.Option(help="Why, for whoever asks later.")]
GRANTS = (
    *("id", "tenant", "currency", "amount", "left", "priority", "starts_at", "expires_at"),
    "note",
)
PURSES = (
    *("currency", "balance", "granted", "burned", "owed", "expired", "refunded"),
    "voided",
)
ENTRIES = ("id", "movement", "kind", "account", "grant", "amount", "currency", "posted_at", "note")


def _shown(
    rows: list[dict[str, Any]], columns: tuple[str, ...], empty: str, *, as_json: bool
) -> None:
    from tidegate_operator.cli import tables

    if as_json:
        return tables.print_json({"data": rows})
    return tables.print_rows(rows, columns, empty)


def _one(row: dict[str, Any], *, as_json: bool) -> None:
    from tidegate_operator.cli import tables

    if as_json:
        return tables.print_json(row)
    return tables.print_rows([row], GRANTS, "")


@app.command("grant")
def grant(
    tenant: Tenant,
    amount: Amount,
    currency: Annotated[str, typer.Option(help="ISO 4217.")] = "USD",
    priority: Annotated[int, typer.Option(help="Lower burns first.")] = 0,
    starts: Annotated[
        str | None, typer.Option(help="2030-01-01T00:00:00Z, or 12h, 30d from now.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="2030-01-01T00:00:00Z, or 12h, 30d from now.")
    ] = None,
    note: Note = "",
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Give a tenant credit."""
    body = options.given(
        tenant=tenant,
        amount=amount,
        currency=currency,
        priority=priority,
        starts_at=None if starts is None else options.moment(starts),
        expires_at=None if expires is None else options.moment(expires),
        note=note,
    )
    with options.client(data, admin_url) as client:
        _one(client.post("/api/v1/credit-grants", body), as_json=as_json)


@app.command("list")
def list_(
    tenant: OfTenant = None, data: Data = None, admin_url: AdminUrl = None, as_json: Json = False
) -> None:
    """List grants and what is left of them."""
    with options.client(data, admin_url) as client:
        rows = client.rows("/api/v1/credit-grants", "id", tenant=tenant)
    _shown(rows, GRANTS, "no credit", as_json=as_json)


@app.command("show")
def show(
    tenant: Tenant, data: Data = None, admin_url: AdminUrl = None, as_json: Json = False
) -> None:
    """Show what a tenant may still spend."""
    with options.client(data, admin_url) as client:
        rows = client.get("/api/v1/credit", tenant=tenant)["data"]
    _shown(rows, PURSES, "no credit", as_json=as_json)


@app.command("entries")
def entries(
    tenant: OfTenant = None, data: Data = None, admin_url: AdminUrl = None, as_json: Json = False
) -> None:
    """List every movement's entries."""
    with options.client(data, admin_url) as client:
        rows = client.rows("/api/v1/credit-entries", "id", tenant=tenant)
    _shown(rows, ENTRIES, "nothing moved", as_json=as_json)


@app.command("refund")
def refund(
    grant_id: Id,
    amount: Amount,
    note: Note,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Write down that a part of what is left of a grant was paid back."""
    with options.client(data, admin_url) as client:
        path = options.path("credit-grants", grant_id, "refund")
        _one(client.post(path, {"amount": amount, "note": note}), as_json=as_json)


@app.command("void")
def void(
    grant_id: Id,
    note: Note,
    reclaim: Annotated[bool, typer.Option(help="What it has paid for, too.")] = False,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Take a grant back that should not have been."""
    with options.client(data, admin_url) as client:
        path = options.path("credit-grants", grant_id, "void")
        _one(client.post(path, {"reclaim": reclaim, "note": note}), as_json=as_json)
