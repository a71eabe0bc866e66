"""Finding the running platform, and asking its management API.

Two ways, in this order: `TIDEGATE_ADMIN_URL` with `TIDEGATE_ADMIN_TOKEN` (flags win), for a
platform anywhere; else the files that `tidegate up` keeps in its data directory. A stale
`run.json`, left by a killed `up`, names a port nobody listens on: that is "no platform", too.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx

from tidegate_operator.cli import address
from tidegate_operator.cli.failure import CommandError
from tidegate_operator.cli.places import default_data

TIMEOUT = 30.0
"""Seconds. `key create` answers when the routers know the key, a revoked one when they forgot."""
PAGE = 1000

NOT_RUNNING = "no platform is running; start one with `tidegate up -f FILE`"


class Platform(NamedTuple):
    """Where a platform answers. `ops_url` is empty where only the management API is known."""

    admin_url: str
    token: str
    ops_url: str = ""
    data: Path | None = None


def find(settings: Mapping[str, str], environ: Mapping[str, str]) -> Platform:
    """The platform that `settings` name, or the local one. Raises CommandError."""
    url = settings.get("ADMIN_URL", "").rstrip("/")
    if url:
        token = settings.get("ADMIN_TOKEN", "")
        address.web("TIDEGATE_ADMIN_URL", url)
        if not token:
            raise CommandError("TIDEGATE_ADMIN_URL is set but TIDEGATE_ADMIN_TOKEN is not; set it")
        return Platform(url, address.secret("TIDEGATE_ADMIN_TOKEN", token))
    data = Path(settings["DATA"]) if settings.get("DATA") else default_data(environ)
    return local(data, settings.get("ADMIN_TOKEN", ""))


def local(data: Path, token: str = "") -> Platform:
    """The platform whose `tidegate up` works in `data`. Raises CommandError where none does."""
    run = read_run(data)
    token = token or read_secret(data / "admin-token")
    operator = run.get("operator")
    ops_url = operator.get("ops_url", "") if isinstance(operator, dict) else ""
    return Platform(str(run.get("admin_url", "")).rstrip("/"), token, ops_url.rstrip("/"), data)


def read_run(data: Path) -> dict[str, Any]:
    """What `run.json` in `data` says. Raises CommandError."""
    path = data / "run.json"
    try:
        run = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CommandError(f"{NOT_RUNNING} ({path} does not exist)") from None
    except (OSError, ValueError) as error:
        raise CommandError(f"{path} cannot be read: {error}") from None
    if not isinstance(run, dict):
        raise CommandError(f"{path} is not the run.json of a platform")
    return run


def read_secret(path: Path) -> str:
    """The secret in a file that `up` wrote. Raises CommandError."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} cannot be read: {error}") from None


class Client:
    """One connection to a platform; every call is a JSON answer or a CommandError."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        # No proxy of the environment: the token goes to the platform and to nobody else.
        self._http = httpx.Client(timeout=TIMEOUT, trust_env=False, follow_redirects=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back the connections."""
        self._http.close()

    def get(self, path: str, **query: str | int | None) -> dict[str, Any]:
        """`GET` on the management API; None leaves a parameter out. Raises CommandError."""
        return self._call("GET", self.platform.admin_url + path, query=query)

    def post(
        self, path: str, body: dict[str, Any], headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """`POST` on the management API. Raises CommandError."""
        return self._call("POST", self.platform.admin_url + path, body=body, headers=headers)

    def patch(
        self, path: str, body: dict[str, Any], headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """`PATCH` on the management API. Raises CommandError."""
        return self._call("PATCH", self.platform.admin_url + path, body=body, headers=headers)

    def delete(self, path: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """`DELETE` on the management API. Raises CommandError."""
        return self._call("DELETE", self.platform.admin_url + path, headers=headers)

    def ops(self, path: str, method: str = "GET") -> dict[str, Any]:
        """A call of the operator's operations port. Raises CommandError."""
        if not self.platform.ops_url:
            raise CommandError(
                "the operator's address is unknown: use --data DIR of a local platform"
            )
        return self._call(method, self.platform.ops_url + path)

    def rows(self, path: str, key: str, **query: str | int | None) -> list[dict[str, Any]]:
        """Every row of a paged list, in order; `key` names a row's id. Raises CommandError."""
        rows: list[dict[str, Any]] = []
        while True:
            after = str(rows[-1][key]) if rows else None
            page = self.get(path, **query, limit=PAGE, after=after)
            rows += page["data"]
            if not page["data"] or not page.get("has_more"):
                return rows

    def _call(
        self,
        method: str,
        url: str,
        *,
        query: Mapping[str, str | int | None] | None = None,
        body: dict[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        params = {k: v for k, v in (query or {}).items() if v is not None}
        sent = {"Authorization": f"Bearer {self.platform.token}", **(headers or {})}
        try:
            answer = self._http.request(method, url, params=params, json=body, headers=sent)
        except httpx.ConnectError:
            where = f"{url} refused the connection"
            raise CommandError(f"{NOT_RUNNING} ({where})") from None
        except httpx.HTTPError as error:
            raise CommandError(f"{url} did not answer: {type(error).__name__}") from None
        return _content(url, answer)


def _content(url: str, answer: httpx.Response) -> dict[str, Any]:
    if answer.status_code == 204 or (answer.is_success and not answer.content):
        return {}
    try:
        value = answer.json()
    except ValueError:
        value = None
    if answer.is_success and isinstance(value, dict):
        return value
    if answer.status_code == 401:
        raise CommandError(f"{url} refused the admin token (TIDEGATE_ADMIN_TOKEN, admin-token)")
    raise CommandError(_words(value) or f"{url} answered {answer.status_code}")


def _words(value: object) -> str:
    """The message of an error body in OpenAI's shape, or of a plain one."""
    if not isinstance(value, dict):
        return ""
    error = value.get("error", value.get("detail"))
    if isinstance(error, dict):
        error = error.get("message")
    return error if isinstance(error, str) else ""
