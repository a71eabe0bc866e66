"""Replicas' time from an engine's exec to its owner's bill: `up` with its real parts."""

import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tidegate_billing import money
from up_process import Up, ended, eventually, model

POLICIES: dict[str, tuple[Any, int]] = {
    "charged": ("charge", 100),
    "absorbed": ("absorb", 0),
    "halved": ({"split": 37}, 37),
}
BOOK = {
    "name": "dedicated",
    "currency": "USD",
    "effectiveFrom": "2026-01-01T00:00:00Z",
    "entries": [
        {
            "model": name,
            "prices": {"input": "0", "output": "0", "replicaSecond": "0.001"},
            "replica": {"coldStart": policy, "idleTail": policy},
        }
        for name, (policy, _) in POLICIES.items()
    ],
}


class Real(Up):
    def __init__(self, folder: Path, *resources: str) -> None:
        super().__init__(folder, *resources, kind="real")

    def ask(self, name: str) -> None:
        key = (self.data / "api-key").read_text().strip()
        body = {"model": name, "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}
        answer = httpx.post(
            self.part("router")["url"] + "/v1/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {key}"},
            timeout=30,
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text

    def admin(self, method: str, path: str, body: object = None) -> Any:
        token = (self.data / "admin-token").read_text().strip()
        answer = httpx.request(
            method,
            self.run["admin_url"] + path,
            json=body,
            headers={"authorization": f"Bearer {token}"},
            timeout=10,
            trust_env=False,
        )
        assert answer.is_success, answer.text
        return answer.json()

    def stretches(self) -> list[dict[str, Any]]:
        return self.admin("GET", "/api/v1/events?kind=replica&limit=1000")["data"]


@pytest.fixture
def made() -> Iterator[list[Real]]:
    ups: list[Real] = []
    yield ups
    ended(ups)


def test_a_wake_an_answer_and_a_sleep_cost_the_owner_by_policy(
    made: list[Real], tmp_path: Path
) -> None:
    resources = [
        model(name, "--start-seconds", "0.3", scaling="{idleSeconds: 3}") for name in POLICIES
    ]
    up = Real(tmp_path, *resources)
    made.append(up)
    up.ready()
    up.admin("POST", "/api/v1/price-books", BOOK)
    for name in POLICIES:
        up.ask(name)
    eventually(lambda: not up.run["engines"], what="asleep")
    colds = up.operator("/api/v1/cold-starts", "admin-token")["data"]
    assert {one["deployment"] for one in colds} == {f"default/{name}" for name in POLICIES}
    assert up.stop() == 0  # which tells what is not told yet
    assert not (up.data / "replicas.json").exists()

    with sqlite3.connect(up.data / "billing.db") as ledger:
        rows = ledger.execute(
            "SELECT model, tenant, replica, sum(cold_start_ms), sum(serving_ms), sum(idle_tail_ms),"
            " min(started_at), max(finished_at), sum(amount_nano), sum(amount_atto)"
            " FROM event WHERE kind = 'replica' GROUP BY 1, 2, 3"
        ).fetchall()
        sums = ledger.execute(
            "SELECT s.model, sum(r.amount_nano), sum(r.amount_atto), sum(r.requests)"
            " FROM rollup_day r JOIN series s ON s.id = r.series WHERE s.billed GROUP BY 1"
        ).fetchall()
        parked = ledger.execute("SELECT count(*) FROM parked").fetchone()
    ledger.close()
    assert {row[0] for row in rows} == set(POLICIES)
    assert parked == (0,)
    billed = {name: money.whole(nano, atto) for name, nano, atto, _ in sums}
    for name, tenant, _, cold, serving, idle, began, gone, nano, atto in rows:
        assert tenant == "default"
        assert cold >= 300
        assert serving > 0
        assert idle >= 1000
        assert cold + serving + idle == (gone - began) // 1000
        part = POLICIES[name][1]
        hundredths = part * (cold + idle) + 100 * serving
        assert money.whole(nano, atto) == billed[name] == hundredths * 10**10
    assert {requests for *_, requests in sums} == {1}


def test_a_killed_up_loses_no_more_than_it_had_not_written_down(
    made: list[Real], tmp_path: Path
) -> None:
    resource = model("tiny", scaling="{minReplicas: 1}")
    up = Real(tmp_path, resource)
    made.append(up)
    up.ready()
    up.ask("tiny")
    diary = up.data / "replicas.json"

    def answered() -> bool:
        return diary.exists() and bool(json.loads(diary.read_bytes())[0]["life"].get("answered"))

    eventually(answered, within=30)
    os.kill(up.process.pid, signal.SIGKILL)
    up.process.wait()
    (kept,) = json.loads(diary.read_bytes())
    epoch, life = kept["whose"][1], kept["life"]
    again = Real(tmp_path, resource)
    made.append(again)
    again.ready()

    def told() -> list[dict[str, Any]]:
        found = [one for one in again.stretches() if one["replica"] == epoch]
        return found if found and found[-1]["finished_at"] >= life["seen"] * 1000 else []

    rows = eventually(told, within=30)
    whole = sum(row[name] for row in rows for name in ("cold_start_ms", "serving_ms", "idle_tail_ms"))  # fmt: skip
    assert whole == life["seen"] - life["begin"]
    # minReplicas keeps it: all of its life after the answer is serving.
    assert sum(row["idle_tail_ms"] for row in rows) == 0
    assert again.stop() == 0
