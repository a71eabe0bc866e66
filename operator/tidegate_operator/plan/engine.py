"""What runs in an engine's pod, by engine type: image, command line, environment, files.

The command lines are those of local mode (`engines.vllm.args`, the sim's flags) with a pod's
address. Two things differ. The guard secret comes from the Secret, by reference, so that it stands
in no object but that one. And the guard itself, a file of standard-library Python, comes with the
ConfigMap: so any vLLM image will do, also vLLM's own, and a guard is as new as its operator. So does
the program that a pod runs before it is told to stop.

Kubernetes replaces `$(NAME)` in arguments and variables. A tenant's `$(ENGINE_GUARD_SECRET)` would
put the secret into a command line, so every `$` of a value is doubled, which it turns into one.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from tidegate_operator.plan import names
from tidegate_operator.plan.weights import (
    TOKEN_KEY,
    TOKEN_VARIABLE,
    Weights,
    token_secret,
    weights,
)
from tidegate_operator.platform import Chosen, EngineImage, Platform, chosen
from tidegate_runtime.contract import cluster, tasks
from tidegate_runtime.contract.spec import ModelDeployment
from tidegate_runtime.engines import leave
from tidegate_runtime.engines.vllm import args as vllm_args
from tidegate_runtime.engines.vllm.guard.tidegate_guard import SECRET_VARIABLE

Object = dict[str, Any]

GUARD_FOLDER: Final = "/etc/tidegate/guard"
GUARD_FILE: Final = "tidegate_guard.py"
LEAVE_FILE: Final = "leave.py"
PYTHON: Final = "python3"
"""Found by the image's own PATH."""
PRE_STOP_SECONDS: Final = 5
"""Before SIGTERM at least: routers learn meanwhile that the pod is going."""
EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - a pod's own address; the guard refuses strangers

_WRITABLE: Final[Mapping[str, str]] = {
    # The root is read-only. Caches of libraries go where HOME is; a user without an entry in
    # /etc/passwd has a name by USER only, which PyTorch asks for.
    "HOME": "/tmp",  # noqa: S108 - an emptyDir of the pod's own
    "TMPDIR": "/tmp",  # noqa: S108 - the same
    "USER": "tidegate",
}


class Runs(NamedTuple):
    """An engine as the pod needs it.

    `argv` is for people and hashes; `process` has the container's `command` or `args`. `files` are
    keys of the ConfigMap beside the argv. `fetch`: the whole command that brings the model."""

    image: str
    pull_policy: str
    pull_secrets: tuple[str, ...]
    argv: tuple[str, ...]
    process: Mapping[str, list[str]]
    env: tuple[Object, ...]
    files: Mapping[str, str] = {}
    volumes: tuple[Object, ...] = ()
    mounts: tuple[Object, ...] = ()
    fetch: tuple[str, ...] | None = None
    fetch_image: str = ""
    fetch_env: tuple[Object, ...] = ()
    fetch_mounts: tuple[Object, ...] = ()


def runs(resource: ModelDeployment, platform: Platform, guard_secret: str) -> Runs:
    """What the pods of `resource` run. Raises KeyError, ValueError as `plan` says."""
    if resource.spec.engine.type == "sim":
        return _sim(resource, platform)
    return _vllm(resource, platform, guard_secret)


def mounted(**paths: str) -> list[Object]:
    """Mounts of volumes by their names."""
    return [{"name": name, "mountPath": path} for name, path in paths.items()]


def _sim(resource: ModelDeployment, platform: Platform) -> Runs:
    spec = resource.spec
    argv = ["sim", "--host", EVERYWHERE, "--port", str(cluster.ENGINE_PORT)]
    argv += ["--model", resource.served_name]
    for alias in spec.model.aliases:
        argv += ["--alias", alias]
    argv += ["--shutdown-timeout", str(max(1, spec.drain.timeout_seconds)), *spec.engine.args]
    offered = platform.engines.sim
    env = dict(chosen(resource, platform).profile.env) | _plain(resource)
    files = {LEAVE_FILE: _leave_source()}
    return Runs(
        image=_image(resource, offered),
        pull_policy=offered.pull_policy,
        pull_secrets=tuple(offered.pull_secrets),
        argv=tuple(argv),
        process={"args": [_literal(one) for one in argv]},
        env=_env(resource, dict(_WRITABLE) | env),
        files=files,
        volumes=(_files_volume(resource, files),),
        mounts=(_FILES_MOUNT,),
    )


