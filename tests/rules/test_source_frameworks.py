"""What frameworks do to a model, in texts as people write them: what is found, and what is not."""

from __future__ import annotations

import ast
import textwrap

import pytest
from source import findings, lint

from freezecheck.finding import Severity
from freezecheck.source.analysis import analyze


def marked(code: str) -> list[tuple[int, str]]:
    """Lines that end in `# FC114`."""
    return [
        (number, "FC" + line.partition("# FC")[2].split()[0])
        for number, line in enumerate(textwrap.dedent(code).splitlines(), 1)
        if "# FC" in line
    ]


def serious(code: str) -> list[tuple[int, str]]:
    """Errors and warnings that are certain."""
    return sorted(
        (f.site.line if f.site else 0, f.code) for f in findings(code) if f.severity > Severity.INFO
    )


TOP = """
import torch, torchvision
from torch import nn
from torch.nn import functional as F
"""

LIGHTNING = """
import torch, torchvision
import {package} as pl
from torch import nn
from torch.nn import functional as F

class Classifier(pl.LightningModule):
    def __init__(self, lr=1e-4):
        super().__init__()
        self.save_hyperparameters()
        self.backbone = torchvision.models.convnext_tiny(weights="DEFAULT")
        self.backbone.classifier[2] = nn.Identity()
        self.head = nn.Linear(768, 5)
        {init}

    def forward(self, x):
        {forward}

    def training_step(self, batch, index):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, index):
        x, y = batch
        self.log("accuracy", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self):
        {optimizer}
"""


def module(**parts: str) -> str:
    given = {
        "package": "lightning",
        "init": "pass",
        "forward": "return self.head(self.backbone(x))",
        "optimizer": "return torch.optim.AdamW(self.parameters(), lr=1e-5)",
        **parts,
    }
    return LIGHTNING.format(**given)


@pytest.mark.parametrize("package", ["lightning", "pytorch_lightning", "lightning.pytorch"])
def test_a_module_that_is_never_fitted_here_is_lived_through(package):
    code = module(
        package=package,
        forward="""
        with torch.no_grad():
            x = self.backbone(x)
        return self.head(x)""".strip(),
    )
    assert [c for _, c in serious(code)] == ["FC114"]


def test_healthy_modules():
    fit = "\npl.Trainer(max_epochs=5).fit(Classifier(), loader, val)\n"
    assert serious(module()) == serious(module() + fit) == []
    probe = module(
        init="self.backbone.requires_grad_(False)",
        optimizer="return torch.optim.AdamW(self.head.parameters(), lr=1e-3)",
    )
    assert serious(probe + fit) == []


@pytest.mark.parametrize(
    "optimizer",
    [
        "return [opt], [sched]",
        "return {'optimizer': opt, 'lr_scheduler': sched}",
        "return {'optimizer': opt, 'lr_scheduler': {'scheduler': sched, 'interval': 'epoch'}}",
        "return ([opt], [{'scheduler': sched}])",
    ],
)
def test_what_configure_optimizers_may_return(optimizer):
    code = module(
        init="self.backbone.requires_grad_(False)",
        optimizer=f"""opt = torch.optim.AdamW(filter(lambda p: p.requires_grad, self.parameters()), lr=1e-5)
        sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 10)
        {optimizer}

    def on_train_epoch_start(self):
        if self.current_epoch == 3:
            self.backbone.requires_grad_(True)""",
    )
    fit = "\npl.Trainer(max_epochs=5).fit(Classifier(), loader, val)\n"
    assert [c for _, c in serious(code + fit)] == ["FC201"]
    held = code.replace("filter(lambda p: p.requires_grad, self.parameters())", "self.parameters()")
    assert "FC201" not in [c for _, c in serious(held + fit)]


def test_manual_optimization():
    code = module(init="self.automatic_optimization = False").replace(
        "return loss\n",
        "opt = self.optimizers(); opt.zero_grad(); self.manual_backward(loss); opt.step()\n",
    )
    assert serious(code) == []
    cut = code.replace("self.backbone(x)", "self.backbone(x).detach()")
    assert [c for _, c in serious(cut)] == ["FC114"]


