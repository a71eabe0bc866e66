"""Who gets a replica, who waits for what, who gives way: tables."""

import pytest

from capacities import GPU, NOW, ask, decided, gpus, idle, node, on, shape
from tidegate_operator.capacity import GiveWay, Rules, Taint, Tolerated

A, B = node("node-a"), node("node-b")


def test_four_scattered_devices_are_no_four() -> None:
    made = decided([ask("t/big", 4)], [A, B], [on("node-a", 2), on("node-b", 2)])
    assert not made.granted
    wait = made.waits["t/big"]
    assert wait.reason == "Unschedulable"
    assert wait.message == (
        f"needs 4 {GPU} on one node; node-a has 2 of 4 {GPU} free, node-b has 2 of 4 {GPU} free; "
        "place 1 of 1 in the queue"
    )


def test_one_device_is_granted_once() -> None:
    asks = [ask("t/one", since=1), ask("t/two", since=2)]
    made = decided(asks, [node("node-a", 1)])
    assert made.granted == {"t/one": 1}
    assert set(made.waits) == {"t/two"}


def test_what_is_written_and_not_yet_seen_is_counted() -> None:
    asks = [ask("t/written", written=1, since=9), ask("t/new", since=1)]
    made = decided(asks, [node("node-a", 1)])
    assert not made.granted
    assert set(made.waits) == {"t/new"}


def test_the_fullest_node_that_fits_is_taken() -> None:
    """So that a node with all its devices free is kept for who needs them all."""
    asks = [ask("t/small", 1, since=1), ask("t/big", 4, since=2)]
    made = decided(asks, [A, B], [on("node-b", 2)])
    assert made.granted == {"t/small": 1, "t/big": 1}


def test_part_of_a_scale_up_is_granted() -> None:
    made = decided([ask("t/m", wanted=3, has=1)], [node("node-a", 3)], [on("node-a", 1, "t/m")])
    assert made.granted == {"t/m": 2}
    assert made.waits["t/m"].reason == "Unschedulable"


def test_a_large_one_that_waits_is_not_starved_by_small_ones() -> None:
    pods = [on("node-a", 1, "t/a"), on("node-b", 3, "t/b")]
    asks = [ask("t/big", 4, since=1), ask("u/small", 1, since=2), ask("u/small2", 1, since=3)]
    made = decided(asks, [A, B], pods)
    assert made.granted == {"u/small": 1}, "node-b has what the large one does not wait for"
    assert "what is free is for who waited longer" in made.waits["u/small2"].message
    assert made.waits["u/small2"].message.endswith("place 2 of 2 in the queue")


def test_what_a_large_node_has_beyond_a_reservation_is_free() -> None:
    pods = [on("node-a", 5, "t/a", leaving=True)]
    asks = [ask("t/big", 4, since=1), ask("u/small", 1, since=2)]
    made = decided(asks, [node("node-a", 8)], pods)
    assert not made.granted, "3 are free now, and one of them would be missed"
    made = decided(asks[1:], [node("node-a", 8)], pods)
    assert made.granted == {"u/small": 1}


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([node("node-a", 2), node("node-b", 2)], "no node has more than 2"),
        ([], "no node admits it"),
        ([node("node-a", 4, taints=(Taint("keep", "out", "NoSchedule"),))], "no node admits it"),
    ],
)
def test_what_could_never_be_waits_for_nothing(nodes: list[object], words: str) -> None:
    asks = [ask("t/big", 4, since=1), ask("t/small", 1, since=2)]
    pods = [on("node-a", 2, "t/idle")]
    made = decided(asks, nodes, pods, idles=[idle("t/idle", gpus=2)])  # type: ignore[arg-type]
    assert words in made.waits["t/big"].message
    assert "queue" not in made.waits["t/big"].message
    assert all(give.waiter != "t/big" for give in made.gives)
    if len(nodes) == 2:
        assert made.granted == {"t/small": 1}


