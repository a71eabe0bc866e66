"""The command line and the environment of one vLLM process, from plain values.

Why each choice is made stands beside it, because most of them answer a failure that was seen:
see the tests of the same name. What the user gives comes last and therefore wins; that it may
only tune is checked before (`contract.engine_args`), not here.

The environment is built from nothing, not copied: of the platform's own variables only those in
`INHERITED` pass, so that no token, database address or proxy of ours reaches an engine.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final, Literal, NamedTuple

from tidegate_runtime.contract.tasks import EngineTask
from tidegate_runtime.engines.vllm.guard.tidegate_guard import SECRET_VARIABLE

Device = Literal["cpu", "gpu"]

# `vllm serve` asks for the metadata of a package called vllm, which the CPU build does not have;
# `vllm.entrypoints.openai.api_server` is deprecated and starts this module.
ENTRY: Final = "vllm.entrypoints.launchers.api_server.entry"
GUARD: Final = "tidegate_guard.Guard"
GUARD_FOLDER: Final = Path(__file__).parent / "guard"

INHERITED: Final = (
    "PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "LC_ALL",
    "TZ",
    "XDG_CACHE_HOME",
    "LD_LIBRARY_PATH",
    "CUDA_HOME",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
)


@dataclass(frozen=True, kw_only=True)
class Serve:
    """What one vLLM process is to serve, and how.

    `names` are the model names it answers to, the first is the one in its answers. `cpus` are the
    cores its threads are bound to; empty = vLLM's own choice, which leaves one core free. `devices`:
    how many GPUs it has.
    `guard_folder` is where that process finds the guard, and nothing else to import."""

    python: Path
    model: Path
    names: tuple[str, ...]
    port: int
    guard_secret: str
    drain_seconds: int
    max_concurrency: int
    host: str = "127.0.0.1"
    guard_folder: Path = GUARD_FOLDER
    task: EngineTask = "generate"
    device: Device = "cpu"
    devices: int = 1
    cpus: tuple[int, ...] = ()
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


class Command(NamedTuple):
    """What to execute; `env` is the whole environment."""

    argv: tuple[str, ...]
    env: dict[str, str]


@cache
def guard_source() -> str:
    """The guard's source text, for processes on other machines."""
    return (GUARD_FOLDER / "tidegate_guard.py").read_text("utf-8")


def command(serve: Serve, inherited: Mapping[str, str]) -> Command:
    """The process that serves `serve`; `inherited` is the environment of the caller.

    Raises ValueError where a value would disarm the guard or the drain."""
    if not serve.guard_secret:
        raise ValueError("an engine without a guard secret would refuse everything")
    if not serve.names:
        raise ValueError("an engine needs a model name to answer to")
    return Command(_argv(serve), _environment(serve, inherited))


def _argv(serve: Serve) -> tuple[str, ...]:
    return (
        str(serve.python),
        "-m",
        ENTRY,
        *("--model", str(serve.model)),
        *("--served-model-name", *serve.names),
        *("--host", serve.host),
        *("--port", str(serve.port)),
        *("--middleware", GUARD),
        # Zero would abort running streams. One that outlasts the time hangs for ever, with the port
        # closed: whoever stops an engine must kill its whole process group afterwards.
        *("--shutdown-timeout", str(max(1, serve.drain_seconds))),
        *("--max-num-seqs", str(serve.max_concurrency)),
        "--enable-prompt-tokens-details",
        "--disable-uvicorn-access-log",
        *_task(serve),
        *_parallel(serve),
        *serve.args,
    )


_PARALLEL: Final = (
    "--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp", "--data-parallel-size",
    "-dp",
)  # fmt: skip


def _parallel(serve: Serve) -> tuple[str, ...]:
    """All devices of the replica for one model, unless its own arguments divide them."""
    given = {one.partition("=")[0].replace("_", "-") for one in serve.args}
    if serve.device != "gpu" or serve.devices == 1 or given & set(_PARALLEL):
        return ()
    return ("--tensor-parallel-size", str(serve.devices))


# Without `--convert` vLLM goes by the architecture's name, which says nothing of what a causal model is
# to do. A scorer may be either kind: of two embeddings it takes the cosine, of a cross-encoder the answer.
_RUNNER: Final[Mapping[EngineTask, tuple[str, ...]]] = {
    "generate": (),
    "embed": ("--runner", "pooling", "--convert", "embed"),
    "rerank": ("--runner", "pooling"),
    "score": ("--runner", "pooling"),
    "classify": ("--runner", "pooling", "--convert", "classify"),
}


def _task(serve: Serve) -> tuple[str, ...]:
    options = _RUNNER[serve.task]
    if serve.device == "gpu":
        return options
    # bfloat16 kills the worker or garbles text on some processors. float16 is a matmul without
    # kernels of its own on those with AVX2 only: prompts take five times as long there.
    # Compiling needs a C++ compiler and minutes, for a processor that gains nothing by it.
    return (*options, "--dtype", "float32", "--enforce-eager")


def _environment(serve: Serve, inherited: Mapping[str, str]) -> dict[str, str]:
    kept = {name: inherited[name] for name in INHERITED if name in inherited}
    return kept | _platform(serve) | dict(serve.env) | _fixed(serve)


def _platform(serve: Serve) -> dict[str, str]:
    """Defaults that the user's variables may override."""
    if serve.device == "gpu":
        return {}
    cores = ",".join(str(cpu) for cpu in serve.cpus)
    return {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": cores or "auto",
        # Threads wait for each other by spinning, by default so long that two on one core keep each
        # other from running: a fiftieth of the speed was left (docs/adr/0016-cores.md).
        "GOMP_SPINCOUNT": "1000",
        # `--enforce-eager` does not reach the sampler: the first request with logprobs would wait
        # ten seconds for a C++ compiler.
        "TORCHDYNAMO_DISABLE": "1",
    }


def _fixed(serve: Serve) -> dict[str, str]:
    """What nobody overrides: the guard, no network, no telemetry, readable lines."""
    return {
        SECRET_VARIABLE: serve.guard_secret,
        "PYTHONPATH": str(serve.guard_folder),
        "PYTHONSAFEPATH": "1",  # `-m` would import from the current folder first
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_PLUGINS": "",
        "VLLM_LOGGING_COLOR": "0",
        "VLLM_DISABLE_LOG_LOGO": "1",
        "NO_COLOR": "1",
    }
