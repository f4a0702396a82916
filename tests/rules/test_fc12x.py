"""FC119 to FC122: nothing to train, nothing to train from, and heads that are none."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torchvision
from recording import record
from torch import nn
from torch.nn import functional as F
from weights import look_trained

from freezecheck.check import check
from freezecheck.finding import Finding, Severity
from freezecheck.live.capture import capture
from freezecheck.rules import (
    fc119_frozen_random_backbone,
    fc120_nothing_trainable,
    fc121_head_attribute_unused,
    fc122_out_features_assignment,
    fc401_frozen_batchnorm_in_train_mode,
)
from freezecheck.rules.fc121_head_attribute_unused import _HEADS
from freezecheck.snapshot import Snapshot

RULES = (
    fc119_frozen_random_backbone.FrozenRandomBackbone(),
    fc120_nothing_trainable.NothingTrainable(),
    fc121_head_attribute_unused.HeadAttributeUnused(),
    fc122_out_features_assignment.OutFeaturesAssignment(),
    fc401_frozen_batchnorm_in_train_mode.FrozenBatchnormInTrainMode(),
)


class Net(nn.Module):
    """A small network of three stages and a head, from scratch."""

    def __init__(self, norm: Any = nn.BatchNorm2d) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 8, 3), norm(8), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(8, 8, 3), norm(8), nn.ReLU())
        self.layer3 = nn.Sequential(nn.Conv2d(8, 8, 3), norm(8), nn.ReLU())
        self.fc = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


IMAGES, LABELS = torch.randn(6, 3, 12, 12), torch.tensor([0, 1, 2, 0, 1, 2])


def optimizer_of(*modules: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for m in modules for p in m.parameters()], lr=0.1)


def backward(model: nn.Module) -> None:
    F.cross_entropy(model(IMAGES), LABELS).backward()


def live(model: Any, *optimizers: Any) -> list[Finding]:
    """Findings about live objects, by way of JSON."""
    models = model if isinstance(model, dict) else {"model": model}
    now = capture(models, {f"optimizer{i}": o for i, o in enumerate(optimizers)})
    now = Snapshot.from_dict(json.loads(json.dumps(now.to_dict(), allow_nan=False)))
    return check(RULES, snapshots=[now])


def run(code: str) -> list[Finding]:
    recording = record(code, "train.py")
    assert recording.snapshot
    return check(RULES, timeline=recording.timeline, snapshots=[recording.snapshot])


SETUP = """\
import sys, torch
from torch import nn
from torch.nn import functional as F
Net = sys.modules["test_fc12x"].Net
model = Net().eval()
"""
STEP = """
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
F.cross_entropy(model(torch.randn(6, 3, 12, 12)), torch.arange(6) % 3).backward()
optimizer.step()
"""


def codes(findings: list[Finding]) -> list[tuple[str, Severity]]:
    return [(f.code, f.severity) for f in findings]


# -- FC119 --------------------------------------------------------------------


def test_a_random_backbone_is_frozen():
    model = Net().requires_grad_(False)
    model.fc.requires_grad_(True)
    optimizer = optimizer_of(model.fc)
    assert codes(live(model, optimizer)) == [("FC119", Severity.WARNING)]  # and no FC401
    backward(model)
    (found,) = live(model, optimizer)
    assert codes([found]) == [("FC119", Severity.ERROR)]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert f"{len(frozen)} tensors ({sum(p.numel() for p in frozen):,} parameters)" in found.message


def test_one_step_of_training_is_enough_to_tell():
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    backward(model)
    optimizer.step()
    model.requires_grad_(False)
    model.fc.requires_grad_(True)
    assert live(model.eval(), optimizer_of(model.fc)) == []


def test_the_last_stage_is_unfrozen_with_the_head():
    model = Net().requires_grad_(False).eval()
    model.fc.requires_grad_(True)
    model.layer3.requires_grad_(True)
    backward(model)
    assert codes(live(model, optimizer_of(model.layer3, model.fc))) == [("FC119", Severity.ERROR)]


def frozen_stem() -> tuple[nn.Module, torch.optim.Optimizer]:
    """Some vision transformers keep a random patch projection, for stability."""
    model = Net()
    model.layer1.requires_grad_(False)
    model.layer1.eval()
    look = [p for p in model.parameters() if p.requires_grad]
    return model, torch.optim.SGD(look, lr=0.1)


def from_scratch() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = Net()
    return model, optimizer_of(model)


def without_norms() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = Net(nn.Identity).requires_grad_(False)
    model.fc.requires_grad_(True)
    return model, optimizer_of(model.fc)


def norms_only() -> tuple[nn.Module, torch.optim.Optimizer]:
    """Training BatchNorm and only BatchNorm (Frankle et al. 2021), on random features."""
    model = Net().requires_grad_(False)
    parts = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)] + [model.fc]
    for m in parts:
        m.requires_grad_(True)
    return model, optimizer_of(*parts)


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = look_trained(Net()).requires_grad_(False).eval()
    model.fc.requires_grad_(True)
    return model, optimizer_of(model.fc)


def head_outside_the_optimizer() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = Net().requires_grad_(False).eval()
    model.fc.requires_grad_(True)
    return model, torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1)


@pytest.mark.parametrize(
    "make",
    [frozen_stem, from_scratch, without_norms, norms_only, trained, head_outside_the_optimizer],
)
def test_not_a_random_backbone(make: Any):
    model, optimizer = make()
    assert live(model, optimizer) == []
    backward(model)
    assert live(model, optimizer) == []


def test_a_gan_from_scratch_in_one_module():
    gan = nn.ModuleDict({"generator": Net(), "critic": Net()})
    first, second = optimizer_of(gan["generator"]), optimizer_of(gan["critic"])
    gan["generator"].requires_grad_(False)
    assert live(gan, first, second) == []
    backward(gan["critic"])
    assert live(gan, first, second) == []


def test_a_target_network_from_scratch():
    online, target = Net(), Net().requires_grad_(False)
    assert live({"online": online, "target": target}, optimizer_of(online)) == []


def test_the_line_of_a_checkpoint_that_did_not_fit():
    load = "state = {f'module.{k}': v for k, v in Net().state_dict().items()}\n"
    load += "model.load_state_dict(state, strict=False)\n"
    freeze = "model.requires_grad_(False)\nmodel.fc = nn.Linear(8, 3)\n"
    (found,) = run(SETUP + load + freeze + STEP)
    assert codes([found]) == [("FC119", Severity.ERROR)]
    assert str(found.site) == "train.py:7"
    assert "none of the 23 tensors" in found.notes[0].message


# -- FC120 --------------------------------------------------------------------


def test_everything_is_frozen():
    model = look_trained(Net()).requires_grad_(False)
    optimizer = optimizer_of(model)
    (found,) = live(model, optimizer)
    assert codes([found]) == [("FC120", Severity.ERROR)]
    assert "all 14 tensors of model" in found.message
    with pytest.raises(RuntimeError, match="does not require grad"):
        backward(model)


def test_it_stands_for_what_the_optimizer_holds():
    class OnlyFrozen(type(RULES[0])):
        code, name, explains = "FC203", "optimizer-only-frozen", ()

        def in_snapshot(self, now: Snapshot, past: Any) -> Iterator[Finding]:
            yield self.finding("all frozen", subject="optimizer0")

    model = look_trained(Net()).requires_grad_(False)
    now = capture({"model": model}, {"optimizer0": optimizer_of(model)})
    found = check((OnlyFrozen(), *RULES), snapshots=[now])
    assert [f.code for f in found] == ["FC120"]


def test_frozen_on_purpose():
    model = look_trained(Net()).requires_grad_(False)
    assert live(model) == []  # nothing is to be trained
    image = torch.zeros(1, 3, 12, 12, requires_grad=True)
    assert live(model, torch.optim.SGD([image], lr=0.1)) == []
    other = look_trained(Net())
    assert live({"student": other, "teacher": model}, optimizer_of(other)) == []


def test_frozen_after_training():
    model = look_trained(Net())
    optimizer = optimizer_of(model)
    backward(model)
    assert live(model.requires_grad_(False), optimizer) == []


def test_layers_in_a_list_train():
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.layers = [nn.Linear(4, 4)]

    model = Listed().requires_grad_(False)
    assert live(model, optimizer_of(model)) == []  # FC112 has it


# -- FC121 --------------------------------------------------------------------

BUILDERS = {
    "torchvision.models.alexnet.AlexNet": "alexnet",
    "torchvision.models.convnext.ConvNeXt": "convnext_tiny",
    "torchvision.models.densenet.DenseNet": "densenet121",
    "torchvision.models.efficientnet.EfficientNet": "efficientnet_b0",
    "torchvision.models.googlenet.GoogLeNet": "googlenet",
    "torchvision.models.inception.Inception3": "inception_v3",
    "torchvision.models.maxvit.MaxVit": "maxvit_t",
    "torchvision.models.mnasnet.MNASNet": "mnasnet0_5",
    "torchvision.models.mobilenetv2.MobileNetV2": "mobilenet_v2",
    "torchvision.models.mobilenetv3.MobileNetV3": "mobilenet_v3_small",
    "torchvision.models.regnet.RegNet": "regnet_y_400mf",
    "torchvision.models.resnet.ResNet": "resnet18",
    "torchvision.models.shufflenetv2.ShuffleNetV2": "shufflenet_v2_x0_5",
    "torchvision.models.squeezenet.SqueezeNet": "squeezenet1_1",
    "torchvision.models.swin_transformer.SwinTransformer": "swin_t",
    "torchvision.models.vgg.VGG": "vgg11",
    "torchvision.models.video.mvit.MViT": "mvit_v1_b",
    "torchvision.models.video.resnet.VideoResNet": "r3d_18",
    "torchvision.models.video.s3d.S3D": "s3d",
    "torchvision.models.video.swin_transformer.SwinTransformer3d": "swin3d_t",
    "torchvision.models.vision_transformer.VisionTransformer": "vit_b_32",
}


def test_every_architecture_of_the_table_is_tried():
    assert BUILDERS.keys() == _HEADS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("kind", BUILDERS)
def test_the_table_is_true(kind: str):
    """The head in the table is what makes the outputs; another name is not called."""
    name = BUILDERS[kind]
    quick = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    if name == "regnet_y_400mf":  # its constructor computes, which a meta device cannot
        model = torchvision.models.get_model(name, weights=None)
    else:
        with torch.device("meta"):
            model = torchvision.models.get_model(name, weights=None, **quick)
    assert f"{type(model).__module__}.{type(model).__qualname__}" == kind
    head = getattr(model, _HEADS[kind])
    last = [m for m in head.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.Conv3d))][-1]
    outputs = last.weight.shape[0]
    assert outputs in (400, 1000)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert live(model, optimizer) == []

    wrong = "fc" if _HEADS[kind] != "fc" else "classifier"
    setattr(model, wrong, nn.Linear(4, 5))
    (found,) = live(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert codes([found]) == [("FC121", Severity.WARNING)]
    assert found.symbol == wrong
    assert f"still gives {outputs:,} outputs" in found.message


def squeezenet() -> nn.Module:
    return torchvision.models.squeezenet1_1()


def test_a_head_that_nobody_calls():
    model = squeezenet()
    model.fc = nn.Linear(512, 5)
    optimizer = optimizer_of(model)
    out = model(torch.randn(2, 3, 32, 32))
    out.sum().backward()
    (found,) = live(model, optimizer)
    assert codes([found]) == [("FC121", Severity.ERROR)]
    assert (out.shape[1], model.fc.weight.grad) == (1000, None)


def test_the_users_own_code_calls_it():
    model = squeezenet()
    model.fc = nn.Linear(512, 5)
    optimizer = optimizer_of(model.fc)
    model.fc(model.features(torch.randn(2, 3, 32, 32)).mean((2, 3))).sum().backward()
    assert live(model, optimizer) == []


def test_a_subclass_may_call_what_it_likes():
    class Mine(torchvision.models.SqueezeNet):
        def __init__(self) -> None:
            super().__init__("1_1")
            self.fc = nn.Linear(512, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.features(x).mean((2, 3)))

    model = Mine()
    assert live(model, optimizer_of(model)) == []


def test_the_right_head_replaced():
    model = torchvision.models.resnet18()
    model.fc = nn.Linear(512, 5)
    assert live(model, optimizer_of(model)) == []


@pytest.fixture
def timm() -> Iterator[None]:
    """A library's model whose head has another name, without that library."""
    source = """
from torch import nn
class ViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.blocks = nn.Sequential(*[nn.Linear(8, 8) for _ in range(3)])
        self.head = nn.Linear(8, 10)
    def forward(self, x):
        return self.head(self.blocks(self.embed(x)))
"""
    module = types.ModuleType("timm.models.vit")
    exec(compile(source, "/usr/lib/site-packages/timm/vit.py", "exec"), module.__dict__)
    sys.modules["timm.models.vit"] = module
    yield
    del sys.modules["timm.models.vit"]


