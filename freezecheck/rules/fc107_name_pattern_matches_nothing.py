from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from freezecheck.finding import Finding, Note, Severity
from freezecheck.pattern import Atom, Chain, bare, read, value
from freezecheck.program import Event as Moment
from freezecheck.program import World
from freezecheck.rule import Rule
from freezecheck.snapshot import summarise
from freezecheck.timeline import BACKWARD, FLAG, PATTERN, REPLACE, Event, Timeline

# Words for a kind of tensor: a helper for any network asks for them, and some have none.
_KINDS = r"(?:layer|batch|group|rms|sync)?norm|bn|ln|weight|bias|gamma|beta|\d"
_EXEMPT = (
    r"embed(?:ding)?s?|pos(?:ition)?(?:al)?|relative|absolute|cls|dist|tokens?|logit|scale|table"
)
_PREFIXES = {
    "module.": "DataParallel and DDP put",
    "_orig_mod.": "torch.compile puts",
}
_DONE = {
    "freeze": "frozen",
    "unfreeze": "made trainable",
    "eval": "put in eval mode",
    "train": "put in train mode",
    "collect": "chosen",
    "skip": "passed over",
}


class NamePatternMatchesNothing(Rule):
    """A test on names matches no name, so the loop does the same to every parameter.

    ## What it does

    Finds loops over `named_parameters()`, `named_modules()` or `named_children()` that
    choose what is trained by tests such as `"fc" in name`, where no name passes any test.

    ## Why it matters

    A renamed layer, a typing error, another architecture, or the `module.` that
    DataParallel and DDP put before every name, and the choice is empty. Nothing is frozen,
    or everything is, in silence.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.fc = torch.nn.Linear(512, 5)
    model = torch.nn.DataParallel(model)
    for name, param in model.named_parameters():
        if name.startswith(("conv1", "bn1", "layer1", "layer2")):  # <- FC107
            param.requires_grad = False
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1e-4)

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.vgg11_bn(weights="DEFAULT")
    model.classifier[6] = torch.nn.Linear(4096, 5)
    new = [p for name, p in model.named_parameters() if "fc" in name]  # <- FC107
    old = [p for name, p in model.named_parameters() if "fc" not in name]
    optimizer = torch.optim.SGD([{"params": old}, {"params": new, "lr": 1e-2}], lr=1e-4)

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## Good

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.fc = torch.nn.Linear(512, 5)
    for name, param in model.named_parameters():
        param.requires_grad = name.startswith(("layer4", "fc"))
    model = torch.nn.DataParallel(model).eval()
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1e-4)

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    One chain for several architectures, and a list with words that not every network has:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.fc = torch.nn.Linear(512, 5)
    for name, param in model.named_parameters():
        if "classifier" in name:
            param.requires_grad = True
        elif "fc" in name:
            param.requires_grad = True
        else:
            param.requires_grad = False
    no_decay = ["bias", "LayerNorm.weight"]
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for n, p in trained if not any(k in n for k in no_decay)]},
        {"params": [p for n, p in trained if any(k in n for k in no_decay)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=1e-2, weight_decay=1e-4)
    model.eval()

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    In a recorded run, the tests are read from the source of the loop, the literals (also
    those in variables) from the running program, and tried on the names that the loop
    went through. Only loops that write flags or modes or collect parameters count, and
    only if the whole if/elif chain comes out the same for every name.

    In a text, the same with the names that the model is known to have there: one of the
    file's own, or of torchvision or timm. Where a part of it is not known nothing is said.

    ## Limits

    A loop that freezes everything is passed over if something to train comes later, or a
    backward succeeds; so is one that collects all but what is not there.
    Other tests (regular expressions, `split(".")`) are not read. A function with such a
    loop that is called several times from one line is passed over if one call matches.
    Words for a kind of tensor, such as `bias` or `norm`, may match nothing.

    ## References

    - [nn.Module.named_parameters](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.named_parameters)
    """

    code = "FC107"
    name = "name-pattern-matches-nothing"
    severity = Severity.ERROR
    explains = ("FC110", "FC120", "FC201", "FC203", "FC204", "FC212", "FC301")

    def in_timeline(self, timeline: Timeline) -> Iterator[Finding]:
        chains = [(read(event), event) for event in timeline.of(PATTERN)]
        yield from self._judge(chains, timeline.events)

    def in_source(self, world: World) -> Iterator[Finding]:
        chains = [(event.value, event) for event in world.of(PATTERN)]
        if not chains:
            return
        held = [p for o in world.optimizers for group in o.groups for p in group.params]
        trains = any(o.open for o in world.optimizers) or any(p.trains() is not False for p in held)
        # Of a run we see a backward only if it succeeds.
        events = [e for e in world.events if trains or e.kind != BACKWARD]
        yield from self._judge(chains, events)

    def _judge(
        self, chains: list[tuple[Chain, Any]], events: Sequence[Event | Moment]
    ) -> Iterator[Finding]:
        told: dict[tuple[str, frozenset[str]], list[Chain]] = {}
        alive = {_place(chain) for chain, _ in chains if not _dead(chain)}
        for chain, event in chains:
            dead = _dead(chain)
            if _place(chain) in alive or _generic(chain, dead):
                continue
            if not _harmless(chain, event, events):
                literals = frozenset(literal for atom in dead for literal in atom.literals)
                told.setdefault((chain.model, literals), []).append(chain)
        for same in told.values():
            yield self._tell(same)

    def _tell(self, same: list[Chain]) -> Finding:
        chain = same[0]
        dead = _dead(chain)
        acting = {branch.action for c in same for branch in c.branches}
        notes = [Note("called from here", chain.caller)] if chain.caller else []
        notes += [Note("tested again here", c.site(c.branches[0])) for c in same[1:]]
        noun = chain.of if len(chain.names) != 1 else chain.of.removesuffix("s")
        return self.finding(
            f"None of the {len(chain.names)} {noun} of {chain.subject or chain.model} passes"
            f" {' or '.join(dict.fromkeys(map(str, dead)))}, so {_outcome(chain)}."
            f" {_hint(chain, dead)}",
            site=chain.site(chain.branches[0]),
            symbol=chain.subject or chain.model,
            notes=notes,
            fix="test for a part of the names that are there, and check that something matched",
            severity=Severity.WARNING if acting <= {"collect", ""} else None,
            subject=chain.model,
        )


