"""A function's setup: `freezecheck inspect train.py::build`."""

from __future__ import annotations

import json
import sys
from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from freezecheck import arguments, cli, targets
from freezecheck.live import entry, returned

# -- what was returned -----------------------------------------------------------


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def loader() -> DataLoader:
    return DataLoader(TensorDataset(torch.ones(8, 4), torch.zeros(8, dtype=torch.long)), 4)


class FocalLoss(nn.Module):
    """A criterion of one's own, without parameters."""


@pytest.fixture
def parts() -> SimpleNamespace:
    model = network()
    opt = optimizer(model)
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 3)
    return SimpleNamespace(
        model=model, opt=opt, scheduler=scheduler, loader=loader(), loss=F.cross_entropy
    )


def test_a_tuple_is_told_by_what_its_things_are(parts):
    found = returned.sort((parts.loss, parts.opt, parts.loader, None, parts.scheduler, parts.model))
    assert found.models == {"model": parts.model}
    assert found.optimizers == {"optimizer": parts.opt}
    assert found.schedulers == {"scheduler": parts.scheduler}
    assert found.loader is parts.loader
    assert found.loss is parts.loss
    assert found.others == ()


@pytest.mark.parametrize(
    "how", ["dict", "dataclass", "namedtuple", "namespace", "object", "nested"]
)
def test_names_become_labels(parts, how):
    @dataclass
    class Setup:
        net: Any
        opt: Any

    class Trainer:
        def __init__(self, net, opt):
            self.net, self.opt, self.epochs = net, opt, 3

    make = {
        "dict": dict,
        "dataclass": Setup,
        "namedtuple": namedtuple("Setup", "net opt"),
        "namespace": SimpleNamespace,
        "object": Trainer,
        "nested": lambda net, opt: {"setup": ({"net": net}, [{"opt": opt}])},
    }[how]
    found = returned.sort(make(net=parts.model, opt=parts.opt))
    assert found.models == {"net": parts.model}
    assert found.optimizers == {"opt": parts.opt}
    assert found.others == ()


def test_several_are_numbered(parts):
    other = network()
    found = returned.sort(([parts.model, other], [parts.opt, optimizer(other)]))
    assert list(found.models) == ["models[0]", "models[1]"]
    assert list(found.optimizers) == ["optimizers[0]", "optimizers[1]"]
    found = returned.sort({"nets": [parts.model, other], "opt": parts.opt})
    assert list(found.models) == ["nets[0]", "nets[1]"]


def test_a_tuple_has_the_names_of_the_functions_text():
    def build(flag=True):
        generator, critic = network(), network()
        opt = optimizer(generator)
        if not flag:
            return None
        return generator, critic, opt, optimizer(critic)

    found = returned.sort(build(), build)
    assert list(found.models) == ["generator", "critic"]
    assert list(found.optimizers) == ["opt", "optimizers[1]"]
    assert list(returned.sort(build()[:3], build).models) == ["models[0]", "models[1]"]
    assert list(returned.sort(build(), print).models) == ["models[0]", "models[1]"]


def test_a_part_of_a_model_and_a_repetition_count_once(parts):
    found = returned.sort((parts.model, parts.model[0], parts.model, parts.opt, parts.opt))
    assert found.models == {"model": parts.model}
    assert len(found.optimizers) == 1


def test_which_module_is_the_loss(parts):
    own = FocalLoss()
    assert returned.sort((parts.model, own, parts.opt)).loss is own
    listed = nn.CrossEntropyLoss(weight=torch.ones(3))
    found = returned.sort((parts.model, listed, own))
    assert found.loss is listed
    assert returned.sort((parts.model, own, FocalLoss())).loss is None
    assert returned.sort((parts.model, print, sorted)).loss is None
    assert returned.sort({"net": parts.model, "collate": sorted, "criterion": print}).loss is print


def test_a_loss_that_learns_is_a_model_too(parts):
    criterion = nn.Linear(3, 3)
    found = returned.sort({"net": parts.model, "criterion": criterion})
    assert found.models == {"net": parts.model, "criterion": criterion}
    assert found.loss is criterion


