"""The routes for what resources of a cluster say: price books and tenants, each told whole.

Telling the same again changes nothing, so the operator may tell it whenever it is not sure. What a
resource holds is marked; what is marked and has no resource any more, the operator ends. Every
change is audited as the operator's.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from sqlalchemy import Connection, Row
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidegate_billing import accounts, price_routes, tariff
from tidegate_billing.frame import Call, Done, News
from tidegate_billing.links import DesiredTenant, SettledKey, SettledTenant, WrittenBook
from tidegate_billing.rates import book as books
from tidegate_billing.rates import contract as contracts
from tidegate_billing.rates.problem import DocumentError
from tidegate_billing.rates.terms import Book, Contract
from tidegate_billing.service import Service, now
from tidegate_billing.tariff import BOOK, CONTRACT
from tidegate_billing.web import ApiError, body, guarded, reply
from tidegate_billing.who import (
    managed,
    managed_keys,
    organizations,
    projects,
    reach,
    scopes,
    tenants,
)
from tidegate_billing.who.actor import OPERATOR
from tidegate_billing.who.fields import check_name, check_slug, check_zone
from tidegate_billing.who.managed_keys import Work
from tidegate_billing.who.tenants import TenantChange

Document = dict[str, Any]
LONGEST = 8000
"""Characters of a refusal; what does not fit is counted."""


class Gone(msgspec.Struct, frozen=True):
    """Whether something ended by this call."""

    ended: bool


def routes(service: Service) -> list[Route]:
    """The routes, for bearers of the internal token."""
    token = service.internal_token

    def called(handler: Callable[[Call], Awaitable[Response]], kind: Any = None) -> Any:
        async def endpoint(request: Request) -> Response:
            wanted = None if kind is None else await body(request, kind)
            return await handler(Call(request, service, OPERATOR, now(), body=wanted))

        return guarded(token, endpoint)

    book, tenant = "/internal/price-books/{name}", "/internal/tenants/{name}"
    return [
        Route("/internal/managed", called(listed), methods=["GET"]),
        Route(book, called(put_book, Document), methods=["PUT"]),
        Route(book, called(end_book), methods=["DELETE"]),
        Route(tenant, called(put_tenant, DesiredTenant), methods=["PUT"]),
        Route(tenant, called(end_tenant), methods=["DELETE"]),
    ]


async def listed(call: Call) -> Response:
    """Everything that a resource holds."""
    return reply(await call.read(managed.listed))


def _refused(problems: list[str]) -> ApiError:
    said, left = "", list(problems)
    while left and len(said) + len(left[0]) < LONGEST:
        said += ("; " if said else "") + left.pop(0)
    if left:
        said += f"; and {len(left)} more"
    return ApiError(400, "invalid_document", said)


def _words(error: DocumentError, place: str) -> list[str]:
    dotted = [f"{place}.{one.path}" if one.path else place for one in error.problems]
    return [f"{path}: {one.said}" for path, one in zip(dotted, error.problems, strict=True)]


# Price books


async def put_book(call: Call) -> Response:
    """A book as its resource has it: a new version where the newest is another document."""
    name = call.part("name")
    content = {**call.body, "name": name}
    try:
        document = books.parse(content)
    except DocumentError as error:
        raise _refused(_words(error, "spec")) from error

    def transaction(connection: Connection) -> Done:
        managed.hold(connection, managed.BOOK, name)
        row = _document(connection, call, document, content, "spec")
        since = price_routes.moment(row.effective_from)
        return Done(WrittenBook(number=row.number, effective_from=since))

    return await call.change(transaction)


def _document(
    connection: Connection, call: Call, document: Book | Contract, content: Document, place: str
) -> "Row[Any]":
    """The version that is this document: the newest one, or a new one."""
    book = isinstance(document, Book)
    kind, name = (
        (BOOK, document.name) if isinstance(document, Book) else (CONTRACT, document.tenant)
    )
    before = price_routes.newest(connection, kind, name)
    if before is not None and before.body and msgspec.json.decode(before.body) == content:
        return before
    try:
        number = tariff.settle(connection, document, content, call.at)
    except DocumentError as error:
        raise _refused(_words(error, place)) from error
    price_routes.done(connection, call, number, before)
    row = price_routes.newest(connection, BOOK if book else CONTRACT, name)
    assert row is not None
    return row


async def end_book(call: Call) -> Response:
    """A book's resource is gone: it prices nothing from here on."""
    name = call.part("name")

    def transaction(connection: Connection) -> Done:
        if not managed.held(connection, managed.BOOK, name):
            return Done(Gone(ended=False))
        managed.release(connection, managed.BOOK, name, call.at)
        _end_document(connection, call, BOOK, name)
        return Done(Gone(ended=True))

    return await call.change(transaction)


def _end_document(connection: Connection, call: Call, kind: str, name: str) -> None:
    before = price_routes.newest(connection, kind, name)
    if before is not None and before.body:
        number = tariff.end(connection, kind, before.name, before.tenant, call.at)
        price_routes.done(connection, call, number, before)


