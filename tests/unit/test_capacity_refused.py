"""Where the scheduler refuses what the forecast lets in: what its messages mean, and for how long."""

import pytest

from capacities import GPU, ask, decided, idle, node, on, shape
from tidegate_operator.capacity import GiveWay, refused

A, B = node("node-a"), node("node-b")
UNBOUND = "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims."
DEVICES = f"0/2 nodes are available: 2 Insufficient {GPU}."
MIXED = (
    f"0/2 nodes are available: 1 Insufficient {GPU}, 1 node(s) had volume node affinity conflict."
)
EVICTING = " preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
LATE = refused.SECONDS


@pytest.mark.parametrize(
    ("message", "shortage", "counted"),
    [
        (DEVICES, True, True),
        (DEVICES + EVICTING, True, True),
        (f"{DEVICES} no new claims to deallocate,{EVICTING}", True, True),
        (
            f"0/3 nodes are available: 1 node(s) had untolerated taint {{a/b: c}}, 2 Insufficient {GPU}.",
            True, True,
        ),
        (
            "0/2 nodes are available: 1 Too many pods, 1 node(s) didn't match node affinity/selector.",
            True, True,
        ),
        (MIXED, True, False),
        (MIXED + EVICTING, True, False),
        (
            f"0/2 nodes are available: 1 Insufficient {GPU}, 1 node(s) didn't match pod affinity rules.",
            True, False,
        ),
        (UNBOUND, False, False),
        (f"{UNBOUND} preemption: 0/2 nodes are available: 2 Insufficient {GPU}.", False, False),
        ('persistentvolumeclaim "weights" not found', False, False),
        ("0/2 nodes are available: 2 node(s) were unschedulable.", False, True),
        ("no nodes available to schedule pods", False, False),
        ("Scheduling is blocked due to non-empty scheduling gates", False, False),
        ('pods "m-1" is forbidden: exceeded quota: gpus', False, False),
    ],
)  # fmt: skip
def test_what_a_message_names(message: str, shortage: bool, counted: bool) -> None:
    assert refused.names_shortage(message) == shortage
    assert refused.counted(message) == counted


def after(known: refused.Refusal | None, message: str, nodes: str, now: float) -> refused.Refusal:
    """Told `message` of one pod, and then that the forecast lets it in on `nodes`."""
    return refused.doubted(refused.told(known, {"uid": message}), nodes, now)


def test_a_node_in_doubt_is_none_after_a_while_and_the_others_stay() -> None:
    known = after(None, DEVICES, "a", 0)
    assert not known.barred(LATE - 1)
    known = after(known, DEVICES, "ab", LATE - 1)
    assert known.barred(LATE) == {"a"}
    assert known.barred(2 * LATE) == {"a", "b"}


def test_a_pod_that_waits_for_devices_has_its_place_again_when_a_node_fills_up() -> None:
    """The scheduler was slow, and others took what it had not yet given."""
    known = after(after(None, DEVICES, "a", 0), DEVICES, "a", LATE)
    assert known.barred(LATE) == {"a"}
    assert not after(known, DEVICES, "", LATE + 1).barred(9 * LATE)


def test_a_node_in_another_zone_stays_none_when_it_fills_up() -> None:
    known = after(after(None, MIXED, "a", 0), MIXED, "a", LATE)
    known = after(known, DEVICES, "", LATE + 1)
    assert known.barred(LATE + 1) == {"a"}
    other = refused.told(known, {"other": DEVICES})
    assert not other.barred(LATE + 1), "another pod is judged anew"


def test_a_volume_that_came_late_gives_the_place_back() -> None:
    known = after(after(None, UNBOUND, "ab", 0), UNBOUND, "ab", LATE)
    assert known.barred(LATE) == {"a", "b"}
    assert not after(known, DEVICES, "", LATE + 1).barred(LATE + 1)


def test_of_several_pods_the_one_that_waits_for_devices_counts() -> None:
    assert refused.told(None, {"a": UNBOUND, "b": DEVICES, "c": UNBOUND}).message == DEVICES


# In the decision


def test_what_is_barred_from_every_node_reserves_nothing() -> None:
    barred = shape(4)._replace(barred=frozenset({"node-a", "node-b"}))
    asks = [
        ask("t/broken", shape=barred, written=1, wanted=2, since=1, refused=UNBOUND),
        ask("u/m", 4, since=2), ask("v/m", 4, since=3),
    ]  # fmt: skip
    made = decided(asks, [A, B])
    assert made.granted == {"u/m": 1, "v/m": 1}
    assert made.waits.keys() == {"t/broken"}, "and no second one is asked for"
    assert "unbound immediate" in made.waits["t/broken"].message
    assert "queue" not in made.waits["t/broken"].message


def test_what_is_barred_from_one_node_waits_for_the_other() -> None:
    barred = shape(4)._replace(barred=frozenset({"node-a"}))
    asks = [
        ask("t/zone", shape=barred, written=1, since=1, refused=MIXED),
        ask("u/m", 4, since=2), ask("v/m", 1, since=3),
    ]  # fmt: skip
    made = decided(asks, [A, B], [on("node-b", 1, "w/busy")])
    assert made.granted == {"u/m": 1}, "node-b is kept for it"
    made = decided(asks[:1], [A, B], [on("node-b", 4, "w/old")], idles=[idle("w/old", gpus=4)])
    assert made.gives == (GiveWay("w/old", "t/zone"),)


def test_in_doubt_is_where_the_forecast_lets_it_in() -> None:
    closed = node("node-c", usable=False)
    world = [A, B, closed], [on("node-b", 1, "w/busy")]
    one = ask("t/m", 4, written=1, refused=DEVICES)
    assert decided([one], *world).doubted == {"t/m": {"node-a"}}
    assert decided([one._replace(refused=UNBOUND)], *world).doubted == {"t/m": {"node-a", "node-b"}}
    first = ask("t/first", 4, written=1, since=-1)
    assert decided([first, one], *world).doubted == {"t/m": frozenset()}, "the first one's place"
    assert not decided([one._replace(refused="")], *world).doubted
    barred = one._replace(shape=one.shape._replace(barred=frozenset({"node-a"})))
    assert decided([barred], *world).doubted == {"t/m": {"node-a"}}


def test_nobody_leaves_for_what_no_room_would_help() -> None:
    pods, idles = [on("node-a", 4, "t/idle")], [idle("t/idle", gpus=4)]
    one = ask("t/m", 4, written=1, refused=UNBOUND)
    assert not decided([one], [A], pods, idles=idles).gives
    assert decided([one._replace(refused=DEVICES)], [A], pods, idles=idles).gives