def test_processors_count_where_devices_do() -> None:
    asked = shape(1)._replace(requests={GPU: 1000, "cpu": 8000})
    full = on("node-a", 1)._replace(requests={GPU: 1000, "cpu": 60_000})
    made = decided([ask("t/m", shape=asked)], [A], [full])
    assert "3 of 4 nvidia.com/gpu and 4 of 64 cpu free" in made.waits["t/m"].message


def test_without_devices_nodes_are_not_looked_at() -> None:
    assert decided([ask("t/cpu", 0)], []).granted == {"t/cpu": 1}


def test_selectors_taints_and_closed_nodes() -> None:
    labelled = node("node-b", labels={"gpu": "l4"}, taints=(Taint(GPU, "", "NoSchedule"),))
    asked = shape(1, selector={"gpu": "l4"}, tolerations=(Tolerated(GPU, "Exists"),))
    asks = [ask("t/m", shape=asked)]
    assert decided(asks, [A, labelled]).granted == {"t/m": 1}
    closed = labelled._replace(usable=False)
    made = decided(asks, [A, closed])
    assert "node-b has 4 of 4 nvidia.com/gpu free, but is not ready" in made.waits["t/m"].message
    soft = labelled._replace(taints=(Taint("x", "", "PreferNoSchedule"),))
    assert decided(asks, [soft]).granted


def test_an_elastic_profile_is_asked_for_all_the_same() -> None:
    asked = ask("t/m", shape=shape(4, elastic=True))
    made = decided([asked], [A], [on("node-a", 2, "t/idle")], idles=[idle("t/idle")])
    assert made.granted == {"t/m": 1}
    assert not made.gives


# Quotas


def test_a_quota_holds_back_only_its_namespace() -> None:
    asks = [ask("t/m", 4, since=1), ask("u/m", 4, since=2)]
    made = decided(asks, [A], quotas=[gpus("t", 4, used=1)])
    assert made.granted == {"u/m": 1}
    assert made.waits["t/m"].reason == "QuotaExceeded"
    assert made.waits["t/m"].message == (
        f"needs 4 requests.{GPU}; ResourceQuota t/gpus: 1 of 4 are taken; place 1 of 1 in the queue"
    )


def test_a_quota_counts_what_has_no_pod_yet_and_what_is_granted_now() -> None:
    asks = [ask("t/a", written=1, unseen=1), ask("t/b", since=1), ask("t/c", since=2)]
    made = decided(asks, [A, B], quotas=[gpus("t", 2)])
    assert made.granted == {"t/b": 1}
    assert set(made.waits) == {"t/c"}


def test_a_quota_that_could_never_hold_it_makes_nobody_leave() -> None:
    pods = [on("node-a", 1, "t/idle")]
    made = decided([ask("t/m", 4)], [A, B], pods, [gpus("t", 2, used=1)], [idle("t/idle")])
    assert not made.gives
    assert "queue" not in made.waits["t/m"].message


def test_an_idle_model_gives_way_within_its_quota() -> None:
    pods = [on("node-a", 2, "t/old"), on("node-b", 2, "u/older")]
    idles = [idle("t/old", 500, 2), idle("u/older", 900, 2)]
    made = decided([ask("t/m", 2)], [A, B], pods, [gpus("t", 2, used=2)], idles)
    assert made.gives == (GiveWay("t/old", "t/m"),)
    going = [pods[0]._replace(leaving=True), pods[1]]
    made = decided([ask("t/m", 2)], [A, B], going, [gpus("t", 2, used=2)], idles[1:])
    assert not made.gives, "one is leaving already"


@pytest.mark.parametrize(("hard", "used"), [(0, 0), (4, 1)])
def test_what_its_quota_forbids_keeps_no_device_from_others(hard: int, used: int) -> None:
    """Neither one that lacks least, nor one that comes free by itself, nor one that is free."""
    asks, quota = [ask("t/big", 4, since=1), ask("u/small", 1, since=2)], gpus("t", hard, used)
    busy = on("node-a", 1, "u/busy")
    for pods in ([busy], [busy._replace(leaving=True)], []):
        made = decided(asks, [A], pods, [quota])
        assert made.granted == {"u/small": 1}
        assert made.waits.keys() == {"t/big"}
        assert made.waits["t/big"].reason == "QuotaExceeded"
        assert ("place 1 of 1" in made.waits["t/big"].message) == (hard == 4)


