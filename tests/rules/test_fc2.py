"""FC2, the optimizer's members and state: what fires, what must not, and that it is true."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from recording import record
from torch import nn
from torch.nn import functional as F
from torchvision import models as zoo

from freezecheck import catalogue
from freezecheck.check import check
from freezecheck.finding import Finding, Severity
from freezecheck.live.capture import capture
from freezecheck.snapshot import Snapshot

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def labelled(things: Any, word: str) -> dict[str, Any]:
    return things if isinstance(things, Mapping) else {word: things}


def findings(model: Any, optimizer: Any, scheduler: Any = None) -> list[Finding]:
    """What the FC2 rules say of these objects, by way of JSON."""
    now = capture(
        labelled(model, "model"),
        labelled(optimizer, "optimizer"),
        {"scheduler": scheduler} if scheduler else {},
    )
    now = Snapshot.from_dict(json.loads(json.dumps(now.to_dict(), allow_nan=False)))
    return check(catalogue.select(["FC2"]), snapshots=[now])


def codes(*args: Any) -> list[str]:
    return [finding.code for finding in findings(*args)]


def one(*args: Any) -> Finding:
    (finding,) = findings(*args)
    return finding


def recorded(code: str) -> list[Finding]:
    """What all rules say of a script, but for what is no concern here."""
    return [f for f in record(code).findings() if f.code.startswith("FC2")]


class Net(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 16)
        self.body = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
        self.head = nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.stem(x).relu()))


def backward(model: nn.Module) -> None:
    F.cross_entropy(model(torch.randn(12, 8)), torch.arange(12) % 3).backward()


def moved(model: nn.Module, *optimizers: torch.optim.Optimizer) -> set[str]:
    """The names of the parameters that a step of these optimizers changes."""
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for optimizer in optimizers:
        optimizer.step()
    return {n for n, p in model.named_parameters() if not torch.equal(before[n], p)}


# -- FC201 ---------------------------------------------------------------------


def test_unfrozen_after_the_optimizer_was_built():
    model = Net()
    model.body.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.body.requires_grad_(True)
    for _ in range(2):  # before the first backward, and after it
        finding = one(model, optimizer)
        assert (finding.code, finding.severity) == ("FC201", Severity.ERROR)
        assert finding.symbol == "body.0.weight"
        assert "4 trainable tensors" in finding.message
        backward(model)
    assert moved(model, optimizer) == {"stem.weight", "stem.bias", "head.weight", "head.bias"}


def test_replaced_head_tells_of_the_old_one():
    model = Net(classes=10)
    optimizer = torch.optim.AdamW(model.parameters())
    model.head = nn.Linear(16, 3)
    backward(model)
    finding = one(model, optimizer)
    assert finding.code == "FC201"
    assert "head.weight, head.bias" in finding.message
    assert "(10, 16), (10,)" in finding.notes[-1].message
    assert not {"head.weight", "head.bias"} & moved(model, optimizer)


def test_a_probe_before_the_first_gradient_is_a_warning():
    model = Net()
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
    assert one(model, optimizer).severity == Severity.WARNING
    with torch.no_grad():
        features = model.body(model.stem(torch.randn(12, 8)).relu())
    F.cross_entropy(model.head(features), torch.arange(12) % 3).backward()
    assert codes(model, optimizer) == []


def test_a_head_that_is_forgotten_is_an_error():
    model = Net()
    optimizer = torch.optim.SGD([*model.stem.parameters(), *model.body.parameters()], lr=0.1)
    assert one(model, optimizer).severity == Severity.ERROR


def test_copies_and_second_models_are_no_concern_before_a_gradient():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    others = {"model": model, "ema": copy.deepcopy(model), "teacher": Net(classes=9)}
    assert codes(others, optimizer) == []
    backward(model)
    assert codes(others, optimizer) == []


def test_target_network_inside_the_model():
    class Agent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.online = Net()
            self.target = copy.deepcopy(self.online)

    agent = Agent()
    assert codes(agent, torch.optim.Adam(agent.online.parameters())) == []


def test_second_optimizer_counts():
    model = Net()
    first = torch.optim.SGD([*model.stem.parameters(), *model.body.parameters()], lr=0.1)
    second = torch.optim.SGD(model.head.parameters(), lr=0.1)
    backward(model)
    assert codes(model, {"first": first, "second": second}) == []
    assert codes(model, {"first": first}) == ["FC201"]


@pytest.mark.parametrize(
    ("change", "lost"),
    [("unfreeze(model, 'layer1')", 8), ("model.reset_classifier(3)", 2)],
    ids=["unfreeze", "reset_classifier"],
)
def test_timm_makes_new_parameters(change: str, lost: int):
    """`freeze` turns BatchNorm parameters into buffers, `unfreeze` makes new ones."""
    pytest.importorskip("timm")
    (finding,) = recorded(
        f"""
