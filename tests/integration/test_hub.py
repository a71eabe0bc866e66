"""`hf://` end to end: the real huggingface_hub, in its process, against a hub on real sockets."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hub_server
from tidegate_runtime.engines.vllm import environment, hub, sources
from tidegate_runtime.engines.vllm.progress import (
    DiskError,
    FetchError,
    PrepareError,
    Progress,
    SourceError,
)

CONFIG = b'{"architectures": ["LlamaForCausalLM"]}'
WEIGHTS = bytes(range(256)) * 2**14  # 4 MiB
HALF = len(WEIGHTS) // 2
MODEL = {
    "config.json": CONFIG,
    "tokenizer.json": b"{}" * 3000,
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickled" * 1000,
    "modeling_odd.py": b"import os",
    "onnx/model.onnx": b"o" * 5000,
    "onnx/config.json": CONFIG,
    "README.md": b"words",
}


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[hub_server.Hub]:
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
        monkeypatch.delenv(name)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    with hub_server.serving() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setattr(hub, "MARGIN", 2**20)
        yield running


async def prepare(
    uri: str, cache: Path, revision: str = "main", token: str = ""
) -> tuple[Path, list[Progress]]:
    told: list[Progress] = []
    return await sources.prepare(uri, revision, cache, told.append, token), told


async def test_a_model_is_fetched_once_and_pinned_to_its_commit(
    served: hub_server.Hub, tmp_path: Path
) -> None:
    first = served.add("team/tiny", MODEL)
    folder, told = await prepare("hf://team/tiny", tmp_path)
    assert folder.name == first
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert told[0] == Progress("fetching", "hf://team/tiny (main)", None)
    assert any(first[:12] in step.detail for step in told)
    fractions = [step.fraction for step in told if step.fraction is not None]
    assert fractions == sorted(fractions)
    assert len(fractions) > 3
    assert fractions[-1] == 1.0

    served.add("team/tiny", MODEL | {"config.json": b'{"new": 1}'})
    asked = len(served.asked)
    assert await prepare("hf://team/tiny", tmp_path) == (folder, [])
    assert sources.prepared("hf://team/tiny", "", tmp_path) == folder
    assert len(served.asked) == asked
    pins = list((tmp_path / "hub" / "pins").iterdir())
    assert [json.loads(pin.read_text())["commit"] for pin in pins] == [first]


async def test_a_commit_can_be_asked_for(served: hub_server.Hub, tmp_path: Path) -> None:
    first = served.add("team/tiny", MODEL)
    second = served.add("team/tiny", MODEL | {"config.json": b'{"new": 1}'})
    old, _ = await prepare("hf://team/tiny", tmp_path, first)
    new, _ = await prepare("hf://team/tiny", tmp_path)
    assert (old.name, new.name) == (first, second)
    assert (old / "config.json").read_bytes() == CONFIG
    assert len(served.ranges()) == 2  # weights and tokenizer; the second commit shares both


async def test_a_killed_download_goes_on_where_it_was(
    served: hub_server.Hub, tmp_path: Path
) -> None:
    served.add("team/tiny", {"config.json": CONFIG, "model.safetensors": WEIGHTS})
    served.stall_at = HALF
    task = asyncio.create_task(prepare("hf://team/tiny", tmp_path))
    partial = tmp_path / "hub" / "partial"
    while not (served.stalled.is_set() and next(iter(partial.iterdir())).stat().st_size == HALF):
        assert not task.done()
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    served.stall_at = None
    folder, told = await prepare("hf://team/tiny", tmp_path)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert served.ranges() == ["", f"bytes={HALF}-"]
    fractions = [step.fraction for step in told if step.fraction is not None]
    assert min(fractions) >= 0.5 - 0.01
    assert not list(partial.iterdir())


async def test_a_broken_connection_goes_on_by_itself(
    served: hub_server.Hub, tmp_path: Path
) -> None:
    served.add("team/tiny", {"config.json": CONFIG, "model.safetensors": WEIGHTS})
    served.cut_at = HALF
    folder, _ = await prepare("hf://team/tiny", tmp_path)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert served.ranges() == ["", f"bytes={HALF}-"]


async def test_damaged_weights_are_never_served(served: hub_server.Hub, tmp_path: Path) -> None:
    served.add("team/tiny", {"config.json": CONFIG, "model.safetensors": WEIGHTS})
    served.spoilt = True
    with pytest.raises(FetchError, match=r"model\.safetensors came damaged"):
        await prepare("hf://team/tiny", tmp_path)
    served.spoilt = False
    assert (await prepare("hf://team/tiny", tmp_path))[0].is_dir()


@pytest.mark.parametrize("digest", ["../../../{victim}", "{victim}", "x", "A" * 64])
async def test_a_hub_cannot_name_files_of_this_machine(
    served: hub_server.Hub, tmp_path: Path, digest: str
) -> None:
    """Our partial files are named by the hash that the hub promises, and thrown away by it."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine" * 2_000_000)
    served.add("team/tiny", MODEL, digest=digest.format(victim=victim))
    with pytest.raises(FetchError, match=r"model\.safetensors has no hash that is one"):
        await prepare("hf://team/tiny", tmp_path / "cache")
    assert victim.stat().st_size == 8_000_000
    assert not any((tmp_path / "cache" / "hub").glob("partial/*"))


