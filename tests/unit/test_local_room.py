"""Memory on one machine: who may start, who sleeps for whom, who waits for what."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_operator.local import machine
from tidegate_operator.local.room import Ask, Holder, Outcome, Use, Wait, decide

NOW, IDLE = 1000.0, 10.0


def holder(
    name: str, size: int, use: Use = "idle", *, ago: float = 60.0, leaving: int = 0
) -> Holder:
    return Holder(name, size, leaving, NOW - ago, use)


def ask(name: str, need: int, wanted: int = 1, *, ago: float = 0.0, has: int = 0) -> Ask:
    return Ask(name, need, wanted, NOW - ago, has)


def outcome(asks: Sequence[Ask], holders: Sequence[Holder], free: int) -> tuple[Any, Any, Any]:
    granted, waits, gives = decide(asks, holders, free, IDLE, NOW)
    return granted, waits, [tuple(one) for one in gives]


@pytest.mark.parametrize(
    ("need", "holders", "free", "granted", "wait", "victims"),
    [
        (36, [], 36, 1, None, []),
        (36, [], 35, 0, Wait("never"), []),
        (36, [holder("a", 34)], 36, 1, None, []),
        (36, [holder("a", 34)], 16, 0, Wait("leaving", ("a",)), ["a"]),
        (36, [holder("a", 34)], 1, 0, Wait("never"), []),
        (36, [holder("a", 34, "used")], 16, 0, Wait("used", ("a",)), []),
        (36, [holder("a", 34, ago=9)], 16, 0, Wait("used", ("a",)), []),
        (36, [holder("a", 34, "kept")], 16, 0, Wait("never"), []),
        (36, [holder("a", 0, leaving=34)], 16, 0, Wait("leaving", ("a",)), []),
        # What leaves already is enough: nobody else has to.
        (36, [holder("a", 0, leaving=34), holder("b", 34)], 16, 0, Wait("leaving", ("a",)), []),
        # The one used longest ago, not the larger one.
        (36, [holder("a", 34, ago=60), holder("b", 20, ago=90)], 16, 0, Wait("leaving", ("b",)), ["b"]),
        # As few as are enough: `b` was used longest ago, and is of no help.
        (36, [holder("a", 34, ago=60), holder("b", 2, ago=90)], 16, 0, Wait("leaving", ("a",)), ["a"]),
        (36, [holder("a", 10, ago=60), holder("b", 10, ago=90)], 16, 0, Wait("leaving", ("b", "a")), ["b", "a"]),
        # Enough or nothing: an idle one stays where one in use is needed, too.
        (36, [holder("a", 10), holder("b", 10, "used")], 16, 0, Wait("used", ("a", "b")), []),
        (36, [holder("a", 10), holder("b", 10, "kept")], 16, 0, Wait("never"), []),
        # Its own replicas are none of the others'.
        (36, [holder("me", 34)], 16, 0, Wait("never"), []),
        # More is promised than there is.
        (1, [], -5, 0, Wait("never"), []),
    ],
)  # fmt: skip
def test_one_that_asks(
    need: int, holders: list[Holder], free: int, granted: int, wait: Wait | None, victims: list[str]
) -> None:
    got, waits, gives = outcome([ask("me", need)], holders, free)
    assert got == ({"me": granted} if granted else {})
    assert waits == ({"me": wait} if wait else {})
    assert gives == [(one, "me") for one in victims]


def test_replicas_are_granted_one_by_one() -> None:
    granted, waits, gives = outcome([ask("me", 10, 4)], [holder("a", 6)], 26)
    assert granted == {"me": 2}
    assert waits == {"me": Wait("leaving", ("a",))}
    assert gives == [("a", "me")]


def test_first_come_first_served_but_a_first_replica_before_a_second() -> None:
    asks = [ask("late", 10, ago=1), ask("more", 10, ago=9, has=1), ask("early", 10, ago=5)]
    assert outcome(asks, [], 10)[0] == {"early": 1}
    assert outcome(asks, [], 20)[0] == {"early": 1, "late": 1}


def test_who_comes_later_takes_nothing_of_what_is_waited_for() -> None:
    going = [holder("a", 0, leaving=30)]
    # 16 + 30 - 36 = 10 are nobody's.
    for need, gets in ((10, {"small": 1}), (11, {})):
        asks = [ask("large", 36, ago=5), ask("small", need)]
        granted, waits, _ = outcome(asks, going, 16)
        assert granted == gets
        assert waits["large"] == Wait("leaving", ("a",))


def test_who_waits_for_models_in_use_keeps_nothing_from_others() -> None:
    asks = [ask("large", 36, ago=5), ask("small", 16)]
    granted, waits, _ = outcome(asks, [holder("a", 30, "used")], 16)
    assert granted == {"small": 1}
    assert waits == {"large": Wait("used", ("a",))}


def test_one_victim_is_not_promised_twice() -> None:
    asks = [ask("first", 30, ago=5), ask("second", 30)]
    _, waits, gives = outcome(asks, [holder("a", 30)], 0)
    assert gives == [("a", "first")]
    assert waits == {"first": Wait("leaving", ("a",)), "second": Wait("never")}


SIZES = st.integers(0, 40)
HOLDERS = st.lists(
    st.builds(
        Holder,
        st.sampled_from("abcdef"),
        SIZES,
        st.sampled_from([0, 0, 5]),
        st.integers(900, 1000).map(float),
        st.sampled_from(["idle", "idle", "used", "kept"]),
    ),
    unique_by=lambda one: one.deployment,
)
ASKS = st.lists(
    st.builds(
        Ask,
        st.sampled_from("xyzab"),
        st.integers(1, 60),
        st.integers(1, 3),
        st.integers(900, 1000).map(float),
        st.integers(0, 1),
    ),
    unique_by=lambda one: one.deployment,
)


def decided(asks: Sequence[Ask], holders: Sequence[Holder], free: int) -> Outcome:
    return decide(asks, holders, free, IDLE, NOW)


@given(ASKS, HOLDERS, st.integers(-10, 80))
def test_what_is_granted_is_free_now(asks: list[Ask], holders: list[Holder], free: int) -> None:
    granted = decided(asks, holders, free).granted
    needs = {one.deployment: one for one in asks}
    assert sum(needs[name].need * count for name, count in granted.items()) <= max(0, free)
    assert all(0 < count <= needs[name].wanted for name, count in granted.items())


@given(ASKS, HOLDERS, st.integers(-10, 80))
def test_nobody_in_use_kept_warm_or_just_used_is_put_to_sleep(
    asks: list[Ask], holders: list[Holder], free: int
) -> None:
    known = {one.deployment: one for one in holders}
    gives = decided(asks, holders, free).gives
    assert len({one.victim for one in gives}) == len(gives)
    for give in gives:
        victim = known[give.victim]
        assert victim.use == "idle"
        assert victim.size
        assert NOW - victim.last_used >= IDLE
        assert give.victim not in {one.deployment for one in asks}


@given(st.integers(1, 120), HOLDERS, st.integers(0, 40))
def test_victims_are_enough_all_needed_and_the_least_recently_used(
    need: int, holders: list[Holder], free: int
) -> None:
    _, waits, gives = decide([ask("me", need)], holders, free, IDLE, NOW)
    soon = free + sum(one.leaving for one in holders)
    able = sorted(
        (one for one in holders if one.use == "idle" and one.size and NOW - one.last_used >= IDLE),
        key=lambda one: (one.last_used, one.deployment),
    )
    chosen = [one for one in able if one.deployment in {give.victim for give in gives}]
    if not gives:
        enough_without = need <= soon
        assert enough_without or soon + sum(one.size for one in able) < need
        return
    assert waits["me"].kind == "leaving"
    total = soon + sum(one.size for one in chosen)
    assert total >= need
    assert all(total - one.size < need for one in chosen)
    # Nobody who was used later than the last of them; without that one all before are too little.
    older = able[: able.index(chosen[-1])]
    assert soon + sum(one.size for one in older) < need


@given(ASKS, HOLDERS, st.integers(-10, 80))
def test_everyone_who_did_not_get_all_is_told_why(
    asks: list[Ask], holders: list[Holder], free: int
) -> None:
    granted, waits, _ = decided(asks, holders, free)
    short = {one.deployment for one in asks if granted.get(one.deployment, 0) < one.wanted}
    assert waits.keys() == short


def processes(root: Path, *rows: tuple[int, int, int, int, str]) -> None:
    """pid, session, RssAnon and RssShmem in kB, name."""
    for pid, session, anon, shared, name in rows:
        folder = root / "proc" / str(pid)
        folder.mkdir(parents=True)
        (folder / "stat").write_text(f"{pid} ({name}) S 1 {session} {session} 0 -1\n")
        (folder / "status").write_text(
            f"Name:\t{name}\nVmRSS:\t 9999 kB\nRssAnon:\t{anon:8} kB\nRssShmem:\t{shared:8} kB\n"
        )


def test_what_a_session_holds(tmp_path: Path) -> None:
    processes(
        tmp_path, (10, 10, 100, 7, "a) R 9 9"), (11, 10, 50, 9, "worker"), (20, 20, 5, 0, "b"),
        (30, 30, 1, 1, "other"),
    )  # fmt: skip
    (tmp_path / "proc" / "self").mkdir()
    (tmp_path / "proc" / "40").mkdir()  # has just ended
    (tmp_path / "proc" / "50").mkdir()
    (tmp_path / "proc" / "50" / "stat").write_text("50 (zombie) Z 1 20 20 0\n")
    (tmp_path / "proc" / "50" / "status").write_text("Name:\tzombie\nState:\tZ\n")
    found = machine.taken([10, 20, 99], tmp_path)
    assert found == {10: 159 * 1024, 20: 5 * 1024, 99: 0}
