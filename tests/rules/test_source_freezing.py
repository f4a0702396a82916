"""The source halves of the freezing rules (FC1), on texts as people write them."""

from __future__ import annotations

import textwrap

import pytest
from source import findings, lint

HEAD = """\
import argparse
import copy
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
import torchvision
from torchvision import models
"""
FIRST = HEAD.count("\n") + 1
TRAIN = """
for images, labels in loader:
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


def told(code: str, family: str = "FC1") -> list[tuple[int, str]]:
    """Findings of a family, by the line of `code`."""
    found = lint(HEAD + textwrap.dedent(code))
    return [(line - FIRST + 1, rule) for line, rule in found if rule.startswith(family)]


BAD = {
    # FC101
    "a child of a built model": """\
        model = models.resnet50(weights="DEFAULT")
        model.layer1.requires_grad = False  # <- FC101
        """,
    "a loop over children": """\
        def freeze(model):
            for child in list(model.children())[:6]:
                child.requires_grad = False  # <- FC101
        """,
    "a loop over modules": """\
        def freeze(model):
            for name, param in model.named_modules():
                param.requires_grad = False  # <- FC101
        """,
    "a layer of a class of one's own": """\
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Linear(8, 8)
                self.body.requires_grad = False  # <- FC101
        """,
    "a model that is used as one": """\
        def fit(model):
            model.requires_grad = False  # <- FC101
            for p in model.parameters():
                print(p)
        """,
    # FC102
    "a misspelt flag on parameters": """\
        def freeze(model):
            for p in model.parameters():
                p.require_grad = False  # <- FC102
        """,
    "a misspelt flag on a weight": """\
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.emb = nn.Embedding(10, 8)
                self.emb.weight.requires_grads = False  # <- FC102
        """,
    "a misspelt flag on what is called a parameter": """\
        for param in get_backbone_params(model):
            param.required_grad = False  # <- FC102
        """,
    # FC103
    "the method overwritten": """\
        def freeze(model):
            for p in model.parameters():
                p.requires_grad_ = False  # <- FC103
        """,
    # FC104
    "a flag on data": """\
        model = models.vgg16(weights="DEFAULT")
        for p in model.features.parameters():
            p.data.requires_grad_(False)  # <- FC104
        """,
    "a flag on detach": """\
        model = nn.Linear(8, 8)
        model.weight.detach().requires_grad = False  # <- FC104
        """,
    "a flag on values of a state dict": """\
        model = models.vgg16(weights="DEFAULT")
        for value in model.state_dict().values():
            value.requires_grad = False  # <- FC104
        """,
    # FC105
    "methods that are not called": """\
        model = models.vgg16(weights="DEFAULT")
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        def validate(net):
            net.eval  # <- FC105
        model.train  # <- FC105
        optimizer.zero_grad  # <- FC105
        """,
    "comparisons": """\
        def freeze(model):
            for p in model.parameters():
                p.requires_grad == False  # <- FC105
        """,
    # FC106
    "a blanket unfreeze": """\
        model = models.resnet18(weights="DEFAULT")
        for p in model.layer1.parameters():
            p.requires_grad = False
        model.requires_grad_(True)  # <- FC106
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        optimizer.step()
        """,
    "a frozen weight wrapped anew": """\
        model = models.resnet18(weights="DEFAULT")
        model.requires_grad_(False)
        model.fc = nn.Linear(512, 3)
        model.bn1.weight = nn.Parameter(model.bn1.weight.data.clone())  # <- FC106
        optimizer = optim.SGD(filter(lambda p: p.requires_grad, model.parameters()), lr=0.1)
        optimizer.step()
        """,
    # FC107
    "a head of another architecture": """\
        model = models.densenet121(weights="DEFAULT")
        for name, param in model.named_parameters():
            param.requires_grad = name.startswith("fc")  # <- FC107
        """,
    "a prefix of DataParallel, in a helper": """\
        def freeze(net, parts):
            for name, param in net.named_parameters():
                if any(name.startswith(part) for part in parts):  # <- FC107
                    param.requires_grad = False

        model = nn.DataParallel(models.resnet18(weights="DEFAULT"))
        freeze(model, ["conv1", "layer1"])
        """,
    # FC108
    "a number cut short": """\
        model = models.vit_b_16(weights="DEFAULT")
        for name, p in model.named_parameters():
            if "encoder_layer_1" in name:  # <- FC108
                p.requires_grad = False
        """,
    "squeeze and excitation is called fc": """\
        model = models.efficientnet_b0(weights="DEFAULT")
        model.classifier[1] = nn.Linear(1280, 5)
        for name, p in model.named_parameters():
            if "fc" in name:  # <- FC108
                p.requires_grad = True
            else:
                p.requires_grad = False
        """,
    # FC109
    "the shortcuts of ResNet": """\
        model = models.resnet34(weights="DEFAULT")
        for name, p in model.named_parameters():
            if "bn" in name:  # <- FC109
                p.requires_grad = False
        """,
    # FC110
    "the head before the freeze": """\
        model = models.resnet18(weights="DEFAULT")
        model.fc = nn.Sequential(nn.Dropout(0.2), nn.Linear(512, 3))
        for p in model.parameters():
            p.requires_grad = False  # <- FC110
        for p in model.layer4.parameters():
            p.requires_grad = True
        optimizer = optim.SGD(filter(lambda p: p.requires_grad, model.parameters()), lr=0.1)
        optimizer.step()
        """,
    "a class that freezes all of itself": """\
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.backbone = models.resnet18(weights="DEFAULT")
                self.head = nn.Linear(1000, 3)
                for p in self.parameters():
                    p.requires_grad = False  # <- FC110

        model = Net()
        optimizer = optim.Adam(model.parameters())
        optimizer.step()
        """,
    # FC112
    "layers in a list": """\
        class Net(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.layers = [nn.Linear(8, 8) for _ in range(n)]  # <- FC112
                self.out = nn.Linear(8, 2)
        """,
    "layers in a dict": """\
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.heads = {"a": nn.Linear(8, 2), "b": nn.Linear(8, 3)}  # <- FC112
        """,
    "a list that is appended to": """\
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = []  # <- FC112
                for i in range(3):
                    self.layers.append(nn.Linear(8, 8))
        """,
    "a parameter that was moved": """\
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.ones(2)).cuda()  # <- FC112
                self.out = nn.Linear(8, 2)
        """,
    # FC113
    "a loss that is made to require grad": """\
        def fit(model, optimizer, loader):
            for x, y in loader:
                with torch.no_grad():
                    out = model(x)
                loss = F.mse_loss(out, y)
                loss.requires_grad = True  # <- FC113
                loss.backward()
                optimizer.step()
        """,
    "a loss in a Variable": """\
        from torch.autograd import Variable
        def fit(net, criterion, optimizer, loader):
            for x, y in loader:
                loss = criterion(net(x), y)
                loss = Variable(loss, requires_grad=True)  # <- FC113
                loss.backward()
                optimizer.step()
        """,
    # FC117, FC118
    "embeddings": """\
        class Net(nn.Module):
            def __init__(self, vectors):
                super().__init__()
                self.words = nn.Embedding.from_pretrained(torch.tensor(vectors))  # <- FC117
                self.tags = nn.Embedding(10, 8)
                self.tags.from_pretrained(vectors)  # <- FC118
        """,
    # FC119
    "a backbone at random": """\
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.backbone = models.resnet50(pretrained=False)
                for p in self.backbone.parameters():
                    p.requires_grad = False  # <- FC119
                self.head = nn.Linear(1000, 3)

        model = Net()
        optimizer = optim.Adam(model.head.parameters())
        optimizer.step()
        """,
    # FC120
    "all is frozen": """\
        model = models.resnet18(weights="DEFAULT")
        for param in model.parameters():
            param.requires_grad = False  # <- FC120
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        optimizer.step()
        """,
    # FC121, FC122
    "a head that is never called": """\
        model = models.vgg16(weights="DEFAULT")
        model.fc = nn.Linear(4096, 3)  # <- FC121
        """,
    "a number that nothing computes with": """\
        model = models.resnet18(weights="DEFAULT")
        model.fc.out_features = 3  # <- FC122
        """,
}


@pytest.mark.parametrize("code", BAD.values(), ids=BAD)
def test_found(code: str):
    code = textwrap.dedent(code)
    expected = [
        (number, line.split("# <- ")[1])
        for number, line in enumerate(code.splitlines(), 1)
        if "# <- " in line
    ]
    assert told(code) == expected


GOOD = {
    "an option of the class": """\
        class Vgg(nn.Module):
            def __init__(self, requires_grad=False):
                super().__init__()
                self.requires_grad = requires_grad
                self.body = models.vgg16(weights="DEFAULT").features
                for p in self.parameters():
                    p.requires_grad = requires_grad

        loss_net = Vgg()
        loss_net.requires_grad = False
        """,
    "a module that is not known to be one": """\
        def attack(layer, image):
            layer.requires_grad = False
            image.requires_grad = True
        """,
    "flags that are set properly right after": """\
        def freeze(model):
            for child in model.children():
                child.requires_grad = False
                for p in child.parameters():
                    p.requires_grad = False
        """,
    "an option that is called so": """\
        parser = argparse.ArgumentParser()
        args = parser.parse_args()
        args.requires_grads = False
        config = dict(requires_grads=True)
        class Config: pass
        c = Config()
        c.require_grad = True
        """,
    "copies that are kept": """\
        model = nn.Linear(8, 8)
        target = model.weight.detach().clone()
        target.requires_grad = True
        weight = model.weight.detach().requires_grad_(True)
        fast = {k: v.clone().requires_grad_(True) for k, v in model.state_dict().items()}
        """,
    "methods handed on": """\
        model = models.vgg16(weights="DEFAULT")
        step = model.train
        modes = [model.eval]
        assert model.training == True
        """,
    "two phases": """\
        model = models.resnet18(weights="DEFAULT")
        model.fc = nn.Linear(512, 3)
        for p in model.layer1.parameters():
            p.requires_grad = False
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        for epoch in range(10):
            if epoch == 5:
                for p in model.parameters():
                    p.requires_grad = True
            optimizer.step()
        """,
    "a choice of the user": """\
        args = argparse.ArgumentParser().parse_args()
        model = models.resnet18(weights="DEFAULT")
        for p in model.layer1.parameters():
            p.requires_grad = False
        if args.finetune_all:
            for p in model.parameters():
                p.requires_grad = True
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        optimizer.step()
        """,
    "one chain for several architectures": """\
        model = models.resnet18(weights="DEFAULT")
        for name, p in model.named_parameters():
            if "fc" in name or "classifier" in name or "head" in name:
                p.requires_grad = True
            else:
                p.requires_grad = False
        """,
    "names of a model that is not known": """\
        def freeze(model):
            for name, p in model.named_parameters():
                if "backbone" in name:
                    p.requires_grad = False
        """,
    "one head for each architecture": """\
        args = argparse.ArgumentParser().parse_args()
        if args.arch == "resnet":
            model = models.resnet18(weights="DEFAULT")
            model.fc = nn.Linear(512, 3)
        elif args.arch == "vgg":
            model = models.vgg16(weights="DEFAULT")
            model.classifier[6] = nn.Linear(4096, 3)
        else:
            model = getattr(models, args.arch)(weights="DEFAULT")
            model.fc = nn.Linear(model.fc.in_features, 3)
        """,
    "a head that the text calls": """\
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = models.vgg16(weights="DEFAULT")
                self.net.fc = nn.Linear(25088, 3)

            def forward(self, x):
                return self.net.fc(self.net.avgpool(self.net.features(x)).flatten(1))

        model = Net()
        model(torch.randn(1, 3, 64, 64))
        """,
    "a head with new weights": """\
        model = models.resnet18(weights="DEFAULT")
        model.fc.weight = nn.Parameter(model.fc.weight[:3])
        model.fc.out_features = 3
        """,
    "the head after the freeze": """\
        model = models.resnet18(weights="DEFAULT")
        for p in model.parameters():
            p.requires_grad = False
        model.fc = nn.Linear(512, 3)
        optimizer = optim.SGD(model.fc.parameters(), lr=0.1)
        optimizer.step()
        """,
    "a head that gets its values": """\
        model = models.resnet18(weights="DEFAULT")
        old = models.resnet18(weights="DEFAULT")
        model.fc = nn.Linear(512, 1000)
        model.fc.load_state_dict(old.fc.state_dict())
        for p in model.parameters():
            p.requires_grad = False
        for p in model.layer4.parameters():
            p.requires_grad = True
        optimizer = optim.SGD(filter(lambda p: p.requires_grad, model.parameters()), lr=0.1)
        optimizer.step()
        """,
    "a head that gets some of its values": """\
        model = models.resnet18(weights="DEFAULT")
        old, model.fc = model.fc, nn.Linear(512, 1010)
        with torch.no_grad():
            model.fc.weight[:1000] = old.weight
        for p in model.parameters():
            p.requires_grad = False
        for p in model.layer4.parameters():
            p.requires_grad = True
        optimizer = optim.SGD(filter(lambda p: p.requires_grad, model.parameters()), lr=0.1)
        optimizer.step()
        """,
    "lists of layers that are registered": """\
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = [nn.Linear(8, 8) for _ in range(3)]
                self.body = nn.Sequential(*self.layers)
                blocks = []
                for i in range(3):
                    blocks.append(nn.Linear(8, 8))
                self.blocks = nn.ModuleList(blocks)
                self.extra = []
                for i in range(2):
                    layer = nn.Linear(8, 8)
                    setattr(self, f"extra{i}", layer)
                    self.extra.append(layer)
                self.losses = [nn.L1Loss(), nn.MSELoss()]
                self.scale = nn.Parameter(torch.ones(2).cuda())
        """,
    "a hidden teacher": """\
        class Student(nn.Module):
            def __init__(self, teacher):
                super().__init__()
                self.net = nn.Linear(8, 8)
                self.teacher = [teacher]
        model = Student(models.resnet18(weights="DEFAULT"))
        """,
    "an input that requires grad": """\
        def attack(model, images, labels):
            images.requires_grad_(True)
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            return images + 0.1 * images.grad.sign()
        """,
    "embeddings of which it is said": """\
        def make(vectors, static):
            fixed = nn.Embedding.from_pretrained(vectors, freeze=True)
            some = nn.Embedding.from_pretrained(vectors, static)
            tuned = nn.Embedding.from_pretrained(vectors)
            tuned.weight.requires_grad = True
            return fixed, some, tuned
        """,
    "weights that an option asks for": """\
        args = argparse.ArgumentParser().parse_args()
        model = models.resnet18(weights="DEFAULT" if args.pretrained else None)
        if args.resume:
            model.load_state_dict(torch.load(args.resume))
        for p in model.parameters():
            p.requires_grad = False
        model.fc = nn.Linear(512, 3)
        optimizer = optim.SGD(model.fc.parameters(), lr=0.1)
        optimizer.step()
        """,
    "a checkpoint that is loaded": """\
        model = models.resnet18()
        model.load_state_dict(torch.load("moco.pt"), strict=False)
        for p in model.parameters():
            p.requires_grad = False
        model.fc = nn.Linear(512, 3)
        optimizer = optim.SGD(model.fc.parameters(), lr=0.1)
        optimizer.step()
        """,
    "something outside the model is trained": """\
        model = models.vgg16(weights="DEFAULT").requires_grad_(False)
        image = torch.randn(1, 3, 64, 64, requires_grad=True)
        optimizer = optim.Adam([image])
        optimizer.step()
        """,
    "one part at a time": """\
        def toggle(net, flag):
            for p in net.parameters():
                p.requires_grad = flag

        one, other = nn.Linear(8, 8), nn.Linear(8, 1)
        first = optim.Adam(one.parameters())
        second = optim.Adam(other.parameters())
        for step in range(10):
            toggle(other, False)
            other(one(torch.randn(4, 8))).mean().backward()
            first.step()
            toggle(other, True)
            other(one(torch.randn(4, 8)).detach()).mean().backward()
            second.step()
        """,
}


@pytest.mark.parametrize("code", GOOD.values(), ids=GOOD)
def test_silent(code: str):
    assert told(code) == []


def test_names_are_told():
    (finding,) = findings(
        """
        import torchvision
        model = torchvision.models.resnet18(weights="DEFAULT")
        for child in (model.layer1, model.layer2):
            child.requires_grad = False
        """
    )
    assert finding.message.startswith("requires_grad = False is set on 2 modules: layer1, layer2.")
    assert finding.subject == ("model",)


def test_a_notebook_shows_its_last_line():
    import ast

    from freezecheck import catalogue
    from freezecheck.check import check_source
    from freezecheck.rule import Rule
    from freezecheck.source.analysis import analyze

    rules: tuple[Rule, ...] = catalogue.select(["FC105"])
    tree = ast.parse("config = read()\nconfig.train\n")
    assert not check_source(rules, analyze(tree, "nb.ipynb").worlds)
    assert check_source(rules, analyze(tree, "train.py").worlds)
