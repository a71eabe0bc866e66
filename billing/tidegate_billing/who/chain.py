"""The audit log as a hash chain: a row's hash covers the row and the hash of the row before it.

The hash is SHA-256 over the row's other fields as JSON with sorted keys, without spaces, in UTF-8
(what `json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False)` writes), so that
anybody can check it with any language. Row numbers start at 1 and have no gaps. Whoever edits,
deletes or moves a row has to write every later one anew, and a head noted elsewhere tells even that,
as it tells a log that was cut off at its end.
"""

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

GENESIS = "0" * 64
"""What the first row has in place of the hash before it."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One row. `at` is microseconds since the epoch. `before` null: made; `after` null: gone."""

    seq: int
    at: int
    actor: str
    action: str
    object_type: str
    object_id: str
    organization: str | None
    tenant: str | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    prev_hash: str
    hash: str = ""


class Verdict(NamedTuple):
    """How far a chain holds. `broken` empty: all of it; else what is wrong with row `rows` + 1."""

    rows: int
    head: str
    broken: str = ""


def canonical(value: object) -> bytes:
    """JSON with sorted keys and no spaces."""
    return msgspec.json.encode(value, order="sorted")


def hash_of(entry: Entry) -> str:
    """The hash a row must have."""
    fields = msgspec.structs.asdict(entry)
    del fields["hash"]
    return hashlib.sha256(canonical(fields)).hexdigest()


def sealed(entry: Entry) -> Entry:
    """The row with its hash."""
    return msgspec.structs.replace(entry, hash=hash_of(entry))


def verify(entries: Iterable[Entry], since: Verdict | None = None) -> Verdict:
    """Walk rows in order; stops at the first that is wrong. `since`: what was walked before."""
    rows, head = (0, GENESIS) if since is None else (since.rows, since.head)
    for entry in entries:
        wrong = _wrong(entry, rows + 1, head)
        if wrong:
            return Verdict(rows, head, wrong)
        rows, head = rows + 1, entry.hash
    return Verdict(rows, head)


def _wrong(entry: Entry, seq: int, prev_hash: str) -> str:
    if entry.seq != seq:
        return f"row {seq} is missing: row {entry.seq} stands in its place"
    if entry.prev_hash != prev_hash:
        return f"row {seq} does not follow the row before it: its prev_hash is another"
    if entry.hash != hash_of(entry):
        return f"row {seq} was changed: its hash is not that of its content"
    return ""
