"""A key's scopes and end, and a tenant's suspension, from the command line to the gateway."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx

import running


def tidegate(data: Path, *arguments: str) -> dict[str, Any]:
    """What a command prints with `--json`."""
    done = subprocess.run(
        [sys.executable, "-Im", "tidegate_operator.cli", *arguments, "--json"],
        env={"TIDEGATE_DATA": str(data)},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def public(document: str) -> str:
    return document.replace("spec:\n", "spec:\n  access: {visibility: Public}\n", 1)


def test_scopes_ends_and_suspension_at_the_gateway(tmp_path: Path) -> None:
    document = public(running.sim("sim")) + public(running.sim("slow", start_seconds=120))
    with running.platform(tmp_path, document) as up, httpx.Client(timeout=60) as client:

        def ask(key: str, path: str, **body: Any) -> tuple[int, str]:
            headers = {"authorization": f"Bearer {key}"}
            answer = client.post(f"{up.base}/v1{path}", json=body, headers=headers)
            error = answer.json().get("error") or {"code": ""}
            return answer.status_code, error["code"]

        def chat(key: str, model: str = "sim") -> tuple[int, str]:
            messages = [{"role": "user", "content": "a b"}]
            return ask(key, "/chat/completions", model=model, messages=messages, max_tokens=2)

        tidegate(up.data, "org", "create", "acme")
        tidegate(up.data, "tenant", "create", "acme-a", "--org", "acme")
        create = ("key", "create", "--tenant", "acme-a")
        scoped = tidegate(
            up.data, *create, "--models", "si*", "--routes", "chat", "--expires", "1h"
        )
        assert (scoped["models"], scoped["routes"]) == (["si*"], ["chat"])
        key = scoped["key"]
        listed = client.get(f"{up.base}/v1/models", headers={"authorization": f"Bearer {key}"})
        assert [model["id"] for model in listed.json()["data"]] == ["sim"]
        assert chat(key) == (200, "")
        assert chat(key, "slow") == chat(key, "nobody") == (404, "model_not_found")
        assert ask(key, "/completions", model="sim", prompt="x") == (403, "route_not_allowed")

        free = tidegate(up.data, *create)
        held: list[tuple[int, str, float]] = []
        waiting = threading.Thread(
            target=lambda: held.append((*chat(free["key"], "slow"), time.monotonic()))
        )
        waiting.start()
        running.wait_for(lambda: up.metric("tidegate_held") == 1, "one is held")
        begun = time.monotonic()
        tidegate(up.data, "tenant", "suspend", "acme-a")
        assert chat(key) == (403, "tenant_suspended")
        waiting.join(10)
        assert held[0][:2] == (403, "tenant_suspended")
        assert held[0][2] - begun < 5, "a command and a sweep"
        tidegate(up.data, "tenant", "resume", "acme-a")
        assert chat(key) == (200, "")

        brief = tidegate(up.data, *create, "--expires", "2s")
        turned = tidegate(up.data, "key", "rotate", free["id"], "--overlap", "2s")
        assert chat(turned["key"]) == (200, "")
        for ending in (brief["key"], free["key"]):
            assert running.wait_for(
                lambda ending=ending: chat(ending) == (401, "invalid_api_key"), "it has ended", 10
            )
        assert chat(turned["key"]) == (200, "")
        rows = tidegate(up.data, "key", "list", "--tenant", "acme-a")["data"]
        assert [row["id"] for row in rows] == [scoped["id"], turned["id"]]
        verified = tidegate(up.data, "audit", "verify")
        actions = {row["action"] for row in tidegate(up.data, "audit", "list")["data"]}
        assert verified["ok"]
        assert {"price.set", "key.rotate", "tenant.update", "organization.create"} <= actions
