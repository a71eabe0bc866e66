"""Somebody who reads a page of the documentation at a terminal and does what it says.

A comment above each block says what it is: `run` is typed into the second terminal, `serve` into the first,
`file` is saved; `output` is how the last command's output looks, `shows` what the first terminal says before one
goes on, `interrupt` what it says upon Ctrl-C. The reader's 8080 is whatever port is free here: it is replaced
in what is typed and saved. Nothing else is changed.
"""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import documents
from documents import ROOT, Block

GATEWAY = "127.0.0.1:8080"
PATIENCE = 900.0
"""Seconds for one step: the first time, vLLM is installed in one of them."""
OVER = "--this-command-is-over--"


class Terminal:
    """A shell that one types into; what it says is read as it comes."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail"],
            cwd=folder, env=env, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.lines: list[str] = []
        self._news: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._news.put(line.rstrip("\n"))
        self._news.put(None)

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def next(self, until: float) -> str | None:
        """Its next line; None at its end."""
        line = self._news.get(timeout=max(0.0, until - time.monotonic()))
        if line is not None:
            self.lines.append(line)
        return line

    def run(self, text: str) -> str:
        """Types a block and waits until it is over. Its output."""
        self.type(f"{text}echo\necho {OVER}\n")
        said: list[str] = []
        until = time.monotonic() + PATIENCE
        while (line := self.next(until)) != OVER:
            assert line is not None, f"it ended in\n{text}\n" + "\n".join(said)
            said.append(line)
        return "\n".join(said)

    def wait_for(self, expected: str) -> None:
        """Waits until what came since the last such wait looks so."""
        until = time.monotonic() + PATIENCE
        while documents.unlike(f"...\n{expected}...\n", "\n".join(self.lines)):
            assert self.next(until) is not None, "\n".join(self.lines)
        self.lines.clear()

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.communicate()
        self._reader.join()


class Reader:
    """Somebody with a fresh laptop, a clone and two terminals."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tidegate"
        self.folder.mkdir()
        for name in ("Makefile", "pyproject.toml", "uv.lock", ".ci", "examples"):
            (self.folder / name).symlink_to(ROOT / name)
        (self.folder / ".venv").symlink_to(sys.prefix)
        kept = {name: value for name, value in os.environ.items() if name != "TIDEGATE_DATA"}
        ports = dict.fromkeys(("TIDEGATE_PORT", "TIDEGATE_ADMIN_PORT", "TIDEGATE_OPS_PORT"), "0")
        env = kept | ports | {"XDG_DATA_HOME": str(folder / "share"), "COLUMNS": "160"}
        self.first = Terminal(self.folder, env)
        self.second = Terminal(self.folder, env)
        self.gateway = GATEWAY
        self.output = ""

    def follow(self, block: Block) -> None:
        verb, _, name = block.mark.partition(" ")
        text = block.text.replace(GATEWAY, self.gateway)
        if verb == "file":
            (self.folder / name).write_text(text)
        elif verb == "run":
            self.output = self.second.run(text)
        elif verb == "serve":
            self.first.type(text)
        elif verb == "output":
            wrong = documents.unlike(block.text, self.output)
            assert not wrong, f"line {block.line}: {wrong!r} in\n{self.output}"
        else:
            if verb == "interrupt":
                os.killpg(self.first.process.pid, signal.SIGINT)
            self.first.wait_for(block.text)
            ready = [line for line in block.text.splitlines() if line.startswith("ready: ")]
            self.gateway = self._found() if ready else self.gateway

    def _found(self) -> str:
        status = self.second.run("tidegate status\n")
        return status.partition("http://")[2].partition(",")[0]

    def close(self) -> None:
        self.second.close()
        self.first.close()
