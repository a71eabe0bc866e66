"""What the API server has said: resources, their children, pods and namespaces, by deployment.

Filled by watches and read by everything; nothing here is ever guessed. A child or a pod is found by
its label, which a person can break: it then counts as gone and is applied again.

Resources come three ways that know nothing of each other: events, whole lists, and the answers to
our own status writes. So an older word never replaces a newer one, and the end of a resource is not
the end of another one that has its name.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tidegate_runtime.contract.cluster import (
    LABEL_MODEL,
    child_name,
    ended,
    label_value,
    made_for,
    owner,
)

Object = Mapping[str, Any]


class Child(NamedTuple):
    """Where a child is."""

    kind: str
    name: str


class Place(NamedTuple):
    """What is ours in a namespace, under a resource's label: a name may be too long for one."""

    namespace: str
    label: str


class State:
    """The newest word on every object. `changed(deployment)` is called for what a change touches."""

    def __init__(self, changed: Callable[[str], None]) -> None:
        self.resources: dict[str, Object] = {}
        self.namespaces: dict[str, Mapping[str, str]] = {}
        self._children: dict[Place, dict[Child, Object]] = {}
        self._pods: dict[Place, dict[str, Object]] = {}
        self._labels: dict[Place, str] = {}
        self._changed = changed

    def resource(self, obj: Object, *, deleted: bool) -> None:
        """A ModelDeployment, as an event tells of it."""
        metadata = obj["metadata"]
        key = f"{metadata['namespace']}/{metadata['name']}"
        known = self.resources.get(key)
        if deleted:
            if known is None or known["metadata"]["uid"] != metadata["uid"]:
                return
            del self.resources[key]
            self._labels.pop(_place(key), None)
        else:
            if known is not None and _version(obj) < _version(known):
                return
            self.resources[key] = obj
            self._labels[_place(key)] = key
        self._changed(key)

    def answered(self, deployment: str, obj: Object) -> None:
        """The API server's answer to a write of ours; it says nothing that is new to us."""
        known = self.resources.get(deployment)
        if known is not None and _version(obj) >= _version(known):
            self.resources[deployment] = obj

    def listed(self, found: Iterable[Object], before: Mapping[str, Object]) -> None:
        """These were all the resources there are, asked for when `before` was known.

        What has been heard of since is left alone: the list may be older than that. The rest it
        overrules, versions and all, for they start again below ours in a restored API server."""
        there = {f"{one['metadata']['namespace']}/{one['metadata']['name']}": one for one in found}
        for key in before.keys() - there.keys():
            if self.resources.get(key) is before[key]:
                self.resource(before[key], deleted=True)
        for key, obj in there.items():
            known = self.resources.get(key)
            if known is not before.get(key) or (known and _version(known) == _version(obj)):
                continue
            self.resources.pop(key, None)
            self.resource(obj, deleted=False)

    def namespace(self, obj: Object, *, deleted: bool) -> None:
        """A namespace; who owns what is in it may have changed."""
        name = obj["metadata"]["name"]
        labels = {} if deleted else obj["metadata"].get("labels") or {}
        before = self.namespaces.get(name)
        if deleted:
            self.namespaces.pop(name, None)
        else:
            self.namespaces[name] = labels
        if before is None or owner(name, before) != owner(name, labels):
            for key in self.resources:
                if key.startswith(f"{name}/"):
                    self._changed(key)

    def child(self, kind: str, obj: Object, *, deleted: bool) -> None:
        """A labelled object; what it belongs to must be looked at."""
        place = _of(obj)
        where = Child(kind, obj["metadata"]["name"])
        known = self._children.setdefault(place, {})
        if deleted:
            known.pop(where, None)
        else:
            known[where] = obj
        if not known:
            del self._children[place]
        self._touched(place)

    def pod(self, obj: Object, *, deleted: bool) -> None:
        """A labelled pod."""
        place, uid = _of(obj), obj["metadata"]["uid"]
        known = self._pods.setdefault(place, {})
        if deleted:
            known.pop(uid, None)
        else:
            known[uid] = obj
        if not known:
            del self._pods[place]
        self._touched(place)

    def known_pod(self, obj: Object) -> Object | None:
        """What was known of a pod before `obj`."""
        return self._pods.get(_of(obj), {}).get(obj["metadata"]["uid"])

    def owner(self, deployment: str) -> str:
        """The tenant a deployment belongs to."""
        namespace = deployment.partition("/")[0]
        return owner(namespace, self.namespaces.get(namespace, {}))

    def pods_of(self, deployment: str) -> Iterator[Object]:
        """Its pods, ended ones left out, and others that have its label."""
        name = deployment.partition("/")[2]
        for pod in self._pods.get(_place(deployment), {}).values():
            if not ended(pod) and made_for(pod, name):
                yield pod

    def child_of(self, deployment: str, kind: str) -> Object | None:
        """Its child of a kind of which it has one, by its name."""
        name = child_name(deployment.partition("/")[2])
        return self.children_of(deployment).get(Child(kind, name))

    def children_of(self, deployment: str) -> Mapping[Child, Object]:
        """All its children."""
        return self._children.get(_place(deployment), {})

    def _touched(self, place: Place) -> None:
        # One seen before its resource belongs to nobody yet: the resource's own event comes.
        if place in self._labels:
            self._changed(self._labels[place])


def _place(deployment: str) -> Place:
    namespace, _, name = deployment.partition("/")
    return Place(namespace, label_value(name))


def _of(obj: Object) -> Place:
    metadata = obj["metadata"]
    return Place(metadata["namespace"], (metadata.get("labels") or {}).get(LABEL_MODEL, ""))


def _version(obj: Object) -> int:
    return int(obj["metadata"].get("resourceVersion") or 0)
