"""Applies CustomResourceDefinitions: Helm installs those of a chart once and never upgrades them."""

import asyncio
from collections.abc import Mapping
from typing import Any

from tidegate_operator.cli.failure import CommandError
from tidegate_operator.kube.api import Api, ApiError, connect
from tidegate_runtime.contract.cluster import condition

SECONDS = 60.0
_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def apply_now(definition: Mapping[str, Any]) -> str:
    """Apply `definition` and wait until it is served. Raises CommandError."""
    try:
        return asyncio.run(_apply(definition))
    except ApiError as error:
        raise CommandError(f"the definition was refused: {error.message}") from error
    except TimeoutError as error:
        raise CommandError(f"the definition is not served after {SECONDS:.0f} s") from error


async def _apply(definition: Mapping[str, Any]) -> str:
    api = Api(await connect())
    name = definition["metadata"]["name"]
    try:
        async with asyncio.timeout(SECONDS):
            live = await api.apply(f"{_PATH}/{name}", definition)
            while (condition(live, "Established") or {}).get("status") != "True":
                await asyncio.sleep(0.2)
                live = await api.get(f"{_PATH}/{name}")
    finally:
        await api.close()
    return f"{name} is applied and served"
