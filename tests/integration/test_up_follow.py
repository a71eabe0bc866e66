"""`up -f` follows its files: under traffic that retries nothing, and with numbers that close."""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

import running
from running import Platform, sim, wait_for

Line = dict[str, Any]


class Traffic:
    """Clients that ask a model one request after the other and note every answer."""

    def __init__(self, up: Platform, model: str, clients: int = 3) -> None:
        self.received: dict[str, int] = {}
        self.failed: list[str] = []
        self._up, self._model = up, model
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask_on, args=(bool(i % 2),)) for i in range(clients)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(60)

    def more(self, answers: int = 10) -> None:
        """Returns when so many more answers have come."""
        wanted = len(self.received) + answers
        wait_for(lambda: len(self.received) >= wanted or self.failed, "more answers")
        assert not self.failed

    def _ask_on(self, stream: bool) -> None:
        with self._up.client() as client:
            while not self._end.is_set():
                try:
                    got = ask(client, self._model, stream=stream)
                except (httpx.HTTPError, AssertionError) as error:
                    self.failed.append(repr(error))
                    return
                self.received |= got


def body(model: str, tokens: int = 8, stream: bool = False) -> Line:
    return {
        "model": model,
        "stream": stream,
        "max_tokens": tokens,
        "messages": [{"role": "user", "content": "one two three"}],
    }


def ask(
    client: httpx.Client, model: str, tokens: int = 8, *, stream: bool = False
) -> dict[str, int]:
    """One whole answer: its tokens by request id."""
    path = "/v1/chat/completions"
    if not stream:
        answer = client.post(path, json=body(model, tokens))
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] == tokens
        return {answer.headers["x-request-id"]: tokens}
    with client.stream("POST", path, json=body(model, tokens, True)) as streamed:
        assert streamed.status_code == 200, streamed.read()
        lines = [line for line in streamed.iter_lines() if line]
    assert lines[-1] == "data: [DONE]", lines[-2:]
    got = sum('"content":" t' in line for line in lines)
    assert got == tokens
    return {streamed.headers["x-request-id"]: got}


def status(up: Platform, model: str) -> int:
    with up.client() as client:
        return client.post("/v1/chat/completions", json=body(model)).status_code


def write(up: Platform, text: str, name: str = "models.yaml") -> Path:
    """As editors do: another file, renamed over the one that is followed."""
    path = up.data.parent / name
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    return new.rename(path)


def engines(up: Platform, model: str = "sim") -> list[Line]:
    return [one for one in up.run["engines"] if one["model"] == model]


def only(up: Platform, replaced: list[Line]) -> list[Line]:
    """The engines, once none of `replaced` is among them and all serve."""
    old = {one["replica"] for one in replaced}

    def look() -> list[Line]:
        now = engines(up)
        new = all(one["replica"] not in old and one["state"] == "ready" for one in now)
        return now if new else []

    return list(wait_for(look, "new replicas alone"))


def closes(up: Platform, received: dict[str, int]) -> None:
    up.settled()
    assert running.audit(up.events(), up.truth(), received) == []


def phases(up: Platform, deployment: str) -> list[str]:
    return [one["phase"] for one in up.told("model") if one["deployment"] == deployment]


def test_a_change_rolls_without_losing_a_request(tmp_path: Path) -> None:
    with (
        running.platform(tmp_path, sim(), "--routers", "2") as up,
        Traffic(up, "sim") as traffic,
        up.client() as one,
    ):
        traffic.more()
        before = engines(up)
        answers: list[dict[str, int]] = []
        long = threading.Thread(target=lambda: answers.append(ask(one, "sim", 600, stream=True)))
        long.start()
        wait_for(lambda: up.metric("tidegate_in_flight") > 0, "a stream under way")
        write(up, sim(ttft_ms=6))
        wait_for(lambda: {"starting", "ready"} <= {x["state"] for x in engines(up)}, "a surge")
        wait_for(lambda: "draining" in {x["state"] for x in engines(up)}, "the old one's drain")
        assert not answers, "the stream runs through the roll"
        only(up, before)
        long.join(30)
        traffic.more()
        rolled = [
            x for x in up.told("model") if "needs new replicas: engine" in x.get("detail", "")
        ]
        assert len(rolled) == 1
        # What needs no other process is taken by the one that runs.
        now = engines(up)
        write(up, sim(ttft_ms=6, idle=61))
        wait_for(
            lambda: [x for x in up.told("model") if "in place: scaling" in x.get("detail", "")],
            "taken in place",
        )
        traffic.more()
        assert engines(up) == now
        traffic.__exit__()
        assert not traffic.failed
        assert len(answers) == 1
        closes(up, traffic.received | answers[0])


