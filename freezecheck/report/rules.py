"""The catalogue as text: a line per rule, and a rule's page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from freezecheck.report.line import Line, line, wrap
from freezecheck.rule import Rule

_HALVES = {"S": "text", "L": "setup", "R": "run", "P": "losses"}


def table(rules: Sequence[Rule], width: int | None) -> Iterator[Line]:
    """One line per rule; within `width`, if given, the summary goes to lines of its own."""
    if not rules:
        return
    code = max(len(rule.code) for rule in rules)
    name = max(len(rule.name) for rule in rules)
    for rule in rules:
        severity = str(rule.severity)
        halves = ", ".join(_HALVES[half] for half in rule.halves())
        head = (
            (f"{rule.code:<{code}}  ", "title"),
            f"{rule.name:<{name}}  ",
            (f"{severity:<7}", severity),
        )
        if width is None or code + name + 29 + len(rule.summary()) <= width:
            yield line(*head, f"  {halves:<16}  {rule.summary()}")
        else:
            yield line(*head, f"  {halves}")
            indent = " " * (code + 2)
            yield from wrap(
                rule.summary(), min(width, 100), first=indent, rest=indent, mark="quiet"
            )
    yield line()
    yield line(
        (
            "text: found by lint, without running anything; setup: found in the objects as they"
            " are; run: found in the order of what happened",
            "quiet",
        )
    )


def page(rule: Rule) -> str:
    """A rule's page as Markdown, with its code, name and severity as the heading."""
    return f"# {rule.code} {rule.name} ({rule.severity})\n\n{rule.page()}"
