"""The management API: what operators of the platform see and change, as the CLI shows it."""

import datetime as dt
from collections.abc import Sequence
from typing import TypeVar, cast

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidegate_billing import accounts, internal, ledger, openapi
from tidegate_billing.database import DatabaseDown
from tidegate_billing.service import Service, conservation, log, now
from tidegate_billing.web import MONTH, ApiError, bad, body, day, guarded, iso, limit, only, reply

T = TypeVar("T")
APPLY_SECONDS = 1.0
"""How long a new or revoked key waits for the routers to work by it."""
KINDS = ("settlement", "attempt", "orphan")


class NewTenant(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/v1/tenants`."""

    name: str


class NewKey(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/v1/keys`."""

    tenant: str
    project: str = "default"
    name: str = ""


def build(service: Service) -> Starlette:
    """The application of the management port: the API and the internal links."""
    api = Api(service)

    def route(path: str, method: str, handler: str) -> Route:
        endpoint = guarded(service.admin_token, getattr(api, handler))
        return Route("/api/v1" + path, endpoint, methods=[method])

    routes = [
        route("/tenants", "POST", "make_tenant"),
        route("/tenants", "GET", "list_tenants"),
        route("/keys", "POST", "make_key"),
        route("/keys", "GET", "list_keys"),
        route("/keys/{id}", "DELETE", "revoke_key"),
        route("/usage", "GET", "usage"),
        route("/invoices/{month}", "GET", "invoice"),
        route("/events", "GET", "events"),
        route("/conservation", "GET", "conservation"),
        route("/openapi.json", "GET", "openapi"),
        *internal.routes(service),
    ]
    handlers = {
        ApiError: _api_error,
        HTTPException: _http_error,
        SQLAlchemyError: _database_error,
        DatabaseDown: _database_error,
        500: _our_error,
    }
    return Starlette(routes=routes, exception_handlers=handlers)


async def _api_error(_request: Request, error: Exception) -> Response:
    return cast("ApiError", error).response()


async def _http_error(request: Request, error: Exception) -> Response:
    status = cast("HTTPException", error).status_code
    message = f"{request.method} {request.url.path} is not a route of this server"
    return ApiError(status, "unknown_route", message).response()


async def _database_error(request: Request, error: Exception) -> Response:
    # The statement and its values stay out of the log: they hold digests and tenants' ids.
    cause = str(getattr(error, "orig", "") or "")[:200]
    log.error(
        "database_failed",
        alarm=True,
        path=request.url.path,
        error=type(error).__name__,
        cause=cause,
    )
    return ApiError(503, "ledger_unavailable", "the database failed; try again").response()


async def _our_error(_request: Request, _error: Exception) -> Response:
    return ApiError(500, "internal_error", "billing failed; its log says how").response()


class Api:
    """One method a route."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def make_tenant(self, request: Request) -> Response:
        """Make a tenant: postpaid, without limits."""
        wanted = await body(request, NewTenant)
        _check_slug("name", wanted.name)
        made_at = now()
        made = await self._service.database.write(
            lambda connection: accounts.ensure_tenant(connection, wanted.name, made_at)
        )
        if not made:
            raise ApiError(409, "tenant_exists", f"name: tenant {wanted.name!r} exists", "name")
        self._service.snapshots.change(tenants=[wanted.name])
        return reply(_tenant(wanted.name, made_at), 201)

    async def list_tenants(self, request: Request) -> Response:
        """Every tenant, in the order they were made."""
        only(request, {"limit", "after"})
        size, after = limit(request, 100, 1000), request.query_params.get("after")
        rows = await self._service.database.read(
            lambda connection: accounts.tenants(connection, size + 1, after)
        )
        return _page([_tenant(*row) for row in _known(rows, after)], size)

    async def make_key(self, request: Request) -> Response:
        """Make a key, shown in this one answer; connected routers know it when that is given."""
        wanted = await body(request, NewKey)
        _check_slug("tenant", wanted.tenant)
        _check_slug("project", wanted.project)
        if len(wanted.name) > accounts.NAME_LENGTH or not wanted.name.isprintable():
            allowed = f"up to {accounts.NAME_LENGTH} printable characters"
            raise bad("name", f"is not a name; allowed: {allowed}")
        service = self._service
        made = await service.database.write(
            lambda connection: accounts.make_key(
                connection,
                tenant=wanted.tenant,
                project=wanted.project,
                name=wanted.name,
                peppers=service.peppers,
                now=now(),
            )
        )
        tenants = [wanted.tenant] if made.new_tenant else []
        await self._applied(service.snapshots.change(keys=[made.view], tenants=tenants))
        log.info("key_made", id=made.row.id, tenant=made.row.tenant)
        shown = _key(made.row)
        del shown["revoked_at"]
        return reply({"id": shown.pop("id"), "key": made.key, **shown}, 201)

    async def list_keys(self, request: Request) -> Response:
        """Keys that work; with `revoked=true`, those that do not any more too."""
        only(request, {"tenant", "revoked", "limit", "after"})
        given = request.query_params
        revoked = given.get("revoked", "false")
        if revoked not in {"true", "false"}:
            raise bad("revoked", f"{revoked!r} is neither; allowed: true, false")
        size, after = limit(request, 100, 1000), given.get("after")
        rows = await self._service.database.read(
            lambda connection: accounts.list_keys(
                connection,
                tenant=given.get("tenant"),
                revoked=revoked == "true",
                limit=size + 1,
                after=after,
            )
        )
        return _page([_key(row) for row in _known(rows, after)], size)

    async def revoke_key(self, request: Request) -> Response:
        """Revoke a key for good; connected routers refuse it when this is answered."""
        key_id = request.path_params["id"]
        row = await self._service.database.write(
            lambda connection: accounts.revoke_key(connection, key_id, now())
        )
        if row is None:
            raise ApiError(404, "key_not_found", f"id: there is no key {key_id[:80]!r}", "id")
        await self._applied(self._service.snapshots.change(removed_keys=[key_id]))
        log.info("key_revoked", id=row.id, tenant=row.tenant)
        return reply({**_key(row), "revoked": True})

    async def _applied(self, version: int) -> None:
        if not await self._service.snapshots.applied(version, APPLY_SECONDS):
            log.warning("snapshot_ack_late", version=version)

    async def usage(self, request: Request) -> Response:
        """A tenant's billed usage by model, key and day."""
        only(request, {"tenant", "from", "to", "by"})
        tenant = _tenant_param(request)
        first, last = _period(request)
        by = request.query_params.get("by", "model").split(",")
        for name in by:
            if name not in ledger.DIMENSIONS:
                allowed = "any of " + ", ".join(ledger.DIMENSIONS)
                raise bad("by", f"{name!r} is not a dimension; allowed: {allowed}")

        def query(connection: Connection) -> dict[str, object]:
            _check_tenant(connection, tenant)
            rows = ledger.usage(connection, tenant=tenant, first=first, last=last, by=by)
            return {
                "data": rows,
                "unshipped": ledger.unshipped(connection),
                "parked": ledger.parked(connection, tenant),
            }

        return reply(await self._service.database.read(query))

    async def invoice(self, request: Request) -> Response:
        """A tenant's invoice for a month, as of now."""
        only(request, {"tenant", "currency"})
        month = request.path_params["month"]
        if not MONTH.fullmatch(month):
            raise bad("month", f"{month[:80]!r} is not a month; allowed: YYYY-MM")
        tenant = _tenant_param(request)

        def query(connection: Connection) -> dict[str, object]:
            _check_tenant(connection, tenant)
            totals = ledger.totals(connection, tenant, month)
            found = sorted({one.rate.currency for one in totals}) or ["USD"]
            currency = request.query_params.get("currency", found[0])
            several = len(found) > 1 and "currency" not in request.query_params
            if several or not (len(currency) == 3 and currency.isalpha() and currency.isupper()):
                raise bad("currency", f"say which invoice; allowed: {', '.join(found)}")
            return ledger.invoice(connection, tenant, month, currency, totals)

        return reply(await self._service.database.read(query))

    async def events(self, request: Request) -> Response:
        """Single events of the ledger; settlements, unless `kind` says otherwise."""
        only(request, {"tenant", "request_id", "reason", "kind", "limit", "after"})
        given = request.query_params
        kind = given.get("kind", "settlement")
        if kind not in KINDS:
            raise bad("kind", f"{kind!r} is not a kind; allowed: {', '.join(KINDS)}")
        which = ledger.EventFilter(
            kind, given.get("tenant"), given.get("request_id"), given.get("reason")
        )
        size, after = limit(request, 1000, 10_000), given.get("after")
        rows = await self._service.database.read(
            lambda connection: ledger.events(connection, which, limit=size + 1, after=after)
        )
        known = _known(rows, after)
        return _page(known, size)

    async def conservation(self, request: Request) -> Response:
        """What each engine epoch generated, against what the ledger says of it."""
        only(request, {"model"})
        model = request.query_params.get("model")
        balances = await conservation(self._service)
        return reply({"data": [one._asdict() for one in balances if model in {None, one.model}]})

    async def openapi(self, request: Request) -> Response:
        """This API, described."""
        only(request, ())
        return reply(openapi.DOCUMENT)


def _page(rows: Sequence[object], size: int) -> Response:
    return reply({"data": rows[:size], "has_more": len(rows) > size})


def _known(rows: list[T] | None, after: str | None) -> list[T]:
    if rows is None:
        raise bad("after", f"{(after or '')[:80]!r} is not the id of a listed object")
    return rows


def _tenant(name: str, created_at: int) -> dict[str, object]:
    return {"id": name, "name": name, "created_at": iso(created_at)}


def _key(row: accounts.Key) -> dict[str, object]:
    revoked = None if row.revoked_at is None else iso(row.revoked_at)
    return {**row._asdict(), "created_at": iso(row.created_at), "revoked_at": revoked}


def _check_slug(param: str, value: str) -> None:
    wrong = accounts.slug_error(value)
    if wrong is not None:
        raise bad(param, wrong)


def _tenant_param(request: Request) -> str:
    tenant = request.query_params.get("tenant")
    if tenant is None:
        raise bad("tenant", "is missing; allowed: a tenant's name")
    return tenant


def _check_tenant(connection: Connection, tenant: str) -> None:
    if not accounts.tenant_exists(connection, tenant):
        raise ApiError(
            404, "tenant_not_found", f"tenant: there is no tenant {tenant[:80]!r}", "tenant"
        )


def _period(request: Request) -> tuple[str, str]:
    """First and last day asked for; by default this month up to its end."""
    today = dt.datetime.now(dt.UTC).date()
    first, last = day(request, "from"), day(request, "to")
    if first is None:
        first = (last or today).replace(day=1)
    if last is None:
        last = max(first, today)
    if first > last:
        raise bad("from", f"{first} is after {last}; allowed: a day up to `to`")
    return first.isoformat(), last.isoformat()
