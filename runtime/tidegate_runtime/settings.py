"""The router process's settings: one frozen object, from flags and environment."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tidegate_billing import settings
from tidegate_billing.keys import parse_peppers
from tidegate_billing.settings import SettingError
from tidegate_runtime.journal import SEGMENT_BYTES


@dataclass(frozen=True)
class Settings:
    """`listen_fd`, `ops_fd`: inherited listening sockets (-1: bind host and port).

    `world_url`: where `/internal/world` is served, or KUBERNETES: the cluster's API server, reached
    as the pod's service account or by `kubeconfig` (the path in KUBECONFIG; for development).
    `drain_seconds`: how long requests may take to end when it is told to stop; in a cluster those
    that wait for an engine have that time too.
    `probe`: a starting replica is asked before it counts as answered. Without, its address is taken
    at its word as soon as the world has one: for tests whose replicas exist nowhere, and never
    where somebody is to be served, since an engine that loads for minutes would get requests."""

    name: str
    host: str
    port: int
    ops_port: int
    listen_fd: int
    ops_fd: int
    billing_url: str
    world_url: str
    internal_token: str
    peppers: Mapping[int, bytes]
    journal_dir: Path
    data: Path
    strict: bool
    segment_bytes: int
    log_level: str
    static: Path | None
    guard_key: bytes = b""
    kubeconfig: str = ""
    drain_seconds: int = 30
    probe: bool = True


KUBERNETES: Final = "kubernetes:"
_FLAGS = (
    "name", "host", "port", "ops-port", "listen-fd", "ops-fd", "billing-url", "world-url",
    "journal-dir", "data", "durability", "segment-bytes", "log-level", "internal-token-file",
    "key-pepper-file", "guard-key-file", "drain-seconds", "probe",
)  # fmt: skip


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Read the settings. Raises SettingError; argparse exits with 2 on unknown flags."""
    parser = argparse.ArgumentParser(prog="tidegate router", allow_abbrev=False)
    parser.add_argument("--static", type=Path, help="a YAML file of models and keys: no billing")
    for flag in _FLAGS:
        parser.add_argument(f"--{flag}")
    flags = vars(parser.parse_args(argv))
    static: Path | None = flags.pop("static")
    values = settings.read(flags, environ)
    data = Path(settings.text(values, "DATA", "."))
    journal = settings.text(values, "JOURNAL_DIR", "")
    if static is None:
        for name in ("BILLING_URL", "WORLD_URL", "INTERNAL_TOKEN", "KEY_PEPPER"):
            settings.required(values, name)
        _check_world(values)
    try:
        peppers = parse_peppers(settings.text(values, "KEY_PEPPER", "static"))
    except ValueError as exc:
        raise SettingError(f"TIDEGATE_KEY_PEPPER: {exc}") from exc
    return Settings(
        name=settings.text(values, "NAME", "router"),
        host=settings.text(values, "HOST", "127.0.0.1"),
        port=settings.port(values, "PORT", 8080),
        ops_port=settings.port(values, "OPS_PORT", 0 if static else 9090),
        listen_fd=settings.integer(values, "LISTEN_FD", -1, -1, 1 << 20),
        ops_fd=settings.integer(values, "OPS_FD", -1, -1, 1 << 20),
        billing_url=settings.text(values, "BILLING_URL", "").rstrip("/"),
        world_url=settings.text(values, "WORLD_URL", "").rstrip("/"),
        internal_token=settings.text(values, "INTERNAL_TOKEN", ""),
        peppers=peppers,
        journal_dir=Path(journal) if journal else data / "journal",
        data=data,
        strict=settings.choice(values, "DURABILITY", "strict", ("strict", "relaxed")) == "strict",
        segment_bytes=settings.integer(
            values, "SEGMENT_BYTES", SEGMENT_BYTES, 1024 * 1024, 1 << 30
        ),
        log_level=settings.choice(
            values, "LOG_LEVEL", "info", ("debug", "info", "warning", "error")
        ),
        static=static,
        guard_key=settings.text(values, "GUARD_KEY", "").encode(),
        kubeconfig=environ.get("KUBECONFIG", ""),
        drain_seconds=settings.integer(values, "DRAIN_SECONDS", 30, 1, 3600),
        probe=settings.choice(values, "PROBE", "true", ("true", "false")) == "true",
    )


def _check_world(values: Mapping[str, str]) -> None:
    url = values["WORLD_URL"]
    if url == KUBERNETES:
        settings.required(values, "GUARD_KEY")
    elif not url.startswith(("http://", "https://")):
        raise SettingError(
            f"TIDEGATE_WORLD_URL={url!r} is not known; allowed: an http(s) URL, or `{KUBERNETES}`"
        )
