"""What parameter groups are called: by themselves, or by the stages whose parameters they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from freezecheck.snapshot import Snapshot, Stage, summarise

_LISTED = 3  # stages


def names(now: Snapshot, optimizer: int) -> list[str]:
    """A name for each group of an optimizer, all different."""
    groups = now.optimizers[optimizer].groups
    held: list[dict[tuple[int, int], None]] = [{} for _ in groups]
    for model, record in enumerate(now.models):
        for stage in range(len(record.stages)):
            for param in now.by_stage[model, stage]:
                for place in param.held:
                    if place.optimizer == optimizer and param.trainable:
                        held[place.group][model, stage] = None
    every = sum(len(record.stages) for record in now.models)
    found = []
    for group, stages in zip(groups, held):
        own = group.options.get("name")
        if isinstance(own, str) and own:
            found.append(own)
        elif len(stages) == every > 1:
            found.append("all stages")
        else:
            found.append(_range([now.models[model].stages[at] for model, at in stages]))
    return _told_apart(found, [group.weight_decay for group in groups])


def _range(stages: Sequence[Stage]) -> str:
    """`layer1`, `stem`, `layer1, layer2`, `layer1 to layer4`."""
    words = [stage.kind if stage.kind == "stem" else stage.name for stage in stages]
    if len(words) > _LISTED:
        return f"{words[0]} to {words[-1]}"
    return summarise(words, _LISTED) or "no trainable parameters"


def _told_apart(found: list[str], decays: Sequence[float]) -> list[str]:
    """Weights and biases of one stage are often two groups, of which one does not decay."""
    often = Counter(found)
    named = [
        f"{name}, decay {decay:.3g}" if often[name] > 1 else name
        for name, decay in zip(found, decays)
    ]
    often = Counter(named)
    return [
        f"{name} (group {index})" if often[name] > 1 else name for index, name in enumerate(named)
    ]
