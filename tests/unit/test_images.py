"""Images: what names them, what goes in, what pods rely on; and the engine image's fetch step."""

import asyncio
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import pytest

from tidegate_runtime.engines.vllm import args, environment, fetch, sources
from tidegate_runtime.engines.vllm.progress import DiskError, FetchError, Progress, SourceError

ROOT = Path(__file__).resolve().parents[2]
HARNESS = ROOT / "tests" / "cluster" / "harness"
DOCKERFILES = ["Dockerfile", "Dockerfile.vllm-cpu"]


def harness(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"images_test_{name}", HARNESS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


images = harness("images")
base = harness("base")
secrets = harness("image_secrets")


# What names an image


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text(
        "FROM x AS build\nCOPY pyproject.toml \\\n  uv.lock ./\nCOPY --chown=1:1 runtime/ runtime\n"
        "COPY --from=build /opt /opt\n"
    )
    for name in (".dockerignore", "pyproject.toml", "uv.lock", "README.md"):
        (tmp_path / name).write_text(name)
    (tmp_path / "runtime" / "__pycache__").mkdir(parents=True)
    (tmp_path / "runtime" / "a.py").write_text("a = 1\n")
    return tmp_path


RECIPE = images.Recipe("Dockerfile", "docker.io/library/x:dev")


def test_copy_lines_name_what_goes_in(tree: Path) -> None:
    assert images.copied((tree / "Dockerfile").read_text()) == [
        "pyproject.toml",
        "uv.lock",
        "runtime",
    ]


def test_the_key_follows_what_goes_in_and_nothing_else(tree: Path) -> None:
    keys = [images.key(tree, RECIPE, "base")]

    def again(recipe: Any = RECIPE, foundation: str = "base") -> str:
        keys.append(images.key(tree, recipe, foundation))
        return str(keys[-1])

    (tree / "runtime" / "__pycache__" / "a.pyc").write_bytes(b"1")
    (tree / "README.md").write_text("not copied")
    assert again() == keys[0]
    (tree / "runtime" / "a.py").write_text("a = 2\n")
    again()
    (tree / "runtime" / "a.py").rename(tree / "runtime" / "b.py")
    again()
    (tree / "runtime" / "b.py").chmod(0o755)
    again()
    (tree / ".dockerignore").write_text("*")
    again()
    again(foundation="another")
    again(recipe=images.Recipe("Dockerfile", RECIPE.name, {"MODELS": "pkg://m"}))
    assert len(set(keys)) == len(keys) - 1


def test_a_path_that_is_not_there_is_named(tree: Path) -> None:
    (tree / "uv.lock").unlink()
    with pytest.raises(FileNotFoundError, match=r"copies uv\.lock"):
        images.key(tree, RECIPE, "base")


def test_the_build_context_is_what_the_key_names(tree: Path, tmp_path_factory: Any) -> None:
    context = images._snapshot(tree, RECIPE, tmp_path_factory.mktemp("context"))
    assert images.key(context, RECIPE, "base") == images.key(tree, RECIPE, "base")
    assert not (context / "README.md").exists()
    assert not (context / "runtime" / "__pycache__").exists()


def test_an_image_in_the_cache_is_not_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = images._found("tidegate", tmp_path, ROOT)
    wanted.archive.write_bytes(b"12345")
    monkeypatch.setattr(images, "_make", lambda *_: pytest.fail("built"))
    assert images.build("tidegate", tmp_path) == wanted._replace(size=5)


def test_an_older_image_of_the_same_kind_goes(tmp_path: Path) -> None:
    old, new = (f"tidegate-{key * 16}.tar" for key in "12")
    names = [old, new, f"vllm-cpu-{'1' * 16}.tar", f"tidegate-before-{'1' * 16}.tar", "base-1.tar"]
    for name in names:
        (tmp_path / name).touch()
    images._drop_older(images.Image("tidegate", "x", "2", tmp_path / new, 0))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])


def test_an_unknown_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert images.main(["tideagte"]) == 2
    assert "allowed: tidegate, vllm-cpu" in capsys.readouterr().err


def test_the_cache_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert images.cache_root() == Path("/x/tidegate/images")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert images.cache_root() == Path.home() / ".cache/tidegate/images"


# The machine's own ways to its registries


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], ("http://deb.debian.org/debian", "http://deb.debian.org/debian-security")),
        (
            [
                "# deb http://old/debian x main\ndeb [trusted=yes] https://m.example/debian/ x main\n"
            ],
            ("https://m.example/debian", "http://deb.debian.org/debian-security"),
        ),
        (
            [
                "Types: deb\nURIs: http://a/debian\nSuites: x\n",
                "Types: deb\nURIs: http://a/debian-security\nSuites: x-security\n",
                "deb http://vendor/other x main\n",
            ],
            ("http://a/debian", "http://a/debian-security"),
        ),
    ],
)
def test_the_mirrors_of_apts_lists(texts: list[str], expected: tuple[str, str]) -> None:
    assert base.mirrors(texts) == expected


