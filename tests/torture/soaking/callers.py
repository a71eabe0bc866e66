"""The callers of a soak: what each of them asks at its time, and what it saw.

They are threads' work no more than a client's own: one event loop, plain httpx, no retries. Every
request carries its number, which the ledger keeps, so that one that was cut off before it had an
answer's head is found in the ledger as well.
"""

import asyncio
import json
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import httpx
from soaking.documents import REAL
from soaking.plan import Ask

CHAT = "/v1/chat/completions"
ID = "soak-"
MALFORMED = (ValueError, LookupError, TypeError)
"""What an answer that is not what it should be does to whoever reads it."""


@dataclass
class Seen:
    """What one caller saw. Times are seconds since the epoch. `events`: pieces of a stream with
    data; `received`: tokens; `left`: it left before the end, as planned; `fault`: what the
    connection ended with, or what was wrong with an answer that is `malformed`."""

    ask: Ask
    sent: float
    ended: float = 0.0
    status: int = 0
    request_id: str = ""
    events: int = 0
    received: int = 0
    whole: bool = False
    left: bool = False
    code: str = ""
    message: str = ""
    in_band: bool = False
    heartbeats: int = 0
    fault: str = ""
    malformed: bool = False
    text: list[str] = field(default_factory=list)


class Left(Exception):
    """The caller has seen enough."""


class Callers:
    """A loop of their own, and what they saw. `bases`: a URL per router; `keys`: by tenant."""

    def __init__(self, bases: Sequence[str], keys: Mapping[str, str]) -> None:
        self.seen: list[Seen] = []
        self.running: dict[int, Ask] = {}
        self._rounds: list[Future[None]] = []
        self._bases, self._keys = bases, keys
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def play(self, asks: Sequence[Ask]) -> None:
        """Ask all of these, each at its time from now on."""
        self.running |= {ask.number: ask for ask in asks}
        self._rounds.append(
            asyncio.run_coroutine_threadsafe(self._play(asks, time.monotonic()), self._loop)
        )

    def alive(self) -> None:
        """Raises what ended a round's callers, if anything did."""
        for one in self._rounds:
            if one.done():
                one.result()

    def close(self) -> None:
        """End it; whoever still waits is given up."""
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join()
        self._loop.close()

    def _stop(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.call_soon(self._loop.stop)

    async def _play(self, asks: Sequence[Ask], began: float) -> None:
        # Connections are the round's: in a quiet state nobody holds one.
        clients = {
            (base, tenant): httpx.AsyncClient(
                base_url=base,
                headers={"authorization": f"Bearer {key}"},
                timeout=None,  # who waits for ever is found in the end
                trust_env=False,
            )
            for base in self._bases
            for tenant, key in self._keys.items()
        }
        try:
            async with asyncio.TaskGroup() as group:
                for ask in asks:
                    client = clients[self._bases[ask.router % len(self._bases)], ask.tenant]
                    group.create_task(self._one(client, ask, began))
        finally:
            for client in clients.values():
                await client.aclose()

    async def _one(self, client: httpx.AsyncClient, ask: Ask, began: float) -> None:
        await asyncio.sleep(max(0.0, began + ask.at - time.monotonic()))
        seen = Seen(ask, time.time())
        try:
            async with asyncio.timeout(None) as patience:
                if ask.leave_held is not None:
                    patience.reschedule(self._loop.time() + ask.leave_held)
                await self._asked(client, seen, patience)
        except (Left, TimeoutError):
            seen.left = True
        except httpx.HTTPError as error:
            seen.fault = f"{type(error).__name__}: {error}"
        except MALFORMED as error:
            seen.fault = f"{type(error).__name__}: {error}"
            seen.malformed = True
        seen.ended = time.time()
        self.seen.append(seen)
        del self.running[ask.number]

    async def _asked(
        self, client: httpx.AsyncClient, seen: Seen, patience: asyncio.Timeout
    ) -> None:
        ask = seen.ask
        headers = {"x-request-id": f"{ID}{ask.number}"}
        async with client.stream("POST", CHAT, json=body(ask), headers=headers) as answer:
            seen.status = answer.status_code
            seen.request_id = answer.headers.get("x-request-id", "")
            if answer.status_code == 200 and ask.stream:
                await _stream(answer, seen, patience)
                return
            whole = json.loads(await answer.aread())
            if answer.status_code == 200:
                seen.received = whole["usage"]["completion_tokens"]
                seen.text.append(whole["choices"][0]["message"]["content"])
                seen.whole = True
            else:
                _refused(seen, whole["error"])


async def _stream(answer: httpx.Response, seen: Seen, patience: asyncio.Timeout) -> None:
    async for line in answer.aiter_lines():
        if line.startswith(":"):
            seen.heartbeats += 1
        if line == "data: [DONE]":
            seen.whole = True
        elif line.startswith("data: "):
            patience.reschedule(None)  # it is no longer held
            _event(seen, json.loads(line.removeprefix("data: ")))
            if seen.received >= (seen.ask.leave_after or 1 << 30) or seen.ask.leave_after == 0:
                raise Left


def _event(seen: Seen, event: dict) -> None:
    if "error" in event:
        seen.in_band = True
        _refused(seen, event["error"])
        return
    seen.events += 1
    for choice in event["choices"]:
        seen.text.append(choice["delta"].get("content") or "")
    if seen.ask.model == REAL:
        # Of a real model only its own count tells how many tokens a piece of text is.
        seen.received = max(seen.received, (event.get("usage") or {}).get("completion_tokens", 0))
    else:
        seen.received = "".join(seen.text).count(" t")


def _refused(seen: Seen, error: dict) -> None:
    seen.code = str(error.get("code") or error.get("type"))
    seen.message = str(error.get("message"))[:300]


def body(ask: Ask) -> dict:
    """What is asked."""
    made = {
        "model": ask.model,
        "stream": ask.stream,
        "max_tokens": ask.tokens,
        "messages": [{"role": "user", "content": " ".join(["word"] * ask.words)}],
    }
    if ask.model == REAL:
        made["ignore_eos"] = True
        if ask.stream:
            made["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    return made


def expected(tokens: int) -> str:
    """What the sim answers."""
    return "".join(f" t{number}" for number in range(tokens))
