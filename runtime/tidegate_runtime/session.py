"""A router's session with billing about leases: what was said in it, billing has heard, or it is over.

Where one answer stays out, nobody knows what was lent. So the session ends, nothing is asked any more, and
once no question is under way a new one begins with what is held (`till`, in a usage batch). Billing
refuses words of an old session, however late they come.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import httpx
import msgspec
import structlog

log = structlog.get_logger()

ANSWER_SECONDS: Final = 2.0
PAUSE_SECONDS: Final = 0.1
"""Before a session begins after one that was lost, so that what always fails does not spin."""
AGAIN_SECONDS: Final = 5.0
"""After which a billing that knows no leases is asked again."""
UNDERSTOOD: Final = frozenset({400, 413, 422})
"""Billing has heard it, done nothing, and would say so again: that is one request's end, not everybody's."""
Answer = TypeVar("Answer")


class Session:
    """`number` 0: there is none. `begun`: how many there were. `hurry` has the journal's shipper look."""

    def __init__(self, client: httpx.AsyncClient, url: str, hurry: Callable[[], None]) -> None:
        self.number = self.begun = 0
        self._loop = asyncio.get_running_loop()
        self._client = client
        self._url = url
        self._hurry = hurry
        self._calls: set[asyncio.Task[None]] = set()
        self._beginning = 0  # the number that was said, and not answered yet
        self._begin_at = 0.0

    @property
    def due(self) -> bool:
        """Whether a new one may begin."""
        if self.number or self._calls:
            return False
        return bool(self._beginning) or self._loop.time() >= self._begin_at

    def begin(self) -> int:
        """The number of the one that begins when billing has answered."""
        self._beginning = time.time_ns() // 1000
        return self._beginning

    @property
    def beginning(self) -> bool:
        """Whether one was said, and billing has not answered yet."""
        return bool(self._beginning)

    def answered(self, *, known: bool) -> None:
        """Billing has answered `begin`; not `known`: it is of an older release."""
        number, self._beginning = self._beginning, 0
        if known:
            self.number = number
            self.begun += 1
        else:
            self._begin_at = self._loop.time() + AGAIN_SECONDS

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Have a conversation."""
        task = self._loop.create_task(work)
        self._calls.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._calls.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("lease_call_failed", exc_info=task.exception())
            self._lose("fault")
        if self.due:
            self._hurry()

    async def quiet(self) -> None:
        """Wait for the answers of all that was said."""
        await asyncio.gather(*self._calls)

    async def call(self, name: str, said: msgspec.Struct, kind: type[Answer]) -> Answer | None:
        """Tell billing; None: there is no answer (or none was to come). Where nobody knows what came
        of it, the session is over."""
        number = self.number
        try:
            reply = await self._client.post(
                f"{self._url}/internal/leases/{name}",
                content=msgspec.json.encode(said),
                timeout=ANSWER_SECONDS,
            )
            if reply.is_success:
                return msgspec.json.decode(reply.content or b"null", type=kind)
            reason = f"status {reply.status_code}"
            if reply.status_code in UNDERSTOOD:
                log.error(
                    "lease_call_refused", call=name, status=reply.status_code, body=reply.text[:200]
                )
                return None
        except (httpx.HTTPError, msgspec.MsgspecError) as exc:
            reason = type(exc).__name__
        if number == self.number:
            self._lose(reason)
        return None

    def _lose(self, reason: str) -> None:
        if self.number:
            log.info("lease_session_lost", reason=reason)
        self.number = 0
        self._begin_at = self._loop.time() + PAUSE_SECONDS
        self._loop.call_later(PAUSE_SECONDS, self._hurry)
