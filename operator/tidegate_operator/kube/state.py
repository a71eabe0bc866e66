"""What the API server has said: resources, their children, pods and namespaces, by deployment.

Filled by watches and read by everything; nothing here is ever guessed. A child or a pod is found by
its label, which a person can break: it then counts as gone and is applied again.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from tidegate_runtime.contract.cluster import LABEL_MODEL, label_value, owner

Object = Mapping[str, Any]


class Child(NamedTuple):
    """Where a child is."""

    kind: str
    name: str


class State:
    """The newest word on every object. `changed(deployment)` is called for what a change touches."""

    def __init__(self, changed: Callable[[str], None]) -> None:
        self.resources: dict[str, Object] = {}
        self.namespaces: dict[str, Mapping[str, str]] = {}
        self.children: dict[str, dict[Child, Object]] = {}
        self.pods: dict[str, dict[str, Object]] = {}
        self._labels: dict[tuple[str, str], str] = {}
        self._changed = changed

    def resource(self, obj: Object, *, deleted: bool) -> None:
        """A ModelDeployment."""
        metadata = obj["metadata"]
        key = f"{metadata['namespace']}/{metadata['name']}"
        label = (metadata["namespace"], label_value(metadata["name"]))
        if deleted:
            self.resources.pop(key, None)
            self._labels.pop(label, None)
        else:
            self.resources[key] = obj
            self._labels[label] = key
        self._changed(key)

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
        key = self._of(obj)
        where = Child(kind, obj["metadata"]["name"])
        known = self.children.setdefault(key, {})
        if deleted:
            known.pop(where, None)
        else:
            known[where] = obj
        if not known:
            del self.children[key]
        self._changed(key)

    def pod(self, obj: Object, *, deleted: bool) -> None:
        """A labelled pod."""
        key, uid = self._of(obj), obj["metadata"]["uid"]
        known = self.pods.setdefault(key, {})
        if deleted:
            known.pop(uid, None)
        else:
            known[uid] = obj
        if not known:
            del self.pods[key]
        self._changed(key)

    def owner(self, deployment: str) -> str:
        """The tenant a deployment belongs to."""
        namespace = deployment.partition("/")[0]
        return owner(namespace, self.namespaces.get(namespace, {}))

    def pods_of(self, deployment: str) -> Iterator[Object]:
        """Its pods, ended ones left out."""
        for pod in self.pods.get(deployment, {}).values():
            if pod.get("status", {}).get("phase") not in {"Succeeded", "Failed"}:
                yield pod

    def child_of(self, deployment: str, kind: str) -> Object | None:
        """Its child of a kind of which it has one."""
        found = self.children.get(deployment, {})
        return next((obj for where, obj in found.items() if where.kind == kind), None)

    def _of(self, obj: Object) -> str:
        metadata = obj["metadata"]
        label = (metadata.get("labels") or {}).get(LABEL_MODEL, "")
        place = (metadata["namespace"], label)
        # A child seen before its resource: its label is the name, unless that was cut.
        return self._labels.get(place, f"{place[0]}/{label}")
