"""The report as text: what there is, what is wrong with it, what was run."""

from __future__ import annotations

from collections.abc import Iterator

from freezecheck.chapters import Chapter
from freezecheck.finding import Site
from freezecheck.report import frames
from freezecheck.report.findings import WIDEST, render_finding, tally
from freezecheck.report.line import WIDTH, Line, clean, line, plain, wrap
from freezecheck.report.result import Ran, Report
from freezecheck.report.table import figure, table, title
from freezecheck.snapshot import Optimizer, Scheduler, Snapshot, count, millions


def render(report: Report, width: int = WIDTH) -> str:
    """The report as plain text, the same everywhere."""
    return plain(layout(report, width))


def layout(report: Report, width: int, *, cut: bool = False, brief: bool = False) -> list[Line]:
    """The report in lines of marked words, about `width` columns wide.

    `cut` shortens source lines to the width too; `brief` leaves the findings alone.
    """
    lines = [] if brief else [*_setups(report, width), *_story(report, width)]
    for finding in report.findings:
        lines += [*render_finding(finding, width, cut=cut)]
    return lines if brief else [*lines, *_closing(report, min(width, WIDEST))]


_LONGEST = 12  # chapters shown


def _story(report: Report, width: int) -> Iterator[Line]:
    """The phases of a run, and the table again as it is in the last one."""
    if len(report.story) < 2:
        return
    narrow = min(width, WIDEST)
    skipped = len(report.story) - _LONGEST
    for number, chapter in enumerate(report.story):
        if skipped > 0 and number == _LONGEST - 1:
            yield line((f"... {skipped} more", "quiet"))
        if skipped > 0 and _LONGEST - 1 <= number < len(report.story) - 1:
            continue
        yield from wrap(_chapter(chapter), narrow, rest="  ")
        for change in chapter.changes:
            yield from wrap(change, narrow, first="  ", rest="    ")
    yield line()
    last = report.phases[-1]
    yield line((f"from step {last.first:,} on:", "title"))
    yield line()
    yield from _setup(last.snapshot, width)


def _chapter(chapter: Chapter) -> str:
    """`steps 1-40: head trains, lr 0.01`."""
    steps = f"step {chapter.first:,}"
    if chapter.last > chapter.first:
        steps = f"steps {chapter.first:,}-{chapter.last:,}"
    epoch = f" (from epoch {chapter.epoch})" if chapter.epoch and chapter.first > 1 else ""
    rates = ", ".join(figure(rate) for rate in chapter.rates)
    what = f"{chapter.trains}, lr {rates}" if chapter.trains else "nothing"
    return f"{steps}{epoch}: trains {what}"


def _setups(report: Report, width: int) -> Iterator[Line]:
    """What each process has, once for those that have the same."""
    setups: dict[str, tuple[list[Line], list[int]]] = {}
    for number, now in enumerate(report.snapshots):
        lines = [*_setup(now, width)]
        setups.setdefault(plain(lines), (lines, []))[1].append(number)
    for lines, numbers in setups.values():
        if len(setups) > 1:
            yield line((f"{_processes(report, numbers)}:", "title"))
        yield from lines


def _processes(report: Report, numbers: list[int]) -> str:
    ranks = report.ran.ranks if report.ran else ()
    known = [ranks[n] if n < len(ranks) else None for n in numbers]
    word, names = ("rank", known) if None not in known else ("process", numbers)
    ending = "" if len(names) == 1 else "es" if word == "process" else "s"
    return f"{word}{ending} {', '.join(map(str, names))}"


def _setup(now: Snapshot, width: int) -> Iterator[Line]:
    """The tables, a paragraph each, and the optimizers under them."""
    told: set[str] = set()
    for index in range(len(now.models)):
        headings, lines = table(now, index, width)
        yield from title(now, index, width)
        yield from lines
        yield line()
        told.update(headings)
    for number, optimizer in enumerate(now.optimizers):
        text = _optimizer(now, number, optimizer, "decay" in told)
        yield from wrap(text, min(width, WIDEST), rest="  ")
    for scheduler in now.schedulers:
        yield from wrap(_scheduler(now, scheduler), min(width, WIDEST), rest="  ")
    if now.optimizers or now.schedulers:
        yield line()


