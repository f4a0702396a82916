"""Wrappers, frameworks and losses: recorded scripts, and what really happens in them."""

from __future__ import annotations

import importlib
import importlib.util
import math
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from recording import Recording, record
from torch import nn
from torch.nn import functional as F

from freezecheck import catalogue
from freezecheck.check import check
from freezecheck.finding import Finding, Severity
from freezecheck.live.capture import capture
from freezecheck.snapshot import Flat, Model, Snapshot
from freezecheck.timeline import LOSS, Event, Timeline

RULES = [catalogue._load(name) for name in catalogue.MODULES if name.startswith("fc5")]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        yield


def needs(package: str) -> Any:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


def judged(seen: Recording) -> list[Finding]:
    assert seen.snapshot is not None
    return check(RULES, timeline=seen.timeline, snapshots=[seen.snapshot])


def recorded(code: str) -> list[Finding]:
    return judged(record(code))


# -- FC502 --------------------------------------------------------------------


@pytest.fixture
def group() -> Iterator[None]:
    """A process group of one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def sharded(frozen: tuple[int, ...], apart: bool = False) -> tuple[Any, Any]:
    """FSDP1 around three layers, some of them frozen; apart: each a unit of its own."""
    from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

    cpu = torch.device("cpu")
    layers = [nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)]
    for index in frozen:
        layers[index].requires_grad_(False)
    if apart:
        layers = [FSDP(layer, use_orig_params=True, device_id=cpu) for layer in layers]
    model = FSDP(nn.Sequential(*layers), use_orig_params=True, device_id=cpu)
    trainable = [p for p in model.parameters() if p.requires_grad] or model.parameters()
    return model, torch.optim.AdamW(trainable, lr=1e-3)


def snapshot(model: Any, optimizer: Any) -> Snapshot:
    now = capture({"model": model}, {"optimizer": optimizer})
    return Snapshot.from_dict(now.to_dict())


@pytest.mark.usefixtures("group")
def test_frozen_and_trainable_in_one_flat_parameter():
    model, optimizer = sharded((0, 1))
    (finding,) = check(RULES, snapshots=[snapshot(model, optimizer)])
    assert (finding.code, finding.severity) == ("FC502", Severity.WARNING)
    model(torch.randn(4, 8)).sum().backward()
    kept = model._handle.flat_param.grad.numel()
    needed = sum(p.numel() for p in model.parameters() if p.grad is not None)
    assert f"a gradient of {kept} entries is kept and reduced where {needed} would do" in (
        finding.message
    )


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize(
    ("frozen", "apart"), [((), False), ((0, 1), True), ((0, 1, 2), False), ((), True)]
)
def test_uniform_units(frozen: tuple[int, ...], apart: bool):
    now = snapshot(*sharded(frozen, apart))
    assert now.flats
    assert check(RULES, snapshots=[now]) == []


def test_a_few_frozen_entries_are_no_waste():
    now = Snapshot(models=[Model("model", "Net", True)])
    now.flats = [Flat("", 0, tensors=10, numel=1000, frozen=2, frozen_numel=16)]
    assert check(RULES, snapshots=[now]) == []


# -- FC503 --------------------------------------------------------------------

CHECKPOINTED = """
import torch
from functools import partial
from torch import nn
from torch.utils.checkpoint import checkpoint

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.head = nn.Linear(8, 2)

    def run(self, x, block):
        return block(x)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = CALL
        return self.head(x.relu())

model = Net()
SETUP
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
loss = nn.functional.cross_entropy(model(torch.randn(4, 8)), torch.tensor([0, 1, 1, 0]))
loss.backward()
optimizer.step()
"""
FROZEN = "model.embed.requires_grad_(False)"


def checkpointed(call: str, setup: str = FROZEN) -> Recording:
    return record(CHECKPOINTED.replace("CALL", call).replace("SETUP", setup))


@pytest.mark.parametrize(
    "call",
    [
        "checkpoint(block, x)",
        "checkpoint(block, x, use_reentrant=True)",
        "checkpoint(block.forward, x, use_reentrant=True)",
        "checkpoint(partial(block.__call__), x, use_reentrant=True)",
        "checkpoint(lambda y, block=block: block(y), x, use_reentrant=True)",
        "checkpoint((lambda m: lambda y: m(y))(block), x, use_reentrant=True)",
        "checkpoint(lambda y: self.run(y, block), x, use_reentrant=True)",
        "checkpoint(self.run, x, block, use_reentrant=True)",
    ],
)
def test_no_gradient_inside_the_checkpoint(call: str):
    seen = checkpointed(call)
    (finding,) = judged(seen)
    assert (finding.code, finding.severity) == ("FC503", Severity.ERROR)
    assert finding.site.line == 20
    assert finding.message.startswith("4 trainable tensors (144 parameters)")
    model = seen.namespace["model"]
    assert all(p.grad is None for p in model.blocks.parameters())
    assert all(p.grad is not None for p in model.head.parameters())


@pytest.mark.parametrize(
    ("call", "setup"),
    [
        ("checkpoint(block, x, use_reentrant=False)", FROZEN),
        ("checkpoint(block, x, use_reentrant=True)", ""),
        (
            "checkpoint(block, x, use_reentrant=True)",
            FROZEN
            + "\nmodel.embed.register_forward_hook(lambda m, i, out: out.requires_grad_(True))",
        ),
        (
            "checkpoint(block, x, use_reentrant=True)",
            FROZEN + "\nmodel.blocks.requires_grad_(False)",
        ),
        ("block(x)", FROZEN),
    ],
)
def test_gradients_that_pass_or_are_not_wanted(call: str, setup: str):
    seen = checkpointed(call, setup)
    assert judged(seen) == []
    for p in seen.namespace["model"].parameters():
        assert (p.grad is not None) == p.requires_grad


def test_a_missing_gradient_has_one_cause():
    seen = checkpointed("checkpoint(block, x, use_reentrant=True)")
    assert [finding.code for finding in seen.findings()] == ["FC503"]


VISION = """
from transformers import ViTConfig, ViTForImageClassification

config = ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                   intermediate_size=16, image_size=8, patch_size=4)
model = ViTForImageClassification(config).train()
model.vit.embeddings.requires_grad_(False)
batch = {"pixel_values": torch.randn(2, 3, 8, 8)}
"""
TEXT = """
from transformers import BertConfig, BertForSequenceClassification

config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                    intermediate_size=16)
model = BertForSequenceClassification(config).train()
model.bert.embeddings.requires_grad_(False)
batch = {"input_ids": torch.randint(0, 50, (2, 6))}
"""


@needs("transformers")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("setup", "reentrant", "dead"),
    [(VISION, True, True), (VISION, False, False), (TEXT, True, False), (TEXT, False, False)],
)
def test_gradient_checkpointing_in_transformers(
    monkeypatch: pytest.MonkeyPatch, setup: str, reentrant: bool, dead: bool
):
    """Text models make their embeddings' output require grad themselves, others do not."""
    home = importlib.import_module("transformers.modeling_utils")
    now = torch.utils.checkpoint  # another test may have imported the function before us
    monkeypatch.setattr(home, "checkpoint", lambda *args, **kw: now.checkpoint(*args, **kw))
    seen = record(f"""
import torch
{setup}
model.gradient_checkpointing_enable({{"use_reentrant": {reentrant}}})
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
model(**batch, labels=torch.tensor([0, 1])).loss.backward()
optimizer.step()
""")
    assert [f.code for f in judged(seen)] == (["FC503"] if dead else [])
    inside = [p for n, p in seen.namespace["model"].named_parameters() if "layer" in n]
    assert all((p.grad is None) == dead for p in inside if p.dim() > 1)


# -- FC506 --------------------------------------------------------------------

LIGHTNING = """
import lightning, torch
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning
from torch import nn

class Custom(BaseFinetuning):
    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.backbone, train_bn=False)

    def finetune_function(self, pl_module, epoch, optimizer):
        pass

class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(BLOCK, nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(8, 2)

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.head(self.backbone(batch[0])), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(PARAMETERS, lr=0.01)

data = torch.utils.data.TensorDataset(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 1, 0]))
trainer = lightning.Trainer(accelerator="cpu", max_epochs=1, callbacks=[CALLBACK], logger=False,
                            enable_checkpointing=False, enable_progress_bar=False,
                            enable_model_summary=False)
net = Net()
trainer.fit(net, torch.utils.data.DataLoader(data, batch_size=4))
"""
FILTERED = "[p for p in self.parameters() if p.requires_grad]"
HEAD = "self.head.parameters()"
BATCHNORM = "nn.Sequential(nn.Conv2d(3, 8, 8), nn.BatchNorm2d(8))"


def lightning(callback: str, parameters: str = FILTERED, block: str = BATCHNORM) -> Recording:
    code = LIGHTNING.replace("CALLBACK", callback).replace("PARAMETERS", parameters)
    return record(code.replace("BLOCK", block))


@needs("lightning")
@pytest.mark.slow
@pytest.mark.parametrize("parameters", [FILTERED, HEAD])
@pytest.mark.parametrize(
    ("options", "severity"), [("", Severity.INFO), ("train_bn=False", Severity.WARNING)]
)
def test_the_callback_leaves_batchnorm_training(parameters: str, options: str, severity: Severity):
    seen = lightning(f"BackboneFinetuning({options})", parameters)
    (finding,) = seen.findings(["FC506", "FC201", "FC401"])
    assert (finding.code, finding.severity) == ("FC506", severity)
    assert finding.site.line == 30
    norm = seen.namespace["net"].backbone[0][1]
    assert norm.training
    assert norm.weight.requires_grad
    assert norm.running_mean.abs().sum() > 0
    assert ("weights and running statistics" in finding.message) == (parameters == FILTERED)