# Tenants


async def put_tenant(call: Call) -> Response:
    """A tenant as its resource has it, all or nothing of it."""
    name, wanted = call.part("name"), call.body
    contract = None if wanted.contract is None else {**wanted.contract, "tenant": name}
    problems, document = _mistakes(name, wanted), None
    if contract is not None:
        try:
            document = contracts.parse(contract)
        except DocumentError as error:
            problems += _words(error, "spec.contract")
    if problems:
        raise _refused(problems)

    def transaction(connection: Connection) -> Done:
        row, made, news, limits = _tenant(connection, call, name, wanted)
        for project in wanted.projects:
            if projects.named(connection, name, project) is None:
                projects.insert_project(connection, call, row, project)
        if document is not None and contract is not None:
            managed.hold(connection, managed.CONTRACT, name)
            _document(connection, call, document, contract, "spec.contract")
        else:
            _end_contract(connection, call, name)
        work = Work(connection, call, row, managed_keys.News())
        keys = managed_keys.settle(work, wanted.keys)
        done = _settled(row, keys, news._replace(tenants=[name] if made else []), work.news)
        return done._replace(limits=limits)

    return await call.change(transaction)


def _tenant(
    connection: Connection, call: Call, name: str, wanted: DesiredTenant
) -> "tuple[Row[Any], bool, News, frozenset[str]]":
    """The tenant's row, whether it is new, and what routers must hear of it and of its plan."""
    if wanted.organization is not None:
        organizations.find(connection, call.actor, wanted.organization, "spec.organization")
    made = accounts.ensure_tenant(connection, name, call.at, actor=call.actor.id)
    returned = managed.hold(connection, managed.TENANT, name)
    old = reach.tenant(connection, call.actor, name)
    change = TenantChange(display_name=wanted.display_name, time_zone=wanted.time_zone)
    if wanted.organization is not None:
        change.organization = wanted.organization
    if wanted.suspended is not None or returned:
        change.suspended = bool(wanted.suspended)
    if wanted.plan is not None:
        change.plan = wanted.plan
    row = tenants.write(connection, call, old, change)
    return row, made, tenants.news(old, row) or News(), tenants.limits(old, row)


def _settled(row: "Row[Any]", keys: list[SettledKey], news: News, said: managed_keys.News) -> Done:
    news = news._replace(keys=list(said.keys.values()), removed_keys=list(said.removed))
    view = SettledTenant(suspended=row.suspended_at is not None, keys=keys)
    return Done(view, news=news if any(news) else None)


def _end_contract(connection: Connection, call: Call, name: str) -> None:
    if managed.held(connection, managed.CONTRACT, name):
        managed.release(connection, managed.CONTRACT, name, call.at)
        _end_document(connection, call, CONTRACT, name)


async def end_tenant(call: Call) -> Response:
    """A tenant's resource is gone: nobody uses the platform in its name, and its usage stays."""
    name = call.part("name")

    def transaction(connection: Connection) -> Done:
        if not managed.held(connection, managed.TENANT, name):
            return Done(Gone(ended=False))
        managed.release(connection, managed.TENANT, name, call.at)
        old = reach.tenant(connection, call.actor, name)
        row = tenants.write(connection, call, old, TenantChange(suspended=True))
        work = Work(connection, call, row, managed_keys.News())
        for key in managed_keys.working(work):
            managed_keys.revoke(work, key)
        _end_contract(connection, call, name)
        news = (tenants.news(old, row) or News())._replace(removed_keys=list(work.news.removed))
        return Done(Gone(ended=True), news=news if any(news) else None)

    return await call.change(transaction)


def _mistakes(name: str, wanted: DesiredTenant) -> list[str]:
    """What is wrong with a tenant, its contract apart."""
    found: list[str] = []

    def check(look: Callable[[str, str], None], param: str, value: str) -> None:
        try:
            look(param, value)
        except ApiError as error:
            found.append(error.message)

    check(check_slug, "metadata.name", name)
    check(check_name, "spec.displayName", wanted.display_name)
    check(check_zone, "spec.timeZone", wanted.time_zone)
    for place, project in enumerate(wanted.projects):
        check(check_slug, f"spec.projects[{place}].name", project)
    seen: set[str] = set()
    for place, key in enumerate(wanted.keys):
        at = f"spec.keys[{place}]"
        check(check_slug, f"{at}.name", key.name)
        check(check_slug, f"{at}.project", key.project)
        models = None if key.models is None else scopes.models_error(key.models)
        said = None if key.routes is None else scopes.routes_error(key.routes)
        found += [f"{at}.scopes.models: {models}"] if models else []
        found += [f"{at}.scopes.routes: {said}"] if said else []
        if key.name in seen:
            found.append(f"{at}.name: {key.name!r} is there twice; allowed: once")
        seen.add(key.name)
    return found