CALLBACK = """
from {package}.callbacks import BaseFinetuning

class Unfreeze(BaseFinetuning):
    def __init__(self, at=3):
        super().__init__()
        self.at = at

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == self.at:
            {unfreeze}

pl.Trainer(max_epochs=9, callbacks=[Unfreeze()]).fit(Classifier(), loader)
"""
FILTERED = "return torch.optim.AdamW((p for p in self.parameters() if p.requires_grad), lr=1e-5)"


def test_fine_tuning_callbacks():
    own = "self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, lr=1e-5)"
    healthy = module(optimizer=FILTERED) + CALLBACK.format(
        package="lightning.pytorch", unfreeze=own
    )
    assert serious(healthy) == []
    missing = module(optimizer=FILTERED) + CALLBACK.format(
        package="lightning.pytorch", unfreeze="self.make_trainable(pl_module.backbone)"
    )
    assert [c for _, c in serious(missing)] == ["FC201"]


def test_backbone_finetuning_and_batchnorm():
    code = (
        module(optimizer=FILTERED)
        .replace("convnext_tiny", "resnet18")
        .replace("self.backbone.classifier[2]", "self.backbone.fc")
        .replace("nn.Linear(768", "nn.Linear(512")
    )
    fit = """
from lightning.pytorch.callbacks import BackboneFinetuning
pl.Trainer(callbacks=[BackboneFinetuning(3{option})]).fit(Classifier(), loader)
"""
    plain = findings(code + fit.format(option=""))
    assert [(f.code, f.severity) for f in plain] == [("FC506", Severity.INFO)]
    told = findings(code + fit.format(option=", train_bn=False"))
    assert [(f.code, f.severity) for f in told] == [("FC506", Severity.WARNING)]


TRAINER = """
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

model = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased", num_labels=3)
{before}
args = TrainingArguments("out", learning_rate=2e-5, num_train_epochs=3)
trainer = Trainer(model=model, args=args, train_dataset=train, eval_dataset=test)
trainer.train()
{after}
"""


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "", []),
        ("model.base_model.requires_grad_(False)", "", []),
        ("for p in model.bert.parameters():\n    p.requires_grad = False", "", []),
        (
            "model.base_model.requires_grad_(False)",
            "model.requires_grad_(True)\ntrainer.train()",
            ["FC201"],
        ),
        (
            "model.base_model.requires_grad_(False)",
            "model.requires_grad_(True)\ntrainer = Trainer(model=model, args=args)\ntrainer.train()",
            [],
        ),
        ("model.requires_grad_(False)", "", ["FC120"]),
        (
            "opt = torch.optim.AdamW(model.parameters(), lr=1e-5)\nmodel.eval()",
            "",
            [],
        ),
    ],
)
def test_trainer(before, after, expected):
    code = TRAINER.format(before=before, after=after)
    assert [c for _, c in serious(code)] == expected


def test_trainer_with_its_own_loss_and_optimizer():
    code = """
    import torch
    from torch import nn
    from transformers import BertForSequenceClassification, Trainer, TrainingArguments

    class Mine(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            outputs = model(**inputs)
            loss = nn.CrossEntropyLoss()(outputs.logits.softmax(-1), inputs["labels"])  # FC507
            return (loss, outputs) if return_outputs else loss

        def create_optimizer(self):
            self.optimizer = torch.optim.AdamW(self.model.classifier.parameters(), lr=1e-3)
            return self.optimizer

    model = BertForSequenceClassification.from_pretrained("bert-base-uncased")
    for p in model.bert.parameters():
        p.requires_grad = False
    Mine(model, TrainingArguments("out"), train_dataset=train).train()
    """
    assert serious(code) == marked(code)
    # The base trains, and the optimizer does not have it.
    both = code.replace("p.requires_grad = False", "p.requires_grad = True")
    assert ("FC201" in {c for _, c in serious(both)}) is True


