"""Every pass through a `DataLoader` is cut to a few batches, so that many epochs take seconds.

The cut is made where indices are handed out: workers never fetch what nobody
will get, and `len(loader)`, from which schedules are built, says the same. A
loader class with an `__iter__` of its own is cut where it gives its batches,
since it may keep one endless iterator of torch's for all epochs.

The loader whose batches most optimizer steps were taken on is the one that
trains; its passes are the epochs.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

from freezecheck.finding import Site
from freezecheck.live import frames, imports
from freezecheck.live.patches import Patches

Note = Callable[..., None]

_UNCUT = "the batches come from no DataLoader: nothing was cut"
_NO_STEP = (
    "epochs of {} led to no optimizer step: if gradients are accumulated over more batches,"
    " give a larger number"
)
_FRUITLESS = 3  # passes without a step that are too many to be a look at the data


class _Use:
    """How a loader has been used; one that is built anew for each epoch goes on with it."""

    __slots__ = ("over", "passes", "steps")

    def __init__(self) -> None:
        self.passes = 0
        self.steps = 0
        self.over = False  # the running pass has had its batches


class _Meter:
    """Counts passes and steps, and tells the epochs."""

    def __init__(self, batches: int, note: Note) -> None:
        self.batches = batches
        self.note = note
        self.last: _Use | None = None  # of the loader that gave the latest batch
        self.most: _Use | None = None  # of the loader with the most steps
        self._uses: dict[int, tuple[Any, _Use]] = {}  # by id, with the loader, held weakly
        self._places: dict[tuple[int, Site | None], tuple[Any, _Use]] = {}
        self._told = 0
        self._blind = 0  # steps on no loader's batch
        self._stepped = False

    def use(self, loader: Any) -> _Use:
        """The record of a loader."""
        known = self._uses.get(id(loader))
        if known is None or known[0]() is not loader:
            place = (id(getattr(loader, "dataset", loader)), frames.site(2))
            former = self._places.get(place)
            use = _Use() if former is None or former[0]() is not None else former[1]
            known = self._uses[id(loader)] = self._places[place] = (weakref.ref(loader), use)
        return known[1]

    def begin(self, loader: Any) -> _Use:
        """A pass through a loader begins."""
        use = self.use(loader)
        use.passes += 1
        use.over = False
        if use.passes == _FRUITLESS and not self._stepped:
            several = "1 batch" if self.batches == 1 else f"{self.batches} batches"
            self.note("short", _NO_STEP.format(several))
        return use

    def stepped(self, *_: Any) -> None:
        """An optimizer has stepped."""
        self._stepped = True
        if self.last is None:
            self._blind += 1
            if self._blind == self.batches + 1:
                self.note("uncut", _UNCUT)
            return
        self.last.steps += 1
        if self.most is None or self.last.steps > self.most.steps:
            self.most = self.last
        if self.most.passes != self._told:
            self._told = self.most.passes
            self.note("epoch", str(self._told))


_meter: _Meter | None = None


def epoch() -> int | None:
    """Which pass, from 1, the loader is in that most steps were taken on; before any step, the
    one that gave the latest batch. None: not known."""
    use = (_meter.most or _meter.last) if _meter is not None else None
    return None if use is None else use.passes


def install(patches: Patches, batches: int, note: Note) -> None:
    """Cut every pass through every loader of this process to `batches` batches.

    Tells `note("epoch", n)` when training enters its n-th epoch, `note("uncut",
    why)` if it uses no loader, and `note("short", why)` if no pass leads to a step.
    """
    global _meter
    from torch.optim.optimizer import register_optimizer_step_post_hook
    from torch.utils.data import DataLoader, dataloader

    meter = _meter = _Meter(batches, note)

    def forget() -> None:
        global _meter
        _meter = None

    patches.later(forget)
    patches.later(register_optimizer_step_post_hook(meter.stepped).remove)
    _iterators(patches, meter, dataloader._BaseDataLoaderIter, DataLoader)
    _loaders(patches, meter, DataLoader)
    _lightning(patches, batches)


def _iterators(patches: Patches, meter: _Meter, kind: Any, loader_kind: Any) -> None:
    """torch's iterators hand out as many lists of indices as are wanted, in each pass."""

    def init(original: Any, self: Any, loader: Any, *args: Any, **kwargs: Any) -> None:
        self._freezecheck_use = meter.use(loader)
        self._freezecheck_cut = not _own_ways(type(loader), loader_kind)
        self._freezecheck_pass = (None, 0)
        original(self, loader, *args, **kwargs)

    def next_index(original: Any, self: Any) -> Any:
        if not self._freezecheck_cut:
            return original(self)
        sampler, taken = self._freezecheck_pass
        taken = taken if sampler is self._sampler_iter else 0  # each pass has a new one
        if taken >= meter.batches:
            raise StopIteration
        self._freezecheck_pass = (self._sampler_iter, taken + 1)
        return original(self)

    def following(original: Any, self: Any) -> Any:
        use = self._freezecheck_use
        if use.over and not self._freezecheck_cut:
            raise StopIteration
        batch = original(self)
        meter.last = use
        return batch

    patches.around(kind, "__init__", init)
    patches.around(kind, "_next_index", next_index)
    patches.around(kind, "__next__", following)
    patches.around(kind, "__len__", _shorter(meter.batches))


