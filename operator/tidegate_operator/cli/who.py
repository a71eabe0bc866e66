"""`tidegate org`, `tenant`, `project` and `service-account`: who uses the platform, and may what."""

import sys
from typing import Annotated, Any

import typer

from tidegate_operator.cli import options
from tidegate_operator.cli.options import AdminUrl, Data, IfMatch, Json, OfTenant, Tenant

org = typer.Typer(help="Organizations: what tenants belong to together.", no_args_is_help=True)
tenant_app = typer.Typer(help="Tenants: who pays.", no_args_is_help=True)
project_app = typer.Typer(help="Projects: parts of a tenant.", no_args_is_help=True)
account = typer.Typer(help="Programs that may call the management API.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME")]
Id = Annotated[str, typer.Argument(metavar="ID")]
Display = Annotated[str | None, typer.Option(help="A name for people.")]
Zone = Annotated[str | None, typer.Option(help="IANA time zone, as Europe/Berlin.")]
Plan = Annotated[
    str | None, typer.Option(help="postpaid, or prepaid: served as far as its credit goes.")
]
Organization = Annotated[str | None, typer.Option("--org", help="The organization.")]
Role = Annotated[str, typer.Option(help="owner | billing | developer | viewer")]

ORGS = ("id", "display_name", "created_at")
TENANTS = ("id", "organization", "display_name", "time_zone", "plan", "suspended", "created_at")
PROJECTS = ("id", "tenant", "name", "display_name", "archived", "created_at")
ACCOUNTS = ("id", "name", "role", "organization", "tenant", "created_at", "disabled_at")


def _one(row: dict[str, Any], columns: tuple[str, ...], *, as_json: bool) -> None:
    from tidegate_operator.cli import tables

    if as_json:
        return tables.print_json(row)
    return tables.print_rows([row], columns, "")


def _many(rows: list[dict[str, Any]], columns: tuple[str, ...], *, as_json: bool) -> None:
    from tidegate_operator.cli import tables

    if as_json:
        return tables.print_json({"data": rows})
    return tables.print_rows(rows, columns, "none")


