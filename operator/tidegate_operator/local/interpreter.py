"""The Python that runs vLLM for devices other than the CPU: one that the user has installed.

Tidegate installs vLLM for CPUs by itself, because one lock serves every machine. Builds for GPUs go by
driver and CUDA version, which only the machine's owner knows; so `TIDEGATE_VLLM_PYTHON` names the
interpreter of an environment with the stock `vllm` package. What can be known without importing it (which
takes many seconds) is looked at before anything is fetched.
"""

import asyncio
import contextlib
from pathlib import Path

from tidegate_operator.local.engines import PrepareError
from tidegate_runtime.engines.vllm.args import ENTRY

SETTING = "TIDEGATE_VLLM_PYTHON"
_SECONDS = 60.0
_LOOK = """
import importlib.metadata, importlib.util, pathlib, sys
found = importlib.util.find_spec("vllm")
if found is None or found.origin is None:
    sys.exit("no package called vllm is installed there")
entry = pathlib.Path(found.origin).parent.joinpath(*sys.argv[1].split(".")[1:]).with_suffix(".py")
if not entry.is_file():
    version = importlib.metadata.version("vllm")
    sys.exit(f"its vLLM {version} has no {sys.argv[1]}; allowed: vllm 0.32")
"""


async def own(profile: str, python: Path | None) -> Path:
    """`python`, once it is found to have a vLLM that can be started as ours is.

    Raises PrepareError, which says what to do."""
    if python is None:
        raise PrepareError(
            "Unschedulable",
            f"spec.resources.profile: {profile} takes a vLLM for its device, and {SETTING} does not say "
            "where one is (docs/howto/gpu.md); allowed without it: cpu",
        )
    try:
        looked = await asyncio.create_subprocess_exec(
            *(str(python), "-Ic", _LOOK, ENTRY),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise _wrong(python, error.strerror or "it cannot be run") from error
    try:
        async with asyncio.timeout(_SECONDS):
            _, said = await looked.communicate()
    except TimeoutError as error:
        raise _wrong(python, f"it did not answer in {_SECONDS:.0f} s") from error
    finally:
        with contextlib.suppress(ProcessLookupError):
            looked.kill()
    if looked.returncode:
        lines = said.decode(errors="replace").strip().splitlines()
        raise _wrong(python, lines[-1] if lines else f"it ended with {looked.returncode}")
    return python


def devices(profile: str) -> int:
    """How many devices a profile names: `nvidia-l4:2` two, `nvidia-l4` one."""
    return int(profile.partition(":")[2] or 1)


def _wrong(python: Path, why: str) -> PrepareError:
    message = f"{SETTING}={python}: {why}; allowed: the interpreter of an environment that has vllm"
    return PrepareError("ImagePullBackOff", message)
