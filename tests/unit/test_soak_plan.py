"""The soak's plan: all of it follows from the seed, and what it writes is what it says it writes."""

from collections import Counter
from pathlib import Path

import pytest
from soaking import documents
from soaking.plan import FAULTS, Act, Soak, rounds, soak

from tidegate_operator.local import following
from tidegate_runtime.contract import resource
from tidegate_runtime.engines.sim import fault

SEEDS = range(1, 9)


def made(seed: int, *, real: bool = False) -> Soak:
    return soak(seed, 5, rounds(12), real=real)


def test_the_same_seed_is_the_same_soak() -> None:
    assert made(1) == made(1)
    assert made(1) != made(2)


def test_the_rounds_fill_the_time_and_end_with_a_calm() -> None:
    assert [kind for kind, _ in rounds(0.5)] == ["warm", "storm", "calm"]
    half_hour = rounds(30)
    assert 30 * 60 <= sum(seconds for _, seconds in half_hour) + 15 * len(half_hour) < 32 * 60
    assert half_hour[-1][0] == "calm"


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_happens_at_its_time(seed: int) -> None:
    plan = made(seed, real=True)
    kinds = Counter(act.kind for one in plan.rounds for act in one.acts)
    for kind in ("roll", "scale", "price", "rename", "name", "add", "remove", "break", "move"):
        assert kinds[f"edit-{kind}"], kind
    assert min(kinds[kind] for kind in ("kill-router", "kill-billing", "kill-engine")) > 0
    assert min(kinds[kind] for kind in ("wake", "sleep", "fault", "clear")) > 0
    numbers = []
    for one in plan.rounds:
        times = [act.at for act in one.acts]
        assert times == sorted(times)
        assert all(0 <= at <= one.seconds for at in times)
        assert one.kind == "storm" or not {"kill-router", "kill-billing"} & {
            a.kind for a in one.acts
        }
        numbers += [ask.number for ask in one.asks]
    assert numbers == list(range(len(numbers)))
    asks = [ask for one in plan.rounds for ask in one.asks]
    assert {ask.stream for ask in asks} == {True, False}
    assert any(ask.leave_held is not None for ask in asks)
    assert any(ask.leave_after is not None for ask in asks)
    assert documents.REAL in {ask.model for ask in asks}


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_in_force_after_each_edit_is_what_the_plan_says(seed: int) -> None:
    """Told by the product's own reading and judging of files."""
    plan = made(seed)
    disk = {file: documents.text(specs) for file, specs in plan.base.items()}
    held: following.Held = following.accept(_parsed(disk), {}).held
    assert _served(held) == documents.names(plan.base)
    for one in plan.rounds:
        for act in [*one.acts, one.restore]:
            if not act.writes:
                continue
            _write(disk, act)
            verdict = following.accept(_parsed(disk), held)
            held = verdict.held
            assert _served(held) == act.names, act
            if act.kind == "edit-break":
                assert set(verdict.problems) >= {file for file, _ in act.writes}
            every = list(following.resources(held).values())
            assert {m.served_name for m in every if m.spec.suspend} == act.suspended, act
            doomed = {m.served_name for m in every if "die-at-start" in m.spec.engine.args}
            assert doomed == act.doomed, act
        assert disk == {file: documents.text(specs) for file, specs in plan.base.items()}


def _write(disk: dict[str, str], act: Act) -> None:
    for file, text in act.writes:
        if text is None:
            disk.pop(file, None)
        else:
            disk[file] = text


def _parsed(disk: dict[str, str]) -> dict[str, resource.Parsed]:
    return {file: resource.load(disk[file].encode(), file) for file in sorted(disk)}


def _served(held: following.Held) -> frozenset[str]:
    return frozenset(one.served_name for one in following.resources(held).values())


def test_the_real_model_is_a_resource() -> None:
    found = resource.load(documents.REAL_DOCUMENT.encode(), Path("real.yaml").name)
    assert [one.served_name for one in found.resources] == [documents.REAL]
    assert not found.problems


def test_the_faults_are_the_engines_own() -> None:
    assert [str(fault.parse(one)) for one in FAULTS] == list(FAULTS)
