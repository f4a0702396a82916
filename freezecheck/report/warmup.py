"""What a warm-up showed, in words and tables; the text and the page lay them out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from freezecheck.report.table import Column, figure
from freezecheck.snapshot import count
from freezecheck.trace import COLLAPSED, EXPLODED, NOT_FINITE
from freezecheck.warmup import INCONCLUSIVE, LAST, NEAR, SAFE, UNSAFE, Critical, Shares, Warmup

if TYPE_CHECKING:
    from freezecheck.probe.report import ProbeReport

MARKS = {SAFE: "good", NEAR: "warning", UNSAFE: "error", INCONCLUSIVE: "quiet"}

_OUTCOMES = {
    NOT_FINITE: "the loss is not finite",
    EXPLODED: "the loss explodes",
    COLLAPSED: "the predictions collapse to one class",
}
MARGIN = "margin"  # the heading of what can be gone without
_ENOUGH = 100  # times a rate: a margin that is not worth a figure
_FEW = 6  # rates that are listed


def verdict(report: ProbeReport) -> str:
    """Why the zone is what it is."""
    warmup = report.warmup
    if warmup.outcome:
        return _OUTCOMES.get(warmup.outcome, warmup.outcome)
    if report.zone == SAFE:
        return "the loss falls at the rates that the run will reach"
    if report.zone == INCONCLUSIVE:
        return f"{count(len(warmup.losses), 'step')} did not decide it"
    if warmup.zone == SAFE:  # and the report's is not
        return "the loss falls, and what was pretrained takes harm"
    leapt = warmup.tripped is not None
    what = f"the loss leapt at step {warmup.tripped}" if leapt else "the loss stayed high for long"
    now, first = warmup.late
    return f"{what}, {'and came down' if now < first else 'and is high at the end'}"


def setting(warmup: Warmup) -> str:
    """`30 steps of 32 samples, classification`."""
    of = f" of {count(warmup.batch, 'sample')}" if warmup.batch else ""
    return f"{count(len(warmup.losses), 'step')}{of}, {warmup.task}"


def facts(warmup: Warmup) -> Iterator[tuple[str, str]]:
    """Names and what is known of them; the losses at the end come first."""
    if warmup.rates:
        yield "rates", f"{_listed(warmup.rates)}, reached in {count(warmup.ramp, 'step')}"
    if warmup.losses:
        now, first = warmup.late
        known = f", outputs without information {figure(warmup.level)}" if warmup.level else ""
        steps = min(LAST, len(warmup.losses))
        yield (
            "loss at the end",
            f"{figure(now)} over the last {count(steps, 'step')}; the initial weights"
            f" {figure(first)}{known}",
        )
    if warmup.floor is not None:
        floor = warmup.floor
        yield (
            "linear head",
            f"{percent(floor.before)} on the features of before, {percent(floor.after)} on those of"
            f" after; the model itself {percent(floor.own)} (accuracy on {floor.samples} samples)",
        )
    if warmup.features is not None:
        of = warmup.features
        yield (
            "features",
            f"1 - cosine {of.drift:.2f} to those of before; dead {percent(of.dead_before)} before,"
            f" {percent(of.dead_after)} after",
        )
    if warmup.layers:
        yield "BatchNorm", _drift(warmup)


def _listed(rates: Sequence[float]) -> str:
    words = list(dict.fromkeys(figure(rate) for rate in rates))
    if len(words) <= _FEW:
        return ", ".join(words)
    return f"{figure(min(rates))} to {figure(max(rates))} in {len(rates)} groups"


def _drift(warmup: Warmup) -> str:
    training = [layer for layer in warmup.layers if layer.training]
    if not training:
        return f"{count(len(warmup.layers), 'layer')} in eval mode, whose statistics do not move"
    worst = max(training, key=lambda layer: _order(layer.drift))
    frozen = sum(not layer.trainable for layer in training)
    told = f"{len(training)} of {count(len(warmup.layers), 'layer')} in train mode"
    if frozen:
        told += f" ({frozen} with frozen weights)"
    return f"{told}; divergence up to {figure(worst.drift)} nats ({worst.path})"


def _order(number: float) -> float:
    """NaN is the worst."""
    return math.inf if math.isnan(number) else number


def looks(warmup: Warmup) -> list[Column]:
    """Loss and accuracy of the same samples, before and after; no rows if nobody looked."""
    moved = any(layer.training for layer in warmup.layers)
    named = [
        ("before", warmup.start),
        ("after, in training", warmup.train),
        ("after, in eval mode", warmup.eval),
        ("  new BatchNorm statistics", warmup.settled if moved else None),
    ]
    seen = [(name, look) for name, look in named if look is not None]
    columns = [
        Column(
            f"{count(warmup.samples, 'sample')}" if warmup.samples else "", [n for n, _ in seen]
        ),
        Column("loss", [figure(look.loss) for _, look in seen], right=True),
    ]
    accuracies = [look.accuracy for _, look in seen]
    if any(accuracy is not None for accuracy in accuracies):
        words = ["-" if a is None else percent(a) for a in accuracies]
        columns.append(Column("accuracy", words, right=True))
    return columns


def shares(of: Shares) -> list[Column]:
    """What share of the samples is of each class, and what share was predicted at the end."""
    from statistics import fmean

    late = [fmean(column) for column in zip(*of.predicted[-LAST:])] or [0.0] * len(of.labels)
    columns = [Column("class", ["labels", "predicted"])]
    for name, label, guess in zip(class_names(of), of.labels, late):
        columns.append(Column(name, [percent(label), percent(guess)], right=True))
    return columns


def class_names(of: Shares) -> list[str]:
    """Of the columns; that of the rest only where there is one."""
    names = [str(c) for c in of.classes]
    rest = max((row[-1] for row in (of.labels, *of.predicted) if len(row) > len(names)), default=0)
    return [*names, "rest"] if rest > 0 else names


def critical(warmup: Warmup) -> list[Column]:
    """A row for each group: the run's rate and where it would fail."""
    of = warmup.critical
    certified = [_known(c.certified) for c in of]
    suggested = [_known(c.suggested) for c in of]
    columns = [
        Column("stage", [c.name for c in of]),
        Column("configured rate", [figure(c.rate) for c in of], right=True, short="rate"),
        Column("certified", certified, right=True, silent="-"),
        Column("safe up to", [_known(c.safe) for c in of], right=True, short="safe"),
        Column("diverges near", [_limit(c) for c in of], right=True, short="diverges"),
        Column(MARGIN, [_margin(c) for c in of], right=True, silent="-"),
        Column("suggested", suggested, right=True, silent="-"),
    ]
    return [column for column in columns if column.speaks]


