"""`tidegate doctor` as people and programs see it."""

from collections.abc import Sequence

from tidegate_operator.cli import tables
from tidegate_operator.local import checkup, readings
from tidegate_operator.local.checkup import Finding
from tidegate_operator.local.options import UpOptions

MARKS = {"ok": "  ok", "warn": "warn", "fail": "FAIL"}


def doctor(options: UpOptions, *, as_json: bool) -> int:
    """Examine this machine. The exit status: 1 where a check failed, else 0."""
    findings = checkup.examine(readings.take(options))
    good = checkup.healthy(findings)
    if as_json:
        tables.print_json({"ok": good, "data": [finding._asdict() for finding in findings]})
    else:
        print(text(findings))
    return 0 if good else 1


def text(findings: Sequence[Finding]) -> str:
    """A line for each finding, below it what to do, and a last line for all of them."""
    lines = []
    for finding in findings:
        lines.append(f"{MARKS[finding.verdict]}  {finding.check:10} {finding.found}")
        if finding.do:
            lines.append(f"{'':16} -> {finding.do}")
    count = {name: sum(one.verdict == name for one in findings) for name in ("fail", "warn")}
    lines.append(f"{count['fail']} failed, {count['warn']} to look at")
    return "\n".join(lines)
