"""The wheel as users get it: built, installed into a fresh environment, run from there.

Run from an empty directory with a bare environment, so that nothing of the source tree can stand
in for a file the wheel forgot.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
KEPT = ("PATH", "HOME", "LANG", "SSL_CERT_FILE", "UV_CACHE_DIR", "XDG_CACHE_HOME")
NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "UV_INDEX_URL", "UV_DEFAULT_INDEX")


def bare(*names: str) -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if name in names or name.upper() in names
    }


def call(*command: str | Path, cwd: Path, env: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    return done.stdout.decode()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The bin directory of an environment that holds the wheel and what it needs."""
    uv = Path(sys.executable).with_name("uv")
    assert uv.exists(), "run `make setup`: the project's environment has no uv"
    work = tmp_path_factory.mktemp("wheel")
    env = bare(*KEPT, *NETWORK)
    call(uv, "build", "--quiet", "--wheel", "--out-dir", work, ROOT, cwd=work, env=env)
    wheels = list(work.glob("tidegate-*.whl"))
    assert len(wheels) == 1
    home = work / "env"
    call(uv, "venv", "--quiet", "--python", sys.executable, home, cwd=work, env=env)
    # The versions of the lock file, so that this tests our wheel and not today's registry.
    pins = call(
        *(uv, "export", "--quiet", "--frozen", "--extra", "local", "--no-dev"),
        *("--no-emit-project", "--no-hashes", "--project", ROOT),
        cwd=work,
        env=env,
    )
    (work / "pins.txt").write_text(pins)
    call(
        *(uv, "pip", "install", "--quiet", "--python", home / "bin" / "python"),
        *("--constraint", work / "pins.txt", f"{wheels[0]}[local]"),
        cwd=work,
        env=env,
    )
    yield home / "bin"
    shutil.rmtree(work)  # hundreds of megabytes that nobody looks at again


def test_it_holds_the_three_packages_and_their_data(installed: Path, tmp_path: Path) -> None:
    code = "import tidegate_operator, tidegate_runtime, tidegate_billing as b; print(b.__file__)"
    where = call(installed / "python", "-Ic", code, cwd=tmp_path, env=bare("PATH"))
    assert where.startswith(str(installed.parent))
    for part in ("operator", "runtime", "billing"):
        source = ROOT / part / f"tidegate_{part}"
        target = Path(where.strip()).parents[1] / f"tidegate_{part}"
        for path in source.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert (target / path.relative_to(source)).is_file(), f"the wheel lacks {path}"


def test_the_command_runs(installed: Path, tmp_path: Path) -> None:
    env = bare("PATH")
    assert "tidegate" in call(installed / "tidegate", "--help", cwd=tmp_path, env=env)
    for part in ("sim", "router", "billing"):
        assert call(installed / "tidegate", part, "--help", cwd=tmp_path, env=env)
    text = call(installed / "tidegate", "crd", cwd=tmp_path, env=env)
    assert [one["kind"] for one in yaml.safe_load_all(text)] == ["CustomResourceDefinition"] * 3


def test_the_demo_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    env = {**bare("PATH"), "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    out = call(installed / "tidegate", "demo", "--engine", "sim", "--json", cwd=tmp_path, env=env)
    assert json.loads(out)["ok"] is True
