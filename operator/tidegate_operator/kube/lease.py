"""Which operator acts: a Lease of ours, with the election as a pure function.

The leader renews every second and stops acting by itself when it could not for `DURATION` seconds,
so that two never act at once as long as clocks tick alike: other machines' clocks are not compared,
each follower times the last change that it saw. The next leader takes over at most
`DURATION` + one look after a kill -9; a leader that leaves in order gives the lease back.
"""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple

import structlog

from tidegate_operator.kube.api import Api, ApiError, Object, collection

log = structlog.get_logger()

DURATION: Final = 3.0
LOOK: Final = 0.5
RENEW: Final = 1.0
GIVE_BACK_TRIES: Final = 3


class Seen(NamedTuple):
    """The lease as it was last seen to change: its resourceVersion, and when (monotonic)."""

    version: str
    at: float


class Verdict(NamedTuple):
    """What to do about the lease now."""

    action: Literal["follow", "renew", "take"]
    seen: Seen


def judge(lease: Object, me: str, seen: Seen | None, now: float) -> Verdict:
    """Follow the holder, renew what is mine, or take what nobody has renewed for `DURATION`."""
    version = lease["metadata"].get("resourceVersion", "")
    holder = lease.get("spec", {}).get("holderIdentity") or ""
    if seen is None or seen.version != version:
        seen = Seen(version, now)
    if holder == me:
        return Verdict("renew", seen)
    if not holder or now - seen.at >= DURATION:
        return Verdict("take", seen)
    return Verdict("follow", seen)


def written(lease: Object, me: str, stamp: str, *, taken: bool) -> dict[str, Any]:
    """The lease with `me` as its holder. `stamp` is RFC 3339 with microseconds."""
    spec = dict(lease.get("spec", {}))
    spec.update(holderIdentity=me, renewTime=stamp, leaseDurationSeconds=int(DURATION))
    if taken:
        spec["acquireTime"] = stamp
        spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + 1
    return {**lease, "spec": spec}


class Election:
    """Takes part in the election until cancelled. `leading` is true while this one acts."""

    def __init__(self, api: Api, namespace: str, me: str, changed: Callable[[bool], None]) -> None:
        self._api, self._me, self._changed = api, me, changed
        self._collection = collection("Lease", namespace)
        self._path = f"{self._collection}/tidegate-operator"
        self._namespace = namespace
        self._seen: Seen | None = None
        self._renewed = 0.0
        self._said = ""
        self.leading = False

    async def run(self) -> None:
        """Looks, takes, renews."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._step(loop.time())
                if self.leading and loop.time() - self._renewed >= DURATION:
                    self._lead(leading=False)
                await asyncio.sleep(RENEW if self.leading else LOOK)
        finally:
            with contextlib.suppress(ApiError):
                await self._give_back()

    async def _step(self, now: float) -> None:
        try:
            async with asyncio.timeout(DURATION - RENEW):
                lease = await self._found()
                action, self._seen = judge(lease, self._me, self._seen, now)
                if action == "follow":
                    self._lead(leading=False)
                    return
                stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                mine = written(lease, self._me, stamp, taken=action == "take")
                await self._api.replace(self._path, mine)
        except TimeoutError:
            self._failed("no answer in time")
            return
        except ApiError as error:
            if error.status != 409:  # somebody else was quicker
                self._failed(error.message)
            return
        self._said = ""
        self._renewed = now
        self._lead(leading=True)

    def _failed(self, why: str) -> None:
        """Say it once for each reason, and not twice a second while the server is away."""
        if why != self._said:
            self._said = why
            log.warning("lease_not_renewed", error=why)

    async def _found(self) -> dict[str, Any]:
        try:
            return await self._api.get(self._path)
        except ApiError as error:
            if error.status != 404:
                raise
        fresh = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "tidegate-operator", "namespace": self._namespace},
            "spec": {},
        }
        return await self._api.create(self._collection, fresh)

    def _lead(self, *, leading: bool) -> None:
        if leading != self.leading:
            self.leading = leading
            log.info("leading" if leading else "following", name=self._me)
            self._changed(leading)

    async def _give_back(self) -> None:
        if not self.leading:
            return
        self._lead(leading=False)
        for _ in range(GIVE_BACK_TRIES):
            lease = await self._api.get(self._path)
            if lease.get("spec", {}).get("holderIdentity") != self._me:
                return
            lease["spec"]["holderIdentity"] = ""
            try:
                await self._api.replace(self._path, lease)
            except ApiError as error:
                if error.status != 409:  # our own last renewal, which nobody waited for any more
                    raise
            else:
                return