def test_accelerate():
    code = (
        TOP
        + """
from accelerate import Accelerator

def main(args):
    accelerator = Accelerator(mixed_precision="fp16")
    model = torchvision.models.vit_b_16(weights="DEFAULT")
    model.requires_grad_(False)
    model.heads = nn.Linear(768, 10)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    model, optimizer, loader = accelerator.prepare(model, optimizer, make_loader(args))
    for epoch in range(args.epochs):
        model.train()
        {unfreeze}
        for x, y in loader:
            with accelerator.accumulate(model):
                loss = F.cross_entropy(model(x), y)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        model.eval()
        for x, y in test_loader:
            with torch.no_grad():
                accelerator.gather_for_metrics((model(x).argmax(-1), y))
    accelerator.unwrap_model(model).save_pretrained(args.out)

main(parse_args())
"""
    )
    assert serious(code.format(unfreeze="pass")) == []
    thawed = code.format(unfreeze="if epoch == 2:\n            model.requires_grad_(True)")
    assert [c for _, c in serious(thawed)] == ["FC201"]


PEFT = """
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

model = AutoModelForSequenceClassification.from_pretrained("roberta-base", num_labels=3)
{make}
optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)
model.train()
for batch in loader:
    optimizer.zero_grad()
    model(**batch).loss.backward()
    optimizer.step()
"""


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        ('model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=8))', []),
        ("model = get_peft_model(model, LoraConfig(task_type=TaskType.SEQ_CLS))", []),
        ("config = LoraConfig(r=8)\nmodel = get_peft_model(model, config)", ["FC115"]),
        (
            'model = get_peft_model(model, LoraConfig(r=8, modules_to_save=["classifier"]))',
            [],
        ),
        ("model = get_peft_model(model, LoraConfig(**options))", []),
        ("model = get_peft_model(model, load_config(args))", []),
        ('model = PeftModel.from_pretrained(model, "me/adapter")', ["FC116"]),
        ('model = PeftModel.from_pretrained(model, "me/adapter", is_trainable=True)', []),
        ('model = PeftModel.from_pretrained(model, "me/adapter", is_trainable=flag)', []),
        (
            'model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS"))\n'
            "model = prepare_model_for_kbit_training(model)",
            ["FC116"],
        ),
        (
            "model = prepare_model_for_kbit_training(model)\n"
            'model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS"))',
            [],
        ),
        (
            'model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS"))\n'
            "for name, p in model.named_parameters():\n"
            '    p.requires_grad = "lora_" in name or "classifier" in name',
            [],
        ),
    ],
)
def test_peft(make, expected):
    assert [c for _, c in serious(PEFT.format(make=make))] == expected


def test_optimizer_built_before_the_adapters():
    code = PEFT.format(make="").replace(
        "model.train()",
        'model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS"))\nmodel.train()',
    )
    assert {c for _, c in serious(code)} & {"FC201", "FC203"}


def test_accelerator_that_a_function_is_given():
    code = (
        TOP
        + """
from accelerate import Accelerator

def train(model, loader, optimizer, accelerator):
    model.train()
    for batch in loader:
        loss = model(**batch).loss
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
"""
    )
    assert serious(code) == []
    assert analyze(ast.parse(code), "train.py").calls == []


def test_batchnorm_that_the_trainer_puts_back_into_train_mode():
    code = """
    from torch import nn
    from transformers import ResNetForImageClassification, Trainer, TrainingArguments

    model = ResNetForImageClassification.from_pretrained("microsoft/resnet-50")
    for p in model.resnet.parameters():
        p.requires_grad = False
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    Trainer(model, TrainingArguments("out"), train_dataset=train).train()  # FC402
    """
    assert serious(code) == marked(code)


def test_encoder_in_eval_mode_under_lightning():
    code = module(init='self.backbone = AutoModel.from_pretrained("bert-base-uncased")').replace(
        "import torch,", "from transformers import AutoModel\nimport torch,"
    )
    fit = "\npl.Trainer(max_epochs=5).fit(Classifier(), loader)\n"
    assert [c for _, c in serious(code + fit)] == ["FC404"]


TIMM = """
import timm, torch
from timm.optim import create_optimizer_v2

model = timm.create_model("resnet18", pretrained=True)
{first}
optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-5, weight_decay=0.05)
{second}
model.eval()
for x, y in loader:
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
"""


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("model.reset_classifier(10)", "", []),
        ("", "model.reset_classifier(10)", ["FC201"]),
        ('timm.utils.freeze(model, ["layer1", "layer2"])', "", []),
        (
            'timm.utils.freeze(model, ["layer1", "layer2"])',
            'timm.utils.unfreeze(model, ["layer1", "layer2"])',
            ["FC201"],
        ),
        ("timm.utils.freeze(model, names)", "timm.utils.unfreeze(model, names)", []),
    ],
)
def test_timm(first, second, expected):
    assert [c for _, c in serious(TIMM.format(first=first, second=second))] == expected


