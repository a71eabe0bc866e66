"""Deliveries: the whole schedule as a table, and which answers end it."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_billing import deliveries
from tidegate_billing.deliveries import LASTS, SECOND, Answer, Delivery

FAILED = Answer(500, 5)
NEW = deliveries.begin("d1", "msg_1", "e1", 0)


def never() -> float:
    return 0.0


def until_over(delivery: Delivery, answer: Answer, rng: random.Random | None = None) -> list[int]:
    """When each try was, if each takes no time."""
    moments = []
    while delivery.due is not None:
        moments.append(delivery.due)
        draw = never if rng is None else rng.random
        delivery, _ = deliveries.tried(delivery, answer, delivery.due, draw)
    assert delivery.state == "failed"
    return moments


def test_the_schedule() -> None:
    hours = 3600
    assert [moment // SECOND for moment in until_over(NEW, FAILED)] == [
        *(0, 10, 40, 130, 400, 1210, 3640, 10_930, 32_800),
        *(32_800 + n * 12 * hours for n in (1, 2, 3, 4, 5)),
        72 * hours,
    ]


@given(st.integers(0, 2**32))
def test_with_jitter_it_still_ends_three_days_after_the_first_try(seed: int) -> None:
    moments = until_over(NEW, FAILED, random.Random(seed))
    assert moments[-1] == LASTS
    assert 13 <= len(moments) <= 15
    waits = [after - before for before, after in pairwise(moments[:-1])]
    for tries, waited in enumerate(waits, 1):
        assert deliveries.wait(tries) <= waited <= deliveries.wait(tries) * 1.2


@pytest.mark.parametrize(
    ("status", "state"),
    [
        *((200, "delivered"), (204, "delivered"), (299, "delivered"), (410, "gone")),
        *((status, "waiting") for status in (0, 100, 199, 300, 301, 308, 400, 401, 404, 409)),
        *((status, "waiting") for status in (411, 422, 429, 500, 502, 503, 504, 599)),
    ],
)
def test_which_answers_are_final(status: int, state: str) -> None:
    after, line = deliveries.tried(NEW, Answer(status, 5, "x" * 900), 7, never)
    assert (after.state, after.tries, line.state, line.due) == (state, 1, state, after.due)
    assert (after.due is None) == (state != "waiting")
    assert (line.number, line.at, line.took, line.status) == (1, 7, 5, status)
    assert (line.message, line.endpoint, line.delivery) == ("msg_1", "e1", "d1")
    assert len(line.note) == deliveries.NOTE


def test_retry_after_puts_off_but_not_past_the_end() -> None:
    def due(retry_after: int) -> int | None:
        answer = Answer(503, 0, retry_after=retry_after)
        return deliveries.tried(NEW, answer, 0, never)[0].due

    assert [due(seconds) for seconds in (-5, 0, 60, 10**12)] == [
        10 * SECOND, 10 * SECOND, 60 * SECOND, LASTS,
    ]  # fmt: skip


def test_a_try_that_ends_after_the_last_moment_is_the_last() -> None:
    late = NEW._replace(tries=3)
    assert deliveries.tried(late, FAILED, LASTS - 1, never)[0].due == LASTS
    after, line = deliveries.tried(late, FAILED, LASTS, never)
    assert (after.due, after.state, line.state) == (None, "failed", "failed")


def test_a_replay_is_the_same_message_from_the_start() -> None:
    done, _ = deliveries.tried(NEW, Answer(410, 5), 7, never)
    again = deliveries.replay(done, "d2", 10 * LASTS)
    assert again == Delivery("d2", "msg_1", "e1", 10 * LASTS, 10 * LASTS, by_hand=True)
    assert until_over(again, FAILED)[-1] == 11 * LASTS