import timm, torch
from timm.utils import freeze, unfreeze
model = timm.create_model("resnet18", num_classes=4)
freeze(model, "layer1") if "unfreeze" in {change!r} else None
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
{change}
model(torch.randn(4, 3, 32, 32)).sum().backward()
optimizer.step()
"""
    )
    assert finding.code == "FC201"
    assert finding.message.startswith(f"{lost} trainable tensors")


def test_lazy_probe_in_a_run_is_a_warning():
    """No line froze anything: the optimizer was given a part of the model."""
    (finding,) = recorded(
        """
import torch
from torch import nn

model = nn.Sequential()
model.backbone = nn.Linear(8, 16)
model.norm = nn.LayerNorm(16)
model.head = nn.Linear(16, 4)
with torch.no_grad():
    for p in model.parameters():
        p.add_(0.3 * torch.randn_like(p))
optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
nn.functional.cross_entropy(model(torch.randn(8, 8)), torch.arange(8) % 4).backward()
optimizer.step()
"""
    )
    assert (finding.code, finding.severity) == ("FC201", Severity.WARNING)
    assert "freeze them" in finding.fix.message


REBUILT = """
import torch
from torch import nn

model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
{keep}
optimizer = torch.optim.SGD({params}, lr=0.1)
for i in range(6):
    optimizer.zero_grad()
    model(torch.randn(3, 4)).sum().backward()
    optimizer.step()
"""


@pytest.mark.parametrize(
    "keep", ["scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)", "old = optimizer"]
)
def test_an_optimizer_that_was_replaced_holds_nothing(keep: str):
    (finding,) = recorded(REBUILT.format(keep=keep, params="model[2].parameters()"))
    assert finding.code == "FC201"
    assert "which is not stepped" in finding.message
    assert recorded(REBUILT.format(keep=keep, params="model.parameters()")) == []


LOSS_NETWORK = """
import torch
from torch import nn

class Perceptual(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)){mode}

    def forward(self, a, b):
        return (self.net(a) - self.net(b)).square().mean()

model, loss = nn.Linear(4, 4), Perceptual()
optimizer = torch.optim.Adam(model.parameters())
x = torch.randn(5, 4)
loss(model(x), x).backward()
optimizer.step()
"""


def test_a_loss_network_in_eval_mode_is_meant_so():
    assert recorded(LOSS_NETWORK.format(mode=".eval()")) == []
    (finding,) = recorded(LOSS_NETWORK.format(mode=""))
    assert (finding.code, finding.severity) == ("FC201", Severity.WARNING)


HEALTHY_RUNS = {
    "critic steps five times, generator not detached": """
import torch
from torch import nn
generator, critic = nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1))
opt_gen = torch.optim.RMSprop(generator.parameters(), lr=1e-4)
opt_critic = torch.optim.RMSprop(critic.parameters(), lr=1e-4)
for _ in range(2):
    for _ in range(5):
        fake = generator(torch.randn(16, 4))
        critic.zero_grad()
        (critic(fake).mean() - critic(torch.randn(16, 8)).mean()).backward(retain_graph=True)
        opt_critic.step()
    generator.zero_grad()
    (-critic(fake).mean()).backward()
    opt_gen.step()
