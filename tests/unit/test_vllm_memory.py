"""The memory an engine needs, from its model's headers and configuration, as tables."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import stock_vllm
from tidegate_operator.local import engines, machine
from tidegate_operator.local.engines import PrepareError, Start
from tidegate_operator.local.vllm import Vllm
from tidegate_runtime.contract.spec import (
    EngineSpec,
    Metadata,
    ModelDeployment,
    ModelSpec,
    ResourcesSpec,
    Spec,
)
from tidegate_runtime.engines.vllm import environment, memory, weights
from tidegate_runtime.engines.vllm.memory import GIB, PROCESSES, Need, Settings
from tidegate_runtime.engines.vllm.progress import SourceError
from tidegate_runtime.engines.vllm.weights import Weights

SMOL: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "head_dim": 64, "hidden_size": 576,
    "intermediate_size": 1536, "max_position_embeddings": 8192, "num_attention_heads": 9,
    "num_hidden_layers": 30, "num_key_value_heads": 3, "vocab_size": 49152,
}  # fmt: skip
QWEN: Mapping[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"], "head_dim": 128, "hidden_size": 1024,
    "intermediate_size": 3072, "max_position_embeddings": 40960, "num_attention_heads": 16,
    "num_hidden_layers": 28, "num_key_value_heads": 8, "vocab_size": 151936,
    "sliding_window": None, "use_sliding_window": False,
}  # fmt: skip


def tensors(path: Path, *, cut: int = 0, **shapes: tuple[str, list[int]]) -> Path:
    """A safetensors file of zeros; its last `cut` bytes are missing."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (kind, shape) in shapes.items():
        size = weights.BYTES[kind]
        for side in shape:
            size *= side
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end - cut))
    return path


def test_weights_are_counted_by_type(tmp_path: Path) -> None:
    tensors(tmp_path / "a-00001-of-00002.safetensors", x=("BF16", [10, 3]), y=("F32", [5]))
    tensors(
        tmp_path / "a-00002-of-00002.safetensors", x=("BF16", [20]), q=("I8", [7]), s=("F16", [])
    )
    tensors(tmp_path / "consolidated.safetensors", x=("BF16", [999]))
    found = weights.read(tmp_path)
    assert found.numbers == {"BF16": 50, "F32": 5, "I8": 7, "F16": 1}
    assert found.loaded(4) == (50 + 5 + 1) * 4 + 7
    assert found.loaded(2) == (50 + 5 + 1) * 2 + 7
    assert found.stored < sum(path.stat().st_size for path in tmp_path.iterdir())


