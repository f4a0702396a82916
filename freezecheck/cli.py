"""The command line: arguments, output streams and exit codes.

Exit codes: 0 clean, 1 findings, 2 could not do it, 130 interrupted. Each
command imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, NoReturn

from freezecheck import __version__

if TYPE_CHECKING:
    from freezecheck.report.line import Line
    from freezecheck.report.result import Report
    from freezecheck.rule import Rule

CLEAN, FINDINGS, COULD_NOT, INTERRUPTED = 0, 1, 2, 130

# Options of `inspect` that are followed by a value.
WITH_VALUE = ("--select", "--ignore", "--timeout", "--output-format", "--fail-on")


class BadInput(Exception):
    """One line for the user; exit code 2."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    _write_anything(sys.stdout, sys.stderr)
    try:
        return _run(words)
    except BadInput as problem:
        _write(sys.stderr, f"freezecheck: {problem}\n")
        return COULD_NOT
    except KeyboardInterrupt:
        _write(sys.stderr, "freezecheck: interrupted\n")
        return INTERRUPTED


def _run(words: list[str]) -> int:
    parser = _parser()
    target = None
    if words[:1] == ["inspect"]:
        options, target = split(words[1:])
        words = ["inspect", *options]
    args, unknown = parser.parse_known_args(words)
    if unknown:
        where = "; options of the script go after it" if args.command == "inspect" else ""
        raise BadInput(f"unknown option {unknown[0]}{where} (see {_help(args.command)})")
    if args.command is None:
        parser.print_help()
        return COULD_NOT
    if args.command == "inspect":
        return _inspect(args, target)
    return _rules(args) if args.command == "rules" else _explain(args)


def _help(command: str | None) -> str:
    return " ".join(("freezecheck", *([command] if command else []), "--help"))


# -- arguments ----------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """argparse that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="freezecheck",
        description="Finds the mistakes that make a PyTorch fine-tuning run silently wrong.",
        epilog="Exit codes: 0 clean, 1 findings, 2 could not do it.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"freezecheck {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    _inspect_parser(commands)
    _rules_parser(commands)
    _explain_parser(commands)
    return parser


def _inspect_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "inspect",
        help="run a training script to its first optimizer step and say what is wrong with it",
        usage="freezecheck inspect [OPTIONS] SCRIPT [ARGS...]\n"
        "       freezecheck inspect [OPTIONS] -m MODULE [ARGS...]\n"
        "       freezecheck inspect [OPTIONS] -- COMMAND [ARGS...]",
        description="Runs your unmodified script as Python would, looks at its models, optimizers and\n"
        "schedulers at the first optimizer step, and stops it there: nothing after that\n"
        "step runs. Options go before SCRIPT; everything after it belongs to the script.",
        epilog="examples:\n"
        "  freezecheck inspect train.py --epochs 3 --lr 1e-3\n"
        "  freezecheck inspect --ignore FC212 -m my_package.train\n"
        "  freezecheck inspect -- torchrun --nproc-per-node 2 train.py\n"
        "  freezecheck inspect --output-format json train.py > report.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--select",
        action="append",
        metavar="RULES",
        help="only these rules, by code, prefix or name, separated by commas (FC201,FC4)",
    )
    parser.add_argument("--ignore", action="append", metavar="RULES", help="all but these rules")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="S",
        help="stop after S seconds and show where the script hangs (default 600)",
    )
    parser.add_argument(
        "--show-output", action="store_true", help="let the script write to standard error"
    )
    parser.add_argument("--output-format", choices=("text", "json"), default="text")
    parser.add_argument(
        "--fail-on",
        choices=("error", "warning", "info", "never"),
        default="warning",
        help="lowest severity that makes the exit code 1 (default warning)",
    )
    parser.add_argument("--no-color", action="store_true", help="no colour (NO_COLOR works too)")
    parser.add_argument("-q", "--quiet", action="store_true", help="print the findings alone")


def _rules_parser(commands: Any) -> None:
    parser = commands.add_parser("rules", help="list the rules", allow_abbrev=False)
    parser.add_argument("--output-format", choices=("text", "json"), default="text")
    parser.add_argument("--no-color", action="store_true", help="no colour (NO_COLOR works too)")


def _explain_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "explain",
        help="the page of a rule: what it finds, why it matters, a bad and a good example",
        epilog="example: freezecheck explain FC201",
        allow_abbrev=False,
    )
    parser.add_argument("rules", nargs="+", metavar="RULE", help="code (FC201) or name")
    parser.add_argument("--no-color", action="store_true", help="no colour (NO_COLOR works too)")


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")


@dataclass(frozen=True)
class Target:
    """What to run: the user's own words, and how they are meant."""

    kind: str  # "script", "module", "command"
    words: list[str]

    def __str__(self) -> str:
        first = {"script": ["python"], "module": ["python", "-m"], "command": []}[self.kind]
        return shlex.join([*first, *self.words])


def split(words: Sequence[str]) -> tuple[list[str], Target | None]:
    """Our own options, and what follows them, which is the user's to the last word.

    By hand, because no version of argparse leaves `train.py -- --select x` alone.
    """
    words = list(words)
    at = 0
    while at < len(words):
        word = words[at]
        if word in ("--", "-m"):
            return words[:at], Target("command" if word == "--" else "module", words[at + 1 :])
        if not word.startswith("-") or word == "-":
            return words[:at], Target("script", words[at:])
        at += 2 if word in WITH_VALUE else 1
    return words, None


# -- commands -----------------------------------------------------------------


