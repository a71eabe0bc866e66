"""What `tidegate up` is asked to do, and what it says while it does it.

Both are plain values: the command line turns flags into `UpOptions` and events into text or
NDJSON (`msgspec.json.encode(event)` is one line of `up --json`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """One `tidegate up`. A port of 0 means any free one; `ops_port` is the router's, billing and
    the operator take the next two. `stop_seconds`: how long running streams may finish in after
    the first Ctrl-C. `vllm_python`: what runs vLLM for models that are not on the CPU.
    `memory`: what engines may take together, in bytes; 0: all that is free. `minimum_idle`: seconds
    without use before a model may be put to sleep for another one."""

    files: tuple[Path, ...]
    data: Path
    cache: Path
    host: str = "127.0.0.1"
    port: int = 8080
    admin_port: int = 8081
    ops_port: int = 9090
    routers: int = 1
    durability: Literal["strict", "relaxed"] = "strict"
    log_level: str = "info"
    log_format: str = "json"
    vllm_python: Path | None = None
    stop_seconds: float = 30.0
    memory: int = 0
    minimum_idle: float = 10.0


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of `up --json`. Fields that do not belong to the kind of event are left out.

    ready: `base_url`, `admin_url`, `ops_url`. model: `name`, `deployment`, `phase`, `detail`,
    `since` (seconds since the epoch), `warning`. error: `message`, and `name` of the model or
    part where it has one, or `file`, `line` (from 1) and `field` of what is wrong in a file. file:
    `file` that is good again, `message`. warning: `warning`. stopping: nothing. stopped: nothing, or
    `message` with the reason. A model's last event has the phase `Removed`.
    """

    ts: float
    event: Literal["ready", "model", "error", "file", "warning", "stopping", "stopped"]
    name: str = ""
    deployment: str = ""
    phase: str = ""
    detail: str = ""
    since: float = 0.0
    warning: str = ""
    message: str = ""
    file: str = ""
    line: int = 0
    field: str = ""
    base_url: str = ""
    admin_url: str = ""
    ops_url: str = ""