def _loaders(patches: Patches, meter: _Meter, kind: Any) -> None:
    """Loaders are as long as they last; so are those of classes that have their own ways."""

    def enter(original: Any, self: Any) -> Any:
        if not _own_ways(type(self), kind):
            meter.begin(self)
        return original(self)

    def enter_own(original: Any, self: Any) -> Any:
        use = meter.begin(self)
        return _cut(iter(original(self)), meter, use)

    def adapt(loader_kind: Any) -> None:
        if "__len__" in vars(loader_kind):
            patches.around(loader_kind, "__len__", _shorter(meter.batches))
        if "__iter__" in vars(loader_kind):
            own = not _as_torch(loader_kind)
            patches.around(loader_kind, "__iter__", enter_own if own else enter)

    def subclassed(loader_kind: Any, **options: Any) -> None:
        super(kind, loader_kind).__init_subclass__(**options)
        adapt(loader_kind)

    for existing in _subclasses(kind):
        adapt(existing)
    patches.around(kind, "__iter__", enter)
    patches.around(kind, "__len__", _shorter(meter.batches))
    patches.put(kind, "__init_subclass__", classmethod(subclassed))


def _lightning(patches: Patches, batches: int) -> None:
    """Lightning refuses to validate every so many batches of an epoch that has fewer."""

    def setup(original: Any, self: Any) -> Any:
        trainer = self.trainer
        every, epochs = trainer.val_check_interval, trainer.check_val_every_n_epoch
        if isinstance(every, int) and epochs is not None:
            trainer.val_check_interval = min(every, batches)
        return original(self)

    def arrived(module: Any) -> None:
        patches.around(module._FitLoop, "setup_data", setup)

    packages = ("lightning.pytorch", "pytorch_lightning")
    imports.after(patches, {f"{package}.loops.fit_loop": arrived for package in packages})


def _cut(batches: Iterator[Any], meter: _Meter, use: _Use) -> Iterator[Any]:
    """The first batches of a pass. Asked for more, torch's iterators below say that they are at
    their end, so that the lines after a loop over them run; nothing more is fetched for it."""
    for number, batch in enumerate(batches, 1):
        if number > meter.batches:
            return
        use.over = number == meter.batches
        meter.last = use
        yield batch


def _shorter(batches: int) -> Callable[..., int]:
    def length(original: Any, self: Any) -> int:
        return min(original(self), batches)

    return length


def _own_ways(kind: type[Any], base: type[Any]) -> bool:
    """A class of loaders between `kind` and `base` has its own `__iter__`."""
    return any(
        "__iter__" in vars(each) and not _as_torch(each)
        for each in kind.__mro__
        if each is not base and issubclass(each, base)
    )


def _as_torch(kind: type[Any]) -> bool:
    """torchdata's stateful loader makes its iterators as torch does, one for each pass."""
    return kind.__module__.startswith("torchdata.")


def _subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)
