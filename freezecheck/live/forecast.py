"""`forecast`: which tensors the next `optimizer.step()` will change, as a function call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from freezecheck.live.api import take_snapshot
from freezecheck.moves import Movement, predict
from freezecheck.snapshot import Snapshot, count, summarise

_WORDS = {True: "moves", False: "still", None: "unknown"}


def forecast(model: Any, optimizer: Any) -> Forecast:
    """Which tensors the next `optimizer.step()` will change, and for the others why not.

    To be asked between `backward()` and `step()`: gradients count as they are now,
    also in a step with a closure, which is taken to arrive at the same ones.

    Args:
        model: an `nn.Module`, wrapped (DDP, `torch.compile`, ...) or not, or a
            list or dict of several.
        optimizer: a `torch.optim.Optimizer`, or several as a list or dict, of which
            each takes its next step.

    A tensor counts as changed if at least one of its values does (0.0 and -0.0 are
    one value). An update too small for the tensor's precision, such as a tiny rate
    on bfloat16, counts as a change; only weight decay is held against rounding.
    Not foreseen: what a `GradScaler` or hooks do to the step, steps that raise, tensors
    whose values are NaN or inf already, and an LBFGS that diverges, which makes NaN of
    everything it holds, frozen or not. Of an optimizer with a `step()` of its own
    nothing can be said.

    Nothing is changed: no weight, gradient, mode, flag, hook or random state.
    Raises TypeError for things that are no model or optimizer.
    """
    if optimizer is None:
        raise TypeError(
            "forecast needs an optimizer: a torch.optim.Optimizer, or a list or dict of them"
        )
    now = take_snapshot(model, optimizer)
    return Forecast(predict(now), now)


@dataclass(frozen=True, eq=False, repr=False)
class Forecast:
    """A `Movement` for each tensor of the model, and for each foreign one in the optimizer.

    `forecast["fc.weight"]` is a Movement: `.moves` (True, False, or None for cannot
    say) and `.why`. Tensors have the names that `named_parameters()` gives them;
    those that no model owns are called `optimizer.param_groups[0]['params'][3]`.
    """

    movements: tuple[Movement, ...]
    snapshot: Snapshot

    @cached_property
    def moving(self) -> dict[str, str]:
        """Tensors that the step changes, and why."""
        return self._those(True)

    @cached_property
    def still(self) -> dict[str, str]:
        """Tensors that the step leaves alone, and why."""
        return self._those(False)

    @cached_property
    def unknown(self) -> dict[str, str]:
        """Tensors of which nothing can be said, and why."""
        return self._those(None)

    def _those(self, moves: bool | None) -> dict[str, str]:
        return {m.name: m.why for m in self.movements if m.moves is moves}

    def __getitem__(self, name: str) -> Movement:
        """The movement of a tensor, by its name or a tied one."""
        try:
            return self._by_name[name]
        except KeyError:
            raise KeyError(f"{name!r} is no tensor of this forecast") from None

    def __iter__(self) -> Iterator[Movement]:
        return iter(self.movements)

    def __len__(self) -> int:
        return len(self.movements)

    @cached_property
    def _by_name(self) -> dict[str, Movement]:
        found: dict[str, Movement] = {}
        for param, movement in zip(self.snapshot.params, self.movements):
            for alias in param.aliases:
                found[self.snapshot.path(param.model, alias)] = movement
        return found | {m.name: m for m in self.movements}

    def to_dict(self) -> dict[str, dict[str, str]]:
        """The forecast as JSON: `moving`, `still` and `unknown`, each name -> why."""
        return {"moving": self.moving, "still": self.still, "unknown": self.unknown}

    def __repr__(self) -> str:
        """A line for each verdict and reason, with the modules that share it."""
        rows: dict[tuple[bool | None, str], list[str]] = {}
        sizes: Counter[tuple[bool | None, str]] = Counter()
        for param, m in zip(self.snapshot.params, self.movements):
            rows.setdefault((m.moves, m.why), []).append(m.name)
            sizes[m.moves, m.why] += param.numel
        everything = _prefixes(m.name for m in self.movements)
        cells = [
            (
                _WORDS[moves],
                why,
                count(len(names), "tensor"),
                f"{sizes[moves, why]:,}",
                summarise(_collapse(names, everything)),
            )
            for (moves, why), names in sorted(rows.items(), key=lambda row: _ORDER[row[0][0]])
        ]
        head = f"the next step moves {len(self.moving):,} of {count(len(self), 'tensor')}"
        if self.unknown:
            head += f" ({len(self.unknown):,} cannot be said)"
        return "\n".join([head, *_aligned(cells)])


_ORDER = {True: 0, None: 1, False: 2}


def _prefixes(names: Iterable[str]) -> Counter[str]:
    """How many of the names lie below each module path."""
    counts: Counter[str] = Counter()
    for name in names:
        while name := name.rpartition(".")[0]:
            counts[name] += 1
    return counts


def _collapse(names: list[str], everything: Counter[str]) -> list[str]:
    """`layer1.*` for a module all of whose tensors are among the names."""
    mine = _prefixes(names)
    short: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        paths = (".".join(parts[:i]) for i in range(1, len(parts)))
        whole = next((p for p in paths if mine[p] == everything[p] and mine[p] > 1), None)
        short[name if whole is None else f"{whole}.*"] = None
    return list(short)


def _aligned(rows: list[tuple[str, str, str, str, str]]) -> list[str]:
    """Rows of text in columns: the third and fourth hold figures, the last is ragged."""
    widths = [max(len(row[i]) for row in rows) for i in range(4)] if rows else []
    return [
        "  "
        + "  ".join(
            text.rjust(width) if i in (2, 3) else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths))
        )
        + f"  {row[4]}"
        for row in rows
    ]
