"""What holds of every decision on capacity, whatever the cluster looks like."""

import random
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from capacities import GPU, ask, decided, gpus, idle, node, on
from tidegate_operator.capacity import Ask, Idle, NodeView, Outcome, Placed, QuotaView, free

SPACES = ("a", "b", "c")


class World(NamedTuple):
    """A cluster, and who wants what of it."""

    asks: list[Ask]
    nodes: list[NodeView]
    pods: list[Placed]
    quotas: list[QuotaView]
    idles: list[Idle]
    served: dict[str, float]

    def decided(self) -> Outcome:
        """The decision on it."""
        return decided(
            self.asks, self.nodes, self.pods, self.quotas, self.idles, served=self.served
        )


@st.composite
def worlds(draw: st.DrawFn, *, quota: bool = True) -> World:
    nodes = [node(f"n{i}", draw(st.integers(1, 8))) for i in range(draw(st.integers(1, 4)))]
    pods: list[Placed] = []
    idles: list[Idle] = []
    for number in range(draw(st.integers(0, 8))):
        where = draw(st.sampled_from(nodes)).name
        asked = draw(st.integers(1, 4))
        if free(nodes, pods)[where][GPU] < 1000 * asked:
            continue
        whose = draw(st.sampled_from(["", "busy", "idle"]))
        name = f"{draw(st.sampled_from(SPACES))}/{whose}{number}" if whose else ""
        pods.append(on(where, asked, name, number, leaving=draw(st.booleans()) and whose != "idle"))
        if whose == "idle":
            idles.append(idle(name, draw(st.integers(0, 900)), asked))
    asks = [
        ask(
            f"{draw(st.sampled_from(SPACES))}/m{number}", draw(st.integers(0, 6)),
            since=draw(st.integers(0, 5)), wanted=draw(st.integers(1, 3)),
        )
        for number in range(draw(st.integers(0, 7)))
    ]  # fmt: skip
    asks = [one._replace(written=draw(st.integers(0, 1))) for one in asks]
    quotas = [
        gpus(space, draw(st.integers(0, 12)), draw(st.integers(0, 6)))
        for space in SPACES
        if quota and draw(st.booleans())
    ]
    served = draw(st.dictionaries(st.sampled_from(SPACES), st.floats(0, 9), max_size=3))
    return World(asks, nodes, pods, quotas, idles, served)


def packs(free_on: dict[str, int], sizes: list[int]) -> bool:
    """Whether replicas of these sizes find nodes, by trying everything."""
    if not sizes:
        return True
    for name, left in free_on.items():
        if left >= sizes[0] and packs({**free_on, name: left - sizes[0]}, sizes[1:]):
            return True
    return False


@given(worlds())
def test_what_is_granted_fits_beside_what_is_there(world: World) -> None:
    made = world.decided()
    left = {name: max(0, one[GPU]) for name, one in free(world.nodes, world.pods).items()}
    sizes = [
        one.shape.requests[GPU]
        for one in world.asks
        if one.shape.device
        for _ in range(made.granted.get(one.deployment, 0))
    ]
    assert packs(left, sorted(sizes, reverse=True))


@given(worlds())
def test_what_is_granted_is_within_the_quotas(world: World) -> None:
    made = world.decided()
    for quota in world.quotas:
        name = f"requests.{GPU}"
        more = sum(
            one.shape.quota.get(name, 0) * made.granted.get(one.deployment, 0)
            for one in world.asks
            if one.namespace == quota.namespace
        )
        assert not more or quota.used[name] + more <= quota.hard[name]


@given(worlds())
def test_what_a_quota_forbids_takes_nothing_from_anybody(world: World) -> None:
    """Did it want no device at all, the others would get the same."""
    world = world._replace(asks=[one._replace(written=0) for one in world.asks], idles=[])
    name = f"requests.{GPU}"
    left = {one.namespace: one.hard[name] - one.used[name] for one in world.quotas}
    over = {
        one.deployment
        for one in world.asks
        if one.shape.quota.get(name, 0) > max(0, left.get(one.namespace, 100_000))
    }
    made = world.decided()
    assert all(made.waits[one].reason == "QuotaExceeded" for one in over)
    plain = [
        one._replace(shape=one.shape._replace(device="")) if one.deployment in over else one
        for one in world.asks
    ]
    assert world._replace(asks=plain).decided().granted == made.granted


@given(worlds(), st.integers(1, 6))
def test_what_the_scheduler_gives_no_node_takes_nothing_from_anybody(
    world: World, devices: int
) -> None:
    refused = ask("a/refused", devices, written=1, since=-1, refused="unbound volume")
    everywhere = frozenset(one.name for one in world.nodes)
    refused = refused._replace(shape=refused.shape._replace(barred=everywhere))
    made = world._replace(asks=[refused, *world.asks]).decided()
    without = world.decided()
    assert made.granted == without.granted
    assert made.gives == without.gives
    assert made.waits.keys() - {"a/refused"} == without.waits.keys()


@given(worlds())
def test_only_idle_ones_give_way_each_once_and_for_somebody_who_waits(world: World) -> None:
    made = world.decided()
    victims = [give.victim for give in made.gives]
    old_enough = {one.deployment for one in world.idles if 1_000_000 - one.last_demand >= 60}
    assert len(victims) == len(set(victims))
    assert set(victims) <= old_enough
    assert {give.waiter for give in made.gives} <= made.waits.keys()


@given(worlds())
def test_everybody_gets_all_or_waits_and_says_why(world: World) -> None:
    made = world.decided()
    for one in world.asks:
        new = one.wanted - one.written
        assert made.granted.get(one.deployment, 0) == new or made.waits[one.deployment].message


@given(worlds(), st.randoms(use_true_random=False))
def test_the_order_in_which_things_are_told_does_not_matter(
    world: World, chance: random.Random
) -> None:
    mixed = World(*(chance.sample(one, len(one)) for one in world[:5]), world.served)  # type: ignore[arg-type]
    assert mixed.decided() == world.decided()


@given(worlds(quota=False))
def test_with_room_for_all_nobody_waits(world: World) -> None:
    roomy = [node(f"roomy{i}", 6) for i in range(len(world.asks) * 3)]
    made = world._replace(nodes=[*world.nodes, *roomy]).decided()
    assert not made.waits
    assert not made.gives


@given(worlds(quota=False))
def test_whoever_waits_is_served_when_the_others_leave(world: World) -> None:
    """Everything that runs goes after a round, granted or not: nobody waits for ever."""
    pending = {
        one.deployment: one._replace(wanted=1, written=0)
        for one in world.asks
        if one.shape.requests.get(GPU, 0) <= max(n.allocatable[GPU] for n in world.nodes)
    }
    pods, served = world.pods, dict(world.served)
    for turn in range(2 * len(pending) + 2):
        made = decided(list(pending.values()), world.nodes, pods, served=served)
        assert turn == 0 or not pending or made.granted, "an empty cluster serves somebody"
        for name in made.granted:
            served[pending.pop(name).tenant] = float(turn + 10)
        pods = []
    assert not pending
