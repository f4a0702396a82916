"""What a call of a builder builds, as the interpreter sees it."""

from __future__ import annotations

import ast

import pytest

from freezecheck.program import Module
from freezecheck.source import structure
from freezecheck.source.analysis import analyze
from freezecheck.source.knowledge import architectures

HEAD = """
import timm, torch, torchvision
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.segmentation import deeplabv3_resnet50
"""


def built(call: str) -> Module:
    (world,) = analyze(ast.parse(f"{HEAD}model = {call}\n"), "train.py").worlds
    return next(module for module in world.modules if module.label == "model")


@pytest.mark.parametrize(
    ("call", "pretrained"),
    [
        ("torchvision.models.resnet18()", False),
        ("torchvision.models.resnet18(weights='DEFAULT')", True),
        ("torchvision.models.resnet18(True)", True),
        ("torchvision.models.resnet18(pretrained=False)", False),
        ("torchvision.models.resnet18(weights=torchvision.models.ResNet18_Weights.DEFAULT)", True),
        ("torchvision.models.get_model('resnet18', weights=None)", False),
        ("torch.hub.load('pytorch/vision:v0.10.0', 'resnet18', pretrained=True)", True),
        ("timm.create_model('resnet18', pretrained=True, num_classes=10)", True),
        ("timm.create_model('resnet18')", False),
        ("deeplabv3_resnet50(num_classes=3)", True),  # its backbone is
        ("deeplabv3_resnet50(weights=None, weights_backbone=None)", False),
        ("fasterrcnn_resnet50_fpn()", True),
        ("fasterrcnn_resnet50_fpn(weights_backbone=None)", False),
        ("torchvision.models.detection.fasterrcnn_resnet50_fpn_v2()", False),
        ("FastRCNNPredictor(1024, 3)", False),
    ],
)
def test_whether_it_is_pretrained(call: str, pretrained: bool) -> None:
    module = built(call)
    assert module.pretrained is pretrained
    assert module.architecture is not None or module.children  # unfolded, to get a new head
    assert not module.open


@pytest.mark.parametrize(
    "call",
    [
        "torchvision.models.resnet18(norm_layer=torchvision.ops.FrozenBatchNorm2d)",
        "torchvision.models.resnet18(**options)",
        "timm.create_model('resnet18', features_only=True)",
        "timm.create_model(options.name, pretrained=True)",
        "timm.create_model('no_such_model')",
        "fasterrcnn_resnet50_fpn(trainable_backbone_layers=5)",
        "fasterrcnn_resnet50_fpn(weights_backbone=options.backbone)",
    ],
)
def test_nothing_is_said_of_another_tree(call: str) -> None:
    module = built(f"(lambda options: {call})(input())")
    assert module.open
    assert module.architecture is None


def test_norms_of_detection_models() -> None:
    assert built("fasterrcnn_resnet50_fpn()").batchnorm is False
    assert built("fasterrcnn_resnet50_fpn(weights_backbone=None)").batchnorm is True


def test_pretrained_detection_models_are_partly_frozen() -> None:
    code = (
        f"{HEAD}model = fasterrcnn_resnet50_fpn()\nmodel.backbone.body.conv1.weight.requires_grad\n"
    )
    code += "model.backbone.body.layer1[0].conv1\nmodel.backbone.body.layer4[0].conv1\n"
    (world,) = analyze(ast.parse(code), "train.py").worlds
    model = next(module for module in world.modules if module.label == "model")
    trainable = {p.path: p.trainable for p in model.parameters()}
    assert trainable["backbone.body.conv1.weight"] is False
    assert trainable["backbone.body.layer1.0.conv1.weight"] is False
    assert trainable["backbone.body.layer4.0.conv1.weight"] is True


def test_a_headless_model_has_no_head() -> None:
    node = architectures.find("timm.resnet18", classes=False)
    assert node is not None
    assert node.children["fc"].tensors == 0


def test_open_parts_of_a_tree_may_hold_more() -> None:
    code = (
        "from transformers import ViTForImageClassification\n"
        "model = ViTForImageClassification.from_pretrained('google/vit-base-patch16-224')\n"
        "model.vit.layernorm\n"
    )
    (world,) = analyze(ast.parse(code), "train.py").worlds
    model = next(module for module in world.modules if module.label == "model")
    assert not model.open
    vit = model.children["vit"]  # its parts were renamed between releases
    assert vit.open
    assert {"embeddings", "layernorm"} <= vit.children.keys()
    assert vit.rest
    assert not structure.is_folded(vit)