def test_the_bases_name_follows_the_mirror() -> None:
    assert base.identity("http://a", "http://b") != base.identity("http://a", "http://c")


@pytest.mark.parametrize(
    ("environ", "index", "expected"),
    [
        ({"HOME": "/root", "PIP_FIND_LINKS": "/w", "AWS_SECRET_ACCESS_KEY": "s"}, "", {}),
        ({}, "http://i", {"UV_DEFAULT_INDEX": "http://i", "PIP_INDEX_URL": "http://i"}),
        (
            {"PIP_INDEX_URL": "http://p", "https_proxy": "http://x"},
            "http://i",
            {
                "UV_DEFAULT_INDEX": "http://p",
                "PIP_INDEX_URL": "http://p",
                "https_proxy": "http://x",
            },
        ),
        (
            {"UV_DEFAULT_INDEX": "http://u", "PIP_INDEX_URL": "http://p"},
            "",
            {"UV_DEFAULT_INDEX": "http://u", "PIP_INDEX_URL": "http://p"},
        ),
    ],
)
def test_what_a_build_learns_of_the_environment(
    environ: dict[str, str], index: str, expected: dict[str, str]
) -> None:
    assert secrets.variables(environ, index) == expected


def test_secrets_are_files_only_we_can_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:a b@i/simple")
    made = secrets.secrets(tmp_path)
    assert "export PIP_INDEX_URL='http://user:a b@i/simple'\n" in made["env"].read_text()
    assert {path.stat().st_mode & 0o777 for path in made.values()} == {0o600}


# The shipped Dockerfiles


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_a_pod_relies_on(name: str) -> None:
    text = (ROOT / name).read_text()
    stages = set(re.findall(r"^FROM \S+ AS (\w+)$", text, re.MULTILINE))
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) <= stages | {"${BASE}"}
    assert "ARG BASE=debian:bookworm-slim" in text
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["65532:65532"]
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)
    assert json.loads(entry)[0].startswith("/opt/")  # no shell between a pod's signals and the part
    assert not re.search(r"amd64|x86_64|aarch64|arm64", text)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_uv_is_the_locked_one(name: str) -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    (locked,) = (each["version"] for each in lock["package"] if each["name"] == "uv")
    assert f"ARG UV_VERSION={locked}\n" in (ROOT / name).read_text()


@pytest.mark.parametrize("kind", images.SHIPPED)
def test_every_recipe_finds_its_files(kind: str) -> None:
    recipe = images.RECIPES[kind]
    names = images.copied((ROOT / recipe.dockerfile).read_text())
    assert len(list(images.files(ROOT, names))) > 5
    assert re.fullmatch(r"docker\.io/library/tidegate(-vllm-cpu)?:dev", recipe.name)


def test_the_engine_image_starts_what_local_mode_starts() -> None:
    text = (ROOT / "Dockerfile.vllm-cpu").read_text()
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)
    assert json.loads(entry) == ["/opt/vllm/bin/python", "-m", args.ENTRY]
    assert f"{args.GUARD_FOLDER.name}/{args.GUARD.partition('.')[0]}.py /ours/guard/" in text


def test_the_engine_image_has_what_the_fetch_step_imports(tmp_path: Path) -> None:
    recipe = images.RECIPES["vllm-cpu"]
    context = images._snapshot(ROOT, recipe, tmp_path)
    code = "from tidegate_runtime.engines.vllm import fetch; print(fetch.baked_name('pkg://m'))"
    bare = [
        sys.executable,
        "-SEc",
        f"import sys; sys.path.insert(0, {str(context / 'runtime')!r}); {code}",
    ]
    done = subprocess.run(bare, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == fetch.baked_name("pkg://m")


# The fetch step of the engine image


def told(_: Progress) -> None:
    return None


def model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"w")
    return folder


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("pkg://a==1", ""), ("pkg://A", "1"), True),
        (("pkg://a==1", ""), ("pkg://a==2", ""), False),
        (("pkg://a==1", ""), ("pkg://a==1#x", ""), False),
        (("hf://o/n", ""), ("hf://o/n", "main"), True),
        (("hf://o/n", ""), ("hf://o/n", "v1"), False),
        (("file:///m", ""), ("file://localhost/m", ""), True),
    ],
)
def test_a_models_name_is_its_address_however_written(
    one: tuple[str, str], other: tuple[str, str], same: bool
) -> None:
    assert (fetch.baked_name(*one) == fetch.baked_name(*other)) is same


