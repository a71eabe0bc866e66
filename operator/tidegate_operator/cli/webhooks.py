"""`tidegate webhook`: where a tenant's messages go, and what became of each."""

import sys
from typing import Annotated, Any

import typer

from tidegate_operator.cli import options
from tidegate_operator.cli.options import AdminUrl, Data, IfMatch, Json, OfTenant, Tenant

app = typer.Typer(help="Webhooks: who is told of budgets and credit.", no_args_is_help=True)
Id = Annotated[str, typer.Argument(metavar="ENDPOINT")]
Url = Annotated[str, typer.Argument(metavar="URL", help="https://HOST/PATH")]
Events = Annotated[
    str | None, typer.Option(help="Kinds of messages, joined by commas; all: every kind.")
]
Description = Annotated[str | None, typer.Option(help="What it is, for people.")]
ENDPOINTS = ("id", "tenant", "url", "events", "description", "disabled_at", "disabled_reason")
DELIVERIES = ("id", "message", "endpoint", "state", "tries", "created_at", "next_try_at")
TRIES = ("number", "at", "took_ms", "status", "note", "state", "next_try_at")


def _shown(row: dict[str, Any], columns: tuple[str, ...], *, as_json: bool) -> None:
    from tidegate_operator.cli import tables

    if as_json:
        return tables.print_json(row)
    return tables.print_rows([_flat(row)], columns, "")


def _listed(
    rows: list[dict[str, Any]], columns: tuple[str, ...], empty: str, *, as_json: bool
) -> None:
    from tidegate_operator.cli import tables

    if as_json:
        return tables.print_json({"data": rows})
    return tables.print_rows([_flat(row) for row in rows], columns, empty)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    if "events" not in row:
        return row
    return {**row, "events": "all" if row["events"] is None else ", ".join(row["events"])}


def _secret(row: dict[str, Any], *, as_json: bool) -> None:
    """An endpoint with a new secret, which alone goes to stdout where people read."""
    from tidegate_operator.cli import tables

    if as_json:
        return tables.print_json(row)
    print(f"{row['id']} -> {row['url']}; its secret, which is shown this once:", file=sys.stderr)
    print(row["secret"])
    return None


def _events(value: str) -> list[str] | None:
    return None if value == "all" else options.words(value)


@app.command("create")
def create(
    tenant: Tenant,
    url: Url,
    events: Events = None,
    description: Description = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Make an endpoint; the secret that signs its messages is shown once."""
    body = options.given(
        tenant=tenant,
        url=url,
        events=None if events is None else _events(events),
        description=description,
    )
    with options.client(data, admin_url) as client:
        _secret(client.post("/api/v1/webhook-endpoints", body), as_json=as_json)


@app.command("list")
def list_(
    tenant: OfTenant = None, data: Data = None, admin_url: AdminUrl = None, as_json: Json = False
) -> None:
    """List endpoints."""
    with options.client(data, admin_url) as client:
        rows = client.rows("/api/v1/webhook-endpoints", "id", tenant=tenant)
    _listed(rows, ENDPOINTS, "no endpoints", as_json=as_json)


@app.command("show")
def show(
    endpoint: Id, data: Data = None, admin_url: AdminUrl = None, as_json: Json = False
) -> None:
    """Show an endpoint."""
    with options.client(data, admin_url) as client:
        row = client.get(options.path("webhook-endpoints", endpoint))
    _shown(row, ENDPOINTS, as_json=as_json)


@app.command("update")
def update(
    endpoint: Id,
    url: Annotated[str | None, typer.Option(help="https://HOST/PATH")] = None,
    events: Events = None,
    description: Description = None,
    enabled: Annotated[
        bool | None, typer.Option("--enable/--disable", help="Send to it, or not.")
    ] = None,
    if_match: IfMatch = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Change an endpoint, disable it, or enable it again."""
    body = options.given(
        url=url, description=description, disabled=None if enabled is None else not enabled
    )
    if events is not None:
        body["events"] = _events(events)
    with options.client(data, admin_url) as client:
        path = options.path("webhook-endpoints", endpoint)
        row = client.patch(path, body, options.matching(if_match))
    _shown(row, ENDPOINTS, as_json=as_json)


@app.command("delete")
def delete(
    endpoint: Id,
    if_match: IfMatch = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """End an endpoint, and forget its secrets."""
    with options.client(data, admin_url) as client:
        path = options.path("webhook-endpoints", endpoint)
        row = client.delete(path, options.matching(if_match))
    _shown(row, ENDPOINTS, as_json=as_json)


@app.command("rotate")
def rotate(
    endpoint: Id,
    overlap: Annotated[
        str, typer.Option(help="For so long older secrets sign along: 0s, 12h, 3d.")
    ] = "24h",
    if_match: IfMatch = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Make a new secret, which is shown once."""
    body = {"overlap_seconds": options.seconds(overlap)}
    with options.client(data, admin_url) as client:
        path = options.path("webhook-endpoints", endpoint, "rotate")
        _secret(client.post(path, body, options.matching(if_match)), as_json=as_json)


@app.command("test")
def send_test(
    endpoint: Id, data: Data = None, admin_url: AdminUrl = None, as_json: Json = False
) -> None:
    """Send a message that means nothing; `webhook deliveries` shows whether it arrived."""
    with options.client(data, admin_url) as client:
        row = client.post(options.path("webhook-endpoints", endpoint, "test"), {})
    _shown(row, DELIVERIES, as_json=as_json)


@app.command("deliveries")
def deliveries(
    delivery: Annotated[
        str | None, typer.Argument(metavar="[DELIVERY]", help="This one, with every try.")
    ] = None,
    tenant: OfTenant = None,
    endpoint: Annotated[str | None, typer.Option(help="Only to this endpoint.")] = None,
    message: Annotated[str | None, typer.Option(help="Only of this message.")] = None,
    state: Annotated[str | None, typer.Option(help="waiting | delivered | gone | failed")] = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """List deliveries, or show the tries of one."""
    with options.client(data, admin_url) as client:
        if delivery is None:
            query = {"tenant": tenant, "endpoint": endpoint, "message": message, "state": state}
            rows = client.rows("/api/v1/webhook-deliveries", "id", **query)
            return _listed(rows, DELIVERIES, "no deliveries", as_json=as_json)
        row = client.get(options.path("webhook-deliveries", delivery))
    _shown(row, DELIVERIES, as_json=as_json)
    if not as_json:
        _listed(row["log"], TRIES, "not tried yet", as_json=False)
    return None


@app.command("replay")
def replay(
    delivery: Annotated[str, typer.Argument(metavar="DELIVERY")],
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Send a message once more, under the id that it has."""
    with options.client(data, admin_url) as client:
        row = client.post(options.path("webhook-deliveries", delivery, "replay"), {})
    _shown(row, DELIVERIES, as_json=as_json)