def _place(chain: Chain) -> tuple[object, ...]:
    return (chain.site(chain.branches[0]), chain.caller)


def _dead(chain: Chain) -> list[Atom]:
    """The tests that no name passes, if for that reason the chain never tells two names apart."""
    dead: list[Atom] = []
    for branch in chain.branches:
        atoms = branch.atoms
        missing = [atom for atom in atoms if not any(map(atom.hits, chain.names))]
        results = {value(branch.condition, name) for name in chain.names}
        # A condition that holds everywhere because another test matches everything is meant so.
        through_absence = results == {False} or len(missing) == len(atoms)
        if not missing or len(results) != 1 or None in results or not through_absence:
            return []
        dead += missing
    return dead


def _generic(chain: Chain, dead: list[Atom]) -> bool:
    """Words for kinds of tensors, which a helper for any network may ask for in vain."""
    collecting = all(branch.action in ("collect", "") for branch in chain.branches)
    words = re.compile(f"(?:{_KINDS}{'|' + _EXEMPT if collecting else ''})+")
    literals = [literal for atom in dead for literal in atom.literals]
    return all(words.fullmatch(re.sub(r"[._]", "", literal.lower())) for literal in literals)


def _to_all(chain: Chain) -> str | None:
    """What the chain does to every name; None: nothing."""
    taken = chain.taken(chain.names[0])
    if taken is not None and taken >= 0:
        return chain.branches[taken].action
    return chain.otherwise


def _harmless(chain: Chain, event: Any, events: Sequence[Event | Moment]) -> bool:
    """Taking all but what is not there is a guard. Freezing all but what is not there is
    what a whole freeze is, if something to train comes later."""
    done = _to_all(chain)
    if done == "collect" and chain.otherwise is None:
        return True
    if done is None and all(branch.action == "skip" for branch in chain.branches):
        done = "freeze"  # perhaps: what comes after the `continue` is done to all
    if done != "freeze":
        return False
    later = events[next(i for i, each in enumerate(events) if each is event) + 1 :]
    return any(e.kind in (BACKWARD, REPLACE) or (e.kind == FLAG and e.value is True) for e in later)


def _outcome(chain: Chain) -> str:
    done = _to_all(chain)
    if done is None:
        return f"nothing is {_DONE.get(chain.branches[0].action, 'done')}"
    alike = done == "collect" or done not in _DONE
    return f"all of them are {'treated alike' if alike else _DONE[done]}"


def _hint(chain: Chain, dead: list[Atom]) -> str:
    """What the names are instead."""
    import difflib  # slow to import

    for name in chain.names:
        inner = bare(name)
        if inner != name and (not inner or any(atom.hits(inner) for atom in dead)):
            prefix = "_orig_mod." if "_orig_mod." in name else "module."
            return f"{_PREFIXES[prefix]} {prefix!r} into every name."
    parts = dict.fromkeys(part for name in chain.names for part in name.split("."))
    for atom in dead:
        for literal in atom.literals:
            for word in literal.split("."):
                known = {part.lower(): part for part in parts if not part.isdigit()}
                near = difflib.get_close_matches(word.lower(), known, 1, 0.75)
                if near and len(word) > 2 and word not in parts:
                    return f"Did you mean {known[near[0]]!r}?"
    tops = dict.fromkeys(name.partition(".")[0] for name in chain.names if name)
    return f"The names begin with {summarise(list(tops), 8)}."
