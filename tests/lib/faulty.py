"""A sim engine under a platform: made to fail, asked, and its numbers closed."""

from typing import Any

import httpx

import running


def engine(up: running.Platform) -> dict[str, Any]:
    """The first engine of `run.json`, once there is one."""
    return running.wait_for(lambda: up.run["engines"], "an engine")[0]  # type: ignore[no-any-return]


def fault(up: running.Platform, fail: str | None) -> None:
    """`PUT /sim/faults` to the running engine."""
    one = engine(up)
    headers = {"authorization": f"Bearer {one['guard']}"}
    answer = httpx.put(
        one["url"] + "/sim/faults", json={"fail": fail}, headers=headers, trust_env=False
    )
    answer.raise_for_status()


def body(tokens: int, **more: object) -> dict[str, Any]:
    """A chat for so many tokens."""
    return {
        "model": "sim",
        "max_tokens": tokens,
        "messages": [{"role": "user", "content": "a b c"}],
        **more,
    }


def closes(up: running.Platform, received: dict[str, int] | None = None) -> None:
    """All is settled, and billed, generated and received agree."""
    up.settled()
    assert not running.audit(up.events(), up.truth(), received)

    seen: list[dict[str, Any]] = []

    def balanced() -> bool:
        seen[:] = up.conservation()
        return bool(seen) and all(r["unexplained"] == 0 and r["unverified"] == 0 for r in seen)

    try:
        running.wait_for(balanced, "conservation closes", 15)
    except AssertionError as error:
        raise AssertionError(f"{error}: {seen}") from error
    assert up.drifts() == []
