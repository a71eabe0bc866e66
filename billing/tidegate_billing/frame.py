"""The management API's frame: what each route shares, so that a handler is only what it does.

An `Operation` says everything that callers see of a route: who may call it, what it takes and what
it answers. Routes and the OpenAPI document are both made of it, so neither can know what the other
does not. A `Call` is one request that was let in; a change goes through `Call.change`, which brings
the idempotency key, the commit, the news to the routers and the ETag with it.
"""

import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidegate_billing.database import DatabaseDown
from tidegate_billing.keys import current
from tidegate_billing.links import KeyView
from tidegate_billing.service import Service, log, now
from tidegate_billing.web import ApiError, bad, decode, only, raw, reply
from tidegate_billing.who import idempotency, login
from tidegate_billing.who.actor import Actor
from tidegate_billing.who.roles import Action, roles_with

T = TypeVar("T")
PREFIX = "/api/v1"
APPLY_SECONDS = 1.0
"""How long a change waits for the routers to work by it."""
SECRET_BYTES = 24
ETAGS = r'\*|(W/)?"[!#-~]*"(, ?(W/)?"[!#-~]*")*'
"""What `If-Match` may be: anything, or a list of ETags. A weak one never matches."""


class Query(NamedTuple):
    """A parameter of the query, and its schema."""

    name: str
    text: str
    schema: Mapping[str, object]
    required: bool = False


class News(NamedTuple):
    """What the routers must hear of a change."""

    keys: Iterable[KeyView] = ()
    removed_keys: Iterable[str] = ()
    tenants: Iterable[str] = ()
    suspended: Iterable[str] = ()
    resumed: Iterable[str] = ()


class Done(NamedTuple):
    """What a change came to. `secret`: the field of `view` that is not kept, and its first letters.
    `news` None: nothing the routers work by has changed. `limits`: tenants whose credit or budgets
    have."""

    view: msgspec.Struct
    etag: str = ""
    status: int = 200
    secret: tuple[str, str] = ("", "")
    news: News | None = None
    limits: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Call:
    """One request that was let in. `body`: what `Operation.body` made of `content`."""

    request: Request
    service: Service
    actor: Actor
    at: int
    content: bytes = b""
    body: Any = None
    nonce: str = field(default_factory=idempotency.new_nonce)

    def given(self, name: str) -> str | None:
        """A parameter of the query."""
        return self.request.query_params.get(name)

    def part(self, name: str) -> str:
        """A part of the path."""
        return str(self.request.path_params[name])

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Ask the database."""
        return await self.service.database.read(query)

    def secret(self, start: str) -> str:
        """A new secret: random, or such that a repeated request gets it again."""
        claimed = self._claim()
        if claimed is None:
            return start + secrets.token_urlsafe(SECRET_BYTES)
        pepper = self.service.peppers[current(self.service.peppers)]
        return idempotency.derived(pepper, claimed.name, self.nonce, start)

    def check_match(self, revision: int) -> None:
        """Refuse a change of what is not any more as the caller saw it (`If-Match`)."""
        header = self.request.headers.get("if-match")
        if header is None or header == "*":
            return
        if re.fullmatch(ETAGS, header) is None:
            raise bad("If-Match", f"{header[:80]!r} is no ETag; allowed: * or ETags in quotes")
        # Of a key's ETag, `"REVISION-LAST USE-PEPPER"`, the first part says what was changed.
        seen = [one.strip() for one in header.split(",")]
        if not any(one == etag(revision) or one.startswith(f'"{revision}-') for one in seen):
            raise ApiError(
                412,
                "changed_meanwhile",
                f"If-Match: {header[:80]!r} is not this object's ETag any more; read it again",
                "If-Match",
            )

    async def change(self, transaction: Callable[[Connection], Done]) -> Response:
        """Make a change durable, tell the routers, and answer; a repeated POST changes nothing."""
        claimed = self._claim()
        snapshots = self.service.snapshots
        async with self.service.changing:
            outcome = await self.service.database.write(
                lambda connection: self._write(connection, claimed, transaction)
            )
            version = snapshots.version
            if isinstance(outcome, Done) and outcome.news is not None:
                version = snapshots.change(**outcome.news._asdict())
        if isinstance(outcome, idempotency.Kept):
            await self._applied(version)
            return _answer(outcome.body, outcome.status, outcome.etag, replayed=True)
        if outcome.limits:
            version = await self._told(outcome.limits, version)
        if outcome.news is not None or outcome.limits:
            await self._applied(version)
        return _answer(outcome.view, outcome.status, outcome.etag)

    def _write(
        self,
        connection: Connection,
        claimed: idempotency.Claim | None,
        transaction: Callable[[Connection], Done],
    ) -> Done | idempotency.Kept:
        if claimed is None:
            return transaction(connection)
        peppers = self.service.peppers
        try:
            kept = idempotency.known(connection, claimed, peppers, self.at)
        except idempotency.Reused as error:
            message = "Idempotency-Key: was used for another request; use a new one"
            raise ApiError(422, "idempotency_key_reused", message, "Idempotency-Key") from error
        except idempotency.Underivable as error:
            message = "Idempotency-Key: the pepper of that answer's secret is gone; use a new one"
            raise ApiError(409, "secret_is_gone", message, "Idempotency-Key") from error
        if kept is not None:
            return kept
        done = transaction(connection)
        idempotency.keep(
            connection,
            claimed,
            idempotency.Kept(done.status, msgspec.to_builtins(done.view), done.etag),
            secret=done.secret,
            nonce=self.nonce,
            peppers=peppers,
            now=self.at,
        )
        return done

    def _claim(self) -> idempotency.Claim | None:
        key = self.request.headers.get("idempotency-key")
        if key is None or self.request.method != "POST":
            return None
        wrong = idempotency.key_error(key)
        if wrong is not None:
            raise bad("Idempotency-Key", wrong)
        return idempotency.claim(
            self.service.peppers,
            principal=self.actor.id,
            key=key,
            target=f"{self.request.url.path}?{self.request.url.query}",
            body=self.content,
        )

    async def _told(self, tenants: frozenset[str], version: int) -> int:
        """Tell routers what these tenants may spend. The change is made; if this fails, they hear of it
        with the next turn."""
        lender = self.service.lender
        try:
            return await lender.tell(tenants)
        except (SQLAlchemyError, DatabaseDown) as error:
            lender.active(tenants)
            log.warning("pots_not_told", error=type(error).__name__)
            return version

    async def _applied(self, version: int) -> None:
        if not await self.service.snapshots.applied(version, APPLY_SECONDS):
            log.warning("snapshot_ack_late", version=version)


class Handler(Protocol):
    """What answers a call."""

    __name__: str
    __module__: str

    async def __call__(self, call: Call, /) -> Response:
        """Answer."""


class Operation(NamedTuple):
    """One route, as callers see it. `versioned`: its answer has an ETag."""

    method: str
    path: str
    handler: Handler
    action: Action
    summary: str
    answer: type | None
    body: type | None = None
    query: tuple[Query, ...] = ()
    status: int = 200
    versioned: bool = False


def etag(revision: int, *more: int | None) -> str:
    """A strong ETag: of a row's revision, and of what else its answer shows."""
    return '"' + "-".join(str(one or 0) for one in (revision, *more)) + '"'


