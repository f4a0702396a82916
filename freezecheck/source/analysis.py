"""A text, analysed: the ways through it, and what was not understood.

A way through is run from its beginning, each unknown condition decided as prescribed
and, beyond that, as False. What was decided beyond is then turned the other way, one
after the other, in further runs: the ways that differ from the plain one in one
decision come first.
"""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Callable, Mapping

import freezecheck.source.modules  # noqa: F401
from freezecheck import program
from freezecheck.program import World
from freezecheck.records import dataclass, field
from freezecheck.source import (  # noqa: F401  (they register what they know)
    amp,
    builtin,
    containers,
    digest,
    entries,
    expressions,
    forward,
    loops,
    optim,
    statements,
    tensors,
    wrappers,
)
from freezecheck.source.machine import Budget, File, Machine, Raised, Split
from freezecheck.source.scope import Scope
from freezecheck.source.statements import Return

STEPS = 200_000  # statements and expressions, for a whole file


@dataclass(slots=True)
class Analysis:
    """The worlds of one file.

    `calls` are the calls whose effect on a model or an optimizer is not known, as
    (line, text); `complete` is False where the step budget ran out before the end.
    """

    worlds: list[World] = field(default_factory=list)
    calls: list[tuple[int, str]] = field(default_factory=list)
    complete: bool = True


def analyze(
    tree: ast.Module,
    path: str,
    *,
    modules: Mapping[str, tuple[ast.Module, str]] | None = None,
    like: dict[str, str] | None = None,
    name: str = "",
    steps: int = STEPS,
) -> Analysis:
    """The worlds of a parsed file. Runs nothing, imports nothing, reads no file.

    `path` is what its sites say. `modules` are the files that its imports may be
    followed into, as dotted name -> (tree, path). `like` is the user's own knowledge:
    `my_lib.build_model` -> `torchvision.models.resnet50`. `name` is the file's own
    dotted name, for relative imports.
    """
    file = File(tree, path, name or path.rpartition("/")[2].removesuffix(".py"))
    others = {} if modules is None else modules  # one that reads when asked may seem empty

    def imports(wanted: str) -> File | None:
        found = others.get(wanted)
        if found is None:
            return None
        # A package is the base of its own relative imports.
        package = found[1].endswith("__init__.py") and not wanted.endswith("__init__")
        return File(*found, f"{wanted}.__init__" if package else wanted)

    result = Analysis()
    known: dict[tuple[int, str], None] = {}
    reached: set[int] = set()
    left = steps
    files: dict[str, Scope | None] = {}

    def machine(start: str, prescribed: tuple[bool, ...] = ()) -> Machine:
        return Machine(
            file, imports=imports, like=like, prescribed=prescribed, steps=left, entry=start,
            shared=files,
        )  # fmt: skip

    def explore(start: entries.Entry, scope: Scope | None) -> None:
        """Go the ways through one entry; with the names in `scope`, where given."""
        nonlocal left
        queue: deque[tuple[bool, ...]] = deque([()])
        for _ in range(start.ways):
            if not queue or left <= 0:
                break
            prescribed = queue.popleft()
            m = machine(start.name, prescribed)
            if scope is not None:
                m.scope = scope
            elif start.name:
                _run(m, lambda m: entries.define(m, tree), last=False)
            _run(m, start.run)
            left -= max(left - m.steps, 1)
            m.world.settle()
            result.worlds.append(m.world)
            known.update(m.not_understood)
            reached.update(m.reached)
            taken = m.decisions.taken
            queue.extend(
                (*taken[:place], not taken[place]) for place in range(len(prescribed), len(taken))
            )
        if left <= 0:
            result.complete = False

    def definitions() -> Scope | None:
        """Mere definitions, made once; None for a file that builds models as it is imported."""
        m = machine("")
        _run(m, lambda m: entries.define(m, tree), last=False)
        return None if _builds(m.world) else m.scope

    explore(entries.script(tree), None)
    scopes: list[Scope | None] = []  # made for the first entry that needs it
    for start in entries.others(tree):
        if left > 0 and not start.covered(reached):
            scopes = scopes or [definitions()]
            explore(start, scopes[0])
    digest.forget()
    result.calls = list(known)
    return result


def _builds(world: World) -> bool:
    """There is more in it than attributes of things that are not followed, such as options."""
    return bool(world.modules) or any(e.kind != program.ATTRIBUTE for e in world.events)


def _run(m: Machine, start: Callable[[Machine], None], *, last: bool = True) -> None:
    """Go one way; how it ended is its last event, if it is the `last` part of it."""
    how = "end"
    try:
        start(m)
    except Budget:
        how = "budget"
    except (Raised, Split, Return, loops.Break, loops.Continue):
        how = "raise"
    except RecursionError:
        how = "budget"
    if not last:
        return
    m.stack.clear()
    m.event(program.END, None, value=how)
    m.world.complete = how == "end"
