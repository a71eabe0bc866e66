"""What `up` asks of billing: prices in, counters in, the first key out.

Everything here may be repeated: billing keeps prices by content and counters by epoch. So a call
that failed is tried again until it is acknowledged, and nobody waits for it but its own task.
"""

import asyncio
from collections.abc import Sequence

import httpx
import msgspec

from tidegate_billing.links import (
    EngineCounters,
    ModelPricing,
    PricedModel,
    ReplicaCounted,
    ReplicaTime,
)
from tidegate_operator.replica_time import Lives

_FIRST_RETRY = 0.1
_LAST_RETRY = 5.0


class BillingError(Exception):
    """Billing refused what it was asked, in its own words."""


class Billing:
    """Billing's management port, as the operator sees it."""

    def __init__(self, url: str, *, internal: str, admin: str) -> None:
        self._internal = {"authorization": f"Bearer {internal}"}
        self._admin = {"authorization": f"Bearer {admin}"}
        self._http = httpx.AsyncClient(base_url=url, timeout=10.0, trust_env=False)

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def price(self, models: Sequence[ModelPricing]) -> list[PricedModel]:
        """Tells every deployment's owner and price; retries until billing has answered.

        Raises BillingError where it refused them.
        """
        answer = await self._until_answered("PUT", "/internal/models", msgspec.json.encode(models))
        return msgspec.json.decode(answer, type=list[PricedModel])

    async def count(self, counters: Sequence[EngineCounters]) -> None:
        """Tells the counters of ended engines; retries until billing has answered.

        Raises BillingError where it refused them.
        """
        await self._until_answered("POST", "/internal/counters", msgspec.json.encode(counters))

    async def settle(self, lives: Lives) -> None:
        """Tells all that is due of replicas' lives; each call retries until billing has answered.

        Raises BillingError where it refused them.
        """
        told: list[ReplicaTime] = []
        while (due := lives.due()) and due != told:
            body = msgspec.json.encode(due)
            answer = await self._until_answered("POST", "/internal/replicas", body)
            lives.told(msgspec.json.decode(answer, type=list[ReplicaCounted]))
            told = due

    async def make_key(self, tenant: str, name: str) -> str:
        """A new key of the tenant's project `default`.

        Raises BillingError where billing refused it or did not answer.
        """
        body = {"tenant": tenant, "project": "default", "name": name}
        try:
            answer = await self._http.post("/api/v1/keys", json=body, headers=self._admin)
        except httpx.HTTPError as error:
            raise BillingError(f"no answer from billing: {type(error).__name__}") from error
        if not answer.is_success:
            raise BillingError(f"no key: {answer.status_code} {answer.text[:200]}")
        key = answer.json().get("key")
        if not isinstance(key, str):
            raise BillingError("no key in billing's answer")
        return key

    async def _until_answered(self, method: str, path: str, body: bytes) -> bytes:
        pause = _FIRST_RETRY
        headers = self._internal | {"content-type": "application/json"}
        while True:
            try:
                answer = await self._http.request(method, path, content=body, headers=headers)
            except httpx.HTTPError:
                pass
            else:
                if answer.is_success:
                    return answer.content
                if answer.status_code < 500 and answer.status_code not in {401, 408, 425, 429}:
                    raise BillingError(f"{path}: {answer.status_code} {answer.text[:200]}")
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_RETRY)
