"""Is a claim true? One judge for each code whose truth a full run shows.

A judge reads a `Run` and a `Claim` and says whether what the rule describes really happened.
It is no second implementation of the rule: it asks for the harm or the fact, somewhere in
the run, and where the claim names a parameter or a line, for it there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from reality import Built, Forward, Run, Step

from freezecheck.finding import Finding


@dataclass
class Claim:
    """A finding, and the script's lines."""

    finding: Finding
    lines: list[str]
    known: frozenset[str] = frozenset()  # every parameter name of the run

    @property
    def line(self) -> str:
        site = self.finding.site
        return self.lines[site.line - 1] if site else ""

    @property
    def places(self) -> set[int]:
        """Lines of the finding's site."""
        return {self.finding.site.line} if self.finding.site else set()

    def about(self, names: set[str]) -> bool:
        """It names one of these parameters, or a module around one, or no parameter at all."""
        symbol = (self.finding.symbol or "").removesuffix(".*")
        ways = {symbol, symbol.partition(".")[2], symbol.removeprefix("self.model.")}
        ways = {way for way in ways if way}
        if not any(_covers(way, name) for way in ways for name in self.known):
            return True
        return any(_covers(way, name) for way in ways for name in names)


def _covers(path: str, name: str) -> bool:
    return name == path or name.startswith(f"{path}.")


Judge = Callable[[Run, Claim], bool]
JUDGES: dict[str, Judge] = {}


def judge(*codes: str) -> Callable[[Judge], Judge]:
    def keep(function: Judge) -> Judge:
        for code in codes:
            JUDGES[code] = function
        return function

    return keep


def true(run: Run, finding: Finding, text: str) -> bool:
    """What the finding says was so in the run."""
    known = frozenset(name for names in run.named.values() for name in names)
    return JUDGES[finding.code](run, Claim(finding, text.splitlines(), known))


# -- freezing -------------------------------------------------------------------------------


def _modules(run: Run) -> Iterator[object]:
    for module in run.made:
        yield module
        yield from module.parameters(recurse=False)


def _attribute(run: Run, test: Callable[[str], bool]) -> bool:
    return any(test(key) for thing in _modules(run) for key in vars(thing))


@judge("FC101")
def _flag_on_module(run: Run, claim: Claim) -> bool:
    return _attribute(run, lambda key: key == "requires_grad")


@judge("FC102")
def _misspelt(run: Run, claim: Claim) -> bool:
    right = ("requires_grad", "requires_grad_")
    return _attribute(run, lambda key: "require" in key and "grad" in key and key not in right)


@judge("FC103")
def _method_overwritten(run: Run, claim: Claim) -> bool:
    return _attribute(run, lambda key: key == "requires_grad_")


@judge("FC104")
def _on_copy(run: Run, claim: Claim) -> bool:
    return re.search(r"\.data\.requires_grad|detach\(\)\.requires_grad", claim.line) is not None


@judge("FC105")
def _no_effect(run: Run, claim: Claim) -> bool:
    return re.search(r"==|\.(eval|train)\s*(#.*)?$", claim.line) is not None


@judge("FC106")
def _undone(run: Run, claim: Claim) -> bool:
    """Frozen, and unfrozen again before the first step."""
    frozen = set()
    for flag in run.flags:
        if flag.steps == 0 and not flag.value:
            frozen.add(flag.param)
        elif flag.steps == 0 and flag.param in frozen:
            return True
    return False


def _literals(line: str) -> list[str]:
    return re.findall(r"[\"']([\w.]+)[\"']", line)


@judge("FC107")
def _matches_nothing(run: Run, claim: Claim) -> bool:
    """A literal on one of the lines is part of no parameter's name, or a helper's is."""
    text = [claim.lines[note.site.line - 1] for note in claim.finding.notes if note.site]
    return any(
        not any(_hits(line, word, name) for name in claim.known)
        for line in (claim.line, *text)
        for word in _literals(line)
    )


