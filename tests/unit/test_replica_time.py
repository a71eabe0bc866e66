"""A replica's life: every millisecond is in one phase, however and how often it is told."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_billing import replicas
from tidegate_billing.links import ReplicaCounted, ReplicaTime
from tidegate_operator import replica_time as time
from tidegate_operator.replica_time import GAP_MS, LONGEST_MS, MINUTE_MS, Life, Lives, Whose

START = 1_800_000_000_000 - 1_800_000_000_000 % MINUTE_MS
Looks = list[tuple[int, bool]]


def lived(start: int, wake: int, looks: Looks, end: int) -> Life:
    """A life of offsets in milliseconds: its wake, who looked when and what they saw, its end."""
    life = time.answered(time.started(start, start), start + wake)
    for at, busy in looks:
        life = time.watched(life, start + at, busy=busy)
    return time.ended(life, start + end)


def total(life: Life) -> tuple[int, int, int]:
    told = time.cut(life, 10**6)
    assert [one.begin for one in told[1:]] == [one.end for one in told[:-1]]
    return (
        sum(one.cold_start for one in told),
        sum(one.serving for one in told),
        sum(one.idle_tail for one in told),
    )


SHORT, LONG = GAP_MS, GAP_MS + 1
LIVES: list[tuple[str, Looks, int, tuple[int, int, int]]] = [
    ("nobody came", [(60_000, False)], 90_000, (5_000, 0, 85_000)),
    ("gone with its answer", [], 5_000, (5_000, 0, 0)),
    ("in use to the end", [(5_500, True), (20_000, True)], 21_000, (5_000, 16_000, 0)),
    (
        "a tail after the last request",
        [(5_500, True), (9_000, True), (10_000, False), (40_000, False)],
        70_000,
        (5_000, 5_000, 60_000),
    ),
    (
        "a short silence is serving",
        [(6_000, True), (7_000, False), (6_999 + SHORT, False), (7_000 + SHORT, True), (18_000, False)],
        18_000,
        (5_000, 13_000, 0),
    ),
    (
        "a long one is not",
        [(6_000, True), (7_000, False), (7_000 + LONG, False), (8_000 + LONG, True), (9_000 + LONG, False)],
        9_000 + LONG,
        (5_000, 4_000, LONG),
    ),
    ("a look that is late covers what was before it", [(65_000, True)], 65_000, (5_000, 60_000, 0)),
    ("a look at the same moment twice", [(6_000, True), (6_000, False)], 6_000, (5_000, 1_000, 0)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "looks", "end", "phases"), LIVES, ids=[x[0] for x in LIVES])
def test_phases(name: str, looks: Looks, end: int, phases: tuple[int, int, int]) -> None:
    del name
    assert total(lived(START, 5_000, looks, end)) == phases


def test_a_start_that_was_never_answered_is_nobodys() -> None:
    life = time.started(START, START)
    for seconds in range(200):
        life = time.watched(life, START + seconds * 1000, busy=False)
        assert time.cut(life) == []
    assert time.over(time.ended(life, START + 300_000))


def test_stretches_end_with_their_minute_or_the_life() -> None:
    life = lived(START + 59_000, 2_000, [(90_000, True)], 90_001)
    assert [(one.begin - START, one.end - START) for one in time.cut(life)] == [
        (59_000, 60_000),
        (60_000, 120_000),
        (120_000, 149_001),
    ]
    assert len(time.cut(life, 2)) == 2


def test_a_request_that_came_and_went_between_two_looks_counts_up_to_the_second() -> None:
    life = time.answered(time.started(START, START), START + 1_000)
    life = time.watched(life, START + 2_000, busy=False, came=True)
    life = time.watched(life, START + 3_000, busy=False)
    assert total(time.ended(life, START + 4_000)) == (1_000, 1_000, 2_000)


def test_a_silence_is_told_when_it_is_known_to_be_long() -> None:
    life = time.answered(time.started(START, START), START)
    life = time.watched(life, START + 55_000, busy=True)
    life = time.watched(life, START + 56_000, busy=False)
    life = time.watched(life, START + 66_000, busy=False)
    assert time.settled(life) == START + 56_000
    assert time.cut(life) == []
    assert time.settled(time.watched(life, START + 67_000, busy=False)) == START + 67_000
    assert time.cut(time.watched(life, START + 67_000, busy=False)) == [
        time.Stretch(START, START + 60_000, 0, 56_000, 4_000)
    ]
    assert time.cut(time.watched(life, START + 65_000, busy=True)) == []


def test_an_answer_that_is_told_late_counts_from_its_own_time() -> None:
    life = time.watched(time.started(START, START), START + 9_000, busy=False)
    life = time.answered(life, START + 7_000)
    assert time.answered(life, START + 8_000) is life
    life = time.watched(life, START + 9_500, busy=True)
    assert total(time.ended(life, START + 9_500)) == (7_000, 2_500, 0)


def test_what_nobody_could_tell_for_a_day_is_given_up() -> None:
    life = time.started(START, START + LONGEST_MS + 500)
    life = time.answered(life, START + 100)
    life = time.watched(life, START + LONGEST_MS + 500, busy=False)
    assert sum(total(time.ended(life, START + LONGEST_MS + 600))) == LONGEST_MS
    life = time.answered(time.started(START, START), START)
    for step in range(1, 10_000):
        life = time.watched(life, START + step * LONG * 2, busy=step % 3 == 0)
    assert 1000 < len(life.spans) <= LONGEST_MS / LONG / 6 + 2
    assert life.counted == life.seen - LONGEST_MS


LOOKS = st.lists(st.tuples(st.integers(1, 40_000), st.booleans()), max_size=40)


@given(
    start=st.integers(0, MINUTE_MS),
    wake=st.integers(0, 100_000),
    looks=LOOKS,
    cuts=st.lists(st.booleans(), min_size=41, max_size=41),
    rest=st.integers(0, 100_000),
)
def test_phases_add_up_to_the_life_however_it_is_cut(
    start: int, wake: int, looks: Looks, cuts: list[bool], rest: int
) -> None:
    begin = START + start
    at = begin + wake
    life = whole = time.answered(time.started(begin, begin), at)
    told: list[time.Stretch] = []
    for (step, busy), now_told in zip(looks, cuts, strict=False):
        at += step
        life = time.watched(life, at, busy=busy)
        whole = time.watched(whole, at, busy=busy)
        if now_told:
            told += time.cut(life, 3)
            life = time.counted(life, told[-1].end if told else 0)
    at += rest
    life, whole = time.ended(life, at), time.ended(whole, at)
    told += time.cut(life, 10**6)
    assert sum(total(whole)) == at - begin
    sums = [sum(getattr(one, name) for one in told) for name in ("cold_start", "serving", "idle_tail")]  # fmt: skip
    assert tuple(sums) == total(whole)
    assert all(min(one) >= 0 for one in told)
    assert all(one.begin // MINUTE_MS == (one.end - 1) // MINUTE_MS for one in told)


WHOSE = Whose("d/m", "m-1", "m", "acme")


class Ledger:
    """Billing's side: what it would keep."""

    def __init__(self) -> None:
        self.until = 0
        self.taken: list[ReplicaTime] = []

    def tell(self, lives: Lives, *, answered: bool = True) -> None:
        for one in lives.due():
            assert replicas.problem(one) is None
            if one.begin >= self.until:
                self.until = one.end
                self.taken.append(one)
        if answered and self.until:
            lives.told([ReplicaCounted(deployment="d/m", epoch="m-1", until=self.until)])

    def sums(self) -> tuple[int, int, int]:
        return (
            sum(one.cold_start for one in self.taken),
            sum(one.serving for one in self.taken),
            sum(one.idle_tail for one in self.taken),
        )


