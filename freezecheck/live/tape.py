"""A script's own training steps, recorded so that they can be replayed.

What is called at the outermost level is noted: modules, functions of torch on what they return,
backward passes, clipping. A note lives as long as the tensors that it made, or a backward pass that
hangs on it: what a step does not need, such as validation, is gone by itself.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from freezecheck.live import nested, values
from freezecheck.live.neutral import neutral
from freezecheck.live.patches import Patches
from freezecheck.live.program import (
    Autocast,
    Backward,
    Call,
    Clip,
    Held,
    Instruction,
    Ref,
    Taped,
    needed,
)

_FOREIGN = (
    "the loss hangs on a tensor whose making was not seen ({}): one of a hook, an attribute of"
)
_FOREIGN += " a module, or an earlier step"
_BY_HAND = "gradients are changed by other means than clipping"
_KEPT = "gradients are not set to zero between steps"
_MOVED = "weights are changed by other means than the optimizer's step"
_SECOND = "gradients of gradients are taken"
_OVERWRITTEN = "a tensor is written to through another one that shares its memory"


class Tape:
    """Records the steps of this thread's training. `failed` hears of an error of ours, after which
    nothing is recorded. `begins`, where given, is called once, before the first call of a module that
    trains, as if outside of every block of autocast and `no_grad`.

    To be installed before other patches of the same functions. While steps are replayed it must be
    closed.
    """

    def __init__(
        self,
        patches: Patches,
        failed: Callable[[Exception], None],
        begins: Callable[[], None] | None = None,
    ) -> None:
        self._patches = patches
        self._failed = failed
        self._begins = begins
        self._thread = threading.get_ident()
        self._depth = 0  # of calls within which nothing is noted
        self._closed = True
        self._mode: Any = None
        self._optimizers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._weights: Any = values.torch().utils.weak.WeakIdKeyDictionary()  # their parameters
        self._order = 0
        self._block = 0  # of autocast, counted
        self._moved: dict[int, int] = {}  # id of a parameter -> its version after the last step
        self._left: dict[int, tuple[int, int] | None] = {}  # gradients after the last step
        self._begin()

    def _begin(self) -> None:
        """A step begins."""
        torch = values.torch()
        self._made: Any = torch.utils.weak.WeakIdKeyDictionary()  # tensor -> (Ref, version)
        self._events: list[Backward | Clip] = []
        self._grads: dict[int, tuple[int, int] | None] = {}  # after the last event
        self._norms: Any = None
        self._rates: list[dict[str, Any]] = []
        self._problem = ""
        self._scaler: Any = None
        self._zeroed = False
        self._evaluates = False  # the step has begun and takes several looks at the loss

    # -- in and out --------------------------------------------------------------------

    def install(self) -> None:
        """Hear modules, functions, backward passes, clipping, scalers and zeroed gradients."""
        from torch.optim.optimizer import register_optimizer_step_pre_hook

        torch = values.torch()

        patches, optimizer = self._patches, torch.optim.Optimizer
        self._closed = False
        self._mode = _mode(self._function)
        self._push()
        patches.later(self.close)
        patches.around(torch.nn.Module, "__call__", self._module)
        patches.put(torch.autograd.Function, "apply", _applied(self._listen))
        patches.around_backward(self._backward)
        patches.around(torch.amp.GradScaler, "scale", self._scale)
        patches.around(torch.amp.GradScaler, "unscale_", self._unscale)
        patches.around(torch.amp.GradScaler, "step", self._scaler_step)
        patches.around(optimizer, "add_param_group", self._group)
        patches.around(optimizer, "zero_grad", self._zero)
        patches.around(torch.nn.Module, "zero_grad", self._zero)
        patches.around(torch.autocast, "__exit__", self._autocast_ends)
        patches.later(register_optimizer_step_pre_hook(self._before_step).remove)
        home = torch.nn.utils
        for name in ("clip_grad_norm_", "clip_grad_value_"):
            patches.around(home.clip_grad, name, self._clip)
            patches.put(home, name, getattr(home.clip_grad, name))

    def close(self) -> None:
        """Hear nothing any more."""
        if self._closed:
            return
        self._closed = True
        above = []
        torch = values.torch()
        for _ in range(torch._C._len_torch_function_stack()):
            mode = torch._C._pop_torch_function_stack()
            if mode is self._mode:
                break
            above.append(mode)
        for mode in reversed(above):
            torch._C._push_on_torch_function_stack(mode)
        self._begin()

    def cut(self, optimizer: Any) -> Taped | None:
        """In the hook after `optimizer`'s step: that step, None if no gradients were made in it."""
        if self._closed:
            return None
        try:
            with self._aside():
                return self._cut(optimizer)
        except Exception as error:
            self._fail(error)
            return None

    def _cut(self, optimizer: Any) -> Taped | None:
        params = _params([optimizer])
        events = self._events
        if self._norms is None and not self._evaluates:
            self._norms = gradient_norms(params)
        calls = needed([ref for e in events if isinstance(e, Backward) for ref in e.roots])
        told = [self._problem, *(e.problem for e in events if isinstance(e, Backward))]
        told += [call.problem for call in calls] + [_modes_differ(calls)]
        taped = None
        if any(isinstance(event, Backward) for event in events):
            program: list[Instruction] = [*events, *calls]
            program.sort(key=lambda each: each.order)
            problem = next(filter(None, told), "")
            taped = Taped(program, self._norms, self._rates, self._scaler, problem)
        self._begin()
        self._moved = {id(p): p._version for p in params}
        self._left = _gradients(params)
        return taped

    # -- what is heard -------------------------------------------------------------------

    def _listen(
        self, function: Any, args: Any, kwargs: Any, call: Callable[[], Any], target: Any = None
    ) -> Any:
        """A call at the outermost level is noted."""
        if self._off():
            return call()
        with self._aside():
            begun = self._safely(self._given, args, kwargs, target)
            result = call()
            if begun is not None:
                self._safely(self._note, function, begun, result)
            return result

    def _module(self, original: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
        if self._begins is not None and not self._off() and self._trains(module):
            begins, self._begins = self._begins, None
            with self._aside(), neutral():
                begins()
        return self._listen(module, args, kwargs, lambda: original(module, *args, **kwargs))

    def _function(self, function: Any, args: Any, kwargs: Any) -> Any:
        if self._off() or _passes(function) or not self._matters(args, kwargs):
            return function(*args, **kwargs)
        if getattr(function, "__module__", "") == "torch.nn.functional":
            function = inspect.unwrap(function)  # of patches, which have been called already
        target = args[0] if args and _writes(function) else None
        return self._listen(function, args, kwargs, lambda: function(*args, **kwargs), target)

    def _trains(self, module: Any) -> bool:
        """It is called to train, and an optimizer holds parameters of it."""
        held = {id(p) for p in _params(self._optimizers)}
        trains = module.training or values.torch().is_grad_enabled()
        return trains and any(id(p) in held for p in module.parameters())

    def _backward(
        self, original: Any, tensors: Any, weights: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if self._off() or values.torch()._C._current_graph_task_id() != -1:
            return original(tensors, weights, *args, **kwargs)
        with self._aside():
            counts = bool(kwargs.get("accumulate_grad")) and not self._complete
            if counts:
                self._safely(self._descends, tensors, weights, *args)
            result = original(tensors, weights, *args, **kwargs)
            if counts:
                self._safely(self._done)
            return result

    def _clip(self, original: Any, parameters: Any, *args: Any, **kwargs: Any) -> Any:
        if self._off():
            return original(parameters, *args, **kwargs)
        with self._aside():
            if not isinstance(parameters, (list, tuple, values.torch().Tensor)):
                parameters = list(parameters)
            self._safely(self._gradients_are_ours)
            result = original(parameters, *args, **kwargs)
            self._safely(self._clipped, original, parameters, args, kwargs)
            return result

    def _scale(self, original: Any, scaler: Any, outputs: Any) -> Any:
        if self._off():
            return original(scaler, outputs)
        self._scaler = scaler
        with self._aside():
            begun = self._safely(self._given, (outputs,), {})
            result = original(scaler, outputs)
            if begun is not None and result is not outputs:
                self._safely(self._note, None, begun, result)
            return result

    def _unscale(self, original: Any, scaler: Any, optimizer: Any) -> Any:
        if self._off():
            return original(scaler, optimizer)
        with self._aside():
            result = original(scaler, optimizer)
            self._safely(self._clipped, None, [], (), {})
            return result

    def _scaler_step(
        self, original: Any, scaler: Any, optimizer: Any, *args: Any, **kw: Any
    ) -> Any:
        before = self._events
        result = original(scaler, optimizer, *args, **kw)
        if before and self._events is before and not self._off():
            self._begin()  # the scaler skipped it
        return result

    def _group(self, original: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(optimizer, *args, **kwargs)
        self._optimizers.add(optimizer)
        self._weights.update(dict.fromkeys(optimizer.param_groups[-1]["params"]))
        return result

    def _zero(self, original: Any, owner: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(owner, *args, **kwargs)
        if not self._off():
            self._safely(self._zeros, owner)
        return result

    def _autocast_ends(self, original: Any, *args: Any) -> Any:
        result = original(*args)
        torch = values.torch()
        torch.autocast_increment_nesting()
        if torch.autocast_decrement_nesting() == 0:
            self._block += 1
        return result

    def _before_step(self, optimizer: Any, *_: Any) -> None:
        if self._off():
            return
        self._evaluates = isinstance(optimizer, values.torch().optim.LBFGS)
        self._rates = [_options(group) for group in optimizer.param_groups]
        if not any(isinstance(event, Backward) for event in self._events):
            return  # gradients are made within the step
        with self._aside():
            self._safely(self._gradients_are_ours)
            self._norms = self._safely(gradient_norms, _params([optimizer]))

    # -- calls -----------------------------------------------------------------------------

    def _given(self, args: Any, kwargs: Any, target: Any = None) -> _Begun:
        torch = values.torch()
        tensors = list(nested.tensors((args, kwargs)))
        given = nested.rebuilt((args, kwargs), lambda part: self._leaf(part, target))
        versions = [_version(tensor) for tensor in tensors]
        grad = torch.is_grad_enabled()
        return _Begun(given, tensors, versions, grad, self._autocast(), _random())

    def _leaf(self, part: Any, target: Any) -> Any:
        """What stands for a part of what is given; `target` is about to be written to."""
        if not isinstance(part, values.torch().Tensor):
            return part
        ref = self._ref(part)
        if ref is not None:
            return ref
        if isinstance(part, values.torch().nn.Parameter) or part in self._weights:
            return part
        return Held(part.clone(), 0, True) if part is target else Held(part, _version(part))

    def _ref(self, tensor: Any) -> Ref | None:
        """The result that a tensor is."""
        made = self._made.get(tensor)
        if made is not None:
            ref, version = made
            return ref if version == _version(tensor) else _unknown(_OVERWRITTEN)
        if tensor.requires_grad and not tensor.is_leaf:
            return _unknown(_FOREIGN.format(type(tensor.grad_fn).__name__))
        return None

    def _matters(self, args: Any, kwargs: Any) -> bool:
        """It works on results of calls, or on parameters."""
        grad = values.torch().is_grad_enabled()
        return any(
            (grad and tensor.requires_grad) or tensor in self._made
            for tensor in nested.tensors((args, kwargs))
        )

    def _note(self, function: Any, begun: _Begun, result: Any) -> None:
        """What a call made."""
        known = {id(tensor) for tensor in begun.tensors}
        results = list(nested.tensors(result))
        written = [
            place
            for place, (tensor, version) in enumerate(zip(begun.tensors, begun.versions))
            if _version(tensor) != version and not _is_weight(tensor)
        ]
        made = [(i, t) for i, t in enumerate(results) if id(t) not in known and not _is_weight(t)]
        if not made and not written:
            if getattr(function, "__name__", "") == "register_hook":
                self._made[begun.tensors[0]] = _unknown("a tensor has a hook"), begun.versions[0]
            return
        if not self._worth(function, begun, results):
            return
        self._order += 1
        call = Call(self._order, function, begun.given, begun.grad, begun.autocast)
        call.written = tuple(written)
        call.problem = _problem(function, begun, written)
        call.logits = _place(result, results)
        if isinstance(function, values.torch().nn.Module):
            call.modes = tuple(m.training for m in function.modules())
            call.flags = tuple(p.requires_grad for p in function.parameters())
        if not _same(begun.random, _random()):
            call.random = begun.random
        for index, tensor in made:
            self._made[tensor] = Ref(call, index), _version(tensor)
        for index, place in enumerate(written, len(results)):
            tensor = begun.tensors[place]
            self._made[tensor] = Ref(call, index), _version(tensor)
            self._rewrite(tensor, begun.versions[place], Ref(call, index))

    def _rewrite(self, tensor: Any, before: int, ref: Ref) -> None:
        """Others that share the memory of what was written to have been written to as well."""
        version = _version(tensor)
        for other, (own, known) in list(self._made.items()):
            if other is not tensor and known == before and _base(other) is _base(tensor):
                self._order += 1
                call = Call(self._order, _written, ((own, ref), {}), True, ())
                self._made[other] = Ref(call, 0), version

    def _worth(self, function: Any, begun: _Begun, results: list[Any]) -> bool:
        """A module that gives no gradients, such as a teacher, is replayed only where training shows
        in it; what others return is as constant as a target."""
        torch = values.torch()
        if not isinstance(function, torch.nn.Module) or any(t.requires_grad for t in results):
            return True
        if any(isinstance(part, Ref) for part in nested.leaves(begun.given)):
            return True
        gathers = torch.nn.modules.batchnorm._BatchNorm
        return function.training and any(
            any(p.requires_grad for p in module._parameters.values() if p is not None)
            or (isinstance(module, gathers) and module.training and module.track_running_stats)
            for module in function.modules()
        )

    def _autocast(self) -> Autocast:
        torch = values.torch()
        kinds = [
            (kind, torch.get_autocast_dtype(kind), torch.is_autocast_cache_enabled())
            for kind in ("cpu", "cuda")
            if torch.is_autocast_enabled(kind)
        ]
        return (*kinds, self._block) if kinds else ()

    # -- gradients -------------------------------------------------------------------------

    def _descends(self, roots: Any, weights: Any, retain: Any, create: Any, inputs: Any) -> None:
        """A backward pass begins."""
        self._gradients_are_ours()
        params = _params(self._optimizers)
        if any(self._moved.get(id(p), p._version) != p._version for p in params):
            self._problem = self._problem or _MOVED
        refs = [self._ref(root) for root in roots]
        known = [ref for ref in refs if ref is not None]
        self._order += 1
        event = Backward(
            self._order,
            known,
            list(weights),
            tuple(inputs or ()),
            bool(retain),
            self._autocast(),
            _loss(zip(roots, refs, weights), self._scaler),
        )
        if len(known) < len(refs):
            event.problem = "a backward pass begins at a parameter or at a constant"
        if create:
            event.problem = _SECOND
        self._events.append(event)

    def _done(self) -> None:
        """A backward pass, or clipping, is over."""
        self._norms = None
        self._grads = _gradients(_params(self._optimizers))

    @property
    def _complete(self) -> bool:
        """The rest of the step repeats what has been noted, with other weights."""
        return self._evaluates and any(isinstance(event, Backward) for event in self._events)

    def _clipped(self, function: Any, parameters: Any, args: Any, kwargs: Any) -> None:
        self._order += 1
        given = [parameters] if isinstance(parameters, values.torch().Tensor) else list(parameters)
        quiet = (
            {**kwargs, "error_if_nonfinite": False} if "error_if_nonfinite" in kwargs else kwargs
        )
        self._events.append(Clip(self._order, function, given, args, quiet, self._autocast()))
        self._done()

    def _gradients_are_ours(self) -> None:
        """Nobody else has touched the gradients since the last event."""
        params = _params(self._optimizers)
        now = _gradients(params)
        if any(isinstance(event, Backward) for event in self._events):
            before = self._grads
            changed = {
                key for key, grad in before.items() if grad is not None and now.get(key) != grad
            }
            if changed and all(
                now.get(key) is None for key, grad in before.items() if grad is not None
            ):
                self._events.clear()  # they were thrown away
            elif changed:
                self._problem = self._problem or _BY_HAND
        elif not self._zeroed and any(g is not None and now[k] == g for k, g in self._left.items()):
            self._problem = self._problem or _KEPT

    def _zeros(self, owner: Any) -> None:
        """Gradients are thrown away: what was done for them, too."""
        grouped = hasattr(owner, "param_groups")
        own = {id(p) for p in (_params([owner]) if grouped else owner.parameters())}
        if not self._complete and own & {id(p) for p in _params(self._optimizers)}:
            self._zeroed = True
            self._events.clear()

    # -- ourselves -------------------------------------------------------------------------

    def _off(self) -> bool:
        return self._closed or self._depth > 0 or threading.get_ident() != self._thread

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """Within the block nothing is noted, and functions are as quick as ever."""
        torch = values.torch()
        size = torch._C._len_torch_function_stack()
        top = size > 0 and torch._C._get_function_stack_at(size - 1) is self._mode
        if top:
            torch._C._pop_torch_function_stack()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if top and not self._closed:
                self._push()

    def _push(self) -> None:
        values.torch()._C._push_on_torch_function_stack(self._mode)

    def _safely(self, function: Callable[..., Any], *args: Any) -> Any:
        """Our own mistakes are not the script's."""
        if self._closed:
            return None
        try:
            return function(*args)
        except Exception as error:
            return self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.close()
        self._failed(error)


@dataclass(slots=True)
class _Begun:
    """What a call is given, and how things are before it."""

    given: Any
    tensors: list[Any]
    versions: list[int]
    grad: bool
    autocast: Autocast
    random: Any


def _mode(heard: Callable[[Any, Any, Any], Any]) -> Any:
    """Has `heard` called in place of torch's functions."""

    class Mode(values.torch().overrides.TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            return heard(func, args, kwargs or {})

    return Mode()


def _applied(listen: Callable[..., Any]) -> Any:
    """`apply` of autograd functions, which modes do not see."""
    before = vars(values.torch().autograd.Function)["apply"]

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        original = before.__get__(None, cls)
        return listen(original, args, kwargs, lambda: original(*args, **kwargs))

    return classmethod(apply)


@functools.lru_cache(1)
def _passed() -> frozenset[Any]:
    torch = values.torch()
    return frozenset({torch.Tensor.backward, torch.autograd.backward})


def _passes(function: Any) -> bool:
    """It is heard elsewhere, or asks for no more than a fact."""
    name = getattr(function, "__name__", "")
    if name == "__get__":
        return function.__self__.__name__ not in ("data", "T", "mT", "H", "mH", "real", "imag")
    return function in _passed()


def _writes(function: Any) -> bool:
    """By its name it writes to its first argument: `add_`, `__iadd__`, `__setitem__`."""
    name = getattr(function, "__name__", "")
    if name.startswith("__"):
        return name == "__setitem__" or (name.startswith("__i") and name not in _NOT_IN_PLACE)
    return name.endswith("_")


_NOT_IN_PLACE = ("__init__", "__invert__", "__index__", "__int__")


def _unknown(problem: str) -> Ref:
    """A result that cannot be had again."""
    return Ref(Call(0, None, ((), {}), True, (), problem=problem), 0)


def _problem(function: Any, begun: _Begun, written: list[int]) -> str:
    """Why a call cannot be done again."""
    if function is values.torch().autograd.grad:
        return _SECOND
    kinds = (Ref, Held, values.torch().Tensor)
    given = [part for part in nested.leaves(begun.given) if isinstance(part, kinds)]
    for place in written:
        if not (isinstance(given[place], Ref) or getattr(given[place], "fresh", False)):
            return f"{_named(function)} writes to what it is given"
    return ""


def _place(result: Any, results: list[Any]) -> int | None:
    """Where a model's logits are among its results."""
    if isinstance(result, values.torch().Tensor):
        return None
    logits = (
        result.get("logits") if isinstance(result, Mapping) else getattr(result, "logits", None)
    )
    return next((i for i, tensor in enumerate(results) if tensor is logits), None)


def _named(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _modes_differ(calls: list[Call]) -> str:
    known: dict[Any, Call] = {}
    for call in calls:
        if call.modes and known.setdefault(call.function, call).modes != call.modes:
            return f"{type(call.function).__name__} is called in different modes within one step"
    return ""


def _written(tensor: Any, by: Any) -> Any:
    """The tensor, after it was written to through `by`."""
    return tensor


def _base(tensor: Any) -> Any:
    """What it is a view of."""
    return tensor if tensor._base is None else tensor._base


def _is_weight(tensor: Any) -> bool:
    return bool(tensor.is_leaf and tensor.requires_grad)


def _version(tensor: Any) -> int:
    """How often it has been written to."""
    return 0 if tensor.is_inference() else int(tensor._version)


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.clone() if isinstance(value, values.torch().Tensor) else value
        for name, value in group.items()
        if name != "params"
    }


def _params(optimizers: Any) -> list[Any]:
    return [p for o in optimizers for group in o.param_groups for p in group["params"]]


def _gradients(params: list[Any]) -> dict[int, tuple[int, int] | None]:
    """Which gradients there are, and how often they were written to."""
    return {id(p): None if p.grad is None else (id(p.grad), _version(p.grad)) for p in params}


def gradient_norms(params: list[Any]) -> Any:
    """Of the gradients [parameters]; 0 where there is none."""
    torch = values.torch()
    home = params[0].device
    with torch.no_grad():
        each = [
            torch.zeros((), device=home)
            if p.grad is None
            else p.grad.detach().abs().float().norm().to(home, non_blocking=True)
            for p in params
        ]
        return torch.stack(each)


def _loss(roots: Any, scaler: Any) -> Any:
    """The loss of a backward pass, on the device."""
    total: Any = 0
    with values.torch().no_grad():
        for root, ref, weight in roots:
            value = (root.detach() * weight).sum()
            total = total + (value / scaler._scale if scaled(ref) else value)
    return total


def scaled(ref: Ref | None) -> bool:
    """A scaler's factor is in a result."""
    return ref is not None and any(
        call.function is None and not call.problem for call in needed([ref])
    )


def _random() -> list[Any]:
    """The states of the generators that modules draw from."""
    torch = values.torch()
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():
        states.append(torch.cuda.get_rng_state())
    return states


def _same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(a.equal(b) for a, b in zip(one, other))
