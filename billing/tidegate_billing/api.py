"""The management API: what operators of the platform see and change, as the CLI shows it.

What is asked of the ledger is here; who may do what is in `who`."""

import datetime as dt
from typing import cast

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from tidegate_billing import (
    answers,
    frame,
    internal,
    ledger,
    ledger_routes,
    managed,
    openapi,
    price_routes,
)
from tidegate_billing.budgeting import budget_routes
from tidegate_billing.database import DatabaseDown
from tidegate_billing.frame import Call, Operation, Query
from tidegate_billing.prepaid import routes as credit_routes
from tidegate_billing.service import Service, conservation, log
from tidegate_billing.web import MONTH, ApiError, bad, day, limit, reply
from tidegate_billing.webhooks import delivery_routes, endpoint_routes
from tidegate_billing.who import (
    keyring,
    organizations,
    projects,
    reach,
    service_accounts,
    tenants,
    views,
)
from tidegate_billing.who import log as audit_log

KINDS = ("settlement", "attempt", "orphan", "replica")


def build(service: Service) -> Starlette:
    """The application of the management port: the API and the internal links."""
    handlers = {
        ApiError: _api_error,
        HTTPException: _http_error,
        SQLAlchemyError: _database_error,
        DatabaseDown: _database_error,
        500: _our_error,
    }
    routes = [
        *frame.routes(service, OPERATIONS),
        *internal.routes(service),
        *managed.routes(service),
    ]
    return Starlette(routes=routes, exception_handlers=handlers)


async def _api_error(_request: Request, error: Exception) -> Response:
    return cast("ApiError", error).response()


async def _http_error(request: Request, error: Exception) -> Response:
    known = cast("HTTPException", error)
    message = f"{request.method} {request.url.path} is not a route of this server"
    code = "method_not_allowed" if known.status_code == 405 else "unknown_route"
    return ApiError(known.status_code, code, message, headers=known.headers).response()


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


async def usage(call: Call) -> Response:
    """A tenant's billed usage by model, key and day."""
    tenant = _tenant_param(call)
    first, last = _period(call.request)
    by = (call.given("by") or "model").split(",")
    for name in by:
        if name not in ledger.DIMENSIONS:
            allowed = "any of " + ", ".join(ledger.DIMENSIONS)
            raise bad("by", f"{name[:80]!r} is not a dimension; allowed: {allowed}")

    def query(connection: Connection) -> dict[str, object]:
        reach.tenant(connection, call.actor, tenant)
        rows = ledger.usage(connection, tenant=tenant, first=first, last=last, by=by)
        return {
            "data": rows,
            "unshipped": ledger.unshipped(connection),
            "parked": ledger.parked(connection, tenant),
        }

    return reply(await call.read(query))


async def bill(call: Call) -> Response:
    """A tenant's invoice for a month, as of now."""
    month = call.part("month")
    if not MONTH.fullmatch(month):
        raise bad("month", f"{month[:80]!r} is not a month; allowed: YYYY-MM, from 2000-01 on")
    tenant = _tenant_param(call)

    def query(connection: Connection) -> dict[str, object]:
        reach.tenant(connection, call.actor, tenant)
        totals = ledger.totals(connection, tenant, month)
        found = sorted({one.rate.currency for one in totals}) or ["USD"]
        currency = call.given("currency") or found[0]
        several = len(found) > 1 and call.given("currency") is None
        if several or not (len(currency) == 3 and currency.isalpha() and currency.isupper()):
            raise bad("currency", f"say which invoice; allowed: {', '.join(found)}")
        return ledger.invoice(connection, tenant, month, currency, totals)

    return reply(await call.read(query))


