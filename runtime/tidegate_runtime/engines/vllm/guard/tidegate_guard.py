"""The door of an engine: every path but `/health` needs the deployment's secret.

vLLM loads this class with `--middleware tidegate_guard.Guard`, as the outermost layer of its app;
vLLM's own `--api-key` will not do, as it leaves `/metrics`, `/tokenize`, `/invocations` and more
open. It runs in vLLM's process and its interpreter, so it uses the standard library only.

Whatever is not clearly allowed is refused. Without a secret in the environment everything is,
`/health` included, so that such an engine never counts as started. WebSockets are refused even
with the secret: what they carry is not metered.
"""

import hmac
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

SECRET_VARIABLE: Final = "ENGINE_GUARD_SECRET"  # noqa: S105 - the variable's name, no secret

_OPEN_PATH: Final = "/health"
_REFUSAL: Final = json.dumps(
    {
        "error": {
            "message": "This engine answers its own platform only.",
            "type": "invalid_request_error",
            "param": None,
            "code": "invalid_api_key",
        }
    }
).encode()

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """ASGI middleware that lets a request through if it carries the secret."""

    def __init__(self, app: App, environment: Mapping[str, str] = os.environ) -> None:
        secret = environment.get(SECRET_VARIABLE, "")
        self._app = app
        self._expected = b"Bearer " + secret.encode() if secret else b""
        if not secret:
            print(f"{SECRET_VARIABLE} is empty: every request is refused", file=sys.stderr)  # noqa: T201 - vLLM's log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and self._admits(scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await _refuse(send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _admits(self, scope: Scope) -> bool:
        if not self._expected:
            return False
        if scope["path"] == _OPEN_PATH:
            return True
        shown = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(shown) == 1 and hmac.compare_digest(shown[0], self._expected)


async def _refuse(send: Send) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(_REFUSAL)).encode()),
        (b"connection", b"close"),  # the body stays unread
    ]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": _REFUSAL})
