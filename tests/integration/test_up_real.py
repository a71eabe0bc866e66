"""`up` with its real parts: router, billing and simulator as processes, one machine, no fakes."""

import concurrent.futures
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from up_process import Up, ended, eventually, model


class Real(Up):
    def __init__(self, tmp: Path, *resources: str, routers: int = 1):
        super().__init__(tmp, *resources, kind="real", routers=routers)

    def ask(self, name: str, tokens: int = 5, router: str = "router") -> httpx.Response:
        key = (self.data / "api-key").read_text().strip()
        body = {
            "model": name,
            "messages": [{"role": "user", "content": "one two three"}],
            "max_tokens": tokens,
        }
        return httpx.post(
            self.part(router)["url"] + "/v1/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {key}"},
            timeout=30,
            trust_env=False,
        )

    def conservation(self) -> list[dict[str, Any]]:
        token = (self.data / "admin-token").read_text().strip()
        url = self.run["admin_url"] + "/api/v1/conservation"
        answer = httpx.get(url, headers={"authorization": f"Bearer {token}"}, trust_env=False)
        return answer.json()["data"]


@pytest.fixture
def made() -> Iterator[list[Real]]:
    ups: list[Real] = []
    yield ups
    ended(ups)


def test_an_alias_is_served_and_nothing_on_disk_is_for_others(
    made: list[Real], tmp_path: Path
) -> None:
    named = model("tiny").replace('"sim://tiny"', '"sim://tiny", aliases: [little, other/one]')
    (tmp_path / "data").mkdir(mode=0o755)
    up = Real(tmp_path, named)
    made.append(up)
    up.ready()
    for name in ("tiny", "little", "other/one"):
        answer = up.ask(name)
        assert answer.status_code == 200, answer.text
    open_to_others = [
        path for path in (up.data, *up.data.rglob("*")) if path.lstat().st_mode & 0o077
    ]
    assert not open_to_others


def test_two_wakes_lose_nothing_and_explain_every_token(made: list[Real], tmp_path: Path) -> None:
    up = Real(tmp_path, model("tiny", "--start-seconds", "0.1", scaling="{idleSeconds: 1}"))
    made.append(up)
    up.ready()
    for _ in range(2):
        answer = up.ask("tiny")
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] == 5
        eventually(lambda: not up.run["engines"])
    colds = up.operator("/api/v1/cold-starts", "admin-token")["data"]
    assert len(colds) == 2
    assert all(cold["exec_at"] - cold["held_at"] < 0.5 for cold in colds)
    rows = eventually(
        lambda: [r for r in up.conservation() if r["state"] == "final"][1:] and up.conservation()
    )
    for row in rows:
        assert row["billed"] == 5, row
        assert row["generated"] == row["billed"] + row["unbilled"].get("probe", 0), row
        assert row["unexplained"] == 0, row
    assert up.stop() == 0


def test_a_start_that_dies_answers_who_waits(made: list[Real], tmp_path: Path) -> None:
    up = Real(tmp_path, model("tiny", "--fail", "die-at-start"))
    made.append(up)
    answer = up.ready().ask("tiny")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "model_start_failed"
    assert "EngineExited" in answer.json()["error"]["message"]
    first = up.models()["tiny"]["failure"]["start_id"]
    again = up.ask("tiny")  # a new request is a new start, after the back-off
    assert again.status_code == 503
    assert up.models()["tiny"]["failure"]["start_id"] > first


def test_an_address_without_a_model_is_told_at_once(made: list[Real], tmp_path: Path) -> None:
    resource = model("tiny").replace("sim://tiny", "file:///no/such/model")
    resource = resource.replace("type: sim", "type: vllm")
    up = Real(tmp_path, resource)
    made.append(up)
    up.ready()
    for _ in range(2):
        answer = up.ask("tiny")
        assert answer.status_code == 503
        assert "ModelNotFound" in answer.json()["error"]["message"]


def test_many_at_once_through_two_routers_all_succeed(made: list[Real], tmp_path: Path) -> None:
    scaling = "{idleSeconds: 2, targetConcurrency: 8, maxReplicas: 2}"
    up = Real(tmp_path, model("tiny", "--start-seconds", "0.3", scaling=scaling), routers=2)
    made.append(up)
    up.ready()
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(up.ask, "tiny", 20, f"router{'-2' * (i % 2)}") for i in range(12)]
        assert [one.result().status_code for one in asked] == [200] * 12
    eventually(lambda: not up.run["engines"], within=20)


def test_ctrl_c_with_a_held_request_answers_it(made: list[Real], tmp_path: Path) -> None:
    up = Real(tmp_path, model("tiny", "--start-seconds", "20"))
    made.append(up)
    up.ready()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(up.ask, "tiny")
        eventually(lambda: up.run["engines"])
        assert up.stop() == 0
        assert asked.result().status_code == 503


def test_kill_9_of_up_leaves_every_token_explained(made: list[Real], tmp_path: Path) -> None:
    resource = model("tiny", scaling="{minReplicas: 1}")
    up = Real(tmp_path, resource)
    made.append(up)
    up.ready()
    assert up.ask("tiny").status_code == 200
    os.kill(up.process.pid, signal.SIGKILL)
    up.process.wait()
    again = Real(tmp_path, resource)
    made.append(again)
    again.ready()
    lost = eventually(lambda: [row for row in again.conservation() if row["state"] == "lost"])
    assert lost[0]["billed"] == 5
    assert lost[0]["unexplained"] == 0
    assert again.stop() == 0
