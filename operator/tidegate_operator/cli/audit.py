"""`tidegate audit`: what was changed and by whom, and whether that record was tampered with.

The chain is computed anew here, from the rows and with nothing but SHA-256, so that a server that
lies about its own log has to lie consistently from the first row on. Even that is found by a head
that was noted elsewhere (`--since-head`).
"""

import re
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate_operator.cli import options
from tidegate_operator.cli.failure import CommandError
from tidegate_operator.cli.options import AdminUrl, Data, Json, OfTenant

if TYPE_CHECKING:
    from tidegate_billing.who.chain import Verdict
    from tidegate_operator.cli.platform import Client

app = typer.Typer(help="What was changed, and by whom.", no_args_is_help=True)
COLUMNS = ("seq", "time", "actor", "action", "object_id", "tenant")
PAGE = 1000


@app.command("list")
def list_(
    tenant: OfTenant = None,
    organization: Annotated[str | None, typer.Option("--org", help="Only its changes.")] = None,
    actor: Annotated[str | None, typer.Option(help="admin, operator or an account's id.")] = None,
    action: Annotated[str | None, typer.Option(help="As key.create.")] = None,
    object_id: Annotated[str | None, typer.Option("--object", help="The object's id.")] = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """List changes, oldest first."""
    from datetime import UTC, datetime

    from tidegate_operator.cli import tables

    query = {
        "tenant": tenant,
        "organization": organization,
        "actor": actor,
        "action": action,
        "object_id": object_id,
    }
    with options.client(data, admin_url) as client:
        rows = client.rows("/api/v1/audit", "seq", **query)
    if as_json:
        return tables.print_json({"data": rows})
    for row in rows:
        row["time"] = datetime.fromtimestamp(row["at"] // 1_000_000, UTC).isoformat()
    return tables.print_rows(rows, COLUMNS, "no changes")


def _hash(value: str | None) -> str | None:
    if value is not None and not re.fullmatch("[0-9a-f]{64}", value):
        raise typer.BadParameter(f"{value[:80]!r} is not a hash; allowed: 64 characters 0-9, a-f")
    return value


@app.command("verify")
def verify(
    since_head: Annotated[
        str | None,
        typer.Option(callback=_hash, help="A head noted before; it must still be there."),
    ] = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Compute the whole chain anew; note the head it prints somewhere else."""
    from tidegate_operator.cli import tables

    with options.client(data, admin_url) as client:
        verdict = _walk(client, since_head)
    if as_json:
        answer = {**verdict._asdict(), "ok": not verdict.broken}
        tables.print_json(answer)
        raise typer.Exit(1 if verdict.broken else 0)
    if verdict.broken:
        raise CommandError(f"the audit log was tampered with: {verdict.broken}")
    print(f"OK {verdict.rows} rows, head {verdict.head}")


def _walk(client: "Client", noted: str | None) -> "Verdict":
    """Verify page by page. The server's head and the noted one must both be among the rows."""
    import msgspec

    from tidegate_billing.who import chain

    missing = {str(client.get("/api/v1/audit/head")["hash"])}
    if noted is not None:
        missing.add(noted)
    missing.discard(chain.GENESIS)
    verdict = chain.verify([])
    while True:
        page = client.get("/api/v1/audit", limit=PAGE, after=verdict.rows)
        try:
            rows = msgspec.convert(page["data"], list[chain.Entry])
        except msgspec.ValidationError as error:
            return verdict._replace(broken=f"a row after row {verdict.rows} is no row: {error}")
        verdict = chain.verify(rows, verdict)
        missing -= {row.hash for row in rows}
        if verdict.broken:
            return verdict
        if not rows or not page["has_more"]:
            break
    if noted in missing:
        return verdict._replace(broken=f"it was cut off or written anew: no row has {noted}")
    if missing:
        return verdict._replace(broken="its head is not among its rows")
    return verdict