def test_models_come_are_renamed_and_go_beside_traffic(tmp_path: Path) -> None:
    with running.platform(tmp_path, sim()) as up, Traffic(up, "sim") as traffic:
        traffic.more()
        first = engines(up)
        assert status(up, "two") == 404
        write(up, sim() + sim("two"))
        wait_for(lambda: "two" in up.models(), "two")
        with up.client() as client:
            received = ask(client, "two")
            long: list[dict[str, int]] = []
            thread = threading.Thread(
                target=lambda: long.append(ask(client, "two", 500, stream=True))
            )
            thread.start()
            wait_for(lambda: up.models()["two"]["in_flight"], "a stream of two")
            write(up, sim() + sim("three"))
            wait_for(lambda: "three" in up.models(), "three")
            assert status(up, "two") == 404
            assert phases(up, "default/two")[-1] == "Terminating"
            assert status(up, "three") == 200
            thread.join(30)
        assert len(long) == 1
        wait_for(lambda: "two" not in up.models(), "two gone")
        assert not engines(up, "two")
        assert phases(up, "default/two")[-1] == "Removed"
        write(up, sim())
        wait_for(lambda: "three" not in up.models(), "three gone")
        assert status(up, "three") == 404
        traffic.more()
        assert engines(up) == first
        traffic.__exit__()
        assert not traffic.failed
        closes(up, traffic.received | received | long[0])


def test_a_rename_takes_the_name_and_who_waits_for_it_along(tmp_path: Path) -> None:
    named = sim("moved").replace('"sim://moved"}', '"sim://moved", name: sim}')
    with running.platform(tmp_path, sim(start_seconds=2)) as up, Traffic(up, "sim") as traffic:
        wait_for(lambda: up.models()["sim"]["held"] == 3, "who waits")
        write(up, named)
        traffic.more()
        assert [
            one["replica"].partition("-")[0] for one in engines(up) if one["state"] == "ready"
        ] == ["moved"]
        write(up, sim())
        wait_for(lambda: [m["deployment"] for m in up.models().values()] == ["default/sim"], "back")
        traffic.more()
        traffic.__exit__()
        assert not traffic.failed
        closes(up, traffic.received)


def test_a_broken_file_changes_nothing_and_is_told_once(tmp_path: Path) -> None:
    with running.platform(tmp_path, sim()) as up:
        (tmp_path / "more").mkdir()
        assert status(up, "sim") == 200
        before = engines(up)
        broken = sim(ttft_ms=7).replace("maxReplicas: 1", "maxReplicas: -1") + sim("two")
        path = write(up, broken)
        (said,) = wait_for(lambda: up.told("error"), "the problem")
        assert (said["file"], said["field"]) == (str(path), "spec.scaling.maxReplicas")
        assert said["line"] == 1 + broken.splitlines().index(
            next(line for line in broken.splitlines() if "maxReplicas: -1" in line)
        )
        assert said["message"].startswith(f"{path}:{said['line']}: spec.scaling.maxReplicas: ")
        write(up, broken + "# another word\n")
        write(up, broken + "---\nkind: Tenant\n")
        wait_for(lambda: len(up.told("error")) > 1, "the second problem")
        kinds = [one for one in up.told("error") if one["field"] == "kind"]
        assert [one["message"].rpartition(": kind: ")[2] for one in kinds] == [
            "must be ModelDeployment, got 'Tenant' (in a cluster only; here: `tidegate tenant`)"
        ]
        assert [one["field"] for one in up.told("error")].count("spec.scaling.maxReplicas") == 1
        assert engines(up) == before
        assert list(up.models()) == ["sim"]
        assert up.told("file") == []
        write(up, sim() + sim("two"))
        wait_for(lambda: "two" in up.models(), "two")
        (good,) = up.told("file")
        assert good["file"] == str(path)
        assert engines(up) == before


def test_a_new_spec_that_cannot_start_leaves_the_old_one_serving(tmp_path: Path) -> None:
    with running.platform(tmp_path, sim()) as up, Traffic(up, "sim") as traffic:
        traffic.more()
        before = engines(up)
        write(up, sim(fail="die-at-start"))
        wait_for(lambda: up.models()["sim"]["warning"], "a warning")
        row = up.models()["sim"]
        assert row["phase"] == "Degraded"
        assert row["warning"].startswith("the change is not in force: EngineExited: ")
        assert row["conditions"]["Current"] is False
        traffic.more()
        assert engines(up) == before
        assert len([one for one in up.told("error") if "EngineExited" in one["message"]]) == 1
        write(up, sim(ttft_ms=6))
        only(up, before)
        wait_for(lambda: up.models()["sim"]["conditions"]["Current"], "the change in force")
        row = up.models()["sim"]
        assert (row["phase"], row["warning"]) == ("Ready", "")
        traffic.more()
        traffic.__exit__()
        assert not traffic.failed
        closes(up, traffic.received)


