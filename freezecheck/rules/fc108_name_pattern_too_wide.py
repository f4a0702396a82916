from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from freezecheck.finding import Finding, Note, Severity
from freezecheck.held import moments
from freezecheck.named import param_at
from freezecheck.pattern import Atom, Branch, Chain, members, model_of, read, value
from freezecheck.program import PATTERN as TESTED
from freezecheck.program import REPLACE, Event, Module, World
from freezecheck.rule import Rule
from freezecheck.snapshot import Param, Snapshot, summarise
from freezecheck.timeline import PATTERN, Timeline

# Of names that a branch acted on, those that are still as it left them.
AsLeft = Callable[[Chain, Branch, Atom, list[str]], list[str]]
_HEADS = ("classifier", "fc", "head", "heads")


class NamePatternTooWide(Rule):
    """A test on names also matches layers whose names merely contain the text.

    ## What it does

    Finds tests such as `"layer.1" in name` that match `layer.10` too, and tests for the
    head (`"fc"`, `"head"`) that match parts of the backbone.

    ## Why it matters

    Layers are frozen, trained or given a rate that were not meant. The loop runs, and the
    number of trainable parameters looks plausible.

    ## Bad

    ```python
    import torch
    from torch import nn

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(8, 16)
            self.layer = nn.ModuleList(nn.Linear(16, 16) for _ in range(12))
            self.out = nn.Linear(16, 2)

        def forward(self, x):
            x = self.embed(x)
            for layer in self.layer:
                x = x + layer(x).relu()
            return self.out(x)

    model = Encoder()
    for name, param in model.named_parameters():
        if name.startswith("embed") or "layer.0" in name or "layer.1" in name:  # <- FC108
            param.requires_grad = False
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.01)
    nn.functional.cross_entropy(model(torch.randn(4, 8)), torch.tensor([0, 1, 1, 0])).backward()
    optimizer.step()
    ```

    ## Good

    ```python
    import torch
    from torch import nn

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(8, 16)
            self.layer = nn.ModuleList(nn.Linear(16, 16) for _ in range(12))
            self.out = nn.Linear(16, 2)

        def forward(self, x):
            x = self.embed(x)
            for layer in self.layer:
                x = x + layer(x).relu()
            return self.out(x)

    model = Encoder()
    for name, param in model.named_parameters():
        if name.startswith("embed") or "layer.0." in name or "layer.1." in name:
            param.requires_grad = False
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.01)
    nn.functional.cross_entropy(model(torch.randn(4, 8)), torch.tensor([0, 1, 1, 0])).backward()
    optimizer.step()
    ```

    ## How it is found

    In a recorded run the test is read from the source and tried on the names that the
    loop went through. A number is cut short if the name goes on with another digit. A
    word for the head is too wide if it hits the head, or a name of its own, and layers
    deep inside earlier stages as well; or if it hits only such layers and the new head
    stays frozen. In the end the flags of these layers must be as the test left them.

    In a text, the same with the names that the model is known to have there: one of the
    file's own, or of torchvision or timm. The end is the first use of an optimizer.

    ## Limits

    Several layers that are called after the head on purpose (`fc1`, `fc2`, `fc3` at the
    top of the model) are taken to be meant.

    ## References

    - [nn.Module.named_parameters](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.named_parameters)
    """

    code = "FC108"
    name = "name-pattern-too-wide"
    severity = Severity.WARNING
    explains = ("FC110",)

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        told: set[tuple[str, str]] = set()
        for event in past.of(PATTERN):
            chain = read(event)
            if model_of(now, chain) is None:
                continue
            for index, branch in enumerate(chain.branches):
                names = [n for n in chain.names if not _earlier(chain, index, n)]
                for atom in branch.atoms:
                    for literal in atom.literals:
                        left = _left_in(now)
                        text = _number(left, chain, branch, atom, literal, names) or _head(
                            now, left, chain, branch, atom, literal, names
                        )
                        if text and (chain.model, literal) not in told:
                            told.add((chain.model, literal))
                            yield self._tell(chain, branch, *text)

    def in_source(self, world: World) -> Iterator[Finding]:
        told: set[tuple[str, str]] = set()
        for event in world.of(TESTED):
            chain, left = event.value, _left_in_text(world, event)
            for index, branch in enumerate(chain.branches):
                names = [n for n in chain.names if not _earlier(chain, index, n)]
                for atom in branch.atoms:
                    for literal in atom.literals:
                        text = _number(left, chain, branch, atom, literal, names)
                        text = text or _head_in_text(
                            world, event, left, branch, atom, literal, names
                        )
                        if text and (chain.model, literal) not in told:
                            told.add((chain.model, literal))
                            yield self._tell(chain, branch, *text)

    def _tell(self, chain: Chain, branch: Branch, message: str, fix: str) -> Finding:
        notes = [Note("called from here", chain.caller)] if chain.caller else []
        if branch is not chain.branches[0]:
            notes.append(Note("the tests begin here", chain.site(chain.branches[0])))
        return self.finding(
            message,
            site=chain.site(branch),
            symbol=chain.subject or chain.model,
            notes=notes,
            fix=fix,
            subject=chain.model,
        )


