"""FC4: the modes of norm and dropout layers."""

from __future__ import annotations

import copy
import json
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from recording import record
from torch import nn
from torch.nn import functional as F
from weights import look_trained

from freezecheck.check import check
from freezecheck.finding import Finding, Severity
from freezecheck.live.capture import capture
from freezecheck.rules import (
    fc119_frozen_random_backbone,
    fc401_frozen_batchnorm_in_train_mode,
    fc402_batchnorm_eval_undone,
    fc404_training_in_eval_mode,
    fc406_batchnorm_type_check_too_narrow,
    fc407_track_running_stats_flipped,
    fc409_frozen_part_stochastic,
    fc412_batchnorm_tiny_batch,
    fc413_batchnorm_statistics_never_set,
)
from freezecheck.snapshot import Snapshot

RULES = (
    fc119_frozen_random_backbone.FrozenRandomBackbone(),
    fc401_frozen_batchnorm_in_train_mode.FrozenBatchnormInTrainMode(),
    fc402_batchnorm_eval_undone.BatchnormEvalUndone(),
    fc404_training_in_eval_mode.TrainingInEvalMode(),
    fc406_batchnorm_type_check_too_narrow.BatchnormTypeCheckTooNarrow(),
    fc407_track_running_stats_flipped.TrackRunningStatsFlipped(),
    fc409_frozen_part_stochastic.FrozenPartStochastic(),
    fc412_batchnorm_tiny_batch.BatchnormTinyBatch(),
    fc413_batchnorm_statistics_never_set.BatchnormStatisticsNeverSet(),
)


