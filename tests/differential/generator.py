"""Random fine-tuning scripts for hypothesis, as text.

`scripts()` draws a `Script`: a small network, what is frozen, unfrozen and replaced, an
optimizer, a scheduler and training loops, right or wrong as it comes. Every script runs in
milliseconds; some end in an exception, as some wrong ones do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from networks import CLASSES, network
from optimizers import Building
from statements import HELPERS, Lines, indent


@dataclass(frozen=True)
class Script:
    """A text, and the ways to run it: arguments, with `NAME=value` for the environment first."""

    text: str
    commands: tuple[tuple[str, ...], ...] = ((),)

    def __repr__(self) -> str:
        return f"commands {self.commands}\n{self.text}"


@st.composite
def scripts(draw: Any) -> Script:
    """Any script of the grammar."""
    return Writer(lambda *options: draw(st.sampled_from(options))).script()


_IMPORTS = """import argparse
import copy
import functools
import itertools
import os
from collections import OrderedDict

import torch
from torch import nn, optim
"""

_EVALUATE = {
    "with": """
def evaluate(model, batches):
    model.eval()
    correct = 0
    with torch.no_grad():
        for x, y in batches:
            correct += (model(x).argmax(1) == y).sum().item()
    return correct
""",
    "decorated": """
@torch.no_grad()
def evaluate(model, batches):
    model.eval()
    return sum((model(x).argmax(1) == y).sum().item() for x, y in batches)
""",
    "modeless": """
@torch.no_grad()
def evaluate(model, batches):
    for x, y in batches:
        out = model(x)
    return out
""",
    "back": """
def evaluate(model, batches):
    was = model.training
    model.eval()
    with torch.no_grad():
        for x, y in batches:
            out = model(x)
    model.train(was)
    return out
