"""Optimizers, their groups, and schedulers."""

from __future__ import annotations

from typing import Any

from freezecheck import program
from freezecheck.program import Group, Optimizer, Param, Scheduler
from freezecheck.source import calls, iteration
from freezecheck.source.calls import Call
from freezecheck.source.knowledge import optimizers
from freezecheck.source.machine import Machine
from freezecheck.source.values import (
    Dict,
    Iterator,
    List,
    Tensor,
    Unknown,
    is_constant,
)


def constructor(m: Machine, name: str, given: Call) -> Any:
    """An optimizer of a library, or a scheduler."""
    known = optimizers.find(name)
    if known is not None:
        bound = known.arguments.bind(given.args, given.keywords) or dict(given.keywords)
        return build(
            m,
            known.type,
            bound.pop("params", None),
            {**known.arguments.defaults, **bound},
            given,
            set(bound),
        )
    scheduler = optimizers.find_scheduler(name)
    if scheduler is not None:
        bound = scheduler.arguments.bind(given.args, given.keywords) or dict(given.keywords)
        return schedule(m, scheduler.type, bound, given, scheduler.arguments.defaults)
    if name.startswith("torch.optim.") and name.rpartition(".")[2][:1].isupper():
        if ".lr_scheduler." in name:
            return schedule(
                m, name, {"optimizer": given.get(0, "optimizer"), **given.keywords}, given, {}
            )
        return build(
            m, name, given.get(0, "params"), dict(given.keywords), given, set(given.keywords)
        )
    return NotImplemented


calls.PATTERNS.append(constructor)


def build(
    m: Machine, type: str, params: Any, options: dict[str, Any], given: Call, named: set[str]
) -> Optimizer:
    """An optimizer over `params`. `named` are the options that the call itself gives."""
    plain = {k: v if is_constant(v) else None for k, v in options.items()}
    made = m.new_optimizer(type, plain, given.node)
    groups = collect(m, params, given.node)
    if given.open:
        for group in groups:
            group.open = True
    made.groups = groups
    every = tuple(p for group in groups for p in group.params)
    made.event = m.event(
        program.OPTIMIZER, given.node, made, every, value=type, named=frozenset(named)
    )
    for group in groups:
        group.event = made.event
    return made


def collect(m: Machine, params: Any, node: Any) -> list[Group]:
    """The groups that an optimizer makes of its first argument."""
    spent = isinstance(params, Iterator) and params.gave
    if isinstance(params, (Param, Dict)):
        found, complete = [params], True
    else:
        found, complete = iteration.items(m, params, node)
        if isinstance(params, Dict):
            found = []
    dicts = [x for x in found if isinstance(x, (Dict, Group))]
    if not dicts:
        group = Group([], {}, m.site(node))
        group.exhausted = spent
        _fill(group, found, complete)
        return [group]
    groups = [_group(m, each, node) for each in dicts]
    if not complete or len(dicts) < len(found):
        groups[-1].open = True
    return groups


def _group(m: Machine, value: Any, node: Any) -> Group:
    if isinstance(value, Group):
        return value
    options = {
        k: v if is_constant(v) else None
        for k, v in value.items.items()
        if isinstance(k, str) and k != "params"
    }
    group = Group([], options, m.site(node))
    inner = value.items.get("params")
    group.exhausted = isinstance(inner, Iterator) and inner.gave
    if isinstance(inner, Param):
        group.members = [inner]
    elif inner is not None or not value.open:
        found, complete = iteration.items(m, inner, node)
        _fill(group, found, complete)
    group.open = group.open or value.open
    return group


def _fill(group: Group, found: list[Any], complete: bool) -> None:
    """Put parameters into a group. A pair of name and parameter is one too."""
    plain = [x[1] if isinstance(x, tuple) and len(x) == 2 else x for x in found]
    group.members = [p for p in plain if isinstance(p, Param)]
    others = [p for p in plain if not isinstance(p, Param)]
    group.open = not complete or bool(others)
    if others and all(isinstance(o, Tensor) for o in others):
        group.options.setdefault("<tensors>", None)


