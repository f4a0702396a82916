"""Findings as SARIF 2.1.0, the standard format for the results of static analysis.

Written without the position of the checkout, so that two machines give the same log.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

from freezecheck import __version__
from freezecheck.finding import Edit, Finding, Fix, Note, Severity, Site
from freezecheck.report import source
from freezecheck.report.linted import Linted
from freezecheck.report.place import split
from freezecheck.rule import Rule

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_ROOT = "%SRCROOT%"  # what relative paths are relative to
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def log(linted: Linted) -> dict[str, Any]:
    """The log file, with one run in it."""
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "freezecheck",
                        "version": __version__,
                        "semanticVersion": __version__,
                        "rules": _rules(linted.findings),
                    }
                },
                "invocations": [_invocation(linted)],
                "originalUriBaseIds": {
                    _ROOT: {"description": {"text": "the folder in which freezecheck ran"}}
                },
                "columnKind": "unicodeCodePoints",
                "newlineSequences": ["\r\n", "\n", "\r"],
                "results": _results(linted.findings),
            }
        ],
    }


def _invocation(linted: Linted) -> dict[str, Any]:
    return {
        "executionSuccessful": True,
        "toolExecutionNotifications": [
            {
                "level": "note",
                "message": {"text": "too much to follow to its end; a finding may be missing"},
                "locations": [{"physicalLocation": _physical(Site(path, 1))}],
            }
            for path in linted.unfinished
        ],
        "properties": {
            "files": linted.files,
            "skipped": linted.skipped,
            "callsNotUnderstood": linted.calls,
        },
    }


def _rules(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """The rules that found something, in the order of their codes."""
    from freezecheck import catalogue

    pages = {rule.code: rule for rule in catalogue.load()}
    found = sorted({(finding.code, finding.name) for finding in findings})
    return [_rule(code, name, pages.get(code)) for code, name in found]


def _rule(code: str, name: str, rule: Rule | None) -> dict[str, Any]:
    """What a reader may want to know of a rule. Some codes, such as that of an unused
    ignore comment, have no page."""
    described: dict[str, Any] = {"id": code, "name": name}
    if rule is None:
        return described
    why = " ".join(rule.sections()["Why it matters"].split())
    page = rule.page()
    severity = "recommendation" if rule.severity is Severity.INFO else str(rule.severity)
    return {
        **described,
        "shortDescription": {"text": rule.summary()},
        "fullDescription": {"text": why},
        "help": {"text": page, "markdown": page},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        "properties": {"problem.severity": severity, "tags": ["correctness", "pytorch"]},
    }


def _results(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    findings = list(findings)
    order = {code: i for i, code in enumerate(sorted({f.code for f in findings}))}
    alike: Counter[str] = Counter()
    results = []
    for finding in findings:
        mark = _fingerprint(finding)
        results.append(_result(finding, order[finding.code], f"{mark}:{alike[mark]}"))
        alike[mark] += 1
    return results


def _result(finding: Finding, rule: int, fingerprint: str) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": rule,
        "level": _LEVELS[finding.severity],
        "message": {"text": _message(finding)},
        "locations": [_location(finding.site)] if finding.site else [],
        "partialFingerprints": {"lineAndSymbol/v1": fingerprint},
        "properties": {"certain": finding.certain},
    }
    if finding.notes:
        result["relatedLocations"] = [
            {"id": number, **_told(note)} for number, note in enumerate(finding.notes, 1)
        ]
    steps = [{"location": _told(note)} for note in finding.notes if note.site]
    if len(steps) > 1:
        result["codeFlows"] = [{"threadFlows": [{"locations": steps}]}]
    if finding.fix and (fix := _fix(finding.fix)):
        result["fixes"] = [fix]
    return result


def _message(finding: Finding) -> str:
    """What is wrong and what to do. A cell's line is no line of its notebook, so it is said."""
    told = finding.message
    if finding.site and split(finding.site.path)[1] is not None:
        told = f"{finding.site}: {told}"
    return f"{told}\nTo fix it: {finding.fix.message}" if finding.fix else told


def _told(note: Note) -> dict[str, Any]:
    return {**(_location(note.site) if note.site else {}), "message": {"text": note.message}}


def _location(site: Site) -> dict[str, Any]:
    location: dict[str, Any] = {"physicalLocation": _physical(site)}
    _, cell = split(site.path)
    if cell is not None:
        location["logicalLocations"] = [
            {"name": f"cell {cell}", "fullyQualifiedName": str(site), "kind": "member"}
        ]
    return location


def _physical(site: Site) -> dict[str, Any]:
    path, cell = split(site.path)
    region = {"startLine": 1} if cell is not None else _region(site)
    return {"artifactLocation": _artifact(path), "region": region}


def _region(site: Site) -> dict[str, int]:
    region = {"startLine": site.line, "startColumn": site.column}
    if site.end_column is not None:
        region["endLine"] = site.end_line or site.line
        region["endColumn"] = site.end_column  # the first one after it, as ours
    elif site.end_line is not None:
        region["endLine"] = site.end_line
    return region


def _artifact(path: str) -> dict[str, str]:
    """A path below the working directory is relative to it, any other is whole."""
    from urllib.parse import quote

    path = os.path.normpath(path)
    if os.path.isabs(path) or path.split(os.sep)[0] == os.pardir:
        from pathlib import Path

        return {"uri": Path(os.path.abspath(path)).as_uri()}
    return {"uri": quote(os.fsencode(path.replace(os.sep, "/"))), "uriBaseId": _ROOT}


def _fix(fix: Fix) -> dict[str, Any] | None:
    """None where there is nothing to replace, or it is in a notebook, whose text is JSON."""
    by_path: dict[str, list[Edit]] = {}
    for edit in fix.edits:
        by_path.setdefault(edit.site.path, []).append(edit)
    if not by_path or any(split(path)[1] is not None for path in by_path):
        return None
    return {
        "description": {"text": fix.message},
        "artifactChanges": [
            {
                "artifactLocation": _artifact(path),
                "replacements": [
                    {
                        "deletedRegion": _region(edit.site),
                        "insertedContent": {"text": edit.content},
                    }
                    for edit in edits
                ],
            }
            for path, edits in by_path.items()
        ],
        "properties": {"safe": fix.safe},
    }


def _fingerprint(finding: Finding) -> str:
    """The same as long as the rule, the file, the thing and the text of the line are: lines
    that come and go above it change nothing."""
    import hashlib

    site = finding.site
    text = source.lines(site.path) if site else ()
    line = text[site.line - 1].strip() if site and site.line <= len(text) else ""
    path = site.path.replace(os.sep, "/") if site else ""
    told = "\0".join((finding.code, path, finding.symbol or "", line))
    return hashlib.sha256(told.encode("utf-8", "replace")).hexdigest()[:32]
