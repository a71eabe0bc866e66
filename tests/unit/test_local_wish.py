"""Wakes and sleeps that people ask for, engines' logs, and the rates of the live view."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tidegate_operator.autoscale import Policy, Sample, State, decide
from tidegate_operator.demand import Total
from tidegate_operator.local import enginelog, live, wish
from tidegate_operator.local.wish import Wish, WishError
from tidegate_runtime.contract.links import Failure, ModelView

POLICY = Policy(idle_seconds=5, scale_down_delay_seconds=1, stable_window_seconds=2)


def failure(start_id: str, *, final: bool = True) -> Failure:
    return Failure(start_id=start_id, reason="EngineExited", message="m", at=1.0, final=final)


@pytest.mark.parametrize(
    ("kind", "ready", "held", "expected"),
    [
        ("", 0, 0, (0, 7.0)),
        ("wake", 0, 0, (1, 100.0)),
        ("wake", 0, 3, (3, 100.0)),
        ("wake", 0, None, (1, 100.0)),
        ("wake", 1, 0, (0, 100.0)),
        ("sleep", 1, 0, (0, 7.0)),
    ],
)
def test_a_wake_adds_one_waiting_request_until_something_serves(
    kind: str, ready: int, held: int | None, expected: tuple[int, float]
) -> None:
    seen = Wish(kind).sample(Sample(100.0, 0, held, 7.0), ready)
    assert (seen.held, seen.last_request) == expected


@pytest.mark.parametrize(
    ("before", "ready", "held", "failed", "stays"),
    [
        (Wish("wake"), 0, 0, None, True),
        (Wish("wake"), 1, 0, None, False),
        (Wish("wake", "a"), 0, 0, failure("a"), True),
        (Wish("wake", "a"), 0, 0, failure("b"), False),
        (Wish("wake", "a"), 0, 0, failure("b", final=False), True),
        (Wish("sleep"), 1, 0, None, True),
        (Wish("sleep"), 0, None, None, True),
        (Wish("sleep"), 0, 1, None, False),
        (Wish(), 1, 1, failure("b"), True),
    ],
)
def test_when_a_wish_is_over(
    before: Wish, ready: int, held: int | None, failed: Failure | None, stays: bool
) -> None:
    after = before.after(ready=ready, held=held, failure=failed)
    assert after == (before if stays else Wish())


def test_a_woken_model_stays_for_its_idle_time_from_its_first_answer_on() -> None:
    state, wanted = State.initial(0, 0.0, 0.0), Wish("wake")
    ready, life = 0, []
    for now in range(1, 20):
        ready = int(now >= 8)  # a start that takes longer than the idle time
        sample = wanted.sample(Sample(float(now), 0, 0), ready)
        wanted = wanted.after(ready=ready, held=0, failure=None)
        state, replicas, _ = decide(state, [sample], POLICY, float(now))
        life.append(replicas)
    assert life == [1] * 12 + [0] * 7
    assert wanted == Wish()


def test_reasons() -> None:
    assert Wish().reason("idle") == "idle"
    assert Wish("wake").reason("1 held, 0 in flight") == "woken by hand"
    assert Wish("sleep").reason("suspended").startswith("put to sleep")


@dataclass
class Fake:
    view: ModelView
    total: Total = field(default_factory=lambda: Total(0, 0))
    wish: Wish = field(default_factory=Wish)
    conflict: str = ""
    evaluated: float = 0.0

    def evaluate(self, now: float) -> None:
        self.evaluated = now


def view(**more: object) -> ModelView:
    return ModelView(deployment="default/m", name="m", owner="default", **more)  # type: ignore[arg-type]


def test_what_may_not_run_is_not_woken() -> None:
    with pytest.raises(WishError, match="suspended"):
        wish.wake(Fake(view(suspend=True)), 1.0)
    with pytest.raises(WishError, match="not valid: taken"):
        wish.wake(Fake(view(valid=False), conflict="taken"), 1.0)


def test_nobody_who_waits_is_sent_to_sleep() -> None:
    for held, words in ((1, "a request waits for m"), (2, "2 requests wait for m")):
        with pytest.raises(WishError, match=words):
            wish.sleep(Fake(view(), Total(0, held)), 1.0)
    model = Fake(view(), Total(3, 0))
    wish.sleep(model, 2.0)
    assert (model.wish, model.evaluated) == (Wish("sleep"), 2.0)
    wish.wake(model, 3.0)
    assert (model.wish, model.evaluated) == (Wish("wake"), 3.0)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, live.Reading(2.0, 8, 9), (0, 0)),
        (live.Reading(1.0, 4, 5), live.Reading(3.0, 8, 25), (2, 10)),
        (live.Reading(1.0, 9, 9), live.Reading(2.0, 1, 1), (0, 0)),
        (live.Reading(2.0, 1, 1), live.Reading(2.0, 8, 9), (0, 0)),
    ],
)
def test_rates(
    before: live.Reading | None, after: live.Reading, expected: tuple[float, float]
) -> None:
    assert live.rate(before, after) == expected


def test_an_old_reading_makes_no_rate() -> None:
    reading = {"e": live.Reading(10.0, 0, 0)}
    assert [live.usable(reading, now) for now in (10.1, 11.0, 16.0)] == [False, True, False]
    assert not live.usable({}, 11.0)


def test_a_log_is_made_with_its_first_line_and_old_ones_go(tmp_path: Path) -> None:
    for number in range(enginelog.KEPT_FILES + 3):
        log = enginelog.EngineLog(enginelog.path(tmp_path, "default/m", f"m-{number}"))
        assert not enginelog.path(tmp_path, "default/m", f"m-{number}").exists()
        log.write(f"hello {number}")
        log.close()
    kept = enginelog.replicas(enginelog.folder(tmp_path, "default/m"))
    assert len(kept) == enginelog.KEPT_FILES
    assert kept[-1].read_text() == f"hello {number}\n"


def test_a_log_that_grows_is_moved_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enginelog, "LOG_BYTES", 10)
    file = tmp_path / "e.log"
    log = enginelog.EngineLog(file)
    for line in ("0123456789", "next"):
        log.write(line)
    log.close()
    assert file.read_text() == "next\n"
    assert file.with_suffix(".log.1").read_text() == "0123456789\n"


def test_a_log_that_cannot_be_written_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "in-the-way").write_text("")
    log = enginelog.EngineLog(tmp_path / "in-the-way" / "e.log")
    log.write("a")
    log.write("b")
    enginelog.EngineLog(None).write("nowhere")
