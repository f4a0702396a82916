"""The table of layers says what torch does."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import pytest

from freezecheck.source.knowledge import layers
from freezecheck.source.knowledge.architectures import Node

torch = pytest.importorskip("torch")
nn = torch.nn

CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("Linear", (4, 3), {}),
    ("Linear", (4, 3, False), {}),
    ("Bilinear", (2, 3, 4), {"bias": False}),
    ("Conv2d", (3, 8, 3), {}),
    ("Conv2d", (3, 8, 3, 1, 1, 1, 1, False), {}),
    ("ConvTranspose2d", (3, 8, 3), {"bias": False}),
    ("Embedding", (10, 4), {}),
    ("EmbeddingBag", (10, 4), {}),
    ("BatchNorm1d", (4,), {}),
    ("BatchNorm2d", (4,), {"affine": False}),
    ("SyncBatchNorm", (4,), {}),
    ("InstanceNorm2d", (4,), {}),
    ("InstanceNorm2d", (4,), {"affine": True}),
    ("GroupNorm", (2, 4), {}),
    ("GroupNorm", (2, 4, 1e-5, False), {}),
    ("LayerNorm", (4,), {}),
    ("LayerNorm", (4,), {"bias": False}),
    ("LayerNorm", (4,), {"elementwise_affine": False}),
    ("RMSNorm", (4,), {}),
    ("PReLU", (), {}),
    ("LSTMCell", (3, 4), {}),
    ("GRUCell", (3, 4, False), {}),
    ("RNN", (3, 4), {"nonlinearity": "relu"}),
    ("LSTM", (3, 4, 2), {"bidirectional": True, "proj_size": 2}),
    ("LSTM", (3, 4), {"num_layers": 2, "bias": False, "dropout": 0.5}),
    ("GRU", (3, 4), {}),
    ("MultiheadAttention", (4, 2), {}),
    ("MultiheadAttention", (4, 2, 0.1, False), {}),
    ("MultiheadAttention", (4, 2), {"kdim": 3, "add_bias_kv": True}),
    ("TransformerEncoderLayer", (4, 2), {}),
    ("TransformerEncoderLayer", (4, 2), {"bias": False, "dropout": 0.0}),
    ("TransformerDecoderLayer", (4, 2), {}),
    ("Transformer", (4, 2, 1, 2), {}),
    ("Dropout", (), {}),
    ("Dropout2d", (0.0,), {}),
    ("ReLU", (True,), {}),
]


@pytest.mark.parametrize(("short", "args", "kwargs"), CALLS)
def test_holds_what_torch_builds(short: str, args: Any, kwargs: Any) -> None:
    layer = layers.find(f"torch.nn.{short}")
    assert layer is not None
    node = layer.node(args, kwargs)
    assert node is not None
    real = getattr(nn, short)(*args, **kwargs)
    assert list(parameters(node)) == [name for name, _ in real.named_parameters()]
    assert list(modules(node)) == [name for name, _ in real.named_modules()]
    for path, below in modules(node).items():
        assert layers.canonical(class_name(real.get_submodule(path))) == layers.canonical(
            below.type
        )


def test_unknown_option_is_not_guessed() -> None:
    linear, lstm = layers.find("torch.nn.Linear"), layers.find("torch.nn.LSTM")
    assert linear is not None
    assert lstm is not None
    assert linear.node((4, 3, None)) is None
    assert lstm.node((4, 3), {"num_layers": None}) is None
    assert linear.node((None, None)) is not None  # sizes do not matter
    assert linear.node((1, 2, True, 4, 5, 6)) is None  # the call fails
    assert linear.node((), {"colour": 1}) is None


def test_dropout_of_zero_is_none() -> None:
    dropout = layers.find("torch.nn.Dropout")
    assert dropout is not None
    assert [getattr(dropout.node(a), "dropout", None) for a in ((), (0.0,), (None,))] == [
        True,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("torch.nn.BatchNorm2d", "batch"),
        ("torch.nn.modules.batchnorm.SyncBatchNorm", "batch"),
        ("torch.nn.LazyBatchNorm1d", "batch"),
        ("torch.nn.LayerNorm", "layer"),
        ("torch.nn.GroupNorm", "group"),
        ("torch.nn.InstanceNorm1d", "instance"),
        ("torch.nn.RMSNorm", "rms"),
        ("torchvision.ops.misc.FrozenBatchNorm2d", "frozen"),
        ("timm.layers.LayerNorm2d", "layer"),
        ("torch.nn.LocalResponseNorm", None),
        ("torch.nn.Linear", None),
    ],
)
def test_kind_of_norm(name: str, kind: str | None) -> None:
    layer = layers.find(name)
    assert layer is not None
    assert layer.norm == kind


def test_every_layer_of_torch_is_listed() -> None:
    missing = {
        name
        for name, value in vars(nn).items()
        if isinstance(value, type)
        and issubclass(value, nn.Module)
        and layers.find(f"torch.nn.{name}") is None
    }
    # Bases, containers of parameters, and losses that hold layers of their own.
    assert missing <= {
        "Module", "Container", "RNNBase", "RNNCellBase", "ParameterList", "ParameterDict",
        "AdaptiveLogSoftmaxWithLoss", "NLLLoss2d", "LinearCrossEntropyLoss",
    }  # fmt: skip


@pytest.mark.frameworks
@pytest.mark.parametrize("name", sorted(layers.names()))
def test_signature_is_the_librarys(name: str) -> None:
    package, _, short = name.rpartition(".")
    try:
        cls = getattr(import_module(package), short)
    except ImportError:
        pytest.skip(f"{package} is not installed")
    layer = layers.find(name)
    assert layer is not None
    if layer.arguments is None or short in ("RNN", "LSTM", "GRU"):
        return
    real = inspect.signature(cls).parameters
    positional = [n for n, p in real.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    ours = layer.arguments
    assert positional[: len(ours.positional)] == list(ours.positional)
    assert set(ours.names) <= set(real)
    for name, default in ours.defaults.items():
        assert callable(real[name].default) or real[name].default == default


def parameters(node: Node, prefix: str = "") -> list[str]:
    found = [prefix + name for name in node.params]
    for name, child in node.children.items():
        found += parameters(child, f"{prefix}{name}.")
    return found


def modules(node: Node, path: str = "") -> dict[str, Node]:
    found = {path: node}
    for name, child in node.children.items():
        found |= modules(child, f"{path}.{name}" if path else name)
    return found


def class_name(module: Any) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
