"""One model on this machine: demand in, engines started and stopped.

`evaluate` is the only way in for demand and runs to the end without waiting: from the line that
was read to the exec there is `decide`, a free port and `Popen`. The world is published right
after, so that routers probe the engine while it starts. Everything slow (preparing, draining,
counting) is a task beside it and comes back through `evaluate`.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable

import msgspec

from tidegate_operator.autoscale import Sample, State, decide
from tidegate_operator.demand import Total
from tidegate_operator.drain import busy, mark
from tidegate_operator.local import enginelog, hanging, replacing, stopping
from tidegate_operator.local.engines import PrepareError, Start
from tidegate_operator.local.options import Event
from tidegate_operator.local.plan import Plan
from tidegate_operator.local.preparing import prepare
from tidegate_operator.local.replica import ColdStart, Running
from tidegate_operator.local.retry import Retry
from tidegate_operator.local.site import Site
from tidegate_operator.local.sockets import PortInUseError, engine_port
from tidegate_operator.local.wish import Wish
from tidegate_operator.replica_time import Whose
from tidegate_operator.status import Facts, status
from tidegate_runtime.contract.links import Failure, ReplicaDemand

NOTE_SECONDS = 3.0


class Model:
    """A deployment and its engines. `phase` names what people see. `stuck`: why replicas of the
    plan's build cannot replace the old ones, which go on serving. `removed`: it is to go."""

    def __init__(self, plan: Plan, site: Site, finished: Callable[[ColdStart], None]) -> None:
        self.plan, self.site = plan, site
        self.view = plan.view
        self.deployment = plan.view.deployment
        self.runs: dict[str, Running] = {}
        self.retry = Retry()
        self.total = Total(None, None)
        self.wish = Wish()
        self.desired, self.reason = 0, ""
        self.conflict, self.warning, self.stuck = "", "", ""
        self.waits, self.gives_way_to, self.room_at = "", "", 0.0  # as `making_room` says
        self.removed = False
        self.priced = False
        self.preparing = ("", "")
        self.prepared_at = 0.0
        self.preparation: asyncio.Task[None] | None = None
        self.last_cold: tuple[float, dict[str, float]] = (0.0, {})
        self.since = time.time()
        self.scaling = State.initial(0, self.since, self.since)
        self._finished = finished
        self._shown: tuple[str, str, str] = ("", "", "")
        self._noted = 0.0
        self._count = 0
        self._asked = self._looked = 0.0  # the last request, and the last one that was looked at

    def begin(self) -> None:
        """Prepares the engine's source in the background, before anybody asks for it."""
        self.publish()
        self.preparation = self.site.spawn(prepare(self))

    @property
    def off(self) -> bool:
        """Whether nothing may run."""
        return self.view.suspend or not self.view.valid

    def active(self) -> list[Running]:
        """Replicas that serve or will."""
        return [run for run in self.runs.values() if run.state != "draining"]

    def old(self) -> list[Running]:
        """Those of them that are of another build than the plan's."""
        return [run for run in self.active() if run.build != self.plan.build]

    def ready(self) -> int:
        """How many replicas serve."""
        return sum(run.state == "ready" for run in self.runs.values())

    def evaluate(self, now: float) -> None:
        """Decides on the newest demand and acts on it at once."""
        if self.site.closing:
            return
        self.total = self.site.picture.total(self.deployment, now)
        total, ready = self.total, self.ready()
        sample = Sample(now, total.in_flight, total.held, total.last_request)
        sample = self.wish.sample(sample, ready)
        self.wish = self.wish.after(ready=ready, held=total.held, failure=self.view.failure)
        off = self.off or self.wish.asleep
        gives = self.gives_way_to
        decision = decide(self.scaling, [sample], self.plan.policy, now, None, off, gives)
        self.scaling, self.gives_way_to, self.waits = decision.state, "", ""
        self.desired, self.reason = decision.replicas, self.wish.reason(decision.reason)
        self._watch(now)
        self._expire(now)
        replacing.move(self, now)
        self.show()

    def told(self, said: ReplicaDemand) -> None:
        """Takes in what a router says of one of the replicas."""
        run = self.runs.get(said.id)
        if run is None:
            return
        run.changed.set()
        if said.first_forward and not run.forwarded_at:
            run.forwarded_at = said.first_forward
            if (cold := run.cold_start()) is not None:
                self._finished(cold)
        if said.hung:
            hanging.look(self, run)
        if run.state != "starting":
            return
        if said.answered_at:
            self._answered(run, said.answered_at)
        elif said.answer_error:
            self._give_up(run, "AnswerFailed", said.answer_error)

    def publish(self) -> None:
        """Shows the routers this model and its replicas as they are."""
        self.put()
        self.site.world.publish()
        self.site.changed()

    def put(self) -> None:
        """Writes this model and its replicas into the world, to be published."""
        world = self.site.world
        world.models[self.deployment] = self.view
        for known in [one for one in world.replicas.values() if one.deployment == self.deployment]:
            if known.id not in self.runs:
                del world.replicas[known.id]
        for run in self.runs.values():
            world.replicas[run.id] = run.view

    def show(self) -> None:
        """Reports phase and detail where they changed."""
        seen = (self.phase(), self.detail(), self.warned())
        noted = (seen[0], self._shown[1], seen[2]) == self._shown and not seen[1]
        if seen == self._shown or (noted and time.time() < self._noted + NOTE_SECONDS):
            return
        if seen[0] != self._shown[0]:
            self.since = time.time()
        self._shown = seen
        self._tell(*seen)

    def changed(self, kind: str, parts: Iterable[str]) -> None:
        """Reports that its resource is another one now; that stands for a while, where there is
        nothing else to say."""
        words = {"take": "changed in place", "roll": "changed, needs new replicas"}
        if kind in words:
            self.note(f"{words[kind]}: {', '.join(parts)}")

    def note(self, detail: str) -> None:
        """Reports what happened to it."""
        self.show()
        self._noted = time.time()
        self._shown = (self.phase(), detail, self.warned())
        self._tell(*self._shown)

    def gone(self) -> None:
        """Reports that it is no more."""
        self._tell("Removed", "", "")

    def _tell(self, phase: str, detail: str, warning: str) -> None:
        self.site.report(
            Event(
                ts=time.time(),
                event="model",
                name=self.view.name,
                deployment=self.deployment,
                phase=phase,
                detail=detail,
                since=self.since,
                warning=warning,
            )
        )

    def warned(self) -> str:
        """What people should know of it."""
        stuck = f"the change is not in force: {self.stuck}" if self.stuck else ""
        return "; ".join(word for word in (self.warning, stuck) if word)

    def phase(self) -> str:
        """The phase, as in the resource's status."""
        failure = self.view.failure
        ready = self.ready()
        facts = Facts(
            desired=self.desired,
            ready=ready,
            starting=len(self.active()) - ready,
            draining=len(self.runs) - len(self.active()),
            suspended=self.view.suspend,
            deleting=self.removed,
            valid=self.view.valid,
            failure=failure.reason if failure else self.stuck.partition(":")[0],
            failure_final=bool(failure and failure.final),
        )
        return status(facts).phase

    def detail(self) -> str:
        """What is going on, in a few words."""
        if self.conflict:
            return self.conflict
        starting = [run for run in self.runs.values() if run.state == "starting"]
        if starting:
            return f"rolling: {starting[-1].phase}" if self.old() else starting[-1].phase
        if self.waits or self.preparing[0]:
            return self.waits or " ".join(word for word in self.preparing if word)
        failure = self.view.failure
        return f"{failure.reason}: {failure.message}" if failure and not self.ready() else ""

    def _watch(self, now: float) -> None:
        """Looks which replicas are in use. Where a router is silent nobody knows: that is seen, and
        counted, when it speaks again."""
        self._asked = max(self._asked, self.total.last_request)
        if not any(run.answered_at for run in self.runs.values()) or self.total.in_flight is None:
            return
        came, self._looked = self._asked > self._looked, self._asked
        staying = {run.id for run in self.active()}
        kept = staying if len(staying) <= self.plan.policy.min_replicas else set()
        for one in busy(self.runs, self.site.picture.lines(now)):
            used = bool(one.in_flight) or one.id in kept
            self.site.lives.watched(one.id, now, busy=used, came=came)

    # What happens to a start

    def grow(self, missing: int, now: float) -> None:
        """Starts replicas of the plan, or takes such back that drain, where that may be now."""
        for run in [run for run in self.runs.values() if self._returns(run)][:missing]:
            stopping.take_back(run)
            missing -= 1
            self.publish()
        if missing > 0 and self._may_start(now):
            self._start(self.site.room.may_start(self, missing, now), now)

    def _returns(self, run: Running) -> bool:
        return stopping.can_return(run) and run.build == self.plan.build

    def _may_start(self, now: float) -> bool:
        if now < self.retry.at:
            return False
        failed = self.view.failure is not None and self.view.failure.final
        asked = self.total.held or self.wish.awake or self.plan.policy.min_replicas > 0
        if failed and not asked:
            return False
        if not self.prepared_at and (self.preparation is None or self.preparation.done()):
            self.preparation = self.site.spawn(prepare(self))
        return bool(self.prepared_at)

    def _start(self, count: int, now: float) -> None:
        start_id = f"{time.time_ns():016x}"
        held_at = 0.0
        if self.total.held_since:
            # A wait that no start could shorten (weights, back-off, memory) is not ours.
            held_at = max(self.total.held_since, self.prepared_at, self.retry.at, self.room_at)
        trouble: tuple[str, str] | None = None
        started: list[Running] = []
        while len(started) < count and trouble is None:
            try:
                started.append(self._exec(start_id, held_at))
            except PrepareError as error:
                trouble = (error.reason, str(error))
            except (OSError, PortInUseError) as error:
                trouble = ("EngineExited", f"the engine cannot be started: {error}")
        if started:
            self._began(start_id, started)
        if trouble is not None:
            self.start_failed(start_id, *trouble)

    def _began(self, start_id: str, started: list[Running]) -> None:
        for run in started:
            self.runs[run.id] = run
            whose = Whose(self.deployment, run.id, self.plan.pricing.model, self.plan.pricing.owner)
            self.site.lives.begin(whose, run.exec_at, run.exec_at)
        self.view = msgspec.structs.replace(self.view, start_id=start_id, failure=None)
        self.publish()
        for run in started:
            self.site.started(run)

    def _exec(self, start_id: str, held_at: float) -> Running:
        self._count += 1
        name = self.deployment.rpartition("/")[2][:63]  # files are named like it: 255 bytes at most
        replica = f"{name}-{self._count}-{secrets.token_hex(4)}"
        file = f"{self.view.name[:128]}-{replica}.ndjson".replace("/", "_")
        start = Start(
            replica=replica,
            port=engine_port(),
            guard=secrets.token_urlsafe(24),
            truth=self.site.data / "truth" / file,
            log=enginelog.path(self.site.data, self.deployment, replica),
            cores=self.site.binding.begin(replica, self, time.time()),
        )
        return Running(
            self.plan.engine,
            start,
            deployment=self.deployment,
            model=self.view.name,
            start_id=start_id,
            build=self.plan.build,
            held_at=held_at,
            mark=self.site.mark,
            said=lambda _: self.show(),
            exited=self._exited,
        )

    def _answered(self, run: Running, at: float) -> None:
        run.answered_at = at
        self.site.lives.answered(run.id, at)
        run.move("ready")
        self.retry = self.retry.answered()
        began = run.held_at or run.exec_at
        self.last_cold = (round(at - began, 3), run.phase_seconds())
        self.view = msgspec.structs.replace(self.view, failure=None)
        self.publish()
        self.show()

    def _expire(self, now: float) -> None:
        for run in list(self.runs.values()):
            taken = now - run.exec_at
            if run.state == "starting" and taken > self.plan.start_seconds:
                allowed = f"{self.plan.start_seconds:.0f} s (coldStart.startTimeoutSeconds)"
                step = f"the engine has run for {taken:.0f} s; its last step: {run.phase}"
                message = f"no answer within {allowed}: {step}{run.last_words()}"
                self._give_up(run, "StartTimeout", message)

    def _give_up(self, run: Running, reason: str, message: str) -> None:
        del self.runs[run.id]
        self.start_failed(run.view.start_id, reason, message, build=run.build)
        self.site.spawn(stopping.lost(run, self.site, stop=True))

    def start_failed(
        self, start_id: str, reason: str, message: str, *, final: bool = True, build: str = ""
    ) -> None:
        """A start of the plan's `build`, or of an older one, came to nothing. Where old replicas go
        on serving, it is the plan that is stuck."""
        now = time.time()
        self.retry = self.retry.start_failed(now)
        message = message[:2000]
        if self.old() and build in {"", self.plan.build}:
            self.stuck = f"{reason}: {message}"
        elif not self.active():  # else the others serve whoever waits
            failure = Failure(
                start_id=start_id, reason=reason, message=message, at=now, final=final
            )
            self.view = msgspec.structs.replace(self.view, start_id=start_id, failure=failure)
        self.publish()
        self.report_error(f"{reason}: {message}")
        self.show()

    def report_error(self, message: str) -> None:
        """Reports what went wrong."""
        self.site.report(
            Event(
                ts=time.time(),
                event="error",
                name=self.view.name,
                deployment=self.deployment,
                message=message,
            )
        )

    def _exited(self, run: Running, code: int) -> None:
        self.site.lives.ended(run.id, time.time())
        if self.runs.get(run.id) is not run:
            return
        del self.runs[run.id]
        if run.stopping:
            self.retry = self.retry.ended_well() if run.answered_at else self.retry
            self.publish()
            return
        if run.drain is not None:
            run.drain.cancel()
        self.site.spawn(stopping.lost(run, self.site, stop=False))
        if self.site.closing:
            return
        words = f"the engine exited with status {code}{run.last_words()}"
        if run.state == "starting":
            self.start_failed(run.view.start_id, "EngineExited", words, build=run.build)
        else:
            now = time.time()
            self.retry = self.retry.crashed(now - run.answered_at, now)
            self.publish()
            self.report_error(words)
        self.evaluate(time.time())

    # What happens to a stop

    def let_go(self, runs: list[Running], now: float) -> None:
        """Drains replicas; the caller publishes."""
        for run in runs:
            run.move("draining", mark(now))
            run.drain = self.site.spawn(
                stopping.drain(run, self.site, now, self.plan.drain_seconds, self.publish)
            )
