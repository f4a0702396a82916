"""The words of the command line: our options, and the user's own command after them."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence
from typing import Any, NoReturn

from freezecheck import __version__
from freezecheck.records import dataclass

# Options of `inspect` that are followed by a value.
WITH_VALUE = (
    "--select",
    "--ignore",
    "--timeout",
    "--output-format",
    "--fail-on",
    "--steps",
    "--fast-forward",
    "--stop-on",
    "--report",
    "--html",
    "--after",
)


class BadInput(Exception):
    """One line for the user; exit code 2."""


def parse(words: Sequence[str]) -> tuple[argparse.Namespace, Target | None]:
    """The options, and for `inspect` what to run. BadInput for words that do not fit.

    `command` of the options is None where no command was given, and the text of
    the help is then in `help`.
    """
    words, target = list(words), None
    parser = _parser(words[0] if words else "")
    if words[:1] in (["inspect"], ["watch"], ["probe"]):
        options, target = split(words[1:])
        words = [words[0], *options]
    args, unknown = parser.parse_known_args(words)
    if unknown:
        where = "; options of the script go after it" if target else ""
        program = " ".join(("freezecheck", *filter(None, [args.command])))
        raise BadInput(f"unknown option {unknown[0]}{where} (see {program} --help)")
    if args.command is None:
        args.help = parser.format_help()
    return args, target


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal; argparse would import `shutil` to ask how wide that is."""

    def __init__(self, prog: str, **options: Any) -> None:
        try:
            width = int(os.environ.get("COLUMNS") or os.get_terminal_size().columns)
        except (OSError, ValueError):
            width = 80
        super().__init__(prog, **{"width": max(width, 40) - 2, **options})