def test_a_quota_is_looked_at_without_devices_too() -> None:
    made = decided([ask("t/cpu", 0)], [], quotas=[gpus("t", 0, pods=0)])
    assert made.waits["t/cpu"].reason == "QuotaExceeded"
    assert "needs 1 pods" in made.waits["t/cpu"].message


# Giving way


def test_the_least_recently_used_gives_way() -> None:
    pods = [on("node-a", 4, "t/new"), on("node-b", 4, "t/old")]
    made = decided([ask("t/m", 4)], [A, B], pods, idles=[idle("t/new", 100), idle("t/old", 200)])
    assert made.gives == (GiveWay("t/old", "t/m"),)
    assert "waits for t/old to leave node-b" in made.waits["t/m"].message


def test_only_as_many_as_are_needed_and_all_on_one_node() -> None:
    pods = [
        *(on("node-a", 1, f"t/a{n}") for n in range(4)),
        on("node-b", 2), on("node-b", 2, "t/b"),
    ]  # fmt: skip
    idles = [*(idle(f"t/a{n}", 900 - n) for n in range(4)), idle("t/b", 1000)]
    made = decided([ask("t/m", 2)], [A, B], pods, idles=idles)
    assert made.gives == (GiveWay("t/b", "t/m"),)
    made = decided([ask("t/m", 4)], [A, B], pods, idles=idles)
    assert {give.victim for give in made.gives} == {f"t/a{n}" for n in range(4)}


def test_who_can_be_spared_stays() -> None:
    pods = [on("node-a", 1, "t/small"), on("node-a", 3, "t/large")]
    idles = [idle("t/small", 900), idle("t/large", 800, 3)]
    made = decided([ask("t/m", 3)], [A], pods, idles=idles)
    assert made.gives == (GiveWay("t/large", "t/m"),)


def test_nobody_leaves_where_room_comes_by_itself() -> None:
    pods = [on("node-a", 4, "t/going", leaving=True), on("node-b", 4, "t/idle")]
    made = decided([ask("t/m", 4)], [A, B], pods, idles=[idle("t/idle")])
    assert not made.gives
    assert "room comes free on node-a" in made.waits["t/m"].message
    made = decided([ask("t/m", 4), ask("t/n", 4)], [A, B], pods, idles=[idle("t/idle")])
    assert made.gives == (GiveWay("t/idle", "t/n"),), "what leaves is for the first one alone"


def test_nobody_leaves_for_nothing() -> None:
    pods = [on("node-a", 3, "t/busy"), on("node-a", 1, "t/idle")]
    made = decided([ask("t/m", 2)], [A], pods, idles=[idle("t/idle")])
    assert not made.gives


def test_too_young_or_not_allowed() -> None:
    pods = [on("node-a", 4, "t/idle")]
    given = ([ask("t/m")], [A], pods)
    assert not decided(*given, idles=[idle("t/idle", 59)]).gives
    assert decided(*given, idles=[idle("t/idle", 60)]).gives
    assert not decided(*given, idles=[idle("t/idle")], rules=Rules(give_way=False)).gives


def test_a_replica_that_the_scheduler_could_not_place_makes_room_too() -> None:
    """Somebody else's pod took what it was granted."""
    pods = [on("node-a", 4, "t/idle")]
    made = decided([ask("t/m", written=1)], [A], pods, idles=[idle("t/idle")])
    assert made.gives == (GiveWay("t/idle", "t/m"),)


# Turns


