"""The sum over routers: what is known, what is not, and that silence is never zero."""

from tidegate_operator.demand import FORGET_AFTER, Picture, Total
from tidegate_runtime.contract.links import DemandLine, ModelDemand

MODEL = "d/m"


def line(at: float, in_flight: int = 0, held: int = 0, since: float = 0.0) -> DemandLine:
    demand = ModelDemand(
        deployment=MODEL, in_flight=in_flight, held=held, held_since=since, last_request=since
    )
    return DemandLine(router="r", at=at, models=[demand])


def test_demand_is_summed_and_the_oldest_wait_counts() -> None:
    picture = Picture()
    picture.hear("r1", line(100, 2, 1, since=90.0), 100)
    picture.hear("r2", line(100, 3, 2, since=80.0), 100)
    assert picture.total(MODEL, 101) == Total(5, 3, 80.0, 90.0)
    assert picture.total("d/other", 101) == Total(0, 0)


def test_nobody_expected_is_no_data() -> None:
    assert Picture().total(MODEL, 100) == Total(None, None)


def test_a_router_that_has_not_spoken_yet_makes_the_sum_unknown() -> None:
    picture = Picture()
    picture.expect("r1", 100)
    assert picture.total(MODEL, 100) == Total(None, None)
    picture.hear("r2", line(100), 100)
    assert picture.total(MODEL, 100).in_flight is None
    assert picture.silent(100) == ["r1"]


def test_what_waits_at_one_router_is_told_while_another_is_silent() -> None:
    picture = Picture()
    picture.hear("r1", line(100, 4), 100)
    picture.hear("r2", line(110, 0, 1, since=109.0), 110)
    assert picture.total(MODEL, 110) == Total(None, 1, 109.0, 109.0)
    assert picture.lines(110)["r1"] is None


def test_a_router_silent_for_long_is_taken_for_gone() -> None:
    picture = Picture()
    picture.hear("r1", line(100, 4), 100)
    later = 100 + FORGET_AFTER + 1
    picture.hear("r2", line(later, 1), later)
    assert picture.total(MODEL, later) == Total(1, 0)
    assert list(picture.lines(later)) == ["r2"]


def test_a_router_that_leaves_counts_no_more() -> None:
    picture = Picture()
    picture.hear("r1", line(100, 4), 100)
    picture.hear("r2", line(100, 1), 100)
    picture.leave("r1")
    assert picture.total(MODEL, 100).in_flight == 1
