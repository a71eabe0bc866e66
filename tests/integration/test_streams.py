"""Many streams at once, two routers beside one billing, and what a second tenant may see."""

import asyncio
import subprocess
import sys
from pathlib import Path

import httpx

import running


async def whole(client: httpx.AsyncClient, url: str, tokens: int) -> str:
    body = {
        "model": "sim", "stream": True, "max_tokens": tokens,
        "messages": [{"role": "user", "content": "a b"}],
    }  # fmt: skip
    seen, done = 0, False
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            seen += '"content":" t' in line
            done |= line == "data: [DONE]"
    assert (seen, done) == (tokens, True)
    return answer.headers["x-request-id"]


def test_500_streams_from_zero_all_whole(tmp_path: Path) -> None:
    async def load(up: running.Platform) -> list[str]:
        limits = httpx.Limits(max_connections=600)
        headers = {"authorization": f"Bearer {up.key}"}
        async with httpx.AsyncClient(
            timeout=120, limits=limits, headers=headers, trust_env=False
        ) as client:
            return await asyncio.gather(*(whole(client, up.base, 20 + i % 20) for i in range(500)))

    with running.platform(tmp_path, running.sim(target=512, tokens_per_second=20)) as up:
        ids = asyncio.run(load(up))
        up.settled()
        events = up.events()
        assert not running.audit(events, up.truth())
        billed = {e["request_id"]: e for e in events if e["billed"]}
        assert set(billed) == set(ids)
        assert sum(e["completion_tokens"] for e in billed.values()) == sum(
            20 + i % 20 for i in range(500)
        )
        assert all(r["unexplained"] == 0 for r in up.conservation())
        assert up.drifts() == []


def test_two_routers_beside_one_billing(tmp_path: Path) -> None:
    with running.platform(tmp_path, running.sim(), "--routers", "2") as up:
        up.ready("router-2")
        urls = [up.part("router")["url"], up.part("router-2")["url"]]
        headers = {"authorization": f"Bearer {up.key}"}

        async def both() -> list[str]:
            async with httpx.AsyncClient(timeout=60, headers=headers, trust_env=False) as client:
                return await asyncio.gather(*(whole(client, urls[i % 2], 10) for i in range(20)))

        ids = asyncio.run(both())
        up.settled()
        events = up.events()
        assert {e["request_id"] for e in events if e["billed"]} == set(ids)
        assert not running.audit(events, up.truth())
        # Each asks for itself, unless the other's answer was told before it saw the engine; and
        # whatever the engine was asked beside the requests is on record as that.
        probes = {e["attempt_id"] for e in events if e["reason"] == "probe"}
        assert probes == up.truth().keys() - {e["attempt_id"] for e in events if e["billed"]}
        assert 1 <= len(probes) <= 2
        assert up.drifts() == []


def test_private_models_are_as_if_they_were_not(tmp_path: Path) -> None:
    mine = running.sim("mine")
    theirs = running.sim("theirs").replace("{name: theirs}", "{name: theirs, namespace: team-b}")
    with running.platform(tmp_path, mine + theirs) as up, up.client() as client:
        names = [m["id"] for m in client.get("/v1/models").json()["data"]]
        assert names == ["mine"]
        body = {"messages": [{"role": "user", "content": "x"}]}
        foreign = client.post("/v1/chat/completions", json={"model": "theirs", **body})
        unknown = client.post("/v1/chat/completions", json={"model": "nobody", **body})
        assert foreign.status_code == unknown.status_code == 404
        assert foreign.json()["error"]["code"] == "model_not_found"
        assert foreign.text.replace("theirs", "nobody") == unknown.text
        assert up.models()["theirs"]["desired"] == 0, "a stranger's request wakes nothing"


def test_beyond_max_concurrency_the_router_queues(tmp_path: Path) -> None:
    document = running.sim(target=1, tokens_per_second=100).replace(
        "targetConcurrency: 1,", "targetConcurrency: 1, maxConcurrency: 2,"
    )
    with running.platform(tmp_path, document) as up:

        async def seven() -> None:
            headers = {"authorization": f"Bearer {up.key}"}
            async with httpx.AsyncClient(timeout=60, headers=headers, trust_env=False) as client:
                asking = asyncio.gather(*(whole(client, up.base, 60) for _ in range(7)))
                most = 0
                while not asking.done():
                    most = max(most, up.metric("tidegate_in_flight"))
                    await asyncio.sleep(0.05)
                await asking
                assert most == 2

        asyncio.run(seven())
        up.settled()
        assert not running.audit(up.events(), up.truth())


def test_no_disk_space_is_one_clear_line(tmp_path: Path) -> None:
    small = tmp_path / "data"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=True)
    try:
        file = tmp_path / "m.yaml"
        file.write_text(running.sim())
        command = [sys.executable, "-Im", "tidegate_operator.cli", "up", "-f", str(file)]
        ports = ["--port", "0", "--admin-port", "0", "--ops-port", "0"]
        done = subprocess.run(
            [*command, *ports, "--data", str(small)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1, done.stdout + done.stderr
        assert "space" in done.stderr.lower()
        assert "Traceback" not in done.stderr
    finally:
        subprocess.run(["umount", str(small)], check=True)
