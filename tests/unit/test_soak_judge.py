"""The soak's judge is itself judged: what was meant is excused, just that, and nothing else."""

from dataclasses import replace
from typing import Any

import pytest
from soaking import flat
from soaking.callers import Seen, expected
from soaking.flat import Process, Quiet
from soaking.judge import Attempt, Moment, Verdict, judge
from soaking.plan import Ask


def ask(number: int = 1, **more: Any) -> Ask:
    made = Ask(0.0, number, 0, "ant", "m0", stream=True, words=3, tokens=8)
    return made._replace(**more)


def seen(number: int = 1, *, received: int = 8, **more: Any) -> Seen:
    """A whole answer, from 10 to 20 s."""
    whole = Seen(
        ask(number), sent=10.0, ended=20.0, status=200, request_id=f"req-{number}",
        events=received + 2, received=received, whole=received == 8, text=[expected(received)],
    )  # fmt: skip
    return replace(whole, **more)


def attempt(number: int = 1, **more: Any) -> Attempt:
    made = Attempt(
        number, f"a-{number}", "m0-1", "completed", "", billed=True, prompt=3, completion=8
    )
    return made._replace(**more)


BROKEN = {"received": 4, "code": "engine_broke_off", "in_band": True}
BROKE = attempt(outcome="broken", completion=4)
AWAY = {"received": 0, "events": 0, "status": 404, "code": "model_not_found"}
KILL = Moment("engine", "m0-1", 15.0)


def told(one: Seen, moments: list[Moment], *attempts: Attempt) -> Verdict:
    return judge([one], moments, attempts)


def fine(verdict: Verdict, fate: str) -> None:
    assert verdict.wrong == []
    assert dict(verdict.fates) == {fate: 1}


def test_a_whole_answer_that_is_billed_is_fine() -> None:
    fine(told(seen(), [], attempt()), "answered")
    again = attempt(
        attempt_id="a-0", replica="m0-0", outcome="failed", reason="retry", billed=False
    )
    fine(told(seen(), [], again, attempt()), "answered")


@pytest.mark.parametrize(
    ("one", "attempts"),
    [
        (seen(), []),
        (seen(), [attempt(completion=7)]),
        (seen(), [attempt(prompt=2)]),
        (seen(), [attempt(), attempt(attempt_id="a-9")]),
        (seen(text=[expected(7), " t9"]), [attempt()]),
        (seen(), [attempt(outcome="aborted")]),
        (seen(), [attempt(), attempt(attempt_id="a-9", outcome="lost", billed=False)]),
    ],
)
def test_an_answer_that_is_not_billed_as_it_was_is_wrong(
    one: Seen, attempts: list[Attempt]
) -> None:
    assert told(one, [], *attempts).wrong


def test_an_engine_that_was_killed_excuses_its_own_streams_that_had_begun() -> None:
    fine(told(seen(**BROKEN), [KILL], BROKE), "broken off")
    crash = Moment("fault", "m0-1", 15.0, detail="crash@4")
    fine(told(seen(**BROKEN), [crash], BROKE), "broken off")
    slow = Moment("fault", "m0-1", 15.0, detail="slow")
    for moments in ([], [slow], [Moment("engine", "m0-2", 15.0)], [Moment("engine", "m0-1", 21.0)]):
        assert told(seen(**BROKEN), moments, BROKE).wrong
    early = seen(**{**BROKEN, "received": 0, "events": 0})
    (words,) = told(early, [KILL], BROKE).wrong
    assert "should have been tried again" in words


def test_a_router_that_was_killed_excuses_its_own_connections_of_that_time() -> None:
    cut = seen(received=3, fault="ReadError: ")
    fine(told(cut, [Moment("router", "router", 19.0, 21.0)], attempt(outcome="lost")), "cut")
    for moment in (
        Moment("router", "router-2", 19.0, 21.0),
        Moment("router", "router", 21.0, 22.0),
        Moment("router", "router", 1.0, 9.0),
        Moment("billing", "billing", 19.0, 21.0),
    ):
        assert told(cut, [moment]).wrong


def test_a_name_that_was_away_excuses_who_asked_for_it_then() -> None:
    away = Moment("absent", "m0", 12.0)
    fine(told(seen(**AWAY), [away]), "away")
    for moment in (
        Moment("absent", "m1", 12.0),
        Moment("absent", "m0", 21.0),
        Moment("absent", "m0", 1.0, 9.0),
        Moment("suspended", "m0", 12.0),
    ):
        assert told(seen(**AWAY), [moment]).wrong
    assert told(seen(**{**AWAY, "events": 1}), [away]).wrong
    sure = Moment("absent", "m0", 1.0, sure=5.0)
    assert told(seen(), [sure], attempt()).wrong, "nobody has it, and somebody answers"
    fine(told(seen(), [replace(sure, unsure=15.0)], attempt()), "answered")