""",
    "discriminator frozen during the generator's step": """
import torch
from torch import nn
generator, critic = nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1))
opt_g = torch.optim.Adam(generator.parameters())
opt_d = torch.optim.Adam(critic.parameters())
for _ in range(2):
    fake = generator(torch.randn(16, 4))
    critic.requires_grad_(True)
    opt_d.zero_grad()
    (critic(fake.detach()).mean() - critic(torch.randn(16, 8)).mean()).backward()
    opt_d.step()
    critic.requires_grad_(False)
    opt_g.zero_grad()
    (-critic(fake).mean()).backward()
    opt_g.step()
""",
    "the worker's gradients go to the shared model": """
import torch
from torch import nn
shared, local = (nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)) for _ in range(2))
optimizer = torch.optim.Adam(shared.parameters())
local.load_state_dict(shared.state_dict())
local(torch.randn(4, 8)).sum().backward()
for mine, theirs in zip(local.parameters(), shared.parameters()):
    theirs._grad = mine.grad
optimizer.step()
""",
    "master copies in another precision": """
import torch
from torch import nn
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).to(torch.bfloat16)
master = [nn.Parameter(p.detach().float()) for p in model.parameters()]
optimizer = torch.optim.Adam(master)
model(torch.randn(3, 4).bfloat16()).sum().backward()
for copy, p in zip(master, model.parameters()):
    copy.grad = p.grad.float()
optimizer.step()
""",
    "a prompt before an unfrozen model": """
import torch
from torch import nn
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.body = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    def forward(self, tokens, prompt):
        return self.body(torch.cat([prompt, self.embedding(tokens)]))
model, prompt = Model(), nn.Parameter(torch.randn(3, 8))
optimizer = torch.optim.Adam([prompt])
model(torch.arange(4), prompt).sum().backward()
optimizer.step()
""",
    "an image is optimised": """
import torch
from torch import nn
model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
image = torch.zeros(1, 8, requires_grad=True)
optimizer = torch.optim.LBFGS([image])
def closure():
    optimizer.zero_grad()
    loss = model(image).square().sum()
    loss.backward()
    return loss
optimizer.step(closure)
""",
    "adapters, with an empty group for what is not decayed": """
import torch
from torch import nn
class Adapted(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = nn.Linear(8, 8)
        self.adapter_down, self.adapter_up = nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False)
    def forward(self, x):
        return self.base(x) + self.adapter_up(self.adapter_down(x))
model = nn.Sequential(Adapted(), nn.ReLU(), Adapted())
model.requires_grad_(False)
for name, p in model.named_parameters():
    p.requires_grad = "adapter" in name
train = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
optimizer = torch.optim.AdamW([
    {"params": [p for n, p in train if "bias" not in n], "weight_decay": 0.1},
    {"params": [p for n, p in train if "bias" in n], "weight_decay": 0.0},
])
model(torch.randn(3, 8)).sum().backward()
optimizer.step()
""",
    "two phases, both optimizers built before": """
import torch
from torch import nn
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
head = torch.optim.Adam(model[2].parameters())
everything = torch.optim.Adam(model.parameters(), lr=1e-5)
for optimizer, batches in ((head, 2), (everything, 9)):
    for _ in range(batches):
        optimizer.zero_grad()
        model(torch.randn(3, 4)).sum().backward()
        optimizer.step()
""",
    "sharpness-aware minimisation": """
import torch
from torch import nn
class SAM(torch.optim.Optimizer):
    def __init__(self, params, base, rho=0.05, **options):
        super().__init__(params, dict(rho=rho, **options))
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups
        self.defaults.update(self.base_optimizer.defaults)
    @torch.no_grad()
    def first_step(self):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old"] = p.clone()
                p.add_(p.grad, alpha=group["rho"])
        self.zero_grad()
    @torch.no_grad()
    def second_step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.copy_(self.state[p]["old"])
        self.base_optimizer.step()
        self.zero_grad()
