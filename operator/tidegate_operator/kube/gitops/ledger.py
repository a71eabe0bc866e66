"""Billing, as the resources' reconciliation asks it: one try a call, for the queue tries again."""

from typing import Any, TypeVar

import httpx
import msgspec

from tidegate_billing.links import DesiredTenant, Managed, SettledTenant, WrittenBook

T = TypeVar("T")


class Away(Exception):
    """Billing did not answer, or can't now; the message says how."""


class Refused(Exception):
    """Billing does not take what a resource says, in its own words."""


class Ledger:
    """Its routes for resources. Every method raises Away; those that tell something, Refused."""

    def __init__(self, http: httpx.AsyncClient, url: str, token: str) -> None:
        self._http, self._url = http, f"{url}/internal"
        self._headers = {
            "authorization": f"Bearer {token}",
            "content-type": "application/json",
        }

    async def managed(self) -> list[Managed]:
        """Everything that a resource holds, or held when it was last seen."""
        return await self._call("GET", "managed", list[Managed])

    async def put_book(self, name: str, document: dict[str, Any]) -> WrittenBook:
        """A price book as its resource has it."""
        return await self._call("PUT", f"price-books/{name}", WrittenBook, document)

    async def put_tenant(self, name: str, wanted: DesiredTenant) -> SettledTenant:
        """A tenant as its resource has it."""
        return await self._call("PUT", f"tenants/{name}", SettledTenant, wanted)

    async def end_book(self, name: str) -> None:
        """A book's resource is gone."""
        await self._call("DELETE", f"price-books/{name}", dict)

    async def end_tenant(self, name: str) -> None:
        """A tenant's resource is gone."""
        await self._call("DELETE", f"tenants/{name}", dict)

    async def _call(self, method: str, path: str, kind: type[T], body: object = None) -> T:
        content = None if body is None else msgspec.json.encode(body)
        url = f"{self._url}/{path}"
        try:
            answer = await self._http.request(method, url, content=content, headers=self._headers)
        except httpx.HTTPError as error:
            raise Away(f"no answer from billing: {type(error).__name__}") from error
        try:
            if answer.is_success:
                return msgspec.json.decode(answer.content, type=kind)
            problem = msgspec.json.decode(answer.content, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Away(f"billing answered {answer.status_code}, not in our words") from error
        said = str(problem.get("detail") or answer.status_code)
        passing = answer.status_code >= 500 or answer.status_code in {401, 408, 425, 429}
        if passing or problem.get("code") == "unknown_route":  # of an older release
            raise Away(f"billing answered {answer.status_code}: {said}")
        raise Refused(said)
