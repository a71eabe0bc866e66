"""The judge of runs under load is itself judged: whatever is lost, doubled or invented, it says so."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from harness.judged import Moment, judge, outcome
from harness.load import Asked, Told

Ledger = list[dict[str, Any]]
Truth = dict[str, Told]


def asked(number: int, **more: Any) -> Asked:
    made = Asked(
        tenant="t", model="m", stream=True, prompt=3, tokens=100, received=100, status=200,
        request_id=f"req-{number}", sent=1.0, first=2.0, last=15.0, done=15.0, gap=0.1, error="",
        in_band=False,
    )  # fmt: skip
    return msgspec.structs.replace(made, **more)


def settled(number: int, **more: Any) -> dict[str, Any]:
    return {
        "request_id": f"req-{number}", "attempt_id": f"a-{number}", "billed": True, "reason": "",
        "outcome": "completed", "prompt_tokens": 3, "completion_tokens": 100, "replica": "pod-a.0",
        **more,
    }  # fmt: skip


def told(number: int, generated: int = 100) -> Told:
    return Told(f"a-{number}", 3, generated, generated, "completed")


BROKEN = {"error": '{"code": "engine_broke_off"}', "in_band": True, "received": 40}


KILL = Moment("kill", 10.0, 12.0, kills=True)


def world() -> tuple[list[Asked], Ledger, Truth]:
    """A whole answer, a broken one, and a probe."""
    probe = settled(9, request_id="probe-9", billed=False, reason="probe", completion_tokens=1)
    partly = settled(2, outcome="broken", completion_tokens=41)
    return (
        [asked(1), asked(2, **BROKEN)],
        [settled(1), partly, probe],
        {"a-1": told(1), "a-2": told(2, 43), "a-9": told(9, 1)},
    )


def test_what_is_right_is_right() -> None:
    made = judge(*world(), [Moment("from zero", 0.0, 1.5, first=True), KILL])
    assert made.wrong == []
    assert made.outcomes == {"answered": 1, "broken": 1}
    assert made.spanned == {"from zero": 0, "kill": 2}
    assert made.long_streams == 2
    assert (made.billed_tokens, made.generated_tokens) == (141, 144)


def _drop(at: int) -> Callable[[Ledger, Truth], None]:
    def change(ledger: Ledger, truth: Truth) -> None:
        del ledger[at], truth

    return change


def _set(at: int, **fields: Any) -> Callable[[Ledger, Truth], None]:
    def change(ledger: Ledger, truth: Truth) -> None:
        del truth
        ledger[at].update(fields)

    return change


def _twice(ledger: Ledger, truth: Truth) -> None:
    del truth
    ledger.append({**ledger[0], "attempt_id": "a-1"})


def _unknown(ledger: Ledger, truth: Truth) -> None:
    del ledger
    truth["a-7"] = told(7, 0)


MUTATIONS = {
    "a settlement dropped": _drop(0),
    "a broken one's settlement dropped": _drop(1),
    "a probe's settlement dropped": _drop(2),
    "a settlement doubled": _twice,
    "one token less": _set(0, completion_tokens=99),
    "one token more": _set(0, completion_tokens=101),
    "another prompt": _set(0, prompt_tokens=4),
    "not billed": _set(0, billed=False, reason="x"),
    "less than was received": _set(1, completion_tokens=39),
    "more than was generated": _set(1, completion_tokens=44),
    "unbilled without a word": _set(2, reason=""),
    "tokens of no engine": _set(2, attempt_id="a-8"),
    "an attempt nobody settled": _unknown,
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_is_wrong_is_told(name: str) -> None:
    requests, ledger, truth = world()
    MUTATIONS[name](ledger, truth)
    assert judge(requests, ledger, truth, [KILL]).wrong


def test_engines_that_tell_no_truth_are_known_by_name() -> None:
    requests, ledger, truth = world()
    del truth["a-1"]
    assert judge(requests, ledger, truth, [KILL], mute={"pod-b"}).wrong
    assert judge(requests, ledger, truth, [KILL], mute={"pod-a"}).wrong == []
    ledger[0]["completion_tokens"] = 99  # callers are still compared with their bills
    assert judge(requests, ledger, truth, [KILL], mute={"pod-a"}).wrong


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, "answered"),
        (BROKEN, "broken"),
        ({"error": "ReadError: ", "first": 2.0}, "cut"),
        ({"error": "503 {}", "status": 503}, "failed"),
        ({"error": "the stream ended without [DONE]"}, "failed"),
        ({"error": "the answer is not what was asked for: 99 of 100"}, "failed"),
        ({**BROKEN, "first": 0.0}, "failed"),
    ],
)
def test_a_request_is_one_of_four(fields: dict[str, Any], kind: str) -> None:
    assert outcome(asked(1, **fields)) == kind


@pytest.mark.parametrize(
    "moment",
    [
        Moment("kill", 20.0, 21.0, kills=True),
        Moment("nothing is killed", 10.0, 12.0),
        Moment("nobody was there", 16.0, 17.0, kills=True),
    ],
)
def test_what_breaks_without_a_kill_and_what_nobody_saw_is_wrong(moment: Moment) -> None:
    assert judge(*world(), [moment]).wrong


def test_a_failed_request_is_wrong_and_may_not_be_billed() -> None:
    requests = [asked(1, error="503 {}", status=503, received=0)]
    wrong = judge(requests, [settled(1)], {"a-1": told(1)}, []).wrong
    assert len(wrong) == 2
