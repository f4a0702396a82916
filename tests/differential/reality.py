"""What a script really does: a full run of it, watched.

This knows nothing of freezecheck: it looks at tensors before and after each step, at the
layers in each forward, at groups and rates. `judges.py` asks it whether a claim is true.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import io
import os
import random
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from weights import look_trained, offline_weights

CHECKPOINT = {"stands for": "pretrained weights"}


# Where a moment is: the lines of the calls around it, and (line, pass) of the loops.
Place = tuple[tuple[int, ...], tuple[tuple[int, int], ...]]


@dataclass
class Group:
    """A parameter group at a step: `params` by id."""

    params: list[int]
    lr: float
    keys: set[str]


@dataclass
class Step:
    """One step of one optimizer. Parameters go by id; `names` are the model's."""

    optimizer: int
    iteration: int  # backwards so far
    groups: list[Group]
    names: dict[int, str]
    trains: dict[int, bool]
    grads: dict[int, bool | None]  # None: no gradient; False: all zero
    place: Place
    moved: set[int] = field(default_factory=set)
    stateful: set[int] = field(default_factory=set)  # with moments from earlier steps

    @property
    def held(self) -> list[int]:
        return [p for group in self.groups for p in group.params]


@dataclass
class Forward:
    """One forward of a BatchNorm layer."""

    layer: int
    name: str
    training: bool  # its mode
    frozen: bool  # its weight and bias
    moved: bool  # its statistics
    learning: bool = False  # a backward came from this forward


@dataclass
class Pass:
    """One forward of a whole model; `learning` as above."""

    training: bool
    grad: bool
    place: Place
    norms: list[Forward] = field(default_factory=list)
    called: set[int] = field(default_factory=set)
    learning: bool = False


@dataclass
class Built:
    """An optimizer, or a group added to it, or a scheduler, when it was made."""

    lines: list[int]  # of the script, innermost first
    subject: int
    kind: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Mode:
    """A call of train() or eval() by the script, on `subject`, and the layers below it."""

    subject: int
    value: bool
    layers: set[int]
    passes: int  # how many forwards came before


@dataclass
class Flag:
    param: int
    value: bool
    steps: int


@dataclass
class Run:
    """All of it."""

    steps: list[Step] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)
    optimizers: list[Built] = field(default_factory=list)
    added: list[Built] = field(default_factory=list)
    schedulers: list[Built] = field(default_factory=list)
    scheduled: list[tuple[int, int, int, int]] = field(default_factory=list)
    modes: list[Mode] = field(default_factory=list)
    flags: list[Flag] = field(default_factory=list)
    clipped_nothing: bool = False
    loaded: bool = False
    roots: list[nn.Module] = field(default_factory=list)  # those that were called
    made: list[nn.Module] = field(default_factory=list)  # all of them
    named: dict[int, set[str]] = field(default_factory=dict)  # every name a model's tensor had
    reached: set[int] = field(default_factory=set)  # lines
    error: str | None = None
    keep: list[Any] = field(default_factory=list)  # so that no id is used twice


def run(text: str, command: tuple[str, ...] = (), filename: str = "generated.py") -> Run:
    """Run a script in full; an exception ends it and is noted."""
    watch = _Watch(filename)
    random.seed(0)
    torch.manual_seed(0)
    variables = dict(part.split("=") for part in command if part[0] != "-")
    arguments = [filename, *(part for part in command if part[0] == "-")]
    quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, variables))
        for context in (*quiet, pretrained(), mock.patch.object(sys, "argv", arguments)):
            stack.enter_context(context)
        warnings.simplefilter("ignore")
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(watch.watching())
        try:
            exec(compile(watch.loops.counted(text), filename, "exec"), watch.loops.names)
        except Exception as error:
            watch.run.error = f"{type(error).__name__}: {error}"
    gc.collect()
    return watch.run