async def events(call: Call) -> Response:
    """Single events of the ledger; settlements, unless `kind` says otherwise."""
    kind = call.given("kind") or "settlement"
    if kind not in KINDS:
        raise bad("kind", f"{kind[:80]!r} is not a kind; allowed: {', '.join(KINDS)}")
    tenant = call.given("tenant") or call.actor.tenant
    if tenant is None and call.actor.role is not None:
        raise bad("tenant", "is missing; allowed: a tenant of your organization")
    which = ledger.EventFilter(kind, tenant, call.given("request_id"), call.given("reason"))
    size, after = limit(call.request, 1000, 10_000), call.given("after")

    def query(connection: Connection) -> list[dict[str, object]] | None:
        if call.actor.role is not None and tenant is not None:
            reach.tenant(connection, call.actor, tenant)
        return ledger.events(connection, which, limit=size + 1, after=after)

    rows = await call.read(query)
    if rows is None:
        raise bad("after", f"{(after or '')[:80]!r} is not the id of a listed object")
    return reply(views.Page(rows[:size], len(rows) > size))


async def balances(call: Call) -> Response:
    """What each engine epoch generated, against what the ledger says of it; all, without `limit`."""
    model, after = call.given("model"), call.given("after")
    found = [one for one in await conservation(call.service) if model in {None, one.model}]
    if after is not None:
        places = [place for place, one in enumerate(found) if one.epoch == after]
        if not places:
            raise bad("after", f"{after[:80]!r} is not a listed epoch")
        found = found[places[0] + 1 :]
    size = limit(call.request, max(len(found), 1), 10_000)
    return reply(views.Page([one._asdict() for one in found[:size]], len(found) > size))


async def described(_call: Call) -> Response:
    """This API, described."""
    return reply(openapi.document(OPERATIONS))


def _tenant_param(call: Call) -> str:
    tenant = call.given("tenant")
    if tenant is None:
        raise bad("tenant", "is missing; allowed: a tenant's name")
    return tenant


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


_DATE = {"type": "string", "format": "date"}
_TENANT = Query("tenant", "a tenant's name", reach.TEXT, required=True)
_BY = {"type": "string", "pattern": "^(model|key|day)(,(model|key|day))*$"}
_USAGE = (
    _TENANT,
    Query("from", "first day, YYYY-MM-DD, UTC; default: this month's first", _DATE),
    Query("to", "last day, included; default: today", _DATE),
    Query("by", f"any of {', '.join(ledger.DIMENSIONS)}, comma-separated; default: model", _BY),
)
_CURRENCY = {"type": "string", "pattern": "^[A-Z]{3}$"}
_INVOICE = (_TENANT, Query("currency", "needed where the month has several", _CURRENCY))
_EVENTS = (
    Query("tenant", "only of this tenant", reach.TEXT),
    Query("request_id", "the gateway's x-request-id", reach.TEXT),
    Query("reason", "why not billed", reach.TEXT),
    Query("kind", "settlement, if not given", {"type": "string", "enum": list(KINDS)}),
    Query("limit", "rows a page", {"type": "integer", "minimum": 1, "maximum": 10_000}),
    reach.PAGE[1],
)
_BALANCES = (
    Query("model", "only this model", reach.TEXT),
    _EVENTS[-2],
    Query("after", "go on after this epoch", reach.TEXT),
)
OPERATIONS = (
    *organizations.OPERATIONS,
    *tenants.OPERATIONS,
    *projects.OPERATIONS,
    *keyring.OPERATIONS,
    *service_accounts.OPERATIONS,
    *audit_log.OPERATIONS,
    *price_routes.OPERATIONS,
    *ledger_routes.OPERATIONS,
    *credit_routes.OPERATIONS,
    *budget_routes.OPERATIONS,
    *endpoint_routes.OPERATIONS,
    *delivery_routes.OPERATIONS,
    Operation("GET", "/usage", usage, "usage.read", "Billed usage of a tenant",
              answers.UsageAnswer, query=_USAGE),
    Operation("GET", "/invoices/{month}", bill, "invoice.read", "A tenant's invoice for a month",
              answers.InvoiceAnswer, query=_INVOICE),
    Operation("GET", "/events", events, "event.read", "Events of the ledger",
              views.Page[answers.EventRow], query=_EVENTS),
    Operation("GET", "/conservation", balances, "platform.read",
              "Engine counters against the ledger", views.Page[answers.BalanceRow], query=_BALANCES),
    Operation("GET", "/openapi.json", described, "tenant.read", "This document", None),
)  # fmt: skip
