"""GET requests to the API server, as streams of bytes.

`kubernetes.aio` knows where the API server is and how to be known there (service account, client
certificates, exec plugins); its own watch decodes every object twice, into classes we do not need,
so what comes back is left to `watch`.

A connection that failed is thrown away with everything it was made from. The next one reads the
token and the certificates anew, which is what a rotated token (401) or authority (a TLS error)
asks for, and costs a millisecond where the server was merely away.
"""

import contextlib
import socket
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
import yaml
from kubernetes.aio import client, config

AGENT: Final = "tidegate-router"
CONNECT_SECONDS: Final = 5.0
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
"""A server whose machine is gone is noticed in 25 s. One that is there and says nothing is the
matter of `silence`."""
_BROKEN: Final = (aiohttp.ClientError, config.ConfigException, yaml.YAMLError, OSError, ValueError)


class Unavailable(Exception):
    """The API server gave no answer, or not all of it; the message says why."""


class Refused(Exception):
    """The API server answered, but not with what was asked for. `status`: its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """One client of the API server. `kubeconfig`: a path as in KUBECONFIG; empty: the pod's own
    service account."""

    def __init__(self, kubeconfig: str = "") -> None:
        self._kubeconfig = kubeconfig
        self._client: Any = None

    async def chunks(
        self, path: str, query: Mapping[str, str], silence: float
    ) -> AsyncGenerator[bytes, None]:
        """The body of a GET as it comes. Close it (`contextlib.aclosing`) to end the request.

        `silence`: after so many seconds without a byte it is Unavailable. Raises Unavailable,
        Refused; either way the connection is made anew by the next call."""
        try:
            answer = await self._ask(path, query, silence)
            try:
                if answer.status != 200:
                    said = await answer.content.read(500)
                    raise Refused(answer.status, said.decode(errors="replace").strip())
                async for chunk in answer.content.iter_any():
                    yield chunk
            finally:
                answer.close()
        except _BROKEN as exc:
            await self.close()
            raise Unavailable(f"{type(exc).__name__}: {exc}") from exc
        except Refused:
            await self.close()
            raise

    async def _ask(
        self, path: str, query: Mapping[str, str], silence: float
    ) -> aiohttp.ClientResponse:
        if self._client is None:
            self._client = await connect(self._kubeconfig)
        made = self._client
        # Identity: to inflate a megabyte of pods would hold up the requests on this loop.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": AGENT}
        await made.update_params_for_auth(headers, [], ["BearerToken"], path, "GET", None)
        answer = await made.rest_client.request(
            "GET",
            f"{made.configuration.host}{path}?{urlencode(query)}",
            headers=headers,
            _request_timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_SECONDS, sock_read=silence
            ),
        )
        response: aiohttp.ClientResponse = answer.response
        _keep_alive(response)
        return response

    async def close(self) -> None:
        """Forget the connection, and what it was made from."""
        made, self._client = self._client, None
        if made is not None:
            await made.close()


async def connect(kubeconfig: str) -> Any:
    """A new `kubernetes.aio` client: of the pod's service account, or of the file `kubeconfig`.

    Raises config.ConfigException where there is neither."""
    settings = client.Configuration()
    if kubeconfig:
        await config.load_kube_config(
            config_file=kubeconfig, client_configuration=settings, persist_config=False
        )
    else:
        config.load_incluster_config(client_configuration=settings)
    return client.ApiClient(settings)


def _keep_alive(answer: aiohttp.ClientResponse) -> None:
    connection = answer.connection
    if connection is None or connection.transport is None:
        return  # a short answer, read already
    link = connection.transport.get_extra_info("socket")
    with contextlib.suppress(OSError):  # it is closing
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, seconds in _KEEPALIVE:
            if hasattr(socket, name):  # Linux
                link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