def test_which_iterable_has_the_batches(parts):
    val, batches = loader(), [(torch.ones(2, 4), torch.zeros(2))]
    assert returned.sort({"val_loader": val, "train_loader": parts.loader}).loader is parts.loader
    assert returned.sort({"val_loader": val}).loader is val
    assert returned.sort((parts.model, batches)).loader is batches
    endless = iter(batches)
    assert returned.sort((parts.model, endless)).loader is endless
    assert returned.sort((parts.model, {3, 4}, "text")).loader is None
    assert returned.sort({"net": parts.model, "train_dataset": batches}).loader is None


def test_what_is_none_of_these_is_named(parts):
    found = returned.sort({"net": parts.model, "epochs": 3, "name": "x"})
    assert found.others == ("epochs (int)", "name (str)")


# -- one forward and backward ------------------------------------------------------


class WithLoss(nn.Module):
    """As those of transformers: takes the targets and returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Any, labels: Any = None) -> Any:
        logits = self.fc(x)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SimpleNamespace(loss=loss, logits=logits)


X, Y = torch.ones(2, 4), torch.zeros(2, dtype=torch.long)


@pytest.mark.parametrize(
    ("model", "loss", "batch"),
    [
        (network, F.cross_entropy, (X, Y)),
        (network, nn.CrossEntropyLoss(), [X, Y]),
        (lambda: nn.Bilinear(4, 4, 3), F.cross_entropy, (X, X, Y)),
        (WithLoss, None, {"x": X, "labels": Y, "idx": Y}),
        (WithLoss, F.cross_entropy, {"x": X, "labels": Y}),
        (WithLoss, F.cross_entropy, {"x": X, "target": Y}),
    ],
)
def test_gradients_of_a_batch(model, loss, batch):
    things = returned.Returned({"model": model()}, loader=[batch], loss=loss)
    entry._backward(things)
    grads = [p.grad for p in things.models["model"].parameters()]
    assert all(grad is not None and bool(grad.any()) for grad in grads)


@pytest.mark.parametrize(
    ("loss", "batches", "reason"),
    [
        (None, None, "no loader and no loss were returned"),
        (F.cross_entropy, None, "no loader was returned"),
        (None, [(X, Y)], "no loss was returned"),
        (F.cross_entropy, [X], "a batch is a Tensor, and how the model takes it is not known"),
        (F.cross_entropy, [], "the loader has no batch"),
        (F.cross_entropy, [(X[:, :3], Y)], "one batch raised RuntimeError: "),
        (lambda out, y: F.cross_entropy(out, y).detach(), [(X, Y)], "does not require grad"),
        (F.cross_entropy, [{"x": X, "labels": Y}], "raised TypeError"),
    ],
)
def test_where_no_gradients_can_be_had(loss, batches, reason):
    model = network()
    things = returned.Returned({"model": model}, loader=batches, loss=loss)
    with pytest.raises(entry.NotTried) as why:
        entry._backward(things)
    assert reason in str(why.value)
    assert all(p.grad is None for p in model.parameters())


def test_half_of_a_backward_leaves_no_gradients():
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise ValueError("half way")

    model = network()
    kept = model[0].bias
    kept.grad = torch.ones(4)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x):
            return self.net[1](Fails.apply(self.net[0](x)))

    things = returned.Returned({"net": Net()}, loader=[(X, Y)], loss=F.cross_entropy)
    with pytest.raises(entry.NotTried, match="half way"):
        entry._backward(things)
    assert [p.grad is None for p in model.parameters()] == [True, False, True, True]


def test_a_copy_that_is_not_trained_does_not_stand_in_the_way(parts):
    models = {"net": parts.model, "ema": network()}
    things = returned.Returned(models, {"opt": parts.opt}, loader=parts.loader, loss=parts.loss)
    entry._backward(things)
    assert all(p.grad is not None for p in parts.model.parameters())
    other = optimizer(models["ema"])
    things = returned.Returned(
        models, {"a": parts.opt, "b": other}, loader=parts.loader, loss=parts.loss
    )
    with pytest.raises(entry.NotTried, match="several models are trained"):
        entry._backward(things)


def test_models_in_no_optimizer_are_left_out_but_not_all(parts):
    ema = network()
    both = {"net": parts.model, "ema": ema}
    assert list(entry._trained(returned.Returned(both, {"opt": parts.opt}))) == ["net"]
    assert list(entry._trained(returned.Returned(both))) == ["net", "ema"]


def test_a_model_that_was_not_returned_but_is_trained_is_there(parts):
    group = {"params": parts.model.parameters()}
    other = network()
    opt = torch.optim.SGD([group, {"params": other.parameters()}], lr=0.1)
    found = entry._trained(returned.Returned({"net": other}, {"opt": opt}))
    assert found == {"net": other, "Sequential": parts.model}


# -- the command -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "kind", "theirs", "function", "shown"),
    [
        ("train.py::build --lr 3", "script", "train.py --lr 3", "build", "train.py::build --lr 3"),
        ("-q train.py::T.build", "script", "train.py", "T.build", "train.py::T.build"),
        ("train.py::T::build", "script", "train.py", "T.build", "train.py::T.build"),
        ("-m pkg.train::build x", "module", "pkg.train x", "build", "pkg.train::build x"),
        ("train.py a::b", "script", "train.py a::b", None, "python train.py a::b"),
        ("-- pytest t.py::f", "command", "pytest t.py::f", None, "pytest t.py::f"),
    ],
)
def test_the_target(words, kind, theirs, function, shown):
    _, target = arguments.split(words.split())
    assert (target.kind, target.words, target.function) == (kind, theirs.split(), function)
    assert str(target) == shown


SETUP = """
import json, sys
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.fc = nn.Linear(4, 3)
        self.aux = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.body(x))