def test_all_names_of_a_library():
    code = """
    from torch.nn import *
    from torch.optim import *
    import torch
    model = Sequential(Linear(8, 8), Linear(8, 3), Softmax(dim=1))
    optimizer = SGD(model.parameters(), lr=0.1)
    criterion = CrossEntropyLoss()
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    """
    assert serious(code) == []  # which library the names are out of is not known


GRADIENT = [
    pytest.param(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder = torchvision.models.vit_b_16(weights="DEFAULT")
                self.encoder.heads = nn.Identity()
                self.head = nn.Linear(768, 5)
            def forward(self, x):
                x = self.encoder(x).data
                return self.head(x)
        model = Net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()  # FC114
            optimizer.step()
        """,
        id="data",
    ),
    pytest.param(
        """
        encoder, head = nn.Linear(8, 8), nn.Linear(8, 2)
        optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=1e-5)
        scaler = torch.cuda.amp.GradScaler()
        for x, y in loader:
            with torch.cuda.amp.autocast():
                with torch.inference_mode():
                    features = encoder(x.cuda())
                loss = F.cross_entropy(head(features.float()), y.cuda())
            scaler.scale(loss).backward()  # FC114
            scaler.step(optimizer)
            scaler.update()
        """,
        id="inference mode and a scaler",
    ),
    pytest.param(
        """
        @torch.no_grad()
        def embed(model, x):
            return F.normalize(model(x), dim=-1)
        encoder, head = nn.Linear(8, 8), nn.Linear(8, 2)
        optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=1e-5)
        for x, y in loader:
            loss = F.cross_entropy(head(embed(encoder, x)), y)
            optimizer.zero_grad()
            loss.backward()  # FC114
            optimizer.step()
        """,
        id="decorated",
    ),
    pytest.param(
        """
        G, D = nn.Linear(8, 8), nn.Linear(8, 1)
        opt_g, opt_d = (torch.optim.Adam(m.parameters(), 1e-4) for m in (G, D))
        bce = nn.BCEWithLogitsLoss()
        for real in loader:
            fake = G(torch.randn(4, 8))
            opt_d.zero_grad()
            (bce(D(real), ones) + bce(D(fake.detach()), zeros)).backward()
            opt_d.step()
            opt_g.zero_grad()
            bce(D(fake), ones).backward()
            opt_g.step()
        """,
        id="a GAN",
    ),
    pytest.param(
        """
        student, teacher = nn.Linear(8, 2), nn.Linear(8, 2)
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
        for x, y in loader:
            with torch.no_grad():
                soft = teacher(x).softmax(-1)
                own = student(x)
            loss = F.kl_div(student(x).log_softmax(-1), soft)
            optimizer.zero_grad(); loss.backward(); optimizer.step()
        """,
        id="a teacher, and the student twice",
    ),
    pytest.param(
        """
        backbone, head = torchvision.models.resnet18(weights="DEFAULT"), nn.Linear(1000, 2)
        backbone.eval()
        optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
        for x, y in loader:
            with torch.no_grad():
                features = backbone(x)
            loss = F.cross_entropy(head(features), y)
            optimizer.zero_grad(); loss.backward(); optimizer.step()
        """,
        id="a linear probe",
    ),
    pytest.param(
        """
        model = torchvision.models.vit_b_16(weights="DEFAULT")
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        for epoch in range(3):
            model.train()
            for x, y in loader:
                loss = compute(model, x, y)
                optimizer.zero_grad(); loss.backward(); optimizer.step()
            model.eval()
            with torch.no_grad():
                for x, y in test:
                    F.cross_entropy(model(x), y).item()
        """,
        id="training that is not followed, validation that is",
    ),
    pytest.param(
        """
        def main(args):
            encoder, head = nn.Linear(8, 8), nn.Linear(8, 2)
            optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=1e-5)
            for epoch in range(args.epochs):
                for x, y in loader:
                    if epoch < args.warmup:
                        with torch.no_grad():
                            features = encoder(x)
                    else:
                        features = encoder(x)
                    loss = F.cross_entropy(head(features), y)
                    optimizer.zero_grad(); loss.backward(); optimizer.step()
        main(args)
        """,
        id="the head first",
    ),
    pytest.param(
        """
        encoder, head = nn.Linear(8, 8), nn.Linear(8, 2)
        optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=1e-5)
        for epoch in range(10):
            for x, y in loader:
                with torch.set_grad_enabled(epoch >= 3):
                    features = encoder(x)
                loss = F.cross_entropy(head(features), y)
                optimizer.zero_grad(); loss.backward(); optimizer.step()
        """,
        id="the head for three epochs",
    ),
    pytest.param(
        """
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        total = 0
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            total += loss.item()
            optimizer.zero_grad(); loss.backward(); optimizer.step()
        """,
        id="item for the log",
    ),
]


@pytest.mark.parametrize("code", GRADIENT)
def test_gradients_that_do_not_arrive(code):
    code = TOP + textwrap.dedent(code)
    assert [x for x in serious(code) if x[1] == "FC114"] == marked(code)


CHECKPOINT = """
from torch.utils.checkpoint import checkpoint

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.block, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)
    def forward(self, x):
        x = self.embed(x)
        {hook}
        x = checkpoint(self.block, x{option})
        return self.head(x)

