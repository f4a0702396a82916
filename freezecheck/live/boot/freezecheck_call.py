"""The program of `freezecheck inspect train.py::build`: imports the file, calls the function.

Started as `python freezecheck_call.py KIND TARGET FUNCTION [ARGS...]`, where KIND is "file" or
"module". The user's file sees what it would see as a script, but for its name: it is imported,
so that what stands under `if __name__ == "__main__":` does not run. What the function returns is
judged by `freezecheck.live.entry`, in this process; what goes wrong is told to the runner in one
line, after the user's own traceback.
"""

from __future__ import annotations

import os
import sys

if sys.path[:1] == [os.path.dirname(os.path.abspath(__file__))]:
    del sys.path[0]  # before anything is looked for in it

import importlib
import inspect
import json
import traceback
from importlib import machinery, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any, NoReturn

_RETURN = "it has to return the model and the optimizer, as a tuple or a dict"


class Refused(Exception):
    """Why the function was not called, or its result is of no use: one line for the user."""


class Raised(Exception):
    """The user's own code raised, and how, in one line."""


def main(kind: str, target: str, dotted: str, *args: str) -> NoReturn:
    """Call the function and have what it returns judged; ends the process."""
    note = sys.modules["freezecheck_attach"].note
    note("calling", dotted)
    try:
        _remark(
            note,
            f"an optimizer stepped while {target} was imported, so `{dotted}` was not called:"
            ' put the training under `if __name__ == "__main__":`',
        )
        module = _loaded(kind, target, args)
        function = _function(module, target, dotted)
        _remark(note, f"`{dotted}` took an optimizer step itself and was stopped there")
        returned = _attempt(f"`{dotted}` raised", function)
        if inspect.iscoroutine(returned) or inspect.isgenerator(returned):
            raise Refused(f"`{dotted}` returned a {type(returned).__name__}: {_RETURN}")
        if "torch" not in sys.modules:
            raise Refused(f"`{dotted}` returned without having imported torch: {_RETURN}")
        from freezecheck.live import entry

        raise Refused(entry.judge(returned, function, dotted))
    except Refused as reason:
        note("refused", str(reason))
    except Raised as error:
        note("raised", str(error))
        if "freezecheck.live.downloads" in sys.modules:  # torch was imported
            sys.modules["freezecheck.live.downloads"].tell(note, error)
    sys.exit(1)


def _remark(note: Callable[..., None], text: str) -> None:
    """What the report is to say, should the run end now."""
    note("remarks", json.dumps([text]))


def _loaded(kind: str, target: str, args: tuple[str, ...]) -> ModuleType:
    """The user's file as a module, with the `sys.path` and `sys.argv` that it has as a script."""
    failed = f"{target} could not be imported:"
    if kind == "module":
        sys.path.insert(0, os.getcwd())
        spec = _attempt(failed, lambda: _spec(target))
        if spec is None:
            raise Refused(f"no module named {target}")
        sys.argv[:] = [spec.origin or target, *args]
        return _attempt(failed, lambda: importlib.import_module(target))
    sys.argv[:] = [target, *args]
    path = os.path.realpath(target)
    folder, file = os.path.split(path)
    root = folder
    package: list[str] = []
    while os.path.isfile(os.path.join(root, "__init__.py")):
        root, name = os.path.split(root)
        package.insert(0, name)
    sys.path[:0] = [folder, *([root] if package else [])]
    stem = os.path.splitext(file)[0]
    names = package if stem == "__init__" else [*package, stem]
    return _attempt(failed, lambda: _imported(".".join(names), path))


def _spec(module: str) -> machinery.ModuleSpec | None:
    """Where a module is; None if it, or a package that it would be in, is nowhere."""
    try:
        return util.find_spec(module)
    except ModuleNotFoundError as error:
        if module.startswith(f"{error.name}."):
            return None
        raise


def _imported(name: str, path: str) -> ModuleType:
    """The file at `path` under this name, its packages imported before it."""
    parent, _, last = name.rpartition(".")
    if parent:
        importlib.import_module(parent)
    while name in sys.modules:
        known = sys.modules[name]
        if os.path.realpath(getattr(known, "__file__", None) or "") == path:
            return known
        name += "_"  # a name that the standard library has, too
    spec = util.spec_from_file_location(name, path, loader=_Loader(name, path))
    assert spec is not None
    assert spec.loader is not None  # it was given
    module = util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    if parent:
        setattr(sys.modules[parent], last, module)
    return module


class _Loader(machinery.SourceFileLoader):
    """Leaves no `__pycache__` beside the user's file, as running it does not."""

    def set_data(self, *args: Any, **options: Any) -> None:
        """Write nothing."""


def _attempt(failed: str, call: Callable[[], Any]) -> Any:
    """The result of user code. What it raises is shown as Python shows it, without our frames."""
    try:
        return call()
    except SystemExit as end:
        status = 0 if end.code is None else end.code if isinstance(end.code, int) else 1
        if not isinstance(end.code, (int, type(None))):
            sys.stderr.write(f"{end.code}\n")
        raise Raised(
            f"{failed} SystemExit (exit status {status}); the arguments of the script go after the"
            " name of the function"
        ) from None
    except BaseException as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename in _BETWEEN:
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace)
        sys.last_value = error  # as where Python prints it, for who asks at the end
        first = str(error).strip().partition("\n")[0][:200]
        told = f"{type(error).__name__}: {first}" if first else type(error).__name__
        raise Raised(f"{failed} {told}") from None


_BETWEEN = (
    __file__,
    importlib.__file__,
    "<frozen importlib._bootstrap>",
    "<frozen importlib._bootstrap_external>",
)


def _function(module: ModuleType, target: str, dotted: str) -> Callable[[], Any]:
    """What is called; Refused for what cannot be called without arguments."""
    found: Any = module
    for part in dotted.split("."):
        if not hasattr(found, part):
            raise Refused(f"{target} has no `{dotted}`{_others(found, part)}")
        found = getattr(found, part)
    if not callable(found):
        raise Refused(f"`{dotted}` in {target} is no function, but of type {type(found).__name__}")
    if inspect.iscoroutinefunction(found):
        raise Refused(f"`{dotted}` is an async function: name one that returns without await")
    if inspect.isgeneratorfunction(found) or inspect.isasyncgenfunction(found):
        raise Refused(f"`{dotted}` is a generator: name a function that returns; {_RETURN}")
    needed = _needed(found)
    if needed and needed[0] == "self" and "." in dotted:
        raise Refused(
            f"`{dotted}` needs an object of its class: name a function that makes one, as in:"
            f" def setup(): return {dotted.replace('.', '().', 1)}()"
        )
    if needed:
        raise Refused(
            f"`{dotted}` needs arguments ({', '.join(needed)}) and is called with none: name a"
            f" function that needs none, as in: def setup(): return {dotted}({', '.join(needed)})"
        )
    return found


def _needed(function: Any) -> list[str]:
    """The parameters that have no default."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # builtins that do not tell
        return []
    return [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]


def _others(owner: Any, wanted: str) -> str:
    """What it may have been meant to be."""
    import difflib

    home = getattr(owner, "__name__", None)
    functions = [
        name
        for name, value in vars(owner).items()
        if not name.startswith("_") and inspect.isroutine(value)
        if inspect.isclass(owner) or getattr(value, "__module__", None) == home
    ]
    close = difflib.get_close_matches(wanted, functions, 1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; its functions are {', '.join(functions[:8])}" if functions else ""


if __name__ == "__main__":
    main(*sys.argv[1:])
