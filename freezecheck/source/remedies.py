"""Edits for findings whose remedy is mechanical.

A rule sees no text; it says what to do in words. Here the words become edits: by the
rule's code, from the statement that the finding is at. Where the statement is not of the
form that a remedy knows, the words stay words.
"""

from __future__ import annotations

import ast
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeGuard

from freezecheck.finding import Edit, Finding, Fix, Site
from freezecheck.records import replace
from freezecheck.source.read import Source


class Change(NamedTuple):
    """Replace the text from `start` to `end`."""

    start: int
    end: int
    content: str


class Code:
    """A text and its syntax tree, with places as offsets in the text."""

    def __init__(self, source: Source) -> None:
        assert source.tree is not None
        self.path = source.path
        self.text = source.text
        self.tree = source.tree
        self._starts = [0, *(m.end() for m in re.finditer("\r\n|\r|\n", source.text))]
        self._parents: dict[ast.AST, ast.AST] = {}
        self._at: dict[tuple[int, int], list[ast.AST]] = {}
        for node in ast.walk(self.tree):
            for child in ast.iter_child_nodes(node):
                self._parents[child] = node
            if hasattr(node, "lineno"):
                self._at.setdefault(self.span(node), []).append(node)

    def offset(self, line: int, column: int) -> int:
        """Of a line and a column from 0."""
        return self._starts[line - 1] + column

    def span(self, node: Any) -> tuple[int, int]:
        """From where to where a node goes."""
        return (
            self.offset(node.lineno, node.col_offset),
            self.offset(node.end_lineno, node.end_col_offset),
        )

    def site(self, start: int, end: int) -> Site:
        """The place of `text[start:end]`."""
        first, last = (bisect_right(self._starts, at) for at in (start, end))
        return Site(
            self.path, first, start - self._starts[first - 1] + 1,
            last, end - self._starts[last - 1] + 1,
        )  # fmt: skip

    def at(self, site: Site) -> list[ast.AST]:
        """The nodes that fill a place, outermost first."""
        if site.end_line is None or site.end_column is None:
            return []
        if max(site.line, site.end_line) > len(self._starts):
            return []
        start = self.offset(site.line, site.column - 1)
        return self._at.get((start, self.offset(site.end_line, site.end_column - 1)), [])

    def around(self, node: ast.AST) -> Iterator[ast.AST]:
        """What a node is in, innermost first."""
        while (parent := self._parents.get(node)) is not None:
            yield parent
            node = parent

    def name_of(self, dotted: str) -> str | None:
        """How the file names something of a library: `nn.Linear` for `torch.nn.Linear`."""
        names = self._imported()
        head, tail = dotted, ""
        while head:
            if head in names:
                return names[head] + tail
            head, _, last = head.rpartition(".")
            tail = f".{last}{tail}"
        return None

    def _imported(self) -> dict[str, str]:
        """What the file itself imports, by what it is called there."""
        names: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if not isinstance(node, (ast.Import, ast.ImportFrom)):
                continue
            if any(isinstance(outer, _SCOPES) for outer in self.around(node)):
                continue
            for alias in node.names:
                if isinstance(node, ast.ImportFrom):
                    names[f"{node.module}.{alias.name}"] = alias.asname or alias.name
                elif alias.asname:
                    names[alias.name] = alias.asname
                else:
                    top = alias.name.partition(".")[0]
                    names[top] = top
        return names


_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

OfNode = Callable[[Code, Any], Iterable[Change]]  # of a node at the finding's place
OfFinding = Callable[[Code, Finding], Iterable[Change]]


def attach(findings: list[Finding], source: Source) -> list[Finding]:
    """The findings, those with a mechanical remedy with its edits."""
    codes = _OF_NODES.keys() | _OF_FINDINGS.keys()
    if source.tree is None or not any(finding.code in codes for finding in findings):
        return findings
    code = Code(source)
    return [_with_edits(f, code) if f.code in codes else f for f in findings]


def _with_edits(finding: Finding, code: Code) -> Finding:
    site = finding.site
    if site is None or site.path != code.path or (finding.fix and finding.fix.edits):
        return finding
    changes: list[Change] = []
    if finding.code in _OF_FINDINGS:
        safe, of_finding = _OF_FINDINGS[finding.code]
        changes = list(of_finding(code, finding))
    else:
        safe, of_node = _OF_NODES[finding.code]
        for node in code.at(site):
            changes = changes or list(of_node(code, node))
    if not changes:
        return finding
    edits = tuple(Edit(code.site(c.start, c.end), c.content) for c in changes)
    fix = finding.fix or Fix("do it as it was meant")
    return replace(finding, fix=replace(fix, edits=edits, safe=safe))


