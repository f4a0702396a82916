"""`freezecheck lint`: from paths to findings. Nothing of what is linted is run or imported."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property

from freezecheck import catalogue, suppress
from freezecheck.check import check_source, ordered
from freezecheck.config import Config, closest
from freezecheck.finding import Finding, Site
from freezecheck.records import replace
from freezecheck.report.linted import Linted
from freezecheck.rule import Rule
from freezecheck.source import skim
from freezecheck.source.analysis import analyze
from freezecheck.source.project import Project, dotted
from freezecheck.source.read import Source, read
from freezecheck.text import Comment, Problem, Text

_MANY = 50  # files for which further processes pay


class Settings:
    """What the command line says: rules, whether findings that are not certain are shown,
    and texts that stand in for what is in files (standard input). `noqa` comments are
    left to somebody else where it is False."""

    def __init__(
        self,
        select: Sequence[str] | None = None,
        ignore: Sequence[str] | None = None,
        *,
        strict: bool = False,
        texts: dict[str, bytes] | None = None,
        noqa: bool = True,
    ) -> None:
        self.select = select
        self.ignore = ignore
        self.strict = strict
        self.texts = texts or {}
        self.noqa = noqa

    def rules(self, config: Config) -> tuple[Rule, ...]:
        """The rules to look for; a selection on the command line replaces the project's."""
        ignore = [*(self.ignore or ())]
        select = self.select
        if select is None:
            select = config.select
            ignore += config.ignore
        chosen = {rule.code for rule in catalogue.select(select, ignore)}
        return tuple(
            rule
            for rule in catalogue.load()
            # Silence about a file that could not be read would pass for a clean bill.
            if rule.code in chosen or (rule.code == "FC003" and not catalogue.matches(rule, ignore))
        )

    def data(self, path: str) -> bytes:
        """The bytes of a file."""
        if path in self.texts:
            return self.texts[path]
        with open(path, "rb") as file:
            return file.read()


class Checked:
    """What looking at one file gave."""

    __slots__ = ("calls", "complete", "findings", "problems", "skipped", "speaks")

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.problems: list[Problem] = []
        self.skipped = False
        self.calls = 0
        self.complete = True
        self.speaks = False  # a comment in it may be for us


class Linter:
    """Looks at files, one by one; lives in each process."""

    def __init__(self, settings: Settings, files: Sequence[str]) -> None:
        self.settings = settings
        self._project = Project(files, settings.data)
        self._rules: dict[str, tuple[Rule, ...]] = {}

    def rules(self, path: str) -> tuple[Rule, ...]:
        """The rules to look for in a file."""
        config = closest(path)
        if config.path not in self._rules:
            self._rules[config.path] = self.settings.rules(config)
        found = self._rules[config.path]
        ignored = config.ignored_in(path) if config.per_file_ignores else None
        return (
            found if not ignored else tuple(r for r in found if not catalogue.matches(r, ignored))
        )

    def check(self, path: str) -> Checked:
        """What the rules find in one file."""
        checked = Checked()
        try:
            data = self.settings.data(path)
        except OSError as problem:
            message = f"it cannot be opened ({problem.strerror})"
            checked.problems.append(Problem(message, Site(path, 1)))
            return checked
        if not skim.matters(data):
            checked.skipped = True
            return checked
        checked.speaks = skim.speaks(data)
        source = read(path, data)
        checked.problems = source.problems
        if source.tree is not None:
            try:
                self._analyze(source, checked)
            except Exception as problem:
                checked.problems.append(_our_fault(problem, path))
        return checked

    def _analyze(self, source: Source, checked: Checked) -> None:
        assert source.tree is not None
        analysis = analyze(
            source.tree,
            source.path,
            modules=self._project.imports(source.path),
            like=closest(source.path).like,
            name=dotted(source.path),
        )
        found = check_source(self.rules(source.path), analysis.worlds)
        found = [f for f in found if f.certain or self.settings.strict]
        if found:
            from freezecheck.source import remedies

            checked.findings = remedies.attach(found, source)
        checked.calls = len(analysis.calls)
        checked.complete = analysis.complete


def _our_fault(problem: Exception, path: str) -> Problem:
    """A mistake of our own costs one file, not the whole run, and is not kept quiet."""
    trace = problem.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = ""
    if trace is not None:
        where = f" at {os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
    message = (
        f"freezecheck itself failed on it ({type(problem).__name__}{where}); please report this"
    )
    return Problem(message, Site(path, 1))


def lint(files: Sequence[str], settings: Settings, *, jobs: int | None = 1) -> Linted:
    """What the rules find in these files. `jobs` processes share them; None for as many
    as pay."""
    if jobs is None and len(files) >= _MANY:
        from freezecheck.parallel import processors

        jobs = processors()
    linter = Linter(settings, files)
    if jobs is None or jobs == 1 or len(files) < 2:
        checked = [linter.check(path) for path in files]
    else:
        from freezecheck import parallel

        checked = parallel.check(files, settings, min(jobs, len(files)))
    return _Run(linter, files, checked).linted()


