"""A few requests to the API server, with nothing but the standard library.

Bring-up and the storage provisioner need a handful of calls; a process per call (kubectl) would
cost each of them a tenth of a second of one of two cores.
"""

import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .layout import API_PORT, GATEWAY

MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"


class Refused(RuntimeError):
    """The API server answered with another status than a success."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"API server: {status}: {text[:500]}")
        self.status = status


class Api:
    """The API server as a client certificate's owner sees it; a connection per request."""

    def __init__(self, certs: Path, client: str = "admin") -> None:
        self._context = ssl.create_default_context(cafile=str(certs / "ca.crt"))
        self._context.load_cert_chain(certs / f"{client}.crt", certs / f"{client}.key")

    def _send(
        self, method: str, path: str, body: object, kind: str, seconds: float
    ) -> tuple[http.client.HTTPSConnection, http.client.HTTPResponse]:
        link = http.client.HTTPSConnection(
            GATEWAY, API_PORT, context=self._context, timeout=seconds
        )
        try:
            content = None if body is None else json.dumps(body)
            link.request(method, path, content, {"Content-Type": kind})
            answer = link.getresponse()
        except OSError:
            link.close()
            raise
        if answer.status >= 300:
            text = answer.read().decode(errors="replace")
            link.close()
            raise Refused(answer.status, text)
        return link, answer

    def text(self, path: str, seconds: float = 5) -> str:
        """An answer that is not JSON (`/readyz`). Raises Refused, OSError."""
        link, answer = self._send("GET", path, None, "application/json", seconds)
        try:
            return answer.read().decode()
        finally:
            link.close()

    def call(
        self, method: str, path: str, body: object = None, kind: str = "application/json"
    ) -> Any:
        """One request, its answer as an object. Raises Refused, OSError."""
        link, answer = self._send(method, path, body, kind, 20)
        try:
            return json.load(answer)
        finally:
            link.close()

    def watch(self, path: str, version: str, seconds: int) -> Iterator[dict[str, Any]]:
        """Events from a version on, until the server ends the stream after `seconds`."""
        query = f"?watch=1&resourceVersion={version}&timeoutSeconds={seconds}"
        link, answer = self._send("GET", path + query, None, "application/json", seconds + 20)
        try:
            for line in answer:
                yield json.loads(line)
        finally:
            link.close()
