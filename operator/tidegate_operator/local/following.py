"""From what the files say to what is to be done: pure.

A file that has a problem changes nothing: what it gave before stays in force. That a deployment is
given by two files is a problem of the one that came later; of files that are met together, of the
later in their order. The other keeps it, until it lets go of it.

What an engine process is made of is its *build*. A change outside of it is taken in place; another
build needs another process, which is a roll.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from tidegate_runtime.contract.resource import ModelDeployment, Parsed, Problem, twice

Held = Mapping[str, tuple[ModelDeployment, ...]]
"""What is in force of each file, by its name, in the files' order."""


class Verdict(NamedTuple):
    """What is in force of each file now, and what is wrong with those that are broken."""

    held: Held
    problems: Mapping[str, tuple[Problem, ...]]


def accept(parsed: Mapping[str, Parsed], held: Held) -> Verdict:
    """Judges all files, in their order. `held`: what was in force of them before."""
    problems = {name: tuple(one.problems) for name, one in parsed.items() if one.problems}
    while True:
        wanted = {
            name: held.get(name, ()) if name in problems else tuple(one.resources)
            for name, one in parsed.items()
        }
        clashes = _clashes(wanted, held, problems)
        if not clashes:
            return Verdict(wanted, problems)
        problems |= clashes  # each round breaks one file more, so there is a last round


def _clashes(
    wanted: Held, held: Held, broken: Mapping[str, tuple[Problem, ...]]
) -> dict[str, tuple[Problem, ...]]:
    """Files that want a deployment of another's. One that is broken keeps what it holds."""
    before = {(name, one.deployment) for name, ones in held.items() for one in ones}

    def claim(name: str, one: ModelDeployment) -> tuple[bool, bool]:
        return name not in broken, (name, one.deployment) not in before

    claims = sorted(
        ((name, one) for name, ones in wanted.items() for one in ones),
        key=lambda both: claim(*both),
    )
    first: dict[str, ModelDeployment] = {}
    found: dict[str, list[Problem]] = {}
    for name, one in claims:
        if (known := first.setdefault(one.deployment, one)) is not one:
            found.setdefault(name, []).append(twice(one, known))
    return {name: tuple(ones) for name, ones in found.items()}


def resources(held: Held) -> dict[str, ModelDeployment]:
    """All that is in force, by deployment."""
    return {one.deployment: one for ones in held.values() for one in ones}


class News(NamedTuple):
    """What is to be told of the files: problems that were not told yet, and who has none now."""

    problems: list[Problem]
    good: list[str]


def news(
    told: Mapping[str, tuple[Problem, ...]],
    now: Mapping[str, tuple[Problem, ...]],
    here: Collection[str],
) -> News:
    """What is new since `told`, the problems by file of the last time. `here`: the files and
    directories that there are; of one that is gone nothing good is told."""
    fresh = [one for name, ones in now.items() for one in ones if one not in told.get(name, ())]
    return News(fresh, [name for name in told if name in here and name not in now])


class Step(NamedTuple):
    """What is to be done for one deployment. `resource`: as it shall be, or was (remove).
    `changed`: the parts of the resource that are different."""

    kind: Literal["remove", "add", "take", "roll"]
    resource: ModelDeployment
    changed: tuple[str, ...] = ()


def steps(
    running: Mapping[str, ModelDeployment], wanted: Mapping[str, ModelDeployment]
) -> list[Step]:
    """What leads from what runs to what is wanted: first what goes, so that its names are free."""
    made = [Step("remove", one) for key, one in running.items() if key not in wanted]
    for key, new in wanted.items():
        old = running.get(key)
        if old is None:
            made.append(Step("add", new))
        elif parts := changes(old, new):
            made.append(Step("take" if build(old) == build(new) else "roll", new, parts))
    return made


def after(
    running: Mapping[str, ModelDeployment], done: Iterable[Step]
) -> dict[str, ModelDeployment]:
    """What runs once the steps are done."""
    made = dict(running)
    for step in done:
        if step.kind == "remove":
            del made[step.resource.deployment]
        else:
            made[step.resource.deployment] = step.resource
    return made


def changes(old: ModelDeployment, new: ModelDeployment) -> tuple[str, ...]:
    """The parts of a resource that differ: `metadata`, `scaling`, `engine`, ..."""
    parts = [] if old.metadata == new.metadata else ["metadata"]
    names: Sequence[str] = new.spec.__struct_fields__
    shown = dict(zip(names, new.spec.__struct_encode_fields__, strict=True))
    parts += [shown[name] for name in names if getattr(old.spec, name) != getattr(new.spec, name)]
    return tuple(parts)


def build(one: ModelDeployment) -> str:
    """What an engine process of the resource is made of. Its names are part of it: the process is
    told them when it starts, and answers to no other."""
    spec = one.spec
    made = (
        spec.model.uri,
        spec.model.revision,
        spec.model.secret_ref,
        one.served_name,
        spec.model.aliases,
        spec.model.task,
        msgspec.structs.replace(spec.engine, stall_seconds=0),  # it is the routers' business
        spec.resources,
        [(adapter.name, adapter.uri, adapter.revision) for adapter in spec.adapters],
    )
    return msgspec.json.encode(made).decode()