def _optimizer(now: Snapshot, index: int, optimizer: Optimizer, decay_told: bool) -> str:
    """`optimizer (AdamW): 2 tensors (2.56 k parameters), built at train.py:16`."""
    held = now.of_optimizer(index)
    facts = [f"{count(len(held), 'tensor')} ({millions(sum(p.numel for p in held))} parameters)"]
    if len(optimizer.groups) > 1:
        facts[0] += f" in {len(optimizer.groups)} groups"
    if optimizer.part_of is not None:
        facts = [f"steps for {now.optimizers[optimizer.part_of].label}"]
    foreign = sum(group.foreign for group in optimizer.groups)
    if foreign:
        facts.append(f"{'all' if foreign == len(held) else foreign} of them in no model")
    decays = {group.weight_decay for group in optimizer.groups}
    if not decay_told and len(decays) == 1 and decays != {0.0}:
        facts.append(f"weight decay {figure(*decays)}")
    if index in now.superseded:
        facts.append("replaced by a later one")
    elif optimizer.idle:
        facts.append("not stepped yet")
    return f"{optimizer.label} ({optimizer.class_name}): {_and_site(facts, optimizer.site)}"


def _scheduler(now: Snapshot, scheduler: Scheduler) -> str:
    """`scheduler (OneCycleLR): to a peak rate of 0.01, built at train.py:19`."""
    kind = scheduler.type
    if scheduler.parts:
        kind += f" of {', '.join(part.type for part in scheduler.parts)}"
    facts = []
    if scheduler.optimizer is None:
        facts.append("drives an optimizer that is not among these")
    else:
        optimizer = now.optimizers[scheduler.optimizer]
        if len(now.optimizers) > 1:
            facts.append(f"drives {optimizer.label}")
        rates = [group.lr for group in optimizer.groups]
        if scheduler.peaks and max(scheduler.peaks) > max(rates, default=0.0):
            facts.append(f"to a peak rate of {figure(max(scheduler.peaks))}")
    told = _and_site(facts, scheduler.site)
    return f"{scheduler.label} ({kind})" + (f": {told}" if told else "")


def _and_site(facts: list[str], site: Site | None) -> str:
    return ", ".join(facts + ([f"built at {site}"] if site else []))


def _closing(report: Report, width: int) -> Iterator[Line]:
    yield _tally(report)
    for remark in report.left_out:
        yield from wrap(remark, width)
    if report.snapshot.place and not report.ran:
        yield line(f"inspected in {report.snapshot.place}")
    if report.memory:
        yield from wrap(f"would hold: {report.memory}", width)
    if report.ran:
        yield from wrap(describe(report.ran), width)


def _tally(report: Report) -> Line:
    """`3 findings: 1 error, 2 info`."""
    if not report.findings and report.ran is not None and report.ran.outcome != "inspected":
        return line("no findings in what was seen")
    return tally(report.findings)


def describe(ran: Ran) -> str:
    """What was run, how long it took, and what was not run, in one sentence."""
    processes = ""
    if len(ran.ranks) > 1:
        processes = f" in {len(ran.ranks)} processes"
        if None not in ran.ranks:
            processes += f" (ranks {', '.join(map(str, ran.ranks))})"
    took = f"{ran.seconds:.1f} s"
    what = f"`{ran.command}`"
    if ran.outcome == "inspected" and ran.until == "call":
        return f"ran {what} in {took}; no training step was run"
    if ran.outcome == "inspected" and ran.until == "backward":
        return (
            f"ran {what} and one forward and backward on a batch in {took};"
            " no optimizer step was taken"
        )
    if ran.outcome == "inspected":
        cut = f", each epoch cut to {count(ran.batches, 'batch')}" if ran.batches else ""
        if ran.ended:
            return f"ran {what}{processes} to its end, {count(ran.steps, 'step')}, in {took}{cut}"
        far = "its first optimizer step" if ran.steps <= 1 else f"step {ran.steps:,}"
        return f"ran {what}{processes} to {far} in {took}{cut}; the rest of the script was not run"
    ended = {
        "ended": f"which ended after {took}",
        "crashed": f"which failed after {took}",
        "not started": "which did not start",
    }.get(ran.outcome, f"which was stopped after {took}")
    far = f", at step {ran.steps:,}" if ran.steps else ", before its first optimizer step"
    return f"ran {what}{processes}, {ended}{far if ran.until == 'step' else ''}"


def trouble(ran: Ran, width: int, *, cut: bool = False) -> Iterator[Line]:
    """For standard error: why there was no step, where it hung, and what the script said last."""
    problem = f"freezecheck: {ran.problem[:1].lower()}{ran.problem[1:]}"
    yield from wrap(problem, width, mark="error") if cut else [line(problem)]
    for stood in ran.stood:
        who = "it" if stood.rank is None else f"rank {stood.rank}"
        inside = "" if stood.function == "<module>" else f", in {stood.function}"
        says = f"{who} was here{inside}"
        yield line()
        yield from frames.excerpt(stood.site, says, width, width if cut else None)
    if ran.error_output:
        yield line()
        yield line(("The end of its output:", "title"))
        yield from (line(f"  {clean(row)}") for row in ran.error_output.splitlines())
