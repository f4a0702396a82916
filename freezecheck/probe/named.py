"""What parameter groups are called: by themselves, or by the stages whose parameters they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from freezecheck.snapshot import Snapshot, Stage, summarise

_LISTED = 3  # stages


def names(now: Snapshot, optimizer: int) -> list[str]:
    """A name for each group of an optimizer, all different."""
    groups = now.optimizers[optimizer].groups
    every = sum(len(record.stages) for record in now.models)
    found = []
    for group, stages in zip(groups, _held(now, optimizer)):
        own = group.options.get("name")
        if isinstance(own, str) and own:
            found.append(own)
        elif len(stages) == every > 1:
            found.append("all stages")
        else:
            found.append(_range([now.models[model].stages[at] for model, at in stages]))
    return _told_apart(found, [group.weight_decay for group in groups])


def places(now: Snapshot, optimizer: int) -> list[float]:
    """How far from the input each group lies: the mean number of its stages."""
    return [fmean(at for _, at in stages) if stages else 0.0 for stages in _held(now, optimizer)]


def _held(now: Snapshot, optimizer: int) -> list[list[tuple[int, int]]]:
    """By group: the (model, stage) of its trainable parameters, in the order of the stages."""
    held: list[dict[tuple[int, int], None]] = [{} for _ in now.optimizers[optimizer].groups]
    for place, params in now.by_stage.items():
        for param in params:
            for within in param.held:
                if within.optimizer == optimizer and param.trainable:
                    held[within.group][place] = None
    return [list(stages) for stages in held]


def _range(stages: Sequence[Stage]) -> str:
    """`layer1`, `stem`, `layer1, layer2`, `layer1 to layer4`."""
    words = [stage.kind if stage.kind == "stem" else stage.name for stage in stages]
    if len(words) > _LISTED:
        return f"{words[0]} to {words[-1]}"
    return summarise(words, _LISTED) or "no trainable parameters"


def _told_apart(found: list[str], decays: Sequence[float]) -> list[str]:
    """Weights and biases of one stage are often two groups, of which one does not decay."""
    decayed = [f"{name}, decay {decay:.3g}" for name, decay in zip(found, decays)]
    numbered = [f"{name} (group {index})" for index, name in enumerate(found)]
    once, apart = Counter(found), Counter(decayed)
    return [
        name if once[name] == 1 else decay if apart[decay] == 1 else number
        for name, decay, number in zip(found, decayed, numbered)
    ]
