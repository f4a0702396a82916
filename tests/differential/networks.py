"""Small networks as text, for generated scripts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Pick = Callable[..., Any]  # pick("a", "b"): one of them

CLASSES = 3


@dataclass
class Network:
    """What a script can say about its network.

    `parts` are the backbone's, in order, and `head` the last layer, as they are written
    after the model's name; `words` are the parts' names in parameter names.
    """

    build: str
    parts: list[str]
    head: str
    width: int
    words: list[str]
    head_word: str
    norm: str
    inputs: str
    definition: str = ""
    methods: set[str] = field(default_factory=set)
    whole_library: bool = False


def network(pick: Pick) -> Network:
    """One of the kinds."""
    kind = pick("class", "class", "class", "class", "sequential", "composite", "resnet")
    return {
        "class": _own_class,
        "sequential": _sequential,
        "composite": _composite,
        "resnet": _resnet,
    }[kind](pick)


_METHODS = {
    "freeze": """
def freeze(self):
    for param in self.parameters():
        param.requires_grad = False
""",
    "freeze_backbone": """
def freeze_backbone(self):
    for name, param in self.named_parameters():
        if not name.startswith("{head}"):
            param.requires_grad = False
""",
    "unfreeze": """
def unfreeze(self, name=None):
    part = self if name is None else getattr(self, name)
    part.requires_grad_(True)
""",
    "freeze_bn": """
def freeze_bn(self):
    for module in self.modules():
        if isinstance(module, {norm}):
            module.eval()
            module.requires_grad_(False)
""",
    "train": """
def train(self, mode=True):
    super().train(mode)
    for module in self.modules():
        if isinstance(module, {norm}):
            module.eval()
    return self
""",
    "train_frozen": """
def train(self, mode=True):
    super().train(mode)
    if mode and self.frozen:
        for part in [{parts}]:
            part.eval()
    return self
""",
    "backbone_parameters": """
def backbone_parameters(self):
    for part in [{parts}]:
        yield from part.parameters()