model = nn.Linear(4, 2)
optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
for _ in range(2):
    for step in (optimizer.first_step, optimizer.second_step):
        model(torch.randn(3, 4)).square().sum().backward()
        step()
""",
    "biases alone": """
import torch
from torch import nn
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
for name, p in model.named_parameters():
    p.requires_grad = name.endswith("bias")
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
model(torch.randn(3, 4)).sum().backward()
optimizer.step()
""",
}


@pytest.mark.parametrize("script", HEALTHY_RUNS.values(), ids=HEALTHY_RUNS)
def test_healthy_runs(script: str):
    assert recorded(script) == []


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1"])
def test_healthy_networks(name: str):
    model = zoo.get_model(name, weights=None, num_classes=4)
    optimizer = torch.optim.AdamW(model.parameters())
    assert codes(model, optimizer) == []
    F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
    assert codes(model, optimizer) == []
    optimizer.step()
    assert codes(model, optimizer) == []
    optimizer.zero_grad()
    assert codes(model, optimizer) == []


# -- FC202 ---------------------------------------------------------------------


def overwrite(model: nn.Module) -> nn.Module:
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        return model.to(torch.float32)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


def assign(model: nn.Module) -> nn.Module:
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    return model


@pytest.mark.parametrize(
    "change",
    [copy.deepcopy, lambda model: Net(), assign, overwrite],
    ids=["deepcopy", "built again", "assign", "overwrite on conversion"],
)
def test_the_model_got_other_tensors(change: Any):
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model = change(model)
    assert codes(model, optimizer) == ["FC202"]
    backward(model)
    finding = one(model, optimizer)
    assert finding.code == "FC202"
    assert finding.symbol == "optimizer"
    assert "No model has the 8 tensors in optimizer, while 8 trainable" in finding.message
    assert moved(model, optimizer) == set()


def test_moved_to_meta():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert codes(model.to("meta"), optimizer) == ["FC202"]


def test_built_before_fully_shard():
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("fully_shard is elsewhere in this version")
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        model = Net()
        before = torch.optim.SGD(model.parameters(), lr=0.1)
        fsdp.fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        assert codes(model, before) == ["FC202"]
        assert codes(model, torch.optim.SGD(model.parameters(), lr=0.1)) == []
    finally:
        distributed.destroy_process_group()


def test_head_only_optimizer_with_the_head_replaced():
    model = Net(classes=10)
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    old = model.head
    model.head = nn.Linear(16, 3)
    assert codes(model, optimizer) == ["FC202"]
    backward(model)
    assert codes({"model": model, "old": old}, optimizer) == ["FC202"]


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.half().float(),
        lambda m: m.to("cpu"),
        lambda m: m.apply(lambda _: None),
        nn.SyncBatchNorm.convert_sync_batchnorm,
        nn.DataParallel,
        lambda m: torch.compile(m, backend="eager"),
        lambda m: m.load_state_dict(m.state_dict()) and m,
    ],
)
def test_identity_is_kept(change: Any):
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert codes(change(model), optimizer) == []


def test_parameters_outside_of_the_model():
    model = Net()
    centres = [nn.Parameter(torch.randn(4, 16)) for _ in range(20)]
    optimizer = torch.optim.SGD([*model.parameters(), *centres], lr=0.1)
    assert codes(model, optimizer) == []
    backward(model)
    assert codes(model, optimizer) == []


# -- FC203 ---------------------------------------------------------------------


def test_only_frozen():
    model = Net()
    model.stem.requires_grad_(False)
    optimizer = torch.optim.SGD(model.stem.parameters(), lr=0.1)
    finding = one(model, optimizer)
    assert finding.code == "FC203"
    assert "6 trainable tensors" in finding.message
    backward(model)
    assert one(model, optimizer).code == "FC203"
    assert moved(model, optimizer) == set()


def test_a_part_that_is_frozen_for_now():
    """Beside an optimizer that trains; in the middle of a GAN's step it looks the same."""
    model = Net()
    model.stem.requires_grad_(False)
    optimizers = {
        "first": torch.optim.SGD(model.stem.parameters(), lr=0.1),
        "second": torch.optim.SGD([*model.body.parameters(), *model.head.parameters()], lr=0.1),
    }
    assert codes(model, optimizers) == []
    (finding,) = recorded(
        """
import torch
from torch import nn
encoder, head = nn.Linear(4, 4), nn.Linear(4, 2)
encoder.requires_grad_(False)
first, second = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (encoder, head))
head(encoder(torch.randn(3, 4))).sum().backward()
first.step()
second.step()
"""
    )
    assert (finding.code, finding.severity) == ("FC203", Severity.INFO)