def _earlier(chain: Chain, index: int, name: str) -> bool:
    """The name went into a branch before this one."""
    return any(value(branch.condition, name) for branch in chain.branches[:index])


def _number(
    left: AsLeft, chain: Chain, branch: Branch, atom: Atom, literal: str, names: list[str]
) -> tuple[str, str] | None:
    """`layer.1` of which the name goes on with another digit: message and fix."""
    if atom.how not in ("in", "startswith") or not re.search(r"[A-Za-z].*\d$", literal):
        return None
    whole: list[str] = []
    cut: list[str] = []
    for name in names:
        if atom.hits(name, literal):
            (whole if _exactly(atom, literal, name) else cut).append(name)
    others = [o for a in branch.atoms if a.negated == atom.negated for o in a.literals]
    if not (atom.each and branch.action == "collect"):
        cut = [n for n in cut if not any(_exactly(atom, o, n) for o in others if o != literal)]
    cut = left(chain, branch, atom, cut)
    if not whole or not cut:
        return None
    meant, more = _paths(atom, literal, whole), _paths(atom, literal, cut)
    return (
        f"{literal!r} matches {len(whole) + len(cut)} {chain.of}, not only the {len(whole)} of"
        f" {summarise(meant)}: {summarise(more, 4)} {'is' if len(more) == 1 else 'are'} hit too.",
        f"end the number with a dot: {literal + '.'!r}",
    )


def _exactly(atom: Atom, literal: str, name: str) -> bool:
    """The literal is found where no further digit follows."""
    find = re.match if atom.how == "startswith" else re.search
    return find(re.escape(literal) + r"(?!\d)", name, re.IGNORECASE) is not None


def _paths(atom: Atom, literal: str, names: list[str]) -> list[str]:
    """The part of each name up to the end of the number."""
    found = []
    for name in names:
        match = re.search(re.escape(literal) + r"\d*", name, re.IGNORECASE)
        if match:
            found.append(name[: match.end()])
    return list(dict.fromkeys(found))


def _head(
    now: Snapshot,
    left: AsLeft,
    chain: Chain,
    branch: Branch,
    atom: Atom,
    literal: str,
    names: list[str],
) -> tuple[str, str] | None:
    """`fc` that is found inside the backbone: message and fix."""
    index = model_of(now, chain)
    if literal.lower() not in _HEADS or atom.how != "in" or chain.of != "parameters":
        return None
    head = now.models[index].head if index is not None else None
    params = members(now, chain)
    hits = [n for n in names if n in params and atom.hits(n, literal)]
    if index is None or head is None or not hits:
        return None
    ours = [p for p in params.values() if p.module == head.path]
    stage = {p.stage for p in ours}
    deep = [n for n in hits if params[n].stage not in stage and not _own(literal, params[n].name)]
    deep = left(chain, branch, atom, deep)
    if len(deep) < 2 or not ours:
        return None
    if len(deep) < len(hits):
        return _wide(literal, hits, deep)
    if head.fresh and not any(p.trainable for p in ours) and branch.action != "collect":
        return _aside(literal, hits, deep, now.path(index, head.path), head.path)
    return None


