"""A script's own training steps, recorded so that they can be replayed.

What is called at the outermost level is noted (`calls`): modules, and functions of torch on what they
return; so are backward passes and clipping (`gradients`).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

from freezecheck.live import values
from freezecheck.live.calls import Calls, writes
from freezecheck.live.gradients import Gradients
from freezecheck.live.neutral import neutral
from freezecheck.live.patches import Patches
from freezecheck.live.program import (
    Backward,
    Call,
    Instruction,
    Taped,
    needed,
)


class Tape:
    """Records the steps of this thread's training. `failed` hears of an error of ours, after which
    nothing is recorded.

    To be installed before other patches of the same functions. While steps are replayed it must be
    closed.
    """

    def __init__(self, patches: Patches, failed: Callable[[Exception], None]) -> None:
        self._patches = patches
        self._failed = failed
        self._begins: Callable[[], None] | None = None
        self._thread = threading.get_ident()
        self._depth = 0  # of calls within which nothing is noted
        self._closed = True
        self._mode: Any = None
        order = itertools.count(1)
        self._weights: Any = values.torch().utils.weak.WeakIdKeyDictionary()  # of optimizers
        self._calls = Calls(order, self._weights)
        self._gradients = Gradients(order, self._calls)
        self._begin()

    def _begin(self) -> None:
        """A step begins."""
        self._calls.forget()
        self._gradients.forget()
        self._rates: list[dict[str, Any]] = []
        self._scaler: Any = None

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

    def expect(self, begins: Callable[[], None]) -> None:
        """Call `begins` once, before the next call of a module that trains, as if outside of every
        block of autocast and `no_grad`."""
        self._begins = begins

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
        gradients = self._gradients
        gradients.end_step(optimizer)
        taped = self._taped() if gradients.descended else None
        self._begin()
        gradients.after_step(optimizer)
        return taped

    def _taped(self) -> Taped:
        gradients = self._gradients
        passes = [event for event in gradients.events if isinstance(event, Backward)]
        calls = needed([ref for each in passes for ref in each.roots])
        program: list[Instruction] = [*gradients.events, *calls]
        program.sort(key=lambda each: each.order)
        told = [gradients.problem, *(each.problem for each in passes)]
        told += [*(call.problem for call in calls), _modes_differ(calls)]
        problem = next(filter(None, told), "")
        return Taped(program, gradients.norms, self._rates, self._scaler, problem)

    # -- what is heard -------------------------------------------------------------------

    def _listen(
        self, function: Any, args: Any, kwargs: Any, call: Callable[[], Any], target: Any = None
    ) -> Any:
        """A call at the outermost level is noted."""
        if self._off():
            return call()
        with self._aside():
            begun = self._safely(self._calls.given, args, kwargs, target)
            result = call()
            if begun is not None:
                self._safely(self._calls.note, function, begun, result)
            return result

    def _module(self, original: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
        if self._begins is not None and self._trains(module):
            begins, self._begins = self._begins, None
            with self._aside(), neutral():
                begins()
        return self._listen(module, args, kwargs, lambda: original(module, *args, **kwargs))

    def _function(self, function: Any, args: Any, kwargs: Any) -> Any:
        if self._off() or _passes(function) or not self._calls.matters(args, kwargs):
            return function(*args, **kwargs)
        if getattr(function, "__module__", "") == "torch.nn.functional":
            function = inspect.unwrap(function)  # of patches, which have been called already
        target = args[0] if args and writes(function) else None
        return self._listen(function, args, kwargs, lambda: function(*args, **kwargs), target)

    def _trains(self, module: Any) -> bool:
        """Training begins: an optimizer is there, and a module is called in train mode, or one whose
        parameters that optimizer holds."""
        if self._closed or not len(self._weights) or threading.get_ident() != self._thread:
            return False
        if module.training:
            return any(True for _ in (*module.parameters(), *module.buffers()))
        grad = values.torch().is_grad_enabled()
        return grad and any(p in self._weights for p in module.parameters())

    def _backward(
        self, original: Any, tensors: Any, weights: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if self._off() or values.torch()._C._current_graph_task_id() != -1:
            return original(tensors, weights, *args, **kwargs)
        with self._aside():
            counts = bool(kwargs.get("accumulate_grad")) and not self._gradients.complete
            if counts:
                self._safely(self._gradients.descends, self._scaler, tensors, weights, *args)
            result = original(tensors, weights, *args, **kwargs)
            if counts:
                self._safely(self._gradients.done)
            return result

    def _clip(self, original: Any, parameters: Any, *args: Any, **kwargs: Any) -> Any:
        if self._off():
            return original(parameters, *args, **kwargs)
        with self._aside():
            if not isinstance(parameters, (list, tuple, values.torch().Tensor)):
                parameters = list(parameters)
            self._safely(self._gradients.are_ours)
            result = original(parameters, *args, **kwargs)
            self._safely(self._gradients.clipped, original, parameters, args, kwargs)
            return result

    def _scale(self, original: Any, scaler: Any, outputs: Any) -> Any:
        if self._off():
            return original(scaler, outputs)
        self._scaler = scaler
        with self._aside():
            begun = self._safely(self._calls.given, (outputs,), {})
            result = original(scaler, outputs)
            if begun is not None and result is not outputs:
                self._safely(self._calls.note, None, begun, result)
            return result

    def _unscale(self, original: Any, scaler: Any, optimizer: Any) -> Any:
        if self._off():
            return original(scaler, optimizer)
        with self._aside():
            result = original(scaler, optimizer)
            self._safely(self._gradients.clipped, None, [], (), {})
            return result

    def _scaler_step(
        self, original: Any, scaler: Any, optimizer: Any, *args: Any, **kw: Any
    ) -> Any:
        before = self._gradients.events
        result = original(scaler, optimizer, *args, **kw)
        if before and self._gradients.events is before and not self._off():
            self._begin()  # the scaler skipped it
        return result

    def _group(self, original: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(optimizer, *args, **kwargs)
        self._gradients.optimizers.add(optimizer)
        self._weights.update(dict.fromkeys(optimizer.param_groups[-1]["params"]))
        return result

    def _zero(self, original: Any, owner: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(owner, *args, **kwargs)
        if not self._off():
            self._safely(self._gradients.zeros, owner)
        return result

    def _autocast_ends(self, original: Any, *args: Any) -> Any:
        result = original(*args)
        torch = values.torch()
        torch.autocast_increment_nesting()
        if torch.autocast_decrement_nesting() == 0:
            self._calls.block += 1
        return result

    def _before_step(self, optimizer: Any, *_: Any) -> None:
        if self._off():
            return
        self._rates = [_options(group) for group in optimizer.param_groups]
        with self._aside():
            self._safely(self._gradients.begin_step, optimizer)

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


def _modes_differ(calls: list[Call]) -> str:
    known: dict[Any, Call] = {}
    for call in calls:
        if call.modes and known.setdefault(call.function, call).modes != call.modes:
            return f"{type(call.function).__name__} is called in different modes within one step"
    return ""


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.clone() if isinstance(value, values.torch().Tensor) else value
        for name, value in group.items()
        if name != "params"
    }
