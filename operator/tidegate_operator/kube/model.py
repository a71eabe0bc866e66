"""One deployment over time: what is decided about its replicas, and what its starts came to.

Decisions are pure functions elsewhere (`decide`, `choose`, `may_stop`, `trouble`); this holds what
they remember and turns what they say into steps for the shell: how many replicas to write, which
pods to mark, which to let go. Nothing here waits or calls anybody.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from tidegate_operator.autoscale import Override, Policy, Sample, State, decide
from tidegate_operator.capacity import Shape, Wait
from tidegate_operator.demand import Picture, Total
from tidegate_operator.drain import busy, choose, mark, may_stop
from tidegate_operator.hung import hangs
from tidegate_operator.kube.coldstart import ColdStart, start_steps
from tidegate_operator.kube.failing import (
    HUNG,
    Failing,
    Seen,
    new_start_id,
    not_created,
    version,
)
from tidegate_operator.kube.pods import (
    cheapest,
    created,
    draining_mark,
    ends,
    marked_at,
    rolling,
    serves,
    silent,
)
from tidegate_operator.outcome import Trouble
from tidegate_runtime.contract.cluster import answered, epoch
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


class Marks(NamedTuple):
    """Pods whose draining mark has to be set or taken away."""

    set: tuple[str, ...]
    clear: tuple[str, ...]


class Model:
    """The memory of one deployment. `replicas` is what its Deployment asks for, None without one.

    `off`: it shall have no replica; None while its resource has not been judged yet, and until then
    nothing is decided. One that is met while it runs (after a restart, a change of leader) is
    adopted by the first decision: its count is the last one's, what drains goes on draining.

    `room`: how many of the desired replicas capacity lets it ask for, and never fewer than it has;
    `wait` then says why not all. `gives_way_to`: who needs its room, while nobody uses it.
    `not_written`: why its count may not be written, which no waiting cures; empty: it was, or may."""

    def __init__(self, deployment: str) -> None:
        self.deployment = deployment
        self.policy = Policy()
        self.drain_seconds = 600.0
        self.failing = Failing()
        self.off: bool | None = None
        self.override: Override | None = None
        self.replicas: int | None = None
        self.scaling: State | None = None
        self.total = Total(None, None)
        self.desired, self.reason = 0, ""
        self.room: Callable[[Model, float], int] | None = None
        self.shape: Shape | None = None
        self.wait: Wait | None = None
        self.gives_way_to = ""
        self.not_written = ""
        self.pods: dict[str, Object] = {}
        self.draining: dict[str, float] = {}
        self.released: dict[str, float] = {}
        self._lowering: int | None = None  # the count for whom was let go, until it is written
        self.blocked: Trouble | None = None
        self.rolling = False
        self.child_refused = ""
        self.cold = ColdStart()
        self.last_cold: ColdStart | None = None
        self.last_request = 0.0
        self._version = 0
        self._asked_for = ""
        # Of pods, worked out once a change: by epoch who has answered, and who serves.
        self._answered: set[str] = set()
        self._heard: set[str] = set()  # epochs that routers have told to serve
        self._hung: set[str] = set()  # epochs that some router takes to hang
        self._serving: set[str] = set()

    @property
    def failure(self) -> Failure | None:
        """What is known against the start that is running."""
        return self.failing.failure

    def observe(self, deployment: Object | None, pods: Iterable[Object]) -> None:
        """Take in what the API server says of the Deployment (None: there is none) and its pods."""
        before = self.replicas
        if deployment is None:
            self.replicas, self._version = None, 0
        elif int(deployment["metadata"].get("resourceVersion") or 0) >= self._version:
            self.replicas = int(deployment["spec"].get("replicas", 1))
        self.blocked = None if deployment is None else not_created(deployment)
        self.rolling = deployment is not None and rolling(deployment)
        self._asked_for = "" if deployment is None else version(deployment)
        self.pods = {pod["metadata"]["uid"]: pod for pod in pods}
        self._answered = {epoch(pod) for pod in self.pods.values() if answered(pod)}
        epochs = {epoch(pod) for pod in self.pods.values()}
        self._heard &= epochs
        self._hung &= epochs
        self._serving = {uid for uid, pod in self.pods.items() if serves(pod)}
        for known in (self.draining, self.released):
            for gone in [uid for uid in known if uid not in self.pods]:
                del known[gone]
        # One that somebody else deletes has its successor already, and may be stuck on a lost node.
        for ending in [uid for uid in self.draining if ends(self.pods[uid])]:
            del self.draining[ending]
        self._take_back(before)
        self.failing.forget(self.pods)
        self._steps_of_the_start()

    def staying(self) -> list[str]:
        """Pods that serve or will."""
        leaving = self.draining.keys() | self.released.keys()
        return [uid for uid, pod in self.pods.items() if uid not in leaving and not ends(pod)]

    def marks(self) -> Marks:
        """What differs between the pods' marks and what is decided."""
        leaving = self.draining.keys() | self.released.keys()
        found = {uid: draining_mark(pod) for uid, pod in self.pods.items()}
        bare = {uid for uid in self.released if not found[uid]}
        other = {uid for uid in self.draining if found[uid] != self.mark(uid)}
        stale = {uid for uid in found.keys() - leaving if found[uid] and not ends(self.pods[uid])}
        return Marks(tuple(bare | other), tuple(stale))

    def mark(self, uid: str) -> str:
        """The mark of a pod that drains or was let go."""
        return mark(self.draining[uid] if uid in self.draining else self.released[uid])

    def ready(self) -> list[str]:
        """Pods whose engine has answered, that are not leaving, and whose node is heard of."""
        return [uid for uid in self.staying() if uid in self._serving]

    def evaluate(self, picture: Picture, now: float) -> Steps:
        """Decide on the newest demand."""
        if self.replicas is None or self.off is None:
            return Steps()
        self.total = picture.total(self.deployment, now)
        self.last_request = max(self.last_request, self.total.last_request)
        if self.scaling is None:
            self.scaling = self._adopted(self.replicas, now)
        sample = Sample(now, self.total.in_flight, self.total.held, self.total.last_request)
        decision = decide(
            self.scaling, [sample], self.policy, now, self.override, self.off, self.gives_way_to
        )
        self.scaling, self.reason = decision.state, decision.reason
        before, self.desired = self.desired, decision.replicas
        if self.desired:
            self.gives_way_to = ""
        self._begin_start(before, now)
        asked = self._within_room(now)
        self._look_for_hung(picture, now)
        self.failing.judge(self._seen(), now)
        return self._steps(picture, now, asked)

    def _look_for_hung(self, picture: Picture, now: float) -> None:
        for key in self._hung:
            if why := hangs(key, picture.lines(now)):
                self.failing.refuse(key, HUNG, why, now)

    def _within_room(self, now: float) -> int:
        """How many replicas to ask for. The windows go on from these: a wait that nobody waits
        for any more ends with the window, and not after `idle_seconds`."""
        self.wait = None
        if self.room is None:
            return self.desired
        asked = min(self.desired, self.room(self, now))
        if asked < self.desired and self.scaling is not None:
            self.scaling = replace(self.scaling, replicas=asked)
        return asked

    def _steps(self, picture: Picture, now: float, asked: int) -> Steps:
        for uid in [u for u, at in self.released.items() if now - at > RELEASE_SECONDS]:
            if not ends(self.pods[uid]):
                del self.released[uid]  # Kubernetes took another one: this one serves again
        # Who was let go is no replica any more, though the write that says so is still under way.
        current = (self.replicas or 0) if self._lowering is None else self._lowering
        keeping = current - len(self.draining)
        if asked > keeping:
            for uid in list(self.draining)[: asked - keeping]:
                del self.draining[uid]
            wanted = asked + len(self.draining)
            return Steps(wanted if wanted > current else None)
        if asked < keeping:
            # Replicas that have no pod go first: their count is lowered, and nobody is seen out.
            podless = min(max(0, keeping - len(self.staying())), keeping - asked)
            chosen = self._choose(keeping - asked - podless, picture, now)
            self.draining.update(dict.fromkeys(chosen, now))
            if podless:
                return Steps(current - podless)
        return Steps(release=self._seen_out(picture, now))

    def _choose(self, count: int, picture: Picture, now: float) -> list[str]:
        staying = {epoch(self.pods[uid]): uid for uid in self.staying()}
        loads = [
            one._replace(ready=serves(self.pods[staying[one.id]]))
            for one in busy(staying, picture.lines(now))
        ]
        return [staying[one] for one in choose(loads, count)]

    def _seen_out(self, picture: Picture, now: float) -> tuple[str, ...]:
        lines = picture.lines(now)
        out = []
        for uid, since in self.draining.items():
            pod = self.pods[uid]
            verdict = may_stop(epoch(pod), lines, since, self.drain_seconds, now)
            if verdict.stop or silent(pod, mark(since)):
                out.append(uid)
        return tuple(out)

    def let_go(self, pods: Sequence[str], now: float) -> int:
        """The point of no return for seen-out pods: the replicas to write for them to go."""
        going = [uid for uid in pods if uid in self.draining]
        for uid in going:
            del self.draining[uid]
            self.released[uid] = now
        self._lowering = max(0, (self.replicas or 0) - len(going))
        return self._lowering

    def keep(self, pods: Sequence[str], since: Mapping[str, float]) -> None:
        """The write that was to let these go has failed: they drain as before, and may serve.
        Nothing where it was acknowledged."""
        if self._lowering is None:
            return
        self._lowering = None
        for uid in pods:
            if self.released.pop(uid, None) is not None and uid in self.pods:
                self.draining[uid] = since.get(uid, 0.0)

    def adopt(self) -> None:
        """Take over: another operator may have decided meanwhile. What leaves is what is marked,
        and not what this one remembers."""
        self.scaling, self.gives_way_to, self._lowering = None, "", None
        self.draining.clear()
        self.released.clear()
        # What this one knew of starts is from before another led, and answers nobody of today.
        self.failing, self.cold = self.failing.anew(), ColdStart()

    def _adopted(self, replicas: int, now: float) -> State:
        """What the last one had decided: the pods that it marked are on their way out, and were no
        longer among the replicas that it wanted. A pod whose end has begun counts no more."""
        alive = {uid: pod for uid, pod in self.pods.items() if not ends(pod)}
        marked = [uid for uid, pod in alive.items() if draining_mark(pod)]
        # More pods than replicas: the count is written, and Kubernetes has yet to delete those.
        gone = [uid for uid in marked if cheapest(alive[uid])][: max(0, len(alive) - replicas)]
        self.released.update((uid, self.released.get(uid, now)) for uid in gone)
        for uid in marked:
            if uid not in self.released:
                self.draining.setdefault(uid, marked_at(alive[uid], now))
        self.desired = max(0, replicas - len(self.draining))
        return State.initial(self.desired, now, self.last_request or None)

    # Starts

    def told(self, said: ReplicaDemand) -> str:
        """Take in what a router says of a pod; the pod's uid where it has answered just now."""
        if said.hung:
            self._hung.add(said.id)
        starts = bool(self.cold.id) and not self.cold.forwarded_at
        if said.id in self._answered and not (starts and said.first_forward):
            return ""  # that a pod that has answered goes on, which most lines say
        uid = said.id.rpartition(".")[0]
        pod = self.pods.get(uid)
        if pod is None:
            return ""
        if epoch(pod) == said.id and (said.answered_at or said.in_flight):
            self._heard.add(said.id)
        if said.answer_error and not said.answered_at and not answered(pod):
            self.failing.refuse(said.id, "AnswerFailed", said.answer_error, time.time())
        if epoch(pod) != said.id:
            return ""
        if said.first_forward and starts:
            self.cold = self.cold._replace(forwarded_at=said.first_forward)
            self.last_cold = self.cold
        if not said.answered_at or answered(pod):
            return ""
        self.failing.refused.pop(said.id, None)
        if self.cold.id and not self.cold.answered_at:
            self.cold = self.cold._replace(answered_at=said.answered_at)
        return uid

    def discard(self, now: float) -> list[str]:
        """Pods that will not serve, or whose node is lost: each is replaced, later each time."""
        staying = [self.pods[uid] for uid in self.staying()]
        return self.failing.discard(staying, self.desired, now)

    def has_served(self, uid: str) -> bool:
        """Whether the engine that is in a pod now may have somebody's request that it will answer."""
        key = epoch(self.pods[uid])
        return key in self._answered | self._heard and not self.failing.hangs(key)

    def wakes(self, now: float) -> bool:
        """Whether somebody waits for a start that has only begun."""
        began = self.cold.scaled_at or self.cold.held_at
        return bool(self.desired and self.total.held) and now - began < WAKE_SECONDS

    def _begin_start(self, before: int, now: float) -> None:
        if self.desired and not before and not self.ready():
            self.cold = ColdStart(new_start_id(), self.total.held_since or now)
            self.failing.begin()

    def scaled(self, replicas: int, at: float, version: int) -> None:
        """The scale write was acknowledged. What a watch tells from before it counts no more: on an
        old count a second pod would be seen out for the same step down."""
        self._lowering = None
        if version >= self._version:
            before, self.replicas, self._version = self.replicas, replicas, version
            self._take_back(before)
        if self.cold.id and not self.cold.scaled_at:
            self.cold = self.cold._replace(scaled_at=at)

    def _take_back(self, before: int | None) -> None:
        """Where the count is higher than `before`, Kubernetes may keep whom it has not begun to
        delete: as many as that serve again, for they are warm."""
        replicas = self.replicas or 0
        if before is None or replicas <= before or self._lowering is not None:
            return
        alive = [uid for uid in self.released if not ends(self.pods[uid])]
        for uid in alive[: max(0, replicas - len(self.staying()))]:
            del self.released[uid]

    def _steps_of_the_start(self) -> None:
        if not self.cold.id or self.cold.answered_at or not self.staying():
            return
        first = min((self.pods[uid] for uid in self.staying()), key=created)
        self.cold = start_steps(self.cold, first)

    def _seen(self) -> Seen:
        wait = self.wait
        waits = None
        if wait is not None and self.blocked is None:  # what is asked for already comes first
            waits = Trouble(wait.reason, wait.message, passing=True)
        return Seen(
            pods=[self.pods[uid] for uid in self.staying()],
            ready=len(self.ready()),
            desired=self.desired,
            total=self.total,
            start_id=self.cold.id,
            begun=self.cold.held_at,
            blocked=waits or self.blocked,
            waits=waits is not None,
            version=self._asked_for,
            rolling=self.rolling,
        )
