"""The trees of `data/*.json` are what the libraries build."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest
from test_layers import class_name, modules, parameters

from freezecheck.source.knowledge import architectures, layers
from freezecheck.source.knowledge.architectures import Node

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

import zoo  # noqa: E402

TORCHVISION = zoo.torchvision_builders()


def same(node: Node, model: Any) -> None:
    """A tree has the modules, the parameters and the traits of a model."""
    assert list(modules(node)) == [n for n, _ in model.named_modules(remove_duplicate=False)]
    names = [n for n, _ in model.named_parameters(remove_duplicate=False)]
    assert parameters(node) == names
    assert node.tensors == len(names)
    frozen = {n for n, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    batchnorms = set()
    for path, below in modules(node).items():
        frozen -= {f"{path}.{name}".lstrip(".") for name in below.frozen}
        real = model.get_submodule(path)
        assert layers.canonical(class_name(real)) in (below.type, layers.canonical(below.type))
        if below.norm == "batch":
            batchnorms.add(path)
        assert bool(below.sequence) == isinstance(
            real, torch.nn.Sequential | torch.nn.ModuleList | torch.nn.ModuleDict
        )
    assert not frozen
    assert batchnorms == {
        n
        for n, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)
    }
    assert ("batch" in node.has_norm) == bool(batchnorms)


def found(builder: str, **kwargs: bool) -> Node:
    node = architectures.find(builder, **kwargs)
    assert node is not None, builder
    return node


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name: str) -> None:
    builder = TORCHVISION[name]
    dotted = f"torchvision.models.{name}"
    same(found(dotted, weights=False, backbone=False), zoo.torchvision_model(builder))
    if not name.startswith("quantization."):
        model = zoo.torchvision_model(builder, weights="DEFAULT")
        same(found(dotted, weights=True), model)
        for node in (found(dotted, weights=True), found(dotted, weights=False, backbone=False)):
            for number, path in enumerate(architectures.head(dotted)):
                # Auxiliary classifiers are not in every variant.
                assert node.at(path) is not None or number
    if zoo.takes(builder, "weights_backbone"):
        model = zoo.torchvision_model(builder, weights_backbone="DEFAULT")
        same(found(dotted, backbone=True), model)
        default = zoo.default(builder, "weights_backbone")
        same(found(dotted), zoo.torchvision_model(builder, weights_backbone=default))


@pytest.mark.parametrize("name", TORCHVISION)
def test_where_torchvision_writes_a_builder(name: str) -> None:
    builder = TORCHVISION[name]
    node = found(f"torchvision.models.{name}")
    assert architectures.find(f"{builder.__module__}.{builder.__name__}") is node
    listed = torchvision.models._api.get_model_builder
    quantized = name.startswith("quantization.")
    short = f"quantized_{builder.__name__}" if quantized else builder.__name__
    assert listed(short) is builder
    assert architectures.find(f"torchvision.{short}") is node


@pytest.mark.parametrize(
    "name",
    """alexnet convnext_tiny densenet121 efficientnet_b0 googlenet inception_v3 maxvit_t mnasnet0_5
    mobilenet_v2 mobilenet_v3_small regnet_y_400mf resnet18 shufflenet_v2_x0_5 squeezenet1_1
    swin_t swin_v2_t vgg11_bn vit_b_16 segmentation.fcn_resnet50
    segmentation.deeplabv3_mobilenet_v3_large""".split(),
)
def test_head_decides_what_comes_out(name: str) -> None:
    dotted = f"torchvision.models.{name}"
    model = zoo.torchvision_model(TORCHVISION[name]).eval()
    path = architectures.head(dotted)[0]
    parent, _, last = path.rpartition(".")
    old = model.get_submodule(path)
    assert dict(found(dotted).at(path).options) == sizes(old)  # type: ignore[union-attr]
    new = (
        torch.nn.Linear(old.in_features, 7)
        if isinstance(old, torch.nn.Linear)
        else torch.nn.Conv2d(old.in_channels, 7, old.kernel_size)
    )
    setattr(model.get_submodule(parent), last, new.to("meta"))
    size = 299 if name == "inception_v3" else 224
    with zoo.on_meta():
        out = model(torch.zeros(1, 3, size, size))
    assert (out["out"] if isinstance(out, dict) else out).shape[1] == 7


def sizes(layer: Any) -> dict[str, int]:
    kind = "features" if isinstance(layer, torch.nn.Linear) else "channels"
    return {f"{way}_{kind}": getattr(layer, f"{way}_{kind}") for way in ("in", "out")}


@pytest.mark.parametrize("name", zoo.torchvision_parts())
def test_parts_of_torchvision(name: str) -> None:
    same(found(f"torchvision.models.{name}"), zoo.torchvision_parts()[name])


def test_equal_subtrees_are_one_object() -> None:
    node = found("torchvision.models.resnet50")
    layer2 = node.children["layer2"].children
    assert layer2["1"] is layer2["2"]
    assert node is found("torchvision.models.resnet.resnet50")
    assert node.at("layer4.0.bn1") is not None
    assert node.at("layer4.9") is None
    assert node.at("") is node


def test_pretrained_detection_is_built_otherwise() -> None:
    name = "torchvision.models.detection.fasterrcnn_resnet50_fpn"
    fresh, trained = found(name, backbone=False), found(name)
    assert "batch" in fresh.has_norm
    assert "frozen" in trained.has_norm
    assert "batch" not in trained.has_norm
    frozen = [
        n for n in trained.children["backbone"].children["body"].children.items() if n[1].frozen
    ]
    assert [n for n, _ in frozen] == ["conv1"]


def test_unknown_builders() -> None:
    for name in (
        "torchvision.models.nothing",
        "torchvision.models.resnet.ResNet",
        "torchvision",
        "mine.resnet18",
        "resnet18",
        "",
    ):
        assert architectures.find(name) is None
        assert architectures.head(name) == ()


def library_types(library: str) -> list[str]:
    rows = json.loads((zoo.DATA / f"{library}.json").read_text())["classes"]
    return sorted({row[0] for row in rows})


@pytest.mark.frameworks
@pytest.mark.parametrize("library", [p.stem for p in sorted(zoo.DATA.glob("*.json"))])
def test_classes_have_their_names_in_the_library(library: str) -> None:
    pytest.importorskip(library)
    for name in library_types(library):
        package, _, short = name.rpartition(".")
        module: Any = import_module(package)
        assert isinstance(getattr(module, short), type), name


def test_files_are_read_when_a_builder_is_looked_up() -> None:
    script = """
import sys
from freezecheck.source.knowledge import architectures
assert architectures._library.cache_info().currsize == 0
architectures.find("torch.nn.Linear"); architectures.find("mine.resnet18")
assert architectures._library.cache_info().currsize == 0
assert architectures.find("torchvision.models.resnet18").tensors == 62
assert architectures._library.cache_info().currsize == 1
assert not {"torch", "torchvision", "numpy", "rich"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
