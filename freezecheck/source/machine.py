"""The machine that runs a text in its mind: its state, its budget, its record.

What statements, expressions and calls do is in the modules beside it, which register
their functions here by the class of syntax node.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from freezecheck import program
from freezecheck.finding import Site
from freezecheck.program import Event, Module, Optimizer, Param, Scheduler, World
from freezecheck.source.decisions import Decisions, Formula
from freezecheck.source.scope import Scope
from freezecheck.source.values import Function, Unknown

DEPTH = 24  # calls inside calls that are followed


class Budget(Exception):
    """No steps are left."""


class Raised(Exception):
    """The program would raise, or exit."""


class Split(Exception):
    """A test on the names of `of` (a Param or a Module) has no one answer: take it apart."""

    def __init__(self, of: Any) -> None:
        self.of = of


class File:
    """A file that is run, or imported by one: its tree, and the path that sites say."""

    __slots__ = ("name", "path", "tree")

    def __init__(self, tree: ast.Module, path: str, name: str) -> None:
        self.tree = tree
        self.path = path
        self.name = name


Evaluate = Callable[["Machine", Any], Any]
EXPRESSIONS: dict[type, Evaluate] = {}
STATEMENTS: dict[type, Evaluate] = {}


def evaluates(*kinds: type) -> Callable[[Evaluate], Evaluate]:
    """Registers a function for these kinds of expression."""

    def register(function: Evaluate) -> Evaluate:
        EXPRESSIONS.update(dict.fromkeys(kinds, function))
        return function

    return register


def executes(*kinds: type) -> Callable[[Evaluate], Evaluate]:
    """Registers a function for these kinds of statement."""

    def register(function: Evaluate) -> Evaluate:
        STATEMENTS.update(dict.fromkeys(kinds, function))
        return function

    return register


class Machine:
    """One way through one file."""

    def __init__(
        self,
        file: File,
        *,
        imports: Callable[[str], File | None] = lambda name: None,
        like: dict[str, str] | None = None,
        prescribed: tuple[bool, ...] = (),
        steps: int = 200_000,
        entry: str = "",
        shared: dict[str, Scope | None] | None = None,
    ) -> None:
        self.file = file
        self.imports = imports
        self.like = like or {}
        self.decisions = Decisions(prescribed)
        self.steps = steps
        self.world = World(file.path, entry)
        self.scope = Scope(None, file)
        self.grad = True
        self.building = 0  # constructors and `forward`s of modules around here
        self.stack: list[Site] = []
        self.active: list[Any] = []  # function nodes being run
        self.around: list[Any] = []  # nodes of the loops being run
        self.loops: list[tuple[int, int]] = []
        self.not_understood: dict[tuple[int, str], None] = {}
        self.assumed: dict[str, Module] = {}  # unknown values that turned out to be modules
        self.overrides: dict[str, Any] = {}  # attributes set on unknown values
        self.stars: list[str] = []  # libraries of which all names were imported
        self.streams: set[str] = set()  # how the keys of unknown values begin that are batches
        self.defining = -1  # calls around the import of the file that is being run
        self.loaded: dict[str, Scope] = {}  # files imported so far
        # Those that are mere definitions, the same for all ways; None: no file of that name.
        self.shared: dict[str, Scope | None] = {} if shared is None else shared
        self.reached: set[int] = set()  # ids of the function nodes that were run
        self.yielded: list[list[Any]] = []  # what the generators that are being run gave so far
        self._ids = 0

    # Running

    def run(self, body: list[ast.stmt]) -> None:
        """Execute statements one after the other."""
        for statement in body:
            self.execute(statement)

    def execute(self, node: ast.stmt) -> None:
        """Execute one statement."""
        self.steps -= 1
        if self.steps < 0:
            raise Budget
        function = STATEMENTS.get(type(node))
        if function is not None:
            function(self, node)

    def evaluate(self, node: ast.expr) -> Any:
        """The value of an expression."""
        self.steps -= 1
        if self.steps < 0:
            raise Budget
        function = EXPRESSIONS.get(type(node))
        return Unknown(self.spot(node)) if function is None else function(self, node)

    def decide(self, formula: Formula, node: ast.expr) -> bool:
        """Whether a condition holds on this way."""

        if self.defining >= 0:  # what an import hangs on is no choice of this program's
            return self.decisions.guess(formula)

        def chosen(atom: Formula, answer: bool) -> None:
            self.world.choices.append((self.site(node), " ".join(map(str, atom)), answer))
            self.world.chosen.append(len(self.world.events))

        return self.decisions.decide(formula, chosen)

    # Places

    def site(self, node: Any) -> Site:
        """Where a node is; its columns count characters (`source.columns`)."""
        end = node.end_col_offset
        return Site(
            self.scope.file.path,
            node.lineno,
            node.col_offset + 1,
            node.end_lineno,
            None if end is None else end + 1,
        )

    def spot(self, node: Any) -> str:
        """A key for what is known of an expression: where it is, and in which pass."""
        passes = "".join(f".{number}" for _, number in self.loops)
        return f"@{self.scope.file.name}:{node.lineno}:{node.col_offset}{passes}#{len(self.stack)}"

    def is_data(self, value: Unknown) -> bool:
        """It came out of a loop, as batches do, and was not said to require grad."""
        return value.key.startswith(tuple(self.streams)) and (
            f"{value.key}.requires_grad" not in self.overrides
        )

    def fresh(self) -> int:
        """A new number for an object."""
        self._ids += 1
        return self._ids

    # The record

    def event(
        self,
        kind: str,
        node: Any,
        subject: Any = None,
        params: tuple[Param, ...] = (),
        value: Any = None,
        **data: Any,
    ) -> Event:
        """Write down that something happened."""
        event = Event(
            len(self.world.events),
            kind,
            node if isinstance(node, Site) else self.site(node) if node is not None else None,
            subject,
            params,
            value,
            data,
            tuple(self.stack),
            tuple(self.loops),
            self.grad,
        )
        self.world.events.append(event)
        return event

    def new_module(self, type: str, node: Any) -> Module:
        """A module made here."""
        module = Module(self.fresh(), type, self.site(node) if node is not None else None)
        module.index = len(self.world.events)
        self.world.modules.append(module)
        return module

    def new_param(self, module: Module, name: str, norm: bool | None = False) -> Param:
        """A parameter of a module, or its unlisted rest (`name` "")."""
        param = Param(self.fresh(), module, name)
        param.norm = norm
        if name:
            module.params[name] = param
        else:
            module.rest.append(param)
        return param

    def new_optimizer(self, type: str, options: dict[str, Any], node: Any) -> Optimizer:
        """An optimizer built here."""
        optimizer = Optimizer(self.fresh(), type, options, self.site(node))
        self.world.optimizers.append(optimizer)
        return optimizer

    def new_scheduler(
        self, type: str, optimizer: Optimizer | None, options: dict[str, Any], node: Any
    ) -> Scheduler:
        """A scheduler built here."""
        scheduler = Scheduler(self.fresh(), type, optimizer, options, self.site(node))
        self.world.schedulers.append(scheduler)
        return scheduler

    def write_flag(self, node: Any, params: list[Param], value: bool | None, **data: Any) -> None:
        """`requires_grad = value` on parameters (leaves). Writes of one line in one pass
        through the loops outside are one event."""
        params = [leaf for param in params for leaf in param.leaves()]
        if not params:
            return
        site = self.site(node)
        event = self.world.events[-1] if self.world.events else None
        if (
            event is None
            or event.kind != program.FLAG
            or event.site != site
            or event.value is not value
            or event.stack != tuple(self.stack)
            or event.data.get("via") != data.get("via")
        ):
            event = self.event(program.FLAG, node, value=value, **data)
        event.params += tuple(params)
        for param in params:
            param.trainable = value
            param.writes.append(event)

    def write_mode(
        self, node: Any, module: Module, value: bool | None, *, deep: bool = True, **data: Any
    ) -> Event:
        """`train()` or `eval()` of a module and, if `deep`, of all below it."""
        event = self.event(program.MODE, node, module, value=value, deep=deep, **data)
        for each in module.walk() if deep else (module,):
            each.modes.append(event)
        return event

    def misunderstood(self, node: ast.Call) -> None:
        """Count a call whose effect is not known."""
        if self.scope.file is self.file:
            self.not_understood[node.lineno, ast.unparse(node.func)[:60]] = None

    # Contexts

    @contextmanager
    def inside(self, function: Function, scope: Scope, node: Any) -> Iterator[None]:
        """In a call of `function`, made at `node`."""
        outer = self.scope
        if node is not None:
            self.stack.append(self.site(node))
        self.active.append(function.node)
        self.reached.add(id(function.node))
        self.scope = scope
        try:
            yield
        finally:
            self.scope = outer
            self.active.pop()
            if node is not None:
                self.stack.pop()

    @contextmanager
    def build(self) -> Iterator[None]:
        """In the constructor or the `forward` of a module."""
        self.building += 1
        try:
            yield
        finally:
            self.building -= 1

    @contextmanager
    def gradient(self, on: bool) -> Iterator[None]:
        """Under `no_grad` (False) or `enable_grad` (True)."""
        outer, self.grad = self.grad, on
        try:
            yield
        finally:
            self.grad = outer

    @contextmanager
    def passing(self, node: Any, number: int) -> Iterator[None]:
        """In one pass of a loop."""
        self.loops.append((node.lineno, number))
        self.around.append(node)
        try:
            yield
        finally:
            self.loops.pop()
            self.around.pop()

    def said(self) -> tuple[str, ...]:
        """The names of the functions around, and what their loops go through."""
        names = [name for node in self.active if (name := getattr(node, "name", ""))]
        return (*names, *(ast.unparse(n.iter) for n in self.around if hasattr(n, "iter")))
