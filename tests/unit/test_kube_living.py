"""What pods' lives come to in a cluster: when they begin, answer and end, and who pays."""

from typing import Any

import pytest

from owned import owned
from tidegate_billing.links import ReplicaTime
from tidegate_operator.autoscale import Policy
from tidegate_operator.demand import Picture
from tidegate_operator.kube.fleet import Life
from tidegate_operator.kube.living import Living
from tidegate_operator.kube.model import Model
from tidegate_runtime.contract.links import DemandLine, ModelDemand, ReplicaDemand

T0 = 1_767_225_600.0  # 2026-01-01T00:00:00Z
MINUTE = "2026-01-01T00:0"


def stamp(seconds: int) -> str:
    return f"{MINUTE}{seconds // 60}:{seconds % 60:02d}Z"


def pod(
    uid: str = "a", *, placed: int = 0, answer: int | None = None, restarts: int = 0, **more: Any
) -> dict[str, Any]:
    """A pod whose engine runs; times are seconds after T0, `answer` None: not yet."""
    running = {"running": {"startedAt": stamp(placed + 1)}}
    engine = {"name": "engine", "restartCount": restarts, "state": more.get("state", running)}
    conditions = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(placed)},
        *more.get("conditions", []),
    ]
    if answer is not None:
        conditions.append(
            {
                "type": "tidegate.dev/answered", "status": "True",
                "lastTransitionTime": stamp(answer), "message": f"{uid}.{restarts}",
            }
        )  # fmt: skip
    status = {"podIP": "127.0.0.1", "containerStatuses": [engine], "conditions": conditions}
    metadata = {"namespace": "team", "name": f"pod-{uid}", "uid": uid, **owned("m", "m")}
    return {"metadata": metadata, "status": status}


class Cluster:
    """One model, what is seen of it, and what would be told."""

    def __init__(self, billing: object = None) -> None:
        self.model = Model("team/m")
        self.named: dict[str, Life] = {}
        self.picture = Picture()
        self.living = Living(
            billing,  # type: ignore[arg-type]
            {"team/m": self.model},
            self.named,
            lambda deployment: f"owner-of-{deployment.partition('/')[0]}",
        )

    def look(self, at: float, *pods: dict[str, Any], busy: int = 0, last: float = 0.0) -> None:
        self.model.observe(None, pods)
        for one in pods:
            key = (
                f"{one['metadata']['uid']}.{one['status']['containerStatuses'][0]['restartCount']}"
            )
            self.named.setdefault(key, Life("team/m", "served", "guard"))
        replicas = [ReplicaDemand(id=key, in_flight=busy) for key in self.named]
        models = [ModelDemand(deployment="team/m", last_request=last)] if last else []
        line = DemandLine(router="r", at=T0 + at, replicas=replicas, models=models)
        self.picture.hear("r", line, T0 + at)
        self.living.look(self.picture, T0 + at)

    def told(self, epoch: str = "a.0") -> list[ReplicaTime]:
        """All there is, as if billing had taken each."""
        from tidegate_billing.links import ReplicaCounted

        found: list[ReplicaTime] = []
        while due := [one for one in self.living.lives.due() if one.epoch == epoch]:
            found += due
            last = max(one.end for one in due)
            answer = ReplicaCounted(deployment="team/m", epoch=epoch, until=last)
            self.living.lives.told([answer])
        return found

    def sums(self, epoch: str = "a.0") -> tuple[int, int, int]:
        told = self.told(epoch)
        return (
            sum(one.cold_start for one in told),
            sum(one.serving for one in told),
            sum(one.idle_tail for one in told),
        )


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_a_life_from_its_node_to_its_end(cluster: Cluster) -> None:
    cluster.look(5, pod(placed=3))
    cluster.look(10, pod(placed=3, answer=9), last=T0 + 2)
    for second in range(11, 21):
        cluster.look(second, pod(placed=3, answer=9), busy=1)
    for second in range(21, 100):
        cluster.look(second, pod(placed=3, answer=9))
    cluster.look(100)
    told = cluster.told()
    assert {(one.deployment, one.model, one.owner) for one in told} == {
        ("team/m", "served", "owner-of-team")
    }
    assert told[0].begin == (T0 + 3) * 1000
    assert told[-1].end == (T0 + 100) * 1000
    assert sum(one.cold_start for one in told) == 6_000
    assert sum(one.serving for one in told) == 12_000  # from the answer to the look at 21
    assert sum(one.idle_tail for one in told) == 79_000
    assert cluster.living.lives.running() == []


