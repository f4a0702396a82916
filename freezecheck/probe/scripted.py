"""The probe of a script: within its process, at the setup that its first optimizer step has.

The script trains as it likes for some steps, which are recorded (`live.tape`). Then its weights and
all else are put back to that first step, the recorded steps are taken again at the run's largest
rates, and judged. The process is thrown away afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from freezecheck import rates
from freezecheck.cost import Cost
from freezecheck.finding import Site
from freezecheck.live import frames, nested, values
from freezecheck.live.gradients import params
from freezecheck.live.patches import Patches
from freezecheck.live.plan import Probing
from freezecheck.live.program import Held, Taped
from freezecheck.live.record import Recorder, alive
from freezecheck.live.still import told
from freezecheck.live.tape import Tape
from freezecheck.probe import faithful, price
from freezecheck.probe.batches import Batches
from freezecheck.probe.judge import judged
from freezecheck.probe.memory import exhaustion_told
from freezecheck.probe.replayed import Replayed
from freezecheck.probe.report import ProbeReport
from freezecheck.probe.saved import Saved
from freezecheck.probe.steps import RAMP
from freezecheck.snapshot import Snapshot, count
from freezecheck.warmup import Progress

_TURN = 10  # steps in a row that one of several adversaries may take


class Unfit(Exception):
    """The script's training cannot be probed; the text says why, in one line."""


class Scripted:
    """Records the steps of one optimizer; `probe` then judges its rates.

    `progress` hears how far it is, `enough` is called where another training begins.
    """

    def __init__(
        self,
        recorder: Recorder,
        wanted: Probing,
        progress: Callable[[Progress], None],
        enough: Callable[[], None],
    ) -> None:
        self.steps: list[Any] = []
        self._recorder = recorder
        self._wanted = wanted
        self._progress = progress
        self._enough = enough
        self._tape = Tape(Patches(), self._failed)
        self._first: Snapshot | None = None  # of the first step that is recorded
        self._optimizer: Any = None  # the one that is probed
        self._recent: Any = None  # the one that stepped last
        self._saved: Saved | None = None
        self._peaks: list[float] = []  # the largest rates that were seen
        self._times: list[float] = []
        self._site: Site | None = None
        self._problem = ""
        self._remarks: list[str] = []  # what the warm-up is not

    def install(self) -> None:
        """Listen; before the recorder's own hooks are put in place."""
        recorder = self._recorder
        before, scaled = recorder.before_step, recorder.scaled

        def before_step(optimizer: Any, args: Any, kwargs: Any) -> None:
            before(optimizer, args, kwargs)
            self._begun(optimizer)

        def skipped(optimizer: Any) -> None:
            scaled(optimizer)
            self._tape.cut(optimizer)  # what is left here belongs to a step that was skipped

        recorder.before_step = before_step  # type: ignore[method-assign]
        recorder.scaled = skipped  # type: ignore[method-assign]
        recorder.on_step = lambda _: self._taken()
        patches, torch = Patches(), values.torch()
        for owner in (torch, torch.nn.Module):
            patches.around(owner, "compile", _eagerly)
        self._tape.install()
        if not self._wanted.after:
            self._tape.expect(self._save)

    @property
    def _early(self) -> bool:
        """The step that is taken goes before those that are recorded."""
        return self._recorder.steps <= self._wanted.after

    @property
    def begun(self) -> bool:
        """A step was taken, or was to be."""
        return self._optimizer is not None

    def probe(self) -> ProbeReport | Cost:
        """The report, or what it would take. Unfit; OutOfMemory."""
        self._tape.close()
        self._recorder.uninstall()
        if self._saved is None or not self.steps:
            raise Unfit(self._problem or "no optimizer step could be recorded")
        self._keep()
        setup = self._setup(self._saved)
        with values.torch().enable_grad(), exhaustion_told(setup):
            self._saved.restore()
            if problem := faithful.deviates(self.steps[0], self._optimizer, setup.scaler):
                raise Unfit(problem)
            self._saved.restore()
            if self._wanted.dry:
                held = _held(self.steps[0])
                return price.price(setup, self._saved, self._times, held, self._wanted.groups)
            return judged(setup, self._saved, self._site, tuple(self._remarks), self._wanted.groups)

    def _keep(self) -> None:
        """Of the recorded steps those that can be replayed, if there are enough."""
        whole = next((i for i, step in enumerate(self.steps) if step.problem), len(self.steps))
        steps = self.steps[:whole] if whole >= RAMP else self.steps
        if problem := faithful.problem(steps):
            raise Unfit(problem)
        if whole < len(self.steps):
            self._remarks.append(f"{faithful.problem(self.steps)}; probed are those before")
        same = faithful.alike(steps)
        if len(same) < len(steps):
            self._remarks.append(
                f"after step {len(same)} the script freezes, unfreezes or sets other modes: probed is"
                " what was before"
            )
        if len(same) < self._wanted.recorded:
            self._remarks.append(
                f"{count(len(same), 'step')} could be recorded; the warm-up goes through their batches"
                " again"
            )
        self.steps = same

    def _setup(self, saved: Saved) -> Replayed:
        """The recorded steps as batches."""
        steps = self.steps
        model = faithful.whole(steps, self._recorder.live())
        return Replayed(
            model=model,
            optimizer=self._optimizer,
            batches=Batches(steps),
            scaler=_scaler(steps),
            device=next((p.device for p in model.parameters()), values.torch().device("cpu")),
            peaks=self._largest(),
            falls=self._falls(),
            steps=self._wanted.steps,
            max_steps=self._wanted.max_steps,
            progress=self._progress,
        )

    def _save(self) -> None:
        """Before the first forward pass; where the optimizer is built after it, before its step."""
        recorder = self._recorder
        optimizers = alive(recorder.optimizers)
        if optimizers and self._saved is None:
            schedulers = alive(recorder.schedulers)
            self._saved = Saved(recorder.live(), optimizers, schedulers, offload=None)

    def _failed(self, error: Exception) -> None:
        """The tape broke; told when somebody wants its steps."""
        self._problem = f"its steps could not be recorded ({told(error)})"

    def _begun(self, optimizer: Any) -> None:
        """A step of an optimizer begins."""
        self._recent = optimizer
        if self._early:
            return
        if self._optimizer is None:
            self._check(optimizer)
            self._optimizer = optimizer
            self._site = frames.site(3)
            self._peaks = _now(optimizer)
            self._save()
        elif optimizer is not self._optimizer:
            if not self._follows(optimizer):
                raise Unfit(
                    "two optimizers take steps in turn, and a warm-up is of one: freezecheck.probe(...)"
                    " judges each by itself"
                )
            taken = count(len(self.steps), "step")
            kind = type(optimizer).__name__
            self._remarks.append(
                f"after {taken} another optimizer ({kind}) goes on: probed is the first one"
            )
            self._enough()

    def _follows(self, optimizer: Any) -> bool:
        """It goes on with what the first one has trained, or comes so late that they do not take turns."""
        first, second = _held_by(self._optimizer), _held_by(optimizer)
        return len(self.steps) > _TURN or not first.isdisjoint(second)

    def _taken(self) -> None:
        """A step has been taken."""
        recorder = self._recorder
        if self._early:
            self._tape.cut(self._recent)
            if recorder.steps == self._wanted.after:
                self._tape.expect(self._save)
            stage = "the script's own steps that go before"
            self._progress(Progress(stage, recorder.steps, self._wanted.after))
            return
        if self._first is None:
            self._first = recorder.phases[-1].snapshot if recorder.phases else recorder.snapshot()
        self._times.append(time.perf_counter())
        step = self._tape.cut(self._optimizer)
        if step is not None:
            self.steps.append(step)
        self._peaks = [max(pair) for pair in zip(self._peaks, _now(self._optimizer))]
        done, aim = len(self.steps), self._wanted.recorded
        self._progress(Progress("recording the script's own steps", done, aim))

    def _check(self, optimizer: Any) -> None:
        if _world() > 1:
            raise Unfit("a probe is of one process: start the script without its launcher")
        if any(type(p).__name__ == "DTensor" for p in params([optimizer])):
            raise Unfit("sharded parameters cannot be probed: start the script on one device")

    def _largest(self) -> list[float]:
        """The rates that were seen, or that the schedulers will reach."""
        index = self._position()
        if self._first is None or index is None:
            return self._peaks
        return [max(pair) for pair in zip(self._peaks, rates.tops(self._first, index))]

    def _falls(self) -> bool:
        index = self._position()
        return self._first is not None and index is not None and rates.falls(self._first, index)

    def _position(self) -> int | None:
        """Of the optimizer among those that were captured."""
        index = alive(self._recorder.optimizers).index(self._optimizer)
        known = self._first is not None and index < len(self._first.optimizers)
        return index if known else None