def test_lost_answers_and_new_operators_neither_lose_nor_double() -> None:
    ledger, begin = Ledger(), START / 1000
    first = Lives()
    first.begin(WHOSE, begin, begin)
    first.answered("m-1", begin + 30)
    for second in range(31, 400):
        first.watched("m-1", begin + second, busy=second < 200)
        ledger.tell(first, answered=bool(second % 7))
    # The next one met it long ago and watched too, but was never answered.
    second_one = Lives()
    second_one.begin(WHOSE, begin, begin + 10)
    second_one.answered("m-1", begin + 30)
    for second in range(31, 500):
        second_one.watched("m-1", begin + second, busy=second < 200)
    # The third has only just come.
    third = Lives()
    third.begin(WHOSE, begin, begin + 500)
    third.answered("m-1", begin + 30)
    third.watched("m-1", begin + 500, busy=False)
    for lives in (second_one, third):
        for _ in range(3):
            ledger.tell(lives)
        assert ledger.until == START + 480_000
        lives.ended("m-1", begin + 501)
        assert "m-1" in lives
    for lives in (third, second_one):
        ledger.tell(lives)
        assert "m-1" not in lives
    assert ledger.sums() == (30_000, 170_000, 301_000)
    assert sum(one.end - one.begin for one in ledger.taken) == 501_000


def test_what_was_written_down_ends_when_it_was_last_seen() -> None:
    ledger, begin = Ledger(), START / 1000
    lives = Lives()
    lives.begin(WHOSE, begin, begin)
    lives.begin(Whose("d/m", "m-2", "m", "acme"), begin, begin)
    lives.answered("m-1", begin + 1)
    lives.watched("m-1", begin + 100, busy=True)
    ledger.tell(lives)
    found = msgspec.json.decode(msgspec.json.encode(lives.kept()), type=list[time.Kept])
    again = Lives(found)
    again.abandoned()
    assert again.running() == []
    assert "m-2" not in again
    ledger.tell(again)
    ledger.tell(again)
    assert ledger.sums() == (1_000, 99_000, 0)
    assert again.kept() == []
    again.ended("nobody", begin)
    assert lives.running() == ["m-1", "m-2"]
