"""The routes of price books, contracts and corrections.

A document is written whole and never changed: writing it again is a new version. What was parked
and has a price now is released in the same transaction; what was rated stays until it is re-rated.
"""

import datetime as dt
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from sqlalchemy import Connection, Row, select
from starlette.responses import Response

from tidegate_billing import adjust, money, tariff
from tidegate_billing.adjust import Scope, Why
from tidegate_billing.budgets import LATEST
from tidegate_billing.frame import Call, Done, Operation, Query, etag, show
from tidegate_billing.rates import book as books
from tidegate_billing.rates import contract as contracts
from tidegate_billing.rates.problem import DocumentError
from tidegate_billing.rates.terms import Book, Contract
from tidegate_billing.tables import ADJUSTMENT, PRICE_DOCUMENT
from tidegate_billing.tariff import BOOK, CONTRACT
from tidegate_billing.web import MONTH, ApiError, bad, cursor, limit, reply
from tidegate_billing.who import audit, reach, views

Month = Annotated[str, Meta(pattern=MONTH.pattern)]
Note = Annotated[str, Meta(max_length=500)]
LONGEST_NAME = 200


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a price document. `document` null: withdrawn from `effective_from` on.

    `released`: parked events that have a price by it."""

    number: int
    kind: Literal["book", "contract"]
    name: str
    tenant: str
    effective_from: str
    created_at: views.Time
    document: dict[str, Any] | None
    released: int | None = None


class Rerate(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/v1/rerate`: months `first` to `last`, of a tenant or of a deployment."""

    first: Month
    last: Month
    note: Note
    tenant: str | None = None
    deployment: str | None = None


class Rerated(msgspec.Struct, frozen=True):
    """How many events cost otherwise now; each has an adjustment."""

    changed: int


class Adjusted(msgspec.Struct, frozen=True, kw_only=True):
    """One adjustment. `before` null: the event had no price."""

    id: int
    event_id: str
    tenant: str
    posted_at: views.Time
    reason: str
    actor: str
    note: str
    before_version: int | None
    before: str | None
    before_currency: str | None
    after_version: int
    after: str
    after_currency: str


def view(row: "Row[Any]", released: int | None = None) -> Written:
    """A row, as it is shown."""
    return Written(
        number=row.number,
        kind=row.kind,
        name=row.name,
        tenant=row.tenant,
        effective_from=moment(row.effective_from),
        created_at=views.shown(row.created_at),
        document=msgspec.json.decode(row.body) if row.body else None,
        released=released,
    )


def moment(microseconds: int) -> str:
    """A time that may be any that a document can say, to the microsecond."""
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=microseconds)
    return moment.isoformat().replace("+00:00", "Z")


async def write_book(call: Call) -> Response:
    """Write a version of a price book."""
    document = _parsed(books.parse, call.body)
    return await call.change(lambda connection: _write(connection, call, document))


async def write_contract(call: Call) -> Response:
    """Write a version of a tenant's contract."""
    document = _parsed(contracts.parse, call.body)

    def transaction(connection: Connection) -> Done:
        reach.tenant(connection, call.actor, document.tenant)
        return _write(connection, call, document)

    return await call.change(transaction)


def _parsed(parse: Any, body: dict[str, Any]) -> Any:
    try:
        document = parse(body)
    except DocumentError as error:
        raise _refused(error) from error
    _check_reach(document)
    return document


def _refused(error: DocumentError) -> ApiError:
    said = "; ".join(f"{problem.path}: {problem.said}" for problem in error.problems)
    return ApiError(400, "invalid_document", said[:4000], error.problems[0].path or None)


def _check_reach(document: Book | Contract) -> None:
    """What the database can keep. Raises ApiError."""
    if not 0 <= document.effective_from <= LATEST:
        raise bad("effectiveFrom", "is out of range; allowed: times of the years 1970 to 9891")
    if isinstance(document, Book) and len(document.name) > LONGEST_NAME:
        raise bad("name", f"is too long; allowed: up to {LONGEST_NAME} characters")


def _write(connection: Connection, call: Call, document: Book | Contract) -> Done:
    kind, name = (
        (BOOK, document.name) if isinstance(document, Book) else (CONTRACT, document.tenant)
    )
    before = newest(connection, kind, name)
    call.check_match(0 if before is None else before.number)
    try:
        number = tariff.write(connection, document, call.body, call.at)
    except DocumentError as error:
        raise _refused(error) from error
    return done(connection, call, number, before)


