"""What the operator follows besides the resources: its children and pods, by label, and routers.

kopf follows the ModelDeployments and the namespaces, of which there are few and all matter. It
would follow every pod, Secret and ConfigMap of the cluster for the few that are ours, since its
watches know no label selector; these come from the router's own watch, which does.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tidegate_operator.kube.api import COLLECTIONS
from tidegate_operator.kube.capacity import Followed
from tidegate_operator.kube.children import KINDS
from tidegate_runtime.contract.cluster import LABEL_MODEL
from tidegate_runtime.kube.api import Api
from tidegate_runtime.kube.watch import Sink, Source, Watch

Object = Mapping[str, Any]
Told = Callable[[Object, bool], None]


class Known:
    """A sink that remembers, so that a whole list also tells what is gone."""

    def __init__(self, tell: Told) -> None:
        self._tell = tell
        self._objects: dict[tuple[str, str], Object] = {}
        self.complete = asyncio.Event()

    def sink(self) -> Sink:
        """It, as a watch wants it."""
        return Sink(self.replaced, self.put, self.gone, self.settled)

    def replaced(self, objects: list[Object]) -> None:
        """These are all there are."""
        there = {_key(one): one for one in objects}
        for key in [key for key in self._objects if key not in there]:
            self._tell(self._objects.pop(key), True)
        for found in objects:
            self.put(found)

    def put(self, found: Object) -> None:
        """This is new, or has changed."""
        slim(found)
        known = self._objects.get(_key(found))
        if known is not None and _stamp(known) == _stamp(found):
            return
        if known is not None and _identity(known) != _identity(found):
            self._tell(known, True)  # another one of its name, or of another model now
        self._objects[_key(found)] = found
        self._tell(found, False)

    def gone(self, found: Object) -> None:
        """This is gone."""
        known = self._objects.pop(_key(found), None)
        if known is not None:
            self._tell(known, True)

    def settled(self) -> None:
        """All that came in one piece has been told."""
        self.complete.set()


def slim(obj: Object) -> None:
    """Forget who wrote which field of an object, much of what it weighs in memory. It is
    read of Deployments alone (`owns_replicas`), whose count is what others may write."""
    metadata = obj["metadata"]
    fields = metadata.get("managedFields")
    if not fields:
        return
    if any("f:replicas" in ((one.get("fieldsV1") or {}).get("f:spec") or {}) for one in fields):
        return
    metadata.pop("managedFields")


def _key(obj: Object) -> tuple[str, str]:
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def _stamp(obj: Object) -> tuple[str, str]:
    # One version of an object is the same object: no need to compare what it says.
    metadata = obj["metadata"]
    return metadata.get("uid", ""), metadata.get("resourceVersion", "")


def _identity(obj: Object) -> tuple[str, str]:
    metadata = obj["metadata"]
    return metadata.get("uid", ""), (metadata.get("labels") or {}).get(LABEL_MODEL, "")


class Watching:
    """The watches, as coroutines to run for ever, and whether all have told what there is."""

    def __init__(
        self,
        kubeconfig: str,
        child: Callable[[str, Object, bool], None],
        pod: Told,
        slices: Told,
        *,
        namespace: str,
        service: str,
        more: Iterable[Followed] = (),
    ) -> None:
        self._sinks: list[Known] = []
        self.watches: list[Watch] = []

        def follow(
            path: str, selector: str, tell: Told, shape: Any = dict[str, Any], fields: str = ""
        ) -> None:
            sink = Known(tell)
            self._sinks.append(sink)
            source = Source(path, shape, selector, fields)
            self.watches.append(Watch(Api(kubeconfig), source, sink.sink()))

        for kind in KINDS:
            root, plural = COLLECTIONS[kind]
            follow(f"{root}/{plural}", LABEL_MODEL, _of(kind, child))
        root, plural = COLLECTIONS["Pod"]
        follow(f"{root}/{plural}", LABEL_MODEL, pod)
        routers = f"kubernetes.io/service-name={service}"
        follow(f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices", routers, slices)
        for one in more:
            follow(one.path, "", one.tell, one.shape, one.fields)

    async def complete(self) -> None:
        """Returns when every first list is in."""
        for sink in self._sinks:
            await sink.complete.wait()


def _of(kind: str, child: Callable[[str, Object, bool], None]) -> Told:
    root = COLLECTIONS[kind][0]
    version = root.removeprefix("/apis/").removeprefix("/api/")

    def tell(obj: Object, deleted: bool) -> None:
        # What comes in a list does not say what it is; what comes by a watch does.
        child(kind, {**obj, "apiVersion": version, "kind": kind}, deleted)

    return tell
