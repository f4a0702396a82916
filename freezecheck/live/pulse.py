"""The loss and the predictions of a training run, kept beside it and judged now and then.

At a step nothing is read: detached losses and a few rows of scores stay where they are. Every
`WINDOW` steps they are sent to the host; on a GPU a later step takes them up when they have
arrived, so that none ever waits.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from freezecheck.live import frames, losses, values
from freezecheck.live.history import POOLED, History, Step
from freezecheck.live.patches import Patches
from freezecheck.live.record import Recorder
from freezecheck.trace import WINDOW, Trace

_PENDING = 512  # losses kept of one step, which may be many where gradients are accumulated


class Pulse:
    """Listens to the losses of the optimizers that a recorder is about.

    The recorder gets the first trace of each verdict; `told(trace)` is called with each, within a
    step. `failed` hears of an error of ours, after which nothing is listened to any more. A new
    training, of other parameters, is judged anew.
    """

    def __init__(self, recorder: Recorder, failed: Callable[[Exception], None]) -> None:
        self.told: Callable[[Trace], None] = lambda trace: None
        self._failed = failed
        self._recorder = recorder
        self._dead = False
        self._scaled: tuple[Any, Any] | None = None  # a scaled loss, and the loss
        self._pending = Heard()
        self._begin()

    def _begin(self) -> None:
        """A training begins."""
        self._window = Window(History())
        self._sent: deque[Window] = deque()
        self._order: list[Any] = []  # weak, the optimizers that ended steps, the latest last
        self._params: set[int] = set()  # ids of what they hold

    def install(self, patches: Patches) -> None:
        """Hear loss functions, backward passes, gradient scalers and steps; the steps through the
        recorder, before it is installed."""
        torch = values.torch()

        def also(original: Callable[..., None]) -> Callable[..., None]:
            def call(optimizer: Any, *rest: Any) -> None:
                original(optimizer, *rest)
                self.stepped(optimizer)

            return call

        for name in ("after_step", "scaled"):
            setattr(self._recorder, name, also(getattr(self._recorder, name)))

        def backward(original: Any, tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if kwargs.get("accumulate_grad"):
                self._safely(self._root, tensors)
            return original(tensors, *args, **kwargs)

        def scale(original: Any, scaler: Any, outputs: Any) -> Any:
            result = original(scaler, outputs)
            self._scaled = (result, outputs) if isinstance(outputs, torch.Tensor) else None
            return result

        patches.around_backward(backward)
        patches.around(torch.amp.GradScaler, "scale", scale)
        losses.install(patches, lambda heard: self._safely(self._heard, heard), self._fail)

    def stepped(self, optimizer: Any) -> None:
        """An optimizer has stepped, or would have, had its scaler let it."""
        for trace in self._safely(self._ended, optimizer) or ():
            self.told(trace)

    def end(self) -> None:
        """The run is over: what has been heard so far is judged, though it be waited for."""
        for trace in self._safely(self._over, True) or ():
            self.told(trace)

    # -- what is heard ---------------------------------------------------------

    def _safely(self, function: Callable[[Any], Any], argument: Any) -> Any:
        """Our own mistakes are not the run's."""
        if self._dead or self._recorder.resting:
            return None
        try:
            return function(argument)
        except Exception as error:
            return self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self._dead:
            self._dead = True
            self._pending = Heard()
            self._begin()
            self._failed(error)

    def _root(self, tensors: Any) -> None:
        """A backward pass of one number begins; not one within another, as checkpoints make them."""
        running = getattr(values.torch()._C, "_current_graph_task_id", lambda: -1)()
        scaled, self._scaled = self._scaled, None
        if running != -1 or len(tensors) != 1 or tensors[0].numel() != 1:
            return
        known = scaled is not None and scaled[0] is tensors[0]
        loss = losses.plain(scaled[1] if scaled is not None and known else tensors[0])
        if loss is not None and len(self._pending.roots) < _PENDING:
            history = self._window.history
            history.site = history.site or frames.site(2)
            self._pending.roots.append(_number(loss))

    def _heard(self, told: losses.Call) -> None:
        """A loss function was called."""
        step = self._pending
        if len(step.known) < _PENDING:
            step.known.append(values.torch().stack((_number(told.value), _number(told.level))))
            if told.scores is not None and self._of_task(told):
                step.rows.append((told.scores, told.labels))

    def _of_task(self, told: losses.Call) -> bool:
        """Scores of the first task, where there are several, and no more of a step than are judged."""
        history = self._window.history
        if history.classes is None:
            history.classes, history.ignored = told.scores.shape[1], told.ignored
        enough = sum(len(labels) for _, labels in self._pending.rows) >= POOLED
        return history.classes == told.scores.shape[1] and not enough

    # -- steps -----------------------------------------------------------------

    def _ended(self, optimizer: Any) -> list[Trace]:
        if not self._recorder.mine(optimizer):
            self._pending = Heard()  # the losses were its own
        elif self._pending.roots or self._pending.known:
            self._turn(optimizer)
            self._pending.number = self._recorder.steps
            self._window.steps.append(self._pending)
            self._pending = Heard()
            if len(self._window.steps) == WINDOW:
                self._send()
        return self._take(wait=False)

    def _turn(self, optimizer: Any) -> None:
        """Who ends a step. Two that take turns, each with losses of its own, may be adversaries; one
        that comes with other parameters begins another training."""
        before = [known for reference in self._order if (known := reference()) is not None]
        if before and before[-1] is optimizer:
            return
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if any(known is optimizer for known in before):
            self._window.history.adversaries = True
        elif before and self._params.isdisjoint(held):
            self._send()
            self._window = Window(History())
        self._order = [weakref.ref(o) for o in (*before, optimizer) if o is not optimizer]
        self._order.append(weakref.ref(optimizer))
        self._params |= held

    def _send(self) -> None:
        if self._window.steps:
            self._window.send()
            self._sent.append(self._window)
            self._window = Window(self._window.history)

    def _over(self, _: Any) -> list[Trace]:
        self._send()
        return self._take(wait=True)

    def _take(self, *, wait: bool) -> list[Trace]:
        """The traces of what has arrived that say something new."""
        fresh = []
        while self._sent and self._sent[0].here(wait):
            window = self._sent.popleft()
            trace = window.history.take(window.read())
            if trace.verdict and trace.verdict not in {
                known.verdict for known in self._recorder.traces
            }:
                fresh.append(trace)
                self._recorder.traces.append(trace)
        return fresh


