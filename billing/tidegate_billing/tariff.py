"""Price documents in the database, and what they come to for one event.

A document is a price book or a tenant's contract, and every version of it is a row that is only
ever added. Which of them apply is decided by the attempt's own time, so the answer is the same
whenever it is asked. A deployment's own pricing (`pricebook`) has versions of its own, and routers
name the one that they promised.

What an event is rated by gets one number from one sequence: the deployment's version where that
is all that counts, else a version that is numbered by what it charges (`pipeline.fingerprint`),
with the documents that it was made of. So a rate can be made again from its number alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
from msgspec import structs
from sqlalchemy import Connection, Row, func, insert, select

from tidegate_billing import pricebook
from tidegate_billing.pricebook import Version as Priced
from tidegate_billing.rates import book as books
from tidegate_billing.rates import contract as contracts
from tidegate_billing.rates import pipeline
from tidegate_billing.rates.exact import InexactError
from tidegate_billing.rates.pipeline import Rate
from tidegate_billing.rates.problem import DocumentError
from tidegate_billing.rates.select import Timeline, Version
from tidegate_billing.rates.terms import Book, Contract
from tidegate_billing.tables import PRICE, PRICE_DOCUMENT
from tidegate_billing.usage import Usage

BOOK, CONTRACT = "book", "contract"


class Tariff(NamedTuple):
    """A rate, and the number that the ledger knows it by."""

    version: int
    rate: Rate


class Source(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a numbered rate was made of: numbers of documents, and what was asked for."""

    books: tuple[int, ...]
    contract: int
    base: int
    deployment: str
    model: str
    adapter: str = ""
    tier: str = ""


@dataclass
class Documents:
    """Every price document, as of the newest that was seen."""

    newest: int = 0
    books: dict[str, Timeline[Book]] = field(default_factory=dict)
    contracts: dict[str, Timeline[Contract]] = field(default_factory=dict)


@dataclass
class Tariffs:
    """What earlier transactions have read. Documents and numbers never change; new ones come."""

    documents: Documents = field(default_factory=Documents)
    priced: dict[int, Priced] = field(default_factory=dict)
    made: dict[Source, Tariff | None] = field(default_factory=dict)

    def forget(self) -> None:
        """Know nothing any more."""
        self.documents = Documents()
        self.priced.clear()
        self.made.clear()


def refresh(connection: Connection, known: Tariffs) -> None:
    """Read the documents again where there are new ones."""
    # every tenant: only whether there is anything new
    newest = int(connection.execute(select(func.max(PRICE_DOCUMENT.c.number))).scalar() or 0)
    if newest != known.documents.newest:
        known.documents = documents(connection)
        known.made.clear()


def documents(connection: Connection) -> Documents:
    """Every document of the database."""
    # every tenant: each event's own contract is picked from them
    rows = connection.execute(select(PRICE_DOCUMENT).order_by(PRICE_DOCUMENT.c.number)).all()
    found_books: dict[str, list[Version[Book]]] = {}
    found_contracts: dict[str, list[Version[Contract]]] = {}
    for row in rows:
        gone = row.body == ""
        read = None if gone else msgspec.json.decode(row.body)
        if row.kind == BOOK:
            terms = None if gone else books.parse(read)
            found_books.setdefault(row.name, []).append(
                Version(row.number, row.effective_from, terms)
            )
        else:
            own = None if gone else contracts.parse(read)
            found_contracts.setdefault(row.tenant, []).append(
                Version(row.number, row.effective_from, own)
            )
    return Documents(
        rows[-1].number if rows else 0,
        {name: Timeline(found) for name, found in sorted(found_books.items())},
        {name: Timeline(found) for name, found in found_contracts.items()},
    )


