"""The cluster as a router knows it: pods in every state, poison, and any order of events."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from owned import owned
from tidegate_runtime.contract import cluster
from tidegate_runtime.contract.links import Failure, ModelView, Replica
from tidegate_runtime.kube.watch import Cursor, Expired, Malformed
from tidegate_runtime.kube.world import MODELS, PODS, Change, Picture

Object = Mapping[str, Any]

KEY = b"platform-guard-key"
T0, T1, T2 = "2026-01-01T00:00:00Z", "2026-01-01T00:00:05Z", "2026-01-01T00:01:00Z"


def namespace(name: str = "team", **labels: str) -> Object:
    return {"metadata": {"name": name, "labels": labels}}


def resource(name: str = "m", space: str = "team", uid: str = "u1", **spec: Any) -> Object:
    metadata = {"name": name, "namespace": space, "uid": uid, "creationTimestamp": T0}
    return {"metadata": metadata, "spec": {"model": {"uri": "sim://x"}, **spec}}


def pod(name: str = "p", model: str = "m", space: str = "team", **status: Any) -> Object:
    return {
        "metadata": {
            "name": name,
            "namespace": space,
            "uid": f"uid-{name}",
            **owned(model, "u1"),
        },
        "status": {"phase": "Running", "podIP": "10.0.0.9", **status},
    }


def engine(restarts: int, state: str) -> list[Object]:
    return [
        {"name": "sidecar", "restartCount": 7, "state": {"running": {}}},
        {"name": "engine", "restartCount": restarts, "state": {state: {}}},
    ]


def gate(status: str, epoch: str, at: str = T1) -> Object:
    return {
        "type": cluster.ANSWERED, "status": status, "message": epoch, "lastTransitionTime": at,
    }  # fmt: skip


def ready(status: str, containers: str, at: str) -> list[Object]:
    return [
        {"type": "Ready", "status": status, "lastTransitionTime": at},
        {"type": "ContainersReady", "status": containers, "lastTransitionTime": T0},
    ]


def picture(*objects: tuple[str, Object]) -> Picture:
    made = Picture(KEY)
    for kind, one in objects:
        getattr(made, f"put_{kind}")(one)
    return made


def replicas(of: Object) -> list[Replica]:
    made = picture(("namespace", namespace()), ("model", resource()), ("pod", of))
    return made.take().replicas.get("team/m", [])


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (pod(podIP=""), None),
        (pod(phase="Pending"), "uid-p.0 starting"),
        (pod(phase="Failed"), None),
        (pod(phase="Succeeded"), None),
        (pod(containerStatuses=engine(0, "waiting")), "uid-p.0 starting"),
        (pod(containerStatuses=engine(0, "running")), "uid-p.0 starting"),
        (pod(containerStatuses=engine(0, "terminated")), None),
        (pod(containerStatuses=engine(2, "waiting")), None),
        (pod(containerStatuses=engine(2, "running")), "uid-p.2 starting"),
        (pod(conditions=[gate("True", "uid-p.0")]), "uid-p.0 ready"),
        (pod(conditions=[gate("False", "uid-p.0")]), "uid-p.0 starting"),
        # It answered in an earlier life.
        (
            pod(conditions=[gate("True", "uid-p.0")], containerStatuses=engine(1, "running")),
            "uid-p.1 starting",
        ),
        # Its node is silent since.
        (pod(conditions=[gate("True", "uid-p.0"), *ready("False", "True", T2)]), "uid-p.0 ready lost"),
        # The kubelet has not seen the gate yet.
        (pod(conditions=[gate("True", "uid-p.0"), *ready("False", "True", T0)]), "uid-p.0 ready"),
        (pod(conditions=[gate("True", "uid-p.0"), *ready("False", "False", T2)]), "uid-p.0 ready"),
        (pod(conditions=[gate("True", "uid-p.0"), *ready("True", "True", T2)]), "uid-p.0 ready"),
    ],
)  # fmt: skip
def test_pods(found: Object, state: str | None) -> None:
    told = [f"{r.id} {r.state}{' lost' if r.lost else ''}" for r in replicas(found)]
    assert told == ([] if state is None else [state])


@pytest.mark.parametrize(
    "metadata",
    [
        {"deletionTimestamp": T1},
        {"annotations": {cluster.DRAINING: "true", cluster.OWNER_UID: "u1"}},
        {"annotations": {"tidegate.dev/resource-uid": "the one before"}},
    ],
)
def test_draining(metadata: dict[str, Any]) -> None:
    found = pod(conditions=[gate("True", "uid-p.0")])
    found = {**found, "metadata": {**found["metadata"], **metadata}}
    assert [r.state for r in replicas(found)] == ["draining"]
    mark = metadata.get("annotations", {}).get(cluster.DRAINING, "")
    assert [r.mark for r in replicas(found)] == [mark], "a router tells which drain it knows of"


@pytest.mark.parametrize(
    "metadata",
    [
        {"annotations": {}},
        {"ownerReferences": []},
        {"ownerReferences": [{"kind": "ReplicaSet", "name": "mdep-m-1"}]},
        {"ownerReferences": [{"kind": "ReplicaSet", "name": "mine-1", "controller": True}]},
        {"ownerReferences": [{"kind": "Job", "name": "mdep-m-1", "controller": True}]},
    ],
    ids=["no resource", "nobody", "not controlled", "another's", "a Job's"],
)
def test_a_label_alone_makes_no_replica(metadata: dict[str, Any]) -> None:
    found = pod(conditions=[gate("True", "uid-p.0")])
    assert replicas({**found, "metadata": {**found["metadata"], **metadata}}) == []


def test_address_and_guard() -> None:
    (told,) = replicas(pod(podIP="fd00::9"))
    assert told.url == "http://[fd00::9]:8000"
    assert told.guard == cluster.guard(KEY, "u1")
    assert told.deployment == "team/m"


def test_a_long_name_finds_its_pods() -> None:
    name = "a.very-long-name" * 8
    made = picture(
        ("pod", pod(model=name)),
        ("namespace", namespace()),
        ("model", resource(name)),
    )
    assert [r.deployment for r in made.take().replicas[f"team/{name}"]] == [f"team/{name}"]


def test_what_the_operator_says() -> None:
    status = {
        "coldStart": {"startId": "s2"},
        "failure": {"startId": "s1", "reason": "Bad", "message": "no", "at": T0, "final": True},
    }
    made = picture(("namespace", namespace()), ("model", {**resource(), "status": status}))
    view = made.take().views["team/m"]
    assert view is not None
    assert view.start_id == "s2"
    assert view.failure == Failure(
        start_id="s1", reason="Bad", message="no", at=cluster.seconds(T0), final=True
    )


def test_the_owner_is_the_namespaces_tenant() -> None:
    made = picture(("model", resource()))
    unknown = made.take().views["team/m"]
    assert unknown is not None
    assert not unknown.valid  # it is nobody's before we know whose
    made.put_namespace(namespace(**{cluster.LABEL_TENANT: "acme"}))
    known = made.take().views["team/m"]
    assert known is not None
    assert (known.owner, known.valid) == ("acme", True)
    made.put_namespace(namespace(other="label"))
    assert made.take().views["team/m"].owner == "team"  # type: ignore[union-attr]
    made.put_namespace(namespace(another="label"))
    assert made.take() == Change({}, {})


@pytest.mark.parametrize(
    "wrong",
    [
        {"spec": None},
        {"spec": {"model": 7}},
        {"spec": {"model": {"uri": "sim://x"}, "scaling": {"targetConcurrency": "many"}}},
        {"status": "nonsense"},
        {"status": {"coldStart": [1]}},
        {"status": {"conditions": [None]}},
        {"status": {"failure": {"at": "yesterday"}}},
    ],
)
def test_poison_hurts_no_other(wrong: dict[str, Any]) -> None:
    made = picture(
        ("namespace", namespace()),
        ("model", {**resource("bad"), **wrong}),
        ("model", resource()),
        ("pod", pod()),
        ("pod", pod("q", model="bad")),
    )
    change = made.take()
    bad, good = change.views["team/bad"], change.views["team/m"]
    assert bad is not None
    assert good is not None
    assert (bad.valid, good.valid) == (False, True)
    assert [r.id for r in change.replicas["team/m"]] == ["uid-p.0"]


def test_only_what_matters_is_news() -> None:
    made = picture(("namespace", namespace()), ("model", resource()), ("pod", pod()))
    assert set(made.take().views) == {"team/m"}
    made.put_model({**resource(), "status": {"lastRequestTime": T2, "replicas": {"ready": 1}}})
    made.put_pod(pod())
    assert made.take() == Change({}, {})
    made.put_pod(pod(conditions=[gate("True", "uid-p.0")]))
    assert list(made.take().replicas) == ["team/m"]
    made.drop_model(resource())
    assert made.take() == Change({"team/m": None}, {})
    made.put_model(resource(uid="u2"))  # made again: the pod is found again
    change = made.take()
    assert change.views["team/m"] is not None
    assert change.replicas["team/m"][0].guard == cluster.guard(KEY, "u2")


# Any order of events leads where a list leads.

NAMES = st.sampled_from(["a", "b", "c"])
SPACES = st.sampled_from(["x", "y"])
OBJECTS: dict[str, st.SearchStrategy[Object]] = {
    "namespace": st.builds(
        lambda n, t: namespace(n, **({cluster.LABEL_TENANT: t} if t else {})),
        SPACES,
        st.sampled_from(["", "acme", "x"]),
    ),
    "model": st.builds(
        lambda n, s, u, z: resource(n, s, u, suspend=z),
        NAMES,
        SPACES,
        st.sampled_from(["u1", "u2"]),
        st.booleans(),
    ),
    "pod": st.builds(
        lambda n, m, s, ip, g: pod(n, m, s, podIP=ip, conditions=[gate(g, f"uid-{n}.0")]),
        NAMES,
        NAMES,
        SPACES,
        st.sampled_from(["", "10.0.0.1"]),
        st.sampled_from(["True", "False"]),
    ),
}
EVENTS = st.lists(
    st.one_of(
        *(st.tuples(st.just(kind), st.just("put"), some) for kind, some in OBJECTS.items()),
        *(st.tuples(st.just(kind), st.just("drop"), some) for kind, some in OBJECTS.items()),
        st.tuples(st.just(""), st.just("take"), st.just({})),
    ),
    max_size=40,
)


def named(one: Object) -> tuple[str, str]:
    return one["metadata"].get("namespace", ""), one["metadata"]["name"]


@settings(max_examples=300, deadline=None)
@given(EVENTS)
def test_any_order_of_events_is_as_good_as_a_list(events: list[tuple[str, str, Object]]) -> None:
    incremental = Picture(KEY)
    told_views: dict[str, ModelView] = {}
    told_replicas: dict[str, list[Replica]] = {}
    there: dict[str, dict[tuple[str, str], Object]] = {kind: {} for kind in OBJECTS}

    def take() -> None:
        change = incremental.take()
        for deployment, view in change.views.items():
            if view is None:
                del told_views[deployment]
                told_replicas.pop(deployment, None)
            else:
                told_views[deployment] = view
        told_replicas.update(change.replicas)

    for kind, verb, one in events:
        if verb == "take":
            take()
            continue
        getattr(incremental, f"{verb}_{kind}")(one)
        if verb == "put":
            there[kind][named(one)] = one
        else:
            there[kind].pop(named(one), None)
    take()

    whole = Picture(KEY)
    for kind in ("pod", "namespace", "model"):
        getattr(whole, f"replace_{kind}s")(list(there[kind].values()))
    whole.take()
    expected = whole.world(1)
    assert told_views == {view.deployment: view for view in expected.models}
    told = [r for each in told_replicas.values() for r in each]
    assert sorted(r.id + r.deployment for r in told) == sorted(
        r.id + r.deployment for r in expected.replicas
    )
    for line in (expected, incremental.world(1)):
        assert {r.id + r.deployment: r for r in told} == {
            r.id + r.deployment: r for r in line.replicas
        }
    relisted = incremental
    for kind in ("pod", "namespace", "model"):
        getattr(relisted, f"replace_{kind}s")(list(there[kind].values()))
    assert relisted.take() == Change({}, {})


# The protocol without its socket.


def test_a_cursor_puts_lines_together() -> None:
    cursor = Cursor(PODS)
    line = b'{"type":"ADDED","object":{"metadata":{"name":"p","namespace":"n","uid":"u","resourceVersion":"7","managedFields":[{}]},"status":{"podIP":"10.0.0.1","qosClass":"x"}}}\n'
    found = [event for cut in range(0, len(line), 7) for event in cursor.feed(line[cut : cut + 7])]
    assert [(e.kind, e.object) for e in found] == [
        (
            "put",
            {
                "metadata": {"name": "p", "namespace": "n", "uid": "u"},
                "status": {"podIP": "10.0.0.1"},
            },
        )
    ]
    assert cursor.version == "7"
    bookmark = b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}\n'
    assert list(cursor.feed(bookmark)) == []
    assert cursor.version == "9"
    list(cursor.feed(line[:30]))
    cursor.cut()
    assert [e.kind for e in cursor.feed(line.replace(b"ADDED", b"DELETED"))] == ["gone"]


@pytest.mark.parametrize(
    ("line", "raised"),
    [
        (b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}\n', Expired),
        (b'{"type":"ERROR","object":{"kind":"Status","code":500,"message":"no"}}\n', Expired),
        (b'{"type":"ADDED"}\n', Malformed),
        (b"<html>\n", Malformed),
    ],
)
def test_a_cursor_refuses(line: bytes, raised: type[Exception]) -> None:
    with pytest.raises(raised):
        list(Cursor(PODS).feed(line))


def test_an_unreadable_object_is_gone_and_hurts_no_other() -> None:
    cursor = Cursor(PODS)
    bad = b'{"type":"MODIFIED","object":{"metadata":{"name":"p","namespace":"n","resourceVersion":"8"},"status":[]}}\n'
    assert [(e.kind, e.object["metadata"]["name"]) for e in cursor.feed(bad)] == [("gone", "p")]
    assert cursor.version == "8"
    page = (
        b'{"metadata":{"resourceVersion":"3","continue":"more"},"items":['
        b'{"metadata":{"name":"bad"},"status":7},{"metadata":{"name":"good"},"status":{}}]}'
    )
    objects, more = cursor.page(page)
    assert ([o["metadata"]["name"] for o in objects], more) == (["good"], "more")
    assert Cursor(MODELS).page(b'{"metadata":{"resourceVersion":"3"},"items":null}') == ([], "")
