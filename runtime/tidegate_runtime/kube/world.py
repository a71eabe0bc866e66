"""What a router knows of a cluster: four kinds of objects in, models and replicas out. Pure.

    namespaces          labels: which tenant owns what is in it
    modeldeployments    the models, and what the operator writes in their status
    pods                with the label `tidegate.dev/model`: the replicas

Objects come in any order: a pod before its resource, a namespace after both. Each marks the
deployment it concerns, and `take` works out anew only what is marked, by the same steps as a whole
picture would, so that no order of events can lead elsewhere. A deployment costs some 50
microseconds and its pods 10 each; a thousand models with a change a minute each cost a thousandth
of a core.

EndpointSlices are not read. Their controller computes them from the same pods' conditions, so they
come later, and tell nothing that the pods do not: when a node is lost, the node's controller sets
each pod's condition `Ready` to False, and the slice follows. `cluster.lost` reads that condition instead.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypedDict

import msgspec

from tidegate_runtime.contract import cluster
from tidegate_runtime.contract.links import ModelView, Replica, WorldLine
from tidegate_runtime.kube.watch import Object, Source

Name = tuple[str, str]
"""Namespace and name."""


class _Owner(TypedDict, total=False):
    kind: str
    name: str
    controller: bool


class _Metadata(TypedDict, total=False):
    name: str
    namespace: str
    uid: str
    labels: dict[str, str]
    annotations: dict[str, str]
    ownerReferences: list[_Owner]
    creationTimestamp: str | None
    deletionTimestamp: str


class _Condition(TypedDict, total=False):
    type: str
    status: str
    message: str
    lastTransitionTime: str | None


class _Container(TypedDict, total=False):
    name: str
    restartCount: int
    state: dict[str, Any]


class _PodStatus(TypedDict, total=False):
    phase: str
    podIP: str
    conditions: list[_Condition]
    containerStatuses: list[_Container]


class _Pod(TypedDict):
    metadata: _Metadata
    status: _PodStatus


class _Namespace(TypedDict):
    metadata: _Metadata


class _Resource(TypedDict, total=False):
    metadata: _Metadata
    spec: Any
    status: Any


MODELS: Final = Source(f"/apis/{cluster.GROUP}/{cluster.VERSION}/{cluster.PLURAL}", _Resource)
NAMESPACES: Final = Source("/api/v1/namespaces", _Namespace)
PODS: Final = Source("/api/v1/pods", _Pod, cluster.LABEL_MODEL)


class Change(NamedTuple):
    """What is new since the last one: views by deployment (None: it is gone), and all replicas of
    each deployment that has other ones now. Empty where nothing a router uses has changed."""

    views: dict[str, ModelView | None]
    replicas: dict[str, list[Replica]]


class Picture:
    """The cluster as a router knows it. `guard_key`: the platform's, see `cluster.guard`."""

    def __init__(self, guard_key: bytes) -> None:
        self._guard_key = guard_key
        self._namespaces: dict[str, Mapping[str, str]] = {}
        self._resources: dict[Name, Object] = {}
        self._pods: dict[Name, Object] = {}
        self._labelled: dict[Name, set[str]] = {}  # pods' names by namespace and label
        self._claims: dict[Name, set[str]] = {}  # resources' names by namespace and label
        self._models: dict[str, ModelView] = {}
        self._replicas: dict[str, list[Replica]] = {}
        self._marked: set[Name] = set()
        self.problems: list[str] = []
        """Objects that cannot be understood, for the log; whoever writes it empties this."""

    # Events

    def put_namespace(self, found: Object) -> None:
        """A namespace is there, and like this."""
        name, labels = found["metadata"]["name"], found["metadata"].get("labels", {})
        known = self._namespaces.get(name)
        self._namespaces[name] = labels
        if known is None or cluster.owner(name, labels) != cluster.owner(name, known):
            self._mark_namespace(name)

    def drop_namespace(self, found: Object) -> None:
        """A namespace is gone."""
        if self._namespaces.pop(found["metadata"]["name"], None) is not None:
            self._mark_namespace(found["metadata"]["name"])

    def put_model(self, found: Object) -> None:
        """A resource is there, and like this."""
        one = _name(found)
        if self._resources.get(one) == found:
            return  # in what we keep of it
        self._resources[one] = found
        self._claims.setdefault((one[0], cluster.label_value(one[1])), set()).add(one[1])
        self._marked.add(one)

    def drop_model(self, found: Object) -> None:
        """A resource is gone."""
        one = _name(found)
        if self._resources.pop(one, None) is not None:
            _discard(self._claims, (one[0], cluster.label_value(one[1])), one[1])
            self._marked.add(one)

    def put_pod(self, found: Object) -> None:
        """A pod is there, and like this."""
        one = _name(found)
        known = self._pods.get(one)
        if known == found:
            return
        if known is not None and _label(known) != _label(found):
            self.drop_pod(known)
        self._pods[one] = found
        self._labelled.setdefault(_label(found), set()).add(one[1])
        self._mark(_label(found))

    def drop_pod(self, found: Object) -> None:
        """A pod is gone, or has lost its label."""
        one = _name(found)
        known = self._pods.pop(one, None)
        if known is not None:
            _discard(self._labelled, _label(known), one[1])
            self._mark(_label(known))

    def _mark(self, label: Name) -> None:
        self._marked |= {(label[0], name) for name in self._claims.get(label, ())}

    def _mark_namespace(self, name: str) -> None:
        self._marked |= {one for one in self._resources if one[0] == name}

    # Whole lists

    def replace_namespaces(self, found: list[Object]) -> None:
        """These namespaces are all there are."""
        for name in self._namespaces.keys() - {one["metadata"]["name"] for one in found}:
            self.drop_namespace({"metadata": {"name": name}})
        for one in found:
            self.put_namespace(one)

    def replace_models(self, found: list[Object]) -> None:
        """These resources are all there are."""
        for gone in self._resources.keys() - {_name(one) for one in found}:
            self.drop_model(_named(gone))
        for one in found:
            self.put_model(one)

    def replace_pods(self, found: list[Object]) -> None:
        """These pods are all there are."""
        for gone in self._pods.keys() - {_name(one) for one in found}:
            self.drop_pod(_named(gone))
        for one in found:
            self.put_pod(one)

    # What follows from them

    def take(self) -> Change:
        """Work out what is marked, and tell what is new since the last call."""
        change = Change({}, {})
        for one in self._marked:
            deployment, resource = "/".join(one), self._resources.get(one)
            if resource is None:
                self._replicas.pop(deployment, None)
                if self._models.pop(deployment, None) is not None:
                    change.views[deployment] = None
                continue
            view = self._view(one, resource)
            if view != self._models.get(deployment):
                change.views[deployment] = self._models[deployment] = view
            replicas = self._replicas_of(one, resource)
            if replicas != self._replicas.get(deployment, []):
                change.replicas[deployment] = self._replicas[deployment] = replicas
        self._marked.clear()
        return change

    def world(self, version: int) -> WorldLine:
        """All of it, as the last `take` left it."""
        return WorldLine(
            type="world",
            version=version,
            models=list(self._models.values()),
            replicas=[one for told in self._replicas.values() for one in told],
        )

    def _view(self, one: Name, resource: Object) -> ModelView:
        try:
            view = cluster.model(resource, self._namespaces)
        except _MALFORMED as exc:
            self.problems.append(f"resource {'/'.join(one)}: {type(exc).__name__}: {exc}")
            return ModelView(deployment="/".join(one), owner="", name=one[1], valid=False)
        if one[0] in self._namespaces:
            return view
        # Its namespace comes with the next event, and with it whose it is; till then it is nobody's.
        return msgspec.structs.replace(view, owner="", valid=False)

    def _replicas_of(self, one: Name, resource: Object) -> list[Replica]:
        uid = resource["metadata"].get("uid", "")
        secret = cluster.guard(self._guard_key, uid)
        label = (one[0], cluster.label_value(one[1]))
        found = []
        for name in sorted(self._labelled.get(label, ())):
            try:
                told = _replica(self._pods[one[0], name], "/".join(one), uid, secret)
            except _MALFORMED as exc:
                self.problems.append(f"pod {one[0]}/{name}: {type(exc).__name__}: {exc}")
                continue
            if told is not None:
                found.append(told)
        return found


_MALFORMED: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What an object of another form than ours can do to code that reads it."""


def _replica(pod: Object, deployment: str, uid: str, secret: str) -> Replica | None:
    told = cluster.replica(pod, deployment, secret)
    if told is None:
        return None
    made_for = cluster.made_for(pod, deployment.partition("/")[2])
    if not made_for:
        return None
    # Made for an earlier one of the same name, it has that one's guard, and gets nothing new.
    if made_for != uid:
        told = msgspec.structs.replace(told, state="draining")
    return msgspec.structs.replace(told, lost=True) if cluster.lost(pod) else told


def _name(found: Object) -> Name:
    return found["metadata"]["namespace"], found["metadata"]["name"]


def _named(one: Name) -> Object:
    return {"metadata": {"namespace": one[0], "name": one[1]}}


def _label(pod: Object) -> Name:
    metadata = pod["metadata"]
    return metadata["namespace"], metadata.get("labels", {}).get(cluster.LABEL_MODEL, "")


def _discard(index: dict[Name, set[str]], at: Name, name: str) -> None:
    names = index[at]
    names.discard(name)
    if not names:
        del index[at]