class Net(nn.Module):
    """A small network of three stages, with norm layers that look trained."""

    def __init__(self, norm: Any = nn.BatchNorm2d, dropout: float = 0.0) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 8, 3), norm(8), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(8, 8, 3), norm(8), nn.ReLU(), nn.Dropout(dropout))
        self.layer3 = nn.Sequential(nn.Conv2d(8, 8, 3), norm(8), nn.ReLU())
        self.fc = nn.Linear(8, 3)
        look_trained(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


IMAGES, LABELS = torch.randn(6, 3, 12, 12), torch.tensor([0, 1, 2, 0, 1, 2])


def probe(model: nn.Module) -> torch.optim.Optimizer:
    """Freeze everything but the head."""
    model.requires_grad_(False)
    model.fc.requires_grad_(True)
    return torch.optim.SGD(model.fc.parameters(), lr=0.1)


def backward(model: nn.Module) -> None:
    F.cross_entropy(model(IMAGES), LABELS).backward()


def live(model: Any, *optimizers: Any) -> list[Finding]:
    """Findings about live objects, by way of JSON."""
    models = model if isinstance(model, dict) else {"model": model}
    now = capture(models, {f"optimizer{i}": o for i, o in enumerate(optimizers)})
    now = Snapshot.from_dict(json.loads(json.dumps(now.to_dict(), allow_nan=False)))
    return check(RULES, snapshots=[now])


def run(code: str) -> list[Finding]:
    """Findings about a script that begins with the network above."""
    recording = record(code, "train.py")
    assert recording.snapshot
    return check(RULES, timeline=recording.timeline, snapshots=[recording.snapshot])


SETUP = """\
import sys, torch
from torch import nn
from torch.nn import functional as F
Net = sys.modules["test_fc4"].Net
model = Net()
"""
PROBE = SETUP + "for p in model.parameters(): p.requires_grad = False\nmodel.fc = nn.Linear(8, 3)\n"
STEP = """
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
F.cross_entropy(model(torch.randn(6, 3, 12, 12)), torch.arange(6) % 3).backward()
optimizer.step()
"""


def codes(findings: list[Finding]) -> list[tuple[str, Severity]]:
    return [(f.code, f.severity) for f in findings]


def statistics(model: nn.Module) -> list[torch.Tensor]:
    return [b.clone() for name, b in model.named_buffers() if "running" in name]


# -- FC401 --------------------------------------------------------------------


def test_frozen_norms_of_a_linear_probe_drift():
    model = Net()
    optimizer = probe(model)
    assert codes(live(model, optimizer)) == [("FC401", Severity.WARNING)]

    frozen, before = copy.deepcopy(model), statistics(model)
    backward(model)
    (found,) = live(model, optimizer)
    assert (found.code, found.severity, found.symbol) == ("FC401", Severity.ERROR, "layer1.1")
    assert "3 BatchNorm layers of model (layer1.1, layer2.1, layer3.1)" in found.message
    optimizer.step()

    # The message is true: no frozen weight moved, and every running statistic did.
    assert all(
        torch.equal(p, q)
        for p, q in zip(model.parameters(), frozen.parameters())
        if not p.requires_grad
    )
    assert not any(torch.equal(a, b) for a, b in zip(before, statistics(model)))


def test_they_drift_under_no_grad_too():
    model, features = Net(), []
    probe(model)
    before = statistics(model)
    with torch.no_grad():
        for _ in range(2):
            features.append(model.layer2(model.layer1(IMAGES)))
    assert not torch.equal(before[0], statistics(model)[0])


def test_only_the_frozen_layers_are_named():
    model = Net()
    model.layer1.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    backward(model)
    (found,) = live(model, optimizer)
    assert found.severity == Severity.WARNING
    assert "1 BatchNorm layer of model (layer1.1)" in found.message


def test_norms_without_weights_follow_their_stage():
    def norm(width: int) -> nn.Module:
        return nn.BatchNorm2d(width, affine=False)

    model = Net(norm)
    for name, p in model.named_parameters():
        p.requires_grad = not name.startswith("layer1.")
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    backward(model)
    (found,) = live(model, optimizer)
    assert "(layer1.1)" in found.message


def test_instance_norm_with_statistics():
    def norm(width: int) -> nn.Module:
        return nn.InstanceNorm2d(width, affine=True, track_running_stats=True)

    model = Net(norm)
    optimizer = probe(model)
    backward(model)
    (found,) = live(model, optimizer)
    assert "3 norm layers" in found.message


def test_through_data_parallel_and_with_two_models():
    model, other = Net(), Net()
    optimizer = probe(model)
    second = torch.optim.SGD(other.parameters(), lr=0.1)
    backward(model)
    backward(other)
    (found,) = live({"student": nn.DataParallel(model), "other": other}, optimizer, second)
    assert found.symbol == "student.layer1.1"
    assert found.subject == ("student",)


class KeepsEval(Net):
    def train(self, mode: bool = True) -> KeepsEval:
        super().train(mode)
        for module in (self.layer1, self.layer2, self.layer3):
            module.eval()
        return self


def frozen_momentum() -> nn.Module:
    model = Net()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 0.0
    return model


def frozen_in_eval() -> nn.Module:
    model = Net()
    model.eval()
    model.fc.train()
    return model


@pytest.mark.parametrize("make", [KeepsEval, frozen_momentum, frozen_in_eval])
def test_healthy_probes(make: Any):
    model = make()
    optimizer = probe(model)
    assert live(model, optimizer) == []
    model.train() if make is KeepsEval else None
    assert live(model, optimizer) == []
    before = statistics(model)
    backward(model)
    assert live(model, optimizer) == []
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(model)))


def adapting() -> tuple[nn.Module, torch.optim.Optimizer]:
    """Test-time adaptation: weight and bias of the norm layers train."""
    model = Net().requires_grad_(False)
    norms = [m.requires_grad_(True) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    return model, torch.optim.SGD([p for m in norms for p in m.parameters()], lr=0.1)


def scratch() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = Net()
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def bitfit() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = Net()
    for name, p in model.named_parameters():
        p.requires_grad = name.endswith("bias")
    return model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)


@pytest.mark.parametrize("make", [adapting, scratch, bitfit])
def test_trainable_norms_in_train_mode_are_fine(make: Any):
    model, optimizer = make()
    assert live(model, optimizer) == []
    backward(model)
    assert live(model, optimizer) == []


def test_a_frozen_teacher_is_no_business_of_ours():
    student, teacher = Net(), Net().requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    assert live({"student": student, "teacher": teacher}, optimizer) == []
    backward(student)
    assert live({"student": student, "teacher": teacher}, optimizer) == []


def test_a_discriminator_paused_for_the_generators_step():
    generator, critic = Net(), Net()
    first = torch.optim.SGD(generator.parameters(), lr=0.1)
    second = torch.optim.SGD(critic.parameters(), lr=0.1)
    critic.requires_grad_(False)
    backward(generator)
    assert live({"generator": generator, "critic": critic}, first, second) == []
    both = nn.ModuleDict({"generator": generator, "critic": critic})
    assert live(both, first, second) == []


