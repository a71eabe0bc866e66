"""Replica decisions: worked stories, then what must hold whatever is sampled."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate_operator.autoscale import Decision, Override, Policy, Sample, State, decide
from tidegate_operator.spec import policy
from tidegate_runtime.contract import resource

POLICY = Policy(target_concurrency=16, idle_seconds=20, max_replicas=8)


def run(
    state: State, start: int, end: int, in_flight: int | None, rules: Policy = POLICY, held: int = 0
) -> Decision:
    """A sample a second from `start` up to and without `end`."""
    decision = Decision(state, state.replicas, "")
    for now in range(start, end):
        sample = Sample(now, in_flight, None if in_flight is None else held)
        decision = decide(decision.state, [sample], rules, now)
    return decision


def test_the_first_waiting_request_wakes_at_once() -> None:
    decision = decide(State.initial(0, 100), [Sample(100, 0, 1)], POLICY, 100)
    assert decision.replicas == 1
    assert "1 held" in decision.reason


def test_a_model_without_demand_stays_at_zero() -> None:
    assert run(State.initial(0, 0), 0, 200, 0).replicas == 0


@pytest.mark.parametrize(("held", "replicas"), [(1, 1), (16, 1), (17, 2), (40, 3), (10_000, 8)])
def test_a_burst_is_counted_in_full(held: int, replicas: int) -> None:
    assert decide(State.initial(0, 0), [Sample(0, 0, held)], POLICY, 0).replicas == replicas


def test_the_wake_outlives_its_client() -> None:
    state = decide(State.initial(0, 0), [Sample(0, 0, 1), Sample(0.1, 0, 0)], POLICY, 0.1).state
    assert state.replicas == 1
    assert run(state, 1, 20, 0).replicas == 1


def test_to_zero_after_idle_seconds_and_not_before() -> None:
    state = run(State.initial(0, 0), 0, 10, 3).state
    # Demand was last seen at 9 and gone at 10: the idle clock starts at 10.
    before = run(state, 10, 30, 0)
    assert before.replicas == 1
    after = decide(before.state, [Sample(30, 0, 0)], POLICY, 30)
    assert after.replicas == 0
    assert after.reason == "no demand for 20 s"
    assert run(after.state, 31, 120, 0).replicas == 0  # the average's tail wakes nobody


@pytest.mark.parametrize(
    ("sample", "rules", "override", "replicas"),
    [
        (Sample(10, 0, 0), POLICY, None, 0),
        (Sample(10, 1, 0), POLICY, None, 2),
        (Sample(10, 0, 1), POLICY, None, 2),
        (Sample(10, None, None), POLICY, None, 2),
        (Sample(10, 0, 0), replace(POLICY, min_replicas=1), None, 2),
        (Sample(10, 0, 0), POLICY, Override(2, 20), 2),
    ],
    ids=["unused", "in flight", "held", "no data", "kept warm", "overridden"],
)
def test_only_what_nobody_uses_gives_way(
    sample: Sample, rules: Policy, override: Override | None, replicas: int
) -> None:
    state = run(State.initial(2, 0), 0, 10, 0, rules).state
    decision = decide(state, [sample], rules, 10, override, gives_way_to="t/other")
    assert decision.replicas == replicas
    assert ("gives way to t/other" in decision.reason) == (replicas == 0)
    if not replicas:
        again = decide(decision.state, [Sample(11, 0, 1)], rules, 11, gives_way_to="t/other")
        assert again.replicas == 1, "demand comes first"


def test_a_request_between_two_samples_is_remembered_by_the_routers() -> None:
    state = run(State.initial(1, 0), 0, 19, 0).state
    asked = decide(state, [Sample(19, 0, 0, last_request=18.5)], POLICY, 19).state
    assert run(asked, 20, 38, 0).replicas == 1
    assert run(asked, 20, 40, 0).replicas == 0


def test_fewer_only_after_the_delay() -> None:
    state = run(State.initial(1, 0), 0, 120, 64).state
    assert state.replicas == 4
    # 64 -> 16 at 120. At 121 + 59 the stable window holds nothing but 16 and needs 1; the highest
    # want of the last 60 s still delays it, step by step, until a minute later.
    assert run(state, 120, 150, 16).replicas == 4
    falling = [run(state, 120, end, 16).replicas for end in range(150, 260, 5)]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] == 1


def test_panic_raises_at_once_and_never_lowers() -> None:
    calm = run(State.initial(1, 0), 0, 120, 8).state
    # The last 6 s at 112 need 7 >= 2 x 1 while the stable window's average still needs 2.
    busy = run(calm, 120, 127, 112)
    assert busy.replicas == 7
    assert "panic" in run(calm, 120, 123, 112).reason
    assert run(busy.state, 127, 180, 8).replicas == 7
    assert run(busy.state, 127, 320, 8).replicas == 1


def test_idleness_ends_a_panic() -> None:
    burst = run(State.initial(0, 0), 0, 3, 0, held=100)
    assert burst.replicas == 7
    assert run(burst.state, 3, 23, 0).replicas == 7
    assert run(burst.state, 3, 24, 0).replicas == 0


def test_no_data_lowers_nothing_and_costs_a_full_window() -> None:
    state = run(State.initial(1, 0), 0, 60, 0, replace(POLICY, idle_seconds=90)).state
    rules = replace(POLICY, idle_seconds=90)
    blind = run(state, 60, 300, None, rules)
    assert blind.replicas == 1
    assert "no data" in blind.reason
    assert run(blind.state, 300, 360, 0, rules).replicas == 1
    assert run(blind.state, 300, 362, 0, rules).replicas == 0


def test_silence_is_no_data() -> None:
    state = run(State.initial(1, 0), 0, 10, 0).state
    silent = decide(state, [], POLICY, 100)
    assert silent.replicas == 1
    assert "no data" in silent.reason


def test_a_waking_request_counts_although_another_router_is_silent() -> None:
    decision = decide(State.initial(0, 0), [Sample(0, None, 2)], POLICY, 0)
    assert decision.replicas == 1


def test_after_a_restart_the_idle_age_is_known_but_the_present_must_be_seen() -> None:
    state = State.initial(1, 1000, last_demand_at=500)
    assert run(state, 1000, 1020, 0).replicas == 1
    assert run(state, 1000, 1021, 0).replicas == 0
    four = State.initial(4, 1000, last_demand_at=999)
    assert run(four, 1000, 1060, 16).replicas == 4
    assert run(four, 1000, 1061, 16).replicas == 1


def test_suspend_is_zero_and_then_demand_is_served_again() -> None:
    state = run(State.initial(0, 0), 0, 5, 9).state
    off = decide(state, [Sample(5, 9, 0)], POLICY, 5, Override(3, 99), suspend=True)
    assert (off.replicas, off.reason) == (0, "suspended")
    assert decide(off.state, [Sample(6, 0, 1)], POLICY, 6).replicas == 1


def test_an_override_holds_until_it_expires() -> None:
    state = State.initial(0, 0)
    held = decide(state, [Sample(1, 0, 0)], POLICY, 1, Override(3, 10))
    assert (held.replicas, held.reason) == (3, "override until 10")
    assert decide(state, [Sample(1, 0, 9)], POLICY, 1, Override(0, 10)).replicas == 0
    assert decide(state, [Sample(1, 0, 9)], POLICY, 10, Override(0, 10)).replicas == 1
    assert decide(state, [], POLICY, 1, Override(99, 10)).replicas == 8


def test_bounds_hold_at_once_in_both_directions() -> None:
    rules = replace(POLICY, min_replicas=2)
    low = decide(State.initial(0, 0), [Sample(0, 0, 0)], rules, 0)
    assert low.replicas == 2
    assert low.reason.startswith("minReplicas 2")
    high = decide(State.initial(9, 0), [], POLICY, 0)
    assert high.replicas == 8
    assert high.reason.startswith("maxReplicas 8")


def test_memory_is_bounded() -> None:
    state = State.initial(0, 0)
    for now in range(2000):
        state = decide(state, [Sample(now, now * 7919 % 128, 0)], POLICY, now).state
    assert len(state.seconds) <= 62
    assert len(state.wants) <= 9


def test_the_policy_of_a_resource() -> None:
    text = (
        "apiVersion: tidegate.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {name: m}\n"
        "spec: {model: {uri: hf://a/b}, scaling: {idleSeconds: 7, panicThreshold: 3}}\n"
    )
    [one] = resource.parse(text, "x").resources
    assert policy(one) == Policy(idle_seconds=7, panic_threshold=3)


RULES = st.builds(
    lambda low, more, target, idle, delay, stable, panic, threshold: Policy(
        low, max(1, low + more), target, idle, delay, stable, min(panic, stable), threshold
    ),
    st.integers(0, 3),
    st.integers(0, 5),
    st.sampled_from([1, 4, 16]),
    st.integers(1, 30),
    st.integers(0, 30),
    st.integers(6, 30),
    st.integers(1, 6),
    st.sampled_from([1.0, 2.0]),
)
COUNT = st.none() | st.sampled_from([0, 0, 0, 1, 5, 40])
STEPS = st.lists(st.tuples(st.sampled_from([0.0, 0.2, 1.0, 1.0, 7.0]), COUNT, COUNT), max_size=80)
Steps = list[tuple[float, int | None, int | None]]


@settings(deadline=None)
@given(RULES, st.integers(0, 8), STEPS)
def test_what_always_holds(rules: Policy, replicas: int, steps: Steps) -> None:
    now, last_demand = 1000.0, 1000.0
    state = State.initial(min(replicas, rules.max_replicas), now)
    for pause, in_flight, held in steps:
        now += pause
        sample = Sample(now, in_flight, held)
        before = state
        decision = decide(state, [sample], rules, now)
        assert decision == decide(before, [sample], rules, now), "the same in, the same out"
        assert rules.min_replicas <= decision.replicas <= rules.max_replicas
        assert decision.reason
        assert decision.state.replicas == decision.replicas
        if in_flight or held:
            last_demand = now
            assert decision.replicas >= 1
        if held and in_flight is not None:
            wanted = -(-(held + in_flight) // rules.target_concurrency)
            assert decision.replicas >= min(rules.max_replicas, wanted)
        if in_flight is None or held is None:
            assert decision.replicas >= before.replicas
        if decision.replicas == 0 and before.replicas > 0:
            assert now - last_demand >= rules.idle_seconds
        state = decision.state


@given(STEPS)
def test_time_never_runs_backwards(steps: Steps) -> None:
    now, state = 1000.0, State.initial(1, 1000.0)
    for pause, in_flight, held in steps:
        now -= pause
        state = decide(state, [Sample(now, in_flight, held)], POLICY, now).state
        assert state.at == 1000.0
    assert state.replicas >= 1


@settings(deadline=None, max_examples=30)
@given(RULES, st.sampled_from([0, 1, 5, 40]))
def test_steady_demand_settles_where_it_needs_to(rules: Policy, in_flight: int) -> None:
    state = run(State.initial(0, 0), 0, 200, in_flight, rules).state
    wanted = -(-in_flight // rules.target_concurrency)
    assert state.replicas == max(rules.min_replicas, min(wanted, rules.max_replicas))
