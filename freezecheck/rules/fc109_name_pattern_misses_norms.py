from __future__ import annotations

import re
from collections.abc import Iterator

from freezecheck.finding import Finding, Note, Severity
from freezecheck.held import moments
from freezecheck.named import module_at, param_at
from freezecheck.pattern import Atom, Branch, Chain, bare, members, model_of, read
from freezecheck.program import PATTERN as TESTED
from freezecheck.program import Event, Group, World
from freezecheck.records import dataclass
from freezecheck.rule import Rule
from freezecheck.snapshot import Norm, Param, Snapshot, summarise
from freezecheck.timeline import PATTERN, Timeline

# Words for norm layers of any number, and the kinds that they mean (None: all).
_WORDS: dict[str, tuple[str, ...] | None] = {
    "bn": ("batch",),
    "batchnorm": ("batch",),
    "ln": ("layer",),
    "layernorm": ("layer",),
    "norm": None,
}


@dataclass(slots=True)
class _Layer:
    """A norm layer as the loop met it: one name for its module, or one of each tensor."""

    name: str
    norm: Norm
    param: Param | None


class NamePatternMissesNorms(Rule):
    """A test for norm layers by name leaves some of them out.

    ## What it does

    Finds tests such as `"bn" in name` or a no-decay list with `"LayerNorm.weight"` that
    match some of the norm layers and miss others, or all of them.

    ## Why it matters

    Names follow no rule: the BatchNorm layers on ResNet's shortcuts are called
    `downsample.1`, T5's norms `layer_norm`. The ones that are missed keep training, stay
    in train mode, or are decayed towards zero.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    for name, module in model.named_modules():
        if "bn" in name:  # <- FC109
            module.eval()
            module.requires_grad_(False)
    model.fc = torch.nn.Linear(512, 5)
    backbone = [p for name, p in model.named_parameters() if not name.startswith("fc.")]
    optimizer = torch.optim.SGD(
        [
            {"params": [p for p in backbone if p.requires_grad], "lr": 1e-4},
            {"params": model.fc.parameters(), "lr": 1e-2},
        ]
    )

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## Good

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.requires_grad_(False)
    model.fc = torch.nn.Linear(512, 5)
    backbone = [p for name, p in model.named_parameters() if not name.startswith("fc.")]
    optimizer = torch.optim.SGD(
        [
            {"params": [p for p in backbone if p.requires_grad], "lr": 1e-4},
            {"params": model.fc.parameters(), "lr": 1e-2},
        ]
    )

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    In a recorded run the test is read from the source and compared with the types of the
    layers. A layer counts as missed only if the loop would have treated it otherwise had
    the test matched, and if in the end it is indeed unlike what the test was for: its
    flag, its mode, or the weight decay of its group.

    In a text, the same with the names and norm layers that the model is known to have there:
    one of the file's own, or of torchvision or timm. The end is the first use of an
    optimizer.

    ## Limits

    Words with a number or a place in them (`bn1`, `norm_final`) are taken to mean these
    layers only.

    ## References

    - [torchvision ResNet: BatchNorm inside `downsample`](https://docs.pytorch.org/vision/stable/models/resnet.html)
    """

    code = "FC109"
    name = "name-pattern-misses-norms"
    severity = Severity.WARNING

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        told: set[tuple[str, str]] = set()
        for event in past.of(PATTERN):
            chain = read(event)
            if model_of(now, chain) is None or chain.of == "children":
                continue
            for branch in chain.branches:
                for atom in branch.atoms:
                    for word in atom.literals:
                        kind = _normal(word)
                        if kind not in _WORDS or (chain.model, kind) in told:
                            continue
                        finding = self._judge(now, chain, branch, atom, word)
                        if finding:
                            told.add((chain.model, kind))
                            yield finding

    def _judge(
        self, now: Snapshot, chain: Chain, branch: Branch, atom: Atom, word: str
    ) -> Finding | None:
        layers = _layers(now, chain, word)
        missed = [layer for layer in layers if _missed(chain, atom, layer.name)]
        found = [layer for layer in layers if atom.hits(layer.name)]
        by_word = [layer for layer in layers if atom.hits(layer.name, word)]
        if not missed or (found and not by_word):
            return None
        harmed, harm = _harm(now, branch, atom, found, missed)
        if not harmed:
            return None
        types = [layer.norm.type for layer in layers]
        names = [layer.name for layer in harmed]
        return self._tell(chain, branch, word, len(by_word), types, names, harm)

    def in_source(self, world: World) -> Iterator[Finding]:
        told: set[tuple[str, str]] = set()
        for event in world.of(TESTED):
            chain: Chain = event.value
            for branch in chain.branches if event.data["norms"] else ():
                for atom in branch.atoms:
                    for word in atom.literals:
                        kind = _normal(word)
                        if kind not in _WORDS or (chain.model, kind) in told:
                            continue
                        finding = self._judge_text(world, event, branch, atom, word)
                        if finding:
                            told.add((chain.model, kind))
                            yield finding

    def _judge_text(
        self, world: World, event: Event, branch: Branch, atom: Atom, word: str
    ) -> Finding | None:
        chain: Chain = event.value
        norms = _norms(event, word)
        missed = [name for name in norms if _missed(chain, atom, name)]
        found = [name for name in norms if atom.hits(name)]
        by_word = [name for name in norms if atom.hits(name, word)]
        if not missed or (found and not by_word):
            return None
        harmed, harm = _harm_in_text(world, event, branch, atom, found, missed)
        if not harmed:
            return None
        return self._tell(chain, branch, word, len(by_word), list(norms.values()), harmed, harm)

    def _tell(
        self,
        chain: Chain,
        branch: Branch,
        word: str,
        hits: int,
        types: list[str],
        harmed: list[str],
        harm: str,
    ) -> Finding:
        """`hits` of the norm layers, of these `types`, match; `harmed` are named."""
        noun = "layers" if chain.of == "modules" else "tensors"
        notes = [Note("called from here", chain.caller)] if chain.caller else []
        if branch is not chain.branches[0]:
            notes.append(Note("the tests begin here", chain.site(chain.branches[0])))
        return self.finding(
            f"{word!r} matches {hits or 'none'} of the {len(types)}"
            f" {' and '.join(dict.fromkeys(types))} {noun} that the loop goes through."
            f" {len(harmed)} that it misses {harm}: {summarise(harmed)}.",
            site=chain.site(branch),
            symbol=chain.subject or chain.model,
            notes=notes,
            fix="choose norm layers by their type, over model.modules()",
            subject=chain.model,
        )