def test_a_gan_in_one_module_that_toggles():
    found = run(
        SETUP
        + """
class Gan(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator, self.critic = Net(), Net()
gan = Gan()
first = torch.optim.SGD(gan.generator.parameters(), lr=0.1)
second = torch.optim.SGD(gan.critic.parameters(), lr=0.1)
def loss(net):
    return F.cross_entropy(net(torch.randn(6, 3, 12, 12)), torch.arange(6) % 3)
gan.critic.requires_grad_(False)
loss(gan.generator).backward()
first.step()
gan.critic.requires_grad_(True)
gan.generator.requires_grad_(False)
loss(gan.critic).backward()
second.step()
"""
    )
    assert found == []


@pytest.mark.parametrize(("query", "key"), [("encoder_q", "encoder_k"), ("online", "target")])
def test_a_momentum_encoder_in_the_same_module(query: str, key: str):
    """MoCo and BYOL keep it in train mode, on batch statistics."""
    model = nn.ModuleDict({query: Net(dropout=0.1), key: Net(dropout=0.1).requires_grad_(False)})
    outer = nn.ModuleDict({"learner": model, "predictor": nn.Linear(3, 3)})
    optimizer = torch.optim.SGD([p for p in outer.parameters() if p.requires_grad], lr=0.1)
    assert live(outer, optimizer) == []
    backward(model[query])
    assert live(outer, optimizer) == []


def test_numbered_stages_are_no_copies():
    model = nn.ModuleDict({"net1": Net(), "net2": Net().requires_grad_(False)})
    optimizer = torch.optim.SGD(model["net1"].parameters(), lr=0.1)
    assert [f.code for f in live(model, optimizer)] == ["FC401"]


# -- FC402 --------------------------------------------------------------------


@pytest.mark.parametrize(
    "freeze",
    [
        "for m in model.modules():\n    if isinstance(m, nn.BatchNorm2d): m.eval()",
        "model.apply(lambda m: m.eval() if isinstance(m, nn.BatchNorm2d) else None)",
        "for part in (model.layer1, model.layer2, model.layer3): part.eval()",
        "for part in (model.layer1, model.layer2, model.layer3): part.train(False)",
    ],
)
def test_eval_undone_by_train(freeze: str):
    (found,) = run(PROBE + freeze + "\nmodel.train()" + STEP)
    assert codes([found]) == [("FC402", Severity.ERROR)]
    at = (PROBE + freeze).count("\n") + 2
    assert str(found.site) == f"train.py:{at}"
    assert [str(n.site) for n in found.notes] == [f"train.py:{at - 1}", f"train.py:{at}"]
    assert "3 BatchNorm layers" in found.message


@pytest.mark.parametrize(
    "freeze",
    [
        "model.train()\nmodel.layer1.eval(); model.layer2.eval(); model.layer3.eval()",
        "model.train()\nfor m in model.modules():\n    if isinstance(m, nn.BatchNorm2d): m.eval()",
        "model.eval()\nmodel.train = lambda mode=True: model\nmodel.train()",
    ],
)
def test_eval_that_lasts(freeze: str):
    assert run(PROBE + freeze + STEP) == []


def test_norm_layers_put_in_eval_mode_count_even_where_they_train():
    freeze = "for m in model.modules():\n    if isinstance(m, nn.BatchNorm2d): m.eval()\n"
    assert codes(run(SETUP + freeze + "model.train()" + STEP)) == [("FC402", Severity.ERROR)]
    assert run(SETUP + "model.train()\n" + freeze + STEP) == []


def test_a_validation_before_training_is_no_freeze():
    validate = "model.eval()\nwith torch.no_grad(): model(torch.randn(6, 3, 12, 12))\n"
    assert run(SETUP + validate + "model.train()" + STEP) == []
    assert run(SETUP + "model.layer1.eval()\nmodel.train()" + STEP) == []  # it trains: unclear
    assert codes(run(PROBE + validate + "model.train()" + STEP)) == [("FC401", Severity.ERROR)]