async def test_a_model_in_the_image_needs_nothing(tmp_path: Path) -> None:
    baked = model(tmp_path / "baked" / fetch.baked_name("pkg://m==1"))
    dest = tmp_path / "volume" / "model"
    dest.mkdir(parents=True)  # a volume's folder gives way while it is empty
    assert await fetch.fetch("pkg://m==1", "", dest, tmp_path / "baked", told) == baked
    assert dest.readlink() == baked
    assert (dest / "config.json").is_file()


async def test_a_file_is_served_where_it_lies_and_the_link_follows(tmp_path: Path) -> None:
    dest = tmp_path / "volume" / "model"
    for name in ("one", "two", "two"):
        folder = tmp_path / name
        if not folder.exists():
            model(folder)
        await fetch.fetch(f"file://{folder}", "", dest, tmp_path / "baked", told)
        assert dest.readlink() == folder
    assert [path.name for path in dest.parent.iterdir() if path.name != ".tidegate"] == ["model"]


async def test_the_environment_it_runs_in_is_adopted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "vllm"))
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / ".complete").touch()
    fetch.adopt(tmp_path / "cache")
    found = environment.find(tmp_path / "cache")
    assert found is not None
    assert found.root.resolve() == tmp_path / "vllm"


async def test_baking_keeps_the_model_and_nothing_else(tmp_path: Path) -> None:
    uri = f"file://{model(tmp_path / 'source')}"
    made = await fetch.bake(uri, "", tmp_path / "baked", told)
    assert list((tmp_path / "baked").iterdir()) == [made]
    assert sorted(path.name for path in made.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("uri", "status", "words"),
    [
        ("s3://b/m", 2, "allowed are"),
        ("hf://only-one-part", 2, "allowed is hf://OWNER/NAME"),
        ("file:///nowhere/at/all", 2, "no such file"),
    ],
)
def test_what_is_wrong_is_a_status_and_a_line(
    uri: str, status: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch.main([uri, str(tmp_path / "m"), "--baked", str(tmp_path)]) == status
    assert words in capsys.readouterr().err


def test_a_volume_that_is_not_empty_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    somebodys = tmp_path / "model" / "file"
    somebodys.parent.mkdir()
    somebodys.touch()
    uri = f"file://{model(tmp_path / 'source')}"
    assert fetch.main([uri, str(tmp_path / "model"), "--baked", str(tmp_path)]) == 1
    assert "not empty" in capsys.readouterr().err
    assert somebodys.exists()


class HubError(OSError):
    """As in the hub's library: its errors of HTTP are errors of the system, too."""


class Gone(HubError):
    """A repository that is not there."""


class Gated(Gone):
    """A repository that this token may not read."""


class NoRevision(HubError):
    """A revision that is not there."""


class NotLocal(FileNotFoundError):
    """Nothing on disk and no network."""


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (Gone("404"), SourceError),
        (Gated("403"), SourceError),
        (NoRevision("404"), SourceError),
        (HubError("500"), FetchError),
        (NotLocal("offline"), FetchError),
        (OSError(28, "No space left on device"), DiskError),
        (None, None),
    ],
)
async def test_a_hubs_answers(
    raised: Exception | None,
    expected: type[Exception] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, Any] = {}

    def snapshot(repository: str, **options: Any) -> None:
        asked.update(options, repository=repository, offline=os.environ["HF_HUB_OFFLINE"])
        if raised:
            raise raised
        model(Path(options["local_dir"]))

    errors = types.SimpleNamespace(
        GatedRepoError=Gated,
        RepositoryNotFoundError=Gone,
        RevisionNotFoundError=NoRevision,
        HfHubHTTPError=HubError,
        LocalEntryNotFoundError=NotLocal,
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot))  # fmt: skip
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    work = fetch.fetch("hf://o/n", "v1", tmp_path / "m", tmp_path / "baked", told)
    if expected is None:
        assert (await work / "config.json").is_file()
        assert (asked["repository"], asked["revision"], asked["offline"]) == ("o/n", "v1", "0")
    else:
        with pytest.raises(expected):
            await work


async def test_two_pods_on_one_volume_agree(tmp_path: Path) -> None:
    uri = f"file://{model(tmp_path / 'source')}"
    work = [fetch.fetch(uri, "", tmp_path / "m", tmp_path / "baked", told) for _ in range(2)]
    assert len(set(await asyncio.gather(*work))) == 1
    assert sources.prepared(uri, "", tmp_path) == tmp_path / "source"