class Telling(torch.optim.SGD):
    def step(self, closure=None):
        open("stepped", "w").close()

def build():
    model = Net()
    for p in model.body.parameters():
        p.requires_grad = False
    optimizer = Telling([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for p in model.body.parameters():
        p.requires_grad = True
    json.dump([sys.argv, __name__, sys.path[0]], open("seen.json", "w"))
    return model, optimizer

def with_data():
    model, optimizer = build()
    batches = [(torch.randn(4, 4), torch.tensor([0, 1, 2, 0]))]
    return {"net": model, "opt": optimizer, "batches": batches, "loss": F.cross_entropy}

def fails():
    raise ValueError("no data at hand\\nat all")

def trains():
    model, optimizer = build()
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()

if __name__ == "__main__":
    raise SystemExit("not as a module")
"""

needs_linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the runner is Linux's"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "train.py").write_text(SETUP)
    return tmp_path


def inspect(capfd, *words: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON."""
    code = cli.main(["inspect", "--output-format", "json", *words])
    return code, json.loads(capfd.readouterr().out)


@needs_linux
def test_a_setup_without_data(folder, capfd):
    assert cli.main(["inspect", "train.py::build", "--lr", "3"]) == cli.FINDINGS
    out, err = capfd.readouterr()
    assert err == ""
    text = " ".join(out.split())
    assert "modes are those" not in text
    assert "judged without gradients: no loader and no loss were returned" in text
    assert "ran `train.py::build --lr 3` in " in text
    assert text.endswith("s; no training step was run")
    assert "optimizer (Telling): 4 tensors (30 parameters), built at train.py:25" in text
    unfrozen = "p.requires_grad = True | - unfrozen here: body.weight, body.bias"
    assert f"27 | {unfrozen}" in text
    seen = json.loads((folder / "seen.json").read_text())
    assert seen == [["train.py", "--lr", "3"], "train", str(folder)]
    left = {path.name for path in folder.iterdir()}
    assert left == {"train.py", "seen.json"}  # no step, and no __pycache__


@needs_linux
def test_a_setup_with_batches_and_a_loss(folder, capfd):
    code, report = inspect(capfd, "train.py::with_data")
    assert code == cli.FINDINGS
    assert report["run"]["outcome"] == "inspected"
    assert report["run"]["until"] == "backward"
    assert report["left_out"] == []
    found = {f["code"]: f for f in report["findings"]}
    assert "They get gradients and never move" in found["FC201"]["message"]
    assert "aux.weight, aux.bias" in found["FC114"]["message"]
    assert found["FC201"]["notes"][0]["line"] == 24
    assert [m["label"] for m in report["models"]] == ["net"]
    assert [o["label"] for o in report["optimizers"]] == ["opt"]
    assert not (folder / "stepped").exists()


MODES = """
import torch
from torch import nn
from torch.nn import functional as F

def network():
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    for trained in body[1].weight.data, body[1].running_mean, body[1].running_var:
        trained.uniform_(0.5, 1.5)
    return nn.Sequential(body, nn.Dropout(0.5), nn.Linear(4, 2))

def setup(model):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    return model, optimizer, [(torch.randn(8, 3, 3, 3), torch.tensor([0, 1] * 4))], F.cross_entropy

def probe():
    model = network()
    model[0].requires_grad_(False)
    return setup(model)

def resting():
    return setup(network().eval())
"""


@pytest.mark.slow
@needs_linux
def test_a_forward_of_ours_says_nothing_about_the_users_modes(folder, capfd):
    (folder / "train.py").write_text(MODES)
    _, report = inspect(capfd, "train.py::probe")
    assert report["run"]["until"] == "backward"
    assert [(f["code"], f["severity"]) for f in report["findings"]] == [("FC401", "warning")]
    assert report["left_out"] == [
        "modes are those that the function left; what a training loop does is not known"
    ]
    _, report = inspect(capfd, "train.py::resting")
    assert report["run"]["until"] == "backward"
    assert report["findings"] == []


@pytest.mark.slow
@needs_linux
def test_a_function_in_a_package(folder, capfd):
    inner = folder / "package" / "inner"
    inner.mkdir(parents=True)
    (folder / "package" / "__init__.py").write_text("")
    (inner / "__init__.py").write_text("")
    (inner / "parts.py").write_text(SETUP)
    (inner / "train.py").write_text(
        "from .parts import build as made\n"
        "class Setup:\n"
        "    @staticmethod\n"
        "    def build():\n"
        "        model, optimizer = made()\n"
        "        return {'__name__': __name__, 'net': model, 'opt': optimizer}\n"
    )
    for words, argv, path in (
        (["package/inner/train.py::Setup.build", "x"], "package/inner/train.py", str(inner)),
        (["-m", "package.inner.train::Setup.build", "x"], str(inner / "train.py"), str(folder)),
    ):
        code, report = inspect(capfd, *words)
        assert code == cli.FINDINGS
        assert report["run"]["until"] == "call"
        assert [m["label"] for m in report["models"]] == ["net"]
        assert "not looked at: __name__ (str)" in report["left_out"]
        seen = json.loads((folder / "seen.json").read_text())
        assert seen == [[argv, "x"], "package.inner.parts", path]
    assert targets.script(arguments.split(words[:2])[1]) == "package/inner/train.py"


@needs_linux
def test_user_code_that_raises_shows_its_own_traceback(folder, capfd):
    assert cli.main(["inspect", "-q", "--select", "FC7", "train.py::fails"]) == cli.COULD_NOT
    err = capfd.readouterr().err
    assert err.startswith("freezecheck: `fails` raised ValueError: no data at hand.\n")
    assert "\n  Traceback (most recent call last):\n" in err
    assert 'train.py", line 37, in fails' in err
    assert "freezecheck_call" not in err


@needs_linux
def test_a_function_that_steps_is_stopped_there(folder, capfd):
    _, report = inspect(capfd, "train.py::trains")
    assert report["run"]["until"] == "step"
    assert "`trains` took an optimizer step itself and was stopped there" in report["left_out"]


@needs_linux
def test_a_function_that_hangs_is_told_where(folder, capfd):
    (folder / "train.py").write_text(
        "import time\ndef build():\n    open('there', 'w').close()\n    time.sleep(600)\n"
    )
    code, report = inspect(capfd, "--timeout", "5", "train.py::build")
    assert code == cli.COULD_NOT
    assert (folder / "there").exists()
    assert report["run"]["outcome"] == "timeout"
    assert [(at["line"], at["function"]) for at in report["run"]["stood_at"]] == [(4, "build")]
    assert report["left_out"] == []


@needs_linux
def test_a_file_that_trains_when_imported_is_told_of(folder, capfd):
    (folder / "train.py").write_text(SETUP.replace('if __name__ == "__main__":', "trains()\nif 0:"))
    _, report = inspect(capfd, "train.py::build")
    assert report["run"]["until"] == "step"
    (remark,) = report["left_out"]
    assert remark.startswith("an optimizer stepped while train.py was imported, so `build` was not")


WITHOUT_TORCH = """
import sys
import argparse
def build(): pass
def needs(config, lr, *rest, decay=0): pass
def generates(): yield
async def waits(): pass
def reads():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", required=True)
    parser.parse_args()
class Trainer:
    def build(self): pass
    def other(self): pass
number = 3
"""


@needs_linux
@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("setup.py::build", "`build` returned without having imported torch: it has to return"
         " the model and the optimizer, as a tuple or a dict"),
        ("setup.py::biuld", "setup.py has no `biuld`; did you mean build?"),
        ("setup.py::main", "setup.py has no `main`; its functions are build, needs, generates,"
         " waits, reads"),
        ("setup.py::Trainer.biuld", "setup.py has no `Trainer.biuld`; did you mean build?"),
        ("setup.py::number", "`number` in setup.py is no function, but of type int"),
        ("setup.py::needs", "`needs` needs arguments (config, lr) and is called with none: name a"
         " function that needs none, as in: def setup(): return needs(config, lr)"),
        ("setup.py::Trainer.build", "`Trainer.build` needs an object of its class: name a function"
         " that makes one, as in: def setup(): return Trainer().build()"),
        ("setup.py::generates", "`generates` is a generator: name a function that returns; it has"
         " to return the model and the optimizer, as a tuple or a dict"),
        ("setup.py::waits", "`waits` is an async function: name one that returns without await"),
        ("-m gone.setup::build", "no module named gone.setup"),
        ("setup.py::", "setup.py:: names no function, as in: freezecheck inspect train.py::build"),
        ("setup.py::a-b",
         "setup.py::a-b names no function, as in: freezecheck inspect train.py::build"),
        ("::build", "no script given, as in: freezecheck inspect train.py"),
        ("gone.py::build", "gone.py: no such file"),
        ("--steps 3 setup.py::build",
         "--steps needs a script that trains; a function is only called"),
        ("--fast-forward 2 setup.py::build",
         "--fast-forward needs a script that trains; a function is only called"),
    ],
)  # fmt: skip
def test_what_cannot_be_called_gets_one_line(folder, capfd, words, line):
    (folder / "setup.py").write_text(WITHOUT_TORCH)
    assert cli.main(["inspect", *words.split()]) == cli.COULD_NOT
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"freezecheck: {line}\n"


