"""Which cores an engine computes on, and that its threads are there."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_operator.local import cores
from tidegate_operator.local.binding import IN_USE_SECONDS, Binding
from tidegate_operator.local.cores import Cpu, Processor
from tidegate_runtime.contract.links import DemandLine, ReplicaDemand


@pytest.mark.parametrize(
    ("count", "engines", "expected"),
    [
        (2, 1, [(0, 1)]),
        (2, 2, [(0,), (1,)]),
        (2, 3, [(), (), ()]),
        (1, 1, [(0,)]),
        (7, 3, [(0, 1, 2), (3, 4), (5, 6)]),
        (4, 0, []),
        (0, 2, [(), ()]),
    ],
)
def test_shares(count: int, engines: int, expected: list[tuple[int, ...]]) -> None:
    assert cores.split(range(count), engines) == expected


@given(st.integers(0, 200), st.integers(0, 50))
def test_shares_are_even_whole_and_nobody_elses(count: int, engines: int) -> None:
    shares = cores.split(range(count), engines)
    assert len(shares) == engines
    if engines > count:
        assert not any(shares)
    elif engines:
        assert [one for share in shares for one in share] == list(range(count))
        assert {len(share) for share in shares} <= {count // engines, count // engines + 1}


def threaded(*pairs: tuple[int, ...]) -> list[Cpu]:
    return [Cpu(one, pair) for pair in pairs for one in pair]


@pytest.mark.parametrize(
    ("cpus", "quota", "expected"),
    [
        ([Cpu(0, (0,))], 0, (0,)),
        ([Cpu(0, (0,)), Cpu(1, (1,))], 0, (0, 1)),
        (threaded((0, 1), (2, 3)), 0, (0, 2)),
        (threaded((0, 4), (1, 5), (2, 6)), 0, (0, 1, 2)),
        (threaded((0, 4), (1, 5), (2, 6), (3, 7)), 0, (0, 1, 2)),  # one is left to the platform
        # Only the second thread of a core may be used.
        ([Cpu(5, (1, 5)), Cpu(6, (2, 6))], 0, (5, 6)),
        # Cores of one package are neighbours.
        ([Cpu(0, (0,), 0), Cpu(1, (1,), 1), Cpu(2, (2,), 0)], 0, (0, 2, 1)),
        # A list that leaves the processor itself out is not to be believed.
        ([Cpu(0, (8, 9)), Cpu(1, (8, 9))], 0, (0, 1)),
        ([Cpu(n, (n,)) for n in range(8)], 2.5, (0, 1)),
        ([Cpu(n, (n,)) for n in range(8)], 0.5, (0,)),
        ([], 0, ()),
    ],
)
def test_usable_cores(cpus: list[Cpu], quota: float, expected: tuple[int, ...]) -> None:
    assert cores.usable(cpus, quota) == expected


def topology(root: Path, number: int, siblings: str | None, package: str = "0") -> None:
    folder = root / f"sys/devices/system/cpu/cpu{number}/topology"
    folder.mkdir(parents=True)
    if siblings is not None:
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    (folder / "physical_package_id").write_text(package + "\n")


@pytest.mark.parametrize(
    ("siblings", "expected"),
    [
        (["0,2", "1,3", "0,2", "1,3"], (0, 1)),
        (["0-1", "0-1", "2-3", "2-3"], (0, 2)),
        ([None, None, None, "3"], (0, 1, 2)),
        (["", "x", "1-", "-"], (0, 1, 2)),
    ],
)
def test_a_processor_is_read(
    siblings: list[str | None], expected: tuple[int, ...], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for number, one in enumerate(siblings):
        topology(tmp_path, number, one, "-1")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert cores.processor(tmp_path) == Processor((0, 1, 2, 3), expected)


def test_a_processor_without_topology(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 9})
    assert cores.processor(tmp_path) == Processor((4, 9), (4, 9))


def test_where_processes_cannot_be_bound_nothing_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    binding = Binding(cores.processor())
    assert binding.begin("m-1", model("m"), 1.0) == ()
    binding.settle([], {}, 2.0)
    assert binding.of("m-1") == []


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/a\n", {"a/cpu.max": "max 100000"}, 0),
        ("0::/a\n", {"a/cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b\n", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "300000 100000"}, 1.5),
        ("0::/a\n", {"a/cpu.max": "nonsense"}, 0),
        ("4:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "200000", "cpu/x/cpu.cfs_period_us": "100000"}, 2),
        ("4:cpu:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, 0),
        ("", {}, 0),
    ],
)  # fmt: skip
def test_a_control_groups_quota(
    cgroup: str, files: dict[str, str], expected: float, tmp_path: Path
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    assert cores.quota(tmp_path) == expected


def model(name: str, desired: int = 1, *, computes: bool = True) -> Any:
    engine = SimpleNamespace(computes=computes)
    plan = SimpleNamespace(engine=engine)
    return SimpleNamespace(deployment=name, desired=desired, plan=plan, runs={})


def run(one: Any, replica: str, pid: int, state: str = "ready") -> None:
    child = SimpleNamespace(pid=pid)
    one.runs[replica] = SimpleNamespace(id=replica, state=state, child=child)


FOUR = Processor((0, 1, 2, 3), (0, 1, 2, 3))


def test_shares_at_the_start() -> None:
    binding = Binding(FOUR)
    assert binding.begin("a-1", model("a"), 1.0) == (0, 1, 2, 3)
    assert binding.begin("b-1", model("b"), 2.0) == (2, 3)  # `a` moves as soon as both are there
    assert binding.begin("c-1", model("c"), 1.5 + IN_USE_SECONDS) == (2, 3)  # `a` is in no use
    assert binding.begin("s-1", model("s", computes=False), 3.0) == ()


def test_replicas_that_start_together_have_even_shares_from_the_start() -> None:
    binding, many = Binding(FOUR), model("m", desired=2)
    assert [binding.begin(f"m-{n}", many, 1.0) for n in (1, 2)] == [(0, 1), (2, 3)]


def test_more_engines_than_cores_have_a_thread_each() -> None:
    binding, many = Binding(Processor((0, 1), (0, 1))), model("m", desired=3)
    assert [binding.begin(f"m-{n}", many, 1.0) for n in (1, 2, 3)] == [(0,), (1,), (0,)]


THREADS = """
import os, threading, time
allowed = sorted(os.sched_getaffinity(0))
def work(n):
    os.sched_setaffinity(threading.get_native_id(), {allowed[n]})
    ready.wait()
    time.sleep(60)