def _call_with_value(code: Code, node: Any) -> Iterator[Change]:
    """`layer.requires_grad = value` to `layer.requires_grad_(value)`."""
    statement = next(code.around(node), None)
    if (
        isinstance(node, ast.Attribute)
        and isinstance(statement, ast.Assign)
        and statement.targets == [node]
    ):
        _, end = code.span(node)
        _, last = code.span(statement)
        equals = re.compile(r"(?:\s|\\)*=(?:\s|\\)*").match(code.text, end)
        if equals:
            yield Change(end - len(node.attr), equals.end(), "requires_grad_(")
            yield Change(last, last, ")")


def _rename(code: Code, node: Any) -> Iterator[Change]:
    """`p.require_grad` to `p.requires_grad`."""
    if isinstance(node, ast.Attribute):
        _, end = code.span(node)
        yield Change(end - len(node.attr), end, "requires_grad")


def _original(code: Code, node: Any) -> Iterator[Change]:
    """`p.data.requires_grad` and `p.detach().requires_grad` to `p.requires_grad`."""
    node = node.func if isinstance(node, ast.Call) else node
    copy = node.value if isinstance(node, ast.Attribute) else None
    if isinstance(copy, ast.Call) and not copy.args and not copy.keywords:
        made = copy.func if getattr(copy.func, "attr", "") == "detach" else None
    else:
        made = copy if getattr(copy, "attr", "") == "data" else None
    if isinstance(made, ast.Attribute):
        yield Change(code.span(made.value)[1], code.span(copy)[1], "")


def _take_effect(code: Code, node: Any) -> Iterator[Change]:
    """`model.eval` to `model.eval()`, `p.requires_grad == False` to `p.requires_grad = False`."""
    if not isinstance(next(code.around(node), None), ast.Expr):
        return
    if isinstance(node, ast.Attribute):
        _, end = code.span(node)
        yield Change(end, end, "()")
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        _, end = code.span(node.left)
        equals = re.compile(r"(?:\s|\\)*(==|is\b(?!\s*not\b))").match(code.text, end)
        if equals:
            yield Change(*equals.span(1), "=")


_NORMS = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm")


def _any_batchnorm(code: Code, node: Any) -> Iterator[Change]:
    """`isinstance(m, nn.BatchNorm2d)` around a statement, or at it, to the base class of all."""
    name = code.name_of("torch.nn.modules.batchnorm._BatchNorm")
    if name is None:
        return iter(())
    for outer in (node, *code.around(node)):
        test = getattr(outer, "test", outer)
        if isinstance(test, ast.expr):
            for call in filter(_is_instance_test, ast.walk(test)):
                changes = [*_widened(code, call.args[1], name)]
                if changes:
                    return iter(changes)
        if isinstance(outer, _SCOPES):
            break
    return iter(())


def _is_instance_test(node: Any) -> TypeGuard[ast.Call]:
    return (
        isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "isinstance"
        and len(node.args) == 2
    )


def _widened(code: Code, kinds: ast.expr, name: str) -> Iterator[Change]:
    parts = kinds.elts if isinstance(kinds, ast.Tuple) else [kinds]
    norms = [p for p in parts if getattr(p, "attr", getattr(p, "id", "")) in _NORMS]
    if norms:
        yield Change(*code.span(kinds if norms == parts else norms[0]), name)


def _keep_result(code: Code, node: Any) -> Iterator[Change]:
    """`self.emb.from_pretrained(w)` to `self.emb = self.emb.from_pretrained(w, freeze=False)`."""
    if (
        isinstance(next(code.around(node), None), ast.Expr)
        and isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.args
    ):
        start, _ = code.span(node)
        owner = code.text[slice(*code.span(node.func.value))]
        yield Change(start, start, f"{owner} = ")
        if not any(k.arg in ("freeze", None) for k in node.keywords) and len(node.args) == 1:
            last = max(code.span(argument)[1] for argument in (*node.args, *node.keywords))
            yield Change(last, last, ", freeze=False")


def _new_layer(code: Code, node: Any) -> Iterator[Change]:
    """`model.fc.out_features = n` to `model.fc = nn.Linear(model.fc.in_features, n)`."""
    name = code.name_of("torch.nn.Linear")
    if name and isinstance(node, ast.Attribute) and node.attr == "out_features":
        layer = code.text[slice(*code.span(node.value))]
        for change in _call_with_value(code, node):
            if change.content == ")":
                yield change
            else:
                _, end = code.span(node.value)
                yield Change(end, change.end, f" = {name}({layer}.in_features, ")


