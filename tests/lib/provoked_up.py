"""What takes a whole platform to provoke, by the row of docs/errors.md; one `up` for all of it."""

from collections.abc import Callable
from pathlib import Path

import httpx

import running
from paying import PLENTY, Payer
from provoked_requests import Answer, answer

CHAT = "/v1/chat/completions"


def document() -> str:
    """The platform's models."""
    public = "spec:\n  access: {visibility: Public}\n"
    models = (
        running.sim("sim", tokens_per_second=5000),
        running.sim("late", start_seconds=2.5, heartbeat=1),
        running.sim("late-too", start_seconds=2.5, heartbeat=1),
    )
    return "".join(models).replace("spec:\n", public)


def _asked(payer: Payer, **body: object) -> Answer:
    return answer(payer.ask(**body))


def _while_held(
    up: running.Platform, payer: Payer, model: str, cause: Callable[[], object]
) -> Answer:
    """A stream that had a heartbeat when something happened."""
    body = {**PLENTY, "model": model, "stream": True}
    headers = {"authorization": f"Bearer {payer.key}"}
    client = httpx.Client(base_url=up.base, headers=headers, timeout=60, trust_env=False)
    with client, client.stream("POST", CHAT, json=body) as got:
        assert got.status_code == 200, got.read()
        cause()
        got.read()
        return answer(got)


def _credit(up: running.Platform) -> list[Answer]:
    poor, euros, turned = Payer(up, "poor"), Payer(up, "euros"), Payer(up, "turned", "postpaid")
    poor.grant("0.0000001")
    euros.grant("5", currency="EUR")
    late = _while_held(
        up, turned, "late",
        lambda: turned.call("PATCH", "/api/v1/tenants/turned", {"plan": "prepaid"}),
    )  # fmt: skip
    return [_asked(poor), _asked(euros), late]


def _budget(up: running.Platform) -> list[Answer]:
    spent, bounded = Payer(up, "spent", "postpaid"), Payer(up, "bounded", "postpaid")
    spent.budget("0.0000001")
    late = _while_held(up, bounded, "late-too", lambda: bounded.budget("0.0000001"))
    found: list[httpx.Response] = []

    def refused() -> bool:  # until the routers have heard of it
        found[:] = [spent.ask(max_tokens=1)]
        return found[0].status_code == 402

    running.wait_for(refused, "the budget")
    return [answer(found[0]), late]


def _get(*paths: str) -> Callable[[running.Platform], list[Answer]]:
    def provoke(up: running.Platform) -> list[Answer]:
        with up.client() as client:
            return [answer(client.get(path)) for path in paths]

    return provoke


def follow(folder: Path) -> Path:
    """A directory for `-f`, with a model whose name another one has."""
    folder.mkdir()
    second = running.sim("second").replace("model: {", "model: {name: sim, ")
    (folder / "second.yaml").write_text(second)
    return folder


def _said(up: running.Platform, words: str) -> str:
    def look() -> str:
        told = [one["message"] for one in up.told("error") if words in one["message"]]
        return told[0] if told else ""

    return str(running.wait_for(look, words))


def _name_taken(up: running.Platform, _: Path) -> str:
    rows = up.operator("/api/v1/models")["data"]
    return next(str(row["warning"]) for row in rows if row["deployment"] == "default/second")


def _broken_later(up: running.Platform, folder: Path) -> str:
    (folder / "second.yaml").write_text("kind: 7\n")
    return _said(up, "kind: must be")


def _folder_gone(up: running.Platform, folder: Path) -> str:
    folder.rename(folder.with_name("moved"))
    return _said(up, "its models stay")


FILES: dict[str, Callable[[running.Platform, Path], str]] = {
    "name-taken": _name_taken,
    "broken-later": _broken_later,
    "folder-gone": _folder_gone,
}
"""What comes of files while `up` runs; in this order, in the directory that it follows."""

REQUESTS: dict[str, Callable[[running.Platform], list[Answer]]] = {
    "invalid_value 400": _get("/v1/organization/usage/completions?start_time=0&limit=99"),
    "generation_not_found 404": _get("/v1/generations/req-nobody"),
    "credit_exhausted 402": _credit,
    "budget_exhausted 402": _budget,
}
