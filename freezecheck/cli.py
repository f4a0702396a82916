"""The commands, and their exit codes.

0 clean, 1 findings, 2 could not do it, 130 interrupted. Each command imports
what it needs when it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from freezecheck import targets
from freezecheck.arguments import BadInput, Target, parse
from freezecheck.report.streams import Stream

if TYPE_CHECKING:
    from freezecheck.config import Config
    from freezecheck.finding import Finding
    from freezecheck.lint import Settings
    from freezecheck.live.plan import Plan
    from freezecheck.probe.report import ProbeReport
    from freezecheck.report.linted import Linted
    from freezecheck.report.result import Report
    from freezecheck.rule import Rule
    from freezecheck.warmup import Progress

CLEAN, FINDINGS, COULD_NOT, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    try:
        args, target = parse(sys.argv[1:] if argv is None else argv)
        if args.command is None:
            Stream(sys.stderr).write(args.help)
            return COULD_NOT
        if args.command == "inspect":
            return _inspect(args, target)
        if args.command == "watch":
            return _watch(args, target)
        if args.command == "probe":
            return _probe(args, target)
        if args.command == "lint":
            return _lint(args)
        return _rules(args) if args.command == "rules" else _explain(args)
    except BadInput as problem:
        Stream(sys.stderr).write(f"freezecheck: {problem}\n")
        return COULD_NOT
    except KeyboardInterrupt:
        Stream(sys.stderr).write("freezecheck: interrupted\n")
        return INTERRUPTED


def _lint(args: argparse.Namespace) -> int:
    from freezecheck import lint
    from freezecheck.report import source
    from freezecheck.report.findings import show

    _selected(args)  # says now which rule does not exist
    settings = lint.Settings(_list(args.select), _list(args.ignore), strict=args.strict)
    files = _files(args, settings)
    out, err = _streams(args)
    changed = 0
    if args.fix or args.diff:
        linted, changed = _mend(args, files, settings, out, err)
    else:
        linted = lint.lint(files, settings, jobs=args.jobs)
    if args.diff:
        return FINDINGS if changed and not args.exit_zero else CLEAN
    if args.fix and args.paths == ["-"]:
        out, err = err, out  # the text itself went to standard output
    for path, data in settings.texts.items():
        source.given(path, data)
    show(linted, args.output_format, out, quiet=args.quiet, statistics=args.statistics)
    failed = any(_fails(args, finding) for finding in linted.findings)
    return FINDINGS if failed and not args.exit_zero else CLEAN


def _fails(args: argparse.Namespace, finding: Finding) -> bool:
    """A finding is severe enough to fail, by the command line or the project of its file."""
    from freezecheck.config import closest
    from freezecheck.finding import Severity

    level = args.fail_on or closest(finding.site.path if finding.site else ".").fail_on
    return level != "never" and finding.severity >= Severity.parse(level)


def _files(args: argparse.Namespace, settings: Settings) -> list[str]:
    """The files to lint. Standard input is one, under the name that it was given."""
    from freezecheck.config import closest
    from freezecheck.source import files

    def excluded(path: str) -> bool:
        return closest(path).excludes(path)

    if "-" in args.paths:
        if args.paths != ["-"]:
            raise BadInput("- (standard input) goes with no other path")
        name = args.stdin_filename or "<stdin>"
        settings.texts[name] = sys.stdin.buffer.read()
        return [] if args.force_exclude and excluded(name) else [name]
    if args.stdin_filename:
        raise BadInput("--stdin-filename goes with - (standard input)")
    try:
        found = files.find(args.paths, excluded=excluded, force=args.force_exclude)
    except files.NotThere as problem:
        raise BadInput(str(problem)) from None
    for path in found:
        closest(path)  # says now what is wrong with a configuration
    return found


def _streams(args: argparse.Namespace) -> tuple[Stream, Stream]:
    return (
        Stream(sys.stdout, color=not args.no_color),
        Stream(sys.stderr, color=not args.no_color),
    )


def _mend(
    args: argparse.Namespace, files: list[str], settings: Settings, out: Stream, err: Stream
) -> tuple[Linted, int]:
    """Fix, or show what fixing would do; what is left, and the number of changed files."""
    from freezecheck.mend import mend

    mended = mend(files, settings, unsafe=args.unsafe_fixes, jobs=args.jobs)
    if args.diff:
        out.write(mended.diff())
    elif args.paths == ["-"]:
        for path in files or settings.texts:
            sys.stdout.buffer.write(settings.texts[path])
        sys.stdout.flush()
    else:
        try:
            mended.write()
        except OSError as problem:
            raise BadInput(f"{problem.filename}: {problem.strerror}") from None
    if not args.quiet:
        would = "would be " if args.diff else ""
        if mended.applied:
            err.write(f"freezecheck: {_fixes(mended.applied)} {would}applied\n")
        if mended.left:
            err.write(f"freezecheck: {_fixes(mended.left)} left, since not safe (--unsafe-fixes)\n")
    return mended.linted, len(mended.new)


def _fixes(number: int) -> str:
    return f"{number:,} fix{'' if number == 1 else 'es'}"


def _inspect(args: argparse.Namespace, target: Target | None) -> int:
    from freezecheck import inspection, lint
    from freezecheck.config import closest
    from freezecheck.live import runner
    from freezecheck.records import replace

    _selected(args)  # says now which rule does not exist
    command = targets.command(target)
    script = targets.script(target)
    plan = _plan(args, target)
    settings = lint.Settings(_list(args.select), _list(args.ignore))
    config = closest(script or ".")
    if args.static:
        return _static(args, script, settings)
    found = lint.of_script(script, settings) if script else []
    rules = settings.rules(config)
    with _display(args) as tell:
        run = runner.run(
            command,
            plan=plan,
            timeout=args.timeout or runner.TIMEOUT,
            show_output=args.show_output,
            on_phase=tell,
        )
    if run.outcome == "not started" and target and target.function is not None:
        raise BadInput(run.hint)
    report = inspection.checked(run, rules, str(target), found)
    report = replace(report, findings=tuple(lint.unsuppressed(report.findings, settings)))
    _print_report(args, report)
    status = _status(args, config, report)
    if run.outcome != "inspected" and not (status == FINDINGS and report.phases):
        return COULD_NOT
    return status


def _watch(args: argparse.Namespace, target: Target | None) -> int:
    from freezecheck import lint, watching
    from freezecheck.config import closest
    from freezecheck.finding import Severity

    _selected(args)  # says now which rule does not exist
    if target and target.function is not None:
        raise BadInput("watch runs a script; a function is inspected: freezecheck inspect")
    command, script = targets.command(target), targets.script(target)
    settings = lint.Settings(_list(args.select), _list(args.ignore))
    config = closest(script or ".")
    err = Stream(sys.stderr, color=not args.no_color)
    report = watching.watch(
        command,
        str(target),
        settings.rules(config),
        settings,
        lint.of_script(script, settings) if script else [],
        stop_on=Severity.parse(args.stop_on) if args.stop_on else None,
        tell=err.write,
    )
    if args.report:
        _write_json(args.report, report)
    _print_report(args, report, err)
    if report.ran is not None and report.ran.outcome != "inspected":
        return COULD_NOT
    return _status(args, config, report)


def _probe(args: argparse.Namespace, target: Target | None) -> int:
    from freezecheck import lint, probing
    from freezecheck.config import closest
    from freezecheck.live import runner
    from freezecheck.live.plan import Probing
    from freezecheck.report import probe, text
    from freezecheck.report.json import cost_to_dict

    _selected(args)  # says now which rule does not exist
    if target and target.function is not None:
        raise BadInput("probe runs a script; a function can call freezecheck.probe(...) itself")
    command, script = targets.command(target), targets.script(target)
    settings = lint.Settings(_list(args.select), _list(args.ignore))
    config = closest(script or ".")
    out, err = _streams(args)
    _sandbox_is_here(args)
    if args.html:
        probing.drawable(args.html)
    wanted = Probing(args.steps, args.groups, args.dry_run, args.after)
    with _display(args) as tell:
        run = runner.run(
            command,
            plan=probing.plan(wanted, sandbox=args.sandbox),
            timeout=args.timeout or probing.TIMEOUT,
            show_output=args.show_output,
            on_phase=tell,
            on_progress=tell,
        )
    if run.probe is None:
        err.show(
            lambda width, cut: [*text.trouble(probing.ended(run, str(target)), width, cut=cut)]
        )
        return COULD_NOT
    if args.dry_run:
        cost = probing.cost(run)
        if args.output_format == "json":
            out.json(cost_to_dict(cost))
        else:
            out.write(f"{cost}\n")
        return CLEAN
    report = probing.report(run, settings.rules(config), settings)
    if args.html:
        try:
            report.to_html(args.html, str(target))
        except OSError as problem:
            raise BadInput(f"{args.html}: {problem.strerror}") from None
    if args.output_format == "json":
        out.json(report.to_dict())
    else:
        probe.show(report, out, quiet=args.quiet)
    return _status(args, config, report)


def _status(args: argparse.Namespace, config: Config, report: Report | ProbeReport) -> int:
    """The exit code of a run that got as far as it was to."""
    from freezecheck.finding import Severity

    level = args.fail_on or config.fail_on
    if level == "never":
        return CLEAN
    severe = Severity.parse(level)
    return FINDINGS if any(f.severity >= severe for f in report.findings) else CLEAN


def _write_json(path: str, report: Report) -> None:
    import json

    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(report.to_dict(), file, indent=2, allow_nan=False)
    except OSError as problem:
        raise BadInput(f"{path}: {problem.strerror}") from None


def _plan(args: argparse.Namespace, target: Target | None) -> Plan:
    """How far to run, and without what."""
    from freezecheck.live.plan import Plan

    _sandbox_is_here(args)
    if (args.steps or args.fast_forward) and target and target.function is not None:
        option = "--steps" if args.steps else "--fast-forward"
        raise BadInput(f"{option} needs a script that trains; a function is only called")
    return Plan(
        steps=args.steps or (None if args.fast_forward else 1),
        batches=args.fast_forward,
        weights=not args.no_weights,
        fake=args.fake,
        sandbox=args.sandbox,
    )


def _sandbox_is_here(args: argparse.Namespace) -> None:
    if args.sandbox and not sys.platform.startswith("linux"):
        raise BadInput("--sandbox needs Linux: it discards what is written in a mount namespace")


def _static(args: argparse.Namespace, script: str | None, settings: Settings) -> int:
    """`inspect --static`: lint the script that would be run."""
    from freezecheck import lint
    from freezecheck.report.findings import show

    if script is None:
        raise BadInput("--static needs a script whose text is here")
    linted = lint.lint([script], settings)
    show(linted, args.output_format, _streams(args)[0], quiet=args.quiet, statistics=False)
    return FINDINGS if any(_fails(args, finding) for finding in linted.findings) else CLEAN


def _selected(args: argparse.Namespace) -> tuple[Rule, ...]:
    from freezecheck import catalogue

    try:
        return catalogue.select(_list(args.select), _list(args.ignore))
    except ValueError as problem:
        raise BadInput(str(problem)) from None


def _list(given: list[str] | None) -> list[str] | None:
    """`["FC201,FC4", "FC5"]` to three selectors; None where the option was not used."""
    if given is None:
        return None
    found = [word.strip() for words in given for word in words.split(",") if word.strip()]
    if not found:
        raise BadInput("no rule named after --select or --ignore (FC201, FC4, a name)")
    return found


@contextlib.contextmanager
def _display(args: argparse.Namespace) -> Iterator[Callable[[str | Progress], None] | None]:
    """How far a run is, on standard error, if somebody is looking and nothing else writes there."""
    if args.quiet or args.show_output or not sys.stderr.isatty():
        yield None
        return
    from freezecheck.report.terminal import display

    with display(sys.stderr, color=not args.no_color) as tell:
        yield tell


def _print_report(args: argparse.Namespace, report: Report, out: Stream | None = None) -> None:
    """The report on standard output, or on `out`, and what went wrong on standard error."""
    from freezecheck.report import text

    out = out or Stream(sys.stdout, color=not args.no_color)
    ran = report.ran
    failed = ran is not None and ran.outcome != "inspected"
    seen = bool(report.snapshot.models or report.snapshot.optimizers or report.findings)
    if args.output_format == "json":
        out.json(report.to_dict())
    elif seen or not failed:
        out.show(lambda width, cut: text.layout(report, width, cut=cut, brief=args.quiet))
    if ran is not None and failed:
        err = Stream(sys.stderr, color=not args.no_color)
        err.show(lambda width, cut: [*text.trouble(ran, width, cut=cut)])


def _rules(args: argparse.Namespace) -> int:
    from freezecheck import catalogue
    from freezecheck.report import rules

    found = catalogue.load()
    out = Stream(sys.stdout, color=not args.no_color)
    if args.output_format == "json":
        out.json({"version": 1, "command": "rules", "rules": [rule.to_dict() for rule in found]})
    else:
        out.show(lambda width, cut: [*rules.table(found, width if cut else None)])
    return CLEAN


def _explain(args: argparse.Namespace) -> int:
    from freezecheck import catalogue
    from freezecheck.report import rules

    try:
        pages = [rules.page(catalogue.find(selector)) for selector in args.rules]
    except ValueError as problem:
        raise BadInput(str(problem)) from None
    Stream(sys.stdout, color=not args.no_color).markdown("\n\n".join(pages))
    return CLEAN