# -- FC204 ---------------------------------------------------------------------


def test_used_up_generator_in_a_group():
    model = Net()
    parameters = model.parameters()
    total = sum(p.numel() for p in parameters)
    optimizer = torch.optim.SGD([{"params": parameters}], lr=0.1)  # torch does not complain
    finding = one(model, optimizer)
    assert finding.code == "FC204"
    assert f"({total:,} parameters)" in finding.message
    backward(model)
    assert one(model, optimizer).code == "FC204"
    assert moved(model, optimizer) == set()


def test_an_empty_group_that_lacks_nothing():
    model = Net()
    optimizer = torch.optim.SGD([{"params": model.parameters()}, {"params": []}], lr=0.1)
    assert codes(model, optimizer) == []


def test_an_empty_group_whose_part_is_unfrozen_later():
    (finding,) = recorded(
        """
import torch
from torch import nn
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
model[0].requires_grad_(False)
optimizer = torch.optim.Adam([
    {"params": [p for p in model[0].parameters() if p.requires_grad], "lr": 1e-5},
    {"params": model[2].parameters()},
])
model[0].requires_grad_(True)
model(torch.randn(3, 4)).sum().backward()
optimizer.step()
"""
    )
    assert finding.code == "FC201"
    assert [note.message.partition(":")[0] for note in finding.notes] == [
        "frozen here",
        "optimizer is built here",
        "unfrozen here",
        "optimizer takes its first step here",
    ]


CLIPPED = """
import itertools
import torch
from torch import nn
model, other = nn.Linear(4, 2), nn.Linear(4, 2)
other.requires_grad_(False)
trained = {iterator}
optimizer = torch.optim.SGD(trained, lr=0.1)
model(torch.randn(3, 4)).sum().backward()
nn.utils.clip_grad_norm_({clipped}, 1e-6)
assert (model.weight.grad.norm() > 1e-3) == {unclipped}
optimizer.step()
"""


@pytest.mark.parametrize(
    "iterator",
    [
        "filter(lambda p: p.requires_grad, model.parameters())",
        "(p for p in model.parameters())",
        "model.parameters()",
        "itertools.chain(model.parameters())",
    ],
)
def test_clipping_what_is_used_up(iterator: str):
    (finding,) = recorded(CLIPPED.format(iterator=iterator, clipped="trained", unclipped=True))
    assert finding.code == "FC204"
    assert finding.site.line == 10
    again = CLIPPED.format(iterator=iterator, clipped=iterator, unclipped=False)
    assert recorded(again) == []


def test_clipping_what_is_merely_empty():
    empty = "(p for p in other.parameters() if p.requires_grad)"
    script = CLIPPED.format(iterator="model.parameters()", clipped=empty, unclipped=True)
    assert recorded(script) == []


# -- FC205 ---------------------------------------------------------------------


def test_in_two_optimizers():
    model = Net()
    optimizers = {
        "all": torch.optim.SGD(model.parameters(), lr=0.1),
        "head": torch.optim.SGD(model.head.parameters(), lr=0.1),
    }
    finding = one(model, optimizers)
    assert finding.code == "FC205"
    assert "in all and head: head.weight, head.bias" in finding.message
    backward(model)
    before, grad = model.head.bias.detach().clone(), model.head.bias.grad
    moved(model, *optimizers.values())
    assert torch.allclose(before - model.head.bias, 2 * 0.1 * grad)


