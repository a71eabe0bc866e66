"""Prometheus' text format, as far as we read it of engines."""

from collections.abc import Iterator


def samples(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each line's metric, without its labels, and what stands behind it: its value first, where it has one."""
    for line in text.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        yield name, line.rpartition("}")[2].split() if "{" in line else line.split()[1:]