@contextlib.contextmanager
def pretrained() -> Iterator[None]:
    """`torch.load("pretrained.pt")` and `weights="DEFAULT"` work, for any network."""
    load = nn.Module.load_state_dict

    def filled(self: nn.Module, state: Any, *args: Any, **options: Any) -> Any:
        if state is not CHECKPOINT:
            return load(self, state, *args, **options)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return load(self, look_trained(self).state_dict())

    with (
        offline_weights(),
        mock.patch.object(torch, "load", return_value=CHECKPOINT),
        mock.patch.object(nn.Module, "load_state_dict", filled),
    ):
        yield


class _Watch:
    """Hooks and patches that write a `Run`."""

    def __init__(self, filename: str) -> None:
        self.run = Run()
        self.filename = filename
        self.loops = _Loops(self.run.reached)
        self.depth = 0
        self.modes = 0
        self.building = 0
        self.iteration = 0
        self.before: dict[int, Any] = {}
        self.model: nn.Module | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        hooks = torch.nn.modules.module
        removes = [
            hooks.register_module_forward_pre_hook(self._enter),
            hooks.register_module_forward_hook(self._leave, always_call=True),
            register_optimizer_step_pre_hook(self._step),
            register_optimizer_step_post_hook(self._stepped),
        ]
        with contextlib.ExitStack() as stack:
            for owner, name in (
                (nn.Module, "train"),
                (torch.Tensor, "backward"),
                (torch.optim.Optimizer, "__init__"),
                (torch.optim.Optimizer, "add_param_group"),
                (torch.nn.utils, "clip_grad_norm_"),
                (nn.Module, "load_state_dict"),
                (nn.Parameter, "requires_grad_"),
            ):
                stack.enter_context(self._around(owner, name))
            stack.enter_context(self._around(nn.Module, "__init__", self._made))
            stack.enter_context(self._around(nn.Module, "__setstate__", self._made))
            for kind in _schedulers():
                stack.enter_context(self._around(kind, "__init__", self._scheduler))
                stack.enter_context(self._around(kind, "step", self._schedule))
            stack.enter_context(mock.patch.object(nn.Parameter, "requires_grad", self._flag()))
            try:
                yield
            finally:
                for remove in removes:
                    remove.remove()

    def _around(self, owner: Any, name: str, wrapper: Any = None) -> Any:
        original = getattr(owner, name)
        wrapper = wrapper or getattr(self, f"_on_{name.strip('_')}")

        def replacement(*args: Any, **kwargs: Any) -> Any:
            return wrapper(original, *args, **kwargs)

        return mock.patch.object(owner, name, replacement)

    def _lines(self) -> list[int]:
        frame, lines = sys._getframe(1), []
        while frame is not None:
            if frame.f_code.co_filename == self.filename:
                lines.append(frame.f_lineno)
            frame = frame.f_back
        return lines

    def _place(self) -> Place:
        return tuple(reversed(self._lines())), self.loops.now()

    def _made(self, original: Any, module: nn.Module, *args: Any, **kwargs: Any) -> None:
        """A module was made, or copied."""
        original(module, *args, **kwargs)
        self.run.made.append(module)

    # -- forwards -------------------------------------------------------------------------

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self.depth += 1
        if self.depth == 1 and next(module.parameters(), None) is not None:
            self.run.passes.append(Pass(module.training, torch.is_grad_enabled(), self._place()))
            if not any(root is module for root in self.run.roots):
                self.run.roots.append(module)
            if torch.is_grad_enabled():
                self.model = module
            for name, param in module.named_parameters():
                self.run.named.setdefault(id(param), set()).add(name)
                self.run.keep.append(param)
        if self.run.passes:
            self.run.passes[-1].called.add(id(module))
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            self.before[id(module)] = module.running_mean.clone()

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.depth -= 1
        before = self.before.pop(id(module), None)
        if before is not None and self.run.passes:
            affine = list(module.parameters(recurse=False))
            root = self.run.roots[-1]
            name = next(
                (n for r in [self.model or root] for n, m in r.named_modules() if m is module), ""
            )
            self.run.keep.append(module)
            self.run.passes[-1].norms.append(
                Forward(
                    id(module),
                    name,
                    module.training,
                    bool(affine) and not any(p.requires_grad for p in affine),
                    not torch.equal(before, module.running_mean),
                )
            )

    def _on_backward(self, original: Any, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        original(loss, *args, **kwargs)
        self.iteration += 1
        if self.run.passes:
            last = self.run.passes[-1]
            last.learning = True
            for forward in last.norms:
                forward.learning = True

    # -- flags and modes ------------------------------------------------------------------

    def _flag(self) -> Any:
        plain = torch.Tensor.requires_grad

        def write(param: nn.Parameter, value: bool) -> None:
            plain.__set__(param, value)
            self._wrote(param, value)

        return property(lambda param: plain.__get__(param), write)

    def _on_requires_grad(self, original: Any, param: Any, value: bool = True) -> Any:
        original(param, value)
        self._wrote(param, value)
        return param

    def _wrote(self, param: Any, value: bool) -> None:
        self.run.keep.append(param)
        self.run.flags.append(Flag(id(param), value, len(self.run.steps)))

    def _on_train(self, original: Any, module: nn.Module, mode: bool = True) -> Any:
        # An overridden train() comes here through super(); what it does itself, below it.
        outermost = self.modes == 0
        self.modes += 1
        try:
            original(module, mode)
        finally:
            self.modes -= 1
        if outermost:
            self.run.keep.append(module)
            layers = {id(m) for m in module.modules() if m.training == mode}
            self.run.modes.append(Mode(id(module), mode, layers, len(self.run.passes)))
        return module

    def _on_load_state_dict(self, original: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
        self.run.loaded = True
        return original(module, *args, **kwargs)

    # -- optimizers -----------------------------------------------------------------------

    def _on_init(self, original: Any, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        self.building += 1
        try:
            original(optimizer, *args, **kwargs)
        finally:
            self.building -= 1
        self.run.keep.append(optimizer)
        groups = optimizer.param_groups
        facts = {
            "empty": any(not group["params"] for group in groups),
            "default": optimizer.defaults.get("lr"),
            "rates": [group["lr"] for group in groups],
            "given": self.given,
        }
        self.given = []
        self.run.optimizers.append(
            Built(self._lines(), id(optimizer), type(optimizer).__name__, facts)
        )

    given: list[set[str]] = []

    def _on_add_param_group(self, original: Any, optimizer: Any, group: Any) -> None:
        given = set(group)
        others = [(g["lr"], g.get("initial_lr")) for g in optimizer.param_groups]
        original(optimizer, group)
        if self.building:
            self.given = [*self.given, given]
            return
        warming = [
            s
            for s in self.run.schedulers
            if s.facts["optimizer"] == id(optimizer)
            and s.kind in ("LinearLR", "ConstantLR")
            and s.facts["self"].last_epoch < s.facts["self"].total_iters
        ]
        facts = {
            "lr": optimizer.param_groups[-1]["lr"],
            "given": given,
            "others": others,
            "empty": not optimizer.param_groups[-1]["params"],
            "warming": bool(warming),
        }
        self.run.added.append(Built(self._lines(), id(optimizer), "group", facts))

    def _step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        names = {} if self.model is None else {id(p): n for n, p in self.model.named_parameters()}
        params = {} if self.model is None else {id(p): p for p in self.model.parameters()}
        params |= {id(p): p for group in optimizer.param_groups for p in group["params"]}
        self.run.keep += params.values()
        for param, name in names.items():
            self.run.named.setdefault(param, set()).add(name)
        self.values = {key: (p, p.detach().clone()) for key, p in params.items()}
        self.run.steps.append(
            Step(
                id(optimizer),
                self.iteration,
                [
                    Group([id(p) for p in group["params"]], float(group["lr"]), set(group))
                    for group in optimizer.param_groups
                ],
                names,
                {key: p.requires_grad for key, p in params.items()},
                {key: None if p.grad is None else bool(p.grad.any()) for key, p in params.items()},
                self._place(),
                stateful={id(p) for p, s in optimizer.state.items() if _moments(s)},
            )
        )

    def _stepped(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        step = self.run.steps[-1]
        step.moved = {key for key, (p, was) in self.values.items() if not torch.equal(was, p)}

    def _on_clip_grad_norm(self, original: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        listed = [params] if isinstance(params, torch.Tensor) else list(params)
        self.run.clipped_nothing |= not listed
        return original(listed, *args, **kwargs)

    # -- schedulers -----------------------------------------------------------------------

    def _scheduler(self, original: Any, scheduler: Any, *args: Any, **kwargs: Any) -> None:
        optimizer = kwargs.get("optimizer", args[0] if args else None)
        before = [(group["lr"], "initial_lr" in group) for group in optimizer.param_groups]
        self.building += 1
        try:
            original(scheduler, *args, **kwargs)
        finally:
            self.building -= 1
        if self.building == 0:
            self.run.keep.append(scheduler)
            facts = {
                "self": scheduler,
                "optimizer": id(optimizer),
                "before": before,
                "tops": [group.get("max_lr") for group in optimizer.param_groups],
                "groups": len(optimizer.param_groups),
            }
            self.run.schedulers.append(
                Built(self._lines(), id(scheduler), type(scheduler).__name__, facts)
            )

    def _schedule(self, original: Any, scheduler: Any, *args: Any, **kwargs: Any) -> None:
        if self.building == 0:
            optimizer = scheduler.optimizer
            self.run.scheduled.append(
                (id(scheduler), id(optimizer), len(self.run.steps), len(optimizer.param_groups))
            )
        return original(scheduler, *args, **kwargs)


class _Loops(ast.NodeTransformer):
    """Notes the lines that a script gets to, and the passes of its `for` loops."""

    def __init__(self, reached: set[int]) -> None:
        self.stack: list[tuple[Any, int, int]] = []  # frame, line, passes
        self.names = {
            "__name__": "__main__",
            "_begin": self.begin,
            "_once": self.once,
            "_end": self.end,
            "_reach": reached.add,
        }

    def counted(self, text: str) -> ast.Module:
        return ast.fix_missing_locations(self.visit(ast.parse(text)))

    def visit(self, node: ast.AST) -> Any:
        for name in ("body", "orelse"):
            body = getattr(node, name, None)
            if isinstance(body, list):
                lines = [(_call("_reach", each), each) for each in body]
                setattr(node, name, [each for pair in lines for each in pair])
        return super().visit(node)

    def visit_For(self, node: ast.For) -> list[ast.stmt]:
        self.generic_visit(node)
        node.body.insert(0, _call("_once", node))
        return [_call("_begin", node), node, _call("_end", node)]

    def begin(self, line: int) -> None:
        self.stack.append((sys._getframe(1), line, -1))

    def once(self, line: int) -> None:
        self._alive()
        frame, line, passes = self.stack[-1]
        self.stack[-1] = (frame, line, passes + 1)

    def end(self, line: int) -> None:
        self._alive()
        self.stack.pop()

    def now(self) -> tuple[tuple[int, int], ...]:
        self._alive()
        return tuple((line, passes) for _, line, passes in self.stack)

    def _alive(self) -> None:
        """Forget loops that a `return` left."""
        frame, frames = sys._getframe(1), set()
        while frame is not None:
            frames.add(id(frame))
            frame = frame.f_back
        self.stack = [entry for entry in self.stack if id(entry[0]) in frames]


def _call(name: str, node: ast.stmt) -> ast.stmt:
    """`name(line of node)`."""
    called = ast.Call(ast.Name(name, ast.Load()), [ast.Constant(node.lineno)], [])
    return ast.copy_location(ast.Expr(called), node)


def _moments(state: dict[str, Any]) -> bool:
    return any(
        isinstance(value, torch.Tensor) and value.ndim > 0 and bool(value.any())
        for value in state.values()
    )


def _schedulers() -> list[type]:
    found = vars(torch.optim.lr_scheduler).values()
    base = torch.optim.lr_scheduler.LRScheduler
    return [
        kind
        for kind in found
        if isinstance(kind, type)
        and issubclass(kind, base)
        and kind is not base
        and "__init__" in vars(kind)
    ]
