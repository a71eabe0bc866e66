"""Where the model's files are in the pod, and how they get there.

    file:///FOLDER       in the engine's image: served where it lies
    pvc://CLAIM/PATH     a claim of the namespace, mounted read-only
    anything else        made ready by an init container (`engines/vllm/fetch.py`) under /models, an
                         emptyDir or, where the resource asks for a cache, a claim that outlives
                         the pod; models that the image brings along take no time there

What is fetched is served under a name made from its address and revision, so a cache never serves
yesterday's model under today's address. Of the Secret with the source's credentials one key is
read, `token`, as one variable: a Secret taken over as a whole could set `LD_PRELOAD` as well.
"""

import hashlib
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from tidegate_operator.plan import names
from tidegate_runtime.contract.spec import ModelDeployment

Object = dict[str, Any]

MODELS: Final = "/models"
FETCH: Final = "tidegate-fetch"
"""On the PATH of the engine's image; called with URI and DEST, where it leaves a link."""
TOKEN_KEY: Final = "token"  # noqa: S105 - a key's name
TOKEN_VARIABLE: Final = "HF_TOKEN"  # noqa: S105 - a variable's name


class Weights(NamedTuple):
    """`path`: the folder to serve. `fetch`: the command that brings it, None = it is there."""

    path: str
    volumes: tuple[Object, ...] = ()
    mounts: tuple[Object, ...] = ()
    fetch: tuple[str, ...] | None = None
    fetch_mounts: tuple[Object, ...] = ()


def weights(resource: ModelDeployment) -> Weights:
    """How the pods of `resource` come by its model. Raises ValueError where they cannot."""
    uri = resource.spec.model.uri
    scheme, _, rest = uri.partition("://")
    if scheme == "sim":
        raise ValueError(f"spec.model.uri: {uri} has no weights")
    if _is_fetched(uri):
        return _fetched(resource)
    return _claimed(rest) if scheme == "pvc" else Weights(unquote(rest.removeprefix("localhost")))


def cached(resource: ModelDeployment) -> bool:
    """Whether fetched weights are kept on a claim of their own."""
    return resource.spec.model.cache.size is not None and _is_fetched(resource.spec.model.uri)


def token_secret(resource: ModelDeployment) -> str | None:
    """The Secret whose `token` the source wants; only a hub does."""
    model = resource.spec.model
    return model.secret_ref.name if model.secret_ref and model.uri.startswith("hf://") else None


def _is_fetched(uri: str) -> bool:
    scheme = uri.partition("://")[0]
    return scheme in {"hf", "pkg"} or (scheme == "file" and uri.endswith(".gguf"))


def _claimed(rest: str) -> Weights:
    claim, _, inside = rest.partition("/")
    source = {"claimName": claim, "readOnly": True}
    return Weights(
        path=f"{MODELS}/{inside.strip('/')}".rstrip("/"),
        volumes=({"name": "models", "persistentVolumeClaim": source},),
        mounts=({"name": "models", "mountPath": MODELS, "readOnly": True},),
    )


def _fetched(resource: ModelDeployment) -> Weights:
    model = resource.spec.model
    digest = hashlib.sha256(f"{model.uri}\0{model.revision}".encode()).hexdigest()[:16]
    path = f"{MODELS}/{digest}"
    kept = {"persistentVolumeClaim": {"claimName": names.claim(resource)}}
    return Weights(
        path=path,
        volumes=({"name": "models", **(kept if cached(resource) else {"emptyDir": {}})},),
        mounts=({"name": "models", "mountPath": MODELS, "readOnly": True},),
        fetch=(FETCH, model.uri, path, "--revision", model.revision),
        fetch_mounts=({"name": "models", "mountPath": MODELS},),
    )
