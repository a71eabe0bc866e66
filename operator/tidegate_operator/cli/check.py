"""`tidegate check`: one request through the gateway, as a tenant makes it, and its bill.

It makes a key, waits until the router knows it and the model, asks, sees the answer's tokens in the
ledger, and revokes the key. What fails says which step, so that `helm test --logs` is enough.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from tidegate_operator.cli.failure import CommandError
from tidegate_operator.cli.platform import Client

PAUSE = 0.5


def check(client: Client, url: str, tenant: str, model: str | None, timeout: float) -> str:
    """What was seen to work, as one line. Raises CommandError at the first step that does not."""
    until = time.monotonic() + timeout
    made = client.post("/api/v1/keys", {"tenant": tenant, "project": "check", "name": "check"})
    headers = {"authorization": f"Bearer {made['key']}"}
    try:
        with httpx.Client(
            base_url=url, headers=headers, timeout=timeout, trust_env=False
        ) as gateway:
            names = _wait(lambda: _listed(gateway, model), until, f"{url}: no list of models")
            if model is None:
                return f"the gateway answers; {len(names)} models are visible to {tenant}"
            return _asked(gateway, client, model)
    finally:
        client.delete(f"/api/v1/keys/{made['id']}")


def _listed(gateway: httpx.Client, model: str | None) -> list[str] | None:
    answer = gateway.get("/v1/models")
    if answer.status_code != 200:
        return None
    names = [one["id"] for one in answer.json()["data"]]
    return names if model is None or model in names else None


def _asked(gateway: httpx.Client, client: Client, model: str) -> str:
    began = time.monotonic()
    question = {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}
    answer = gateway.post("/v1/chat/completions", json=question)
    if answer.status_code != 200:
        raise CommandError(f"{model} answered {answer.status_code}: {answer.text[:500]}")
    usage: Mapping[str, Any] = answer.json()["usage"]
    request = answer.headers["x-request-id"]
    found = _wait(
        lambda: next(
            (e for e in client.get("/api/v1/events", request_id=request)["data"] if e["billed"]),
            None,
        ),
        time.monotonic() + 30,
        f"request {request} is not in the ledger",
    )
    billed = found["completion_tokens"]
    if billed != usage["completion_tokens"]:
        raise CommandError(f"{usage['completion_tokens']} tokens answered, {billed} billed")
    seconds = time.monotonic() - began
    return f"{model} answered {billed} tokens in {seconds:.1f} s, and they are billed"


def _wait(look: Callable[[], Any], until: float, failed: str) -> Any:
    while True:
        try:
            found = look()
        except httpx.HTTPError as error:
            found, failed = None, f"{failed.partition(' (')[0]} ({type(error).__name__})"
        if found is not None:
            return found
        if time.monotonic() > until:
            raise CommandError(failed)
        time.sleep(PAUSE)