def done(
    connection: Connection, call: Call, number: int, before: "Row[Any] | None", status: int = 201
) -> Done:
    """What a version that was just written came to: releases what it prices, and is audited."""
    released = adjust.release(connection, call.at)
    row = connection.execute(_documents().where(PRICE_DOCUMENT.c.number == number)).one()
    written = view(row, released)
    audit.record(
        connection,
        actor=call.actor.id,
        at=call.at,
        action=f"{row.kind}.write",
        object_id=row.name or row.tenant,
        organization=None,
        tenant=row.tenant or None,
        before=None if before is None else view(before),
        after=written,
    )
    return Done(written, etag(number), status)


def _documents() -> Any:
    # every tenant: the callers say whose
    return select(PRICE_DOCUMENT)


def newest(connection: Connection, kind: str, name: str) -> "Row[Any] | None":
    """The version of a book or a contract that was written last."""
    column = PRICE_DOCUMENT.c.name if kind == BOOK else PRICE_DOCUMENT.c.tenant
    query = _documents().where(PRICE_DOCUMENT.c.kind == kind, column == name)
    return connection.execute(query.order_by(PRICE_DOCUMENT.c.number.desc()).limit(1)).first()


async def listed_books(call: Call) -> Response:
    """Every version of every book, in the order they were written."""
    return await _listed(call, BOOK, call.given("name"))


async def listed_contracts(call: Call) -> Response:
    """Every version of every contract within reach."""
    return await _listed(call, CONTRACT, call.given("tenant"))


async def _listed(call: Call, kind: str, name: str | None) -> Response:
    size, after = limit(call.request, 100, 1000), cursor(call.request, "a row's number")
    query = _documents().where(PRICE_DOCUMENT.c.kind == kind, PRICE_DOCUMENT.c.number > after)
    if name is not None:
        query = query.where(
            (PRICE_DOCUMENT.c.name if kind == BOOK else PRICE_DOCUMENT.c.tenant) == name
        )
    if kind == CONTRACT:
        query = query.where(reach.of_tenant(call.actor, PRICE_DOCUMENT.c.tenant))
    query = query.order_by(PRICE_DOCUMENT.c.number).limit(size + 1)
    rows = await call.read(lambda connection: connection.execute(query).all())
    return reply(views.Page([view(row) for row in rows[:size]], len(rows) > size))


async def one_book(call: Call) -> Response:
    """The newest version of a book."""
    return await _one(call, BOOK)


async def one_contract(call: Call) -> Response:
    """The newest version of a tenant's contract."""
    return await _one(call, CONTRACT)


async def _one(call: Call, kind: str) -> Response:
    row = await call.read(lambda connection: _found(connection, call, kind))
    return show(view(row), etag(row.number))


def _found(connection: Connection, call: Call, kind: str) -> "Row[Any]":
    name = call.part("name")
    if kind == CONTRACT:
        reach.tenant(connection, call.actor, name)
    row = newest(connection, kind, name)
    if row is None:
        raise reach.missing(f"price {kind}" if kind == BOOK else kind, name, "name")
    return row


async def withdraw_book(call: Call) -> Response:
    """End a book now: it prices nothing from here on."""
    return await _withdraw(call, BOOK)


async def withdraw_contract(call: Call) -> Response:
    """End a tenant's contract now."""
    return await _withdraw(call, CONTRACT)


async def _withdraw(call: Call, kind: str) -> Response:
    def transaction(connection: Connection) -> Done:
        before = _found(connection, call, kind)
        call.check_match(before.number)
        if not before.body:
            return Done(view(before), etag(before.number))
        number = tariff.withdraw(connection, kind, before.name, before.tenant, call.at)
        return done(connection, call, number, before, status=200)

    return await call.change(transaction)


