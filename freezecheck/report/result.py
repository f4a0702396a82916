"""What an inspection found, as an object that prints itself."""

from __future__ import annotations

from typing import Any

from freezecheck.chapters import Chapter
from freezecheck.finding import Finding, Severity, Site
from freezecheck.memory import Memory
from freezecheck.phases import Phase
from freezecheck.records import dataclass
from freezecheck.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Stood:
    """Where a process was when it was stopped without a step."""

    site: Site
    function: str
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Ran:
    """The script that a report is about, and how far it got.

    `problem` and the rest are for runs that reached no step: one line on what
    happened, the end of what the script said, and where it hung.
    """

    command: str  # as one would type it: "python train.py --lr 3"
    outcome: str  # "inspected", "ended", "crashed", "timeout", "not started", "failed"
    seconds: float
    ranks: tuple[int | None, ...] = ()  # of the processes that are reported; None: no rank
    exit_status: int | None = None  # negative: a signal; None: it was stopped
    problem: str = ""
    error_output: str = ""
    stood: tuple[Stood, ...] = ()
    steps: int = 0  # taken
    ended: bool = False  # by itself
    batches: int | None = None  # to which each epoch was cut
    until: str = "step"  # what it was run to; of a function "call", or one "backward"


@dataclass(frozen=True, eq=False)
class Report:
    """Findings, most severe first, and the facts that they rest on.

    Prints as a table of the model's stages followed by the findings; `left_out`
    says what could not be looked at. Of a script in several processes,
    `snapshot` is the first one's and `others` are the rest, in the order of
    `ran.ranks`. `phases` are those of a run, `story` is what they are in words; `snapshot`
    is the first one's.
    """

    findings: tuple[Finding, ...]
    snapshot: Snapshot
    left_out: tuple[str, ...] = ()
    ran: Ran | None = None
    others: tuple[Snapshot, ...] = ()
    phases: tuple[Phase, ...] = ()
    story: tuple[Chapter, ...] = ()
    memory: Memory | None = None  # that fake tensors would take

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """One for each process."""
        return (self.snapshot, *self.others)

    @property
    def ok(self) -> bool:
        """No finding at or above warning."""
        return not self.at_least(Severity.WARNING)

    def at_least(self, severity: Severity) -> list[Finding]:
        """The findings of that severity or a higher one."""
        return [f for f in self.findings if f.severity >= severity]

    def codes(self) -> list[str]:
        """The codes of the findings, in their order."""
        return [f.code for f in self.findings]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON, as `freezecheck inspect --output-format json` prints it."""
        from freezecheck.report.json import report_to_dict

        return report_to_dict(self)

    def __str__(self) -> str:
        from freezecheck.report.text import render

        return render(self)

    __repr__ = __str__