def test_phases_are_told_by_their_state():
    model = Net()
    optimizers = {
        "head": torch.optim.Adam(model.head.parameters()),
        "all": torch.optim.Adam(model.parameters()),
    }
    backward(model)
    optimizers["head"].step()
    assert codes(model, optimizers) == []
    optimizers["all"].step()
    assert codes(model, optimizers) == ["FC205"]


@pytest.mark.parametrize("foreach", [True, False])
def test_listed_twice(foreach: bool):
    model = Net()
    listed = [*model.parameters(), model.head.bias]
    optimizer = torch.optim.SGD(listed, lr=0.1, foreach=foreach)
    finding = one(model, optimizer)
    assert finding.code == "FC205"
    assert "1 tensor" in finding.message
    backward(model)
    before, grad = model.head.bias.detach().clone(), model.head.bias.grad
    optimizer.step()
    assert torch.allclose(before - model.head.bias, 2 * 0.1 * grad)


# -- FC206, FC212 --------------------------------------------------------------

OPTIMIZERS = {
    "SGD": lambda ps: torch.optim.SGD(ps, lr=0.1),
    "SGD momentum": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9),
    "SGD decay": lambda ps: torch.optim.SGD(ps, lr=0.1, weight_decay=0.1),
    "Adam": lambda ps: torch.optim.Adam(ps, lr=0.1),
    "AdamW": lambda ps: torch.optim.AdamW(ps, lr=0.1, foreach=False),
    "RMSprop": lambda ps: torch.optim.RMSprop(ps, lr=0.1),
    "Adagrad": lambda ps: torch.optim.Adagrad(ps, lr=0.1),
    "rate 0": lambda ps: torch.optim.AdamW(ps, lr=0.0),
}


@pytest.mark.parametrize("clear", ["none", "zero", "kept"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_frozen_in_mid_run(name: str, clear: str):
    """FC206 names exactly what the next step moves; where nothing does, it is FC212 or FC209."""
    model = Net()
    optimizer = OPTIMIZERS[name](model.parameters())
    backward(model)
    optimizer.step()
    if clear != "kept":
        optimizer.zero_grad(set_to_none=clear == "none")
    frozen = {f"stem.{n}" for n, _ in model.stem.named_parameters()}
    model.stem.requires_grad_(False)
    backward(model)

    finding = one(model, optimizer)
    moves = frozen & moved(model, optimizer)
    if moves:
        assert finding.code == "FC206"
        assert f"{len(moves)} frozen tensor" in finding.message
        certain = clear == "zero"
        assert finding.severity == (Severity.ERROR if certain else Severity.WARNING)
        assert ("Unless zero_grad() comes first" in finding.message) != certain
    else:
        assert finding.code in ("FC209", "FC212")
        assert finding.severity == Severity.INFO


def test_the_remedy_of_206():
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    backward(model)
    model.stem.requires_grad_(False)
    assert codes(model, optimizer) == ["FC206"]
    for p in model.stem.parameters():
        p.grad = None
    assert codes(model, optimizer) == ["FC212"]
    assert not any(n.startswith("stem") for n in moved(model, optimizer))


def test_frozen_and_held_from_the_start():
    model = Net()
    model.body.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.5)
    finding = one(model, optimizer)
    assert (finding.code, finding.severity) == ("FC212", Severity.INFO)
    assert "4 frozen tensors (544 parameters) are in optimizer" in finding.message
    backward(model)
    assert codes(model, optimizer) == ["FC212"]
    assert not any(n.startswith("body") for n in moved(model, optimizer))


def test_what_no_model_has_any_more_is_not_told_of():
    model = Net(classes=10)
    model.head.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters())
    model.head = nn.Linear(16, 3)
    assert codes(model, optimizer) == ["FC201"]


