"""A short cut of `make test-long ARGS="--part wakes"`: wakes are answered, billed once, and their figures complete."""

import wakes
from harness.installed import Platform

FIGURES = {
    "sent_to_held", "held_to_written", "created_to_able", "able_to_addressed", "open_to_answered",
    "answered_to_forwarded", "open_to_first_byte", "sent_to_first_byte",
}  # fmt: skip
OF_THE_AUDIT_LOG = {
    "held_to_received", "received_to_answered", "written_to_created",
    "plain_received_to_answered", "plain_written_to_created",
}  # fmt: skip


def test_a_few_wakes(tidegate: Platform) -> None:
    report = wakes.measure(tidegate, wakes=3, models=3, seed=4, idle=1)
    print(report.as_text())
    assert report.wrong == []
    known = FIGURES | (OF_THE_AUDIT_LOG if tidegate.cluster.audit_log else set())
    assert report.figures.keys() == known
    assert {one.n for one in report.figures.values()} == {3}


def test_the_order_is_seeded_and_goes_round() -> None:
    names = ["a", "b", "c"]
    first = list(wakes.order(names, 8, 1))
    assert first == list(wakes.order(names, 8, 1))
    assert len(first) == 8
    assert set(first[:3]) == set(first[3:6]) == set(names)


def test_a_spread_is_of_values_that_were_seen() -> None:
    assert wakes.spread([0.001 * n for n in range(1, 101)]) == (100, 50.0, 99.0, 100.0)
    assert wakes.spread([]) == (0, 0.0, 0.0, 0.0)
