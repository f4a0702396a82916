"""`inspect` and `assert_sane`: the live half as two function calls."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from freezecheck import catalogue
from freezecheck.check import check
from freezecheck.finding import Finding, Severity
from freezecheck.live import fastai, roots, values
from freezecheck.live.capture import capture
from freezecheck.report.result import Report
from freezecheck.snapshot import Param, Snapshot, count, summarise

listeners: list[Callable[[Report], None]] = []  # told of every report that `inspect` makes


class SetupError(AssertionError):
    """The setup is not what it should be; the text alone is enough to mend it."""

    __module__ = "freezecheck"  # where it is imported from

    def __init__(self, text: str, report: Report) -> None:
        super().__init__(text)
        self.report = report


def inspect(
    model: Any,
    optimizer: Any,
    *,
    scheduler: Any = None,
    scaler: Any = None,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] | None = None,
) -> Report:
    """What is wrong with this model, optimizer and scheduler, as they are now.

    Args:
        model: an `nn.Module`, wrapped (DDP, `torch.compile`, ...) or not, or a
            list or dict of several.
        optimizer: a `torch.optim.Optimizer`, or several as a list or dict; None
            leaves out everything about optimizers.
        scheduler: one or several learning-rate schedulers.
        scaler: a `GradScaler`; accepted for symmetry with a training step.
        select, ignore: rules by code (`FC201`), prefix (`FC2`) or name.

    Nothing is changed: no weight, gradient, mode, flag, hook or random state.
    Most telling between `backward()` and `step()`, when gradients are there.

    Raises TypeError for things that are no model, optimizer or scheduler, and
    ValueError for a selector that names no rule.
    """
    rules = catalogue.select(select, ignore)
    now = take_snapshot(model, optimizer, scheduler)
    left_out = ("no optimizer was given: nothing about optimizers was checked",)
    report = Report(tuple(check(rules, snapshots=[now])), now, () if now.optimizers else left_out)
    for listener in listeners:
        listener(report)
    return report


def assert_sane(
    model: Any,
    optimizer: Any,
    *,
    scheduler: Any = None,
    trainable: str | Sequence[str] | None = None,
    frozen: str | Sequence[str] | None = None,
    batchnorm: str | None = None,
    fail_on: str = "warning",
    ignore: Iterable[str] = (),
) -> Report:
    """Fail a test unless the setup is sound, and is what was meant.

    Args:
        model, optimizer, scheduler, ignore: as for `inspect`.
        trainable: glob or globs over parameter names (`"fc.*"`); exactly these
            parameters must be trainable, and nothing else.
        frozen: glob or globs; exactly these must be frozen, and nothing else
            (with `trainable` given too: at least these).
        batchnorm: "train" or "eval", the mode every BatchNorm layer must be in.
        fail_on: "error", "warning" or "info"; findings below it pass.

    Returns the `Report`. Raises SetupError, an AssertionError, whose text says
    what is wrong and what to do; ValueError for arguments that cannot be meant.
    """
    __tracebackhide__ = True  # pytest then shows the caller's line, and the text
    if batchnorm not in (None, "train", "eval"):
        raise ValueError(f"batchnorm must be 'train' or 'eval', not {batchnorm!r}")
    level = Severity.parse(fail_on)
    report = inspect(model, optimizer, scheduler=scheduler, ignore=ignore)
    failures = [*_intent(report.snapshot, trainable, frozen), *_modes(report.snapshot, batchnorm)]
    findings = report.at_least(level)
    if failures or findings:
        raise SetupError(explain(failures, findings, report), report)
    return report


def take_snapshot(model: Any, optimizer: Any, scheduler: Any = None) -> Snapshot:
    """The facts about what was given; TypeError for things that are something else."""
    return capture(*objects(model, optimizer, scheduler))


def objects(
    model: Any, optimizer: Any, scheduler: Any = None
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Models, optimizers and schedulers by their labels; TypeError for things that are something
    else."""
    torch = values.torch()
    models = _labelled(model, "model", torch.nn.Module, "a torch.nn.Module")
    if not models:
        raise TypeError("freezecheck needs a model: a torch.nn.Module, or a list or dict of them")
    kinds = (torch.optim.Optimizer, *fastai.kinds())
    optimizers = _labelled(optimizer, "optimizer", kinds, "a torch.optim.Optimizer")
    schedulers = _labelled(scheduler, "scheduler", None, "a learning-rate scheduler")
    return models, optimizers, schedulers


