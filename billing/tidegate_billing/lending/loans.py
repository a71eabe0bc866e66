"""The routes of leases under `/internal`, for routers."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidegate_billing import money
from tidegate_billing.lending import desk
from tidegate_billing.lending.said import LeaseAsk, LeaseBack, LeaseRenewal, LeaseTerms, LeaseWord
from tidegate_billing.usage import LARGEST
from tidegate_billing.web import ApiError, bad, body, guarded, reply

if TYPE_CHECKING:
    from tidegate_billing.service import Service

MOST = 2048
"""Pots of one question: a request has one of credit, and each budget that covers it (`budget_routes.MOST`)."""


def routes(service: "Service") -> list[Route]:
    """For bearers of the internal token."""
    desk_of = Loans(service)
    token = service.internal_token
    return [
        Route(f"/internal/leases/{name}", guarded(token, handler), methods=["POST"])
        for name, handler in (
            ("ask", desk_of.ask),
            ("back", desk_of.back),
            ("renew", desk_of.renew),
        )
    ]


def check(word: LeaseWord | None) -> None:
    """Refuse a word that is none, before it comes to the ledger. Raises ApiError."""
    if word is not None:
        _name(word.router)
        if not 0 < word.session <= LARGEST:
            raise bad("leases", f"session {word.session}; allowed: 1 to {LARGEST}")
        _amounts("leases", [*word.spent.values(), *(word.holds or {}).values()])


def _name(router: str) -> None:
    if not 1 <= len(router) <= 200 or "\0" in router:
        raise bad("router", "is not a name; allowed: 1 to 200 characters")


def _amounts(field: str, texts: Iterable[str]) -> None:
    try:
        for text in texts:
            money.parse(text, digits=desk.DIGITS)
    except money.MoneyError as error:
        raise bad(field, str(error)) from error


def _over(error: desk.SessionOver) -> ApiError:
    return ApiError(409, "lease_session_over", f"router {error} speaks in a session that is over")


class Loans:
    """One method a route."""

    def __init__(self, service: "Service") -> None:
        self._service = service

    async def ask(self, request: Request) -> Response:
        """Lend more, or say how little there is."""
        asked = await body(request, LeaseAsk)
        _name(asked.router)
        if not 1 <= len(asked.wants) <= MOST:
            raise bad("wants", f"{len(asked.wants)} pots; allowed: 1 to {MOST}")
        _amounts("wants", [text for want in asked.wants.values() for text in want])
        try:
            return reply(await self._service.lender.ask(asked))
        except desk.SessionOver as error:
            raise _over(error) from error

    async def back(self, request: Request) -> Response:
        """Take back what a router does not need."""
        said = await body(request, LeaseBack)
        _amounts("back", said.back.values())
        try:
            await self._service.lender.back(said)
        except desk.SessionOver as error:
            raise _over(error) from error
        return Response(status_code=204)

    async def renew(self, request: Request) -> Response:
        """Prolong what a router holds."""
        said = await body(request, LeaseRenewal)
        try:
            return reply(LeaseTerms(ends_in=await self._service.lender.renew(said)))
        except desk.SessionOver as error:
            raise _over(error) from error