def test_without_a_surge_the_old_one_goes_first_and_requests_wait(tmp_path: Path) -> None:
    def document(ttft: int) -> str:
        rollout = "  rollout: {maxSurge: 0, maxUnavailable: 1}\n  drain:"
        return sim(ttft_ms=ttft).replace("  drain:", rollout)

    with running.platform(tmp_path, document(5)) as up, Traffic(up, "sim") as traffic:
        traffic.more()
        before = engines(up)
        most = 0

        def look() -> bool:
            nonlocal most
            now = engines(up)
            most = max(most, len(now))
            return bool(now) and now[0]["replica"] != before[0]["replica"]

        write(up, document(6))
        wait_for(look, "the other one")
        only(up, before)
        assert most == 1
        traffic.more()
        traffic.__exit__()
        assert not traffic.failed
        closes(up, traffic.received)


def test_names_and_prices_change_while_it_serves(tmp_path: Path) -> None:
    named = sim().replace('"sim://sim"}', '"sim://sim", aliases: [other]}')
    with running.platform(tmp_path, sim()) as up, Traffic(up, "sim") as traffic:
        traffic.more()
        before = engines(up)
        write(up, named)
        seen = set()

        def look() -> bool:
            seen.add(status(up, "other"))
            return 200 in seen

        wait_for(look, "the alias")
        assert seen <= {200, 404}
        only(up, before)
        traffic.more()
        now = engines(up)
        write(up, named.replace('"0.40"', '"4.00"'))
        wait_for(lambda: priced(up, "4.00"), "the price")
        traffic.more()
        assert engines(up) == now
        traffic.__exit__()
        assert not traffic.failed
        closes(up, traffic.received)
        amounts = {e["amount_exact"] for e in up.events() if e["billed"] and e["model"] == "sim"}
        assert len(amounts) >= 2


def priced(up: Platform, price: str) -> bool:
    """Whether a request costs at least its eight tokens at this price of a million."""
    with up.client() as client:
        (request,) = ask(client, "sim")
    events = wait_for(lambda: [e for e in up.events(request_id=request) if e["billed"]], "a bill")
    return float(events[0]["amount_exact"]) >= 8 * float(price) / 1e6


def test_files_directories_and_standard_input_together(tmp_path: Path) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    with running.platform(tmp_path, sim(), "-f", str(folder), "-f", "-", stdin=sim("piped")) as up:
        assert sorted(up.models()) == ["piped", "sim"]
        write(up, sim("found"), "more/found.yaml")
        wait_for(lambda: "found" in up.models(), "found")
        write(up, sim("piped"), "more/twice.yaml")
        (said,) = wait_for(lambda: up.told("error"), "the clash")
        assert said["message"].endswith("default/piped is given twice, first in standard input:4")
        away = folder.rename(tmp_path / "away")
        wait_for(lambda: len(up.told("error")) == 2, "the directory is missed")
        assert "its models stay as they are" in up.told("error")[1]["message"]
        assert sorted(up.models()) == ["found", "piped", "sim"]
        (away / "found.yaml").unlink()
        (away / "twice.yaml").unlink()
        away.rename(folder)
        wait_for(lambda: sorted(up.models()) == ["piped", "sim"], "found gone")
        (tmp_path / "models.yaml").unlink()
        wait_for(lambda: sorted(up.models()) == ["piped"], "sim gone")
        write(up, sim())
        wait_for(lambda: sorted(up.models()) == ["piped", "sim"], "sim again")
        assert status(up, "sim") == 200


@pytest.mark.parametrize("kind", ["Tenant", "Deployment"])
def test_another_kind_is_refused_by_name_at_start(tmp_path: Path, kind: str) -> None:
    text = sim() + sim("two").replace("kind: ModelDeployment", f"kind: {kind}")
    command = [sys.executable, "-Im", "tidegate_operator.cli", "up", "--json", "-f", "-"]
    command += ["--data", str(tmp_path / "data")]
    done = subprocess.run(
        command, input=text.encode(), capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 1
    (event,) = [json.loads(line) for line in done.stdout.splitlines()]
    line = 1 + text.splitlines().index(f"kind: {kind}")
    assert (event["event"], event["file"], event["line"]) == ("error", "standard input", line)
    assert f"kind: must be ModelDeployment, got '{kind}'" in event["message"]


@pytest.fixture(autouse=True)
def _said(tmp_path: Path) -> Iterator[None]:
    """What `up` said is shown where a test fails."""
    yield
    with contextlib.suppress(FileNotFoundError):
        print((tmp_path / "up.out").read_text())