async def test_a_gated_model_needs_a_token_and_only_the_hub_sees_it(
    served: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "not-asked-for")
    commit = served.add("team/tiny", MODEL, token="hf_good", gated=True)
    with pytest.raises(SourceError, match=r"is gated; accept its terms on .*team/tiny.*secretRef"):
        await prepare("hf://team/tiny", tmp_path)
    assert not any("authorization" in headers for _, _, headers in served.asked)
    with pytest.raises(SourceError, match="the token given may not read it"):
        await prepare("hf://team/tiny", tmp_path, token="hf_other")
    folder, _ = await prepare("hf://team/tiny", tmp_path, token="hf_good")
    assert folder.name == commit
    seen = {headers.get("authorization") for _, path, headers in served.asked if "/files/" in path}
    assert seen == {None}


@pytest.mark.parametrize(
    ("uri", "revision", "error", "words"),
    [
        ("hf://team/none", "main", SourceError, "is not on http.*, or is private: .*HF_TOKEN_FILE"),
        ("hf://team/tiny", "v9", SourceError, "there is no revision v9"),
        ("hf://team/tiny#sub", "main", SourceError, "there is no sub in it"),
        ("hf://team/pickled", "main", SourceError, "pickled weights"),
        ("hf://team/ggufs", "main", SourceError, r"name one with #path: a\.gguf, b\.gguf"),
        ("hf://team/holed", "main", SourceError, "1 of 2 weight files missing: model-00002-of-"),
    ],
)
async def test_what_is_wrong_is_said(
    uri: str,
    revision: str,
    error: type[PrepareError],
    words: str,
    served: hub_server.Hub,
    tmp_path: Path,
) -> None:
    served.add("team/tiny", MODEL)
    served.add("team/pickled", {"config.json": CONFIG, "pytorch_model.bin": WEIGHTS})
    served.add("team/ggufs", {"a.gguf": WEIGHTS, "b.gguf": b"g" * 5000})
    index = {"weight_map": {f"{n}": f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}}
    holed = {"config.json": CONFIG, "model-00001-of-00002.safetensors": WEIGHTS}
    served.add("team/holed", holed | {"model.safetensors.index.json": json.dumps(index).encode()})
    with pytest.raises(error, match=words):
        await prepare(uri, tmp_path, revision)


async def test_no_room_is_said_before_anything_is_fetched(
    served: hub_server.Hub, tmp_path: Path
) -> None:
    served.add("team/huge", MODEL, claimed={"model.safetensors": 10**16})
    words = r"no room in .*GiB to fetch - 0\.0 MiB here already \+ 1\.0 MiB to spare = .* are free"
    with pytest.raises(DiskError, match=words):
        await prepare("hf://team/huge", tmp_path)
    assert not served.ranges()
    assert not any("/resolve/" in path for path in served.paths())


async def test_without_a_network_it_says_so_and_what_is_here_is_served(
    served: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.add("team/tiny", MODEL)
    folder, _ = await prepare("hf://team/tiny", tmp_path)
    with socket.socket() as unused:  # bound, and nobody listens
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(FetchError, match=r"could not be reached .*is there a network"):
            await prepare("hf://team/tiny", tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", served.url)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FetchError, match="HF_HUB_OFFLINE is set"):
        await prepare("hf://team/tiny", tmp_path, "v1")
    assert (await prepare("hf://team/tiny", tmp_path))[0] == folder


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_hub_in_trouble_is_tried_again(
    status: int, served: hub_server.Hub, tmp_path: Path
) -> None:
    served.status = status
    with pytest.raises(FetchError, match=f"answered {status}"):
        await prepare("hf://team/tiny", tmp_path)


async def test_two_at_once_fetch_once(served: hub_server.Hub, tmp_path: Path) -> None:
    served.add("team/tiny", MODEL)
    both = await asyncio.gather(*(prepare("hf://team/tiny", tmp_path) for _ in range(2)))
    assert both[0][0] == both[1][0]
    assert len(served.ranges()) == 2


async def test_a_gguf_of_a_repository_is_converted(
    served: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = tmp_path / "convert.py"
    convert.write_text(
        "import pathlib, sys\n"
        "source, target = map(pathlib.Path, sys.argv[1:])\n"
        "target.mkdir()\n"
        "(target / 'config.json').write_text('{}')\n"
        "(target / 'model.safetensors').write_bytes(source.read_bytes())\n"
    )

    async def installed(cache: Path, progress: object) -> environment.Environment:
        return environment.Environment(cache, Path(sys.executable))

    monkeypatch.setattr(sources, "_CONVERT", convert)
    monkeypatch.setattr(environment, "install", installed)
    files = {"q4.gguf": WEIGHTS, "q8.gguf": b"g" * 9000, "mmproj-f16.gguf": b"v" * 4000}
    served.add("team/ggufs", files)
    folder, _ = await prepare("hf://team/ggufs#q4.gguf", tmp_path)
    assert folder.parent == tmp_path / "models"
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert sources.prepared("hf://team/ggufs#q4.gguf", "", tmp_path) == folder
    assert len(served.ranges()) == 1