def _vllm(resource: ModelDeployment, platform: Platform, guard_secret: str) -> Runs:
    on = chosen(resource, platform)
    offered = platform.engines.vllm
    source = weights(resource)
    made = vllm_args.command(_serve(resource, on, source, guard_secret), _WRITABLE)
    files = {GUARD_FILE: vllm_args.guard_source(), LEAVE_FILE: _leave_source()}
    fetch = None if source.fetch is None else tuple(map(_literal, source.fetch))
    image = _image(resource, offered, on.profile.image)
    return Runs(
        image=image,
        pull_policy=offered.pull_policy,
        pull_secrets=tuple(offered.pull_secrets),
        argv=made.argv,
        process={"command": [_literal(one) for one in made.argv]},
        env=_env(resource, {**_WRITABLE, **made.env}),
        files=files,
        volumes=(_files_volume(resource, files), *source.volumes),
        mounts=(_FILES_MOUNT, *source.mounts),
        fetch=fetch,
        fetch_image=offered.fetch_image or image,
        fetch_env=_fetch_env(resource, offered),
        fetch_mounts=source.fetch_mounts,
    )


def _serve(
    resource: ModelDeployment, on: Chosen, source: Weights, guard_secret: str
) -> vllm_args.Serve:
    spec = resource.spec
    return vllm_args.Serve(
        python=Path(PYTHON),
        model=Path(source.path),
        names=(resource.served_name, *spec.model.aliases),
        host=EVERYWHERE,
        port=cluster.ENGINE_PORT,
        guard_secret=guard_secret,
        guard_folder=Path(GUARD_FOLDER),
        drain_seconds=spec.drain.timeout_seconds,
        max_concurrency=spec.scaling.concurrency_limit,
        task=tasks.engine_task(spec.model.task) or "generate",
        device=on.profile.device,
        devices=max(1, on.gpus),
        args=tuple(spec.engine.args),
        env=dict(on.profile.env) | _plain(resource),
    )


_FILES_MOUNT: Final = {"name": "guard", "mountPath": GUARD_FOLDER, "readOnly": True}


def _files_volume(resource: ModelDeployment, files: Mapping[str, str]) -> Object:
    items = [{"key": name, "path": name} for name in files]
    return {"name": "guard", "configMap": {"name": names.child(resource), "items": items}}


@cache
def _leave_source() -> str:
    return Path(leave.__file__).read_text("utf-8")


def leaves(resource: ModelDeployment) -> list[str]:
    """The command of the pod's preStop; see `engines.leave`."""
    most = resource.spec.drain.timeout_seconds
    least = min(PRE_STOP_SECONDS, most)
    place = f"{GUARD_FOLDER}/{LEAVE_FILE}"
    return [PYTHON, "-I", "-S", place, str(cluster.ENGINE_PORT), str(least), str(most)]


def _image(resource: ModelDeployment, offered: EngineImage, for_devices: str = "") -> str:
    engine = resource.spec.engine
    return engine.image or offered.versions.get(engine.version, for_devices or offered.image)


def _plain(resource: ModelDeployment) -> dict[str, str]:
    entries = resource.spec.engine.env
    return {one.name: one.value for one in entries if one.value is not None}


def _env(resource: ModelDeployment, values: Mapping[str, str]) -> tuple[Object, ...]:
    """All variables by name, those of Secrets by reference, the guard's last word included."""
    refs = {
        one.name: one.value_from.secret_key_ref
        for one in resource.spec.engine.env
        if one.value_from is not None
    }
    made = {one["name"]: one for one in _variables(values)}
    for name, ref in refs.items():
        made[name] = _reference(name, ref.name, ref.key)
    made[SECRET_VARIABLE] = _reference(SECRET_VARIABLE, names.child(resource), cluster.GUARD_KEY)
    return tuple(made[name] for name in sorted(made))


def _fetch_env(resource: ModelDeployment, offered: EngineImage) -> tuple[Object, ...]:
    made = _variables({**_WRITABLE, **offered.fetch_env})
    secret = token_secret(resource)
    if secret is None:
        return made
    others = [one for one in made if one["name"] != TOKEN_VARIABLE]
    token = _reference(TOKEN_VARIABLE, secret, TOKEN_KEY)
    return tuple(sorted([*others, token], key=lambda one: one["name"]))


def _variables(values: Mapping[str, str]) -> tuple[Object, ...]:
    return tuple({"name": name, "value": _literal(values[name])} for name in sorted(values))


def _reference(variable: str, secret: str, key: str) -> Object:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _literal(text: str) -> str:
    return text.replace("$", "$$")