def _inspect(args: argparse.Namespace, target: Target | None) -> int:
    from freezecheck import inspection
    from freezecheck.finding import Severity
    from freezecheck.live import runner

    rules = _selected(args)
    command = _command(target)
    with _progress(args) as on_phase:
        run = runner.run(
            command,
            timeout=args.timeout or runner.TIMEOUT,
            show_output=args.show_output,
            on_phase=on_phase,
        )
    report = inspection.checked(run, rules, str(target))
    _print_report(args, report)
    if run.outcome != "inspected":
        return COULD_NOT
    level = None if args.fail_on == "never" else Severity.parse(args.fail_on)
    return FINDINGS if level and report.at_least(level) else CLEAN


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
    return [word.strip() for words in given for word in words.split(",") if word.strip()]


_MISSING = {
    "script": ("script", "train.py"),
    "module": ("module", "-m package.train"),
    "command": ("command", "-- torchrun train.py"),
}


def _command(target: Target | None) -> list[str]:
    """The words to run; BadInput where it is plain that they cannot be run."""
    from freezecheck.live import runner

    if target is None or not target.words:
        what, example = _MISSING[target.kind if target else "script"]
        raise BadInput(f"no {what} given, as in: freezecheck inspect {example}")
    if target.kind == "command":
        return target.words
    first, *rest = target.words
    if target.kind == "module":
        return runner.module_command(first, rest)
    try:
        command = runner.python_command(first, rest)
    except ValueError as problem:
        raise BadInput(f"{problem}{_meant(first, target)}") from None
    if first.endswith((".ipynb", ".sh")):
        raise BadInput(
            f"{first} is a notebook: turn it into a script (jupyter nbconvert --to script {first})"
            if first.endswith(".ipynb")
            else f"{first} is no Python script: freezecheck inspect -- bash {shlex.join(target.words)}"
        )
    return command


def _meant(first: str, target: Target) -> str:
    """A hint for a program that was named as if it were a script."""
    if os.path.exists(first) or not shutil.which(first):
        return ""
    return f" (to run a command: freezecheck inspect -- {shlex.join(target.words)})"


@contextlib.contextmanager
def _progress(args: argparse.Namespace) -> Iterator[Callable[[str], None] | None]:
    """A spinner on standard error, if somebody is looking and nothing else writes there."""
    if args.quiet or args.show_output or not sys.stderr.isatty():
        yield None
        return
    from freezecheck.report.terminal import spinner

    with spinner(sys.stderr, color=not args.no_color) as on_phase:
        yield on_phase


def _print_report(args: argparse.Namespace, report: Report) -> None:
    """The report on standard output, and what went wrong on standard error."""
    from freezecheck.report import text

    seen = bool(report.snapshot.models or report.snapshot.optimizers or report.findings)
    if args.output_format == "json":
        _write(sys.stdout, _json(report.to_dict()))
    elif seen or not (report.ran and report.ran.problem):
        _show(
            sys.stdout,
            args,
            lambda width, cut: text.layout(report, width, cut=cut, brief=args.quiet),
        )
    if report.ran and report.ran.problem:
        ran = report.ran
        _show(sys.stderr, args, lambda width, cut: [*text.trouble(ran, width, cut=cut)])


def _rules(args: argparse.Namespace) -> int:
    from freezecheck import catalogue
    from freezecheck.report import rules

    found = catalogue.load()
    if args.output_format == "json":
        _write(sys.stdout, _json({"version": 1, "rules": [rule.to_dict() for rule in found]}))
    else:
        _show(sys.stdout, args, lambda width, cut: [*rules.table(found, width if cut else None)])
    return CLEAN


def _explain(args: argparse.Namespace) -> int:
    from freezecheck import catalogue
    from freezecheck.report.rules import page

    try:
        pages = [page(catalogue.find(selector)) for selector in args.rules]
    except ValueError as problem:
        raise BadInput(str(problem)) from None
    text = "\n\n".join(pages)
    if _is_terminal(sys.stdout):
        from freezecheck.report.terminal import Terminal

        text = Terminal(sys.stdout, color=not args.no_color).markdown(text).rstrip("\n")
    _write(sys.stdout, text + "\n")
    return CLEAN


# -- output -------------------------------------------------------------------


def _show(
    file: IO[str], args: argparse.Namespace, layout: Callable[[int, bool], list[Line]]
) -> None:
    """Lines in colour and of the right width on a terminal, else plain and always the same.

    `layout(width, cut)` lays them out; `cut` says that nothing may be wider.
    """
    if _is_terminal(file):
        from freezecheck.report.terminal import Terminal

        terminal = Terminal(file, color=not args.no_color)
        _write(file, terminal.lines(layout(terminal.width, True)))
    else:
        from freezecheck.report.line import plain
        from freezecheck.report.text import WIDTH

        lines = layout(WIDTH, False)
        _write(file, plain(lines) + "\n" if lines else "")


def _is_terminal(file: IO[str]) -> bool:
    """Somebody looks at it, or FORCE_COLOR says so."""
    return bool(os.environ.get("FORCE_COLOR")) or file.isatty()


def _json(data: Any) -> str:
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


def _write(file: IO[str], text: str) -> None:
    """A reader that has gone away (`| head`) is no error."""
    try:
        file.write(text)
        file.flush()
    except BrokenPipeError:
        # Python flushes once more at exit, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


def _write_anything(*files: IO[str]) -> None:
    """Characters that a stream cannot encode are escaped instead of failing."""
    for file in files:
        if hasattr(file, "reconfigure"):
            file.reconfigure(errors="backslashreplace")
