"""The engine's guard, driven as an ASGI server drives it."""

import json
from typing import Any

import pytest

from tidegate_runtime.engines.vllm.guard.tidegate_guard import Guard, Message, Receive, Scope, Send

SECRET = {"ENGINE_GUARD_SECRET": "s3cret"}
RIGHT = [(b"authorization", b"Bearer s3cret")]


async def _engine(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"reached"})


async def _receive() -> Message:
    return {"type": "http.request"}


async def _ask(
    environment: dict[str, str], path: str, headers: list[tuple[bytes, bytes]], kind: str = "http"
) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: Message) -> None:
        sent.append(dict(message))

    scope = {"type": kind, "path": path, "headers": headers, "method": "GET"}
    await Guard(_engine, environment)(scope, _receive, send)
    return sent


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/health", [], 200),
        ("/health", RIGHT, 200),
        ("/v1/models", RIGHT, 200),
        ("/metrics", RIGHT, 200),
        ("/v1/models", [], 401),
        ("/metrics", [], 401),
        ("/openapi.json", [], 401),
        ("/health/", [], 401),
        ("//health", [], 401),
        ("/HEALTH", [], 401),
        ("/health/../metrics", [], 401),
        ("", [], 401),
        ("/metrics", [(b"authorization", b"Bearer wrong")], 401),
        ("/metrics", [(b"authorization", b"Bearer ")], 401),
        ("/metrics", [(b"authorization", b"Bearer")], 401),
        ("/metrics", [(b"authorization", b"")], 401),
        ("/metrics", [(b"authorization", b"s3cret")], 401),
        ("/metrics", [(b"authorization", b"Bearer s3cret ")], 401),
        ("/metrics", [(b"authorization", "Bearer s3cr\u00e9t".encode())], 401),
        ("/metrics", [*RIGHT, (b"authorization", b"Bearer wrong")], 401),
        ("/metrics", [(b"x-api-key", b"s3cret")], 401),
    ],
)
async def test_who_gets_in(path: str, headers: list[tuple[bytes, bytes]], status: int) -> None:
    assert (await _ask(SECRET, path, headers))[0]["status"] == status


@pytest.mark.parametrize("environment", [{}, {"ENGINE_GUARD_SECRET": ""}])
@pytest.mark.parametrize("path", ["/health", "/v1/models"])
@pytest.mark.parametrize("shown", [b"Bearer ", b"Bearer", b"", b"Bearer s3cret"])
async def test_without_a_secret_nobody_gets_in(
    environment: dict[str, str], path: str, shown: bytes
) -> None:
    sent = await _ask(environment, path, [(b"authorization", shown)])
    assert sent[0]["status"] == 401


async def test_the_refusal_has_openais_shape() -> None:
    start, body = await _ask(SECRET, "/v1/models", [])
    assert dict(start["headers"])[b"content-type"] == b"application/json"
    assert int(dict(start["headers"])[b"content-length"]) == len(body["body"])
    error = json.loads(body["body"])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == "invalid_api_key"


async def test_websockets_are_refused_even_with_the_secret() -> None:
    sent = await _ask(SECRET, "/v1/realtime", RIGHT, kind="websocket")
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_the_servers_own_start_and_stop_pass() -> None:
    assert (await _ask(SECRET, "", [], kind="lifespan"))[0]["status"] == 200
