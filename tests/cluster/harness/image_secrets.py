"""How this machine reaches its package index and mirror, as secrets of an image build.

Read from where pip, uv and apt themselves look. The files lie in a folder that is gone after the
build; the Dockerfiles say what each is for.
"""

import configparser
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_PASSED: Final = re.compile(
    r"(UV_(DEFAULT_INDEX|INDEX|INDEX_URL|EXTRA_INDEX_URL|INDEX_STRATEGY|INSECURE_HOST|HTTP_TIMEOUT"
    r"|INDEX_\w+_(USERNAME|PASSWORD))"
    r"|PIP_(INDEX_URL|EXTRA_INDEX_URL|TRUSTED_HOST|DEFAULT_TIMEOUT)"
    r"|(HTTPS?|NO|ALL)_PROXY|(https?|no|all)_proxy)"
)
_APT: Final = re.compile(r"Acquire::(Check-|Retries|ForceIPv|https?::).*")
_CERTIFICATES: Final = "/etc/ssl/certs/ca-certificates.crt"
_UV_FILES: Final = (Path("/etc/uv/uv.toml"), Path("~/.config/uv/uv.toml"))
_PIP_FILES: Final = (
    Path("/etc/pip.conf"),
    Path("~/.pip/pip.conf"),
    Path("~/.config/pip/pip.conf"),
)


def variables(environ: Mapping[str, str], index: str) -> dict[str, str]:
    """What a build is to know of `environ`; `index` is what pip's or uv's files say, '' if nothing.

    pip and uv know each other's index, because people set it for one of them."""
    passed = {name: value for name, value in environ.items() if _PASSED.fullmatch(name)}
    known = passed.get("UV_DEFAULT_INDEX") or passed.get("UV_INDEX_URL")
    known = known or passed.get("PIP_INDEX_URL") or index
    return {"UV_DEFAULT_INDEX": known, "PIP_INDEX_URL": known, **passed} if known else passed


def secrets(folder: Path) -> dict[str, Path]:
    """The secrets by id, each in a file under `folder`; those with nothing to say are left out."""
    lines = [
        f"export {name}={shlex.quote(value)}"
        for name, value in sorted(variables(os.environ, _index()).items())
    ]
    made = {"env": "\n".join(lines), "apt": _apt(), "ca": _certificates()}
    return {name: _write(folder / name, text) for name, text in made.items() if text}


def _index() -> str:
    for path in (file.expanduser() for file in _UV_FILES):
        if path.is_file():
            told = tomllib.loads(path.read_text())
            default = [each["url"] for each in told.get("index", []) if each.get("default")]
            if default or "index-url" in told:
                return str((default or [told["index-url"]])[0])
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(file.expanduser() for file in _PIP_FILES)
    return parser.get("global", "index-url", fallback="")


def _apt() -> str:
    if shutil.which("apt-config") is None:
        return ""
    dump = subprocess.run(
        ["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=True
    )
    return "\n".join(line for line in dump.stdout.splitlines() if _APT.match(line))


def _certificates() -> str:
    path = Path(os.environ.get("SSL_CERT_FILE") or _CERTIFICATES)
    return path.read_text() if path.is_file() else ""


def _write(path: Path, text: str) -> Path:
    path.write_text(text + "\n")
    path.chmod(0o600)
    return path
