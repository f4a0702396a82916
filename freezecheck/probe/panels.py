"""The panels of a probe's figure: what each shows, and how it is drawn into axes of matplotlib."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from freezecheck.records import dataclass
from freezecheck.report import warmup as told
from freezecheck.report.line import clean
from freezecheck.report.spark import logarithmic
from freezecheck.report.table import figure as number
from freezecheck.snapshot import count
from freezecheck.warmup import Critical, Layer, Shares, Warmup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, QUIET, GRID, PAPER = "#1f2328", "#656d76", "#dfe3e8", "#fefefe"
ACCENT, GOOD, WARN, BAD = "#0b5cad", "#1a7f37", "#9a6700", "#cf222e"
_CLASSES = (
    "#4477aa", "#ee9944", "#228833", "#cc6688", "#66ccee", "#aa3377", "#ccbb44", "#885533",
)  # fmt: skip
_REST = "#9aa0a6"
_MOST = 16  # BatchNorm layers that are drawn
_LONGEST = 24  # characters of a name


@dataclass(frozen=True, slots=True)
class Panel:
    """`height` is in inches; `says` tells whoever cannot see it what it shows."""

    key: str
    title: str
    says: str
    height: float
    draw: Callable[[Axes], None]


def panels(warmup: Warmup) -> Iterator[Panel]:
    """Those that there are data for."""
    if warmup.losses:
        yield Panel(
            "loss", "Loss by step", _of_losses(warmup), 2.9, lambda axes: _losses(axes, warmup)
        )
    shares = warmup.shares
    if shares is not None and shares.predicted:
        yield Panel(
            "classes",
            "Predicted classes by step",
            _of_shares(shares),
            2.9,
            lambda axes: _shares(axes, shares),
        )
    shown = _drifting(warmup.layers)
    if shown:
        some = f", {len(shown)} of {len(warmup.layers)} layers"
        yield Panel(
            "batchnorm",
            f"Drift of BatchNorm statistics{some if len(shown) < len(warmup.layers) else ''}",
            _of_drift(warmup.layers, shown),
            1.2 + 0.2 * len(shown),
            lambda axes: _drift(axes, shown),
        )
    if warmup.critical:
        yield Panel(
            "rates",
            "Rates and critical rates",
            _of_critical(warmup.critical),
            1.5 + 0.32 * len(warmup.critical),
            lambda axes: _critical(axes, warmup.critical),
        )


# -- losses ----------------------------------------------------------------------------------


def _of_losses(warmup: Warmup) -> str:
    now, first = warmup.late
    return (
        f"The loss goes from {number(warmup.losses[0])} to {number(warmup.losses[-1])} in"
        f" {count(len(warmup.losses), 'step')}; over the last ten it is {number(now)}, that of the"
        f" initial weights {number(first)} on the same batches."
    )


def _losses(axes: Axes, warmup: Warmup) -> None:
    steps = range(1, len(warmup.losses) + 1)
    if warmup.ramp > 1:
        end = min(warmup.ramp, len(steps))
        axes.axvspan(1, end, color=GRID, alpha=0.6, linewidth=0, label="rates rise")
    if logarithmic([*warmup.losses, *warmup.initial]):
        axes.set_yscale("log")
    dot = "." if len(steps) < 3 else ""
    axes.plot(steps, _gaps(warmup.initial), color=QUIET, marker=dot, label="initial weights")
    if warmup.level is not None:
        axes.axhline(warmup.level, color=QUIET, linestyle=(0, (4, 3)), label="without information")
    axes.plot(steps, _gaps(warmup.losses), color=ACCENT, marker=dot, linewidth=1.8, label="loss")
    if warmup.tripped is not None:
        axes.axvline(warmup.tripped, color=WARN, linestyle=":", label="leap")
    lost = [step for step, loss in zip(steps, warmup.losses) if not math.isfinite(loss)]
    if lost:
        top = [0.95] * len(lost)
        place = axes.get_xaxis_transform()
        axes.plot(
            lost, top, "x", color=BAD, transform=place, label="not finite", markersize=5,
            clip_on=False,
        )  # fmt: skip
    _steps(axes, len(steps))
    legend(axes)


def _gaps(numbers: Sequence[float]) -> list[float]:
    """Infinity is no place to draw a line to."""
    return [n if math.isfinite(n) else math.nan for n in numbers]


def _steps(axes: Axes, last: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("step")
    axes.set_xlim(1 if last > 1 else 0.5, max(last, 1.5))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


# -- predicted classes -------------------------------------------------------------------------


def _of_shares(shares: Shares) -> str:
    _, *columns = told.shares(shares)
    labels, predicted = zip(*(column.cells for column in columns))
    return (
        f"Shares of the classes {', '.join(told.class_names(shares))}: {', '.join(predicted)} of the"
        f" predictions at the end, {', '.join(labels)} of the labels."
    )


def _shares(axes: Axes, shares: Shares) -> None:
    """Stacked shares of each step, and beside them a bar of the labels'."""
    names = told.class_names(shares)
    colours = [*_CLASSES[: len(shares.classes)], _REST][: len(names)]
    taken = len(shares.predicted)
    rows = [*shares.predicted, shares.predicted[-1]]
    edges = [step + 0.5 for step in range(taken + 1)]
    columns = list(zip(*rows))[: len(names)]
    axes.stackplot(edges, columns, colors=colours, labels=names, step="post", linewidth=0)
    wide = max(taken * 0.09, 0.3)
    at, below = taken + 0.5 + wide, 0.0
    for share, colour in zip(shares.labels, colours):
        axes.bar(at, share, wide, below, color=colour, edgecolor=PAPER, linewidth=0.6)
        below += share
    _steps(axes, taken)
    axes.set_xlim(0.5, at + wide / 2)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.grid(False)
    ticks = [int(tick) for tick in axes.get_xticks() if 1 <= tick <= 0.9 * taken]
    axes.set_xticks([*ticks, at], [*map(str, ticks), "labels"])
    legend(axes, most=6)