ready = threading.Barrier(3)
for n in (0, 1):
    threading.Thread(target=work, args=(n,), daemon=True).start()
ready.wait()
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def engine() -> Iterator[int]:
    """A process of three threads, two of them bound to a core each."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two processors")
    process = subprocess.Popen(
        [sys.executable, "-Ic", THREADS], stdout=subprocess.PIPE, start_new_session=True,
        env={"GOMP_CPU_AFFINITY": "0 1"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    yield process.pid
    process.kill()
    process.wait()
    process.stdout.close()


def places(pid: int) -> list[set[int]]:
    """Where the threads of a process may run, in the order of their making."""
    threads = sorted(int(one.name) for one in Path(f"/proc/{pid}/task").iterdir())
    return [os.sched_getaffinity(one) for one in threads]


def told(**in_flight: int) -> dict[str, DemandLine | None]:
    replicas = [ReplicaDemand(id=name, in_flight=n) for name, n in in_flight.items()]
    return {"r": DemandLine(router="r", at=1.0, models=[], replicas=replicas)}


def test_threads_move_as_engines_come_into_use_and_go(engine: int) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    first, second = allowed[:2]
    binding = Binding(Processor(tuple(allowed), (first, second)))
    one, two, three = model("a"), model("b"), model("c")
    assert binding.begin("a1", one, 1.0) == (first, second)
    run(one, "a1", engine)
    assert binding.begin("b1", two, 2.0) == (second,)
    run(two, "b1", 2**30, "starting")
    free = set(allowed)
    binding.settle([one, two], told(a1=1), 2.5)  # as long as it starts it needs none
    assert places(engine) == [{first, second}] * 3
    run(two, "b1", 2**30)

    binding.settle([one, two], told(a1=1), 3.0)
    assert places(engine) == [{first}] * 3
    assert (binding.of("a1"), binding.of("b1")) == ([first], [second])

    binding.begin("c1", three, 3.0)  # more than there are cores
    run(three, "c1", 2**30)
    binding.settle([one, two, three], told(a1=1), 3.5)
    assert places(engine) == [free] * 3
    assert binding.of("a1") == []

    two.runs.clear()
    three.runs.clear()
    binding.settle([one, two, three], told(a1=1), 4.0)
    assert places(engine) == [{first, second}] * 3
    assert binding.of("b1") == []

    # One that is idle has no share and is free to run; unknown is no zero.
    binding.begin("b2", two, 5.0)
    run(two, "b2", 2**30)
    binding.settle([one, two], {"r": None}, 50.0)
    assert binding.of("a1") == [first]
    assert places(engine) == [{first}] * 3
    binding.settle([one, two], told(), 51.0 + IN_USE_SECONDS)
    assert places(engine) == [{first, second}] * 3
