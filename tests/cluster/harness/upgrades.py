"""`helm upgrade` from the milestone before to this one and back, with streams running.

Everything changes at once: routers, billing, operator, the resource's definition, and the engines,
whose image the platform's is. The chart's own order and each part's drain must lose nothing.
"""

from pathlib import Path
from typing import Any

import yaml

from . import installed, kubectl, released
from .kubectl import wait_for
from .layout import Cluster
from .scenarios import sleep, wake
from .stage import Stage

DEFINITION = "modeldeployments.tidegate.dev"
SECONDS = 900
BEFORE = "docker.io/library/tidegate:before"


def known(chart: Path) -> set[str]:
    """The names of values that a chart has."""
    return set(yaml.safe_load((chart / "values.yaml").read_text()))


def put_back(cluster: Cluster, *flags: str) -> None:
    """The milestone before, installed over whatever is there."""
    chart = released.checkout() / "charts" / "tidegate"
    names = {"tidegate": released.load(cluster), "vllm": "", "built": released.PREVIOUS[:16]}
    values = {name: value for name, value in installed.VALUES.items() if name in known(chart)}
    installed.install(cluster, names, *flags, chart=chart, values=values, seconds=SECONDS)


def _schema(stage: Stage) -> dict[str, Any]:
    found = kubectl.get(stage.cluster, "customresourcedefinition", DEFINITION) or {}
    return dict(found["spec"]["versions"][0]["schema"])


def _images(stage: Stage) -> set[str]:
    """The images of the model's engines. The version before has a sim that tells no truth."""
    found = {pod["metadata"]["uid"]: pod["spec"]["containers"][0]["image"] for pod in stage.pods()}
    stage.mute |= {uid for uid, image in found.items() if image == BEFORE}
    return set(found.values())


def _runs(stage: Stage, image: str) -> None:
    """Wait until all of the model's engines are of this image, and no other is left."""

    def look() -> bool:
        return _images(stage) == {image}

    wait_for(look, f"engines of {image}", 300)
    stage.replicas(3, 180)


def upgrade(stage: Stage, names: dict[str, str], *flags: str) -> None:
    """From the milestone before, which is installed, to this one, back, and up again."""
    before = _schema(stage)
    wake(stage)
    assert _images(stage) == {BEFORE}
    with stage.moment("helm upgrade"):
        installed.install(stage.cluster, names, *flags, seconds=SECONDS)
        _runs(stage, names["tidegate"])
    after = _schema(stage)
    assert after != before, "the definition was to change"
    stage.change(coldStart={"startTimeoutSeconds": 900})
    assert stage.mdep()["spec"]["coldStart"]["startTimeoutSeconds"] == 900
    stage.more(100)
    with stage.moment("helm upgrade back to the version before"):
        put_back(stage.cluster, *flags)
        _runs(stage, BEFORE)
    assert _schema(stage) == before
    assert "startTimeoutSeconds" not in stage.mdep()["spec"]["coldStart"]
    stage.more(100)
    with stage.moment("helm upgrade once more"):
        installed.install(stage.cluster, names, *flags, seconds=SECONDS)
        _runs(stage, names["tidegate"])
    sleep(stage)
