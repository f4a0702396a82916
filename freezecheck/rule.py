"""What a rule is.

A rule is one class in one file. Its docstring is its page: Markdown with the
headings below, read by `freezecheck explain`, by the documentation and by the
tests, which run its Bad and Good examples.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from freezecheck.finding import Finding, Fix, Note, Severity, Site
from freezecheck.phases import Phase
from freezecheck.program import World
from freezecheck.ranks import Rank
from freezecheck.records import dataclass
from freezecheck.snapshot import Snapshot
from freezecheck.text import Text
from freezecheck.timeline import Timeline
from freezecheck.trace import Trace

SECTIONS = (
    "What it does",
    "Why it matters",
    "Bad",
    "Good",
    "How it is found",
    "Limits",
    "References",
)


@dataclass(frozen=True, slots=True)
class Example:
    """One fenced block of a rule's page, and what should be found in it.

    A line that ends in `# <- FC201` must be the site of that finding; a line
    with `# todo: FC201` marks a known gap. The word after `python` on the fence
    says what the block needs: `python` alone is a script that runs,
    `python source` is text that only the source half can judge, `python live` one
    that only a run can, `python ranks=2` is run by two processes of one group,
    `python needs=peft` runs where peft is installed.
    """

    rule: str
    good: bool
    number: int
    code: str
    options: tuple[str, ...]

    @property
    def expected(self) -> list[tuple[int, str]]:
        """(line, code) of every finding that must be there."""
        return _marks(self.code, r"#\s*<-\s*(FC\d{3})")

    @property
    def gaps(self) -> list[tuple[int, str]]:
        """(line, code) of every finding that is known to be missed."""
        return _marks(self.code, r"#\s*todo:\s*(FC\d{3})")

    def __str__(self) -> str:
        return f"{self.rule}-{'good' if self.good else 'bad'}-{self.number}"


def _marks(code: str, pattern: str) -> list[tuple[int, str]]:
    return [
        (number, match.group(1))
        for number, line in enumerate(code.splitlines(), 1)
        for match in re.finditer(pattern, line)
    ]


class Rule:
    """Base of every rule; see the module.

    `explains` names rules whose findings, where they share a subject with one of
    this rule's, are only its consequences, and are then left out. `needs_weights`: it
    says that weights were not loaded, and so nothing where they were left out on purpose.
    """

    code: ClassVar[str]
    name: ClassVar[str]
    severity: ClassVar[Severity]
    explains: ClassVar[tuple[str, ...]] = ()
    needs_weights: ClassVar[bool] = False

    def in_timeline(self, timeline: Timeline) -> Iterable[Finding]:
        """Findings that the order of events alone shows."""
        return ()

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterable[Finding]:
        """Findings about the objects as they are `now`; `past` is how they came
        to be so (empty where nothing was recorded)."""
        return ()

    def stands(self, finding: Finding, phase: Phase, phases: Sequence[Phase]) -> bool:
        """Whether a finding about the snapshot of one phase is still worth telling when all
        phases of the run so far are known."""
        return True

    def in_phases(self, phases: Sequence[Phase], past: Timeline) -> Iterable[Finding]:
        """Findings that show where the phases of a run are compared; there are at least two."""
        return ()

    def in_ranks(self, ranks: Sequence[Rank]) -> Iterable[Finding]:
        """Findings that show where the processes of a run are compared at one of its steps;
        there are at least two."""
        return ()

    def in_trace(self, trace: Trace) -> Iterable[Finding]:
        """Findings that the losses and predictions of a run show."""
        return ()

    def in_source(self, world: World) -> Iterable[Finding]:
        """Findings about one way through a program's text.

        A finding's site and the sites of its notes are its story: it is taken for
        certain where it is found in every world in which all of them are reached.
        """
        return ()

    def in_text(self, text: Text) -> Iterable[Finding]:
        """Findings about a file itself: its comments, and whether it can be read."""
        return ()

    def finding(
        self,
        message: str,
        *,
        site: Site | None = None,
        symbol: str | None = None,
        notes: Iterable[Note] = (),
        fix: Fix | str | None = None,
        severity: Severity | None = None,
        subject: str | tuple[str, ...] = (),
        step: int | None = None,
    ) -> Finding:
        """A finding of this rule; a bare string as `fix` says what to do.

        `subject` is the label of the model, optimizer or scheduler that it concerns,
        or a tuple of them; `step` the step since which it is so, if not the first.
        """
        return Finding(
            code=self.code,
            name=self.name,
            severity=self.severity if severity is None else severity,
            message=message,
            site=site,
            symbol=symbol,
            notes=tuple(notes),
            fix=Fix(fix) if isinstance(fix, str) else fix,
            subject=(subject,) if isinstance(subject, str) else subject,
            step=step,
        )

    @classmethod
    def page(cls) -> str:
        """The docstring, as Markdown."""
        import inspect  # slow to import, and only pages need it

        return inspect.cleandoc(cls.__doc__ or "")

    @classmethod
    def summary(cls) -> str:
        """The first line of the page: what is wrong, in one sentence."""
        return cls.page().partition("\n")[0]

    @classmethod
    def sections(cls) -> dict[str, str]:
        """The page's sections by heading, in order."""
        parts = re.split(r"^## (.+)$", cls.page(), flags=re.MULTILINE)[1:]
        return {title.strip(): body.strip() for title, body in zip(parts[::2], parts[1::2])}

    @classmethod
    def halves(cls) -> str:
        """Which halves can find it: `S` (source), `L` (snapshot), `R` (recorded run),
        `P` (the losses and predictions of one)."""
        source = (cls.in_source, cls.in_text) != (Rule.in_source, Rule.in_text)
        found = "S" if source else ""
        found += "L" if cls.in_snapshot is not Rule.in_snapshot else ""
        recorded = (cls.in_timeline, cls.in_phases, cls.in_ranks)
        none = (Rule.in_timeline, Rule.in_phases, Rule.in_ranks)
        found += "R" if recorded != none else ""
        return found + ("P" if cls.in_trace is not Rule.in_trace else "")

    @classmethod
    def examples(cls) -> list[Example]:
        """The Bad and Good blocks."""
        sections = cls.sections()
        return [
            Example(cls.code, good, number, match.group(2), tuple(match.group(1).split()))
            for good in (False, True)
            for number, match in enumerate(
                re.finditer(
                    r"^```python([^\n]*)\n(.*?)^```$",
                    sections.get("Good" if good else "Bad", ""),
                    flags=re.MULTILINE | re.DOTALL,
                ),
                1,
            )
        ]

    def to_dict(self) -> dict[str, Any]:
        """The rule's row in `freezecheck rules --output-format json`."""
        return {
            "code": self.code,
            "name": self.name,
            "severity": str(self.severity),
            "halves": self.halves(),
            "summary": self.summary(),
        }
