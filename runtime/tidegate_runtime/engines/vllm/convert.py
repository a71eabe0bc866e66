"""Turns one GGUF file into a model folder that vLLM serves on any device.

vLLM reads GGUF on few devices and not on CPUs, so the weights are unpacked once, to float16.

Run as a script by vLLM's own Python (`convert.py FILE FOLDER`), where transformers and torch live;
our own processes import `read_progress` only, so the heavy imports are put off. What it prints for
us starts with a mark, because the libraries it calls print, too.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

_MARK = "tidegate-convert "


class Step(NamedTuple):
    """How far a conversion is; `fraction` in [0, 1] is a guess from the usual shares of time."""

    step: str
    fraction: float


def read_progress(line: str) -> Step | None:
    """The step a printed line reports; None for any other line."""
    if not line.startswith(_MARK):
        return None
    step, fraction = json.loads(line.removeprefix(_MARK))
    return Step(str(step), float(fraction))


def _say(step: str, fraction: float) -> None:
    print(_MARK + json.dumps([step, fraction]), flush=True)  # noqa: T201 - the parent reads it


def _library(name: str) -> Any:
    """A library of vLLM's environment, which ours, and so its type checker, does not have."""
    return importlib.import_module(name)


def convert(source: Path, target: Path) -> None:
    """Write the model in `source` to the folder `target`: weights, configuration, tokenizer."""
    _say("starting", 0.0)
    torch, transformers = _library("torch"), _library("transformers")

    _say("reading the tokenizer", 0.3)
    place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**place)
    _say("unpacking the weights", 0.45)
    model = transformers.AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float16)
    # Else the folder would call itself quantized, and vLLM would look for a GGUF in it.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    _say("writing the model", 0.9)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    _say("done", 1.0)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