def test_before_a_loop_that_cannot_be_seen():
    model = Net()
    optimizer = probe(model)
    model.apply(lambda m: m.eval() if isinstance(m, nn.BatchNorm2d) else None)
    (found,) = live(model, optimizer)
    assert codes([found]) == [("FC402", Severity.INFO)]
    backward(model)
    assert live(model, optimizer) == []  # the forward had them in eval mode
    model.train()  # and what was said would happen, happens
    assert codes(live(model, optimizer)) == [("FC401", Severity.ERROR)]


# -- FC404 --------------------------------------------------------------------


@pytest.fixture
def library() -> Iterator[None]:
    """A package that returns its models in eval mode, as transformers does."""
    module = types.ModuleType("hub")
    source = "def load(build):\n    return build().eval()\n"
    exec(compile(source, "/usr/lib/site-packages/hub/__init__.py", "exec"), module.__dict__)
    sys.modules["hub"] = module
    yield
    del sys.modules["hub"]


HUB = SETUP.replace("model = Net()", "import hub\nmodel = hub.load(lambda: Net(dropout=0.1))")


@pytest.mark.usefixtures("library")
def test_a_library_returned_it_in_eval_mode():
    (found,) = run(HUB + STEP)
    assert codes([found]) == [("FC404", Severity.ERROR)]
    assert str(found.site) == "train.py:6"
    assert "3 trainable BatchNorm layers" in found.message
    assert "1 dropout layer off (layer2.3)" in found.message


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    "mode",
    [
        "model.train()",
        "model.eval()",  # on purpose
        "model.train()\nmodel.eval()",
        "for m in model.modules(): m.training = True",
    ],
)
def test_a_mode_that_the_user_chose(mode: str):
    assert run(HUB + mode + STEP) == []


@pytest.mark.usefixtures("library")
def test_part_of_the_model_came_in_eval_mode():
    code = HUB.replace("hub.load(lambda: Net(dropout=0.1))", "Net(dropout=0.1)")
    code += "model.layer1 = hub.load(lambda: Net().layer1)\n"
    (found,) = run(code + STEP)
    assert codes([found]) == [("FC404", Severity.WARNING)]
    assert "1 trainable BatchNorm layer on old statistics (layer1.1)" in found.message


@pytest.mark.usefixtures("library")
def test_a_frozen_part_in_eval_mode_is_as_it_should_be():
    assert run(HUB + "model.requires_grad_(False)\nmodel.fc = nn.Linear(8, 3)" + STEP) == []


def test_a_whole_module_loaded_in_eval_mode():
    load = "import io\nfile = io.BytesIO()\ntorch.save(Net().eval(), file)\nfile.seek(0)\n"
    load += "model = torch.load(file, weights_only=False)\n"
    assert codes(run(SETUP + load + STEP)) == [("FC404", Severity.WARNING)]


def test_live_in_eval_mode():
    model, optimizer = scratch()
    model.eval()
    assert live(model, optimizer) == []  # nothing has run yet
    before = statistics(model)
    backward(model)
    # Perhaps it was put in eval mode after its training forward.
    assert codes(live(model, optimizer)) == [("FC404", Severity.INFO)]
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(model)))


@pytest.mark.parametrize("norm", [nn.Identity, lambda width: nn.GroupNorm(2, width)])
def test_eval_mode_without_any_layer_that_minds(norm: Any):
    model = Net(norm).eval()
    backward(model)
    assert live(model, torch.optim.SGD(model.parameters(), lr=0.1)) == []


# -- FC406 --------------------------------------------------------------------


class Odd(nn.BatchNorm2d):
    """A norm layer of one's own."""


def mixed() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = Net()
    model.layer2[1] = Odd(8)
    look_trained(model)
    return model, probe(model)


def test_layers_of_another_class_were_missed():
    model, optimizer = mixed()
    model.apply(lambda m: m.eval() if type(m) is nn.BatchNorm2d else None)
    backward(model)
    (found,) = live(model, optimizer)
    assert codes([found]) == [("FC406", Severity.WARNING)]
    assert "Only BatchNorm2d layers" in found.message
    assert "1 BatchNorm layer of model (layer2.1), of class Odd" in found.message


def test_converted_to_sync_batchnorm_after_the_freeze():
    model, optimizer = mixed()
    for m in model.modules():
        if isinstance(m, nn.SyncBatchNorm):
            m.eval()
    model.layer1[1] = nn.SyncBatchNorm.convert_sync_batchnorm(model.layer1[1]).eval()
    backward(model)
    assert codes(live(model, optimizer)) == [("FC406", Severity.WARNING)]