# -- BatchNorm -----------------------------------------------------------------------------------


def _drifting(layers: Sequence[Layer]) -> list[Layer]:
    """The layers that are drawn, in the model's order: all, or those that drifted most; none where
    none did."""
    if all(layer.drift == 0 for layer in layers):
        return []
    ranked = sorted(layers, key=lambda layer: -_finite(layer.drift, math.inf))[:_MOST]
    return [layer for layer in layers if layer in ranked]


def _of_drift(layers: Sequence[Layer], shown: Sequence[Layer]) -> str:
    worst = max(shown, key=lambda layer: _finite(layer.drift, math.inf))
    of = f"{len(shown)} of {len(layers)} layers" if len(shown) < len(layers) else "every layer"
    return (
        f"Divergence of the running statistics of {of}, in nats, from those that the initial weights"
        f" gather; the largest is {number(worst.drift)}, in {clean(worst.path)}."
    )


_KINDS = (
    ("train mode", ACCENT, True, True),
    ("train mode, frozen weights", WARN, True, False),
    ("eval mode", QUIET, False, None),
)


def _drift(axes: Axes, layers: Sequence[Layer]) -> None:
    known = [layer.drift for layer in layers if 0 < layer.drift < math.inf]
    low, high = min([1e-3, *known]) / 2, max([1e-1, *known]) * 3
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    for name, colour, training, trainable in _KINDS:
        rows = [
            row
            for row, layer in enumerate(layers)
            if layer.training == training and trainable in (None, layer.trainable)
        ]
        ends = [min(max(_finite(layers[row].drift, high), low), high) for row in rows]
        if rows:
            widths = [end - low for end in ends]
            axes.barh(rows, widths, 0.7, left=low, color=colour, label=name, linewidth=0)
    for row, layer in enumerate(layers):
        if not math.isfinite(layer.drift):
            axes.text(high, row, f"{layer.drift} ", ha="right", va="center", color=PAPER)
    _names(axes, [layer.path for layer in layers])
    axes.set_xlabel("divergence (nats)")
    legend(axes, most=2)


# -- critical rates --------------------------------------------------------------------------------


def _of_critical(critical: Sequence[Critical]) -> str:
    told_of = []
    for of in critical:
        known = [f"{clean(of.name)}: configured {number(of.rate)}"]
        known += [f"certified {number(of.certified)}"] if of.certified is not None else []
        known += [f"safe up to {number(of.safe)}"] if of.safe is not None else []
        if of.diverges is not None:
            known.append(f"diverges near {number(of.diverges)}")
        elif (end := told.beyond(of)) is not None:
            known.append(f"no limit found up to {number(end)}")
        told_of.append(", ".join(known))
    return "; ".join(told_of) + "."


def _critical(axes: Axes, critical: Sequence[Critical]) -> None:
    """A row for each group on one axis of rates."""
    every = [
        rate
        for of in critical
        for rate in (of.rate, of.certified, of.safe, of.diverges, of.suggested)
        if rate
    ]
    low, high = min(every, default=1e-3) / 4, max(every, default=1.0) * 4
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    for row, of in enumerate(critical):
        safe = min(of.safe or of.certified or 0.0, of.diverges or math.inf)
        if safe > low:
            axes.plot([low, safe], [row, row], color=GOOD, linewidth=3, alpha=0.45, label="safe")
    marks: list[tuple[str, str, str, float, Callable[[Critical], float | None]]] = [
        ("certified", "|", GOOD, 11, lambda of: of.certified),
        ("no limit up to", ">", GOOD, 7, told.beyond),
        ("diverges", "X", BAD, 8, lambda of: of.diverges),
        ("suggested", "D", ACCENT, 7, lambda of: of.suggested),
        ("configured", "o", INK, 6, lambda of: of.rate or None),
    ]
    for name, mark, colour, size, rate_of in marks:
        placed = [(rate, row) for row, of in enumerate(critical) if (rate := rate_of(of))]
        if placed:
            face = PAPER if mark == "D" else colour
            axes.plot(
                *zip(*placed), mark, color=colour, markersize=size, markerfacecolor=face,
                markeredgewidth=2 if mark == "|" else 1.2, label=name,
            )  # fmt: skip
    _names(axes, [of.name for of in critical])
    axes.set_xlabel("learning rate")
    legend(axes)


# -- what they share -----------------------------------------------------------------------------


def _names(axes: Axes, names: Sequence[str]) -> None:
    """Rows from the top; the user's words as they are, not as formulas."""
    axes.set_yticks(range(len(names)), [_short(clean(name)) for name in names])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"..{name[2 - _LONGEST :]}"


def _finite(value: float, otherwise: float) -> float:
    return value if math.isfinite(value) else otherwise


def legend(axes: Axes, most: int = 3) -> None:
    """Below the axes, as wide as the figure; each word once."""
    handles = dict(zip(*reversed(axes.get_legend_handles_labels())))
    axes.figure.legend(
        handles.values(), handles.keys(), loc="outside lower left", ncols=min(most, len(handles))
    )
