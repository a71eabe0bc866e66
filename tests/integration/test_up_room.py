"""`up` where memory is short: engines that really take it, under a limit that holds few of them.

A simulator with `--memory-mib 64` holds about 80 MiB and is estimated at 84: of 150 MiB it leaves no
room for another one.
"""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tidegate_operator.local import machine
from tidegate_operator.local.engines import MIB
from up_process import Up, ended, eventually, model

TAKES = ("--memory-mib", "64")
Start = Callable[..., Up]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    made: list[Up] = []

    def begin(*resources: str, kind: str = "fake", mib: int = 150, idle: float = 0.2) -> Up:
        monkeypatch.setenv("UP_MEMORY_MIB", str(mib))
        monkeypatch.setenv("UP_MINIMUM_IDLE", str(idle))
        made.append(Up(tmp_path / "a", *resources, kind=kind))
        return made[-1].ready()

    yield begin
    ended(made)


def large(name: str, *args: str, extra: str = "", scaling: str = "{idleSeconds: 600}") -> str:
    return model(name, *TAKES, *args, scaling=scaling, extra=extra)


def ask(up: Up, name: str, tokens: int = 4) -> dict[str, Any]:
    key = (up.data / "api-key").read_text().strip()
    answer = httpx.post(
        up.part("router")["url"] + "/v1/completions",
        json={"model": name, "prompt": "one two", "max_tokens": tokens},
        headers={"authorization": f"Bearer {key}"},
        timeout=60,
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def engines(up: Up, state: str = "ready") -> list[str]:
    return [one["model"] for one in up.run["engines"] if one["state"] == state]


def details(up: Up, name: str) -> list[str]:
    return [one.get("detail", "") for one in up.of("model") if one["name"] == name]


def test_two_models_take_turns_where_memory_holds_one(start: Start) -> None:
    up = start(large("first"), large("second", "--tokens-per-second", "40"), kind="real")
    held: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            held.append(sum(machine.taken([one["pid"] for one in up.run["engines"]]).values()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(2):
        ask(up, "first")
        ask(up, "second")
    # While one is in use the other waits for its turn, and what runs is finished.
    answers: list[dict[str, Any]] = []
    long = threading.Thread(target=lambda: answers.append(ask(up, "second", 80)))
    long.start()
    eventually(lambda: up.models()["second"]["in_flight"] == 1)
    began = time.time()
    ask(up, "first")
    long.join(30)
    over.set()
    watcher.join(5)
    assert answers[0]["usage"]["completion_tokens"] == 80
    assert 64 * MIB < max(held) < 150 * MIB
    assert "waiting for memory: in use: second" in details(up, "first")
    assert "waiting for memory: putting to sleep: second" in details(up, "first")
    assert "waiting for memory: putting to sleep: first" in details(up, "second")
    assert "put to sleep: second needs its memory" in details(up, "first")
    assert not up.of("error")
    colds = up.operator("/api/v1/cold-starts", "admin-token")["data"]
    turns = [one["deployment"].removeprefix("default/") for one in colds]
    assert turns == ["first", "second"] * 2 + ["first"]
    # A wait for memory is not our own share of a cold start.
    assert all(one["own_share_ms"] < 1000 for one in colds if one["exec_at"] < began)


def test_only_who_is_needed_sleeps_and_the_one_used_longest_ago(start: Start) -> None:
    tiny = [model(name, scaling="{idleSeconds: 600}") for name in ("tiny", "speck")]
    up = start(*tiny, *map(large, ("old", "young", "third")), mib=240)
    for name in ("tiny", "speck", "old", "young"):
        up.hold(f"default/{name}", 1)
        eventually(lambda name=name: name in engines(up))
    up.hold("default/third", 1)
    eventually(lambda: "third" in engines(up))
    assert sorted(engines(up)) == ["speck", "third", "tiny", "young"]
    assert not up.of("error")


def test_what_is_kept_warm_is_not_touched_and_who_asks_is_told_at_once(start: Start) -> None:
    up = start(large("warm", scaling="{minReplicas: 1}"), large("cold"))
    eventually(lambda: engines(up) == ["warm"])
    up.hold("default/cold", 1)
    (failure,) = eventually(lambda: up.fake("router")["failures"], within=4)
    assert (failure["reason"], failure["final"]) == ("OutOfMemory", True)
    words = failure["message"]
    assert "it needs about 84 MiB of memory (--memory-mib 64 MiB + process 20 MiB), and " in words
    assert "MiB is free now; looked at what could sleep: warm holds 0.08 GiB (kept warm" in words
    assert engines(up) == ["warm"]


def test_more_than_all_there_is_is_told_at_once(start: Start) -> None:
    up = start(large("first"), mib=80)
    up.hold("default/first", 1)
    (failure,) = eventually(lambda: up.fake("router")["failures"], within=4)
    assert "and 80 MiB is all that up may use (--memory)" in failure["message"]


def test_who_waits_for_one_in_use_is_told_after_the_grace(start: Start) -> None:
    patient = "  coldStart: {failGraceSeconds: 1}\n"
    up = start(large("busy"), large("cold", extra=patient))
    up.hold("default/busy", 1)
    eventually(lambda: engines(up) == ["busy"])
    up.hold("default/busy", 0, in_flight=1)
    eventually(lambda: up.models()["busy"]["in_flight"] == 1)
    up.hold("default/cold", 1)
    (failure,) = eventually(lambda: up.fake("router")["failures"])
    assert failure["reason"] == "OutOfMemory"
    assert "busy holds 0.08 GiB (in use)" in failure["message"]
    assert "waiting for memory: in use: busy" in details(up, "cold")
    assert engines(up) == ["busy"]


def test_replicas_that_start_together_see_each_others_memory(start: Start) -> None:
    slow = ("--start-seconds", "1")
    several = "{idleSeconds: 600, maxReplicas: 3, targetConcurrency: 1}"
    # Room for two, and none has taken any when the third is decided on.
    up = start(large("many", *slow, scaling=several), mib=200)
    up.hold("default/many", 3)
    eventually(lambda: engines(up) == ["many", "many"])
    assert len(up.run["engines"]) == 2
    error, *_ = eventually(lambda: up.of("error"))
    assert "OutOfMemory: it needs about 84 MiB" in error["message"]
    assert not up.fake("router")["failures"]  # the others serve


def test_models_that_start_together_see_each_others_memory(start: Start) -> None:
    slow = ("--start-seconds", "1")
    up = start(large("first", *slow), large("second", *slow))
    up.hold("default/first", 1)
    up.hold("default/second", 1)
    eventually(lambda: "waiting for memory: in use: first" in details(up, "second"))
    assert [one["model"] for one in up.run["engines"]] == ["first"]
    eventually(lambda: engines(up) == ["second"])
    assert not up.of("error")


def test_a_request_for_who_goes_keeps_it(start: Start) -> None:
    up = start(large("first"), large("second"))
    up.hold("default/first", 1)
    eventually(lambda: engines(up) == ["first"])
    (engine,) = up.run["engines"]
    up.stubborn(True)  # the router goes on using it for a while
    up.hold("default/second", 1)
    eventually(lambda: engines(up, "draining") == ["first"])
    up.hold("default/first", 0, in_flight=1)
    eventually(lambda: engines(up) == ["first"])
    assert up.run["engines"][0]["replica"] == engine["replica"]
    eventually(lambda: details(up, "second")[-1] == "waiting for memory: in use: first")
    up.stubborn(False)
    up.hold("default/first", 0)
    eventually(lambda: engines(up) == ["second"])
    assert not up.fake("router")["failures"]
