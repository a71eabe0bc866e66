"""One try: a message taken to the very address that was looked at, and what came of it.

The name is resolved here, each address of it is judged (`destinations`), and the connection goes to
one of those, with the host's name in TLS and in the `host` header: TLS is verified against the
name. Redirects are not followed, the answer's body is not read, and no connection is used twice.
"""

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Mapping

from tidegate_billing import deliveries, destinations
from tidegate_billing.deliveries import Answer
from tidegate_billing.destinations import Destination, DestinationError, Policy

CONNECT_SECONDS = 5.0
ADDRESSES = 3
"""How many of a host's addresses are connected to until one answers."""
AGENT = "tidegate-webhooks"


class Poster:
    """Sends messages where `policy` allows. `tls`: whom to trust; by default whom the system does."""

    def __init__(self, policy: Policy, tls: ssl.SSLContext | None = None) -> None:
        self._policy = policy
        self._tls = tls

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Try once, for `deliveries.TIMEOUT_SECONDS` at most; every failure is an answer, too."""
        begun = time.monotonic_ns()
        status, note, retry_after = await self._try(url, headers, body)
        return Answer(status, (time.monotonic_ns() - begun) // 1000, note, retry_after)

    async def _try(
        self, url: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, str, int | None]:
        import httpx

        try:
            async with asyncio.timeout(deliveries.TIMEOUT_SECONDS):
                target = destinations.parse(url, self._policy)
                addresses = destinations.check(target, await self._resolve(target), self._policy)
                return await self._ask(target, addresses[:ADDRESSES], headers, body)
        except TimeoutError:
            return 0, f"no answer within {deliveries.TIMEOUT_SECONDS} s", None
        except DestinationError as error:
            return 0, str(error), None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            return 0, f"{type(error).__name__}: {error}", None

    async def _resolve(self, target: Destination) -> list[str]:
        """Every address of a host, once each. A thread of its own that nobody waits for: a name server
        that hangs must keep neither other tenants' messages nor the end of the process."""
        if destinations.is_address(target.host):
            return [target.host]
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[str]] = loop.create_future()

        def done(addresses: list[str], error: OSError | UnicodeError | None) -> None:
            if found.done():
                return
            if error is None:
                found.set_result(addresses)
            else:
                found.set_exception(error)

        def ask() -> None:
            addresses, failed = _addresses(target)
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(done, addresses, failed)

        threading.Thread(target=ask, name="resolve", daemon=True).start()
        return await found

    async def _ask(
        self, target: Destination, addresses: list[str], headers: Mapping[str, str], body: bytes
    ) -> tuple[int, str, int | None]:
        import httpx

        url = httpx.URL(target.url)
        host = {"host": url.netloc.decode(), "user-agent": AGENT}
        if self._tls is None:
            self._tls = httpx.create_ssl_context()
        timeout = httpx.Timeout(deliveries.TIMEOUT_SECONDS, connect=CONNECT_SECONDS)
        async with httpx.AsyncClient(
            verify=self._tls, trust_env=False, timeout=timeout, follow_redirects=False
        ) as client:
            for place, address in enumerate(addresses, 1):
                try:
                    async with client.stream(
                        "POST",
                        url.copy_with(host=address),
                        headers={**headers, **host},
                        content=body,
                        extensions={"sni_hostname": target.host},
                    ) as answer:
                        return (
                            answer.status_code,
                            _note(answer.status_code),
                            _seconds(answer.headers.get("retry-after")),
                        )
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    if place == len(addresses):
                        raise
        raise DestinationError(f"{target.host} has no address")


def _addresses(target: Destination) -> tuple[list[str], OSError | UnicodeError | None]:
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return [], error
    return list(dict.fromkeys(str(address[0]) for *_, address in found)), None


def _note(status: int) -> str:
    if 200 <= status <= 299:
        return ""
    return f"answered {status}" + (", which is not followed" if 300 <= status <= 399 else "")


def _seconds(value: str | None) -> int | None:
    """What `retry-after` says, where it names seconds."""
    if value is None or not (value.isascii() and value.isdigit() and len(value) < 9):
        return None
    return int(value)