def test_a_pod_that_has_no_node_has_not_begun(cluster: Cluster) -> None:
    waiting = pod()
    waiting["status"]["conditions"][0]["status"] = "False"
    cluster.look(5, waiting)
    assert cluster.living.lives.running() == []


def test_an_operator_that_comes_later_counts_what_nobody_saw(cluster: Cluster) -> None:
    cluster.look(200, pod(answer=30), busy=1)
    cluster.look(201)
    assert cluster.sums() == (30_000, 171_000, 0)


def test_a_container_that_starts_again_is_another_life(cluster: Cluster) -> None:
    cluster.look(10, pod(answer=9))
    crashed = pod(answer=9, state={"terminated": {"exitCode": 1}})
    cluster.look(20, crashed)
    cluster.look(21, crashed)
    assert cluster.living.lives.running() == []
    cluster.look(30, pod(answer=9, restarts=1, state={"waiting": {}}))
    assert cluster.living.lives.running() == []
    cluster.look(40, pod(placed=34, restarts=1))
    cluster.look(50, pod(placed=34, restarts=1, answer=45))
    cluster.look(60)
    assert cluster.sums() == (9_000, 0, 11_000)
    assert cluster.sums("a.1") == (10_000, 0, 15_000)


def test_min_replicas_are_never_idle(cluster: Cluster) -> None:
    cluster.model.policy = Policy(min_replicas=1)
    for second in range(10, 90):
        cluster.look(second, pod(answer=9))
    cluster.look(90)
    assert cluster.sums() == (9_000, 81_000, 0)


def test_a_replica_on_its_way_out_is_kept_by_nobody(cluster: Cluster) -> None:
    for floor in (0, 1):
        made = Cluster()
        made.model.policy = Policy(min_replicas=floor)
        made.look(10, pod(answer=9))
        made.model.draining["a"] = T0 + 10
        for second in range(11, 60):
            made.look(second, pod(answer=9))
        made.look(60)
        cold, serving, idle = made.sums()
        assert (cold, serving <= 2_000, serving + idle) == (9_000, True, 51_000)


def test_a_silent_router_is_not_taken_for_idleness(cluster: Cluster) -> None:
    cluster.look(10, pod(answer=9), busy=1)
    cluster.living.look(cluster.picture, T0 + 30)  # nothing was heard for 20 s
    cluster.look(40, pod(answer=9), busy=1)
    cluster.look(41)
    assert cluster.sums() == (9_000, 32_000, 0)


def test_of_a_lost_node_no_more_is_counted_than_was_seen(cluster: Cluster) -> None:
    cluster.look(20, pod(answer=9), busy=1)
    gone = [
        {"type": "Ready", "status": "False", "lastTransitionTime": stamp(25)},
        {"type": "ContainersReady", "status": "True"},
    ]
    for second in range(26, 99):
        cluster.look(second, pod(answer=9, conditions=gone))
    cluster.look(100)
    assert cluster.sums() == (9_000, 11_000, 0)


async def test_only_a_leader_tells() -> None:
    class Told(Exception):
        pass

    class Billing:
        async def settle(self, lives: object) -> None:
            raise Told

    cluster = Cluster(Billing())
    leads = iter([True])
    with pytest.raises(Told):
        await cluster.living.tell(lambda: next(leads))
    assert list(leads) == []
