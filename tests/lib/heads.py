"""Classifiers for tests: a real embedding model's weights under a head of fixed numbers.

No package ships a small classifier or cross-encoder. What such a model says is nonsense; how vLLM
serves and counts it is not.
"""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")


def classifier(encoder: Path, folder: Path, labels: int) -> Path:
    """Make a `BertForSequenceClassification` of a BERT encoder's folder. With one label it is a
    cross-encoder, which scores pairs."""
    folder.mkdir()
    for name in _TOKENIZER:
        shutil.copy(encoder / name, folder / name)
    config = json.loads((encoder / "config.json").read_text())
    config["architectures"] = ["BertForSequenceClassification"]
    config["id2label"] = {str(i): f"label-{i}" for i in range(labels)}
    config["label2id"] = {f"label-{i}": i for i in range(labels)}
    (folder / "config.json").write_text(json.dumps(config))
    width = config["hidden_size"]
    tensors = {
        f"bert.{name}": tensor
        for name, tensor in _read(encoder / "model.safetensors").items()
        if "position_ids" not in name
    }
    weights = [(i * 7919 % 101 - 50) / 500 for i in range(labels * width)]
    tensors["classifier.weight"] = _floats(weights, [labels, width])
    tensors["classifier.bias"] = _floats([0.0] * labels, [labels])
    _write(folder / "model.safetensors", tensors)
    return folder


_Tensor = tuple[dict[str, Any], bytes]


def _floats(values: list[float], shape: list[int]) -> _Tensor:
    return {"dtype": "F32", "shape": shape}, struct.pack(f"<{len(values)}f", *values)


def _read(path: Path) -> dict[str, _Tensor]:
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    head, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    return {
        name: (about, data[slice(*about["data_offsets"])])
        for name, about in head.items()
        if name != "__metadata__"
    }


def _write(path: Path, tensors: dict[str, _Tensor]) -> None:
    head, at = {}, 0
    for name, (about, data) in tensors.items():
        head[name] = about | {"data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(data for _, data in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