def _wide(literal: str, hits: list[str], deep: list[str]) -> tuple[str, str]:
    return (
        f"{literal!r} matches {len(hits)} parameters, not only the {len(hits) - len(deep)} that"
        f" it names: {len(deep)} are deep inside the model, in {_modules(deep)}.",
        f"test for the whole name: name.startswith({literal + '.'!r})",
    )


def _aside(
    literal: str, hits: list[str], deep: list[str], shown: str, path: str
) -> tuple[str, str]:
    return (
        f"{literal!r} matches {len(hits)} parameters, all deep inside the model, in"
        f" {_modules(deep)}. The head is {shown}; it is new and stays frozen.",
        f"test for the head that this model has: {path + '.'!r}",
    )


def _modules(names: list[str]) -> str:
    return summarise(list(dict.fromkeys(name.rpartition(".")[0] for name in names)))


def _head_in_text(
    world: World,
    event: Event,
    left: AsLeft,
    branch: Branch,
    atom: Atom,
    literal: str,
    names: list[str],
) -> tuple[str, str] | None:
    """The same, with the last part of the model as its head."""
    chain: Chain = event.value
    if literal.lower() not in _HEADS or atom.how != "in" or chain.of != "parameters":
        return None
    hits = [name for name in names if atom.hits(name, literal)]
    last = chain.names[-1].partition(".")[0]
    deep = [n for n in hits if n.partition(".")[0] != last and not _own(literal, n)]
    deep = left(chain, branch, atom, deep)
    if len(deep) < 2:
        return None
    if len(deep) < len(hits):
        return _wide(literal, hits, deep)
    if branch.action == "collect" or not _stays_frozen(world, event.subject, last):
        return None
    head = event.subject.children[last]
    return _aside(literal, hits, deep, head.shown, last)


def _stays_frozen(world: World, model: Module, last: str) -> bool:
    """Something in the last part is new, and nothing of it trains."""
    head = model.children.get(last)
    if head is None:
        return False
    new = any(
        e.data["new"] in (*head.walk(),) for e in world.of(REPLACE) if e.data["new"] is not None
    )
    end = _end(world)
    return new and all(param.trains(end) is False for param in head.parameters())


def _end(world: World) -> int | None:
    """The first use of an optimizer."""
    firsts = [next(moments(world, optimizer), None) for optimizer in world.optimizers]
    return min((moment.index for moment in firsts if moment), default=None)


def _own(literal: str, name: str) -> bool:
    """The layer bears this name: as a whole component, or at the top of the model."""
    parts = name.lower().split(".")
    return literal.lower() in parts or literal.lower() in parts[0]


def _as_left(
    chain: Chain, branch: Branch, atom: Atom, names: list[str], trains: Callable[[str], bool | None]
) -> list[str]:
    """Those whose flag is still as the test left it, where it wrote flags."""
    if branch.action not in ("freeze", "unfreeze") or chain.of != "parameters" or not names:
        return names
    flag = (branch.action == "unfreeze") != atom.negated
    return [name for name in names if trains(name) is flag]


def _left_in(now: Snapshot) -> AsLeft:
    def left(chain: Chain, branch: Branch, atom: Atom, names: list[str]) -> list[str]:
        params: dict[str, Param] = dict(members(now, chain))

        def trains(name: str) -> bool | None:
            return params[name].trainable if name in params else None

        return _as_left(chain, branch, atom, names, trains)

    return left


def _left_in_text(world: World, event: Event) -> AsLeft:
    end = _end(world)

    def trains(name: str) -> bool | None:
        param = param_at(event.subject, name)
        return param.trains(end) if param is not None else None

    def left(chain: Chain, branch: Branch, atom: Atom, names: list[str]) -> list[str]:
        return _as_left(chain, branch, atom, names, trains)

    return left
