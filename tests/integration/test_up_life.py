"""`up` with a real simulator and stand-ins for router and billing: wakes, drains, ends."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from up_process import Up, ended, eventually, model

Start = Callable[..., Up]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[Up] = []

    def begin(*resources: str, folder: str = "a", port: int = 0, routers: int = 1) -> Up:
        made.append(Up(tmp_path / folder, *resources, kind="fake", port=port, routers=routers))
        return made[-1]

    yield begin
    ended(made)


def test_a_held_request_wakes_a_model_and_idleness_ends_it(start: Start) -> None:
    up = start(model("tiny", "--start-seconds", "0.1")).ready()
    assert up.models()["tiny"]["phase"] == "Idle"
    up.hold("default/tiny", 1)
    eventually(lambda: ready(up))
    (engine,) = up.run["engines"]
    assert engine["model"] == "tiny"
    assert oct((up.data / "run.json").stat().st_mode & 0o777) == "0o600"
    (cold,) = eventually(lambda: up.operator("/api/v1/cold-starts", "admin-token")["data"])
    assert cold["held_at"] <= cold["exec_at"] <= cold["able_at"] <= cold["forwarded_at"]
    assert 0 < cold["own_share_ms"] < 1000
    row = up.models()["tiny"]
    assert (row["phase"], row["ready"], row["desired"]) == ("Ready", 1, 1)
    assert row["cold_start"]["last_seconds"] > 0
    live = up.operator("/internal/counters", "internal-token")
    assert [(one["epoch"], one["state"]) for one in live] == [(engine["replica"], "live")]

    eventually(lambda: not up.run["engines"], what="idle to zero")
    final = eventually(lambda: up.fake("billing")["counters"])
    assert [(one["epoch"], one["state"], one["verified"]) for one in final] == [
        (engine["replica"], "final", True)
    ]
    eventually(lambda: not Path(f"/proc/{engine['pid']}").exists(), what="no zombie")
    assert up.models()["tiny"]["phase"] == "Idle"
    assert up.stop() == 0
    assert not (up.data / "run.json").exists()
    assert [event["event"] for event in up.events][-1] == "stopped"


def ready(up: Up) -> list[dict[str, Any]]:
    return [engine for engine in up.run["engines"] if engine["state"] == "ready"]


def draining(up: Up) -> list[dict[str, Any]]:
    return [engine for engine in up.run["engines"] if engine["state"] == "draining"]


def test_a_silent_router_keeps_replicas_from_going(start: Start) -> None:
    up = start(model("tiny", scaling="{idleSeconds: 6}"), routers=2).ready()
    up.hold("default/tiny", 1)
    eventually(lambda: ready(up))
    os.kill(up.part("router-2")["pid"], signal.SIGSTOP)
    idle_since = time.time()
    try:
        eventually(lambda: "no data" in up.models()["tiny"]["reason"])
        eventually(lambda: time.time() > idle_since + 8)
        assert ready(up)
    finally:
        os.kill(up.part("router-2")["pid"], signal.SIGCONT)
    eventually(lambda: not up.run["engines"], within=20)


def test_a_replica_goes_when_every_router_has_let_go_of_it(start: Start) -> None:
    up = start(model("tiny", scaling="{idleSeconds: 1}")).ready()
    up.hold("default/tiny", 1)
    (first,) = eventually(lambda: ready(up))
    up.stubborn(True)
    eventually(lambda: draining(up))
    beats = up.fake("router")["world"]["version"]
    up.hold("default/other", 0)  # more lines change nothing
    assert Path(f"/proc/{first['pid']}").exists()
    assert up.fake("router")["world"]["version"] == beats
    up.stubborn(False)
    eventually(lambda: not up.run["engines"])


def test_demand_takes_a_drain_back(start: Start) -> None:
    up = start(model("tiny", scaling="{idleSeconds: 1}")).ready()
    up.hold("default/tiny", 1)
    (first,) = eventually(lambda: ready(up))
    up.stubborn(True)
    eventually(lambda: draining(up))
    up.hold("default/tiny", 1)
    (again,) = eventually(lambda: ready(up))
    assert again["replica"] == first["replica"]
    assert not up.fake("billing")["counters"]


def test_an_engine_that_dies_at_start_is_told_at_once(start: Start) -> None:
    up = start(model("tiny", "--fail", "die-at-start")).ready()
    up.hold("default/tiny", 1)
    (failure,) = eventually(lambda: up.fake("router")["failures"], within=4)
    assert failure["reason"] == "EngineExited"
    assert failure["final"] is True
    assert "out of memory" in failure["message"]
    assert "{" not in failure["message"]
    row = up.models()["tiny"]
    assert row["phase"] == "Failed"
    assert row["failure"]["start_id"] == failure["start_id"]
    # New demand after the back-off is a new start.
    up.hold("default/tiny", 1)
    eventually(lambda: len(up.fake("router")["failures"]) == 2)
    second = up.fake("router")["failures"][1]
    assert second["start_id"] > failure["start_id"]


def test_an_engine_killed_while_ready_is_replaced_and_counted_as_lost(start: Start) -> None:
    up = start(model("tiny", scaling="{minReplicas: 1}")).ready()
    (first,) = eventually(lambda: ready(up))
    os.kill(first["pid"], signal.SIGKILL)
    eventually(
        lambda: [
            e
            for e in up.run["engines"]
            if e["state"] == "ready" and e["replica"] != first["replica"]
        ]
    )
    (lost,) = eventually(lambda: up.fake("billing")["counters"])
    assert (lost["epoch"], lost["state"], lost["verified"]) == (first["replica"], "lost", True)


@pytest.mark.parametrize("name", ["router", "billing"])
def test_a_killed_part_is_back_on_its_port_within_two_seconds(start: Start, name: str) -> None:
    up = start(model("tiny")).ready()
    before = up.part(name)
    os.kill(before["pid"], signal.SIGKILL)
    after = eventually(
        lambda: up.part(name) if up.part(name)["pid"] not in {0, before["pid"]} else None, within=2
    )
    assert after["ops_url"] == before["ops_url"]
    up.fake(name)


def test_kill_9_of_up_leaves_what_the_next_up_ends(start: Start) -> None:
    up = start(model("tiny", scaling="{minReplicas: 1}")).ready()
    eventually(lambda: ready(up))
    up.process.kill()
    up.process.wait()
    left = set(up.processes())
    assert len(left) == 3
    again = start(model("tiny")).ready()
    assert not left & set(again.processes())
    assert again.stop() == 0
    assert not again.processes()


def test_a_second_up_on_the_same_data_is_refused(start: Start) -> None:
    up = start(model("tiny")).ready()
    second = start(model("tiny"))
    assert second.process.wait(20) == 1
    (error,) = eventually(lambda: second.of("error"))
    assert "in use by another" in error["message"]
    assert up.process.poll() is None
    assert up.stop() == 0


def test_a_port_in_use_is_one_clear_line(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        up = start(model("tiny"), port=port)
        assert up.process.wait(20) == 1
        (error,) = eventually(lambda: up.of("error"))
        assert str(port) in error["message"]
        assert "PORT" in error["message"]
    assert not up.processes()


def test_bad_files_start_nothing(start: Start) -> None:
    up = start("apiVersion: nonsense\n")
    assert up.process.wait(20) == 1
    eventually(lambda: up.of("error"))
    assert not up.data.exists()


def test_the_younger_of_two_models_of_one_name_is_not_valid(start: Start) -> None:
    same = (
        model("other")
        .replace("sim://other}", "sim://other, name: tiny}")
        .replace('"sim://other"', '"sim://other", name: tiny')
    )
    up = start(model("tiny"), same).ready()
    rows = up.operator("/api/v1/models", "admin-token")["data"]
    by_deployment = {row["deployment"]: row for row in rows}
    assert by_deployment["default/tiny"]["conditions"]["Valid"] is True
    assert by_deployment["default/other"]["conditions"]["Valid"] is False
    assert "default/tiny" in by_deployment["default/other"]["phase_detail"]
    assert "default/tiny" in by_deployment["default/other"]["warning"]


def test_no_model_at_all_is_said_and_starts(start: Start) -> None:
    up = start("").ready()
    (said,) = up.of("warning")
    assert said["warning"] == f"no ModelDeployment in {up.file}"
    assert up.models() == {}


def test_a_second_signal_kills_at_once(start: Start) -> None:
    up = start(model("tiny", scaling="{minReplicas: 1}")).ready()
    eventually(lambda: ready(up))
    os.kill(up.part("router")["pid"], signal.SIGSTOP)  # a part that would keep everybody waiting
    up.process.send_signal(signal.SIGINT)
    up.process.send_signal(signal.SIGTERM)
    assert up.stop(within=10) in {0, 1}
    assert not up.processes()