def test_an_optimizer_of_ones_own_may_decay():
    class Own(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            pass

    model = Net()
    model.body.requires_grad_(False)
    finding = one(model, Own(model.parameters(), lr=0.1))
    assert finding.code == "FC212"
    assert "depends on its step()" in finding.message


def test_a_discriminator_that_rests():
    """Between backward and step of a GAN's generator, its stale gradients are no concern."""
    generator, critic = nn.Linear(4, 8), nn.Linear(8, 1)
    optimizers = {
        "g": torch.optim.Adam(generator.parameters()),
        "d": torch.optim.Adam(critic.parameters()),
    }
    critic(generator(torch.randn(4, 4)).detach()).mean().backward()
    optimizers["d"].step()
    critic.requires_grad_(False)
    critic(generator(torch.randn(4, 4))).mean().backward()
    assert codes({"generator": generator, "critic": critic}, optimizers) == []


# -- FC207 ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "option"),
    [
        ("learning_rate", 1e-4, "lr"),
        ("LR", 1e-4, "lr"),
        ("weight_deacy", 0.0, "weight_decay"),
        ("weight_decay_rate", 0.0, "weight_decay"),
        ("wd", 0.0, "weight_decay"),
        ("weightDecay", 0.5, "weight_decay"),
        ("momentun", 0.5, "momentum"),
        ("nestrov", False, "nesterov"),
    ],
)
def test_misspelt_options(key: str, value: Any, option: str):
    model = Net()
    groups = [{"params": model.parameters(), key: value}]
    optimizer = torch.optim.SGD(groups, lr=0.1, weight_decay=0.1, momentum=0.9, nesterov=True)
    finding = one(model, optimizer)
    assert (finding.code, finding.severity) == ("FC207", Severity.ERROR)
    assert finding.fix.message == f"write {option!r} instead of {key!r}"
    assert optimizer.param_groups[0][option] != value


@pytest.mark.parametrize(
    "option",
    [
        {"name": "backbone"},
        {"layer_id": 3},
        {"lr_scale": 0.1},
        {"initial_lr": 0.1, "max_lr": 1.0, "min_lr": 0.0},
        {"max_momentum": 0.95, "base_momentum": 0.85},
        {"decay": True},
        {"decay_mult": 0.0},
        {"learning_rate": 0.1},  # says what lr is
        {"warmup": 10, "group_name": "x"},
        {"lr_mult": 10.0},  # nobody has stepped yet
    ],
    ids=str,
)
def test_keys_of_ones_own(option: dict[str, Any]):
    model = Net()
    groups = [{"params": model.parameters(), **option}]
    assert codes(model, torch.optim.SGD(groups, lr=0.1, weight_decay=0.1, momentum=0.9)) == []


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=10),
        lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.1, 0.2),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
        lambda o: torch.optim.swa_utils.SWALR(o, 0.1),
    ],
)
def test_keys_that_schedulers_add(scheduler: Any):
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    assert codes(model, optimizer, scheduler(optimizer)) == []


FACTORS = """
import torch
from torch import nn
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
optimizer = torch.optim.SGD(
    [{{"params": model[0].parameters()}}, {{"params": model[2].parameters(), "lr_mult": 10}}], lr=0.1
)
{apply}
model(torch.randn(3, 4)).sum().backward()
optimizer.step()
"""


def test_a_factor_that_nobody_applies():
    (finding,) = recorded(FACTORS.format(apply=""))
    assert (finding.code, finding.severity) == ("FC207", Severity.WARNING)
    by_hand = "for group in optimizer.param_groups: group['lr'] *= group.get('lr_mult', 1)"
    assert recorded(FACTORS.format(apply=by_hand)) == []
    schedule = "s = torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda e: 1, lambda e: 10])"
    assert recorded(FACTORS.format(apply=schedule)) == []