@dataclass(slots=True)
class Heard:
    """What was heard in one step, on the device."""

    number: int = 0
    roots: list[Any] = field(default_factory=list)  # scalars
    known: list[Any] = field(default_factory=list)  # (value, level)
    rows: list[tuple[Any, Any]] = field(default_factory=list)  # (scores, labels)


class Window:
    """What was heard in some steps, on its way to the host."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.steps: list[Heard] = []
        self._event: Any = None  # when it has arrived

    def send(self) -> None:
        """Bring everything to the host, without waiting for it."""
        torch = values.torch()
        self._trim()
        used = None
        for name in ("roots", "known"):
            tensors = [tensor for step in self.steps for tensor in getattr(step, name)]
            if tensors:
                used = tensors[0].device
                here = iter(torch.stack(tensors).to("cpu", non_blocking=True))
                for step in self.steps:
                    setattr(step, name, [next(here) for _ in getattr(step, name)])
        for step in self.steps:
            step.rows = [
                (scores.to("cpu", non_blocking=True), labels.to("cpu", non_blocking=True))
                for scores, labels in step.rows
            ]
        if used is not None and used.type == "cuda":
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(used))

    def _trim(self) -> None:
        """Of the scores the latest are enough, and those of the weights that the training began with."""
        pooled = 0
        first = None if self.history.begun else self.steps[0]
        for step in reversed(self.steps):
            if pooled >= POOLED and step is not first:
                step.rows = []
            pooled += sum(len(labels) for _, labels in step.rows)

    def here(self, wait: bool) -> bool:
        """It has arrived; `wait` until it has."""
        if self._event is None:
            return True
        if wait:
            self._event.synchronize()
        return bool(self._event.query())

    def read(self) -> list[Step]:
        """The steps, in numbers."""
        return [
            Step(
                step.number,
                [float(loss) for loss in step.roots],
                [(float(value), float(level)) for value, level in step.known],
                step.rows,
            )
            for step in self.steps
        ]


def _number(tensor: Any) -> Any:
    return tensor.reshape(()).to(values.torch().float32, copy=True)