def _hits(line: str, word: str, name: str) -> bool:
    if "startswith" in line:
        return name.startswith(word)
    return name.partition(".")[0] == word if "split" in line else word in name


@judge("FC109")
def _misses_norms(run: Run, claim: Claim) -> bool:
    norms = {f.name for p in run.passes for f in p.norms}
    return any(sum(word in norm for norm in norms) < len(norms) for word in _literals(claim.line))


def _head(step: Step) -> str:
    """The first part of the last parameter's name."""
    return list(step.names.values())[-1].partition(".")[0] if step.names else ""


def _parts(step: Step) -> tuple[list[int], list[int]]:
    """Parameters of the backbone and of the head."""
    head = _head(step)
    ours = [p for p, name in step.names.items() if name.partition(".")[0] == head]
    return [p for p in step.names if p not in ours], ours


@judge("FC110")
def _head_frozen(run: Run, claim: Claim) -> bool:
    """At some step the head is frozen with some of the backbone, and no step before moved it."""
    moved: set[int] = set()
    for step in run.steps:
        backbone, head = _parts(step)
        if head and not any(step.trains[p] or p in moved for p in head):
            return any(not step.trains[p] for p in backbone)
        moved |= step.moved
    return _nothing(run, claim)


@judge("FC114")
def _no_gradient(run: Run, claim: Claim) -> bool:
    return any(
        step.grads[p] is None and step.trains[p] and claim.about({step.names.get(p, "")})
        for step in run.steps
        for p in step.trains
    )


@judge("FC119")
def _random_backbone(run: Run, claim: Claim) -> bool:
    return not run.loaded and any(not step.trains[p] for step in run.steps for p in _parts(step)[0])


@judge("FC120")
def _nothing(run: Run, claim: Claim) -> bool:
    """Backward says so, or the model's flags do; or, where a gradient came from before the
    freeze, the steps."""
    if "does not require grad" in (run.error or ""):
        return True
    return any(step.names and not any(step.trains[p] for p in step.names) for step in run.steps)


@judge("FC121")
def _head_unused(run: Run, claim: Claim) -> bool:
    called = {module for once in run.passes for module in once.called}
    return any(
        id(module) not in called and next(module.parameters(recurse=False), None) is not None
        for root in run.roots
        for module in root.modules()
    )


# -- the optimizer --------------------------------------------------------------------------


def _at(built: list[Built], claim: Claim) -> list[Built]:
    """Those that were made at the claim's line; all if it names none."""
    return [b for b in built if claim.places & set(b.lines)] or built


def _together(run: Run, step: Step) -> list[Step]:
    return [other for other in run.steps if other.iteration == step.iteration]


def lost(run: Run) -> Iterator[tuple[Step, str]]:
    """Parameters that got a gradient which no step applied."""
    for step in run.steps:
        held = {p for other in _together(run, step) for p in other.held}
        for p, name in step.names.items():
            if step.trains[p] and step.grads[p] is not None and p not in held:
                yield step, name


@judge("FC201")
def _not_in_optimizer(run: Run, claim: Claim) -> bool:
    return claim.about({name for _, name in lost(run)} or {"-"}) and any(True for _ in lost(run))


@judge("FC202")
def _foreign(run: Run, claim: Claim) -> bool:
    return any(p not in step.names for step in run.steps for p in step.held)


@judge("FC203")
def _only_frozen(run: Run, claim: Claim) -> bool:
    return any(step.held and not any(step.trains[p] for p in step.held) for step in run.steps)


@judge("FC204")
def _empty_group(run: Run, claim: Claim) -> bool:
    built = [*run.optimizers, *run.added]
    return run.clipped_nothing or any(b.facts["empty"] for b in _at(built, claim))


