"""Stages are found from the module tree, for any architecture."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from freezecheck.live.capture import capture
from freezecheck.snapshot import Snapshot


def stages(model: nn.Module) -> list[str]:
    return [stage.name for stage in capture({"model": model}, {}).models[0].stages]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ["conv1, bn1", "layer1", "layer2", "layer3", "layer4", "fc"]),
        (
            "densenet121",
            [
                "features.conv0, features.norm0",
                "features.denseblock1",
                "features.transition1",
                "features.denseblock2",
                "features.transition2",
                "features.denseblock3",
                "features.transition3",
                "features.denseblock4",
                "features.norm5",
                "classifier",
            ],
        ),
        ("efficientnet_b0", [*(f"features.{i}" for i in range(9)), "classifier"]),
        (
            "vit_b_16",
            [
                "conv_proj",
                *(f"encoder.layers.encoder_layer_{i}" for i in range(12)),
                "encoder.ln",
                "heads",
            ],
        ),
        ("convnext_tiny", [*(f"features.{i}" for i in range(8)), "classifier"]),
    ],
)
def test_torchvision(name: str, expected: list[str]):
    assert stages(torchvision.models.get_model_builder(name)(weights=None)) == expected


def test_head_and_stem_are_marked():
    now = capture({"model": torchvision.models.resnet18()}, {})
    model = now.models[0]
    assert [stage.kind for stage in model.stages] == ["stem", "", "", "", "", "head"]
    assert model.head is not None
    assert (model.head.path, model.head.shape) == ("fc", (1000, 512))


def test_a_wrapper_of_the_users_is_looked_through():
    class Task(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = torchvision.models.resnet18(num_classes=3)
            self.loss = nn.CrossEntropyLoss()

    assert stages(Task())[1:] == ["net.layer1", "net.layer2", "net.layer3", "net.layer4", "net.fc"]


def test_parameters_beside_the_stages_join_the_first_below():
    class Vit(nn.Module):
        def __init__(self):
            super().__init__()
            self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
            self.embed = nn.Linear(4, 8)
            self.blocks = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
            self.head = nn.Linear(8, 2)

    now = capture({"model": Vit()}, {})
    token = next(p for p in now.params if p.name == "cls_token")
    assert now.models[0].stages[token.stage].name == "embed"


@pytest.mark.parametrize(
    "model",
    [nn.Linear(2, 2), nn.Sequential(), nn.ReLU(), nn.Sequential(nn.Sequential(nn.Linear(2, 2)))],
    ids=["one layer", "empty", "no parameters", "nested"],
)
def test_small_models_have_at_most_one_stage(model: nn.Module):
    now = capture({"model": model}, {})
    assert len(now.models[0].stages) <= 1
    assert len(now.params) == len(list(model.parameters()))


def test_every_parameter_has_a_stage_in_order():
    for name in ("resnet50", "googlenet", "inception_v3", "swin_t", "maxvit_t", "vgg11"):
        extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        model = torchvision.models.get_model_builder(name)(weights=None, **extra)
        now: Snapshot = capture({"model": model}, {})
        indices = [p.stage for p in now.params]
        assert indices == sorted(indices), name
        assert set(indices) == set(range(len(now.models[0].stages))), name


def test_a_very_deep_tree():
    model = nn.Linear(2, 2)
    for _ in range(2000):
        model = nn.Sequential(model)
    assert len(capture({"model": model}, {}).params) == 2
