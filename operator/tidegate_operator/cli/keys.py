"""`tidegate key`: API keys of tenants."""

import sys
from typing import Annotated

import typer

from tidegate_operator.cli import options
from tidegate_operator.cli.options import AdminUrl, Data, IfMatch, Json, OfTenant, Tenant

app = typer.Typer(help="API keys of tenants.", no_args_is_help=True)

KeyId = Annotated[str, typer.Argument(metavar="ID", help="The key's id (`key list`).")]
Expires = Annotated[
    str | None, typer.Option(help="When it stops: 2030-12-31T00:00:00Z, or from now on: 30d, 12h.")
]
Models = Annotated[str | None, typer.Option(help="Names and globs (qwen-*), joined by commas.")]
Routes = Annotated[str | None, typer.Option(help="chat, completions, embeddings, ...")]
Rpm = Annotated[int | None, typer.Option("--rpm", min=1, help="Requests a minute.")]
Tpm = Annotated[int | None, typer.Option("--tpm", min=1, help="Tokens a minute.")]
Concurrency = Annotated[int | None, typer.Option(min=1, help="Requests at once.")]


def _shown(made: dict[str, object], where: str) -> None:
    print(made.get("key", ""))
    print(f"key {made.get('id')} of {where}; not shown again", file=sys.stderr)


@app.command("create")
def create(
    tenant: Tenant,
    project: Annotated[str, typer.Option(help="Made when missing.")] = "default",
    name: Annotated[str, typer.Option(help="What the key is for.")] = "default",
    expires: Expires = None,
    models: Models = None,
    routes: Routes = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    max_concurrency: Concurrency = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Make a key (and its tenant and project). It is shown once and works at once."""
    from tidegate_operator.cli import tables

    limits = options.given(
        requests_per_minute=rpm, tokens_per_minute=tpm, max_concurrency=max_concurrency
    )
    body = options.given(
        tenant=tenant,
        project=project,
        name=name,
        expires_at=None if expires is None else options.moment(expires),
        models=None if models is None else options.words(models),
        routes=None if routes is None else options.words(routes),
        limits=limits or None,
    )
    with options.client(data, admin_url) as client:
        made = client.post("/api/v1/keys", body)
    if as_json:
        return tables.print_json(made)
    return _shown(made, f"{tenant}/{project}")


@app.command("list")
def list_(
    tenant: OfTenant = None,
    project: Annotated[str | None, typer.Option(help="Only this project's.")] = None,
    revoked: Annotated[bool, typer.Option("--revoked", help="Ended ones too.")] = False,
    old_pepper: Annotated[
        bool, typer.Option("--old-pepper", help="Only those hashed under a pepper of before.")
    ] = False,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """List keys and when each was last used, never their secrets."""
    from tidegate_operator.cli import tables

    query = {
        "tenant": tenant,
        "project": project,
        "revoked": "true" if revoked else None,
        "pepper_outdated": "true" if old_pepper else None,
    }
    with options.client(data, admin_url) as client:
        rows = client.rows("/api/v1/keys", "id", **query)
    if as_json:
        return tables.print_json({"data": rows})
    return tables.print_rows(rows, tables.KEY_COLUMNS, "no keys")


@app.command("show")
def show(
    key_id: KeyId, data: Data = None, admin_url: AdminUrl = None, as_json: Json = False
) -> None:
    """Show a key, never its secret."""
    from tidegate_operator.cli import tables

    with options.client(data, admin_url) as client:
        answer = client.get(options.path("keys", key_id))
    if as_json:
        return tables.print_json(answer)
    return tables.print_rows([answer], tables.KEY_COLUMNS, "no key")


@app.command("rotate")
def rotate(
    key_id: KeyId,
    overlap: Annotated[str, typer.Option(help="For so long both work: 1h, 2d; 0s: no.")] = "24h",
    expires: Expires = None,
    if_match: IfMatch = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Make a key's successor; the old one stops by itself when the overlap is over."""
    from tidegate_operator.cli import tables

    body = options.given(
        overlap_seconds=options.seconds(overlap),
        expires_at=None if expires is None else options.moment(expires),
    )
    with options.client(data, admin_url) as client:
        path = options.path("keys", key_id, "rotate")
        made = client.post(path, body, options.matching(if_match))
    if as_json:
        return tables.print_json(made)
    _shown(made, f"{made.get('tenant')}/{made.get('project')}")
    return print(f"{key_id} stops at {made.get('rotated_from_until')}", file=sys.stderr)


@app.command("update")
def update(
    key_id: KeyId,
    name: Annotated[str | None, typer.Option(help="What the key is for.")] = None,
    expires: Expires = None,
    models: Models = None,
    routes: Routes = None,
    if_match: IfMatch = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Change a key's name, end or scopes; `never` and `all` lift a bound."""
    from tidegate_operator.cli import tables

    body = options.given(name=name)
    if expires is not None:
        body["expires_at"] = None if expires == "never" else options.moment(expires)
    for field, value in (("models", models), ("routes", routes)):
        if value is not None:
            body[field] = None if value == "all" else options.words(value)
    with options.client(data, admin_url) as client:
        path = options.path("keys", key_id)
        answer = client.patch(path, body, options.matching(if_match))
    if as_json:
        return tables.print_json(answer)
    return tables.print_rows([answer], tables.KEY_COLUMNS, "no key")


@app.command("revoke")
def revoke(
    key_id: KeyId,
    if_match: IfMatch = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Revoke a key. Routers refuse it within a second."""
    from tidegate_operator.cli import tables

    with options.client(data, admin_url) as client:
        answer = client.delete(options.path("keys", key_id), options.matching(if_match))
    if as_json:
        return tables.print_json(answer or {"id": key_id, "revoked": True})
    return print(f"revoked {key_id}")