@needs("lightning")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("callback", "block"),
    [
        ("Custom()", BATCHNORM),
        ("BackboneFinetuning()", "nn.Conv2d(3, 8, 8)"),
        ("BackboneFinetuning(unfreeze_backbone_at_epoch=0)", BATCHNORM),
        ("lightning.pytorch.callbacks.Callback()", BATCHNORM),
    ],
)
def test_other_callbacks_and_networks(callback: str, block: str):
    assert "FC506" not in [f.code for f in judged(lightning(callback, block=block))]


@needs("lightning")
@pytest.mark.slow
def test_the_callback_does_not_hide_what_else_is_missing():
    seen = lightning("BackboneFinetuning()", "[self.head.weight]")
    assert {f.code for f in seen.findings(["FC506", "FC201"])} == {"FC506", "FC201"}


# -- FC507 --------------------------------------------------------------------

LOSSES = """
import torch
from torch import nn
from torch.nn import functional as F

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
y = torch.tensor([0, 1, 1, 0])
scores = model(torch.randn(4, 8))
loss = LOSS
loss.backward()
optimizer.step()
"""


def loss(expression: str, classes: int = 3) -> list[Finding]:
    return recorded(LOSSES.replace("CLASSES", str(classes)).replace("LOSS", expression))


@pytest.mark.parametrize(
    ("expression", "classes", "words"),
    [
        ("F.cross_entropy(scores.softmax(1), y)", 3, "cannot fall below 0.55"),
        ("F.cross_entropy(scores.sigmoid(), y)", 10, "output of a sigmoid"),
        ("nn.CrossEntropyLoss()(scores.softmax(-1).squeeze(), y)", 3, "is given probabilities"),
        (
            "F.cross_entropy(scores.abs() / scores.abs().sum(1, keepdim=True), y)",
            3,
            "probabilities",
        ),
        ("F.cross_entropy(scores, y[:, None].float())", 1, "the loss is 0"),
        ("F.nll_loss(scores.softmax(1), y)", 3, "nll_loss is given probabilities"),
        ("nn.NLLLoss()(scores, y)", 3, "nll_loss is given raw scores"),
        (
            "F.binary_cross_entropy_with_logits(scores.sigmoid(), y[:, None].float())",
            1,
            "range from 0.5 to 0.73",
        ),
        (
            "nn.BCEWithLogitsLoss()(scores.sigmoid().squeeze(1), y.float())",
            1,
            "output of a sigmoid",
        ),
        ("F.binary_cross_entropy_with_logits(scores.softmax(1)[:, 1], y.float())", 2, "softmax"),
    ],
)
def test_what_the_loss_computes_itself(expression: str, classes: int, words: str):
    (finding,) = loss(expression, classes)
    assert (finding.code, finding.site.line) == ("FC507", 10)
    assert words in finding.message


@pytest.mark.parametrize(
    ("expression", "classes"),
    [
        ("F.cross_entropy(scores, y)", 3),
        ("F.cross_entropy(scores, y, label_smoothing=0.1)", 3),
        ("F.cross_entropy(scores, F.one_hot(y, 3).float())", 3),
        ("F.cross_entropy(scores, torch.rand(4, 3).softmax(1))", 3),
        ("F.cross_entropy(scores.log_softmax(1), y)", 3),
        ("F.cross_entropy(scores.softmax(1).log(), y)", 3),
        ("F.cross_entropy(10 * F.normalize(scores), y)", 3),
        ("F.cross_entropy(scores * 0, y)", 3),
        ("F.nll_loss(scores.log_softmax(1), y)", 3),
        ("F.nll_loss(scores.bfloat16().log_softmax(1), y)", 3),
        ("F.nll_loss((1 - scores.softmax(1)) ** 2 * scores.log_softmax(1), y)", 3),
        ("F.binary_cross_entropy(scores.sigmoid(), y[:, None].float())", 1),
        ("F.binary_cross_entropy_with_logits(scores, y[:, None].float())", 1),
        ("F.binary_cross_entropy_with_logits(scores * 0 + 0.3, F.one_hot(y, 32).float())", 32),
        ("F.mse_loss(scores.softmax(1), F.one_hot(y, 3).float())", 3),
        (
            "F.cross_entropy(scores, y) + F.kl_div(scores.log_softmax(1), scores.softmax(1).detach())",
            3,
        ),
    ],
)
def test_losses_in_order(expression: str, classes: int):
    assert loss(expression, classes) == []


def test_a_metric_on_probabilities_is_no_training_loss():
    code = LOSSES.replace("CLASSES", "3").replace("LOSS", "F.cross_entropy(scores, y)")
    metric = "print(F.cross_entropy(scores.detach().softmax(1), y))\n"
    assert recorded(code.replace("loss =", metric + "loss =")) == []


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_the_floor_is_the_floor(classes: int):
    data = {"shape": (8, classes), "looks": "probabilities", "made": "softmax", "high": 1.0}
    (finding,) = check(RULES, timeline=Timeline((Event(LOSS, value="cross_entropy", data=data),)))
    perfect = F.cross_entropy(torch.eye(classes), torch.arange(classes))
    assert f"below {perfect:.2f}" in finding.message
    assert math.isclose(perfect, math.log(1 + (classes - 1) / math.e), rel_tol=1e-5)
