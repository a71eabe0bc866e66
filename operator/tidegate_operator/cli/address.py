"""A URL and a key that people give: judged before they are used, so that a slip is a sentence."""

import httpx

from tidegate_operator.cli.failure import CommandError


def web(name: str, url: str) -> str:
    """The URL as it is used. Raises CommandError, with the `name` of what it was given as."""
    try:
        read = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise CommandError(f"{name}={url!r}: not a URL: {error}") from None
    if read.scheme not in {"http", "https"} or not read.host:
        raise CommandError(f"{name}={url!r}: not a URL; allowed: http(s)://HOST")
    if read.port is not None and not 0 < read.port < 65536:
        raise CommandError(f"{name}={url!r}: no such port; allowed: 1 to 65535")
    return url


def secret(name: str, key: str) -> str:
    """The key as it is sent. Raises CommandError where no header can hold it; never shows it."""
    if not key.isascii() or not key.isprintable():
        raise CommandError(f"{name}: not a key; allowed: printable ASCII characters")
    return key