def write(connection: Connection, document: Book | Contract, body: object, now: int) -> int:
    """Add a version of a book or a contract; its number. Raises DocumentError.

    Refused where some rate of it could not be exact: a new book is tried with the newest version of
    every contract, a new contract with that of every book.
    """
    known = documents(connection)
    newest_books = [terms for line in known.books.values() if (terms := line.newest())]
    if isinstance(document, Book):
        others = [book for book in newest_books if book.name != document.name]
        rivals = [own for line in known.contracts.values() if (own := line.newest())]
        problems = [
            problem
            for contract in rivals
            for problem in pipeline.check([document, *others], contract)
        ]
    else:
        problems = [*pipeline.check(newest_books, document)]
    if problems:
        raise DocumentError(tuple(problems))
    return _add(connection, _of(document), document.effective_from, now, body)


def withdraw(connection: Connection, kind: str, name: str, tenant: str, now: int) -> int:
    """End a book or a contract from now on; the number of the version that says so."""
    return _add(connection, (kind, name, tenant), now, now, None)


def settle(connection: Connection, document: Book | Contract, body: object, now: int) -> int:
    """As `write`, but nothing that was written before counts beside it: for who says what there
    should be, and not what changes. Raises DocumentError.

    What begins before a version that is in force already begins now: rated usage keeps its price.
    Versions that were still to come are put out of force, each by one that begins with it and says
    what should hold then.
    """
    kind, name, tenant = _of(document)
    rows = _versions(connection, kind, name, tenant)
    since = document.effective_from
    if any(since < row.effective_from <= now for row in rows):
        since = now
    started = [row for row in rows if row.effective_from <= now]
    before = max(started, key=lambda row: (row.effective_from, row.number), default=None)
    held = None if before is None or not before.body else msgspec.json.decode(before.body)
    for at in sorted({row.effective_from for row in rows if row.effective_from > now} - {since}):
        _add(connection, (kind, name, tenant), at, now, held if at < since else body)
    return write(connection, structs.replace(document, effective_from=since), body, now)


def end(connection: Connection, kind: str, name: str, tenant: str, now: int) -> int:
    """As `withdraw`, and what was still to come does not come any more."""
    rows = _versions(connection, kind, name, tenant)
    for at in sorted({row.effective_from for row in rows if row.effective_from > now}):
        _add(connection, (kind, name, tenant), at, now, None)
    return withdraw(connection, kind, name, tenant, now)


def _versions(connection: Connection, kind: str, name: str, tenant: str) -> "list[Row[Any]]":
    query = select(PRICE_DOCUMENT).where(
        PRICE_DOCUMENT.c.kind == kind,
        PRICE_DOCUMENT.c.name == name,
        PRICE_DOCUMENT.c.tenant == tenant,
    )
    return list(connection.execute(query))


def _of(document: Book | Contract) -> tuple[str, str, str]:
    if isinstance(document, Book):
        return BOOK, document.name, ""
    return CONTRACT, "", document.tenant


def _add(
    connection: Connection, of: tuple[str, str, str], since: int, now: int, body: object
) -> int:
    kind, name, tenant = of
    text = "" if body is None else msgspec.json.encode(body).decode()
    made = connection.execute(
        insert(PRICE_DOCUMENT).values(
            kind=kind, name=name, tenant=tenant, effective_from=since, created_at=now, body=text
        )
    ).inserted_primary_key
    assert made is not None
    return int(made[0])


def find(
    connection: Connection, event: Usage, at: int, base: Priced | None, known: Tariffs
) -> Tariff | None:
    """What an event of `at` (milliseconds) is rated by; None: nothing prices it, or not exactly.

    `base`: the deployment's own price that holds for it.
    """
    when = at * 1000
    in_force = [found for line in known.documents.books.values() if (found := line.at(when))]
    terms = known.documents.contracts.get(event.tenant)
    contract = None if terms is None else terms.at(when)
    source = Source(
        tuple(found.number for found in in_force),
        0 if contract is None else contract.number,
        0 if base is None or base.price is None else base.version,
        event.deployment,
        event.model,
        event.adapter,
        event.service_tier,
    )
    if source not in known.made:
        known.made[source] = _make(
            connection,
            source,
            [found.terms for found in in_force if found.terms is not None],
            None if contract is None else contract.terms,
            base,
        )
    return known.made[source]