@needs_linux
@pytest.mark.parametrize(
    ("text", "function", "line", "end"),
    [
        (WITHOUT_TORCH, "reads", "`reads` raised SystemExit (exit status 2); the arguments of the"
         " script go after the name of the function.", "arguments are required: --lr"),
        ("import gone\n", "build", "setup.py could not be imported: ModuleNotFoundError: No module"
         " named 'gone'.", "ModuleNotFoundError: No module named 'gone'"),
        ("def build(:\n", "build", "setup.py could not be imported: SyntaxError: invalid syntax"
         " (setup.py, line 1).", "SyntaxError: invalid syntax"),
        ("raise SystemExit('no GPU')\n", "build", "setup.py could not be imported: SystemExit"
         " (exit status 1); the arguments of the script go after the name of the function.",
         "no GPU"),
    ],
)  # fmt: skip
def test_what_ends_before_it_returns(folder, capfd, text, function, line, end):
    (folder / "setup.py").write_text(text)
    ignored = ["--ignore", "FC003"]
    assert cli.main(["inspect", "-q", *ignored, f"setup.py::{function}"]) == cli.COULD_NOT
    err = capfd.readouterr().err
    first, *rest = err.splitlines()
    assert first == f"freezecheck: {line}"
    assert rest[-1].strip().endswith(end)


@needs_linux
def test_what_a_function_must_return(folder, capfd):
    (folder / "setup.py").write_text(
        "import torch\ndef build(): return {'epochs': 3, 'opt': torch.ones(2)}\n"
    )
    assert cli.main(["inspect", "setup.py::build"]) == cli.COULD_NOT
    assert capfd.readouterr().err == (
        "freezecheck: `build` returned a dict of epochs (int), opt (Tensor), with no model in it:"
        " it has to return the model and the optimizer, as a tuple or a dict\n"
    )
