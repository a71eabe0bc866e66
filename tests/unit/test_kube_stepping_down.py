"""A step down at its seams: replicas that have no pod, writes under way, pods between two lives."""

from one_model import T, heard, made, pod
from tidegate_operator.autoscale import Override
from tidegate_operator.demand import Picture
from tidegate_operator.kube.model import Steps
from tidegate_runtime.contract.links import ReplicaDemand


def test_replicas_without_a_pod_are_the_first_to_go() -> None:
    """A ReplicaSet that cannot make a pod, or has yet to: nobody who serves is taken out for it."""
    model, picture = made(2, pod("a"), idle_seconds=500), Picture()
    for second in range(10):
        heard(picture, T + second, in_flight=1)
        steps = model.evaluate(picture, T + second)
        if steps.replicas is not None:
            break
    assert steps.replicas == 1
    assert not model.draining
    model.scaled(1, T + 9, 2)
    assert model.evaluate(picture, T + 9) == Steps()
    assert model.ready() == ["a"]


def test_beside_replicas_without_a_pod_those_too_many_drain_as_well() -> None:
    model, picture = made(4, pod("a"), pod("b"), pod("c", ready=False), idle_seconds=500), Picture()
    model.override = Override(1, 2 * T)
    busy = [ReplicaDemand(id="a.0", in_flight=2), ReplicaDemand(id="b.0", in_flight=1)]
    heard(picture, T, in_flight=3, replicas=busy)
    assert model.evaluate(picture, T).replicas == 3
    assert set(model.draining) == {"b", "c"}
    model.scaled(3, T, 2)
    assert model.evaluate(picture, T).replicas is None
    assert model.ready() == ["a"]
