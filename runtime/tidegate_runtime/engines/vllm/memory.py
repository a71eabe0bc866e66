"""How much memory a vLLM on a CPU needs, before it is started: an estimate with its arithmetic.

    weights      every floating-point number as wide as the engine computes with (4 bytes here)
    KV cache     what VLLM_CPU_KVCACHE_SPACE sets aside; one whole request must fit in it, or vLLM
                 refuses to start after it has loaded everything
    activations  one step of `max_num_batched_tokens` through the widest layer, and its logits
    processes    what three Python processes with PyTorch take without any model

The last was measured: SmolLM2-135M with 513 MiB of weights and 1 GiB of cache takes 3.43 GiB of
what was available. An engine on a GPU is not estimated: its weights do not stay in main memory.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from tidegate_runtime.engines.vllm.weights import Weights

GIB: Final = 2**30
PROCESSES: Final = 2 * GIB
BATCHED_TOKENS: Final = 2048
_WIDTHS: Final[Mapping[str, int]] = {
    "float32": 4,
    "float": 4,
    "float16": 2,
    "half": 2,
    "bfloat16": 2,
}
_LENGTHS: Final = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length",
)  # fmt: skip
# What makes a KV cache smaller than its shape says. Then only its set size is known.
_OTHER: Final = (
    "sliding_window", "layer_types", "kv_lora_rank", "layers_block_type", "attn_layer_period",
    "hybrid_override_pattern", "state_size", "num_kv_shared_layers",
)  # fmt: skip
_UNITS: Final[Mapping[str, int]] = {
    "k": 1000, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30,
}  # fmt: skip


class Shape(NamedTuple):
    """Of a model's configuration what memory depends on; 0 = not told. `plain`: every layer keeps
    keys and values of every token. `generates`: it keeps any."""

    layers: int
    kv_heads: int
    head_size: int
    hidden: int
    intermediate: int
    vocabulary: int
    longest: int
    plain: bool
    generates: bool


class Settings(NamedTuple):
    """What the engine is told. `longest` 0 = as long as the model allows."""

    width: int
    kv_space: int
    longest: int
    sequences: int
    batched: int


class Need(NamedTuple):
    """An estimate in bytes. `request`: what the KV cache of one longest request takes, 0 = not
    known; `longest`: its tokens."""

    weights: int
    kv_space: int
    activations: int
    request: int
    longest: int

    @property
    def total(self) -> int:
        """All of it, processes included."""
        return self.weights + self.kv_space + self.activations + PROCESSES


def shape(config: Mapping[str, Any]) -> Shape:
    """The shape a `config.json` describes; of a model with several towers its text's."""
    text = config.get("text_config")
    inner = {**config, **text} if isinstance(text, Mapping) else config
    heads = _number(inner, "num_attention_heads", "n_head")
    hidden = _number(inner, "hidden_size", "n_embd", "d_model")
    names = config.get("architectures") or [""]
    return Shape(
        layers=_number(inner, "num_hidden_layers", "n_layer"),
        kv_heads=_number(inner, "num_key_value_heads") or heads,
        head_size=_number(inner, "head_dim") or (hidden // heads if heads else 0),
        hidden=hidden,
        intermediate=_number(inner, "intermediate_size") or 4 * hidden,
        vocabulary=_number(inner, "vocab_size"),
        longest=_number(inner, *_LENGTHS),
        plain=not any(inner.get(name) for name in _OTHER) or _all_full(inner),
        generates=str(names[0]).endswith(
            ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
        ),
    )


def settings(args: Sequence[str], env: Mapping[str, str], sequences: int) -> Settings:
    """What `args` and `env`, the whole command line and environment of an engine, set."""
    given = dict(_options(args))
    space = env.get("VLLM_CPU_KVCACHE_SPACE", "")
    return Settings(
        width=_WIDTHS.get(given.get("dtype", ""), 4),
        kv_space=int(space) * GIB if space.isascii() and space.isdigit() else 0,
        longest=_length(given.get("max-model-len", "")),
        sequences=_length(given.get("max-num-seqs", "")) or sequences,
        batched=_length(given.get("max-num-batched-tokens", "")) or BATCHED_TOKENS,
    )


def need(weights: Weights, of: Shape, set_: Settings) -> Need:
    """What an engine with these settings needs for this model."""
    token = 2 * of.layers * of.kv_heads * of.head_size * set_.width
    longest = set_.longest or of.longest
    step = set_.batched * (4 * of.hidden + 2 * of.intermediate) * set_.width
    logits = set_.sequences * of.vocabulary * 4
    return Need(
        weights=weights.loaded(set_.width),
        kv_space=set_.kv_space if of.generates else 0,
        activations=step + logits,
        request=token * longest if of.plain and of.generates else 0,
        longest=longest,
    )


def refusal(of: Need, memory: int, whose: str) -> str:
    """Why it cannot be started with `memory` bytes, called `whose` in the sentence; '' = it can."""
    if of.kv_space and of.request > of.kv_space:
        fits = of.longest * of.kv_space // of.request
        return (
            f"the KV cache of one request of {of.longest} tokens takes {_gib(of.request)}, and "
            f"VLLM_CPU_KVCACHE_SPACE sets {_gib(of.kv_space)} aside: give "
            f"--max-model-len={fits} or less in spec.engine.args, or "
            f"VLLM_CPU_KVCACHE_SPACE={math.ceil(of.request / GIB)} in spec.engine.env"
        )
    if of.total <= memory:
        return ""
    return (
        f"it needs about {_gib(of.total)} of memory (weights {_gib(of.weights)} + KV cache "
        f"{_gib(of.kv_space)} + activations {_gib(of.activations)} + processes "
        f"{_gib(PROCESSES)}), and {_gib(memory)} {whose}: take a smaller or quantized model"
        + (", or a smaller VLLM_CPU_KVCACHE_SPACE" if of.kv_space > GIB else "")
    )


def read_shape(folder: Path) -> Shape | None:
    """The shape of the model in a folder; None where its configuration cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
        return shape(config) if isinstance(config, dict) else None
    except (OSError, ValueError):
        return None


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"


def _number(config: Mapping[str, Any], *names: str) -> int:
    found = (config.get(name) for name in names)
    return next((value for value in found if isinstance(value, int) and value > 0), 0)


def _all_full(config: Mapping[str, Any]) -> bool:
    """Whether what looks like windows is none: every layer is said to attend to everything."""
    if any(config.get(name) for name in _OTHER if name not in {"layer_types", "sliding_window"}):
        return False
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and kinds:
        return all(kind == "full_attention" for kind in kinds)
    return config.get("use_sliding_window") is False


def _options(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each long option with its value, in order, so that the last one wins in a dict."""
    for index, argument in enumerate(args):
        if argument.startswith("--"):
            name, joined, value = argument[2:].partition("=")
            after = args[index + 1] if index + 1 < len(args) else ""
            yield name.replace("_", "-"), value if joined else after


def _length(text: str) -> int:
    """A number as vLLM reads it (`4096`, `4k` = 4000, `4K` = 4096); 0 for none or `auto`."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kmgKMG]?)", text)
    return int(float(match[1]) * _UNITS.get(match[2], 1)) if match else 0