def of_script(path: str, settings: Settings) -> list[Finding]:
    """What the text of a script shows about what it does; nothing about the text itself."""
    own = {rule.code for rule in catalogue.load() if type(rule).in_text is not Rule.in_text}
    return [finding for finding in lint([path], settings).findings if finding.code not in own]


def unsuppressed(findings: Iterable[Finding], settings: Settings) -> list[Finding]:
    """Of findings that were made elsewhere, those that neither comments nor the
    configuration of their files take away."""
    checked = Checked()
    checked.findings = [*findings]
    return ordered(_Run(Linter(settings, ()), (), [checked]).kept())


class _Run:
    """The files of a run, once each has been looked at."""

    def __init__(self, linter: Linter, files: Sequence[str], checked: list[Checked]) -> None:
        self.linter = linter
        self.files = files
        self.checked = checked

    def linted(self) -> Linted:
        """Findings, each once, without those that comments suppress."""
        kept = self.kept()
        kept += suppress.apply_to_own(self._in_texts(), self._comments, self._looked)
        return Linted(
            findings=tuple(ordered(self._relocated(kept))),
            files=len(self.files),
            skipped=sum(each.skipped for each in self.checked),
            calls=sum(each.calls for each in self.checked),
            unfinished=tuple(p for p, each in zip(self.files, self.checked) if not each.complete),
        )

    def kept(self) -> list[Finding]:
        """What was found, but for the comments themselves, without what they suppress."""
        every = [f for each in self.checked for f in each.findings]
        found = {(f.code, f.site, f.symbol, f.message): f for f in every if self._wanted(f)}
        return suppress.apply(found.values(), self._comments, self._looked)

    def _wanted(self, finding: Finding) -> bool:
        """A file that is imported may have other rules than the one that imports it."""
        path = finding.site.path if finding.site else ""
        return not path or any(rule.code == finding.code for rule in self.linter.rules(path))

    @cached_property
    def _sources(self) -> dict[str, Source]:
        """The files in which there is something, or in which a comment may be for us."""
        paths = [p for p, each in zip(self.files, self.checked) if each.speaks or each.problems]
        paths += [f.site.path for each in self.checked for f in each.findings if f.site]
        sources: dict[str, Source] = {}
        for path in dict.fromkeys(paths):
            try:
                sources[path] = read(path, self.linter.settings.data(path))
            except OSError:
                continue
        return sources

    @cached_property
    def _comments(self) -> dict[str, list[Comment]]:
        noqa = self.linter.settings.noqa
        return {
            path: [c for c in suppress.comments(source) if noqa or not c.foreign]
            for path, source in self._sources.items()
        }

    @cached_property
    def _looked(self) -> suppress.Looked:
        rules = catalogue.load()
        return suppress.Looked(
            {rule.name: rule.code for rule in rules},
            {rule.code for rule in rules if "S" in rule.halves()},
            lambda path: {rule.code for rule in self.linter.rules(path)},
        )

    def _in_texts(self) -> Iterable[Finding]:
        """What rules say about the texts themselves."""
        problems = {p: each.problems for p, each in zip(self.files, self.checked)}
        for path in dict.fromkeys([*self.files, *self._comments]):
            text = Text(path)
            text.problems = problems.get(path, [])
            text.comments = self._comments.get(path, [])
            if text.problems or text.comments:
                found = [f for rule in self.linter.rules(path) for f in rule.in_text(text)]
                yield from self._remedied(path, found)

    def _remedied(self, path: str, found: list[Finding]) -> list[Finding]:
        if not found or path not in self._sources:
            return found
        from freezecheck.source import remedies

        return remedies.attach(found, self._sources[path])

    def _relocated(self, findings: Iterable[Finding]) -> Iterator[Finding]:
        """The findings with places in notebooks by cell, as people count."""
        notebooks = {path: source.cells for path, source in self._sources.items() if source.cells}
        if not notebooks:
            yield from findings
            return
        from freezecheck.source import notebook

        places = {path: notebook.Places(path, cells) for path, cells in notebooks.items()}

        def move(site: Site) -> Site:
            return places[site.path].of(site) if site.path in places else site

        for finding in findings:
            yield _moved(finding, move)


def _moved(finding: Finding, move: Callable[[Site], Site]) -> Finding:
    """A finding with every place of it moved."""
    notes = tuple(replace(n, site=n.site and move(n.site)) for n in finding.notes)
    fix = finding.fix
    if fix is not None:
        fix = replace(fix, edits=tuple(replace(e, site=move(e.site)) for e in fix.edits))
    return replace(finding, site=finding.site and move(finding.site), notes=notes, fix=fix)