def test_of_pickles_only_the_size_is_known(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(200))
    assert weights.read(tmp_path) == Weights({"F16": 100}, 200)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a whole safetensors file"),
        (b"w", "not a whole safetensors file: it begins without a header"),
        (b"\xff" * 64, "not a whole safetensors file"),
        ((2).to_bytes(8, "little") + b"{]", "not a whole safetensors file"),
    ],
)
def test_what_is_no_safetensors_is_said(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(SourceError, match=words):
        weights.read(tmp_path)


def test_a_file_that_was_cut_off_is_said(tmp_path: Path) -> None:
    path = tensors(tmp_path / "model.safetensors", cut=3, x=("F16", [10]))
    with pytest.raises(SourceError, match=f"cut off: .* it has {path.stat().st_size}"):
        weights.read(tmp_path)
    path.unlink()
    path.symlink_to(tmp_path / "gone")
    with pytest.raises(SourceError, match="cannot be read: No such file"):
        weights.read(tmp_path)


@pytest.mark.parametrize(
    ("config", "layers", "kv_heads", "head_size", "longest", "plain", "generates"),
    [
        (SMOL, 30, 3, 64, 8192, True, True),
        (QWEN, 28, 8, 128, 40960, True, True),
        ({"architectures": ["GPT2LMHeadModel"], "n_embd": 768, "n_head": 12, "n_layer": 12,
          "n_positions": 1024}, 12, 12, 64, 1024, True, True),
        ({"architectures": ["XForConditionalGeneration"], "text_config": SMOL}, 30, 3, 64, 8192,
         True, True),
        ({**SMOL, "sliding_window": 4096}, 30, 3, 64, 8192, False, True),
        ({**SMOL, "sliding_window": 4096, "use_sliding_window": False}, 30, 3, 64, 8192, True, True),
        ({**SMOL, "layer_types": ["full_attention"] * 30}, 30, 3, 64, 8192, True, True),
        ({**SMOL, "layer_types": ["full_attention", "sliding_attention"]}, 30, 3, 64, 8192, False,
         True),
        ({**SMOL, "kv_lora_rank": 512, "use_sliding_window": False}, 30, 3, 64, 8192, False, True),
        ({**SMOL, "architectures": ["BertModel"]}, 30, 3, 64, 8192, True, False),
        ({}, 0, 0, 0, 0, True, False),
        ({"architectures": None, "hidden_size": "many", "num_attention_heads": -1}, 0, 0, 0, 0,
         True, False),
    ],
)  # fmt: skip
def test_a_shape(
    config: Mapping[str, Any],
    layers: int,
    kv_heads: int,
    head_size: int,
    longest: int,
    plain: bool,
    generates: bool,
) -> None:
    found = memory.shape(config)
    assert (found.layers, found.kv_heads, found.head_size) == (layers, kv_heads, head_size)
    assert (found.longest, found.plain, found.generates) == (longest, plain, generates)


@pytest.mark.parametrize(
    ("args", "env", "expected"),
    [
        ([], {}, Settings(4, 0, 0, 32, 2048)),
        (
            ["--dtype", "float32"],
            {"VLLM_CPU_KVCACHE_SPACE": "2"},
            Settings(4, 2 * GIB, 0, 32, 2048),
        ),
        (["--dtype", "float32", "--dtype=bfloat16"], {}, Settings(2, 0, 0, 32, 2048)),
        (["--max-model-len", "4k"], {}, Settings(4, 0, 4000, 32, 2048)),
        (["--max_model_len=4K"], {}, Settings(4, 0, 4096, 32, 2048)),
        (["--max-model-len=1.5k"], {}, Settings(4, 0, 1500, 32, 2048)),
        (["--max-model-len", "auto"], {}, Settings(4, 0, 0, 32, 2048)),
        (["--max-model-len", "-1"], {}, Settings(4, 0, 0, 32, 2048)),
        (["--max-num-seqs", "8", "--max-num-batched-tokens=512"], {}, Settings(4, 0, 0, 8, 512)),
        (["--max-model-len"], {"VLLM_CPU_KVCACHE_SPACE": "one"}, Settings(4, 0, 0, 32, 2048)),
    ],
)
def test_settings(args: list[str], env: dict[str, str], expected: Settings) -> None:
    assert memory.settings(args, env, 32) == expected


def test_the_estimate_is_what_was_measured() -> None:
    """A real start of this model took 3.43 GiB of what was available; see the module."""
    told = Settings(4, GIB, 0, 32, 2048)
    made = memory.need(Weights({"F16": 134_515_008}, 0), memory.shape(SMOL), told)
    assert made.weights == 4 * 134_515_008
    assert made.request == 2 * 30 * 3 * 64 * 4 * 8192
    assert made.total / GIB == pytest.approx(3.55, abs=0.05)
    assert memory.refusal(made, 4 * GIB, "is free now") == ""


@pytest.mark.parametrize(
    ("need", "free", "words"),
    [
        (Need(2 * GIB, GIB, 0, 0, 0), 5 * GIB, ""),
        (
            Need(2 * GIB, GIB, 0, 0, 0), 5 * GIB - 1,
            "it needs about 5.00 GiB of memory (weights 2.00 GiB + KV cache 1.00 GiB + activations 0.00 GiB + processes 2.00 GiB), and 5.00 GiB is free now: take a smaller or quantized model",
        ),
        (
            Need(2 * GIB, 4 * GIB, GIB // 2, GIB, 8192), 3 * GIB,
            "it needs about 8.50 GiB of memory (weights 2.00 GiB + KV cache 4.00 GiB + activations 0.50 GiB + processes 2.00 GiB), and 3.00 GiB is free now: take a smaller or quantized model, or a smaller VLLM_CPU_KVCACHE_SPACE",
        ),
        (
            Need(GIB, GIB, 0, 8 * GIB + 1, 40960), 64 * GIB,
            "the KV cache of one request of 40960 tokens takes 8.00 GiB, and VLLM_CPU_KVCACHE_SPACE sets 1.00 GiB aside: give --max-model-len=5119 or less in spec.engine.args, or VLLM_CPU_KVCACHE_SPACE=9 in spec.engine.env",
        ),
        (Need(GIB, 0, 0, 8 * GIB, 40960), GIB + PROCESSES, ""),  # nobody set its size
    ],
)  # fmt: skip
def test_refusals_are_arithmetic(need: Need, free: int, words: str) -> None:
    assert memory.refusal(need, free, "is free now") == words


def deployment(uri: str, profile: str = "cpu", *args: str) -> ModelDeployment:
    return ModelDeployment(
        metadata=Metadata(name="m"),
        spec=Spec(
            model=ModelSpec(uri=uri),
            engine=EngineSpec(args=list(args)),
            resources=ResourcesSpec(profile=profile),
        ),
    )


def model(folder: Path, config: Mapping[str, Any]) -> str:
    tensors(folder / "model.safetensors", x=("F16", [64]))
    (folder / "config.json").write_text(json.dumps(config))
    return f"file://{folder}"


@pytest.fixture
def memory_of(monkeypatch: pytest.MonkeyPatch) -> list[machine.Memory]:
    """What the machine says it has, last entry first."""
    has = [machine.Memory(64 * GIB, 64 * GIB)]

    async def installed(cache: Path, progress: object) -> environment.Environment:
        return environment.Environment(cache, Path("python"))

    monkeypatch.setattr(environment, "install", installed)
    monkeypatch.setattr(machine, "memory", lambda: has[-1])
    return has


def told(phase: str, detail: str) -> None:
    """Nothing."""


START = Start("m-1", 1, "secret", Path("/truth"))


async def test_what_is_free_is_compared_with_what_it_needs(
    memory_of: list[machine.Memory], tmp_path: Path
) -> None:
    engine: engines.Engine = Vllm(deployment(model(tmp_path / "m", SMOL)), {}, tmp_path)
    assert engine.needs() == 0
    await engine.prepare(told)
    assert 3 * GIB < engine.needs() < 4 * GIB
    words = engine.lacking(3 * GIB, "is free now")
    assert re.search(r"GiB of memory .* and 3\.00 GiB is free now", words)
    assert not engine.lacking(engine.needs(), "is free now")
    assert "--model" in engine.command(START).args


@pytest.mark.parametrize(
    ("config", "args", "total", "words"),
    [
        (SMOL, [], 3 * GIB, r"3\.00 GiB is all there is"),
        (QWEN, [], 64 * GIB, r"one request of 40960 tokens takes 8\.75 GiB"),
        (QWEN, ["--max-model-len=4096"], 64 * GIB, ""),
        (QWEN, ["--max-model-len", "4096", "--dtype", "float16"], 64 * GIB, ""),
    ],
)
async def test_what_never_fits_is_refused_before_anything_is_installed(
    config: Mapping[str, Any],
    args: list[str],
    total: int,
    words: str,
    memory_of: list[machine.Memory],
    tmp_path: Path,
) -> None:
    memory_of.append(machine.Memory(total, total))
    engine = Vllm(deployment(model(tmp_path / "m", config), "cpu", *args), {}, tmp_path)
    if not words:
        return await engine.prepare(told)
    with pytest.raises(PrepareError, match=words) as error:
        await engine.prepare(told)
    assert (error.value.reason, error.value.curable) == ("OutOfMemory", False)
    return None


async def test_a_gpus_memory_is_not_guessed(
    memory_of: list[machine.Memory], tmp_path: Path
) -> None:
    memory_of.append(machine.Memory(GIB, GIB))
    python = stock_vllm.environment(tmp_path / "own")
    engine = Vllm(deployment(model(tmp_path / "m", SMOL), "gpu"), {}, tmp_path, python)
    await engine.prepare(told)
    assert engine.command(START).args


MEMINFO = (
    "MemTotal:       1048576 kB\nMemFree: 1 kB\nMemAvailable:    524288 kB\nHugePages_Total: 0\n"
)
MIB = 2**20


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("", {}, (1024, 512)),
        ("0::/a/b\n", {}, (1024, 512)),
        ("0::/a/b\n", {"a": ("memory.max", "max", "memory.current", 0, "")}, (1024, 512)),
        ("0::/a/b\n", {"a": ("memory.max", 600, "memory.current", 200, "inactive_file 0")}, (600, 400)),
        ("0::/a/b\n", {"a": ("memory.max", 600, "memory.current", 580, "inactive_file 104857600")},
         (600, 120)),
        ("0::/a/b\n", {"a": ("memory.max", 600, "memory.current", 0, ""),
                       "a/b": ("memory.max", 100, "memory.current", 90, "")}, (100, 10)),
        ("3:cpu,memory:/x\n", {"memory/x": ("memory.limit_in_bytes", 300, "memory.usage_in_bytes", 100,
                                            "inactive_file 1\ntotal_inactive_file 52428800")}, (300, 250)),
        ("3:cpu:/x\n", {"memory/x": ("memory.limit_in_bytes", 3, "memory.usage_in_bytes", 1, "")},
         (1024, 512)),
    ],
)  # fmt: skip
def test_a_control_groups_limit_counts(
    cgroup: str, files: dict[str, tuple[Any, ...]], expected: tuple[int, int], tmp_path: Path
) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(MEMINFO)
    (tmp_path / "proc" / "self" / "cgroup").write_text(cgroup)
    for folder, (limit_file, limit, used_file, used, stat) in files.items():
        place = tmp_path / "sys/fs/cgroup" / folder
        place.mkdir(parents=True)
        (place / limit_file).write_text(str(limit if limit == "max" else limit * MIB))
        (place / used_file).write_text(str(used * MIB))
        (place / "memory.stat").write_text(stat)
    found = machine.memory(tmp_path)
    assert (found.total // MIB, found.available // MIB) == expected


def test_this_machine_has_memory() -> None:
    here = machine.memory()
    assert 0 < here.available <= here.total