def test_first_come_first_served_within_a_tenant_and_turns_between() -> None:
    asks = [ask(f"a/m{n}", since=n) for n in range(3)] + [ask("b/m", since=5)]
    made = decided(asks, [node("node-a", 2)])
    assert made.granted == {"a/m0": 1, "b/m": 1}
    assert made.waits["a/m1"].message.endswith("place 1 of 2 in the queue")


def test_who_was_served_last_comes_last() -> None:
    asks = [ask("a/m", since=1), ask("b/m", since=2)]
    assert decided(asks, [node("n", 1)]).granted == {"a/m": 1}
    assert decided(asks, [node("n", 1)], served={"a": NOW}).granted == {"b/m": 1}


def test_a_models_second_replica_comes_after_anothers_first() -> None:
    asks = [ask("t/first", since=1, wanted=3), ask("t/second", since=2)]
    assert decided(asks, [node("n", 2)]).granted == {"t/first": 1, "t/second": 1}


def test_turns_go_on_in_the_same_order() -> None:
    asks = [ask(f"{who}/m{n}", since=n) for who in "ab" for n in range(2)]
    assert decided(asks, [node("n", 3)]).granted == {"a/m0": 1, "b/m0": 1, "a/m1": 1}


def test_one_that_serves_already_comes_after_a_cold_one() -> None:
    asks = [ask("t/serves", since=1, has=1), ask("t/cold", since=2)]
    assert decided(asks, [node("n", 1)]).granted == {"t/cold": 1}


def test_what_one_victim_frees_elsewhere_is_for_the_next() -> None:
    pods = [on("node-a", 4, "t/two"), on("node-b", 4, "t/two", 1), on("node-c", 4, "t/other")]
    idles = [idle("t/two", 900, 4), idle("t/other", 800, 4)]
    asks = [ask("t/m", 4, since=1), ask("t/n", 4, since=2)]
    made = decided(asks, [A, B, node("node-c")], pods, idles=idles)
    assert made.gives == (GiveWay("t/two", "t/m"),)
    assert "room comes free on node-b" in made.waits["t/n"].message


def test_nobody_gives_way_to_itself() -> None:
    pods = [on("node-a", 4, "t/m")]
    assert not decided([ask("t/m", 4, has=1)], [A], pods, idles=[idle("t/m")]).gives
    made = decided([ask("t/m", 4, has=1)], [A, B], pods, [gpus("t", 4, 4)], [idle("t/m", gpus=4)])
    assert not made.gives


def test_nothing_is_reserved_beside_what_never_leaves() -> None:
    """Three devices would stand idle for as long as somebody asks for four."""
    asks = [ask("t/big", 4, since=1), ask("t/small", 1, since=2)]
    warm = on("node-a", 1, "t/warm", pinned=True)
    assert decided(asks, [A], [warm]).granted == {"t/small": 1}
    assert not decided(asks, [A], [warm._replace(pinned=False)]).granted


def test_nobody_leaves_for_what_could_not_run_then() -> None:
    """Short of quota and of nodes at once: the quota's room alone would help nobody."""
    victim, quota = idle("a/v", gpus=4), gpus("a", 8, 4)
    no_node = decided([ask("a/x", 8)], [A], [on("node-a", 4, "a/v")], [quota], [victim])
    assert not no_node.gives
    assert no_node.waits["a/x"].reason == "QuotaExceeded"
    assert "no node has room for it either" in no_node.waits["a/x"].message
    busy = [on("node-a", 4, "b/busy"), on("node-b", 1, "a/v")]
    small = [node("node-a"), node("node-b", 1)]
    full = decided([ask("a/x", 4)], small, busy, [gpus("a", 4, 1)], [idle("a/v", gpus=1)])
    assert not full.gives


def test_a_further_replica_keeps_no_first_one_waiting() -> None:
    pods = [on("node-a", 4, "a/x"), on("node-b", 2, "c/y")]
    made = decided([ask("a/x", 4, since=0, has=1), ask("b/z", 1, since=9)], [A, B], pods)
    assert made.granted == {"b/z": 1}
    assert set(made.waits) == {"a/x"}