@judge("FC205")
def _twice(run: Run, claim: Claim) -> bool:
    for step in run.steps:
        if len(step.held) > len(set(step.held)):
            return True
        others = [o for o in _together(run, step) if o.optimizer != step.optimizer]
        if any(set(step.held) & set(other.held) for other in others):
            return True
    return False


def _drifting(run: Run) -> Iterator[tuple[Step, str]]:
    """Frozen parameters that a step moved, or would have moved but for rounding."""
    for step in run.steps:
        for group in step.groups:
            for p in group.params:
                pushed = group.lr > 0 and step.grads[p]
                if not step.trains[p] and (p in step.moved or pushed):
                    yield step, step.names.get(p, "")


@judge("FC206")
def _frozen_moves(run: Run, claim: Claim) -> bool:
    found = {name for _, name in _drifting(run)}
    return bool(found) and claim.about(found)


@judge("FC207")
def _unknown_key(run: Run, claim: Claim) -> bool:
    given = [key for b in run.optimizers for keys in b.facts["given"] for key in keys]
    return any(re.search("learning_rate|lr_mult|deacy", key) for key in given)


@judge("FC208")
def _rebuilt(run: Run, claim: Claim) -> bool:
    return len([b for b in run.optimizers if claim.places & set(b.lines)]) > 1


@judge("FC209")
def _stale(run: Run, claim: Claim) -> bool:
    """Stepped with its moments while it was trainable, then frozen for a step, then trainable
    again with moments in the same optimizer."""
    was: dict[tuple[int, int], str] = {}
    for step in run.steps:
        for p in step.held:
            key, trains = (step.optimizer, p), step.trains[p]
            state = was.get(key, "")
            if trains and state == "frozen":
                if p in step.stateful and claim.about({step.names.get(p, "")}):
                    return True
                was[key] = "trained"
            elif trains:
                was[key] = "trained"
            elif state == "trained":
                was[key] = "frozen"
    # As an info: what is frozen keeps moments.
    return claim.finding.severity == 1 and any(
        p in step.stateful and not step.trains[p] for step in run.steps for p in step.held
    )


@judge("FC212")
def _frozen_held(run: Run, claim: Claim) -> bool:
    return any(not step.trains[p] for step in run.steps for p in step.held)


# -- rates ----------------------------------------------------------------------------------


def _rates(step: Step) -> dict[int, float]:
    return {p: group.lr for group in step.groups for p in group.params if step.trains[p]}


@judge("FC301")
def _one_rate(run: Run, claim: Claim) -> bool:
    """The head and a trained part of the backbone learn at one rate, now or at the peak."""
    for step in run.steps:
        rates, (backbone, head) = _rates(step), _parts(step)
        ours = {rates[p] for p in head if p in rates}
        if any(math.isclose(rates[p], rate) for p in backbone if p in rates for rate in ours):
            return True
    return False


@judge("FC302")
def _inverted(run: Run, claim: Claim) -> bool:
    for step in run.steps:
        rates = _rates(step)
        seen = [rates[p] for p in step.names if p in rates]
        if any(a > b for i, a in enumerate(seen) for b in seen[i + 1 :]):
            return True
    return False


@judge("FC303")
def _not_lowered(run: Run, claim: Claim) -> bool:
    """What trains later than the rest has at least half of the first phase's rate."""
    first = next(iter(run.steps), None)
    if first is None:
        return False
    start = max(_rates(first).values(), default=0)
    trained = {p for p in first.held if first.trains[p]}
    return any(
        rate >= 0.5 * start
        for step in run.steps
        for p, rate in _rates(step).items()
        if p not in trained
    )


@judge("FC304")
def _takes_default(run: Run, claim: Claim) -> bool:
    return any(
        "lr" not in b.facts["given"] and all(b.facts["lr"] > lr for lr, _ in b.facts["others"])
        for b in run.added
    )