model = Net()
{freeze}
optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)
for x, y in loader:
    loss = F.cross_entropy(model(x.cuda()), y)
    optimizer.zero_grad(); loss.backward(); optimizer.step()
"""


@pytest.mark.parametrize(
    ("option", "freeze", "hook", "expected"),
    [
        (", use_reentrant=True", "model.embed.requires_grad_(False)", "pass", ["FC503"]),
        ("", "model.embed.requires_grad_(False)", "pass", ["FC503"]),
        (", use_reentrant=False", "model.embed.requires_grad_(False)", "pass", []),
        (", use_reentrant=flag", "model.embed.requires_grad_(False)", "pass", []),
        (", **options", "model.embed.requires_grad_(False)", "pass", []),
        (", use_reentrant=True", "", "pass", []),
        (", use_reentrant=True", "model.embed.requires_grad_(False)", "x.requires_grad_()", []),
    ],
)
def test_reentrant_checkpoints(option, freeze, hook, expected):
    code = TOP + CHECKPOINT.format(option=option, freeze=freeze, hook=hook)
    assert [c for _, c in serious(code)] == expected


@pytest.mark.parametrize(
    ("output", "loss", "found"),
    [
        ("F.softmax(x, dim=1)", "F.cross_entropy(model(x), y)", True),
        ("x.softmax(-1)", "nn.CrossEntropyLoss()(model(x), y)", True),
        ("self.act(x)", "criterion(model(x), y)", True),
        ("F.log_softmax(x, 1)", "F.nll_loss(model(x), y)", False),
        ("F.log_softmax(x, 1)", "criterion(model(x), y)", False),
        ("x", "F.nll_loss(model(x), y)", True),
        ("x", "criterion(model(x), y)", False),
        ("torch.sigmoid(x)", "F.binary_cross_entropy_with_logits(model(x), y)", True),
        ("torch.sigmoid(x)", "F.binary_cross_entropy(model(x), y)", False),
        ("x if self.training else x.softmax(1)", "criterion(model(x), y)", False),
        ("(x.softmax(1) * x).sum(1)", "criterion(model(x), y)", False),
    ],
)
def test_losses_and_their_input(output, loss, found):
    code = (
        TOP
        + f"""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.act = nn.Linear(8, 3), nn.Softmax(dim=1)
    def forward(self, x):
        x = self.fc(x)
        return {output}

model = Net()
criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x, y in loader:
    loss = {loss}
    optimizer.zero_grad(); loss.backward(); optimizer.step()
"""
    )
    assert [c for _, c in serious(code)] == (["FC507"] if found else [])


DDP = """
from torch.nn.parallel import DistributedDataParallel as DDP

def main(args):
    model = torchvision.models.vit_b_16(weights="DEFAULT")
    {before}
    model.heads = nn.Linear(768, 10)
    model = DDP(model.cuda(), device_ids=[args.gpu]{option})
    {after}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    for epoch in range(args.epochs):
        model.train()
        {during}
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

