"""Real files, followed: what the fleet is asked to do, and what people are told."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tidegate_operator.local import files, following
from tidegate_operator.local.following import Step
from tidegate_operator.local.options import Event
from tidegate_operator.local.plan import Plan
from tidegate_operator.local.watch import Follower


def text(name: str, spec: str = "") -> str:
    head = "apiVersion: tidegate.dev/v1alpha1\nkind: ModelDeployment\n"
    body = f"spec:\n  model: {{uri: sim://m}}\n  engine: {{type: sim}}\n  {spec}\n---\n"
    return f"{head}metadata: {{name: {name}}}\n{body}"


class Fleet:
    """Notes what it is asked to do."""

    def __init__(self, data: Path) -> None:
        self.site = SimpleNamespace(data=data)
        self.asked: list[list[tuple[str, str]]] = []
        self.plans: list[Plan] = []

    def names(self, deployment: str) -> list[str]:
        return [f"old-{deployment.rpartition('/')[2]}"]

    def change(self, steps: Sequence[Step], plans: Sequence[Plan]) -> None:
        self.asked.append([(step.kind, step.resource.metadata.name) for step in steps])
        self.plans += plans


class Watched:
    """A follower at work on a directory."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.fleet = folder, Fleet(data)
        self.events: list[Event] = []
        contents = files.first([folder])
        held = following.accept(contents.parsed, {}).held
        fleet: Any = self.fleet
        self.follower = Follower(
            [folder], contents, held, fleet=fleet, cache=data, report=self.events.append
        )

    def write(self, name: str, *content: str) -> None:
        (self.folder / name).write_text("".join(content))

    async def until(self, look: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not look():
                await asyncio.sleep(0.02)


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    (tmp_path / "models").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "models" / "a.yaml").write_text(text("one"))
    made = Watched(tmp_path / "models", tmp_path / "data")
    running = asyncio.create_task(made.follower.run())
    yield made
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_files_come_change_and_go(watched: Watched) -> None:
    asked = watched.fleet.asked
    watched.write("b.yaml", text("two"))
    await watched.until(lambda: len(asked) == 1)
    watched.write("b.yaml", text("two", "suspend: true"), text("three"))
    await watched.until(lambda: len(asked) == 2)
    (watched.folder / "b.yaml").rename(watched.folder / "c.yaml")
    watched.write("a.yaml", text("renamed"))
    await watched.until(lambda: len(asked) == 3)
    (watched.folder / "c.yaml").unlink()
    await watched.until(lambda: len(asked) == 4)
    assert asked == [
        [("add", "two")],
        [("take", "two"), ("add", "three")],
        [("remove", "one"), ("add", "renamed")],
        [("remove", "two"), ("remove", "three")],
    ]
    assert watched.events == []
    assert "old-two" in " ".join(watched.fleet.plans[0].engine.command(START).args)


START: Any = SimpleNamespace(port=1, truth="t", guard="g", replica="r")


async def test_a_problem_is_told_once_and_its_end_once(watched: Watched) -> None:
    watched.write("b.yaml", text("two", "suspend: maybe"))
    await watched.until(lambda: watched.events)
    watched.write("c.yaml", text("three"))
    await watched.until(lambda: watched.fleet.asked)
    watched.write("b.yaml", text("two", "suspend: maybe"), "# nothing new\n")
    watched.write("c.yaml", text("four"))
    await watched.until(lambda: len(watched.fleet.asked) == 2)
    (said,) = watched.events
    assert (said.event, said.line, said.field) == ("error", 7, "spec.suspend")
    assert said.file == str(watched.folder / "b.yaml")
    watched.write("b.yaml", text("two"))
    await watched.until(lambda: len(watched.fleet.asked) == 3)
    assert watched.fleet.asked[2] == [("add", "two")]
    assert [event.event for event in watched.events] == ["error", "file"]


async def test_a_directory_that_goes_takes_nothing_with_it(watched: Watched) -> None:
    away = watched.folder.rename(watched.folder.with_name("away"))
    await watched.until(lambda: watched.events)
    assert watched.events[0].message.endswith("its models stay as they are")
    away.rename(watched.folder)
    await watched.until(lambda: len(watched.events) == 2)
    assert [event.event for event in watched.events] == ["error", "file"]
    assert watched.fleet.asked == []


async def test_what_cannot_be_noted_is_tried_again(watched: Watched) -> None:
    data = watched.fleet.site.data
    (data / "first-seen.json").mkdir()
    watched.write("b.yaml", text("two"))
    await watched.until(lambda: watched.events)
    assert "first-seen.json" in watched.events[0].message
    (data / "first-seen.json").rmdir()
    await watched.until(lambda: watched.fleet.asked)
    assert watched.fleet.asked == [[("add", "two")]]
    assert len(watched.events) == 1


async def test_a_file_whose_name_is_not_utf_8_is_followed_like_any_other(watched: Watched) -> None:
    name = os.fsdecode(b"caf\xe9.yaml")
    watched.write(name, "x: [")
    await watched.until(lambda: watched.events)
    assert b"caf\\\\xe9.yaml:2: not YAML" in msgspec.json.encode(watched.events[0])
    watched.write(name, text("two"))
    await watched.until(lambda: watched.fleet.asked == [[("add", "two")]])
    (watched.folder / name).unlink()
    await watched.until(lambda: watched.fleet.asked[1:] == [[("remove", "two")]])