TIMM = """\
import sys, torch
from torch import nn
model = sys.modules["timm.models.vit"].ViT()
model.{} = nn.Linear(8, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.randn(6, 4)).sum().backward()
optimizer.step()
"""


@pytest.mark.usefixtures("timm")
def test_another_library_in_a_run():
    (found,) = run(TIMM.format("fc"))
    assert codes([found]) == [("FC121", Severity.ERROR)]
    assert str(found.site) == "train.py:4"
    assert "the head of ViT is model.head, which still gives 10 outputs" in found.message
    assert run(TIMM.format("head")) == []


# -- FC122 --------------------------------------------------------------------


def test_a_number_changed():
    model = look_trained(Net())
    model.fc.out_features = 7
    (found,) = live(model, optimizer_of(model))
    assert (found.code, found.symbol) == ("FC122", "fc.out_features")
    assert "says 7" in found.message
    assert "makes 3 outputs" in found.message
    assert model(IMAGES).shape[1] == 3


def test_a_channel_number_changed():
    model = look_trained(Net())
    model.layer3[0].out_channels = 16
    (found,) = live(model, optimizer_of(model))
    assert found.symbol == "layer3.0.out_channels"


def test_weight_and_number_changed_together():
    model = look_trained(Net())
    model.fc.weight = nn.Parameter(model.fc.weight.detach()[:2].clone())
    model.fc.bias = nn.Parameter(model.fc.bias.detach()[:2].clone())
    model.fc.out_features = 2
    assert live(model, optimizer_of(model)) == []
    assert model(IMAGES).shape[1] == 2


def test_the_line_that_changed_it():
    (found,) = run(SETUP + "model.fc.out_features = 7\n" + STEP)
    assert (found.code, str(found.site)) == ("FC122", "train.py:6")


def test_grouped_and_transposed_convolutions_are_as_they_say():
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2),
        nn.ConvTranspose2d(8, 4, 3),
        nn.Conv1d(4, 2, 1),
        nn.Linear(2, 2),
    )
    assert live(model, optimizer_of(model)) == []


# -- All ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "vit_b_32"]
)
def test_torchvision_from_scratch(name: str):
    model = torchvision.models.get_model(name, weights=None)
    assert live(model, torch.optim.AdamW(model.parameters())) == []