def mark(of: Critical) -> str:
    """How bad a group's rate is."""
    if of.diverges is not None and of.rate >= of.diverges:
        return "error"
    if of.safe is not None and of.rate > max(of.safe, of.certified or 0.0):
        return "warning"
    return ""


def _known(rate: float | None) -> str:
    """Of what is measured, two digits mean something."""
    return "-" if rate is None else figure(float(f"{rate:.2g}"))


def beyond(of: Critical) -> float | None:
    """The rate up to which none was found that goes wrong; None where one was, or nothing went well."""
    return of.tried if of.diverges is None and of.safe is not None else None


def _limit(of: Critical) -> str:
    """`> 10`: no limit was found up to there."""
    if of.diverges is not None:
        return _known(of.diverges)
    end = beyond(of)
    return "-" if end is None else f"> {_known(end)}"


def _margin(of: Critical) -> str:
    """`15x`: the rate could be so many times as high; less than `1x` is too high."""
    end, more = (of.diverges, "") if of.diverges is not None else (beyond(of), "> ")
    if end is None or not of.rate:
        return "-"
    ratio = end / of.rate
    return f"> {_ENOUGH}x" if ratio > _ENOUGH else f"{more}{_known(ratio)}x"


def percent(share: float) -> str:
    """`62%`; what is neither none nor all is not rounded to it."""
    if not math.isfinite(share):
        return str(share)
    rounded = f"{share:.0%}"
    if rounded == "0%" and share > 0:
        return "<1%"
    return ">99%" if rounded == "100%" and share < 1 else rounded
