"""What a rule says: a finding, where it is, and the story that led to it.

The ground floor of the package: it imports nothing of ours, so that every
reporter and every half can speak in these words without knowing the others.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from freezecheck.records import dataclass, field


class Severity(IntEnum):
    """How sure and how bad: error (certainly broken), warning (very likely
    harmful), info (worth knowing; fails nothing by default)."""

    INFO = 1
    WARNING = 2
    ERROR = 3

    def __str__(self) -> str:
        return self.name.lower()

    @classmethod
    def parse(cls, text: str) -> Severity:
        """The severity called `text`; ValueError names the choices."""
        try:
            return cls[text.upper()]
        except KeyError:
            choices = ", ".join(str(s) for s in cls)
            raise ValueError(f"unknown severity {text!r} (choose from {choices})") from None


@dataclass(frozen=True, slots=True)
class Site:
    """A place in the user's source. Lines and columns count from 1."""

    path: str
    line: int
    column: int = 1
    end_line: int | None = None
    end_column: int | None = None

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class Note:
    """One step of the story, in the order it happened."""

    message: str
    site: Site | None = None


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace the text between two positions (end exclusive) of one file."""

    site: Site
    content: str


@dataclass(frozen=True, slots=True)
class Fix:
    """A remedy. `message` says what to do; `edits` do it where that is mechanical.

    `safe` edits keep what the program means apart from the defect.
    """

    message: str
    edits: tuple[Edit, ...] = ()
    safe: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One defect: its rule, what is wrong, where, and why.

    `symbol` is the thing in the model or optimizer that it is about, such as
    `layer4.0.bn1` or `optimizer.param_groups[1]`; `subject` the labels of the
    models, optimizers and schedulers that it concerns (one rule may explain
    another's finding where they share one, see `Rule.explains`). `certain` is False
    where a text shows it on a particular branch only, and some other branch taken on
    the way would avoid it. `step` is the step (from 1) of a run since which it is so; None: from
    the first one on, or there was no run.
    """

    code: str
    name: str
    severity: Severity
    message: str
    site: Site | None = None
    symbol: str | None = None
    notes: tuple[Note, ...] = ()
    fix: Fix | None = None
    subject: tuple[str, ...] = field(default=(), compare=False)
    certain: bool = field(default=True, compare=False)
    step: int | None = field(default=None, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form that every reporter shares; absent places are null."""
        site = self.site
        return {
            "code": self.code,
            "name": self.name,
            "severity": str(self.severity),
            "message": self.message,
            "path": site.path if site else None,
            "line": site.line if site else None,
            "column": site.column if site else None,
            "end_line": site.end_line if site else None,
            "end_column": site.end_column if site else None,
            "symbol": self.symbol,
            "notes": [
                {
                    "message": note.message,
                    "path": note.site.path if note.site else None,
                    "line": note.site.line if note.site else None,
                }
                for note in self.notes
            ],
            "fix": _fix_to_dict(self.fix) if self.fix else None,
            "certain": self.certain,
            "step": self.step,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Finding:
        """The finding that `to_dict` gave."""
        site = None
        if data["path"] is not None:
            site = Site(
                data["path"], data["line"], data["column"], data["end_line"], data["end_column"]
            )
        notes = tuple(
            Note(n["message"], Site(n["path"], n["line"]) if n["path"] is not None else None)
            for n in data["notes"]
        )
        return cls(
            code=data["code"],
            name=data["name"],
            severity=Severity.parse(data["severity"]),
            message=data["message"],
            site=site,
            symbol=data["symbol"],
            notes=notes,
            fix=_fix_from_dict(data["fix"]) if data["fix"] else None,
            certain=data["certain"],
            step=data["step"],
        )


def _fix_to_dict(fix: Fix) -> dict[str, Any]:
    return {
        "message": fix.message,
        "safe": fix.safe,
        "edits": [
            {
                "path": edit.site.path,
                "line": edit.site.line,
                "column": edit.site.column,
                "end_line": edit.site.end_line,
                "end_column": edit.site.end_column,
                "content": edit.content,
            }
            for edit in fix.edits
        ],
    }


def _fix_from_dict(data: dict[str, Any]) -> Fix:
    edits = tuple(
        Edit(Site(e["path"], e["line"], e["column"], e["end_line"], e["end_column"]), e["content"])
        for e in data["edits"]
    )
    return Fix(data["message"], edits, data["safe"])
