"""Children on the loop: their lines, their end, and that nothing of them stays."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from tidegate_operator.local.process import Child
from tidegate_operator.local.world import World
from tidegate_runtime.contract.links import ModelView


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


async def test_lines_arrive_before_the_end_is_told() -> None:
    told: list[object] = []
    child = Child(
        python("import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"),
        env=os.environ,
        on_exit=told.append,
        on_line=told.append,
    )
    assert await child.wait(10)
    assert sorted(map(str, told[:2])) == ["one", "two"]
    assert told[2:] == [3]
    assert not Path(f"/proc/{child.pid}").exists()


async def test_no_descriptor_stays_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        child = Child(
            python("print('x')"), env=os.environ, on_exit=lambda _: None, on_line=lambda _: None
        )
        await child.wait(10)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_one_that_ignores_sigterm_is_killed_with_its_children() -> None:
    pids: list[str] = []
    code = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "kid = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
        "print(kid.pid, flush=True)\n"
        "signal.pause()\n"
    )
    child = Child(python(code), env=os.environ, on_exit=lambda _: None, on_line=pids.append)
    while not pids:
        await asyncio.sleep(0.01)
    began = time.monotonic()
    await child.stop(0.1)
    assert not child.alive
    assert time.monotonic() - began < 5
    state = Path(f"/proc/{pids[0]}/stat")
    while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z":
        await asyncio.sleep(0.01)


async def test_a_grandchild_that_holds_the_pipe_does_not_hide_the_end() -> None:
    ended: list[int] = []
    code = (
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
    )
    child = Child(python(code), env=os.environ, on_exit=ended.append, on_line=lambda _: None)
    assert await child.wait(10)
    assert ended == [0]


async def test_signals_to_one_that_is_gone_are_nothing() -> None:
    child = Child(python(""), env=os.environ, on_exit=lambda _: None)
    await child.wait(10)
    child.terminate()
    child.signal_group(signal.SIGKILL)
    await child.stop(1)


async def test_a_change_of_the_world_reaches_a_subscriber_at_once() -> None:
    world = World()
    lines = world.lines()
    first = await anext(lines)
    assert b'"type":"world"' in first
    world.models["d/m"] = ModelView(deployment="d/m", owner="d", name="m")
    world.publish()
    assert b'"d/m"' in await anext(lines)
    world.close()
    assert [line async for line in lines] == []