def test_a_foreign_optimizer_may_read_more():
    class Own(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            pass

    model = Net()
    finding = one(model, Own([{"params": model.parameters(), "weight_decay_rate": 0.1}], lr=0.1))
    assert (finding.code, finding.severity) == ("FC207", Severity.WARNING)


# -- FC209 ---------------------------------------------------------------------


def test_moments_from_before_the_freeze():
    """They do nothing while it is frozen, and move it at once when it is unfrozen."""
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.ones(4, 8)).sum().backward()
        optimizer.step()
    optimizer.zero_grad()
    model.head.requires_grad_(False)
    finding = one(model, optimizer)
    assert (finding.code, finding.severity) == ("FC209", Severity.INFO)
    model(torch.ones(4, 8)).sum().backward()
    assert not {"head.weight", "head.bias"} & moved(model, optimizer)

    model.head.requires_grad_(True)
    before = model.head.bias.detach().clone()
    optimizer.zero_grad()
    (1e-8 * model(torch.ones(4, 8)).sum()).backward()
    optimizer.step()
    assert (before - model.head.bias).abs().min() > 0.008


def test_the_remedy_of_209():
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    backward(model)
    optimizer.step()
    optimizer.zero_grad()
    model.head.requires_grad_(False)
    for p in model.head.parameters():
        optimizer.state.pop(p)
    assert codes(model, optimizer) == ["FC212"]


def test_unfrozen_late_is_no_concern():
    model = Net()
    model.stem.requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(4):
        if step == 2:
            model.stem.requires_grad_(True)
        optimizer.zero_grad()
        backward(model)
        optimizer.step()
    assert codes(model, optimizer) == []


# -- FC210 ---------------------------------------------------------------------


def trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    backward(model)
    optimizer.step()
    return optimizer


def test_state_in_another_order_of_other_shapes():
    model = Net()
    state = trained(model, torch.optim.Adam(model.parameters())).state_dict()
    optimizer = torch.optim.Adam(reversed(list(model.parameters())))
    optimizer.load_state_dict(state)
    finding = one(model, optimizer)
    assert finding.code == "FC210"
    assert "exp_avg has shape" in finding.message
    backward(model)
    with pytest.raises(RuntimeError):
        optimizer.step()


@pytest.mark.parametrize("named", [True, False], ids=["named", "not named when loaded"])
def test_state_in_another_order_of_one_shape(named: bool):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    saved = trained(model, torch.optim.Adam(model.named_parameters()))
    order = [(f"{i}.{n}", p) for i in (1, 0) for n, p in model[i].named_parameters()]
    optimizer = torch.optim.Adam(order if named else [p for _, p in order])
    optimizer.load_state_dict(saved.state_dict())
    finding = one(model, optimizer)
    assert finding.code == "FC210"
    assert "1.weight has that of 0.weight" in finding.message
    right, got = saved.state[model[0].weight], optimizer.state[model[0].weight]
    assert not torch.equal(right["exp_avg"], got["exp_avg"])


@pytest.mark.parametrize("wrap", [lambda m: m, nn.DataParallel, torch.compile])
def test_state_that_fits(wrap: Any):
    """Also where a wrapper lengthens the names, and where tensors are tied."""
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    optimizer = trained(model, torch.optim.Adam(wrap(model).named_parameters()))
    again = torch.optim.Adam(model.named_parameters())
    again.load_state_dict(optimizer.state_dict())
    assert codes(model, optimizer) == codes(model, again) == []


def test_names_that_a_part_gives_its_own():
    model = nn.Sequential()
    model.backbone = nn.Sequential()
    model.backbone.fc = nn.Linear(8, 8)
    model.fc = nn.Linear(8, 4)
    named = [*model.backbone.named_parameters(), ("fc.weight", model.fc.weight)]
    named += [("fc.bias", model.fc.bias)]
    optimizer = trained(model, torch.optim.Adam(named))
    assert codes(model, optimizer) == []


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop])
def test_types_count_where_the_step_refuses_them(kind: Any):
    model = Net()
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimizer = trained(model, kind(model.parameters(), lr=0.1, **options))
    optimizer.zero_grad()
    model.to(torch.bfloat16)
    found = codes(model, optimizer)
    F.cross_entropy(model(torch.randn(6, 8).bfloat16()), torch.arange(6) % 3).backward()
    if kind is torch.optim.Adam:
        assert found == ["FC210"]
        with pytest.raises(RuntimeError):
            optimizer.step()
    else:
        assert found == []
        optimizer.step()