@judge("FC305")
def _on_old(run: Run, claim: Claim) -> bool:
    """A scheduler is stepped whose optimizer no longer steps, while another one does that has
    no scheduler."""
    served = {optimizer for _, optimizer, _, _ in run.scheduled}
    for _, optimizer, steps, _ in run.scheduled:
        recent = _together(run, run.steps[steps - 1]) if steps else []
        if recent and all(s.optimizer != optimizer and s.optimizer not in served for s in recent):
            return True
    return False


@judge("FC306")
def _misses_group(run: Run, claim: Claim) -> bool:
    """Added to an optimizer on which a scheduler was built: its next step is the harm."""
    scheduled = {b.facts["optimizer"] for b in run.schedulers}
    return any(b.subject in scheduled for b in run.added)


@judge("FC307")
def _flattens(run: Run, claim: Claim) -> bool:
    return any(
        len(set(b.facts["tops"])) == 1 and len({lr for lr, _ in b.facts["before"]}) > 1
        for b in _at(run.schedulers, claim)
        if None not in b.facts["tops"]
    )


@judge("FC308")
def _raises(run: Run, claim: Claim) -> bool:
    return any(
        b.facts["self"].eta_min > lr
        for b in _at(run.schedulers, claim)
        if hasattr(b.facts["self"], "eta_min")
        for lr in b.facts["self"].base_lrs
    )


@judge("FC309")
def _recreated(run: Run, claim: Claim) -> bool:
    return any(initial for b in _at(run.schedulers, claim) for _, initial in b.facts["before"])


@judge("FC310")
def _past_horizon(run: Run, claim: Claim) -> bool:
    return any(
        b.facts["self"].last_epoch > b.facts["self"].T_max
        for b in run.schedulers
        if b.kind == "CosineAnnealingLR"
    )


@judge("FC311")
def _during_warm_up(run: Run, claim: Claim) -> bool:
    return any(b.facts["warming"] for b in run.added)


@judge("FC312")
def _zero_rate(run: Run, claim: Claim) -> bool:
    return any(
        group.lr == 0 and any(step.trains[p] for p in group.params)
        for step in run.steps
        for group in step.groups
    )


@judge("FC313")
def _default_unused(run: Run, claim: Claim) -> bool:
    return any(
        b.facts["given"] and all("lr" in given for given in b.facts["given"])
        for b in _at(run.optimizers, claim)
    )


# -- modes ----------------------------------------------------------------------------------


def _learning(run: Run) -> Iterator[Forward]:
    return (f for once in run.passes if once.learning for f in once.norms)


@judge("FC401")
def _frozen_drifts(run: Run, claim: Claim) -> bool:
    return any(f.frozen and f.moved for f in _learning(run))


@judge("FC402")
def _eval_undone(run: Run, claim: Claim) -> bool:
    """A layer that was put in eval mode, apart from the whole model, drifts when it trains."""
    roots = {id(root) for root in run.roots}
    for index, once in enumerate(run.passes):
        for forward in once.norms if once.learning else ():
            calls = [m for m in run.modes if m.passes <= index and forward.layer in m.layers]
            apart = any(not m.value and m.subject not in roots for m in calls)
            if forward.moved and apart and calls[-1].value:
                return True
    return False


def _trained(run: Run, training: bool) -> list[int]:
    return [i for i, p in enumerate(run.passes) if p.learning and p.training is training]


@judge("FC403")
def _stuck(run: Run, claim: Claim) -> bool:
    """Training in eval mode after a validation (or a first epoch in train mode)."""
    quiet = _trained(run, False)
    return any(not p.grad and not p.training for p in run.passes[: quiet[-1] if quiet else 0])


@judge("FC404")
def _in_eval(run: Run, claim: Claim) -> bool:
    return bool(_trained(run, False))


@judge("FC405")
def _in_validation(run: Run, claim: Claim) -> bool:
    return any(not p.grad and any(f.moved for f in p.norms) for p in run.passes)


@judge("FC406")
def _too_narrow(run: Run, claim: Claim) -> bool:
    return any(f.moved for f in _learning(run))