def test_parts_in_eval_mode_are_no_type_check():
    model, optimizer = mixed()
    model.layer1.eval()
    model.layer3.eval()
    backward(model)
    (found,) = live(model, optimizer)
    assert (found.code, found.symbol) == ("FC401", "layer2.1")


def test_one_by_one_but_not_by_class():
    model, optimizer = mixed()
    model.layer1[1].eval()  # layer3's, of the same class, was forgotten
    backward(model)
    (found,) = live(model, optimizer)
    assert found.code == "FC401"


def test_the_other_class_trains():
    model, _ = mixed()
    model.layer2.requires_grad_(True)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.apply(lambda m: m.eval() if type(m) is nn.BatchNorm2d else None)
    backward(model)
    assert live(model, optimizer) == []


# -- FC407 --------------------------------------------------------------------


def test_tracking_switched_off_later():
    model, optimizer = scratch()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.track_running_stats = False
    before = statistics(model)
    backward(model)
    (found,) = live(model, optimizer)
    assert codes([found]) == [("FC407", Severity.WARNING)]
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(model)))
    with torch.no_grad():  # train and eval mode indeed disagree
        assert not torch.allclose(model(IMAGES), model.eval()(IMAGES), atol=1e-3)
    assert "FC407" not in [f.code for f in live(model.eval(), optimizer)]


def test_tracking_off_from_the_start_and_statistics_taken_away():
    model, optimizer = scratch()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.track_running_stats, m.running_mean, m.running_var = False, None, None
    backward(model)
    assert live(model, optimizer) == []
    with torch.no_grad():
        assert torch.allclose(model(IMAGES), model.eval()(IMAGES), atol=1e-5)


def test_tracking_off_for_one_forward():
    """Virtual adversarial training switches it off and on again."""
    switch = """
def tracking(on):
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.track_running_stats = on
tracking(False)
model(torch.randn(6, 3, 12, 12))
tracking(True)
"""
    assert run(SETUP + switch + STEP) == []
    (found,) = run(SETUP + switch.replace("tracking(True)", "") + STEP)
    assert (found.code, str(found.site)) == ("FC407", "train.py:10")


# -- FC409 --------------------------------------------------------------------


def test_dropout_in_a_frozen_part():
    model = Net(nn.Identity, dropout=0.3)
    optimizer = probe(model)
    (found,) = live(model, optimizer)
    assert codes([found]) == [("FC409", Severity.INFO)]
    assert found.symbol == "layer2.3"
    features = [model.layer2(model.layer1(IMAGES)) for _ in range(2)]
    assert not torch.equal(*features)
    model.layer2.eval()
    assert live(model, optimizer) == []


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_dropout_that_something_before_it_learns_through(p: float):
    model = Net(nn.Identity, dropout=p)
    model.layer2.requires_grad_(False)
    optimizer = torch.optim.SGD([q for q in model.parameters() if q.requires_grad], lr=0.1)
    assert live(model, optimizer) == []


def test_dropout_between_the_backbone_and_a_new_head():
    model = nn.Sequential(
        nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), nn.Dropout(0.5), nn.Linear(8, 2)
    )
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    assert live(model, optimizer) == []


# -- FC412 --------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "expected"), [(1, ["FC412"]), (2, ["FC412"]), (4, [])])
def test_batches_of_a_few(batch: int, expected: list[str]):
    step = STEP.replace("randn(6", f"randn({batch}").replace("arange(6)", f"arange({batch})")
    found = run(SETUP + "model.train()" + step)
    assert [f.code for f in found] == expected
    for f in found:
        assert f"over {batch} sample" in f.message
        assert str(f.site) == "train.py:6"


def test_tiny_batches_on_fixed_statistics():
    step = STEP.replace("randn(6", "randn(2").replace("arange(6)", "arange(2)")
    assert run(SETUP + "model.eval()" + step) == []


def test_a_dummy_forward_before_training_does_not_count():
    assert run(SETUP + "model(torch.randn(1, 3, 12, 12))\n" + STEP) == []


def test_points_of_a_cloud_are_samples():
    code = """
import torch
from torch import nn
model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.randn(2, 64, 3).flatten(0, 1)).sum().backward()
optimizer.step()
"""
    assert run(code) == []


