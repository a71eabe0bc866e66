"""A model on a device other than the CPU: the user's own vLLM, found before anything is fetched, and the
command line that it gets. No test has seen a GPU."""

import sys
from pathlib import Path

import pytest

import stock_vllm
from tidegate_billing.settings import read
from tidegate_operator.cli.up import options
from tidegate_operator.local import interpreter, resources
from tidegate_operator.local.engines import PrepareError, Start
from tidegate_runtime.contract.resource import parse
from tidegate_runtime.contract.spec import ModelDeployment
from tidegate_runtime.engines.vllm.args import ENTRY

DOCUMENT = """
apiVersion: tidegate.dev/v1alpha1
kind: ModelDeployment
metadata: {name: m}
spec:
  model: {uri: "file://FOLDER"}
  engine: {args: [--gpu-memory-utilization, "0.4"]}
  resources: {profile: "PROFILE"}
  scaling: {maxReplicas: 1}
  pricing: {inputPerMillion: "0.10", outputPerMillion: "0.40"}
"""
START = Start("m-1", 4000, "secret", Path())


def told(phase: str, detail: str) -> None:
    """Nobody listens."""


def deployment(folder: Path, profile: str) -> ModelDeployment:
    text = DOCUMENT.replace("FOLDER", str(folder)).replace("PROFILE", profile)
    [one] = parse(text, str(folder)).resources
    return one


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    header = b'{"x":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}'
    text = len(header).to_bytes(8, "little") + header + bytes(4)
    (folder / "model.safetensors").write_bytes(text)
    return folder


async def test_the_command_is_the_users_vllm_without_the_cpus_settings(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    python = stock_vllm.environment(tmp_path / "own")
    engine = resources.engine(deployment(weights, "nvidia-l4:2"), tmp_path / "cache", python)
    await engine.prepare(told)
    made = engine.command(START)
    assert made.args[:3] == (str(python), "-m", ENTRY)
    assert made.args[made.args.index("--model") + 1] == str(weights)
    assert made.args[-4:] == ("--tensor-parallel-size", "2", "--gpu-memory-utilization", "0.4")
    assert not {"--dtype", "--enforce-eager"} & set(made.args)
    assert not [name for name in made.env if name.startswith(("VLLM_CPU_", "TORCHDYNAMO"))]
    assert (made.env["CUDA_VISIBLE_DEVICES"], made.env["HF_HUB_OFFLINE"]) == ("1,3", "1")
    assert not (tmp_path / "cache" / "engines").exists()  # the CPU's vLLM was not installed


async def test_one_device_is_not_divided(weights: Path, tmp_path: Path) -> None:
    python = stock_vllm.environment(tmp_path / "own")
    engine = resources.engine(deployment(weights, "nvidia-l4"), tmp_path, python)
    await engine.prepare(told)
    assert "--tensor-parallel-size" not in engine.command(START).args


@pytest.mark.parametrize(
    ("python", "reason", "words"),
    [
        (None, "Unschedulable", "profile: gpu:1 takes a vLLM for its device, and TIDEGATE_VLLM_PYTHON"),
        ("/no/such/python", "ImagePullBackOff", "=/no/such/python: No such file or directory; allowed"),
        ("bare", "ImagePullBackOff", "no package called vllm is installed there; allowed"),
        ("old", "ImagePullBackOff", f"its vLLM 0.9.1 has no {ENTRY}; allowed: vllm 0.32; allowed"),
    ],
)  # fmt: skip
async def test_what_cannot_run_is_told_before_the_model_is_fetched(
    python: str | None, reason: str, words: str, tmp_path: Path
) -> None:
    made = {
        "bare": Path(sys.base_prefix) / "bin" / Path(sys.executable).resolve().name,
        "old": tmp_path / "old" / "bin" / "python",
    }
    if python == "old":
        stock_vllm.environment(tmp_path / "old", version="0.9.1", entry="vllm.entrypoints.old")
    own = None if python is None else made.get(python, Path(python))
    engine = resources.engine(deployment(Path("/no/such/model"), "gpu:1"), tmp_path, own)
    with pytest.raises(PrepareError, match=r".") as error:
        await engine.prepare(told)
    assert words in str(error.value)
    assert (error.value.reason, error.value.curable) == (reason, False)


def test_devices_of_a_profile() -> None:
    assert [interpreter.devices(one) for one in ("l4", "l4:1", "nvidia-h100:8")] == [1, 1, 8]


def test_the_setting_keeps_the_link_that_says_which_environment_it_is(tmp_path: Path) -> None:
    python = stock_vllm.environment(tmp_path / "own")
    values = read({"vllm-python": str(python)}, {})
    assert options((), values, {}).vllm_python == python
    assert (
        options((), read({}, {"TIDEGATE_VLLM_PYTHON": "~/p"}), {}).vllm_python == Path.home() / "p"
    )
    assert options((), {}, {}).vllm_python is None