def _eagerly(compile: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Compiled graphs cannot be taken apart. Not asked for before somebody compiles: torch imports
    its compiler for it."""
    values.torch().compiler.set_stance("force_eager")
    return compile(*args, **kwargs)


def _scaler(steps: Sequence[Taped]) -> Any:
    """One for a warm-up, with the scale that the script's own has found."""
    used = next((step.scaler for step in steps if step.scaler is not None), None)
    if used is None or not used.is_enabled():
        return None
    return type(used)(
        init_scale=used.get_scale(),
        growth_factor=used.get_growth_factor(),
        backoff_factor=used.get_backoff_factor(),
        growth_interval=used.get_growth_interval(),
        **({"device": used._device} if hasattr(used, "_device") else {}),
    )


def _held(step: Taped) -> int:
    """Bytes of the tensors that a step holds on to."""
    parts = (part for call in step.calls for part in nested.leaves(call.given))
    return sum({id(p.tensor): p.tensor.nbytes for p in parts if isinstance(p, Held)}.values())


def _held_by(optimizer: Any) -> set[int]:
    return {id(p) for p in params([optimizer])}


def _now(optimizer: Any) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def _world() -> int:
    """Processes that train together."""
    distributed = values.torch().distributed
    known = distributed.is_available() and distributed.is_initialized()
    return int(distributed.get_world_size()) if known else 1