def _normal(word: str) -> str:
    """`LayerNorm.weight` as `layernorm`."""
    return re.sub(r"[._]", "", re.sub(r"\.(weight|bias)$", "", word.lower()))


def _layers(now: Snapshot, chain: Chain, word: str) -> list[_Layer]:
    """The norm layers that `word` speaks of, among the names of the loop."""
    kinds, index = _WORDS[_normal(word)], model_of(now, chain)
    norms = {
        norm.path: norm
        for norm in now.norms
        if norm.model == index and norm.trainable is not None and (not kinds or norm.kind in kinds)
    }
    if chain.of == "parameters":
        end = re.search(r"\.(weight|bias)$", word)
        return [
            _Layer(name, norms[param.module], param)
            for name, param in members(now, chain).items()
            if param.module in norms and (end is None or name.endswith(end.group()))
        ]
    by_symbol = {now.path(norm.model, path): norm for path, norm in norms.items()}
    prefix = f"{chain.subject}." if chain.subject else ""
    return [
        _Layer(name, by_symbol[prefix + bare(name)], None)
        for name in chain.names
        if prefix + bare(name) in by_symbol
    ]


def _missed(chain: Chain, atom: Atom, name: str) -> bool:
    """Had the test held of `name`, the loop would have done otherwise with it.

    A name that another test took has been thought of.
    """
    taken, otherwise = chain.taken(name), chain.taken(name, atom.test)
    if taken is None or otherwise is None or taken == otherwise:
        return False
    return taken == -1 or otherwise == -1


def _harm(
    now: Snapshot, branch: Branch, atom: Atom, found: list[_Layer], missed: list[_Layer]
) -> tuple[list[_Layer], str]:
    """Those that were missed and are not what the test was for, and what they are instead."""
    if branch.action in ("eval", "train"):
        training = (branch.action == "train") != atom.negated
        harmed = [layer for layer in missed if layer.norm.training != training]
        return harmed, f"are in {'eval' if training else 'train'} mode"
    if branch.action in ("freeze", "unfreeze"):
        flag = (branch.action == "unfreeze") != atom.negated
        harmed = [layer for layer in missed if (layer.param or layer.norm).trainable != flag]
        return harmed, f"stay {'frozen' if flag else 'trainable'}"
    if branch.action == "collect":
        return _collected(now, found, missed)
    return [], ""


