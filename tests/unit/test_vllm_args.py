"""The command line and environment of a vLLM process, as vLLM 0.32 was seen to need them."""

from pathlib import Path
from typing import Any

import pytest

from tidegate_runtime.engines.vllm.args import GUARD_FOLDER, Serve, command


def serve(**changes: Any) -> Serve:
    values: dict[str, Any] = {
        "python": Path("/env/bin/python"),
        "model": Path("/models/m"),
        "names": ("m", "alias"),
        "port": 4000,
        "guard_secret": "secret",
        "drain_seconds": 600,
        "max_concurrency": 32,
    }
    return Serve(**(values | changes))


def test_the_whole_command() -> None:
    assert command(serve(args=("--max-model-len", "2048")), {}).argv == (
        *("/env/bin/python", "-m", "vllm.entrypoints.launchers.api_server.entry"),
        *("--model", "/models/m"),
        *("--served-model-name", "m", "alias"),
        *("--host", "127.0.0.1"),
        *("--port", "4000"),
        *("--middleware", "tidegate_guard.Guard"),
        *("--shutdown-timeout", "600"),
        *("--max-num-seqs", "32"),
        "--enable-prompt-tokens-details",
        "--disable-uvicorn-access-log",
        *("--dtype", "float32"),
        "--enforce-eager",
        *("--max-model-len", "2048"),
    )


@pytest.mark.parametrize(
    ("changes", "present", "absent"),
    [
        ({"device": "gpu"}, [], ["--dtype", "--enforce-eager"]),
        ({"task": "embed"}, ["--runner", "pooling", "--convert", "embed"], []),
        ({"task": "rerank"}, ["--runner", "pooling"], ["--convert"]),
        ({"task": "score"}, ["--runner", "pooling"], ["--convert"]),
        ({"task": "classify"}, ["--runner", "pooling", "--convert", "classify"], []),
        ({"task": "generate"}, [], ["--runner", "--convert"]),
        ({"drain_seconds": 0}, ["--shutdown-timeout", "1"], ["0"]),
        ({"host": "0.0.0.0"}, ["--host", "0.0.0.0"], ["127.0.0.1"]),
    ],
)
def test_choices(changes: dict[str, Any], present: list[str], absent: list[str]) -> None:
    argv = command(serve(**changes), {}).argv
    assert set(present) <= set(argv)
    assert not set(absent) & set(argv)


def test_the_users_arguments_come_last_and_cannot_extend_ours() -> None:
    argv = command(serve(args=("--dtype", "float16")), {}).argv
    assert argv[-2:] == ("--dtype", "float16")
    assert command(serve(), {}).argv[-1] == "--enforce-eager"  # takes no value
    assert command(serve(device="gpu"), {}).argv[-1] == "--disable-uvicorn-access-log"


def test_secrets_of_the_platform_do_not_pass() -> None:
    inherited = {
        "PATH": "/bin",
        "HOME": "/root",
        "TIDEGATE_INTERNAL_TOKEN": "t",
        "HTTPS_PROXY": "http://p",
        "PYTHONPATH": "/x",
        "VLLM_API_KEY": "k",
        "VLLM_SERVER_DEV_MODE": "1",
    }
    env = command(serve(), inherited).env
    assert env["PATH"] == "/bin"
    assert env["HOME"] == "/root"
    assert not {"TIDEGATE_INTERNAL_TOKEN", "HTTPS_PROXY", "VLLM_API_KEY"} & set(env)
    assert "VLLM_SERVER_DEV_MODE" not in env
    assert env["PYTHONPATH"] == str(GUARD_FOLDER)


def test_the_users_variables_win_over_defaults_and_lose_to_the_guards() -> None:
    env = command(
        serve(
            env={"VLLM_CPU_KVCACHE_SPACE": "4", "ENGINE_GUARD_SECRET": "", "HF_HUB_OFFLINE": "0"}
        ),
        {},
    ).env
    assert env["VLLM_CPU_KVCACHE_SPACE"] == "4"
    assert env["ENGINE_GUARD_SECRET"] == "secret"
    assert env["HF_HUB_OFFLINE"] == "1"


def test_threads_are_bound_to_the_given_cores() -> None:
    assert command(serve(cpus=(0, 1)), {}).env["VLLM_CPU_OMP_THREADS_BIND"] == "0,1"
    assert command(serve(), {}).env["VLLM_CPU_OMP_THREADS_BIND"] == "auto"
    assert "VLLM_CPU_OMP_THREADS_BIND" not in command(serve(device="gpu"), {}).env


def test_the_guards_folder_holds_nothing_else_to_import() -> None:
    assert {path.name for path in GUARD_FOLDER.glob("*.py")} == {"__init__.py", "tidegate_guard.py"}


@pytest.mark.parametrize("changes", [{"guard_secret": ""}, {"names": ()}])
def test_what_would_disarm_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="engine"):
        command(serve(**changes), {})


@pytest.mark.parametrize(
    ("devices", "args", "told"),
    [
        (1, (), False),
        (4, (), True),
        (4, ("--max-model-len", "4096"), True),
        (4, ("--tensor-parallel-size", "2"), False),
        (4, ("--tensor_parallel_size=2",), False),
        (4, ("-tp", "4"), False),
        (4, ("--pipeline-parallel-size", "4"), False),
    ],
)
def test_several_gpus_serve_one_model_unless_its_own_arguments_divide_them(
    devices: int, args: tuple[str, ...], told: bool
) -> None:
    argv = command(serve(device="gpu", devices=devices, args=args), {}).argv
    ours = argv[: len(argv) - len(args)]
    assert ("--tensor-parallel-size" in ours) is told
    assert not told or ours[-2:] == ("--tensor-parallel-size", str(devices))
    assert "--tensor-parallel-size" not in command(serve(devices=4), {}).argv