""",
}


def _own_class(pick: Pick) -> Network:
    flat = pick(False, True)
    head = pick("fc", "head", "classifier", "fc", "out")
    stem = pick("stem", "conv1")
    layer = pick("layer", "block", "stage")
    norm = "nn.BatchNorm1d" if flat else "nn.BatchNorm2d"
    make = "nn.Linear({}, {})" if flat else "nn.Conv2d({}, {}, 3, padding=1, bias=False)"
    first = 6 if flat else 3
    parts = {
        stem: make.format(first, 8),
        "bn1": f"{norm}(8)",
        f"{layer}1": f"nn.Sequential({make.format(8, 8)}, {norm}(8), nn.ReLU())",
        f"{layer}2": f"nn.Sequential({make.format(8, 8)}, {norm}(8), nn.ReLU())",
    }
    if pick(True, False):
        del parts["bn1"]
    if pick(False, False, True):
        parts["drop"] = "nn.Dropout(0.1)"
    made = [f"self.{name} = {text}" for name, text in parts.items()]
    made.append(f"self.{head} = nn.Linear(8, classes)")
    body = [f"x = self.{name}(x)" for name in parts]
    body.append(f"return self.{head}(x)" if flat else f"return self.{head}(x.mean((2, 3)))")
    words = [name for name in parts if name != "drop"]
    methods = {pick("freeze", "freeze_backbone", "unfreeze", "backbone_parameters", "freeze_bn")}
    methods |= {pick("", "", "", "train", "train_frozen", "unfreeze")}
    if "train_frozen" in methods:
        made.append("self.frozen = frozen")
    options = ", frozen=True" if "train_frozen" in methods else ""
    filled = {"head": head, "norm": norm, "parts": ", ".join(f"self.{w}" for w in words)}
    methods.discard("")
    lines = [
        "class Net(nn.Module):",
        f"    def __init__(self, classes={CLASSES}{options}):",
        "        super().__init__()",
        *(f"        {line}" for line in made),
        "",
        "    def forward(self, x):",
        *(f"        {line}" for line in body),
    ]
    for method in sorted(methods):
        text = _METHODS[method].format(**filled)
        lines += [f"    {line}" if line else "" for line in text.rstrip().split("\n")]
    return Network(
        build=pick("Net()", f"Net(classes={CLASSES})"),
        parts=[f".{word}" for word in words],
        head=f".{head}",
        width=8,
        words=words,
        head_word=head,
        norm=norm,
        inputs="torch.randn(4, 6)" if flat else "torch.randn(4, 3, 4, 4)",
        definition="\n".join(lines),
        methods=methods,
    )


def _sequential(pick: Pick) -> Network:
    named = pick(False, True)
    layers = {
        "stem": "nn.Linear(6, 8)",
        "norm": "nn.BatchNorm1d(8)",
        "act": "nn.ReLU()",
        "hidden": "nn.Linear(8, 8)",
        "head": f"nn.Linear(8, {CLASSES})",
    }
    if named:
        inner = ", ".join(f'("{name}", {text})' for name, text in layers.items())
        return Network(
            build=f"nn.Sequential(OrderedDict([{inner}]))",
            parts=[".stem", ".norm", ".hidden"],
            head=".head",
            width=8,
            words=["stem", "norm", "hidden"],
            head_word="head",
            norm="nn.BatchNorm1d",
            inputs="torch.randn(4, 6)",
        )
    return Network(
        build=f"nn.Sequential({', '.join(layers.values())})",
        parts=["[0]", "[1]", "[3]"],
        head=pick("[4]", "[-1]"),
        width=8,
        words=["0.", "1.", "3."],
        head_word="4.",
        norm="nn.BatchNorm1d",
        inputs="torch.randn(4, 6)",
    )


def _composite(pick: Pick) -> Network:
    """A backbone of its own class, and a head."""
    body = pick("backbone", "encoder", "features")
    head = pick("head", "classifier", "fc")
    definition = f"""class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.bn1 = nn.BatchNorm1d(8)
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])

    def forward(self, x):
        x = self.bn1(self.stem(x)).relu()
        for layer in self.layers:
            x = layer(x).relu()
        return x


class Net(nn.Module):
    def __init__(self, backbone, classes={CLASSES}):
        super().__init__()
        self.{body} = backbone
        self.{head} = nn.Linear(8, classes)

    def forward(self, x):
        return self.{head}(self.{body}(x))"""
    methods = {pick("", "freeze", "freeze_bn", "unfreeze", "train")} - {""}
    filled = {"head": head, "norm": "nn.BatchNorm1d", "parts": f"self.{body}"}
    lines = definition.split("\n")
    for method in sorted(methods):
        text = _METHODS[method].format(**filled)
        lines += [f"    {line}" if line else "" for line in text.rstrip().split("\n")]
    return Network(
        build="Net(Backbone())",
        parts=[f".{body}", f".{body}.layers[1]", f".{body}.bn1", f".{body}.layers[2]"],
        head=f".{head}",
        width=8,
        words=[body, f"{body}.stem", "layers.1", "bn1"],
        head_word=head,
        norm="nn.BatchNorm1d",
        inputs="torch.randn(4, 6)",
        definition="\n".join(lines),
        methods=methods,
    )


def _resnet(pick: Pick) -> Network:
    weights = pick('weights="DEFAULT"', 'weights="DEFAULT"', "weights=None")
    return Network(
        build=pick(f"torchvision.models.resnet18({weights})", f"models.resnet18({weights})"),
        parts=[".layer4", ".layer3", ".layer1", ".conv1", ".bn1"],
        head=".fc",
        width=512,
        words=["layer4", "layer3", "layer1", "bn1", "conv1"],
        head_word="fc",
        norm="nn.BatchNorm2d",
        inputs="torch.randn(2, 3, 32, 32)",
        whole_library=True,
    )
