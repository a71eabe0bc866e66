"""One deployment over time: what is decided about its replicas, and what its starts came to.

Decisions are pure functions elsewhere (`decide`, `choose`, `may_stop`, `trouble`); this holds what
they remember and turns what they say into steps for the shell: how many replicas to write, which
pods to mark, which to let go. Nothing here waits or calls anybody.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tidegate_operator.autoscale import Override, Policy, Sample, State, decide
from tidegate_operator.demand import Picture, Total
from tidegate_operator.drain import busy, choose, may_stop
from tidegate_operator.outcome import Trouble, trouble
from tidegate_operator.status import backoff
from tidegate_runtime.contract.cluster import (
    DRAINING,
    answered,
    condition,
    engine_status,
    epoch,
    seconds,
)
from tidegate_runtime.contract.links import Failure, ReplicaDemand

Object = Mapping[str, Any]

WAKE_SECONDS = 0.2
"""A start is young for so long after its scale write."""
RELEASE_SECONDS = 15.0
"""How long Kubernetes may take to delete a pod that was let go before it is taken back."""


class Steps(NamedTuple):
    """What the shell shall do now; asked for again until the world shows that it was done.

    `replicas`: to write now. `release`: pods seen out, to be counted and given the lowest deletion
    cost before the replicas that `let_go` says are written."""

    replicas: int | None = None
    release: tuple[str, ...] = ()


class Refusal(NamedTuple):
    """An engine's answer to its readiness request, and until when its pod is kept."""

    error: str
    until: float


class Marks(NamedTuple):
    """Pods whose draining mark has to be set or taken away."""

    set: tuple[str, ...]
    clear: tuple[str, ...]


class ColdStart(NamedTuple):
    """A start from zero, step by step, in seconds since the epoch (0: not yet)."""

    id: str = ""
    held_at: float = 0.0
    scaled_at: float = 0.0
    created_at: float = 0.0
    scheduled_at: float = 0.0
    running_at: float = 0.0
    addressed_at: float = 0.0
    answered_at: float = 0.0
    forwarded_at: float = 0.0


