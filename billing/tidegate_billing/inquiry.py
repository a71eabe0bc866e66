"""Billing's side of what tenants ask on the gateway: `/internal/inquiry`.

The router says whose key it was; the tenant comes from there and from nowhere else. An answer is
what the tenant sees. Few are worked on at once, so that the rest of billing goes on beside them.
"""

import asyncio
from typing import Final

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidegate_billing import tenant_query, tenant_receipt, tenant_usage
from tidegate_billing.links import TenantInquiry
from tidegate_billing.service import Service, now
from tidegate_billing.tenant_query import KINDS, QueryError
from tidegate_billing.web import ApiError, bad, body, guarded, reply

AT_ONCE: Final = 2
GENERATIONS: Final = "/v1/generations/"


def routes(service: Service) -> list[Route]:
    """The route, for bearers of the internal token."""
    inquiries = Inquiries(service)
    answer = guarded(service.internal_token, inquiries.answer)
    return [Route("/internal/inquiry", answer, methods=["POST"])]


class Inquiries:
    """Answers, a few at once."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._places = asyncio.Semaphore(AT_ONCE)

    async def answer(self, request: Request) -> Response:
        """What a tenant asked by this path and query."""
        asked = await body(request, TenantInquiry)
        if asked.path.startswith(GENERATIONS):
            return reply(await self._receipt(asked))
        return reply(await self._page(asked))

    async def _page(self, asked: TenantInquiry) -> dict[str, object]:
        kind = KINDS.get(asked.path)
        if kind is None:
            known = ", ".join(KINDS)
            raise ApiError(
                404, "not_found", f"There is no route {asked.path[:200]}; there are: {known}"
            )
        try:
            question = tenant_query.read(kind, asked.tenant, asked.query, now() // 1_000_000)
            async with self._places:
                return await self._service.database.read(
                    lambda connection: tenant_usage.answer(connection, asked.tenant, question)
                )
        except QueryError as error:
            raise ApiError(400, "invalid_value", str(error), error.param) from error

    async def _receipt(self, asked: TenantInquiry) -> dict[str, object]:
        if asked.query:
            raise bad(asked.query.partition("=")[0][:80], "is not a parameter; allowed: none")
        given = asked.path.removeprefix(GENERATIONS)

        def query(connection: Connection) -> dict[str, object] | None:
            return tenant_receipt.find(connection, asked.tenant, given)

        async with self._places:
            found = await self._service.database.read(query)
        if found is None:
            raise ApiError(
                404,
                "generation_not_found",
                f"The generation `{given[:80]}` does not exist, has not ended, or you do not have"
                " access to it.",
                "id",
            )
        return found
