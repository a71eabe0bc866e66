"""How many replicas a model should have: samples and a policy in, a number and its reason out.

The algorithm is Knative's pair of windows, made pure. The *stable* window averages demand over a
minute and moves the count slowly; the *panic* window looks at the last seconds and, when they need
at least `panic_threshold` times what there is, raises the count and keeps it from falling. What
differs from Knative, and why:

- State is a value. `decide` returns the next state beside the number; nothing changes inside.
- Requests that wait are certain demand: `held > 0` counts at once, in full, past both averages.
  A burst of 40 held at a target of 16 wants ceil(40 / 16) = 3 replicas now, not 1 and then 2.
- "No data" is not zero. A sample with None, or silence longer than `GAP_SECONDS`, is a gap. A gap
  never lowers the count, and neither does the first time after it, until a whole window has
  data again. The same rule covers a restart: it begins with no data behind it.
- Idleness has its own clock, `last_demand_at`. Averages decide between n and 1; only
  `idle_seconds` without any demand decides between n and 0, and then neither the delay nor a
  panic that is still in force holds it up.

A second counts with the highest demand seen in it: routers write extra lines just when demand
appears, so that a mean over lines would depend on how talkative they are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

GAP_SECONDS = 5.0
"""Silence longer than this is a gap; routers write a line a second."""


@dataclass(frozen=True)
class Policy:
    """One model's scaling rules. Times are seconds; concurrency is requests per replica."""

    min_replicas: int = 0
    max_replicas: int = 4
    target_concurrency: float = 16
    idle_seconds: float = 300
    scale_down_delay_seconds: float = 60
    stable_window_seconds: float = 60
    panic_window_seconds: float = 6
    panic_threshold: float = 2.0


class Sample(NamedTuple):
    """Demand at one moment, summed over routers. None: some router was silent, so nobody knows.

    `last_request`: the latest arrival any router remembers (0: none), which tells of requests
    that came and went between two samples or while a link was down.
    """

    at: float
    in_flight: int | None
    held: int | None
    last_request: float = 0.0


class Override(NamedTuple):
    """A person's own number, in force until `until` (seconds since the epoch)."""

    replicas: int
    until: float


class Second(NamedTuple):
    """The highest demand seen in one second."""

    second: int
    demand: int


class Want(NamedTuple):
    """What the windows asked for at one moment; kept for `scale_down_delay_seconds`."""

    at: float
    replicas: int


class State(msgspec.Struct, frozen=True):
    """All that `decide` remembers of a model between two calls.

    A struct, because each call makes several of it for each of a thousand models once a second.

    Its size is bounded: one `Second` per second of the stable window, and at most one `Want` per
    distinct replica count.
    """

    replicas: int
    at: float
    last_demand_at: float
    covered_since: float | None
    seen_at: float
    in_flight: int = 0
    held: int = 0
    known: bool = False
    seconds: tuple[Second, ...] = ()
    wants: tuple[Want, ...] = ()
    panic_until: float | None = None
    panic_peak: int = 0

    @staticmethod
    def initial(replicas: int, now: float, last_demand_at: float | None = None) -> "State":
        """The state of a model just met: `replicas` as observed, idle age as its status tells.

        Without a known last demand the idle clock starts now.
        """
        seen = now if last_demand_at is None else min(last_demand_at, now)
        return State(
            replicas=replicas, at=now, last_demand_at=seen, covered_since=None, seen_at=now
        )


class Decision(NamedTuple):
    """`replicas` is what to ask for, `reason` says why in one clause, `state` goes back in."""

    state: State
    replicas: int
    reason: str


def decide(
    state: State,
    samples: Sequence[Sample],
    policy: Policy,
    now: float,
    override: Override | None = None,
    suspend: bool = False,
    gives_way_to: str = "",
) -> Decision:
    """The replica count for `now`, given what was sampled since the last call.

    `gives_way_to`: who needs the room, if somebody does; then a model that nobody uses goes to zero
    before its idle time is over, unless it is kept warm or there is no data.
    Time never runs backwards: a `now` before the last one counts as the last one.
    """
    now = max(now, state.at)
    state = _observe(state, samples, policy, now)
    if suspend:
        return _settle(state, 0, "suspended")
    if override is not None and now < override.until:
        replicas = max(0, min(override.replicas, policy.max_replicas))
        return _settle(state, replicas, f"override until {override.until:.0f}")
    unused = state.known and not state.in_flight + state.held
    if gives_way_to and unused and not policy.min_replicas:
        return _settle(state, 0, f"gives way to {gives_way_to}")
    state, want, why = _want(state, policy, now)
    replicas, reason = _lowered(state, want, why, policy, now)
    bounded = max(policy.min_replicas, min(replicas, policy.max_replicas))
    if bounded < replicas:
        reason = f"maxReplicas {policy.max_replicas}; {reason}"
    elif bounded > replicas:
        reason = f"minReplicas {policy.min_replicas}; {reason}"
    return _settle(state, bounded, reason)


def _settle(state: State, replicas: int, reason: str) -> Decision:
    # At zero the past is done with: without this, the tail of an average would wake the model
    # again right after it went idle. Demand that is still there stays in in_flight and held.
    if replicas == 0 and state.replicas != 0:
        state = replace(state, seconds=(), wants=(), panic_until=None, panic_peak=0)
    return Decision(replace(state, replicas=replicas), replicas, reason)