main(args)
"""


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({}, []),
        ({"before": "model.requires_grad_(False)"}, []),
        ({"after": "model.module.encoder.requires_grad_(False)"}, ["FC501"]),
        (
            {
                "after": "model.module.encoder.requires_grad_(False)",
                "option": ", find_unused_parameters=True",
            },
            [],
        ),
        (
            {
                "before": "model.requires_grad_(False)",
                "after": "model.module.encoder.requires_grad_(True)",
            },
            ["FC501"],
        ),
    ],
)
def test_flags_behind_a_ddp_wrapper(parts, expected):
    given = {"before": "pass", "option": "", "after": "pass", "during": "pass", **parts}
    found = [c for _, c in serious(TOP + DDP.format(**given)) if c == "FC501"]
    assert found == expected


def test_an_optimizer_of_ones_own():
    code = (
        TOP
        + """
class SAM(torch.optim.Optimizer):
    def __init__(self, params, base_optimizer, rho=0.05, **kwargs):
        super().__init__(params, dict(rho=rho, **kwargs))
        self.base_optimizer = base_optimizer(self.param_groups, **kwargs)

    @torch.no_grad()
    def first_step(self, zero_grad=False):
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(p.grad)

model = torchvision.models.vit_b_16(weights="DEFAULT")
optimizer = SAM(model.parameters(), torch.optim.SGD, lr=1e-4, momentum=0.9)
for x, y in loader:
    F.cross_entropy(model(x), y).backward()
    optimizer.first_step(zero_grad=True)
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
"""
    )
    assert serious(code) == []


KERAS = """
import tensorflow as tf
from tensorflow.keras import layers

base = tf.keras.applications.{base}(include_top=False, weights="imagenet")
base.trainable = False
inputs = tf.keras.Input(shape=(160, 160, 3))
x = tf.keras.applications.mobilenet_v2.preprocess_input(inputs)
x = base(x{option})
x = layers.GlobalAveragePooling2D()(x)
x = layers.Dropout(0.2)(x)
model = tf.keras.Model(inputs, layers.Dense(1)(x))
model.compile(optimizer=tf.keras.optimizers.Adam(learning_rate=1e-3), loss="mse")
history = model.fit(train, epochs=10, validation_data=val)
base.trainable = True
{again}
model.fit(train, epochs=20)
"""


@pytest.mark.parametrize(
    ("base", "option", "again", "expected"),
    [
        ("MobileNetV2", ", training=False", "model.compile(tf.keras.optimizers.Adam(1e-5))", []),
        ("MobileNetV2", ", training=False", "pass", ["FC701"]),
        ("MobileNetV2", "", "model.compile(tf.keras.optimizers.Adam(1e-5))", ["FC702"]),
        ("VGG16", "", "model.compile(tf.keras.optimizers.Adam(1e-5))", []),
        ("MobileNetV2", ", training=flag", "model.compile(tf.keras.optimizers.Adam(1e-5))", []),
        ("VGG16", "", "model.compile(tf.keras.optimizers.Adam(1e-3))", ["FC703"]),
        ("VGG16", "", "model.compile('adam')", ["FC703"]),
        ("VGG16", "", "model.compile(tf.keras.optimizers.Adam(rate))", []),
        ("VGG16", "", "model.compile(tf.keras.optimizers.SGD(1e-3))", []),
        (
            "MobileNetV2",
            "",
            "for layer in base.layers[:100]:\n    layer.trainable = False\n"
            "model.compile(tf.keras.optimizers.Adam(1e-5))",
            ["FC702"],
        ),
        (
            "MobileNetV2",
            "",
            "for layer in base.layers[:-3]:\n    layer.trainable = False\n"
            "model.compile(tf.keras.optimizers.Adam(1e-5))",
            [],
        ),
    ],
)
def test_keras_in_two_phases(base, option, again, expected):
    assert [c for _, c in serious(KERAS.format(base=base, option=option, again=again))] == expected


def test_info_and_all():
    """Nothing of this depends on the severity that is asked for."""
    assert lint("import keras\nkeras.Sequential([]).fit(x)") == []