def _collected(
    now: Snapshot, found: list[_Layer], missed: list[_Layer]
) -> tuple[list[_Layer], str]:
    """Those in a group with weight decay, where the ones that were found have none; where
    none was found, a group without decay shows that the test was meant to spare them."""
    optimizers = {held.optimizer for layer in missed if layer.param for held in layer.param.held}
    decays = [group.weight_decay for i in optimizers for group in now.optimizers[i].groups]
    if 0 not in decays or any(_decay(now, layer) for layer in found):
        return [], ""
    harmed = [layer for layer in missed if _decay(now, layer)]
    return harmed, f"get weight decay {max(decays):g}"


def _decay(now: Snapshot, layer: _Layer) -> float:
    """The largest weight decay that it gets."""
    held = layer.param.held if layer.param else ()
    decays = (now.optimizers[h.optimizer].groups[h.group].weight_decay for h in held)
    return max(decays, default=0.0)


def _norms(event: Event, word: str) -> dict[str, str]:
    """The names of norm layers that `word` speaks of, and their types."""
    kinds = _WORDS[_normal(word)]
    end = re.search(r"\.(weight|bias)$", word) if event.value.of == "parameters" else None
    return {
        name: type
        for name, (kind, type) in event.data["norms"].items()
        if (not kinds or kind in kinds) and (end is None or name.endswith(end.group()))
    }


def _harm_in_text(
    world: World, event: Event, branch: Branch, atom: Atom, found: list[str], missed: list[str]
) -> tuple[list[str], str]:
    """As `_harm`, at the first use of an optimizer."""
    firsts = [next(moments(world, optimizer), None) for optimizer in world.optimizers]
    end = min((moment.index for moment in firsts if moment), default=None)
    model = event.subject
    if branch.action in ("eval", "train"):
        training = (branch.action == "train") != atom.negated
        modes = {name: module_at(model, name).learns(end) for name in (*found, *missed)}
        if any(modes[name] is not training for name in found):
            return [], ""  # undone for all of them
        harmed = [name for name in missed if modes[name] is (not training)]
        return harmed, f"are in {'eval' if training else 'train'} mode"
    if branch.action in ("freeze", "unfreeze"):
        flag = (branch.action == "unfreeze") != atom.negated
        harmed = [name for name in missed if _flags(event, name, end) == {not flag}]
        return harmed, f"stay {'frozen' if flag else 'trainable'}"
    if branch.action == "collect" and event.value.of == "parameters":
        return _collected_in_text(world, event, found, missed)
    return [], ""


def _flags(event: Event, name: str, end: int | None) -> set[bool | None]:
    """The flags of what has this name, then."""
    param = param_at(event.subject, name) if event.value.of == "parameters" else None
    if event.value.of == "modules":
        return {p.trains(end) for p in module_at(event.subject, name).parameters()}
    return {param.trains(end)} if param is not None else set()


def _collected_in_text(
    world: World, event: Event, found: list[str], missed: list[str]
) -> tuple[list[str], str]:
    """As `_collected`."""
    decays: dict[str, float | None] = {}
    every: set[float | None] = set()
    for name in (*found, *missed):
        param = param_at(event.subject, name)
        groups = [
            (optimizer.options, group)
            for optimizer in world.optimizers
            for group in optimizer.groups
            if param in group.params
        ]
        if len(groups) == 1:
            decays[name] = _weight_decay(*groups[0])
        for optimizer in world.optimizers if groups else ():
            every |= {_weight_decay(optimizer.options, group) for group in optimizer.groups}
    if 0 not in every or None in every or any(decays.get(name) for name in found):
        return [], ""
    harmed = [name for name in missed if decays.get(name)]
    return harmed, f"get weight decay {max(d for d in every if d is not None):g}"


def _weight_decay(options: dict[str, object], group: Group) -> float | None:
    value = group.options.get("weight_decay", options.get("weight_decay"))
    return value if isinstance(value, (int, float)) else None
