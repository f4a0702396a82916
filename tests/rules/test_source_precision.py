"""Healthy code that was once taken for a mistake, as people write it: nothing is said."""

from __future__ import annotations

import ast

import pytest
from source import lint

from freezecheck.source.analysis import analyze

HEALTHY = {
    "the parameters of each module, one module at a time": """
        import torch
        from torch import nn
        from models import build

        def smart_optimizer(model):
            decay, rest = [], []
            norms = tuple(v for k, v in nn.__dict__.items() if "Norm" in k)
            for module in model.modules():
                for name, p in module.named_parameters(recurse=0):
                    if name == "weight" and not isinstance(module, norms):
                        decay.append(p)
                    else:
                        rest.append(p)
            optimizer = torch.optim.SGD(rest, lr=0.1)
            optimizer.add_param_group({"params": decay, "weight_decay": 1e-4})
            return optimizer

        model = build()
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.eps = 1e-3
        optimizer = smart_optimizer(model)
        optimizer.step()
    """,
    "a table of labels": """
        import torch
        from torch import nn
        from loaders import Loader

        class Labelled(Loader):
            def __init__(self, labels, **options):
                super().__init__(**options)
                self.labels = nn.Embedding.from_pretrained(torch.tensor(labels).reshape(-1, 1))

            def __next__(self):
                x, index = super().__next__()
                return x, self.labels(index).long()
    """,
    "embeddings kept for later": """
        from torch import nn

        class Kept:
            def load(self, name, weights):
                self.loaded[name] = nn.Embedding.from_pretrained(weights)
                self.use(name)
    """,
    "what a method gives, in its place": """
        from torch.utils.data import Dataset

        class Series(Dataset):
            def __init__(self, data):
                self.properties = self.properties(data)

            def properties(self, data):
                return {"length": len(data)}
    """,
    "gradients kept by hand": """
        import torch
        from torch import nn

        class Cached(nn.Module):
            def gradients(self, outputs):
                loss = nn.functional.cross_entropy(torch.cat(outputs), self.labels)
                loss.backward()
                loss = loss.detach().requires_grad_()
                return loss, [output.grad for output in outputs]
    """,
    "gradients kept by hand, part by part": """
        import torch
        from torch import nn

        class Cached(nn.Module):
            def gradients(self, outputs):
                losses = []
                for output in outputs:
                    loss = nn.functional.cross_entropy(output, self.labels)
                    loss.backward()
                    losses.append(loss.detach())
                loss = sum(losses).detach().requires_grad_()
                return loss, [output.grad for output in outputs]
    """,
    "a target network that follows by averaging": """
        import copy
        import torch
        from torch import nn

        online = nn.Linear(8, 4)
        target = copy.deepcopy(online)
        both = nn.ModuleList([online, target])
        optimizer = torch.optim.Adam(both.parameters())
        for x in loader:
            optimizer.zero_grad()
            with torch.no_grad():
                wanted = target(x)
            loss = nn.functional.mse_loss(online(x), wanted)
            loss.backward()
            optimizer.step()
            for new, old in zip(online.parameters(), target.parameters()):
                old.data.mul_(0.99).add_(new.data, alpha=0.01)
    """,
}


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_said(name):
    assert lint(HEALTHY[name], strict=True) == []


FOUND = {
    "behind mixed precision of old, as before it": (
        """
        import torch, torchvision
        from apex import amp
        from torch import nn

        model = torchvision.models.resnet18(weights="DEFAULT")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model, optimizer = amp.initialize(model, optimizer, opt_level="O1")
        model.fc = nn.Linear(512, 10)
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            with amp.scale_loss(loss, optimizer) as scaled:
                scaled.backward()
            optimizer.step()
        """,
        [(7, "FC201")],
    ),
    "a weight that was taken apart behind its optimizer": (
        """
        import torch
        from torch import nn
        from torch.nn.utils import weight_norm

        layer = nn.Linear(8, 2)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        layer = weight_norm(layer)
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(layer(x), y).backward()
            optimizer.step()
        """,
        [(7, "FC201")],
    ),
    "a part that was taken off": (
        """
        import torch, torchvision

        model = torchvision.models.resnet18(weights="DEFAULT")
        delattr(model, "fc")
        torch.nn.init.zeros_(model.conv1.weight)
        for name in ("layer1", "layer2"):
            getattr(model, name).requires_grad = False
        """,
        [(8, "FC101")],
    ),
    "in a model whose base class is not known": (
        """
        from torch import nn
        from base import Tagger

        class Mine(Tagger):
            def __init__(self, vectors):
                super().__init__()
                self.embedding = nn.Embedding.from_pretrained(vectors)

            def forward(self, words):
                return self.embedding(words)
        """,
        [(8, "FC117")],
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_it_is_still_found(name):
    code, found = FOUND[name]
    assert lint(code) == found


def test_a_library_is_what_its_name_says():
    """A file beside it that is called `torch` is not what `import torch` means."""
    text = (
        "from torch import optim\nfrom models import model\noptim.SGD(model.parameters(), lr=1)\n"
    )
    beside = {"torch": (ast.parse("optim = load()"), "torch.py")}
    (world,) = analyze(ast.parse(text), "train.py", modules=beside).worlds
    assert [optimizer.type for optimizer in world.optimizers] == ["torch.optim.SGD"]