def _labelled(given: Any, word: str, kind: Any, wanted: str) -> dict[str, Any]:
    """The things given, under their keys or the names of the caller's variables."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        things = {str(key): value for key, value in given.items()}
    elif isinstance(given, (list, tuple)):
        things = roots.names(given, word) if len({id(g) for g in given}) == len(given) else {}
        things = things or {f"{word}s[{i}]": g for i, g in enumerate(given)}
    else:
        things = {word: given}
    for label, thing in things.items():
        fits = hasattr(thing, "step") if kind is None else isinstance(thing, kind)
        if not fits:
            raise TypeError(f"{label} is a {type(thing).__name__}, not {wanted}")
    return things


def _globs(patterns: str | Sequence[str] | None) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns or ())


def _intent(
    now: Snapshot, trainable: str | Sequence[str] | None, frozen: str | Sequence[str] | None
) -> list[str]:
    """How the flags differ from what was meant."""
    failures: list[str] = []
    meant: dict[bool, list[Param]] = {}
    for flag, patterns in ((True, trainable), (False, frozen)):
        if patterns is None:
            continue
        chosen: dict[int, Param] = {}
        for pattern in _globs(patterns):
            hits = [p for p in now.owned if _matches(now, p, pattern)]
            if not hits:
                failures.append(_no_match(now, pattern))
            chosen.update((id(p), p) for p in hits)
        meant[flag] = list(chosen.values())
    for flag, params in meant.items():
        word, other = ("trainable", "frozen") if flag else ("frozen", "trainable")
        inside = {id(p) for p in params}
        wrong = [p.name for p in params if p.trainable != flag]
        if wrong:
            failures.append(f"meant to be {word} but {other}: {_list(wrong)}")
        extra = [p.name for p in now.owned if p.trainable == flag and id(p) not in inside]
        if extra and (flag or True not in meant):
            failures.append(f"{word}, though only the given ones were meant to be: {_list(extra)}")
    return failures


def _matches(now: Snapshot, param: Param, pattern: str) -> bool:
    names = (param.name, *param.aliases, now.path(param.model, param.name))
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)


def _no_match(now: Snapshot, pattern: str) -> str:
    tops = dict.fromkeys(p.name.partition(".")[0] for p in now.owned)
    return f"{pattern!r} matches no parameter (names begin with {summarise(list(tops), 8)})"


def _modes(now: Snapshot, wanted: str | None) -> list[str]:
    if wanted is None:
        return []
    layers = list(now.batchnorms())
    if not layers:
        return [f"batchnorm={wanted!r} was asked for, but the model has no BatchNorm layer"]
    wrong = [n.path for n in layers if n.training != (wanted == "train")]
    if not wrong:
        return []
    return [f"{count(len(wrong), 'BatchNorm layer')} not in {wanted} mode: {_list(wrong)}"]


def _list(names: list[str]) -> str:
    return f"{summarise(names, 6)} ({len(names)})" if len(names) > 6 else ", ".join(names)


def explain(failures: list[str], findings: list[Finding], report: Report) -> str:
    """Everything that a reader of the failed test needs."""
    problems = count(len(failures) + len(findings), "problem")
    place = report.snapshot.place
    lines = [f"freezecheck: {problems} in this setup{f', in {place}' if place else ''}"]
    lines += [f"  intent: {failure}" for failure in failures]
    for finding in findings:
        lines.append(f"  {finding.code} {finding.name} ({finding.severity}): {finding.message}")
        lines += [
            f"      {note.site}: {note.message}" if note.site else f"      {note.message}"
            for note in finding.notes
        ]
        if finding.fix:
            lines.append(f"      to mend it: {finding.fix.message}")
    return "\n".join([*lines, "", str(report).partition("\n\n")[0]])
