"""What is measured: our router, the pods without any router, and every peer that is installed.

Nothing is installed by the bench. Peers of Python or Rust packages are looked for in environments
under the bench's folder, the others on PATH; what is missing is named and left out.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
LITELLM = {
    "LITELLM_LOG": "ERROR",
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "NO_PROXY": "*",
}


class Place(NamedTuple):
    """Where one run happens: its folder, the router's port and the two pods'."""

    root: Path
    port: int
    pods: tuple[int, int]


class Sut(NamedTuple):
    """A system under test. `command` None: the load goes to a pod directly. `install`: how the
    peer is had, where it is missing."""

    name: str
    command: tuple[str, ...] | None
    environ: Mapping[str, str] = {}
    install: str = ""

    @property
    def missing(self) -> bool:
        """Whether its program is not there."""
        return self.command is not None and shutil.which(self.command[0]) is None


def write_configuration(place: Place) -> None:
    """Fill the ports and the folder into every peer's configuration."""
    for path in (HERE / "conf").iterdir():
        text = path.read_text()
        for name, value in (
            ("@ROOT@", place.root),
            ("@PORT@", place.port),
            ("@POD1@", place.pods[0]),
            ("@POD2@", place.pods[1]),
        ):
            text = text.replace(name, str(value))
        (place.root / path.name).write_text(text)


def ours(place: Place, tidegate: str, durability: str) -> Sut:
    """Our router alone: metering on, its journal under the bench's folder."""
    command = (tidegate, "router", "--static", f"{place.root}/tidegate.yaml")
    journal = place.root / f"journal-{durability}"
    settings = {
        "TIDEGATE_DURABILITY": durability,
        "TIDEGATE_JOURNAL_DIR": str(journal),
        "TIDEGATE_DATA": str(place.root / f"data-{durability}"),
    }
    return Sut(f"tidegate-{durability}", (*command, "--port", str(place.port)), settings)


def known(place: Place, tidegate: str) -> list[Sut]:
    """Everything the bench knows, in the order of its table."""
    root = place.root
    workers = tuple(f"http://127.0.0.1:{pod}" for pod in place.pods)
    listen = ("--host", "127.0.0.1", "--port", str(place.port))
    rust = ("--worker-urls", *workers, "--log-level", "error")
    return [
        Sut("direct", None),
        Sut("nginx", ("nginx", "-c", f"{root}/nginx.conf"), install="apt install nginx"),
        Sut(
            "haproxy",
            ("haproxy", "-db", "-f", f"{root}/haproxy.cfg"),
            install="apt install haproxy",
        ),
        Sut(
            "envoy",
            (
                "envoy",
                "-c",
                f"{root}/envoy.yaml",
                "--concurrency",
                "1",
                "--use-dynamic-base-id",
                "-l",
                "error",
            ),
            install="envoy on PATH",
        ),
        Sut(
            "vllm-router",
            (f"{root}/vllmr/bin/vllm-router", *listen, *rust, "--policy", "consistent_hash"),
            install=f"uv venv {root}/vllmr && uv pip install -p {root}/vllmr vllm-router",
        ),
        Sut(
            "sglang-router",
            (
                f"{root}/sglr/bin/python",
                "-m",
                "sglang_router.launch_router",
                *listen,
                *rust,
                "--policy",
                "round_robin",
            ),
            install=f"uv venv {root}/sglr && uv pip install -p {root}/sglr sglang-router",
        ),
        Sut(
            "litellm",
            (
                f"{root}/litellm/bin/litellm",
                "--config",
                f"{root}/litellm.yaml",
                *listen,
                "--num_workers",
                "1",
                "--telemetry",
                "False",
            ),
            LITELLM,
            f"uv venv {root}/litellm && uv pip install -p {root}/litellm 'litellm[proxy]'",
        ),
        ours(place, tidegate, "strict"),
        ours(place, tidegate, "relaxed"),
    ]
