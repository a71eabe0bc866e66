"""When price books and tenants are looked at, by the leader alone, each by itself.

A change, a Secret of ours that was touched, the clock, and a new leader: each only marks a key of the
queue, and one function brings that resource to what it says. No finalizer is put on a resource: it
could not be deleted while we are away, or after we were uninstalled. What was deleted meanwhile is
found by comparison: billing knows what resources hold, and what it names has to have one.

That a resource is gone is believed of the API server alone, asked for that one name: neither a watch
that broke nor a definition that is not served ends a tenant.
"""

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Mapping
from typing import Any, Final, NotRequired, Protocol, TypedDict

import structlog

from tidegate_operator.kube.api import Api, ApiError
from tidegate_operator.kube.gitops import secrets
from tidegate_operator.kube.gitops.books import Books
from tidegate_operator.kube.gitops.ledger import Away, Ledger
from tidegate_operator.kube.gitops.tenants import SECRETS, Tenants
from tidegate_operator.kube.gitops.told import Told, patch, status
from tidegate_operator.kube.queue import Again, Queue
from tidegate_operator.kube.watching import Known
from tidegate_runtime.contract.definitions import PRICE_BOOK, TENANT
from tidegate_runtime.kube.api import Api as Streams
from tidegate_runtime.kube.watch import Source, Watch

log = structlog.get_logger()

Object = Mapping[str, Any]

SWEEP_SECONDS: Final = 300.0
AWAY_SECONDS: Final = 10.0
SOON: Final = 1.0
BOOK: Final = "price-book"
_PATHS: Final = {BOOK: PRICE_BOOK.path, "tenant": TENANT.path}


class _Metadata(TypedDict):
    name: str
    namespace: str
    uid: NotRequired[str]
    resourceVersion: NotRequired[str]
    labels: NotRequired[dict[str, str]]


class _Secret(TypedDict):
    """All that is kept in memory of a Secret: not what it holds."""

    metadata: _Metadata


class Part(Protocol):
    """One kind of resource. Both raise Away and ApiError."""

    async def settle(self, obj: Object) -> Told:
        """Bring the world to what a resource says."""

    async def end(self, name: str) -> None:
        """A resource is gone."""


class GitOps:
    """Price books and tenants."""

    def __init__(self, api: Api, ledger: Ledger, kubeconfig: str) -> None:
        self._api, self._ledger = api, ledger
        self._parts: dict[str, Part] = {BOOK: Books(ledger), "tenant": Tenants(api, ledger)}
        self.queue = Queue(self._reconcile)
        self._objects: dict[str, Object] = {}
        self._secrets: dict[tuple[str, str], str] = {}
        self._leading = asyncio.Event()
        self._listed: dict[str, asyncio.Event] = {}
        self._watches = [
            self._follow(kubeconfig, kind, Source(path, dict[str, Any]))
            for kind, path in _PATHS.items()
        ]
        self._watches.append(
            self._follow(kubeconfig, "secret", Source(SECRETS, _Secret, secrets.LABEL))
        )

    def _follow(self, kubeconfig: str, kind: str, source: Source) -> Watch:
        def tell(obj: Object, deleted: bool) -> None:
            if kind == "secret":
                self._touched(obj, deleted=deleted)
            else:
                self._changed(f"{kind}/{obj['metadata']['name']}", obj, deleted=deleted)

        known = Known(tell)
        self._listed[kind] = known.complete
        return Watch(Streams(kubeconfig), source, known.sink())

    def jobs(self) -> list[Coroutine[Any, Any, None]]:
        """What runs for ever."""
        return [*(watch.run() for watch in self._watches), self.queue.run(), self._sweeps()]

    def lead(self, leading: bool) -> None:
        """Begin or stop to act."""
        if leading:
            self._leading.set()
        else:
            self._leading.clear()

    # What comes in

    def _changed(self, key: str, obj: Object, *, deleted: bool) -> None:
        before = self._objects.pop(key, None)
        if not deleted:
            self._objects[key] = obj
        # What we say in the status is not worth another look.
        if deleted or before is None or _worth(before) != _worth(obj):
            self._add(key)

    def _touched(self, secret: Object, *, deleted: bool) -> None:
        where = secrets.at(secret)
        tenant = (secret["metadata"].get("labels") or {}).get(secrets.LABEL)
        before = self._secrets.pop(where, None)
        if tenant is not None and not deleted:
            self._secrets[where] = tenant
        for one in {tenant, before} - {None}:
            self._add(f"tenant/{one}")

    def _add(self, key: str) -> None:
        if self._leading.is_set():
            self.queue.add(key)

    async def _sweeps(self) -> None:
        """Look at everything when the lead begins, and now and then."""
        while True:
            await self._leading.wait()
            pause = SWEEP_SECONDS
            held: set[str] = set()
            try:
                held = {f"{one.kind}/{one.name}" for one in await self._ledger.managed()}
            except Away as error:
                log.warning("managed_unread", error=str(error))
                pause = AWAY_SECONDS
            marked = {f"tenant/{name}" for name in self._secrets.values()}
            for key in held | marked | self._objects.keys():
                self._add(key)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._lost(), pause)

    async def _lost(self) -> None:
        """Returns when the lead is lost."""
        while self._leading.is_set():
            await asyncio.sleep(SOON)

    # Reconciliation

    async def _reconcile(self, key: str) -> None:
        kind, _, name = key.partition("/")
        if not self._leading.is_set():
            return
        if not self._listed[kind].is_set():
            self.queue.later(key, SOON)  # its definition may not be there yet
            return
        obj = self._objects.get(key)
        if obj is not None and "deletionTimestamp" not in obj["metadata"]:
            await self._settle(kind, obj)
        elif await self._gone(kind, name):
            await self._end(kind, name)

    async def _settle(self, kind: str, obj: Object) -> None:
        try:
            told = await self._parts[kind].settle(obj)
        except Away as error:
            told = Told(None, "BillingAway", str(error), again=str(error))
        await self._report(kind, obj, told)
        if told.again:
            raise Again(told.again)

    async def _report(self, kind: str, obj: Object, told: Told) -> None:
        before, after = obj.get("status") or {}, status(obj, told, time.time())
        if after == before:
            return
        path = f"{_PATHS[kind]}/{obj['metadata']['name']}/status"
        try:
            await self._api.patch(path, patch(before, after))
        except ApiError as error:
            if error.status != 404:  # it went meanwhile
                raise

    async def _end(self, kind: str, name: str) -> None:
        try:
            await self._parts[kind].end(name)
        except Away as error:
            raise Again(str(error)) from error
        log.info("resource_ended", kind=kind, name=name)

    async def _gone(self, kind: str, name: str) -> bool:
        """Whether the API server has no such resource, or only its end.

        A list of one name: where the kind itself is not served, that is an error and no empty list."""
        only = (("fieldSelector", f"metadata.name={name}"),)
        found = (await self._api.call("GET", _PATHS[kind], query=only))["items"]
        return all("deletionTimestamp" in one["metadata"] for one in found)


def _worth(obj: Object) -> tuple[object, ...]:
    metadata = obj["metadata"]
    return metadata.get("uid"), metadata.get("generation"), metadata.get("deletionTimestamp")