def test_noise_of_small_batches_is_as_large_as_said():
    """The statistics of 2 images stray from those of all; of 32, by a quarter as much."""
    torch.manual_seed(0)
    images = torch.randn(512, 3, 12, 12) + torch.randn(512, 3, 1, 1)  # images differ as a whole
    means = {n: images.view(-1, n, 3, 12, 12).mean((1, 3, 4)).std(0).mean() for n in (2, 32)}
    assert 3 < means[2] / means[32] < 5


# -- FC413 --------------------------------------------------------------------


def untrained() -> nn.Module:
    model = Net()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.reset_parameters()
            m.reset_running_stats()
    return model


def test_frozen_norms_that_were_never_set():
    model = untrained()
    look_trained(model.layer3)  # so that it is not the whole backbone that is untrained
    optimizer = probe(model)
    model.eval()
    (found,) = live(model, optimizer)
    assert codes([found]) == [("FC413", Severity.WARNING)]
    assert "2 BatchNorm layers of model (layer1.1, layer2.1)" in found.message
    x = torch.randn(4, 8, 5, 5)
    assert torch.allclose(model.layer1[1](x), x, atol=1e-4)  # they normalise nothing


def test_an_untrained_model_in_eval_mode():
    model = untrained().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert live(model, optimizer) == []  # for the moment, perhaps
    backward(model)
    assert "FC413" in [f.code for f in live(model, optimizer)]
    assert "FC413" not in [f.code for f in live(model)]


def test_new_layers_in_a_model_that_trains_in_eval_mode():
    model = Net()
    optimizer = probe(model)
    model.fc = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.1)
    model.eval()
    backward(model)
    assert [f.code for f in live(model, optimizer) if f.severity > Severity.INFO] == []


def test_statistics_folded_into_weight_and_bias():
    """Weights converted from Caffe: mean 0, variance 1, no batch tracked, trained affine."""
    model = Net()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.reset_running_stats()
    optimizer = probe(model)
    model.eval()
    backward(model)
    assert live(model, optimizer) == []


# -- All ----------------------------------------------------------------------


@pytest.mark.frameworks
@pytest.mark.slow
def test_the_transformers_trainer_undoes_an_eval(tmp_path: Any):
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    code = (
        PROBE
        + f"""
from transformers import Trainer, TrainingArguments

class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = model
    def forward(self, pixels, labels=None):
        logits = self.net(pixels)
        return {{"loss": F.cross_entropy(logits, labels), "logits": logits}}

wrapped = Wrapped()
for m in wrapped.modules():
    if isinstance(m, nn.BatchNorm2d):
        m.eval()
data = [{{"pixels": torch.randn(3, 12, 12), "labels": i % 3}} for i in range(8)]
arguments = TrainingArguments({str(tmp_path)!r}, report_to="none", use_cpu=True)
trainer = Trainer(wrapped, arguments, train_dataset=data)
trainer.train()
"""
    )
    (found,) = run(code)
    assert codes([found]) == [("FC402", Severity.ERROR)]
    assert code.splitlines()[found.site.line - 1] == "trainer.train()"


@pytest.mark.frameworks
@pytest.mark.slow
@pytest.mark.parametrize("frozen_mode", ["eval", "train"])
def test_lightning_keeps_the_modes_it_finds(frozen_mode: str, tmp_path: Any):
    pytest.importorskip("lightning")
    code = (
        PROBE
        + f"""
import lightning as L

class Lit(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(model.layer1, model.layer2, model.layer3)
        self.backbone.{frozen_mode}()
        self.head = nn.Linear(8, 3)
    def training_step(self, batch, index):
        x, y = batch
        return F.cross_entropy(self.head(self.backbone(x).mean((2, 3))), y)
    def validation_step(self, batch, index):
        self.training_step(batch, index)
    def configure_optimizers(self):
        return torch.optim.SGD(self.head.parameters(), lr=0.1)

data = [(torch.randn(3, 12, 12), i % 3) for i in range(8)]
loader = torch.utils.data.DataLoader(data, batch_size=4)
trainer = L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
                    enable_progress_bar=False, default_root_dir={str(tmp_path)!r})
trainer.fit(Lit(), loader, loader)
"""
    )
    found = [f.code for f in run(code)]
    assert found == ([] if frozen_mode == "eval" else ["FC401"])
