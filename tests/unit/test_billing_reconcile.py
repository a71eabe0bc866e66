"""Conservation: what explains a difference, and that nothing else does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_billing import reconcile
from tidegate_billing.links import EngineCounters
from tidegate_billing.reconcile import Balance, Recorded


def counters(generated: int, **values: object) -> EngineCounters:
    base: dict[str, object] = {
        "model": "m",
        "deployment": "d/m",
        "epoch": "e",
        "prompt": 0,
        "generated": generated,
        "state": "final",
    }
    return EngineCounters(**{**base, **values})  # type: ignore[arg-type]


def done(tokens: int, attempt: str = "", outcome: str = "completed") -> Recorded:
    return Recorded("settlement", True, "", outcome, tokens, attempt)


def unbilled(tokens: int, reason: str, outcome: str = "completed", attempt: str = "") -> Recorded:
    return Recorded("settlement", False, reason, outcome, tokens, attempt)


def balance(found: EngineCounters | None, *rows: Recorded) -> Balance:
    made = reconcile.balance("e", "m", found, rows)
    parts = made.billed + sum(made.unbilled.values()) + made.unverified + made.unexplained
    assert parts == made.generated
    assert made.unverified >= 0
    return made


TABLE = [
    ("all billed", counters(30), [done(10), done(20)], {}, 0, 0),
    ("a probe", counters(11), [done(10), unbilled(1, "probe")], {"probe": 1}, 0, 0),
    ("a retry", counters(12), [done(10), unbilled(2, "retry", "failed")], {"retry": 2}, 0, 0),
    ("nothing explains a rest", counters(31), [done(30)], {}, 0, 1),
    ("nothing explains too many", counters(29), [done(30)], {}, 0, -1),
    ("a tail without truth", counters(35), [done(30, "", "aborted")], {"abort_tail": 5}, 0, 0),
    ("no tail is negative", counters(25), [done(30, "", "aborted")], {}, 0, -5),
    (
        "a tail with truth",
        counters(35, attempts={"a": 15, "b": 20}),
        [done(10, "a", "aborted"), done(20, "b")],
        {"abort_tail": 5},
        0,
        0,
    ),
    (
        "truth leaves no room for another's loss",
        counters(36, attempts={"a": 15, "b": 21}),
        [done(10, "a", "aborted"), done(20, "b")],
        {"abort_tail": 5},
        0,
        1,
    ),
    (
        "a failed attempt's truth goes to its own reason",
        counters(9, attempts={"a": 9}),
        [unbilled(4, "failed", "broken", "a")],
        {"failed": 9},
        0,
        0,
    ),
    (
        "a declared orphan",
        counters(9, attempts={"a": 9}),
        [Recorded("orphan", False, "", "lost", 0, "a")],
        {"orphan": 9},
        0,
        0,
    ),
    ("an attempt nobody settled", counters(9, attempts={"a": 9}), [], {}, 0, 9),
    ("died unread", counters(10, state="lost", verified=False), [done(8)], {}, 2, 0),
    ("died with old counters", counters(5, state="lost", verified=False), [done(8)], {}, 0, 0),
    ("died, truth read", counters(9, state="lost", attempts={"a": 9}), [done(9, "a")], {}, 0, 0),
    ("running", counters(9, state="live", in_flight=1), [done(5)], {"in_flight": 4}, 0, 0),
    ("running, ledger ahead", counters(4, state="live", in_flight=1), [done(5)], {}, 0, 0),
    ("running, at rest", counters(9, state="live"), [done(5)], {}, 0, 4),
    ("never counted", None, [done(5), unbilled(1, "probe")], {"probe": 1}, 0, 0),
    ("idle", counters(0), [], {}, 0, 0),
]


@pytest.mark.parametrize(
    ("found", "rows", "reasons", "unverified", "unexplained"),
    [row[1:] for row in TABLE],
    ids=[str(row[0]) for row in TABLE],
)
def test_table(
    found: EngineCounters | None,
    rows: list[Recorded],
    reasons: dict[str, int],
    unverified: int,
    unexplained: int,
) -> None:
    made = balance(found, *rows)
    assert (made.unbilled, made.unverified, made.unexplained) == (reasons, unverified, unexplained)
    assert made.verified == (found is not None and found.verified)


ATTEMPTS = st.lists(st.tuples(st.integers(1, 500), st.booleans()), min_size=1, max_size=30)


@given(attempts=ATTEMPTS, data=st.data(), truth=st.booleans())
def test_one_settlement_dropped_or_doubled_is_unexplained(
    attempts: list[tuple[int, bool]], data: st.DataObject, truth: bool
) -> None:
    rows = [
        done(tokens, str(i)) if billed else unbilled(tokens, "probe", attempt=str(i))
        for i, (tokens, billed) in enumerate(attempts)
    ]
    told = {str(i): tokens for i, (tokens, _) in enumerate(attempts)} if truth else {}
    found = counters(sum(tokens for tokens, _ in attempts), attempts=told)
    assert balance(found, *rows).unexplained == 0
    victim = data.draw(st.integers(0, len(rows) - 1))
    dropped = rows[:victim] + rows[victim + 1 :]
    assert balance(found, *dropped).unexplained == rows[victim].tokens
    assert balance(found, *rows, rows[victim]).unexplained == -rows[victim].tokens
