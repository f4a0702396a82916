from __future__ import annotations

from collections.abc import Iterator

from freezecheck import frozen, modes
from freezecheck.finding import Finding, Note, Severity, Site
from freezecheck.modes import Training
from freezecheck.program import NORMS, Module, World
from freezecheck.rule import Rule
from freezecheck.snapshot import Dropout, Norm, Snapshot, count, summarise
from freezecheck.timeline import Event, Timeline

Layer = Norm | Dropout


class TrainingInEvalMode(Rule):
    """The model trains in eval mode, though nobody asked for it.

    ## What it does

    Finds models whose training forward ran with dropout off and BatchNorm on its old
    running statistics, because a library returned them in eval mode and nothing called
    `train()`.

    ## Why it matters

    `from_pretrained` returns a model in eval mode, and Lightning (since 2.2) leaves the modes as
    it finds them. Nothing crashes: the loss falls, even faster than it should, since the
    regularisation that the model was designed with is off, and BatchNorm never sees
    the new data.

    ## Bad

    ```python needs=transformers
    import tempfile, torch
    from transformers import BertConfig, BertForSequenceClassification

    checkpoint = tempfile.mkdtemp()
    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=64, vocab_size=100)
    BertForSequenceClassification(config).save_pretrained(checkpoint)

    model = BertForSequenceClassification.from_pretrained(checkpoint)  # <- FC404
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    for step in range(2):
        out = model(input_ids=torch.randint(0, 100, (4, 8)), labels=torch.tensor([0, 1, 1, 0]))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
    ```

    ## Good

    ```python needs=transformers
    import tempfile, torch
    from transformers import BertConfig, BertForSequenceClassification

    checkpoint = tempfile.mkdtemp()
    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=64, vocab_size=100)
    BertForSequenceClassification(config).save_pretrained(checkpoint)

    model = BertForSequenceClassification.from_pretrained(checkpoint)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    model.train()
    for step in range(2):
        out = model(input_ids=torch.randint(0, 100, (4, 8)), labels=torch.tensor([0, 1, 1, 0]))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
    ```

    Eval mode on purpose, to keep the pretrained statistics:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    model.eval()
    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    In a recorded run: trainable BatchNorm layers and active dropout (p > 0) that were in
    eval mode in the training forward, and whose last mode was set by a library's own
    `eval()`, with none by the user. Where only a part is in eval mode (a
    `from_pretrained` backbone inside a module of one's own), it is a warning; so it is where the
    whole model arrived in eval mode without any call (`torch.load` of a whole module).

    On finished objects, after a backward, a model that is wholly in eval mode is an info: who
    called `eval()`, and whether before or after the training forward, cannot be seen.

    From the text: `from_pretrained` of a model whose dropout or BatchNorm is known, trained in a
    loop that is written out, with no `train()` before the training forward. The Trainer calls it
    itself.

    ## Limits

    Adapters of PEFT on a base in eval mode are left out: the base is frozen, and many train so
    on purpose. Eval mode that a validation left behind is FC403's.

    ## References

    - [transformers: PreTrainedModel.from_pretrained](https://huggingface.co/docs/transformers/main_classes/model#transformers.PreTrainedModel.from_pretrained)
    - [torch.nn.Module.eval](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.eval)
    """

    code = "FC404"
    name = "training-in-eval-mode"
    severity = Severity.ERROR

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        if not now.forwarded:
            return
        for index, model in enumerate(now.models):
            if "peft" in model.frameworks:
                continue
            layers = frozen.modal(now, index)
            quiet = [layer for layer in layers if not layer.training]
            whole = len(quiet) == len(layers)
            if not quiet:
                continue
            if not now.recorded:
                if whole and not model.training:
                    yield self._unexplained(now, index, quiet)
            else:
                yield from self._recorded(now, past, index, quiet, whole)

    def in_source(self, world: World) -> Iterator[Finding]:
        told = set()
        for training in modes.trainings(world):
            quiet = [layer for layer in training.module.walk() if _came_quiet(layer, training)]
            if not quiet or quiet[0].site in told:
                continue
            told.add(quiet[0].site)
            source, label = _source(quiet[0]), modes.said(training.root)
            whole = training.module.learns(training.forward.index) is False
            kinds = [
                *(["BatchNorm on old statistics"] if any(_rests(q) for q in quiet) else []),
                *(["dropout off"] if any(q.stochastic for q in quiet) else []),
            ]
            yield self.finding(
                f"{label} {'trains' if whole else 'partly trains'} in eval mode:"
                f" {' and '.join(kinds)}. {source.builder}.from_pretrained() returns it so, and"
                " nothing calls train().",
                site=source.site,
                symbol=source.shown,
                notes=[
                    Note("comes in eval mode from here", source.site),
                    Note("trained here", training.forward.site),
                ],
                fix=f"call {label}.train() before the training loop",
                severity=None if whole else Severity.WARNING,
                subject=label,
            )

    def _recorded(
        self, now: Snapshot, past: Timeline, index: int, quiet: list[Layer], whole: bool
    ) -> Iterator[Finding]:
        """What a library put in eval mode, and what came so."""
        put: dict[Site | None, list[Layer]] = {}
        came: list[Layer] = []
        for layer in quiet:
            events = list(past.modes(now.path(index, layer.path)))
            if any(e.value is False and e.data.get("direct") for e in events):
                continue
            if not events:
                came.append(layer)
            elif not events[-1].value:
                first = _first_eval(events)
                if first is events[0] or not first.step:  # else it has trained in train mode
                    put.setdefault(first.site, []).append(layer)
        verb = "trains" if whole else "partly trains"
        for site, layers in put.items():
            yield self.finding(
                f"{_text(now, index, layers, verb)} The call that made or ran the model put it in"
                " eval mode, and nothing called train().",
                site=site,
                symbol=now.path(index, layers[0].path),
                notes=[Note("put in eval mode here", site)],
                fix="call model.train() before the training loop",
                severity=None if whole else Severity.WARNING,
                subject=now.models[index].label,
            )
        if came and whole and len(came) == len(quiet) and not now.models[index].training:
            yield self.finding(
                f"{_text(now, index, came)} It came so, and nothing called train().",
                site=now.built(index),
                symbol=now.path(index, came[0].path),
                fix="call model.train() before the training loop",
                severity=Severity.WARNING,
                subject=now.models[index].label,
            )

    def _unexplained(self, now: Snapshot, index: int, quiet: list[Layer]) -> Finding:
        return self.finding(
            f"{_text(now, index, quiet, 'is')} The training forward may have run like this.",
            symbol=now.path(index, quiet[0].path),
            fix="call model.train() before the training forward, unless eval mode is meant",
            severity=Severity.INFO,
            subject=now.models[index].label,
        )


