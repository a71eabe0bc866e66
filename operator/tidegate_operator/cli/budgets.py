"""`tidegate budget`: how much may be spent in a window, and how far it is."""

from typing import Annotated, Any

import typer

from tidegate_operator.cli import options
from tidegate_operator.cli.options import AdminUrl, Data, IfMatch, Json, OfTenant, Tenant

app = typer.Typer(help="Budgets: soft ones tell, hard ones stop.", no_args_is_help=True)
Id = Annotated[str, typer.Argument(metavar="BUDGET")]
Thresholds = Annotated[
    str | None, typer.Option(help="Percents that are told, as 50,80,100; none: nothing is.")
]
COLUMNS = (
    *("id", "tenant", "scope", "subject", "period", "time_zone", "limit", "currency", "hard"),
    "thresholds",
)
STATE = (
    *("id", "tenant", "scope", "subject", "period", "limit", "currency", "hard", "spent", "left"),
    *("reached", "start", "end"),
)


def _shown(row: dict[str, Any], columns: tuple[str, ...], *, as_json: bool) -> None:
    from tidegate_operator.cli import tables

    if as_json:
        return tables.print_json(row)
    return tables.print_rows([_flat(row)], columns, "")


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row for a table: percents in one cell, the window as two columns."""
    told = {
        name: ",".join(map(str, row[name])) for name in ("thresholds", "reached") if name in row
    }
    return {**row, **row.get("window", {}), **told}


def percents(value: str | None) -> list[int] | None:
    """What `--thresholds` says."""
    if value is None or value == "none":
        return None if value is None else []
    words = options.words(value)
    if not all(word.isascii() and word.isdigit() and len(word) < 5 for word in words):
        raise typer.BadParameter(f"{value!r} is no list of percents; allowed: 50,80,100, or none")
    return [int(word) for word in words]


@app.command("create")
def create(
    tenant: Tenant,
    limit: Annotated[str, typer.Option(help="As 100 or 12.50.")],
    period: Annotated[str, typer.Option(help="day | week | month | quarter | year | total")],
    project: Annotated[str | None, typer.Option(help="Of this project, by its name.")] = None,
    key: Annotated[str | None, typer.Option(help="Of this key, by its id.")] = None,
    currency: Annotated[str | None, typer.Option(help="ISO 4217; USD.")] = None,
    time_zone: Annotated[str | None, typer.Option(help="IANA time zone; the tenant's.")] = None,
    hard: Annotated[bool, typer.Option("--hard", help="Stop at the limit.")] = False,
    thresholds: Thresholds = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Make a budget of a tenant, of a project or of a key."""
    if project is not None and key is not None:
        raise typer.BadParameter("--project and --key: give one of them, or none for the tenant")
    scope = "project" if project is not None else "key" if key is not None else None
    body = options.given(
        tenant=tenant,
        scope=scope,
        subject=project if project is not None else key,
        period=period,
        limit=limit,
        currency=currency,
        time_zone=time_zone,
        hard=hard or None,
        thresholds=percents(thresholds),
    )
    with options.client(data, admin_url) as client:
        _shown(client.post("/api/v1/budgets", body), COLUMNS, as_json=as_json)


@app.command("list")
def list_(
    tenant: OfTenant = None, data: Data = None, admin_url: AdminUrl = None, as_json: Json = False
) -> None:
    """List budgets."""
    from tidegate_operator.cli import tables

    with options.client(data, admin_url) as client:
        rows = client.rows("/api/v1/budgets", "id", tenant=tenant)
    if as_json:
        return tables.print_json({"data": rows})
    return tables.print_rows([_flat(row) for row in rows], COLUMNS, "no budgets")


@app.command("show")
def show(budget: Id, data: Data = None, admin_url: AdminUrl = None, as_json: Json = False) -> None:
    """Show a budget, and what was spent of it in the window of now."""
    with options.client(data, admin_url) as client:
        _shown(client.get(options.path("budgets", budget)), STATE, as_json=as_json)


@app.command("update")
def update(
    budget: Id,
    limit: Annotated[str | None, typer.Option(help="As 100 or 12.50.")] = None,
    time_zone: Annotated[
        str | None, typer.Option(help="IANA time zone; tenant: whatever the tenant's is.")
    ] = None,
    hard: Annotated[bool | None, typer.Option("--hard/--soft", help="Stop, or only tell.")] = None,
    thresholds: Thresholds = None,
    if_match: IfMatch = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Change a budget."""
    body = options.given(limit=limit, hard=hard, thresholds=percents(thresholds))
    if time_zone is not None:
        body["time_zone"] = None if time_zone == "tenant" else time_zone
    with options.client(data, admin_url) as client:
        path = options.path("budgets", budget)
        row = client.patch(path, body, options.matching(if_match))
    _shown(row, COLUMNS, as_json=as_json)


@app.command("delete")
def delete(
    budget: Id,
    if_match: IfMatch = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """End a budget: it counts, tells and stops nothing any more."""
    with options.client(data, admin_url) as client:
        row = client.delete(options.path("budgets", budget), options.matching(if_match))
    _shown(row, COLUMNS, as_json=as_json)