@org.command("create")
def org_create(
    name: Name,
    display_name: Display = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Make an organization."""
    body = options.given(name=name, display_name=display_name)
    with options.client(data, admin_url) as client:
        _one(client.post("/api/v1/organizations", body), ORGS, as_json=as_json)


@org.command("list")
def org_list(data: Data = None, admin_url: AdminUrl = None, as_json: Json = False) -> None:
    """List organizations."""
    with options.client(data, admin_url) as client:
        _many(client.rows("/api/v1/organizations", "id"), ORGS, as_json=as_json)


@org.command("show")
def org_show(
    name: Name, data: Data = None, admin_url: AdminUrl = None, as_json: Json = False
) -> None:
    """Show an organization."""
    with options.client(data, admin_url) as client:
        _one(client.get(options.path("organizations", name)), ORGS, as_json=as_json)


@org.command("update")
def org_update(
    name: Name,
    display_name: Display = None,
    if_match: IfMatch = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Change what an organization is called for people."""
    body = options.given(display_name=display_name)
    with options.client(data, admin_url) as client:
        path = options.path("organizations", name)
        _one(client.patch(path, body, options.matching(if_match)), ORGS, as_json=as_json)


@tenant_app.command("create")
def tenant_create(
    name: Name,
    organization: Organization = None,
    display_name: Display = None,
    time_zone: Zone = None,
    plan: Plan = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Make a tenant."""
    body = options.given(
        name=name,
        organization=organization,
        display_name=display_name,
        time_zone=time_zone,
        plan=plan,
    )
    with options.client(data, admin_url) as client:
        _one(client.post("/api/v1/tenants", body), TENANTS, as_json=as_json)


@tenant_app.command("list")
def tenant_list(
    organization: Organization = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """List tenants."""
    with options.client(data, admin_url) as client:
        rows = client.rows("/api/v1/tenants", "id", organization=organization)
    _many(rows, TENANTS, as_json=as_json)


@tenant_app.command("show")
def tenant_show(
    name: Name, data: Data = None, admin_url: AdminUrl = None, as_json: Json = False
) -> None:
    """Show a tenant."""
    with options.client(data, admin_url) as client:
        _one(client.get(options.path("tenants", name)), TENANTS, as_json=as_json)


@tenant_app.command("update")
def tenant_update(
    name: Name,
    organization: Organization = None,
    display_name: Display = None,
    time_zone: Zone = None,
    plan: Plan = None,
    if_match: IfMatch = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Change a tenant's names, time zone or plan, or move it to another organization."""
    body = options.given(
        organization=organization, display_name=display_name, time_zone=time_zone, plan=plan
    )
    with options.client(data, admin_url) as client:
        path = options.path("tenants", name)
        _one(client.patch(path, body, options.matching(if_match)), TENANTS, as_json=as_json)


@tenant_app.command("suspend")
def tenant_suspend(
    name: Name, data: Data = None, admin_url: AdminUrl = None, as_json: Json = False
) -> None:
    """Refuse a tenant's keys, within a second."""
    with options.client(data, admin_url) as client:
        answer = client.patch(options.path("tenants", name), {"suspended": True})
    _one(answer, TENANTS, as_json=as_json)


@tenant_app.command("resume")
def tenant_resume(
    name: Name, data: Data = None, admin_url: AdminUrl = None, as_json: Json = False
) -> None:
    """Serve a suspended tenant's keys again."""
    with options.client(data, admin_url) as client:
        answer = client.patch(options.path("tenants", name), {"suspended": False})
    _one(answer, TENANTS, as_json=as_json)


@project_app.command("create")
def project_create(
    name: Name,
    tenant: Tenant,
    display_name: Display = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Make a project."""
    body = options.given(tenant=tenant, name=name, display_name=display_name)
    with options.client(data, admin_url) as client:
        _one(client.post("/api/v1/projects", body), PROJECTS, as_json=as_json)


@project_app.command("list")
def project_list(
    tenant: OfTenant = None,
    archived: Annotated[bool, typer.Option("--archived", help="Archived ones too.")] = False,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """List projects."""
    query = {"tenant": tenant, "archived": "true" if archived else None}
    with options.client(data, admin_url) as client:
        _many(client.rows("/api/v1/projects", "id", **query), PROJECTS, as_json=as_json)


@project_app.command("show")
def project_show(
    project_id: Id, data: Data = None, admin_url: AdminUrl = None, as_json: Json = False
) -> None:
    """Show a project."""
    with options.client(data, admin_url) as client:
        _one(client.get(options.path("projects", project_id)), PROJECTS, as_json=as_json)


@project_app.command("update")
def project_update(
    project_id: Id,
    display_name: Display = None,
    if_match: IfMatch = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Change what a project is called for people."""
    body = options.given(display_name=display_name)
    with options.client(data, admin_url) as client:
        path = options.path("projects", project_id)
        _one(client.patch(path, body, options.matching(if_match)), PROJECTS, as_json=as_json)


@project_app.command("archive")
def project_archive(
    project_id: Id, data: Data = None, admin_url: AdminUrl = None, as_json: Json = False
) -> None:
    """Archive a project, whose keys must have ended."""
    with options.client(data, admin_url) as client:
        answer = client.patch(options.path("projects", project_id), {"archived": True})
    _one(answer, PROJECTS, as_json=as_json)


@project_app.command("restore")
def project_restore(
    project_id: Id, data: Data = None, admin_url: AdminUrl = None, as_json: Json = False
) -> None:
    """Use an archived project again."""
    with options.client(data, admin_url) as client:
        answer = client.patch(options.path("projects", project_id), {"archived": False})
    _one(answer, PROJECTS, as_json=as_json)


def _with_token(made: dict[str, Any], *, as_json: bool) -> None:
    from tidegate_operator.cli import tables

    if as_json:
        return tables.print_json(made)
    print(made.get("token", ""))
    return print(f"token of {made.get('id')}; not shown again", file=sys.stderr)


@account.command("create")
def account_create(
    name: Name,
    role: Role,
    tenant: Annotated[str | None, typer.Option(help="It acts in this tenant alone.")] = None,
    organization: Organization = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Make a service account of a tenant or an organization. Its token is shown once."""
    if (tenant is None) == (organization is None):
        raise typer.BadParameter("say one of --tenant and --org")
    body = options.given(name=name, role=role, tenant=tenant, organization=organization)
    with options.client(data, admin_url) as client:
        _with_token(client.post("/api/v1/service-accounts", body), as_json=as_json)


@account.command("list")
def account_list(
    tenant: OfTenant = None,
    organization: Organization = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Ended ones too.")] = False,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """List service accounts."""
    flag = "true" if disabled else None
    query = {"tenant": tenant, "organization": organization, "disabled": flag}
    with options.client(data, admin_url) as client:
        _many(client.rows("/api/v1/service-accounts", "id", **query), ACCOUNTS, as_json=as_json)


@account.command("show")
def account_show(
    account_id: Id, data: Data = None, admin_url: AdminUrl = None, as_json: Json = False
) -> None:
    """Show a service account."""
    with options.client(data, admin_url) as client:
        _one(client.get(options.path("service-accounts", account_id)), ACCOUNTS, as_json=as_json)


@account.command("update")
def account_update(
    account_id: Id,
    name: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    role: Annotated[str | None, typer.Option(help="owner | billing | developer | viewer")] = None,
    if_match: IfMatch = None,
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Change a service account's name or role."""
    body = options.given(name=name, role=role)
    with options.client(data, admin_url) as client:
        path = options.path("service-accounts", account_id)
        _one(client.patch(path, body, options.matching(if_match)), ACCOUNTS, as_json=as_json)


@account.command("rotate")
def account_rotate(
    account_id: Id,
    overlap: Annotated[str, typer.Option(help="For so long both work: 1h, 2d; 0s: no.")] = "24h",
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Make a new token, shown once; older ones stop when the overlap is over."""
    body = {"overlap_seconds": options.seconds(overlap)}
    with options.client(data, admin_url) as client:
        path = options.path("service-accounts", account_id, "rotate")
        _with_token(client.post(path, body), as_json=as_json)


@account.command("disable")
def account_disable(
    account_id: Id, data: Data = None, admin_url: AdminUrl = None, as_json: Json = False
) -> None:
    """End a service account for good."""
    with options.client(data, admin_url) as client:
        answer = client.delete(options.path("service-accounts", account_id))
    _one(answer, ACCOUNTS, as_json=as_json)
