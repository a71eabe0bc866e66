"""A router that was killed is back with what was told last, not with what it had last on disk."""

import json
import os
import signal
from pathlib import Path

import httpx

import running


def test_a_key_that_was_made_just_before_the_kill_works_after_it(tmp_path: Path) -> None:
    with running.platform(
        tmp_path, running.sim().replace("spec:\n", "spec:\n  access: {visibility: Public}\n")
    ) as up:
        with up.client() as client:
            assert client.post("/v1/chat/completions", json=body()).status_code == 200
        # The second comes within the pause that follows each writing of the picture.
        keys = [made(up, name) for name in ("one", "two", "three")]
        os.kill(up.part("router")["pid"], signal.SIGKILL)
        answer = httpx.post(
            f"{up.base}/v1/chat/completions",
            json=body(),
            headers={"authorization": f"Bearer {keys[-1]}"},
            timeout=60,
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text


def test_without_billing_it_serves_from_disk(tmp_path: Path) -> None:
    with running.platform(tmp_path, running.sim()) as up, up.client() as client:
        assert client.post("/v1/chat/completions", json=body()).status_code == 200
        running.wait_for(lambda: kept(up), "a picture on disk with keys and engines")
        router, billing = up.part("router")["pid"], up.part("billing")["pid"]
        os.kill(billing, signal.SIGSTOP)
        try:
            os.kill(router, signal.SIGKILL)
            with up.client() as again:
                assert again.post("/v1/chat/completions", json=body()).status_code == 200
        finally:
            os.kill(billing, signal.SIGCONT)


def kept(up: running.Platform) -> bool:
    """Whether the router's picture would do."""
    picture = json.loads((up.data / "routers" / "router" / "picture-router.json").read_bytes())
    engines = [one["state"] for one in (picture["world"] or {}).get("replicas", [])]
    return bool(picture["at"] and picture["snapshot"]["keys"]) and engines == ["ready"]


def body() -> dict[str, object]:
    return {"model": "sim", "max_tokens": 2, "messages": [{"role": "user", "content": "a"}]}


def made(up: running.Platform, name: str) -> str:
    """A key of a tenant, as `key create` gives it."""
    token = (up.data / "admin-token").read_text().strip()
    answer = up.admin.post(
        f"{up.run['admin_url']}/api/v1/keys",
        json={"tenant": "team", "project": "p", "name": name},
        headers={"authorization": f"Bearer {token}"},
    )
    return str(answer.raise_for_status().json()["key"])
