"""Which files of a hub's repository are fetched, whether they fit, and whether a folder is whole."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tidegate_operator.local import tokens
from tidegate_runtime.contract.spec import SecretRef
from tidegate_runtime.engines.vllm import hub, shards
from tidegate_runtime.engines.vllm.hub_choice import File, choose, room
from tidegate_runtime.engines.vllm.progress import SourceError

GIB = 2**30


def listing(*paths: str) -> list[File]:
    return [File(path, 10) for path in paths]


@pytest.mark.parametrize(
    ("paths", "inside", "model", "files"),
    [
        (["config.json", "model.safetensors"], "", ".", ["config.json", "model.safetensors"]),
        (
            # every other form of the same weights, and code, stays where it is
            ["config.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5", "a.gguf",
             "model.py", "README.md", "merges.txt", "tokenizer.model", "chat_template.jinja"],
            "", ".",
            ["config.json", "merges.txt", "tokenizer.model", "chat_template.jinja",
             "model.safetensors"],
        ),
        (
            ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
             "model.safetensors.index.json", "consolidated.safetensors"],
            "", ".",
            ["config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors",
             "model-00002-of-00002.safetensors"],
        ),
        (
            # an embedding model's modules lie in folders of their own
            ["config.json", "modules.json", "model.safetensors", "1_Pooling/config.json",
             "2_Dense/model.safetensors", "onnx/config.json", "onnx/model.safetensors"],
            "", ".",
            ["config.json", "modules.json", "1_Pooling/config.json", "model.safetensors",
             "2_Dense/model.safetensors"],
        ),
        (["a/config.json", "a/m.safetensors", "b/config.json"], "a", "a",
         ["a/config.json", "a/m.safetensors"]),
        (["q4.gguf"], "", "q4.gguf", ["q4.gguf"]),
        (["config.json", "x/q4.gguf", "mmproj.gguf"], "", "x/q4.gguf", ["x/q4.gguf"]),
        (["q4.gguf", "q8.gguf"], "q8.gguf", "q8.gguf", ["q8.gguf"]),
        (["a/q4.gguf", "b/q8.gguf"], "b", "b/q8.gguf", ["b/q8.gguf"]),
    ],
)  # fmt: skip
def test_what_is_fetched(
    paths: Sequence[str], inside: str, model: str, files: Sequence[str]
) -> None:
    chosen = choose(listing(*paths), inside, "hf://a/b")
    assert chosen.model == model
    assert [file.path for file in chosen.files] == list(files)
    assert chosen.size == 10 * len(files)


@pytest.mark.parametrize(
    ("paths", "inside", "words"),
    [
        ([], "", "holds no model"),
        (["config.json"], "", "holds no model"),
        (["config.json", "pytorch_model.bin"], "", "pickled weights"),
        (["model.safetensors"], "", "holds no model"),
        (["q4.gguf", "q8.gguf"], "", "several models; name one with #path: q4.gguf, q8.gguf"),
        (["config.json", "m.safetensors"], "elsewhere", "no elsewhere in it"),
        (["config.json", "m.safetensors"], "m.safetensors", "neither a folder nor a .gguf"),
        (["m-00001-of-00002.gguf"], "", "part of a split GGUF"),
    ],
)
def test_what_cannot_be_served_is_said(paths: Sequence[str], inside: str, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        choose(listing(*paths), inside, "hf://a/b")


@pytest.mark.parametrize(
    ("needed", "here", "free", "words"),
    [
        (10 * GIB, 0, 11 * GIB, ""),
        (10 * GIB, 0, 11 * GIB - 1, "10.00 GiB to fetch - 0.0 MiB here already + 1.00 GiB to spare = 11.00 GiB, but only 11.00 GiB are free"),
        (10 * GIB, 4 * GIB, 7 * GIB, ""),
        (10 * GIB, 4 * GIB, 2 * GIB, "10.00 GiB to fetch - 4.00 GiB here already + 1.00 GiB to spare = 7.00 GiB, but only 2.00 GiB are free"),
        (0, 0, 0, "0.0 MiB to fetch - 0.0 MiB here already + 1.00 GiB to spare = 1.00 GiB, but only 0.0 MiB are free"),
    ],
)  # fmt: skip
def test_room_is_arithmetic(needed: int, here: int, free: int, words: str) -> None:
    assert room(needed, here, free, GIB) == words


def folder(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).write_text(text)
    return root


def index(*names: str) -> str:
    return json.dumps({"weight_map": {str(n): name for n, name in enumerate(names)}})


ONE, TWO = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"model.safetensors": "w"},
        {ONE: "w", TWO: "w"},
        {ONE: "w", TWO: "w", INDEX: index(ONE, TWO)},
        {"x.safetensors": "w", INDEX: index("x.safetensors")},
    ],
)
def test_a_whole_folder(files: dict[str, str], tmp_path: Path) -> None:
    shards.check(folder(tmp_path, files), "file:///m")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({ONE: "w"}, f"1 of 2 weight files missing: {TWO}"),
        ({TWO: "w", INDEX: index(ONE, TWO)}, f"1 of 2 weight files missing: {ONE}"),
        ({ONE: "w", TWO: ""}, f"1 of 2 weight files missing: {TWO}"),
        ({INDEX: index("a.safetensors")}, "1 of 1 weight files missing: a.safetensors"),
        ({INDEX: index(*(f"{n}.safetensors" for n in range(9)))}, "9 of 9 .* 4.safetensors, ..."),
        ({INDEX: index("../a.safetensors")}, "names a file outside the folder"),
        ({INDEX: "{"}, "model.safetensors.index.json cannot be read"),
        ({INDEX: "[]"}, "model.safetensors.index.json cannot be read"),
    ],
)
def test_a_folder_with_holes(files: dict[str, str], words: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=words):
        shards.check(folder(tmp_path, files), "file:///m")


def test_a_link_to_a_pruned_file_is_a_hole(tmp_path: Path) -> None:
    (tmp_path / ONE).symlink_to(tmp_path / "gone")
    (tmp_path / TWO).write_text("w")
    with pytest.raises(SourceError, match=ONE):
        shards.check(tmp_path, "hf://a/b")


@pytest.mark.parametrize(
    ("name", "environ", "token"),
    [
        ("hf-token", {"HF_TOKEN": "t"}, "t"),
        ("team-a", {"HF_TOKEN": "t"}, "t"),
        ("team-a", {"HF_TOKEN": "t", "HF_TOKEN_TEAM_A": " mine\n"}, "mine"),
        ("team-a", {"HF_TOKEN": "t", "HF_TOKEN_TEAM_A_FILE": "FILE"}, "of-a-file"),
        ("hf-token", {"HF_TOKEN_FILE": "FILE"}, "of-a-file"),
    ],
)
def test_a_secret_is_a_variable_or_a_file(
    name: str, environ: dict[str, str], token: str, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("of-a-file\n")
    given = {key: value.replace("FILE", str(tmp_path / "token")) for key, value in environ.items()}
    assert tokens.of(SecretRef(name=name), given) == token
    assert tokens.of(None, given) == ""


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, "secretRef names team-a: .* HF_TOKEN_TEAM_A or HF_TOKEN, or as HF_TOKEN_TEAM_A_FILE"),
        ({"TEAM_A": "x", "AWS_SECRET": "x"}, "secretRef names team-a"),
        ({"HF_TOKEN_FILE": "/nowhere/at/all"}, "HF_TOKEN_FILE=/nowhere/at/all cannot be read"),
        ({"HF_TOKEN_FILE": "/dev/null"}, "holds no token"),
    ],
)
def test_a_secret_that_is_not_there_names_its_setting(environ: dict[str, str], words: str) -> None:
    with pytest.raises(SourceError, match=words):
        tokens.of(SecretRef(name="team-a"), environ)


def test_a_fetch_gets_no_secret_but_its_own() -> None:
    inherited = {
        "TIDEGATE_ADMIN_TOKEN": "a", "HF_TOKEN": "b", "HF_TOKEN_TEAM": "c", "PATH": "/bin",
        "HF_ENDPOINT": "http://hub", "HUGGING_FACE_HUB_TOKEN": "d",
    }  # fmt: skip
    made = hub.variables(inherited, "")
    assert not {"a", "b", "c", "d"} & set(made.values())
    assert (made["PATH"], made["HF_ENDPOINT"]) == ("/bin", "http://hub")
    assert made["HF_HUB_DISABLE_XET"] == "1"
    assert hub.variables(inherited, "mine")["HF_TOKEN"] == "mine"
    assert hub.variables({"HF_HUB_DISABLE_XET": "0"}, "")["HF_HUB_DISABLE_XET"] == "0"


def test_pins_differ_by_hub_and_address() -> None:
    sources = [
        hub.HubSource(*one)
        for one in (("a/b", "main", ""), ("a/b", "v1", ""), ("a/b", "main", "x"))
    ]
    pins = {hub.pin_file(one, Path("/c"), end) for one in sources for end in ("", "http://x")}
    assert len(pins) == 6
    assert hub.pin_file(sources[0], Path("/c"), hub.ENDPOINT) in pins
