"""What a check has found, and how it is shown: a table for people, JSON for programs."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from fd_scale.redaction import redacted_text

Status = Literal["ok", "note", "wrong"]
SHOWN = {"ok": "ok", "note": "note", "wrong": "WRONG"}


@dataclass(frozen=True)
class Finding:
    """One check of one host, or of one pair of hosts."""

    check: str
    host: str
    status: Status
    value: str
    fix: str = ""
    """What to do about it; of what is wrong, and of some notes."""
    number: float | None = None
    """The value where it is a number, in `unit`."""
    unit: str = ""


def as_json(findings: Sequence[Finding], hosts: Sequence[str]) -> str:
    """One object: `ok`, the hosts, and every finding."""
    wrong = any(finding.status == "wrong" for finding in findings)
    text = json.dumps({"ok": not wrong, "hosts": list(hosts), "checks": [asdict(f) for f in findings]}, indent=1)
    return redacted_text(text)


def as_table(findings: Sequence[Finding], hosts: Sequence[str]) -> str:
    """A line for what all hosts have in common, a line for each host where something is wrong, and the fix below."""
    rows: list[tuple[str, str, str, str]] = []
    for check in dict.fromkeys(finding.check for finding in findings):
        of_check = [finding for finding in findings if finding.check == check]
        well = [finding for finding in of_check if finding.status == "ok"]
        if well:
            rows.append(("ok", check, _where(well, of_check, hosts), _together(well)))
        other = [finding for finding in of_check if finding.status != "ok"]
        for number, finding in enumerate(other, start=1):
            rows.append((SHOWN[finding.status], check, finding.host, finding.value))
            if finding.fix and all(following.fix != finding.fix for following in other[number : number + 1]):
                rows.append(("", "", "", f"-> {finding.fix}"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:<{widths[2]}}  {d}" for a, b, c, d in rows]
    return redacted_text("\n".join(line.rstrip() for line in lines))


def what_to_fix(findings: Iterable[Finding]) -> str | None:
    """One line that names what is wrong where; None where all is well."""
    checks: dict[str, list[str]] = {}
    for finding in findings:
        if finding.status == "wrong":
            checks.setdefault(finding.check, []).append(finding.host)
    if not checks:
        return None
    named = "; ".join(f"{check} ({_some(hosts)})" for check, hosts in checks.items())
    return f"not ready to start: {named}. The lines marked WRONG say what to do"


def _where(well: Sequence[Finding], of_check: Sequence[Finding], hosts: Sequence[str]) -> str:
    pairs = any("-" in finding.host and finding.host not in hosts for finding in well)
    kind = "pairs" if pairs else "hosts"
    if len(well) == 1:
        return well[0].host
    return f"all {len(well)} {kind}" if len(well) == len(of_check) else f"{len(well)} {kind}"


def _together(findings: Sequence[Finding]) -> str:
    """The values of several hosts in a few words."""
    numbers = [finding.number for finding in findings if finding.number is not None]
    if len(numbers) == len(findings) and len(numbers) > 1:
        low, high, unit = _number(min(numbers)), _number(max(numbers)), findings[0].unit
        return f"{low} to {high} {unit}" if low != high else f"{low} {unit}"
    return _some(list(dict.fromkeys(finding.value for finding in findings)), "; ")


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _some(words: Sequence[str], joint: str = ", ") -> str:
    return joint.join(words[:4]) + (f"{joint}and {len(words) - 4} more" if len(words) > 4 else "")