def _observe(state: State, samples: Sequence[Sample], policy: Policy, now: float) -> State:
    seconds = list(state.seconds)
    for sample in sorted(samples, key=lambda sample: sample.at):
        state = _fold(state, sample, seconds, now)
    if now - state.seen_at > GAP_SECONDS:
        state = replace(state, covered_since=None, known=False)
    oldest = now - policy.stable_window_seconds
    past = next((n for n, one in enumerate(seconds) if one.second > oldest - 1), len(seconds))
    return replace(state, at=now, seconds=tuple(seconds[past:]))


def _fold(state: State, sample: Sample, seconds: list[Second], now: float) -> State:
    # Once a second for every model: what comes is never older than the last second, so that it is
    # added to the end or joined with it, and nothing is sorted.
    at = max(state.seen_at, min(sample.at, now))
    heard = max(state.last_demand_at, min(sample.last_request, now))
    if sample.in_flight is None or sample.held is None:
        known_part = (sample.in_flight or 0) + (sample.held or 0)
        return replace(
            state,
            known=False,
            covered_since=None,
            last_demand_at=max(heard, at) if known_part else heard,
            in_flight=max(state.in_flight, sample.in_flight or 0),
            held=max(state.held, sample.held or 0),
        )
    demand = sample.in_flight + sample.held
    if seconds and seconds[-1].second >= int(at):
        last = seconds.pop()
        seconds.append(Second(last.second, max(demand, last.demand)))
    else:
        seconds.append(Second(int(at), demand))
    # Demand that was there a sample ago lasted up to some moment before this one: the idle clock
    # starts at this one, so that it never runs ahead of the last request.
    busy = demand > 0 or state.in_flight + state.held > 0
    gap = state.covered_since is None or at - state.seen_at > GAP_SECONDS
    return replace(
        state,
        known=True,
        seen_at=at,
        covered_since=at if gap else state.covered_since,
        last_demand_at=max(heard, at) if busy else heard,
        in_flight=sample.in_flight,
        held=sample.held,
    )


def _average(state: State, window: float, now: float) -> float:
    # Seconds without data are left out, not counted as zero: 30 s of 8 in flight and 30 s of
    # silence average to 8.
    oldest, total, count = now - window - 1, 0, 0
    for second, demand in reversed(state.seconds):
        if second <= oldest:
            break
        total, count = total + demand, count + 1
    return total / count if count else 0.0


def _replicas_for(demand: float, policy: Policy) -> int:
    # 40 requests at a target of 16: 40 / 16 = 2.5, so 3 replicas.
    return math.ceil(demand / policy.target_concurrency)


def _want(state: State, policy: Policy, now: float) -> tuple[State, int, str]:
    """What the windows and the waiting requests ask for, before anything delays a fall."""
    stable = _replicas_for(_average(state, policy.stable_window_seconds, now), policy)
    panic = _replicas_for(_average(state, policy.panic_window_seconds, now), policy)
    want, why = stable, f"stable window needs {stable}"
    # 2 replicas, threshold 2.0, the last 6 s average 70 in flight at a target of 16: they need
    # 5 >= 2 x 2, so panic: 5 at once, and no fall until 60 s after the last such moment.
    if panic >= policy.panic_threshold * max(1, state.replicas):
        state = replace(state, panic_until=now + policy.stable_window_seconds)
    if state.panic_until is not None and now >= state.panic_until:
        state = replace(state, panic_until=None, panic_peak=0)
    if state.panic_until is not None:
        state = replace(state, panic_peak=max(state.panic_peak, panic, want))
        want, why = state.panic_peak, f"panic window needs {state.panic_peak}"
    demand = state.in_flight + state.held
    if state.held and (waiting := _replicas_for(demand, policy)) >= want:
        want, why = waiting, f"{state.held} held, {state.in_flight} in flight"
    elif demand and want < 1:
        want, why = 1, f"{state.held} held, {state.in_flight} in flight"
    return _remember(state, max(want, policy.min_replicas), policy, now), want, why


def _remember(state: State, want: int, policy: Policy, now: float) -> State:
    # A want below a later one can never be the maximum again, so it is dropped: the rest falls
    # strictly, and its first entry is the maximum over the delay window.
    oldest = now - policy.scale_down_delay_seconds
    kept = tuple(one for one in state.wants if one.at > oldest and one.replicas > want)
    return replace(state, wants=(*kept, Want(now, want)))


def _lowered(state: State, want: int, why: str, policy: Policy, now: float) -> tuple[int, str]:
    """`want` where it raises or keeps; where it lowers, only as far as everything allows."""
    current = state.replicas
    demand = state.in_flight + state.held
    idle_for = now - state.last_demand_at
    covered = 0.0 if state.covered_since is None else now - state.covered_since
    if current == 0 or want > current:
        return want, why
    if not state.known:
        return current, "no data: a router is silent, nothing is lowered"
    if not demand and policy.min_replicas == 0 and idle_for >= policy.idle_seconds:
        # After a restart the idle age comes from the status, but the present has to be seen.
        if covered < min(policy.idle_seconds, policy.stable_window_seconds):
            return current, f"idle, but only {covered:.0f} s of data"
        return 0, f"no demand for {idle_for:.0f} s"
    floor = max(1, want)
    if floor == current:
        return current, why if want else f"idle for {idle_for:.0f} of {policy.idle_seconds:.0f} s"
    if state.panic_until is not None:
        return current, "panic: nothing is lowered"
    if covered < max(policy.stable_window_seconds, policy.scale_down_delay_seconds):
        return current, f"{why}, but only {covered:.0f} s of data"
    delayed = max(floor, state.wants[0].replicas)
    if delayed >= current:
        return current, f"{why}, within scaleDownDelaySeconds"
    return delayed, why