def _first_eval(events: list[Event]) -> Event:
    """The eval() that began the eval mode which the last one still found."""
    first = events[-1]
    for event in reversed(events):
        if event.value:
            break
        first = event
    return first


def _text(now: Snapshot, index: int, layers: list[Layer], verb: str = "trains") -> str:
    norms = [layer for layer in layers if isinstance(layer, Norm)]
    random = [layer for layer in layers if isinstance(layer, Dropout)]
    parts = []
    if norms:
        paths = summarise([n.path for n in norms])
        parts.append(
            f"{count(len(norms), 'trainable BatchNorm layer')} on old statistics ({paths})"
        )
    if random:
        paths = summarise([d.path for d in random])
        parts.append(f"{count(len(random), 'dropout layer')} off ({paths})")
    return f"{now.models[index].label} {verb} in eval mode: {' and '.join(parts)}."


def _came_quiet(layer: Module, training: Training) -> bool:
    """A layer that train mode matters to, in a part that learns, still in the eval mode that
    it was made in."""
    index = training.forward.index
    if layer.born is not False or layer.escaped or layer.moded(index) is not None:
        return False
    if not (layer.stochastic or _rests(layer)) or training.reached(layer) is None:
        return False
    source = _source(layer)
    if source.type.startswith("peft.") or any("peft" in m.type for m in layer.around()):
        return False
    return any(param.trains(index) is True for param in source.parameters())


def _rests(layer: Module) -> bool:
    return bool(layer.norm == "batch" or layer.batchnorm) and layer.name != NORMS


def _source(layer: Module) -> Module:
    """The outermost module around it that came in eval mode."""
    return [m for m in layer.around() if m.born is False][-1]
