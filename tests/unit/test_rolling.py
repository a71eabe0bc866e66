"""How many to start and to let go: tables, and rolls played to their end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_operator.local.rolling import Group, Moves, moves

NONE = Group()


@pytest.mark.parametrize(
    ("old", "new", "desired", "wanted"),
    [
        (NONE, NONE, 2, Moves(2, 0, 0)),
        (NONE, Group(ready=3), 1, Moves(0, 0, 2)),
        (NONE, Group(ready=1), 0, Moves(0, 0, 1)),
        (Group(ready=1), NONE, 1, Moves(1, 0, 0)),
        (Group(ready=1), Group(starting=1), 1, Moves(0, 0, 0)),
        (Group(ready=1), Group(ready=1), 1, Moves(0, 1, 0)),
        (Group(ready=1), NONE, 0, Moves(0, 1, 0)),
        (Group(ready=3), NONE, 3, Moves(1, 0, 0)),
        (Group(ready=3), Group(ready=1), 3, Moves(0, 1, 0)),
        (Group(ready=2), Group(ready=1), 3, Moves(1, 0, 0)),
        (Group(starting=1), NONE, 1, Moves(1, 0, 0)),
        (Group(starting=2), NONE, 1, Moves(0, 1, 0)),
        (Group(ready=1, starting=1), NONE, 1, Moves(0, 1, 0)),
        (Group(leaving=1), NONE, 1, Moves(1, 0, 0)),
    ],
)
def test_beside_the_old_ones(old: Group, new: Group, desired: int, wanted: Moves) -> None:
    assert moves(old, new, desired, able=True) == wanted


@pytest.mark.parametrize(
    ("old", "new", "desired", "wanted"),
    [
        (Group(ready=1), NONE, 1, Moves(0, 1, 0)),
        (Group(leaving=1), NONE, 1, Moves(0, 0, 0)),
        (NONE, NONE, 1, Moves(1, 0, 0)),
        (Group(ready=2), NONE, 2, Moves(0, 1, 0)),
        (Group(ready=1, leaving=1), NONE, 2, Moves(0, 0, 0)),
        (Group(ready=1), NONE, 2, Moves(1, 0, 0)),
        (Group(ready=1), Group(ready=1), 2, Moves(0, 1, 0)),
    ],
)
def test_in_the_place_of_the_old_ones(old: Group, new: Group, desired: int, wanted: Moves) -> None:
    assert moves(old, new, desired, able=True, surge=0, unavailable=1) == wanted


@pytest.mark.parametrize("surge", [0, 1])
def test_what_cannot_be_started_replaces_nothing(surge: int) -> None:
    assert moves(Group(ready=2), NONE, 2, able=False, surge=surge, unavailable=1) == (0, 0, 0)
    assert moves(Group(ready=2), NONE, 1, able=False, surge=surge, unavailable=1) == (0, 1, 0)


@given(
    st.integers(0, 5),
    st.integers(0, 5),
    st.integers(0, 3),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
def test_every_roll_ends_and_nobody_is_without(
    running: int, desired: int, surge: int, unavailable: int, chance: object
) -> None:
    """Starts answer and drains end one by one, in any order."""
    old, new = Group(ready=running), NONE
    least = min(running, desired if surge else desired - unavailable)
    for _ in range(100):
        due = moves(old, new, desired, able=True, surge=surge, unavailable=unavailable)
        assert due.stop_old <= old.active
        assert due.stop_new == 0
        unready = min(due.stop_old, old.starting)
        old = Group(
            old.ready - due.stop_old + unready, old.starting - unready, old.leaving + due.stop_old
        )
        new = new._replace(starting=new.starting + due.start)
        assert old.ready + new.ready >= least
        processes = old.active + new.active + (0 if surge else old.leaving)
        assert processes <= max(desired + surge, running)
        ways = ["answer"] * bool(new.starting) + ["end"] * bool(old.leaving)
        if not ways:
            break
        if chance.choice(ways) == "answer":  # type: ignore[attr-defined]
            new = Group(new.ready + 1, new.starting - 1)
        else:
            old = old._replace(leaving=old.leaving - 1)
    assert (old, new) == (NONE, Group(ready=desired))
