"""What the words of a command line name: the command to run, and the text to read."""

from __future__ import annotations

import os

from freezecheck.arguments import BadInput, Target

_MISSING = {
    "script": ("script", "train.py"),
    "module": ("module", "-m package.train"),
    "command": ("command", "-- torchrun train.py"),
}


def command(target: Target | None) -> list[str]:
    """The words to run; BadInput where it is plain that they cannot be run."""
    from freezecheck.live import runner

    if target is None or not target.words or not target.words[0]:
        what, example = _MISSING[target.kind if target else "script"]
        raise BadInput(f"no {what} given, as in: freezecheck inspect {example}")
    if target.kind == "command":
        return target.words
    first, *rest = target.words
    function = target.function
    if function is not None and not all(part.isidentifier() for part in function.split(".")):
        raise BadInput(
            f"{target.words[0]}::{function} names no function, as in: freezecheck inspect"
            " train.py::build"
        )
    if target.kind == "module":
        return runner.module_command(first, rest, function)
    try:
        command = runner.python_command(first, rest, function)
    except ValueError as problem:
        raise BadInput(f"{problem}{_meant(first, target)}") from None
    if first.endswith((".ipynb", ".sh")):
        import shlex

        raise BadInput(
            f"{first} is a notebook: turn it into a script (jupyter nbconvert --to script {first})"
            if first.endswith(".ipynb")
            else f"{first} is no Python script: freezecheck inspect -- bash {shlex.join(target.words)}"
        )
    return command


def _meant(first: str, target: Target) -> str:
    """A hint for a program that was named as if it were a script."""
    import shlex
    import shutil

    if os.path.exists(first) or not shutil.which(first):
        return ""
    return f" (to run a command: freezecheck inspect -- {shlex.join(target.words)})"


def script(target: Target | None) -> str | None:
    """The script that a command would run, if its text can be found here."""
    words = target.words if target else []
    if target and target.kind == "module":
        base = os.path.join(*words[0].split("."))
        words = [f"{base}.py", os.path.join(base, "__main__.py")]
    elif target and target.kind == "script":
        return words[0]
    return next((w for w in words if w.endswith(".py") and os.path.isfile(w)), None)