def _not_reentrant(code: Code, node: Any) -> Iterator[Change]:
    """`checkpoint(block, x)` to `checkpoint(block, x, use_reentrant=False)`."""
    if not isinstance(node, ast.Call) or not node.args:
        return
    if not getattr(node.func, "attr", getattr(node.func, "id", "")).startswith("checkpoint"):
        return
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    if "use_reentrant" in given:
        yield Change(*code.span(given["use_reentrant"]), "False")
    elif None not in given:
        last = max(code.span(argument)[1] for argument in (*node.args, *node.keywords))
        yield Change(last, last, ", use_reentrant=False")


_CODES = re.compile(r"(?<=\[)[^\]]*(?=\])|(?<=:)\s*[A-Za-z]+\d[^\[\]]*$")


def _without_codes(code: Code, finding: Finding) -> Iterator[Change]:
    """A comment without the codes that suppress nothing, or no comment at all."""
    site = finding.site
    if site is None or site.end_line is None or site.end_column is None:
        return
    start = code.offset(site.line, site.column - 1)
    end = code.offset(site.end_line, site.end_column - 1)
    named = _CODES.search(code.text, start, end)
    unused = (finding.symbol or "").split(", ")
    kept = [w for w in re.findall(r"[^\s,]+", named[0] if named else "") if w not in unused]
    if named and kept:
        space = named[0][: len(named[0]) - len(named[0].lstrip())]
        yield Change(*named.span(), space + ", ".join(kept))
        return
    rest = re.compile(r"[ \t]*(?=(#|\r|\n|\Z)?)").match(code.text, end)
    if rest is None or rest[1] is None:
        return  # what follows would be code
    before = len(code.text[:start].rstrip(" \t"))
    if rest[1] == "#":
        yield Change(start, rest.end(), "")
    elif before and code.text[before - 1] not in "\r\n":
        yield Change(before, rest.end(), "")
    else:  # alone on its line
        newline = re.compile(r"\r\n|\r|\n|\Z").match(code.text, rest.end())
        assert newline is not None
        yield Change(before, newline.end(), "")


_INSTEAD = re.compile(r"write '(.+)' instead of '(.+)'")


def _right_key(code: Code, finding: Finding) -> Iterator[Change]:
    """`{"learning_rate": 1e-4}` to `{"lr": 1e-4}`, in all groups of the statement."""
    words = _INSTEAD.fullmatch(finding.fix.message) if finding.fix else None
    if finding.site is None or words is None:
        return
    right, wrong = words.groups()
    for outermost in code.at(finding.site)[:1]:
        for node in ast.walk(outermost):
            for key in _keys(node, right):
                start, end = code.span(key)
                if getattr(key, "value", "") == wrong and code.text[start + 1 : end - 1] == wrong:
                    yield Change(start + 1, end - 1, right)


def _keys(node: ast.AST, right: str) -> list[Any]:
    """The keys of a dictionary that lacks the right one, or of an item."""
    if isinstance(node, ast.Subscript):
        return [node.slice]
    keys = node.keys if isinstance(node, ast.Dict) else []
    return [] if any(getattr(k, "value", "") == right for k in keys) else [k for k in keys if k]


def _registered(code: Code, node: Any) -> Iterator[Change]:
    """`self.blocks = [...]` to `self.blocks = nn.ModuleList([...])`."""
    statement = next(code.around(node), None)
    if not isinstance(statement, ast.Assign) or statement.targets != [node]:
        return
    value = statement.value
    kind = "List" if isinstance(value, (ast.List, ast.ListComp)) else "Dict"
    name = code.name_of(f"torch.nn.Module{kind}")
    if name and isinstance(value, (ast.List, ast.ListComp, ast.Dict, ast.DictComp)):
        start, end = code.span(value)
        yield Change(start, start, f"{name}(")
        yield Change(end, end, ")")


# Of each rule's remedy: whether it is safe, and what makes its edits.
_OF_FINDINGS: dict[str, tuple[bool, OfFinding]] = {
    "FC001": (True, _without_codes),
    "FC207": (True, _right_key),
}
_OF_NODES: dict[str, tuple[bool, OfNode]] = {
    "FC101": (True, _call_with_value),
    "FC102": (True, _rename),
    "FC103": (True, _call_with_value),
    "FC104": (True, _original),
    "FC105": (True, _take_effect),
    "FC112": (False, _registered),
    "FC118": (False, _keep_result),
    "FC122": (False, _new_layer),
    "FC406": (True, _any_batchnorm),
    "FC503": (True, _not_reentrant),
}