async def rerate(call: Call) -> Response:
    """Price usage again by the documents as they are now; each difference is an adjustment."""
    wanted: Rerate = call.body
    for name, month in (("first", wanted.first), ("last", wanted.last)):
        if not MONTH.fullmatch(month):
            raise bad(name, f"{month[:80]!r} is not a month; allowed: YYYY-MM, from 2000-01 on")
    if wanted.first > wanted.last:
        raise bad("first", f"{wanted.first} is after {wanted.last}; allowed: a month up to `last`")
    if wanted.tenant is None and wanted.deployment is None:
        raise bad("tenant", "is missing; allowed: a tenant, a `deployment`, or both")

    def transaction(connection: Connection) -> Done:
        if wanted.tenant is not None:
            reach.tenant(connection, call.actor, wanted.tenant)
        scope = Scope(wanted.first, wanted.last, wanted.tenant, wanted.deployment)
        why = Why("rerated", call.actor.id, wanted.note)
        try:
            changed = Rerated(adjust.rerate(connection, scope, why, call.at))
        except adjust.AdjustmentError as error:
            raise ApiError(409, "not_rerated", str(error)) from error
        audit.record(
            connection,
            actor=call.actor.id,
            at=call.at,
            action="usage.rerate",
            object_id=wanted.tenant or wanted.deployment or "",
            organization=None,
            tenant=wanted.tenant,
            before=wanted,
            after=changed,
        )
        return Done(changed)

    return await call.change(transaction)


async def adjustments(call: Call) -> Response:
    """Adjustments, oldest first."""
    size, after = limit(call.request, 100, 1000), cursor(call.request, "a row's number")
    within = reach.of_tenant(call.actor, ADJUSTMENT.c.tenant)
    # every tenant: within the actor's reach
    query = select(ADJUSTMENT).where(ADJUSTMENT.c.id > after, within)
    for name in ("tenant", "event_id"):
        if call.given(name) is not None:
            query = query.where(ADJUSTMENT.c[name] == call.given(name))
    query = query.order_by(ADJUSTMENT.c.id).limit(size + 1)
    rows = await call.read(lambda connection: connection.execute(query).all())
    return reply(views.Page([_adjusted(row) for row in rows[:size]], len(rows) > size))


def _adjusted(row: "Row[Any]") -> Adjusted:
    before = None
    if row.before_nano is not None:
        before = money.plain(money.whole(row.before_nano, row.before_atto))
    return Adjusted(
        id=row.id,
        event_id=row.event_id,
        tenant=row.tenant,
        posted_at=views.shown(row.posted_at),
        reason=row.reason,
        actor=row.actor,
        note=row.note,
        before_version=row.before_version,
        before=before,
        before_currency=row.before_currency,
        after_version=row.after_version,
        after=money.plain(money.whole(row.after_nano, row.after_atto)),
        after_currency=row.after_currency,
    )


Document = dict[str, Any]
_AFTER = Query("after", "go on after this number", {"type": "integer", "minimum": 0})
_BOOKS = (Query("name", "only of this book", reach.TEXT), reach.PAGE[0], _AFTER)
_CONTRACTS = (Query("tenant", "only of this tenant", reach.TEXT), reach.PAGE[0], _AFTER)
_ADJUSTMENTS = (
    Query("tenant", "only of this tenant", reach.TEXT),
    Query("event_id", "only of this event", reach.TEXT),
    reach.PAGE[0],
    _AFTER,
)
OPERATIONS = (
    Operation("POST", "/price-books", write_book, "price.update", "Write a version of a price book",
              Written, Document, status=201, versioned=True),
    Operation("GET", "/price-books", listed_books, "platform.read", "List versions of price books",
              views.Page[Written], query=_BOOKS),
    Operation("GET", "/price-books/{name}", one_book, "platform.read", "Read a price book",
              Written, versioned=True),
    Operation("DELETE", "/price-books/{name}", withdraw_book, "price.update", "Withdraw a price book",
              Written, versioned=True),
    Operation("POST", "/contracts", write_contract, "price.update", "Write a version of a contract",
              Written, Document, status=201, versioned=True),
    Operation("GET", "/contracts", listed_contracts, "contract.read", "List versions of contracts",
              views.Page[Written], query=_CONTRACTS),
    Operation("GET", "/contracts/{name}", one_contract, "contract.read", "Read a tenant's contract",
              Written, versioned=True),
    Operation("DELETE", "/contracts/{name}", withdraw_contract, "price.update", "Withdraw a contract",
              Written, versioned=True),
    Operation("POST", "/rerate", rerate, "price.update", "Price usage again", Rerated, Rerate),
    Operation("GET", "/adjustments", adjustments, "invoice.read", "List adjustments",
              views.Page[Adjusted], query=_ADJUSTMENTS),
)  # fmt: skip
