"""Every way a resource file can be wrong, by the row of docs/errors.md: what `tidegate up -f` says.

The real `up` reads them and stops before it starts anything, for its data directory is held."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from tidegate_operator import local
from tidegate_operator.cli.up import sentence
from tidegate_operator.local import datadir

HEAD = "apiVersion: tidegate.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {name: m}\n"
GOOD = f'{HEAD}spec:\n  model: {{uri: "sim://m"}}\n  engine: {{type: sim}}\n'
VLLM = f'{HEAD}spec:\n  model: {{uri: "hf://a/b"}}\n  engine: {{type: vllm}}\n'

Provoke = Callable[[Path], str]


def up(folder: Path, *files: Path) -> str:
    """What `up` says of these files, line for line."""
    said: list[local.Event] = []
    options = local.UpOptions(
        files=files, data=folder / "data", cache=folder / "cache", port=0, admin_port=0, ops_port=0
    )
    held = datadir.lock(folder / "data")
    try:
        assert local.run(options, said.append) == 1
    finally:
        os.close(held)
    return "\n".join(sentence(event) for event in said)


def content(data: str | bytes) -> Provoke:
    """A file m.yaml of this content."""

    def provoke(folder: Path) -> str:
        file = folder / "m.yaml"
        file.write_bytes(data.encode() if isinstance(data, str) else data)
        return up(folder, file)

    return provoke


def spec(text: str) -> Provoke:
    """A good resource of sim with this beside; line 7."""
    return content(f"{GOOD}  {text}\n")


def model(text: str) -> Provoke:
    """A resource whose `spec.model` has this beside its address; line 5."""
    return content(GOOD.replace('"sim://m"', f'"sim://m", {text}'))


def engine(text: str, good: str = GOOD) -> Provoke:
    """A resource whose `spec.engine` has this beside its type; line 6."""
    return content(good.replace("engine: {", f"engine: {{{text}, "))


def _missing(folder: Path) -> str:
    return up(folder, folder / "no.yaml")


def _unreadable(folder: Path) -> str:
    (folder / "m.yaml").symlink_to("m.yaml")
    return up(folder, folder / "m.yaml")


def _empty_folder(folder: Path) -> str:
    (folder / "models").mkdir()
    return up(folder, folder / "models")


def _twice(folder: Path) -> str:
    for name in ("a.yaml", "b.yaml"):
        (folder / name).write_text(GOOD)
    return up(folder, folder / "a.yaml", folder / "b.yaml")


def _price(text: str) -> Provoke:
    return spec(f"pricing: {{{text}}}")


FILES: dict[str, Provoke] = {
    "missing-path": _missing,
    "unreadable": _unreadable,
    "nothing-there": _empty_folder,
    "too-big": content(" " * ((1 << 20) + 1)),
    "not-utf8": content(b"a: 1\nb: \xe4\n"),
    "not-yaml": content("a: [1"),
    "not-text": content("a: \x00"),
    "unknown-anchor": content("a: *nowhere\n"),
    "anchor-bomb": content("a: &x [*x]\n"),
    "bad-merge": content("a: {<<: 3}\n"),
    "key-not-text": content("? [a]\n: 1\n"),
    "key-twice": content(f"{GOOD}  suspend: true\n  suspend: false\n"),
    "not-a-number": spec("scaling: {panicThreshold: .inf}"),
    "not-a-resource": content("- 1\n"),
    "no-api-version": content("kind: ModelDeployment\n"),
    "api-version": content(GOOD.replace("v1alpha1", "v2")),
    "kind": content(GOOD.replace("kind: ModelDeployment", "kind: Tenant")),
    "no-name": content("\n".join(line for line in GOOD.splitlines() if "metadata" not in line)),
    "name": content(GOOD.replace("name: m", "name: My_Model")),
    "no-spec": content(HEAD),
    "field-missing": content(GOOD.replace('{uri: "sim://m"}', "{}")),
    "field-unknown": spec("scaling: {idleSecond: 5}"),
    "top-field-unknown": content(f"{GOOD}specs: {{}}\n"),
    "wrong-type": spec("scaling: {maxReplicas: many}"),
    "not-quoted": model("name: 7"),
    "too-low": spec("scaling: {maxReplicas: 0}"),
    "too-high": spec("scaling: {maxReplicas: 1001}"),
    "not-one-of": spec("routing: {strategy: Random}"),
    "wrong-form": model("cache: {size: 5GB}"),
    "source": content(GOOD.replace('"sim://m"', '"m"')),
    "too-short": model('name: ""'),
    "too-long": model(f'revision: "{"x" * 129}"'),
    "too-many": model(f"aliases: [{', '.join(f'a{i}' for i in range(17))}]"),
    "listed-twice": engine("env: [{name: TZ, value: a}, {name: TZ, value: b}]"),
    "sim-and-source": content(GOOD.replace("sim://m", "hf://a/b")),
    "no-output-price": _price('inputPerMillion: "1"'),
    "no-input-price": _price('outputPerMillion: "1"'),
    "price-form": _price('inputPerMillion: "1,50", outputPerMillion: "1"'),
    "adapter-name": content(
        GOOD.replace('"sim://m"', '"sim://m", name: x')
        + '  adapters: [{name: x, uri: "hf://a/c"}]\n'
    ),
    "aliases-differ": model("aliases: [a, a]"),
    "alias-is-name": model("name: x, aliases: [x]"),
    "alias-is-own-name": model("aliases: [m]"),
    "cache-size": model("cache: {storageClass: fast}"),
    "env-value": engine("env: [{name: TZ}]"),
    "replicas": spec("scaling: {minReplicas: 5, maxReplicas: 2}"),
    "concurrency": spec("scaling: {targetConcurrency: 16, maxConcurrency: 4}"),
    "rollout": spec("rollout: {maxSurge: 0, maxUnavailable: 0}"),
    "engine-argument": engine('args: ["--port=9"]', VLLM),
    "engine-variable": engine("env: [{name: LD_PRELOAD, value: x}]"),
    "engine-variable-denied": engine("env: [{name: VLLM_API_KEY, value: x}]"),
    "sim-flag": engine('args: ["--tft-ms", "1"]'),
    "sim-flag-denied": engine('args: ["--port", "1"]'),
    "sim-flag-value": engine('args: ["--ttft-ms", "fast"]'),
    "twice": _twice,
}  # fmt: skip


def seen(folder: Path, row: str) -> str:
    """Provoke a row in a folder of its own."""
    place = folder / row
    with contextlib.suppress(FileExistsError):
        place.mkdir()
    return FILES[row](place)
