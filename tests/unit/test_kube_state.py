"""What the API server has said, told late, twice, out of order, and of two objects of one name."""

from typing import Any

import pytest

from owned import owned
from tidegate_operator.kube.state import State
from tidegate_operator.kube.watching import Known
from tidegate_runtime.contract.cluster import LABEL_MODEL, label_value

KEY = "team/m"


def resource(version: int, uid: str = "u1", name: str = "m", **status: Any) -> dict[str, Any]:
    metadata = {"namespace": "team", "name": name, "uid": uid, "resourceVersion": str(version)}
    return {"metadata": metadata, "status": status}


def labelled(name: str, label: str, uid: str = "p1", version: int = 1) -> dict[str, Any]:
    metadata = {
        "namespace": "team", "name": name, "uid": uid, "resourceVersion": str(version),
        "labels": {LABEL_MODEL: label},
    }  # fmt: skip
    return {"kind": "Pod", "metadata": metadata, "status": {}}


@pytest.fixture
def changes() -> list[str]:
    return []


@pytest.fixture
def state(changes: list[str]) -> State:
    return State(changes.append)


def test_an_older_event_does_not_undo_the_answer_to_a_write(
    state: State, changes: list[str]
) -> None:
    state.resource(resource(5), deleted=False)
    state.answered(KEY, resource(8, phase="Ready"))
    changes.clear()
    state.resource(resource(7, phase="Idle"), deleted=False)
    assert state.resources[KEY]["status"] == {"phase": "Ready"}
    assert not changes
    state.resource(resource(8, phase="Ready"), deleted=False)
    assert changes == [KEY], "the same word again is a reason to look: a list after an outage"


def test_an_answer_does_not_bring_back_what_was_deleted(state: State) -> None:
    state.resource(resource(5), deleted=False)
    state.resource(resource(6), deleted=True)
    state.answered(KEY, resource(5))
    assert not state.resources


def test_the_end_of_one_is_not_the_end_of_its_successor(state: State) -> None:
    state.resource(resource(5, "old"), deleted=False)
    state.resource(resource(9, "new"), deleted=False)
    state.resource(resource(8, "old"), deleted=True)
    assert state.resources[KEY]["metadata"]["uid"] == "new"
    state.resource(resource(10, "new"), deleted=True)
    assert not state.resources


def test_a_list_forgets_what_went_and_leaves_what_came_meanwhile(state: State) -> None:
    state.resource(resource(5, name="gone"), deleted=False)
    state.resource(resource(6, name="stays"), deleted=False)
    before = dict(state.resources)
    state.resource(resource(9, name="fresh"), deleted=False)
    state.resource(resource(10, name="stays", phase="Ready"), deleted=False)
    state.listed([resource(6, name="stays")], before)
    assert set(state.resources) == {"team/stays", "team/fresh"}
    assert state.resources["team/stays"]["status"] == {"phase": "Ready"}


def test_a_restored_server_counts_from_below(state: State) -> None:
    state.resource(resource(900), deleted=False)
    state.listed([resource(50, phase="Idle")], dict(state.resources))
    assert state.resources[KEY]["status"] == {"phase": "Idle"}


def test_children_of_a_long_name_are_found_whichever_comes_first(
    state: State, changes: list[str]
) -> None:
    name = "x" * 80
    pod = labelled("p", label_value(name))
    pod["metadata"] |= owned(name, "u1")
    stranger = labelled("s", label_value(name), uid="s1")
    state.pod(pod, deleted=False)
    state.pod(stranger, deleted=False)
    assert not changes, "nobody's yet"
    state.resource(resource(1, name=name), deleted=False)
    assert [pod["metadata"]["uid"] for pod in state.pods_of(f"team/{name}")] == ["p1"]
    changes.clear()
    state.pod(pod, deleted=True)
    assert changes == [f"team/{name}"]
    assert not list(state.pods_of(f"team/{name}"))


def test_a_watch_tells_of_each_version_once_and_of_a_successor_as_another_one() -> None:
    told: list[tuple[str, str, bool]] = []

    def tell(obj: Any, deleted: bool) -> None:
        metadata = obj["metadata"]
        told.append((metadata["uid"], metadata["labels"][LABEL_MODEL], deleted))

    known = Known(tell)
    known.put(labelled("p", "m"))
    known.put(labelled("p", "m"))
    assert told == [("p1", "m", False)]
    known.put(labelled("p", "other", version=2))
    assert told[1:] == [("p1", "m", True), ("p1", "other", False)]
    known.replaced([labelled("p", "other", uid="p2", version=3)])
    assert told[3:] == [("p1", "other", True), ("p2", "other", False)]


def test_a_deployment_with_our_label_and_another_name_is_not_the_child(state: State) -> None:
    state.resource(resource(1, name="m"), deleted=False)
    for name in ("mine", "mdep-m"):
        made = {**labelled(name, "m", uid=name), "kind": "Deployment"}
        state.child("Deployment", made, deleted=False)
    found = state.child_of("team/m", "Deployment")
    assert found is not None
    assert found["metadata"]["name"] == "mdep-m"
