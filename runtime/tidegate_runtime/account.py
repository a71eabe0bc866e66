"""What tenants ask of their own account on the gateway: usage, costs, receipts.

Billing answers; the router adds whose key it was and passes the answer on as it came. The data path
must not notice: few questions are under way at once, each tenant has a share of them and asks one
after the other with a pause between, so that it can't hold up another's either; each question has a
deadline, and they have connections of their own. Nothing here is metered.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

import httpx
import msgspec
import structlog

from tidegate_billing.links import KeyView, TenantInquiry
from tidegate_billing.who.scopes import USAGE
from tidegate_runtime.boundary import bounded
from tidegate_runtime.errors import PlatformError, Refusal, TenantError

log = structlog.get_logger()

if TYPE_CHECKING:
    from tidegate_runtime.front import Front, Incoming
    from tidegate_runtime.gate import Gate

PREFIXES: Final = ("/v1/organization/", "/v1/generations/")
AT_ONCE: Final = 32
TENANT_AT_ONCE: Final = 8
PAUSE: Final = 0.02
"""Between two questions of a tenant; who pages in a loop is slowed down, not refused."""
SECONDS: Final = 5.0
_KNOWN: Final = 1024
_PASSED_ON: Final = frozenset(
    [(400, "invalid_value"), (404, "not_found"), (404, "generation_not_found")]
)
"""Errors of billing that are the caller's to know; others, of an older billing too, are ours."""


class _Error(msgspec.Struct):
    message: str
    code: str
    param: str | None = None


class _Refused(msgspec.Struct):
    error: _Error


@contextlib.asynccontextmanager
async def opened(gate: "Gate", url: str, token: str) -> AsyncIterator[None]:
    """Let `gate` answer questions, from billing at `url`.

    The client is for questions alone: they never wait for, or hold up, what ships usage."""
    async with httpx.AsyncClient(
        headers={"Authorization": f"Bearer {token}"},
        timeout=httpx.Timeout(SECONDS, connect=1.0),
        limits=httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=4),
        trust_env=False,
    ) as client:
        gate.account = Account(gate, client, url)
        try:
            yield
        finally:
            for inquiry in gate.account.live.copy():
                inquiry.client_gone()


class Account:
    """Asks billing at `url` for tenants. `live`: the questions that are under way."""

    def __init__(self, gate: "Gate", client: httpx.AsyncClient, url: str) -> None:
        self.gate = gate
        self.live: set[Inquiry] = set()
        self._client = client
        self._url = f"{url}/internal/inquiry"
        self._next: dict[str, float] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def ask(self, front: "Front", incoming: "Incoming", key: KeyView) -> None:
        """Begin to answer a question. Raises TenantError, PlatformError where it can't be."""
        if incoming.method != b"GET":
            raise TenantError(405, "method_not_allowed", f"{incoming.path[:200]} takes GET")
        if key.routes is not None and USAGE not in key.routes:
            raise TenantError(
                403,
                "route_not_allowed",
                f"This API key may not read usage; allowed: {', '.join(key.routes)}",
            )
        pause = self._admit(key.tenant)
        asked = TenantInquiry(tenant=key.tenant, path=incoming.path, query=incoming.query)
        inquiry = Inquiry(self, front, incoming, key.tenant)
        front.listener = inquiry
        self.live.add(inquiry)
        inquiry.begin(msgspec.json.encode(asked), pause)

    def _admit(self, tenant: str) -> float:
        """How long a tenant's next question has to wait."""
        if sum(inquiry.tenant == tenant for inquiry in self.live) >= TENANT_AT_ONCE:
            raise TenantError(
                429,
                "too_many_inquiries",
                f"Too many questions about usage; allowed: {TENANT_AT_ONCE} at once",
                retry_after=1,
            )
        if len(self.live) >= AT_ONCE:
            raise PlatformError(503, "usage_busy", "Many ask about their usage now", retry_after=1)
        now = self.gate.loop.time()
        if len(self._next) >= _KNOWN:
            self._next = {name: at for name, at in self._next.items() if at > now}
        begin = max(now, self._next.get(tenant, now))
        self._next[tenant] = begin + PAUSE
        return begin - now

    async def fetch(self, tenant: str, content: bytes, pause: float) -> bytes:
        """Billing's answer, asked in the tenant's turn and after a pause.

        Raises TenantError where billing refuses, PlatformError where it is away."""
        turn = self._turns.setdefault(tenant, asyncio.Lock())
        if pause:
            await asyncio.sleep(pause)
        try:
            async with asyncio.timeout(SECONDS), turn:
                answer = await self._client.post(self._url, content=content)
        except (httpx.HTTPError, TimeoutError) as exc:
            log.warning("inquiry_unanswered", error=type(exc).__name__)
            raise _away() from exc
        if answer.status_code == 200:
            return answer.content
        log.info("inquiry_refused", status=answer.status_code)
        try:
            error = msgspec.json.decode(answer.content, type=_Refused).error
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise _away() from exc
        if (answer.status_code, error.code) not in _PASSED_ON:
            raise _away()
        raise TenantError(answer.status_code, error.code, error.message, param=error.param)


def _away() -> PlatformError:
    return PlatformError(
        503,
        "usage_unavailable",
        "Usage and costs cannot be read now: billing is away. Inference goes on, and is recorded.",
        retry_after=2,
    )


class Inquiry:
    """One question under way; ends exactly once."""

    __slots__ = ("_account", "_front", "_incoming", "_task", "tenant")

    def __init__(self, account: Account, front: "Front", incoming: "Incoming", tenant: str) -> None:
        self._account = account
        self._front = front
        self._incoming = incoming
        self._task: asyncio.Task[bytes] | None = None
        self.tenant = tenant

    def begin(self, content: bytes, pause: float) -> None:
        """Ask billing after a pause."""
        self._task = self._account.gate.loop.create_task(
            self._account.fetch(self.tenant, content, pause)
        )
        self._task.add_done_callback(self._done)

    @bounded
    def _done(self, task: "asyncio.Task[bytes]") -> None:
        gate = self._account.gate
        self._account.live.discard(self)
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or self._front.listener is not self:
            return
        gate.heard_at = gate.loop.time()
        if isinstance(error, Refusal):
            gate.refuse(self._front, self._incoming, error)
            return
        gate.send(self._front, self._incoming, task.result())

    def fail(self, *_: object) -> None:
        """A fault of ours in this question (see `boundary`)."""
        self._account.gate.fail(self._front, self._incoming)

    def client_gone(self) -> None:
        """Nobody waits for the answer."""
        if self._task is not None:
            self._task.cancel()

    def client_paused(self, paused: bool) -> None:
        """The answer is one piece and is in memory anyhow."""