def offered(
    known: Tariffs, tenant: str, deployment: str, model: str, base: Priced | None, when: int
) -> Rate | None:
    """What a model costs a tenant at `when` (microseconds), in no service tier; None: nothing prices it,
    or not exactly. Nothing is numbered, for nothing was used."""
    in_force = [found.terms for line in known.documents.books.values() if (found := line.at(when))]
    line = known.documents.contracts.get(tenant)
    terms = None if line is None else line.at(when)
    number = 0 if base is None or base.price is None else base.version
    try:
        return _rate(
            Source((), 0, number, deployment, model),
            [one for one in in_force if one is not None],
            None if terms is None else terms.terms,
            base,
        )
    except InexactError:
        return None


def _make(
    connection: Connection,
    source: Source,
    in_force: list[Book],
    contract: Contract | None,
    base: Priced | None,
) -> Tariff | None:
    try:
        rate = _rate(source, in_force, contract, base)
        if rate is None:
            return None
        own = _rate(source, [], None, base)
    except InexactError:
        return None
    if own is not None and pipeline.fingerprint(own) == pipeline.fingerprint(rate):
        return Tariff(source.base, rate)
    return Tariff(_number(connection, source, rate), rate)


def _rate(
    source: Source, in_force: list[Book], contract: Contract | None, base: Priced | None
) -> Rate | None:
    """A book may price one deployment (`namespace/name`), which is more special than a model."""
    special = pipeline.rate(
        source.deployment, source.adapter, source.tier, books=in_force, contract=contract
    )
    if special is not None:
        return special
    own = [] if base is None or base.pricing is None else [_own(source.model, base)]
    return pipeline.rate(
        source.model, source.adapter, source.tier, books=[*in_force, *own], contract=contract
    )


def _own(model: str, base: Priced) -> Book:
    assert base.pricing is not None
    return books.from_pricing(model, base.pricing)


def _number(connection: Connection, source: Source, rate: Rate) -> int:
    """The number of a rate that charges this; a new one, where nothing charged so before."""
    print_ = pipeline.fingerprint(rate)
    known = connection.execute(select(PRICE.c.version).where(PRICE.c.fingerprint == print_))
    number = known.scalar()
    if number is not None:
        return int(number)
    made = connection.execute(
        insert(PRICE).values(
            deployment="",
            currency=rate.currency,
            input_per_million="",
            output_per_million="",
            effective_from=0,
            fingerprint=print_,
            source=msgspec.json.encode(source).decode(),
        )
    ).inserted_primary_key
    assert made is not None
    return int(made[0])


def tariffs(connection: Connection, wanted: Iterable[tuple[int, str]]) -> dict[int, Tariff]:
    """Rates made again from their numbers; `wanted`: numbers, each with a model that it rated."""
    models = dict(wanted)
    if not models:
        return {}
    everything = _by_number(connection)
    found = {}
    for row in connection.execute(select(PRICE).where(PRICE.c.version.in_(sorted(models)))):
        base: Priced | None
        if row.source is None:
            base = pricebook.version_of(row)
            source = Source((), 0, row.version, row.deployment, models[row.version])
            in_force: list[Book] = []
            contract = None
        else:
            source = msgspec.json.decode(row.source, type=Source)
            named = pricebook.versions(connection, [source.base] if source.base else [])
            base = named.get(source.base)
            in_force = [one for n in source.books if isinstance(one := everything[n], Book)]
            terms = everything.get(source.contract)
            contract = terms if isinstance(terms, Contract) else None
        rate = _rate(source, in_force, contract, base)
        assert rate is not None  # something was rated by it
        found[row.version] = Tariff(row.version, rate)
    return found


def _by_number(connection: Connection) -> dict[int, Book | Contract | None]:
    found: dict[int, Book | Contract | None] = {}
    # every tenant: a rate is made again from the documents that its number names
    for row in connection.execute(select(PRICE_DOCUMENT)):
        if row.body == "":
            found[row.number] = None
        else:
            read = msgspec.json.decode(row.body)
            found[row.number] = books.parse(read) if row.kind == BOOK else contracts.parse(read)
    return found
