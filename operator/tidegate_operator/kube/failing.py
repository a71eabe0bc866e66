"""What the starts of one deployment came to, and what is tried again when. Nothing here waits.

A failure that is final answers everybody who waits, once: whoever comes later waits for a start of
their own. Where Kubernetes itself lets time pass before its next try (the kubelet's back-off of a
crashing container or a failing pull grows to five minutes, a ReplicaSet's of a refused pod to a
quarter of an hour), that start is made for them: the pod is replaced, or its controller nudged, at
most once per back-off of ours (1, 2, 4 ... 60 s); within it they are told what is known. So a
cause that has gone is found by the first request after it, and never by nobody's.

Trouble of pods of an older version is no news: their successors are on the way.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tidegate_operator.demand import Total
from tidegate_operator.kube.nodes import Lost
from tidegate_operator.outcome import Trouble, overdue, trouble
from tidegate_operator.status import backoff
from tidegate_runtime.contract.cluster import CONFIG_HASH, answered, condition, epoch, lost, seconds
from tidegate_runtime.contract.links import Failure

Object = Mapping[str, Any]

NUDGED_SECONDS = 3.0
"""How long a controller that was nudged is given before its old word counts again."""
HUNG = "EngineHung"
_CRASHES = frozenset({"EngineExited", "CrashLoopBackOff"})


class Seen(NamedTuple):
    """What there is of a deployment: its staying pods, how many serve, what is decided and asked
    for, the start from zero that is running and when it was asked for. `rolling`: a version is on
    its way to replace another. `waits`: `blocked` is our own wait for room."""

    pods: Sequence[Object]
    ready: int
    desired: int
    total: Total
    start_id: str
    begun: float
    blocked: Trouble | None
    version: str
    rolling: bool = False
    waits: bool = False

    @property
    def whole(self) -> bool:
        """All there shall be is there and serves, and nothing of an older version."""
        return not self.rolling and self.ready == len(self.pods) >= self.desired


class Refusal(NamedTuple):
    """Why a pod that runs will not serve, and until when it is kept."""

    reason: str
    message: str
    until: float


class Failing:
    """The memory of it. `grace_seconds`: how long passing trouble may last. `timeout_seconds`: how
    long a container may run before something answers. `failure`: as the routers are told."""

    def __init__(self) -> None:
        self.grace_seconds, self.timeout_seconds = 120.0, 1800.0
        self.failure: Failure | None = None
        self.refused: dict[str, Refusal] = {}
        self.lost = Lost()
        self.nudge = False
        self._replacing: set[str] = set()
        self._retries = 0
        self._retry_at = self._nudged_until = 0.0
        self._version, self._since = "", 0.0
        self._spent = ""
        self._waited = False

    def anew(self) -> "Failing":
        """One that has seen nothing yet, by the same rules."""
        made = Failing()
        made.grace_seconds, made.timeout_seconds = self.grace_seconds, self.timeout_seconds
        return made

    def begin(self) -> None:
        """A start from zero: it has failed in nothing yet."""
        self.failure, self._since = None, 0.0

    def forget(self, there: Mapping[str, Object]) -> None:
        """These pods, by uid, are all there are."""
        for past in [key for key in self.refused if key.rpartition(".")[0] not in there]:
            del self.refused[past]
        self._replacing &= there.keys()

    def refuse(self, key: str, reason: str, message: str, now: float) -> None:
        """An engine's life (its epoch) that will not serve: replaced, later each time."""
        if key not in self.refused:
            self._retries += 1
            self.refused[key] = Refusal(reason, message, now + backoff(self._retries))

    def hangs(self, key: str) -> bool:
        """Whether an engine's life has served and hangs now."""
        return key in self.refused and self.refused[key].reason == HUNG

    def discard(self, pods: Iterable[Object], desired: int, now: float) -> list[str]:
        """The pods to delete now, by uid; their controller makes others."""
        there = {pod["metadata"]["uid"]: pod for pod in pods}
        due = [uid for uid in there if uid in self._replacing]
        for uid, pod in there.items():
            refusal = self.refused.get(epoch(pod))
            over = refusal is not None and now >= refusal.until
            over = over and (not answered(pod) or self.hangs(epoch(pod)))
            if over and uid not in self._replacing:
                due.append(uid)
        return due + [uid for uid in self.lost.due(there, desired, now) if uid not in due]

    def judge(self, seen: Seen, now: float) -> None:
        """Whether the start that is running has failed."""
        self.nudge = False
        if seen.version != self._version:
            self._version, self._since, self.failure = seen.version, 0.0, None
        found = self._trouble(seen, now) if seen.desired else None
        if seen.whole:  # the old version's replicas, in a rollout that stalls, prove nothing
            self._retries = 0
        if seen.ready:
            self._since = 0.0
            self.failure = self._lagging(seen, found, now)
        elif found is not None:
            self._waited = seen.waits and found is seen.blocked
            self._failed(seen, found, now)
        elif self._waited:  # room has come, or nobody asks for it any more
            self.failure, self._waited, self._since = None, False, 0.0

    def _failed(self, seen: Seen, found: Trouble, now: float) -> None:
        if not self._since:
            self._since = max(min(found.since or now, now), seen.begun)
        final = not found.passing or now - self._since >= self.grace_seconds
        known, waiting = self.failure, bool(seen.total.held)
        late = waiting and (known is None or not known.final or seen.total.held_since > known.at)
        if found.backing_off and late and self._tries_again(seen, found, final, now):
            return
        same = known is not None and (known.reason, known.final) == (found.reason, final)
        if same and (not final or not late):
            return
        if known is not None and not known.final:
            start = known.start_id
        else:
            start = seen.start_id if seen.start_id > self._spent else new_start_id()
        if final:
            self._spent = start
            if not same:
                self._retry_at = max(self._retry_at, now + backoff(self._retries + 1))
        self.failure = Failure(
            start_id=start, reason=found.reason, message=found.message, at=now, final=final
        )

    def _tries_again(self, seen: Seen, found: Trouble, final: bool, now: float) -> bool:
        """Whether whoever waits now waits for another try, which begins here where it is due."""
        if final and (self.failure is None or not self.failure.final):
            return False  # the first to know are told; the next try is for who comes after them
        if now < self._nudged_until:
            return final
        blocked = found is seen.blocked
        if now < self._retry_at or not (final or blocked):
            return False  # within the grace the kubelet's own pace will do
        self._retries += 1
        self._retry_at = now + backoff(self._retries + 1)
        if blocked:
            self.nudge, self._nudged_until = True, now + NUDGED_SECONDS
            self._retry_at += NUDGED_SECONDS
            return final
        self._replacing |= {
            pod["metadata"]["uid"] for pod in self._current(seen) if _backs_off(pod)
        }
        self.failure = None
        return True

    def _lagging(self, seen: Seen, found: Trouble | None, now: float) -> Failure | None:
        """What keeps a further replica from starting while others serve: told, and final to nobody.

        It is told until all have answered: the next pod of a version that cannot start is no cure."""
        known = self.failure
        if found is None:
            return None if known is None or known.final or seen.whole else known
        if known is not None and (known.reason, known.final) == (found.reason, False):
            return known
        start = seen.start_id or new_start_id()
        return Failure(
            start_id=start, reason=found.reason, message=found.message, at=now, final=False
        )

    def _current(self, seen: Seen) -> list[Object]:
        """The pods that count: of the version that is asked for, and not on their way out."""
        return [
            pod
            for pod in seen.pods
            if pod["metadata"]["uid"] not in self._replacing
            and (not seen.version or _version(pod) == seen.version)
        ]

    def _trouble(self, seen: Seen, now: float) -> Trouble | None:
        pods = self._current(seen)
        for pod in pods:
            if answered(pod) and not lost(pod) and not self.hangs(epoch(pod)):
                continue
            found = self._of(pod, seen, now)
            if found is not None:
                return found
        return seen.blocked if len(pods) < seen.desired else None

    def _of(self, pod: Object, seen: Seen, now: float) -> Trouble | None:
        refusal = self.refused.get(epoch(pod))
        if refusal is not None:
            return Trouble(refusal.reason, refusal.message, passing=False)
        found = trouble(pod)
        if found is not None:
            return self._with_its_past(pod, self.lost.explained(found))
        # Only routers see an answer: with none that speaks, none is no sign of anything.
        if seen.total.held is None or answered(pod):
            return None
        late = overdue(pod, self.timeout_seconds, now)
        if late is not None:
            self.refuse(epoch(pod), late.reason, late.message, now)
        return late

    def _with_its_past(self, pod: Object, found: Trouble) -> Trouble:
        """An engine that exits on its readiness request was healthy: that is what to look for."""
        uid, _, restarts = epoch(pod).rpartition(".")
        before = self.refused.get(f"{uid}.{int(restarts) - 1}")
        if before is None or before.reason != "AnswerFailed" or found.reason not in _CRASHES:
            return found
        words = f"{before.message}; then {found.message}"
        return found._replace(reason=before.reason, message=words, passing=False)


def not_created(deployment: Object) -> Trouble | None:
    """Why a Deployment's pods cannot even be made."""
    failing = condition(deployment, "ReplicaFailure")
    if failing is None or failing.get("status") != "True":
        return None
    message = failing.get("message") or "its pods cannot be created"
    reason = "QuotaExceeded" if "exceeded quota" in message else "PodsRefused"
    since = seconds(failing.get("lastTransitionTime"))
    return Trouble(reason, message, True, since, backing_off=True)


def version(deployment: Object) -> str:
    """The version of the pods that a Deployment asks for; empty where it does not say."""
    template = (deployment.get("spec") or {}).get("template") or {}
    annotations = (template.get("metadata") or {}).get("annotations") or {}
    return str(annotations.get(CONFIG_HASH, ""))


def new_start_id() -> str:
    """Later ones are greater."""
    return f"{time.time_ns():016x}"


def _version(pod: Object) -> str:
    return str((pod["metadata"].get("annotations") or {}).get(CONFIG_HASH, ""))


def _backs_off(pod: Object) -> bool:
    found = trouble(pod)
    return found is not None and found.backing_off