class Parser(argparse.ArgumentParser):
    """argparse that says what is wrong in one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": Formatter, **options})

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message} (see {self.prog} --help)")


def _parser(command: str = "") -> argparse.ArgumentParser:
    parser = Parser(
        prog="freezecheck",
        description="Finds the mistakes that make a PyTorch fine-tuning run silently wrong.",
        epilog="Exit codes: 0 clean, 1 findings, 2 could not do it.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"freezecheck {__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", parser_class=Parser, prog="freezecheck"
    )
    makers = {
        "lint": _lint_parser,
        "inspect": _inspect_parser,
        "watch": _watch_parser,
        "probe": _probe_parser,
        "rules": _rules_parser,
        "explain": _explain_parser,
    }
    # Of a command that is named, the options of the others need not be made.
    for name in [command] if command in makers else makers:
        makers[name](commands)
    return parser


def _lint_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "lint",
        help="say what is wrong with training scripts and notebooks, without running them",
        usage="freezecheck lint [OPTIONS] [PATHS...]",
        description="Reads Python files and notebooks, runs and imports none of them.",
        epilog="examples:\n"
        "  freezecheck lint\n"
        "  freezecheck lint --select FC2,FC4 train.py notebooks/\n"
        "  freezecheck lint --fix src\n"
        "  freezecheck lint --output-format sarif > freezecheck.sarif",
        allow_abbrev=False,
    )
    parser.add_argument(
        "paths",
        nargs="*",
        default=["."],
        metavar="PATHS",
        help="files and folders (default: this folder), or - for standard input",
    )
    _rule_options(parser)
    parser.add_argument(
        "--output-format",
        choices=("text", "concise", "json", "sarif", "github"),
        default="text",
        metavar="FORMAT",
        help="text, concise, json, sarif or github",
    )
    parser.add_argument("--fix", action="store_true", help="apply the fixes that are safe")
    parser.add_argument(
        "--unsafe-fixes", action="store_true", help="with --fix or --diff: all fixes"
    )
    parser.add_argument(
        "--diff", action="store_true", help="show what --fix would do; write nothing"
    )
    parser.add_argument(
        "--strict", action="store_true", help="also findings that need a particular branch"
    )
    parser.add_argument("--statistics", action="store_true", help="how often each rule was found")
    parser.add_argument("--exit-zero", action="store_true", help="exit with 0 despite findings")
    parser.add_argument(
        "--force-exclude",
        action="store_true",
        help="leave out what the configuration excludes even where it is named in PATHS",
    )
    parser.add_argument(
        "--jobs", type=_number, metavar="N", help="processes (default: as many as pay)"
    )
    parser.add_argument(
        "--stdin-filename", metavar="NAME", help="what the text from standard input is called"
    )
    _fail_on(parser)
    _output_options(parser)


def _rule_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--select",
        action="append",
        metavar="RULES",
        help="only these rules, by code, prefix or name, separated by commas (FC201,FC4)",
    )
    parser.add_argument("--ignore", action="append", metavar="RULES", help="all but these rules")


def _fail_on(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fail-on",
        choices=("error", "warning", "info", "never"),
        help="lowest severity that makes the exit code 1 (default warning)",
    )


def _output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-color", action="store_true", help="no colour (NO_COLOR works too)")
    parser.add_argument("-q", "--quiet", action="store_true", help="print the findings alone")


def _run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sandbox", action="store_true", help="discard every file that the run writes (Linux)"
    )
    parser.add_argument(
        "--show-output", action="store_true", help="let the script write to standard error"
    )
    parser.add_argument("--output-format", choices=("text", "json"), default="text")
    _fail_on(parser)
    _output_options(parser)


def _inspect_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "inspect",
        help="run a training script to its first optimizer step and say what is wrong with it",
        usage="freezecheck inspect [OPTIONS] SCRIPT [ARGS...]\n"
        "       freezecheck inspect [OPTIONS] -m MODULE [ARGS...]\n"
        "       freezecheck inspect [OPTIONS] SCRIPT::FUNCTION [ARGS...]\n"
        "       freezecheck inspect [OPTIONS] -- COMMAND [ARGS...]",
        description="Runs your unmodified script as Python would, looks at its models, optimizers and\n"
        "schedulers at the first optimizer step, and stops it there: nothing after that\n"
        "step runs. Options go before SCRIPT; everything after it belongs to the script.\n"
        "A FUNCTION is called in its place, and the model and optimizer that it returns\n"
        "are judged; with a loader and a loss among them, after a forward and backward.",
        epilog="examples:\n"
        "  freezecheck inspect train.py --epochs 3 --lr 1e-3\n"
        "  freezecheck inspect --ignore FC212 -m my_package.train\n"
        "  freezecheck inspect -- torchrun --nproc-per-node 2 train.py\n"
        "  freezecheck inspect train.py::build\n"
        "  freezecheck inspect --output-format json train.py > report.json",
        allow_abbrev=False,
    )
    _rule_options(parser)
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="S",
        help="stop after S seconds and show where the script hangs (default 600)",
    )
    parser.add_argument(
        "--steps",
        type=_number,
        metavar="N",
        help="go on to N optimizer steps, and tell what changed",
    )
    parser.add_argument(
        "--fast-forward",
        type=_number,
        metavar="K",
        help="run the whole script with every epoch cut to K batches, and tell what changed",
    )
    parser.add_argument("--no-weights", action="store_true", help="do not fetch pretrained weights")
    parser.add_argument(
        "--fake", action="store_true", help="tensors take no memory and hold no values"
    )
    parser.add_argument(
        "--static", action="store_true", help="run nothing: only say what the text shows"
    )
    _run_options(parser)


def _watch_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "watch",
        help="run a training script to its end and say what is wrong as soon as it is",
        usage="freezecheck watch [OPTIONS] SCRIPT [ARGS...]\n"
        "       freezecheck watch [OPTIONS] -m MODULE [ARGS...]\n"
        "       freezecheck watch [OPTIONS] -- COMMAND [ARGS...]",
        description="Runs your training for real, as without us, and compares at each step what\n"
        "is trainable, who is in the optimizer and which modes are on. Findings go to\n"
        "standard error, at the step since which they are so. Options go before SCRIPT.",
        epilog="examples:\n"
        "  freezecheck watch train.py --epochs 30\n"
        "  freezecheck watch --stop-on error -- torchrun --nproc-per-node 2 train.py",
        allow_abbrev=False,
    )
    _rule_options(parser)
    parser.add_argument(
        "--stop-on",
        choices=("error", "warning"),
        help="kill the run when a finding of that severity comes up",
    )
    parser.add_argument("--report", metavar="FILE", help="write the report as JSON to FILE")
    parser.set_defaults(output_format="text")
    _fail_on(parser)
    _output_options(parser)


def _probe_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "probe",
        help="warm a training script up at its largest learning rates and say whether it will fail",
        usage="freezecheck probe [OPTIONS] SCRIPT [ARGS...]\n"
        "       freezecheck probe [OPTIONS] -m MODULE [ARGS...]\n"
        "       freezecheck probe [OPTIONS] -- COMMAND [ARGS...]",
        description="Lets your unmodified script train for some steps, goes back to the first, takes them\n"
        "again at the largest rates that its schedule will reach, and says whether the loss\n"
        "will explode, the predictions collapse, or what was pretrained be destroyed. The\n"
        "process ends there: nothing that it trained is kept. Options go before SCRIPT.",
        epilog="examples:\n"
        "  freezecheck probe train.py --lr 1e-3\n"
        "  freezecheck probe --dry-run train.py\n"
        "  freezecheck probe --groups --html report.html train.py",
        allow_abbrev=False,
    )
    _rule_options(parser)
    parser.add_argument(
        "--steps",
        type=_steps,
        metavar="N",
        default=30,
        help="steps of the warm-up, twice as many where that does not decide (default 30)",
    )
    parser.add_argument(
        "--after",
        type=_number,
        metavar="N",
        default=0,
        help="let the script take N steps first, to where it unfreezes more, say",
    )
    parser.add_argument(
        "--groups",
        action="store_true",
        help="also the rate at which each parameter group would begin to diverge",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="only say how long it would take, and how much memory",
    )
    parser.add_argument("--html", metavar="FILE", help="write the report as one page to FILE")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="S",
        help="stop after S seconds (default 3600)",
    )
    _run_options(parser)


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


def _steps(text: str) -> int:
    if _number(text) < 10:
        raise argparse.ArgumentTypeError(f"{text!r} is too few: the rates rise in 10 steps")
    return int(text)


def _number(text: str) -> int:
    with contextlib.suppress(ValueError):
        if int(text) > 0:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")


@dataclass(frozen=True)
class Target:
    """What to run: the user's own words, and how they are meant."""

    kind: str  # "script", "module", "command"
    words: list[str]
    function: str | None = None  # of the script or module, to be called in its place

    def __str__(self) -> str:
        import shlex

        if self.function is not None:
            return shlex.join([f"{self.words[0]}::{self.function}", *self.words[1:]])
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
            return words[:at], _target("command" if word == "--" else "module", words[at + 1 :])
        if not word.startswith("-") or word == "-":
            return words[:at], _target("script", words[at:])
        at += 2 if word in WITH_VALUE else 1
    return words, None


def _target(kind: str, words: list[str]) -> Target:
    """`train.py::build` and `train.py::Trainer.build` name a function in the file."""
    if kind == "command" or not words or "::" not in words[0]:
        return Target(kind, words)
    home, _, function = words[0].partition("::")
    return Target(kind, [home, *words[1:]], function.replace("::", "."))