def test_a_name_that_was_put_right_excuses_nobody_once_each_router_has_answered() -> None:
    refused = seen(
        9, received=0, events=0, status=503, code="model_suspended", sent=40.0, ended=41.0
    )
    moment = Moment("suspended", "m0", 1.0, repaired=5.0)
    first = seen(1)
    second = replace(seen(2), ask=ask(2, router=1), ended=30.0)
    bills = [attempt(1), attempt(2)]
    assert judge([first, refused], [moment], bills).wrong == [], "the other router may not know"
    (words,) = judge([first, second, refused], [moment], bills).wrong
    assert "was not suspended then" in words


def test_given_up_takes_as_many_tries_at_engines_that_were_told_to_fail() -> None:
    gave_up = seen(received=0, events=0, status=502, code="engine_failed")
    fault = Moment("fault", "m0-1", 9.0, detail="refuse")
    tried = [
        attempt(attempt_id=f"a-{n}", outcome="failed", reason="retry", billed=False, completion=0)
        for n in range(4)
    ]
    fine(told(gave_up, [fault], *tried), "given up")
    assert told(gave_up, [fault], *tried[:3]).wrong
    assert told(gave_up, [fault], *tried[:3], tried[3]._replace(replica="m0-2")).wrong
    assert told(gave_up, [replace(fault, detail="slow")], *tried).wrong
    fine(told(gave_up, [replace(fault, detail="hang")], *tried[:2]), "given up")


def test_an_error_status_of_an_engine_needs_its_fault() -> None:
    failed = seen(received=0, events=0, status=500, code="500")
    last = attempt(outcome="failed", billed=False, completion=0)
    fault = Moment("fault", "m0-1", 9.0, detail="http500@1")
    fine(told(failed, [fault], last), "failed by fault")
    assert told(failed, [], last).wrong
    assert told(failed, [fault], last._replace(replica="m0-2")).wrong
    nonsense = seen(received=1, fault="JSONDecodeError: ", malformed=True)
    broke = attempt(outcome="broken", completion=1)
    fine(told(nonsense, [replace(fault, detail="malformed@0")], broke), "malformed")
    assert told(nonsense, [fault], broke).wrong


def test_what_nothing_explains_is_wrong() -> None:
    for one in (
        seen(received=0, events=0, status=503, code="model_not_ready"),
        seen(received=0, events=0, status=429, code="held_queue_full"),
        seen(received=5),
    ):
        verdict = told(one, [KILL], BROKE)
        assert verdict.fates == {"failed": 1}
        assert verdict.wrong
    fine(told(seen(received=5, left=True), [], attempt(outcome="aborted")), "left")
    assert told(seen(received=5, left=True, text=[" t1"]), []).wrong


# What processes hold


def quiet(number: int, **more: Any) -> Quiet:
    """State `number` of a platform that grows by nothing; `more`: of `up`."""
    up = Process("up", 1, 30, 3, 50_000)._replace(**more)
    others = [Process("router", 2, 20, 3, 40_000), Process("billing", 3, 20, 4, 60_000)]
    files = {"truth": 100 * number}
    return Quiet(
        60.0 * number, "calm", (up, *others), 8_000_000, files, 0, 10 * number, 10 * number
    )


def grown(what: str, by: int, states: int = 3) -> list[str]:
    first = getattr(Process("up", 1, 30, 3, 50_000), what)
    return list(flat.wrong([quiet(n, **{what: first + by * n}) for n in range(states)]))


def test_what_stays_is_flat() -> None:
    assert list(flat.wrong([quiet(n) for n in range(20)])) == []
    noisy = [quiet(n, fds=30 + n % 3 * 2, kib=50_000 + n % 4 * 1000) for n in range(20)]
    assert list(flat.wrong(noisy)) == []


@pytest.mark.parametrize(("what", "by"), [("fds", 10), ("threads", 2), ("kib", 14_000)])
def test_what_grows_is_found(what: str, by: int) -> None:
    assert grown(what, 0) == []
    (words,) = grown(what, by)
    assert words.startswith("up (1): ")
    assert "20 cold starts, 20 aborts" in words or what == "kib"


def test_memory_that_grows_slowly_is_found_in_a_long_soak() -> None:
    assert grown("kib", 200, states=20) == []
    (words,) = grown("kib", 300, states=20)
    assert "memory grows by 300 KiB a minute" in words


def test_a_restarted_process_is_another_one() -> None:
    assert list(flat.wrong([quiet(0), quiet(1, pid=9, fds=60)])) == []


def test_strangers_debts_and_journals_are_found() -> None:
    left = Process("engine", 7, 9, 1, 1000)
    for one in (left, left._replace(name="zombie"), left._replace(name="unknown")):
        after = quiet(1)._replace(processes=(*quiet(1).processes, one))
        assert list(flat.wrong([quiet(0), after]))
    assert list(flat.wrong([quiet(0), quiet(1)._replace(processes=quiet(1).processes[1:])]))
    assert list(flat.wrong([quiet(0), quiet(1)._replace(owed=1)]))
    assert list(flat.wrong([quiet(0), quiet(1)._replace(journal=13_000_000)]))
