"""What an examination says: one finding per thing that was measured, with a verdict, the likely cause and the cure."""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

OK, WARNING, FAULT = "ok", "warning", "FAULT"
WIDTH = 118  # of a line of the report


@dataclass(frozen=True)
class Finding:
    """One thing that was measured.

    Attributes:
        name: what was examined, such as "mask values".
        verdict: OK, WARNING (look at it; it may be intended) or FAULT (training cannot succeed, or its scores are
            worth nothing).
        measured: the numbers, in words.
        cause, cure: the likely cause, and what to do; "" if all is well.
        details: lines to print below, such as a histogram.
    """

    name: str
    verdict: str
    measured: str
    cause: str = ""
    cure: str = ""
    details: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.verdict not in (OK, WARNING, FAULT):
            raise ValueError(f"Finding: expected the verdict {OK!r}, {WARNING!r} or {FAULT!r}, got {self.verdict!r}.")

    def __str__(self) -> str:
        """The line of the report, with cause and cure below it; wrapped."""
        start = f"{self.verdict:8}{self.name:22} "
        blocks = [(start, self.measured)]
        blocks += [(" " * 8 + label, text) for label, text in (("cause  ", self.cause), ("cure   ", self.cure)) if text]
        lines = []
        for before, text in blocks:
            indent = " " * len(start) if before == start else " " * len(before)
            lines += textwrap.wrap(text, WIDTH, initial_indent=before, subsequent_indent=indent, break_on_hyphens=False)
        return "\n".join([*lines, *(" " * 8 + line for line in self.details)])

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self) | {"details": list(self.details)}


def has_fault(findings: Sequence[Finding]) -> bool:
    return any(finding.verdict == FAULT for finding in findings)


def summarise(findings: Sequence[Finding]) -> str:
    """One sentence: how many findings of each verdict, and the names of the faults, or else of the warnings."""
    names = {v: [f.name for f in findings if f.verdict == v] for v in (FAULT, WARNING, OK)}
    counts = f"{len(names[OK])} ok, {counted(names[WARNING], 'warning')}, {counted(names[FAULT], 'fault')}."
    if names[FAULT]:
        return f"{counts} Mend first: {', '.join(dict.fromkeys(names[FAULT]))}."
    if names[WARNING]:
        return f"{counts} Look at: {', '.join(dict.fromkeys(names[WARNING]))}."
    return f"{counts} Nothing is wrong with what was examined."


def counted(things: Sequence[object], noun: str) -> str:
    """ "1 fault", "2 faults", "no fault"."""
    return f"{len(things) or 'no'} {noun}{'s' if len(things) > 1 else ''}"


def report(findings: Sequence[Finding]) -> str:
    """The findings in their order, and the summary."""
    return "\n".join([*map(str, findings), "", summarise(findings)])