class Model:
    """The memory of one deployment. `replicas` is what its Deployment asks for, None without one.

    `off`: it shall have no replica; None while its resource has not been judged yet, and until then
    nothing is decided. One that is met while it runs (after a restart, a change of leader) is
    adopted by the first decision: its count is the last one's, what drains goes on draining."""

    def __init__(self, deployment: str) -> None:
        self.deployment = deployment
        self.policy = Policy()
        self.grace_seconds, self.drain_seconds = 120.0, 600.0
        self.off: bool | None = None
        self.override: Override | None = None
        self.replicas: int | None = None
        self.scaling: State | None = None
        self.total = Total(None, None)
        self.desired, self.reason = 0, ""
        self.pods: dict[str, Object] = {}
        self.draining: dict[str, float] = {}
        self.released: dict[str, float] = {}
        self.blocked: Trouble | None = None
        self.child_refused = ""
        self.failure: Failure | None = None
        self.cold = ColdStart()
        self.last_cold: ColdStart | None = None
        self.last_request = 0.0
        self.refused: dict[str, Refusal] = {}
        self._refusals = 0
        self._version = 0
        self._count = 0
        self._answered: dict[str, str] = {}  # pods by epoch, worked out once a change

    def observe(self, deployment: Object | None, pods: Iterable[Object]) -> None:
        """Take in what the API server says of the Deployment (None: there is none) and its pods."""
        if deployment is None:
            self.replicas, self._version = None, 0
        elif int(deployment["metadata"].get("resourceVersion") or 0) >= self._version:
            self.replicas = int(deployment["spec"].get("replicas", 1))
        self.blocked = None if deployment is None else not_created(deployment)
        self.pods = {pod["metadata"]["uid"]: pod for pod in pods}
        self._answered = {epoch(pod): uid for uid, pod in self.pods.items() if answered(pod)}
        for known in (self.draining, self.released):
            for gone in [uid for uid in known if uid not in self.pods]:
                del known[gone]
        for past in [key for key in self.refused if key.rpartition(".")[0] not in self.pods]:
            del self.refused[past]
        self._steps_of_the_start()

    def staying(self) -> list[str]:
        """Pods that serve or will."""
        leaving = self.draining.keys() | self.released.keys()
        return [
            uid
            for uid, pod in self.pods.items()
            if uid not in leaving and "deletionTimestamp" not in pod["metadata"]
        ]

    def marks(self) -> Marks:
        """What differs between the pods' marks and what is decided."""
        leaving = self.draining.keys() | self.released.keys()
        marked = {uid for uid, pod in self.pods.items() if _mark(pod)}
        alive = {u for u, p in self.pods.items() if "deletionTimestamp" not in p["metadata"]}
        return Marks(tuple(leaving - marked), tuple((marked - leaving) & alive))

    def ready(self) -> list[str]:
        """Pods whose engine has answered and that are not leaving."""
        serving = set(self._answered.values())
        return [uid for uid in self.staying() if uid in serving]

    def evaluate(self, picture: Picture, now: float) -> Steps:
        """Decide on the newest demand."""
        if self.replicas is None or self.off is None:
            return Steps()
        self.total = picture.total(self.deployment, now)
        self.last_request = max(self.last_request, self.total.last_request)
        if self.scaling is None:
            self.scaling = self._adopted(self.replicas, now)
        sample = Sample(now, self.total.in_flight, self.total.held, self.total.last_request)
        decision = decide(self.scaling, [sample], self.policy, now, self.override, suspend=self.off)
        self.scaling, self.reason = decision.state, decision.reason
        before, self.desired = self.desired, decision.replicas
        self._begin_start(before, now)
        self._judge(now)
        return self._steps(picture, now)

    def _steps(self, picture: Picture, now: float) -> Steps:
        for uid in [u for u, at in self.released.items() if now - at > RELEASE_SECONDS]:
            if "deletionTimestamp" not in self.pods[uid]["metadata"]:
                del self.released[uid]  # Kubernetes took another one: this one serves again
        current = self.replicas or 0
        keeping = current - len(self.draining)
        if self.desired > keeping:
            for uid in list(self.draining)[: self.desired - keeping]:
                del self.draining[uid]
            wanted = self.desired + len(self.draining)
            return Steps(wanted if wanted > current else None)
        if self.desired < keeping:
            mark = self._choose(keeping - self.desired, picture, now)
            self.draining.update(dict.fromkeys(mark, now))
            missing = keeping - self.desired - len(mark)
            if missing > 0 and not self.draining:  # fewer pods than replicas: nothing to see out
                return Steps(current - missing)
        return Steps(release=self._seen_out(picture, now))

    def _choose(self, count: int, picture: Picture, now: float) -> list[str]:
        staying = {epoch(self.pods[uid]): uid for uid in self.staying()}
        loads = [
            one._replace(ready=answered(self.pods[staying[one.id]]))
            for one in busy(staying, picture.lines(now))
        ]
        return [staying[one] for one in choose(loads, count)]

    def _seen_out(self, picture: Picture, now: float) -> tuple[str, ...]:
        lines = picture.lines(now)
        out = []
        for uid, since in self.draining.items():
            pod = self.pods[uid]
            verdict = may_stop(epoch(pod), lines, since, self.drain_seconds, now)
            if verdict.stop or not pod.get("status", {}).get("podIP"):
                out.append(uid)
        return tuple(out)

    def let_go(self, pods: Sequence[str], now: float) -> int:
        """The point of no return for seen-out pods: the replicas to write for them to go."""
        going = [uid for uid in pods if uid in self.draining]
        for uid in going:
            del self.draining[uid]
            self.released[uid] = now
        return max(0, (self.replicas or 0) - len(going))

    def keep(self, pods: Sequence[str], since: Mapping[str, float]) -> None:
        """The write that was to let these go has failed: they drain as before, and may serve."""
        for uid in pods:
            if self.released.pop(uid, None) is not None and uid in self.pods:
                self.draining[uid] = since.get(uid, 0.0)

    def adopt(self) -> None:
        """Take over: another operator may have decided meanwhile."""
        self.scaling = None

    def _adopted(self, replicas: int, now: float) -> State:
        """What the last one had decided: the pods that it marked are on their way out, and were no
        longer among the replicas that it wanted. A pod whose end has begun counts no more."""
        for uid, pod in self.pods.items():
            mark = _mark(pod)
            if mark and uid not in self.released and "deletionTimestamp" not in pod["metadata"]:
                self.draining.setdefault(uid, float(mark) if mark.isdigit() else 0.0)
        self.desired = max(0, replicas - len(self.draining))
        return State.initial(self.desired, now, self.last_request or None)

    # Starts

    def told(self, said: ReplicaDemand) -> str:
        """Take in what a router says of a pod; the pod's uid where it has answered just now."""
        if said.id in self._answered and not self._new(said):
            return ""
        uid = said.id.rpartition(".")[0]
        pod = self.pods.get(uid)
        if pod is None or epoch(pod) != said.id:
            return ""
        if said.first_forward and self.cold.id and not self.cold.forwarded_at:
            self.cold = self.cold._replace(forwarded_at=said.first_forward)
            self.last_cold = self.cold
        if said.answer_error and not said.answered_at:
            self._refuse(said.id, said.answer_error)
        if not said.answered_at or answered(pod):
            return ""
        self.refused.pop(said.id, None)
        if self.cold.id and not self.cold.answered_at:
            self.cold = self.cold._replace(answered_at=said.answered_at)
        return uid

    def _new(self, said: ReplicaDemand) -> bool:
        """Whether there is more in it than that a pod that has answered goes on."""
        refused = bool(said.answer_error) and not said.answered_at
        forwarded = bool(said.first_forward and self.cold.id) and not self.cold.forwarded_at
        return refused or forwarded

    def _refuse(self, key: str, error: str) -> None:
        if key not in self.refused:
            self.refused[key] = Refusal(error, time.time() + backoff(self._refusals))
            self._refusals += 1

    def discard(self, now: float) -> list[str]:
        """Pods whose engine refused its readiness request: each is replaced, later each time."""
        if self.ready():
            self._refusals = 0
        due = []
        for uid in self.staying():
            refusal = self.refused.get(epoch(self.pods[uid]))
            if refusal is not None and now >= refusal.until:
                due.append(uid)
        return due

    def wakes(self, now: float) -> bool:
        """Whether somebody waits for a start that has only begun."""
        began = self.cold.scaled_at or self.cold.held_at
        return bool(self.desired and self.total.held) and now - began < WAKE_SECONDS

    def _begin_start(self, before: int, now: float) -> None:
        if self.desired and not before and not self.ready():
            self.cold = ColdStart(self._start_id(), self.total.held_since or now)
            self.failure = None

    def _start_id(self) -> str:
        self._count += 1
        return f"{time.time_ns():016x}"

    def scaled(self, replicas: int, at: float, version: int) -> None:
        """The scale write was acknowledged. What a watch tells from before it counts no more: on an
        old count a second pod would be seen out for the same step down."""
        if version >= self._version:
            self.replicas, self._version = replicas, version
        if self.cold.id and not self.cold.scaled_at:
            self.cold = self.cold._replace(scaled_at=at)

    def _steps_of_the_start(self) -> None:
        if not self.cold.id or self.cold.answered_at or not self.staying():
            return
        first = min((self.pods[uid] for uid in self.staying()), key=_created)
        self.cold = start_steps(self.cold, first)

    def _judge(self, now: float) -> None:
        """Whether the start that is running has failed."""
        found = self._trouble() if self.desired else None
        if self.ready():
            self.failure = self._lagging(found, now)
            return
        if found is None:
            return
        begun = self.cold.held_at or now
        since = max(found.since or begun, begun)
        final = not found.passing or now - since >= self.grace_seconds
        known = self.failure
        answers_all = known is not None and known.final and self.total.held_since <= known.at
        same = known is not None and (known.reason, known.final) == (found.reason, final)
        if same and (not final or answers_all or not self.total.held):
            return
        start = self._start_id() if known is not None and known.final else self.cold.id
        self.failure = Failure(
            start_id=start or self._start_id(),
            reason=found.reason,
            message=found.message,
            at=now,
            final=final,
        )

    def _lagging(self, found: Trouble | None, now: float) -> Failure | None:
        """What keeps a further replica from starting while others serve: told, and final to nobody."""
        if found is None:
            return None
        known = self.failure
        if known is not None and (known.reason, known.final) == (found.reason, False):
            return known
        start = self.cold.id or self._start_id()
        return Failure(
            start_id=start, reason=found.reason, message=found.message, at=now, final=False
        )

    def _trouble(self) -> Trouble | None:
        for uid in self.staying():
            pod = self.pods[uid]
            if answered(pod):
                continue
            refusal = self.refused.get(epoch(pod))
            if refusal is not None:
                return Trouble("AnswerFailed", refusal.error, passing=False)
            found = trouble(pod)
            if found is not None:
                return found
        return self.blocked if len(self.staying()) < self.desired else None


def not_created(deployment: Object) -> Trouble | None:
    """Why a Deployment's pods cannot even be made."""
    failing = condition(deployment, "ReplicaFailure")
    if failing is None or failing.get("status") != "True":
        return None
    message = failing.get("message") or "its pods cannot be created"
    reason = "QuotaExceeded" if "exceeded quota" in message else "PodsRefused"
    return Trouble(reason, message, True, seconds(failing.get("lastTransitionTime")))


def _mark(pod: Object) -> str:
    return str((pod["metadata"].get("annotations") or {}).get(DRAINING, ""))


def start_steps(cold: ColdStart, pod: Object) -> ColdStart:
    """`cold` with the steps its pod has taken, as far as Kubernetes tells (in whole seconds)."""
    scheduled = condition(pod, "PodScheduled") or {}
    running = (engine_status(pod).get("state") or {}).get("running") or {}
    placed = scheduled.get("status") == "True"
    return cold._replace(
        created_at=seconds(pod["metadata"].get("creationTimestamp")),
        scheduled_at=seconds(scheduled.get("lastTransitionTime")) if placed else 0.0,
        running_at=seconds(running.get("startedAt")),
    )


def _created(pod: Object) -> str:
    return str(pod["metadata"].get("creationTimestamp", ""))