""",
}


class Writer:
    """Writes one script."""

    def __init__(self, pick: Any) -> None:
        self.pick = pick
        self.network = network(pick)
        self.helpers: set[str] = set()
        self.write = Building(pick, self.network, self.helpers, slips=pick(False, False, True))
        self.chance = self.write.chance
        self.options: dict[str, str] = {}  # of the command line, with their declarations
        self.constants: Lines = []
        self.functions: list[str] = []
        self.environment = False  # it is asked
        self.when = ""  # when the scheduler is stepped

    def script(self) -> Script:
        shape = self.pick("module", "module", "main", "main", "trainer")
        if shape == "trainer":
            body = self._trainer()
        else:
            body = [*self._setup("model"), *self._training("model")]
        return Script(self._text(shape, body), self._commands())

    # -- the whole ------------------------------------------------------------------------

    def _text(self, shape: str, body: Lines) -> str:
        text = _IMPORTS
        if self.network.whole_library:
            text += "import torchvision\nfrom torchvision import models\n"
        if self.constants:
            text += "\n" + "\n".join(self.constants) + "\n"
        code = "\n".join([*body, *self.functions])
        used = [HELPERS[name] for name in sorted(self.helpers) if re.search(rf"\b{name}\b", code)]
        for part in (self.network.definition, *used):
            if part:
                text += "\n\n" + part.strip("\n") + "\n"
        for part in self.functions:
            text += "\n\n" + part.strip("\n") + "\n"
        parser: Lines = []
        if self.options:
            parser = ["parser = argparse.ArgumentParser()"]
            parser += [f"parser.add_argument({text})" for text in self.options.values()]
            parser += ["args = parser.parse_args()"]
        batches = 1 if self.network.whole_library else 2
        data = [
            "torch.manual_seed(0)",
            f"batches = [({self.network.inputs}, torch.arange({self._rows()}) % {CLASSES})"
            f" for _ in range({batches})]",
            "criterion = nn.CrossEntropyLoss()",
        ]
        lines = [*parser, *data, *body]
        if shape == "main":
            lines = [
                "def main():",
                *indent(lines),
                "",
                "",
                'if __name__ == "__main__":',
                "    main()",
            ]
        return text + "\n\n" + "\n".join(lines) + "\n"

    def _rows(self) -> int:
        return int(self.network.inputs.removeprefix("torch.randn(").split(",")[0])

    def _commands(self) -> tuple[tuple[str, ...], ...]:
        """With and without every switch of the command line, and of the environment."""
        found: list[tuple[str, ...]] = [()]
        for name, text in self.options.items():
            if "store_" in text:
                found += [(*command, f"--{name}") for command in found]
        if "unfreeze" in self.options:
            found += [(*command, "--unfreeze=1") for command in found]
        if self.environment:
            found += [("FULL=1", *command) for command in found]
        return tuple(found)

    # -- setting up -----------------------------------------------------------------------

    def _setup(self, model: str) -> Lines:
        lines = [f"{model} = {self.network.build}"]
        if not self.network.whole_library and self.chance(2):
            lines.append(
                self.pick(
                    f'{model}.load_state_dict(torch.load("pretrained.pt"))',
                    f'{model}.load_state_dict(torch.load("pretrained.pt", weights_only=True))',
                )
            )
        early = self.pick(
            (self.write.freeze_all, self.write.new_head),
            (self.write.freeze_all, self.write.new_head),
            (self.write.new_head, self.write.freeze_all),
            (self._frozen,),
            (self._frozen, self.write.new_head),
            (self.write.freeze_all, self.write.new_head, self.write.unfreeze_part),
            (self.write.freeze_all, self.write.unfreeze_part),
            (self._anything, self._anything),
            (self._anything,),
            (),
        )
        for what in early:
            lines += self._perhaps_switched(what(model))
        return lines

    def _frozen(self, model: str) -> Lines:
        return self.write.flags(model, False)

    def _anything(self, model: str) -> Lines:
        return self.pick(
            lambda: self.write.flags(model, False),
            lambda: self.write.flags(model, True),
            lambda: self.write.new_head(model),
            lambda: self.write.hold(model),
        )()

    def _perhaps_switched(self, lines: Lines) -> Lines:
        """The lines, perhaps behind a switch of some kind."""
        if not self.chance(6):
            return lines
        how = self.pick("argument", "constant", "table", "string", "environment")
        number = len(self.options) + len(self.constants)
        if how == "argument" and len(self.options) < 2:
            action = self.pick("store_true", "store_false")
            self.options[f"switch{number}"] = f'"--switch{number}", action="{action}"'
            negated = self.pick("", "", "not ")
            return [f"if {negated}args.switch{number}:", *indent(lines)]
        if how == "table":
            self.constants.append(
                f'CONFIG{number} = {{"on": {self.pick(True, False)}, "epochs": 2}}'
            )
            return [f'if CONFIG{number}["on"]:', *indent(lines)]
        if how == "string":
            self.constants.append(f'MODE{number} = "{self.pick("finetune", "probe")}"')
            return [
                f'if MODE{number} == "finetune":',
                *indent(lines),
                "else:",
                '    print("whole")',
            ]
        if how == "environment":
            self.environment = True
            test = self.pick('"FULL" in os.environ', 'os.environ.get("FULL") is None')
            return [f"if {test}:", *indent(lines)]
        self.constants.append(f"FLAG{number} = {self.pick(True, False)}")
        return [f"if FLAG{number}:", *indent(lines)]

    # -- training -------------------------------------------------------------------------

    def _training(self, model: str) -> Lines:
        copied = self._copied(model)
        made = self._optimizer(model)
        lines = self.pick([*copied, *made], [*made, *copied])
        if self.chance(3):
            lines += self._perhaps_switched(self._anything(model))
        scheduler = self.chance(2)
        epochs = self.pick(2, 3)
        if scheduler:
            made, self.when = self.write.scheduler(epochs)
            lines += made
        if self.chance(6):
            lines += self._anything(model)
        lines += self._loop(model, epochs)
        if self.chance(4):
            lines += self._second_phase(model, scheduler)
        return lines

    def _optimizer(self, model: str) -> Lines:
        lines = self.write.optimizer(model)
        if self.chance(12):
            head = f"{model}{self.network.head}"
            lines.append(f"head_optimizer = torch.optim.Adam({head}.parameters(), lr=0.001)")
            self.two = True
        return lines

    two = False
    beside = ""  # a copy of the model: "teacher" or "average"

    def _copied(self, model: str) -> Lines:
        """A copy beside the model, which does not learn from a loss."""
        if model.startswith("self.") or not self.chance(8):
            return []
        self.beside = self.pick("teacher", "average")
        return [
            f"{self.beside} = copy.deepcopy({model})",
            *self.pick([f"{self.beside}.eval()"], [], self.write.of(self.beside, False)),
        ]

    def _second_phase(self, model: str, scheduled: bool) -> Lines:
        lines = self._perhaps_switched(self.write.flags(model, True))
        if self.pick(True, True, False):
            lines += self.write.optimizer(model)
        elif self.chance(3):
            lines += self.write.added(model)
        if scheduled and self.pick(True, False):
            made, self.when = self.write.scheduler(2)
            lines += made
        return lines + self._loop(model, 2)

    def _loop(self, model: str, epochs: int) -> Lines:
        events = self._events(model, epochs) if self.chance(2) else []
        train = self.pick([f"{model}.train()"], [f"{model}.train()"], [])
        hold = self.write.hold(model) if self.chance(3) else []
        before, inside = self.pick(
            ([], [*train, *hold]),
            ([], [*train, *hold]),
            (hold, train),
            ([*train, *hold], []),
        )
        if self.chance(5):
            inside = [f"{model}.eval()", f"{model}{self.network.head}.train()"]
        steps = self._batch(model, optimizer="optimizer")
        inside_loop: Lines
        if not events and self.chance(3):
            inside_loop = self._called(model, [*inside, *steps])
        else:
            first, second = self.pick((events, inside), (events, inside), (inside, events))
            inside_loop = [*first, *second, *steps]
        if self.when == "epoch":
            inside_loop.append("scheduler.step()")
        inside_loop += self._evaluated(model)
        name = self.pick("range({})", "range({})", "range(1, {} + 1)")
        return [*before, f"for epoch in {name.format(epochs)}:", *indent(inside_loop)]

    def _batch(self, model: str, optimizer: str) -> Lines:
        zero = self.pick(
            [f"{optimizer}.zero_grad()"],
            [f"{optimizer}.zero_grad()"],
            [f"{optimizer}.zero_grad()"],
            [f"{optimizer}.zero_grad(set_to_none=False)"],
            [f"{model}.zero_grad()"],
            [],
        )
        after: Lines = []
        if self.when == "batch":
            after = ["scheduler.step()"]
        clip: Lines = []
        if self.chance(8):
            given = self.pick(
                f"{model}.parameters()", f"filter(lambda p: p.requires_grad, {model}.parameters())"
            )
            clip = [f"torch.nn.utils.clip_grad_norm_({given}, 1.0)"]
        steps = [f"{optimizer}.step()"]
        after += {
            "": [],
            "teacher": [],
            "average": [
                "with torch.no_grad():",
                f"    for kept, p in zip(average.parameters(), {model}.parameters()):",
                "        kept.lerp_(p, 0.1)",
            ],
        }[self.beside]
        if self.two:
            zero = [*zero, "head_optimizer.zero_grad()"]
            steps = [*steps, "head_optimizer.step()"]
        loss = self.pick(
            [f"loss = criterion({model}(x), y)"],
            [f"out = {model}(x)", "loss = nn.functional.cross_entropy(out, y)"],
        )
        if self.beside == "teacher":
            given = ["with torch.no_grad():", "    wanted = teacher(x)"]
            loss = [*given, f"out = {model}(x)", "loss = nn.functional.mse_loss(out, wanted)"]
        order = self.pick(
            [*zero, *loss, "loss.backward()", *clip, *steps, *after],
            [*loss, *zero, "loss.backward()", *clip, *steps, *after],
            [*loss, "loss.backward()", *clip, *steps, *after, *zero],
        )
        if self.chance(10):
            order = [
                *loss,
                "loss.backward()",
                "if (step + 1) % 2 == 0:",
                *indent([*steps, *(zero or [f"{optimizer}.zero_grad()"]), *after]),
            ]
            return ["for step, (x, y) in enumerate(batches):", *indent(order)]
        return ["for x, y in batches:", *indent(order)]

    def _called(self, model: str, lines: Lines) -> Lines:
        """The epoch in a function of its own."""
        name = f"train_epoch{len(self.functions)}"
        given = [model, "batches", "criterion", "optimizer"]
        given += ["scheduler"] * (self.when == "batch") + ["head_optimizer"] * self.two
        given += [self.beside] if self.beside else []
        head = f"def {name}({', '.join(given)}):".replace("self.", "")
        body = [line.replace("self.", "") for line in lines]
        self.functions.append("\n".join([head, *indent([*body, "return loss.item()"])]))
        return [f"{name}({', '.join(given)})"]

    def _evaluated(self, model: str) -> Lines:
        if not self.chance(2):
            return []
        how = self.pick("function", "function", "inline")
        back = self.pick([], [], [f"{model}.train()"])
        if how == "inline":
            mode = self.pick([f"{model}.eval()"], [])
            return [
                *mode,
                "with torch.no_grad():",
                "    for x, y in batches:",
                f"        {model}(x)",
                *back,
            ]
        text = _EVALUATE[self.pick("with", "decorated", "back", "modeless")]
        if not any("def evaluate" in f for f in self.functions):
            self.functions.append(text)
        return [f"evaluate({model}, batches)", *back]

    # -- what happens at an epoch ---------------------------------------------------------

    def _events(self, model: str, epochs: int) -> Lines:
        ways = [self._at_epoch, self._at_epoch, self._one_more]
        return self.pick(*ways)(model, epochs)

    def _at_epoch(self, model: str, epochs: int) -> Lines:
        lines = self.pick(
            self.write.unfreeze_part,
            self.write.unfreeze_part,
            self._frozen,
            self.write.new_head,
            self._unfrozen,
        )(model)
        lines += self._follow_up(model, epochs)
        epoch = self.pick(1, 1, 2)
        if self.chance(6) and "unfreeze" not in self.options:
            self.options["unfreeze"] = f'"--unfreeze", type=int, default={epoch}'
            return ["if epoch == args.unfreeze:", *indent(lines)]
        test = self.pick(
            f"epoch == {epoch}",
            f"epoch == {epoch}",
            f"epoch in ({epoch},)",
            f"{epoch} == epoch",
            f"epoch >= {epoch}",
            f"epoch == {epoch} and epochs_done == 0",
        )
        if "epochs_done" in test:
            self.constants.append("epochs_done = 0")
        return [f"if {test}:", *indent(lines)]

    def _unfrozen(self, model: str) -> Lines:
        return self.write.flags(model, True)

    def _follow_up(self, model: str, epochs: int) -> Lines:
        """What is done to the optimizer then."""
        how = self.pick("rebuild", "add", "nothing", "rebuild both", "lower", "nothing")
        if how == "add":
            return self.write.added(model)
        if how == "lower":
            return self.write.rates()
        if how == "nothing":
            return []
        lines = self.write.optimizer(model)
        if how == "rebuild both" and self.when:
            kept = self.when
            made, when = self.write.scheduler(epochs)
            if when == kept:
                lines += made
        return lines

    def _one_more(self, model: str, epochs: int) -> Lines:
        """One more part at each epoch."""
        parts = [f"{model}{part}" for part in self.network.parts]
        change = self.write.of("part", True)
        if self.pick(True, False):
            lines = [
                f"schedule = {{1: {parts[0]}, 2: {parts[-1]}}}",
                "if epoch in schedule:",
                "    part = schedule[epoch]",
                *indent(change),
            ]
            return lines + indent(self._follow_up(model, epochs))
        lines = [
            f"stages = [{', '.join(parts[:3])}]",
            "if 0 < epoch <= len(stages):",
            "    part = stages[epoch - 1]",
            *indent(change),
        ]
        return lines + indent(self._follow_up(model, epochs))

    # -- a class --------------------------------------------------------------------------

    def _trainer(self) -> Lines:
        """The same, as the methods of a class."""
        init = [*self._setup("self.model"), *self.write.optimizer("self.model", "self.optimizer")]
        if self.chance(3):
            init += self._anything("self.model")
        epochs = self.pick(2, 3)
        methods: dict[str, Lines] = {}
        events: Lines = []
        if self.chance(2):
            body = self.write.unfreeze_part("self.model")
            how = self.pick("nothing", "rebuild", "add")
            if how == "rebuild":
                body += self.write.optimizer("self.model", "self.optimizer")
            if how == "add":
                body += self.write.added("self.model", "self.optimizer")
            methods["unfreeze(self)"] = body
            events = [f"if epoch == {self.pick(1, 2)}:", "    self.unfreeze()"]
        hold = self.write.hold("self.model") if self.chance(3) else []
        modes = [*self.pick(["self.model.train()"], []), *hold]
        methods["train_epoch(self, batches)"] = [
            *modes,
            *(
                line.replace("criterion", "self.criterion")
                for line in self._batch("self.model", "self.optimizer")
            ),
        ]
        methods["fit(self, batches)"] = [
            f"for epoch in range({epochs}):",
            *indent([*events, "self.train_epoch(batches)", *self._evaluated("self.model")]),
        ]
        lines = ["class Trainer:", "    def __init__(self):"]
        text = [line.replace("args.", "options.") for line in init]
        lines += indent([*text, "self.criterion = nn.CrossEntropyLoss()"], 2)
        if self.options:
            lines[1] = "    def __init__(self, options):"
        for head, body in methods.items():
            lines += ["", f"    def {head}:", *indent(body, 2)]
        self.functions.append("\n".join(lines))
        return [f"trainer = Trainer({'args' if self.options else ''})", "trainer.fit(batches)"]