def add_group(m: Machine, optimizer: Optimizer, value: Any, node: Any) -> None:
    """`optimizer.add_param_group(value)`."""
    if isinstance(value, Dict):
        group = _group(m, value, node)
    else:
        group = Group([], {}, m.site(node))
        group.open = True
    optimizer.groups.append(group)
    group.event = m.event(program.GROUP, node, optimizer, tuple(group.params), group=group)


def schedule(
    m: Machine, type: str, bound: dict[str, Any], given: Call, defaults: dict[str, Any]
) -> Scheduler:
    """A learning-rate scheduler."""
    optimizer = bound.get("optimizer")
    plain = {k: _plain(v) for k, v in {**defaults, **bound}.items() if k != "optimizer"}
    made = m.new_scheduler(
        type, optimizer if isinstance(optimizer, Optimizer) else None, plain, given.node
    )
    parts = bound.get("schedulers")
    if parts is not None:
        found, _ = iteration.items(m, parts, given.node)
        made.parts = [p for p in found if isinstance(p, Scheduler)]
        if made.optimizer is None and made.parts:
            made.optimizer = made.parts[0].optimizer
    made.event = m.event(
        program.SCHEDULER, given.node, made, value=type,
        optimizer=made.optimizer, groups=len(made.optimizer.groups) if made.optimizer else None,
        named=frozenset(bound),
    )  # fmt: skip
    return made


def _plain(value: Any) -> Any:
    if is_constant(value):
        return value
    if isinstance(value, List) and not value.open and all(is_constant(x) for x in value.items):
        return list(value.items)
    if isinstance(value, List):
        return [None] * len(value.items)
    return value if isinstance(value, Unknown) else Unknown("?")


def method(m: Machine, owner: Any, name: str, given: Call) -> Any:
    """Methods of optimizers and schedulers."""
    if isinstance(owner, Optimizer):
        return _of_optimizer(m, owner, name, given)
    if isinstance(owner, Scheduler):
        return _of_scheduler(m, owner, name, given)
    if name == "step" and given.args and isinstance(given.args[0], Optimizer):
        step(m, given.args[0], given.node)  # a GradScaler
        return None
    if name == "zero_grad" and isinstance(owner, Unknown):
        m.event(program.ZERO_GRAD, given.node, None)
        return None
    return NotImplemented


calls.METHODS.append(method)


def step(m: Machine, optimizer: Optimizer, node: Any) -> None:
    """`optimizer.step()`."""
    optimizer.steps.append(m.event(program.STEP, node, optimizer))


def _of_optimizer(m: Machine, owner: Optimizer, name: str, given: Call) -> Any:
    if name == "step":
        if (
            given.args
            and not isinstance(given.args[0], (Optimizer, Unknown))
            and given.args[0] is not None
        ):
            calls.call(m, given.args[0], Call(given.node, []))
        step(m, owner, given.node)
    elif name == "zero_grad":
        m.event(program.ZERO_GRAD, given.node, owner, value=given.get(0, "set_to_none", True))
    elif name == "add_param_group":
        add_group(m, owner, given.get(0, "param_group"), given.node)
    elif name == "load_state_dict":
        owner.loads.append(
            m.event(program.LOAD, given.node, owner, value="optimizer", state=given.get(0))
        )
    elif name == "state_dict":
        return Unknown(f"<optimizer {owner.id}>.state_dict")
    return None


def _of_scheduler(m: Machine, owner: Scheduler, name: str, given: Call) -> Any:
    if name == "step":
        owner.steps.append(m.event(program.SCHEDULE, given.node, owner))
        return None
    if name == "load_state_dict":
        m.event(program.LOAD, given.node, owner, value="scheduler", state=given.get(0))
        return None
    return Unknown(m.spot(given.node))