def _answer(view: object, status: int, tag: str, *, replayed: bool = False) -> Response:
    headers = {"etag": tag} if tag else {}
    if replayed:
        headers["idempotent-replayed"] = "true"
    return reply(view, status, headers)


def show(view: msgspec.Struct, tag: str) -> Response:
    """One object, with its ETag."""
    return _answer(view, 200, tag)


def routes(service: Service, operations: Iterable[Operation]) -> list[Route]:
    """A route for each path, which takes the methods that have an operation there."""
    by_path: dict[str, dict[str, Operation]] = {}
    for one in operations:
        by_path.setdefault(one.path, {})[one.method] = one
    return [
        Route(PREFIX + path, _endpoint(service, methods), methods=sorted(methods))
        for path, methods in by_path.items()
    ]


def _endpoint(
    service: Service, methods: Mapping[str, Operation]
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        operation = methods.get(request.method) or methods["GET"]  # HEAD
        actor = await login.actor(service, request)
        if not actor.may(operation.action):
            raise forbidden(actor, operation.action)
        only(request, {one.name for one in operation.query})
        _check_path(request)
        content = b"" if operation.body is None else await raw(request)
        wanted = None if operation.body is None else decode(content, operation.body)
        return await operation.handler(Call(request, service, actor, now(), content, wanted))

    return endpoint


def _check_path(request: Request) -> None:
    for name, value in request.path_params.items():
        if "\0" in value:
            raise bad(name, "has a NUL character; allowed: text without one")


def forbidden(actor: Actor, action: Action) -> ApiError:
    """The role does not allow this."""
    allowed = " or ".join(roles_with(action)) or "the platform's admin token alone"
    return ApiError(403, "forbidden", f"the role {actor.role} may not {action}; allowed: {allowed}")
