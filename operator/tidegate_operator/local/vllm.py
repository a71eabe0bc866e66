"""The real vLLM behind the engine port: its environment and weights first, then a command line.

Both are content-addressed under the cache, so `prepare` does nothing the second time. What may be
cured by waiting (a registry that cannot be reached) is told apart from what cannot (an address
that names no model); the reasons are those a cluster would give.
"""

import asyncio
import os
import weakref
from collections.abc import Mapping
from pathlib import Path

from tidegate_operator.local import interpreter, machine, shelf, tokens
from tidegate_operator.local.engines import Command, PrepareError, Progress, Seen, Start
from tidegate_runtime.contract import tasks
from tidegate_runtime.contract.spec import ModelDeployment
from tidegate_runtime.engines.vllm import args, environment, memory, phases, sources, weights
from tidegate_runtime.engines.vllm import progress as steps

_BINDING = frozenset(
    {"VLLM_CPU_OMP_THREADS_BIND", "OMP_NUM_THREADS", "OMP_PLACES", "GOMP_CPU_AFFINITY"}
)
"""A resource's own word on its threads, which wins."""


class Vllm:
    """vLLM for one deployment."""

    tells_truth = False
    first_phase = "importing"

    def __init__(
        self, one: ModelDeployment, env: Mapping[str, str], cache: Path, own: Path | None = None
    ) -> None:
        """`own`: the interpreter that devices other than the CPU take."""
        self._one, self._env, self._cache, self._own = one, env, cache, own
        self._python: Path | None = None
        self._model: Path | None = None
        self._need: memory.Need | None = None
        self._held: list[int] = []
        self.computes = _device(one) == "cpu" and not _binds_itself(one, env)
        weakref.finalize(self, shelf.release, self._held)

    async def prepare(self, progress: Progress) -> None:
        """Installs vLLM and fetches or converts the model, as far as that is still to be done.

        Raises PrepareError.
        """
        _task(self._one)
        model, profile = self._one.spec.model, self._one.spec.resources.profile
        gpu = _device(self._one) == "gpu"
        found = await interpreter.own(profile, self._own) if gpu else None
        try:
            token = tokens.of(model.secret_ref, os.environ)
            # The source first: a wrong address needs no installation to be found wrong.
            self._model = await sources.prepare(
                model.uri, model.revision, self._cache, _told(progress), token
            )
            self._need = await asyncio.to_thread(self._estimate, self._model)
        except steps.PrepareError as error:
            raise _refusal(error, "ModelUnavailable") from error
        # Before an engine is installed for nothing; memory of now is looked at when it starts.
        if words := self.lacking(machine.memory().total, "is all there is"):
            raise PrepareError("OutOfMemory", words)
        if found is None:
            try:
                found = (await environment.install(self._cache, _told(progress))).python
            except steps.PrepareError as error:
                raise _refusal(error, "ImagePullBackOff") from error
        self._python = found
        self._hold(found, self._model)

    def _hold(self, python: Path, made: Path) -> None:
        """Keeps `tidegate cache prune` away from what is used, as long as this lives."""
        shelf.release(self._held)
        model = self._one.spec.model
        raw = sources.here(sources.parse(model.uri, model.revision), self._cache)
        for path in (python, made, *([raw] if raw else [])):
            self._held += shelf.hold(self._cache, path)

    def needs(self) -> int:
        """By what its configuration and weights say; not known of an engine on a GPU."""
        return 0 if self._need is None else self._need.total

    def lacking(self, size: int, whose: str) -> str:
        """The arithmetic of it."""
        return "" if self._need is None else memory.refusal(self._need, size, whose)

    def command(self, start: Start) -> Command:
        """vLLM's server, on loopback, behind its guard."""
        assert self._python is not None
        assert self._model is not None
        made = self._made(start, self._python, self._model)
        return Command(made.argv, made.env)

    def _estimate(self, model: Path) -> memory.Need | None:
        """What it needs; None where that is not known. Raises SourceError for damaged weights."""
        spec = self._one.spec
        shape = memory.read_shape(model)
        found = weights.read(model)
        if shape is None or _device(self._one) == "gpu":
            return None
        made = self._made(Start("", 0, "unused", Path()), Path(), model)
        told = memory.settings(made.argv, made.env, spec.scaling.concurrency_limit)
        return memory.need(found, shape, told)

    def _made(self, start: Start, python: Path, model: Path) -> args.Command:
        spec = self._one.spec
        return args.command(
            args.Serve(
                python=python,
                model=model,
                names=(self._one.served_name, *spec.model.aliases),
                port=start.port,
                guard_secret=start.guard,
                drain_seconds=spec.drain.timeout_seconds,
                max_concurrency=spec.scaling.concurrency_limit,
                task=_task(self._one),
                cpus=start.cores,
                device=_device(self._one),
                devices=interpreter.devices(spec.resources.profile),
                args=tuple(spec.engine.args),
                env=self._env,
            ),
            os.environ,
        )

    def seen(self, line: str, now: float) -> Seen | None:
        """A phase, or that it can answer."""
        phase = phases.phase_of(line)
        if phase is None:
            return None
        return Seen("", now) if phase == "ready" else Seen(phase)


def _device(one: ModelDeployment) -> args.Device:
    return "cpu" if one.spec.resources.profile.partition(":")[0] == "cpu" else "gpu"


def _binds_itself(one: ModelDeployment, env: Mapping[str, str]) -> bool:
    """Whether the resource says where threads run, or makes several processes compute: those take
    a list each."""
    names = {given.partition("=")[0].replace("_", "-") for given in one.spec.engine.args}
    parallel = {"--tensor-parallel-size", "--pipeline-parallel-size"}
    return bool(names & parallel or _BINDING & env.keys())


def _told(tell: Progress) -> steps.Report:
    def told(step: steps.Progress) -> None:
        done = "" if step.fraction is None else f" ({step.fraction:.0%})"
        tell(step.phase, f"{step.detail}{done}")

    return told


def _refusal(error: steps.PrepareError, reason: str) -> PrepareError:
    if isinstance(error, steps.DiskError):
        reason = "VolumePending"
    elif isinstance(error, steps.SourceError):
        reason = "ModelNotFound"
    elif isinstance(error, steps.InstallError) and reason == "ModelUnavailable":
        reason = "ModelNotFound"  # the source answered, with what is no model
    curable = isinstance(error, steps.FetchError | steps.DiskError)
    return PrepareError(reason, str(error), curable=curable)


def _task(one: ModelDeployment) -> tasks.EngineTask:
    task = tasks.engine_task(one.spec.model.task)
    if task is None:
        message = f"spec.model.task: {one.spec.model.task} is not served here yet; {tasks.ALLOWED}"
        raise PrepareError("ModelNotFound", message)
    return task
