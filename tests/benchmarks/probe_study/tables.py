"""The study's figures as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median

from freezecheck.warmup import INCONCLUSIVE, NEAR, SAFE, UNSAFE

from .cases import COLLAPSED, DEGRADED, EXPLODED, TRUTHS, WELL, Case, of
from .others import RULES

_ZONES = (UNSAFE, NEAR, INCONCLUSIVE, SAFE)
_HARM = ("FC605", "FC606", "FC607", "FC609")
Alarm = Callable[[Case], bool]


def tables(cases: list[Case]) -> Iterator[str]:
    """All of them, part by part."""
    outside = [c for c in cases if not c.near]
    settings = {c.setting for c in cases}
    yield f"{len(cases)} runs of {len(settings)} settings, {len(outside)} outside the band.\n"
    yield "### Zones\n"
    yield from _zones(outside)
    yield "\nWithin a factor 1.5 of the critical rate:\n"
    yield from _zones([c for c in cases if c.near])
    yield "\n### Beside other rules\n"
    yield from _compared(cases)
    yield "\n### By part\n"
    yield from _parts(outside)
    yield "\n### Findings\n"
    yield from _findings(cases)
    yield "\n### More\n"
    yield from _more(cases)


def _zones(cases: list[Case]) -> Iterator[str]:
    yield from _head("what became of the run", *_ZONES)
    for truth in TRUTHS:
        yield _row(
            truth, *(sum(c.truth == truth and c.report.zone == z for c in cases) for z in _ZONES)
        )


def _compared(cases: list[Case]) -> Iterator[str]:
    outside, inside = [c for c in cases if not c.near], [c for c in cases if c.near]
    yield from _head(
        "rule",
        "looks at",
        "recall",
        "false alarms",
        "not degraded",
        "accuracy",
        "within the band",
        "all",
    )
    for name, looks, alarm in _alarms():
        yield _row(
            name,
            looks,
            *_figures(outside, alarm),
            *(_accuracy(part, alarm) for part in (inside, cases)),
        )


def _alarms() -> Iterator[tuple[str, str, Alarm]]:
    yield "**freezecheck: unsafe**", "30 to 60 ramped steps", _unsafe
    yield (
        "freezecheck: unsafe or near the edge",
        "the same",
        lambda c: c.report.zone in (UNSAFE, NEAR),
    )
    for name, rule in RULES.items():
        yield name, "30 real steps", lambda c, rule=rule: rule(c.first)
        yield name, "30 ramped steps", lambda c, rule=rule: rule(c.ramped)
    yield "curvature > 1", "initial weights", lambda c: c.sharpness > 1


def _unsafe(case: Case) -> bool:
    return case.report.zone == UNSAFE


def _parts(outside: list[Case]) -> Iterator[str]:
    yield from _head("part", "runs", "failed", "recall", "false alarms", "not degraded", "accuracy")
    for name, part in _split(outside):
        yield _row(name, len(part), sum(c.failed for c in part), *_figures(part, _unsafe))


def _split(cases: list[Case]) -> Iterator[tuple[str, list[Case]]]:
    yield "all", cases
    yield "tuned on", [c for c in cases if c.setting.tuned]
    yield "held out", [c for c in cases if not c.setting.tuned]
    for field in ("network", "scope", "optimizer", "batch", "schedule", "labels", "noise"):
        for value in sorted({getattr(c.setting, field) for c in cases}):
            yield f"{field} {value}", of(cases, **{field: value})


def _findings(cases: list[Case]) -> Iterator[str]:
    codes = sorted({code for c in cases for code in c.report.codes()})
    yield from _head("code", *TRUTHS)
    for code in codes:
        told = [c for c in cases if code in c.report.codes()]
        yield _row(code, *(sum(c.truth == truth for c in told) for truth in TRUTHS))
    yield _row("runs", *(sum(c.truth == truth for c in cases) for truth in TRUTHS))


def _more(cases: list[Case]) -> Iterator[str]:
    healthy = [c for c in of(cases, labels="majority") if not c.failed and c.truth != DEGRADED]
    collapse = sum("FC603" in c.report.codes() for c in healthy)
    yield (
        f"- FC603 on runs of 90%-majority data that ended well, worse or slow: {collapse} of {len(healthy)}."
    )
    well = [c for c in cases if c.truth == WELL]
    harm = sum(any(code in c.report.codes() for code in _HARM) for c in well)
    yield f"- FC605, FC606, FC607 or FC609 on runs that end well: {harm} of {len(well)}."
    calm = [c for c in cases if c.warmup.calm is not None and c.critical is not None and c.failed]
    under = sum(c.rate * (c.warmup.calm or 1) < (c.critical or 0) for c in calm)
    yield f"- The rates that a failing run is advised to take are below the critical one: {under} of {len(calm)}."
    steps = [len(c.warmup.losses) for c in cases]
    yield f"- Steps of the warm-up: median {median(steps):.0f}, mean {sum(steps) / len(steps):.0f}."
    norms = [c for c in cases if any(layer.training for layer in c.warmup.layers) and not c.failed]
    drift = [(max(layer.drift for layer in c.warmup.layers), c.truth == DEGRADED) for c in norms]
    yield f"- BatchNorm divergence, degraded against other runs that did not fail: AUROC {_auroc(drift):.2f}."
    for truth in (EXPLODED, COLLAPSED):
        lost = [c for c in cases if c.truth == truth and not c.near]
        named = sum(bool(set(c.report.codes()) & {"FC601", "FC602", "FC603"}) for c in lost)
        yield f"- {truth} runs outside the band that got an error: {named} of {len(lost)}."


def _figures(cases: Sequence[Case], alarm: Alarm) -> tuple[str, ...]:
    """Recall, false alarms, those of runs that were not degraded either, accuracy."""
    failed, rest = [c for c in cases if c.failed], [c for c in cases if not c.failed]
    fair = [c for c in rest if c.truth != DEGRADED]
    shares = (_share(sum(map(alarm, part)), len(part)) for part in (failed, rest, fair))
    return (*shares, _accuracy(cases, alarm))


def _accuracy(cases: Sequence[Case], alarm: Alarm) -> str:
    return _share(sum(alarm(c) == c.failed for c in cases), len(cases))


def _share(some: int, of_all: int) -> str:
    return f"{some / of_all:.3f} ({some}/{of_all})" if of_all else "-"


def _auroc(pairs: Iterable[tuple[float, bool]]) -> float:
    pairs = list(pairs)
    yes, no = [v for v, is_ in pairs if is_], [v for v, is_ in pairs if not is_]
    wins = sum((a > b) + 0.5 * (a == b) for a in yes for b in no)
    return wins / (len(yes) * len(no)) if yes and no else float("nan")


def _head(*names: object) -> Iterator[str]:
    yield _row(*names)
    yield _row(*("---" for _ in names))


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"
