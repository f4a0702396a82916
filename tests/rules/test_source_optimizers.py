"""FC201 to FC212 in texts, written as people write them: where each is found, and where none is."""

from __future__ import annotations

import textwrap

import pytest
from source import lint

CODES = {f"FC{number}" for number in range(201, 213)}


def found(code: str, *, strict: bool = False) -> list[tuple[int, str]]:
    return [(line, code) for line, code in lint(code, strict=strict) if code in CODES]


def marked(code: str) -> list[tuple[int, str]]:
    """Lines that end in `# FC201`."""
    lines = textwrap.dedent(code).splitlines()
    return [
        (number, word)
        for number, line in enumerate(lines, 1)
        for word in line.partition("# FC")[2].split()[:1]
        for word in ("FC" + word,)
    ]


TOP = """
import copy, itertools
import torch
import torch.optim as optim
import torch.nn.functional as F
from torch import nn
from torchvision import models
from torch.optim import SGD, Adam, AdamW
"""

LOOP = """
for epoch in range(10):
    for x, y in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
"""


def case(name: str, body: str, loop: str = LOOP) -> object:
    return pytest.param(TOP + textwrap.dedent(body) + loop, id=name)


MISSING = [
    case(
        "filter, then unfrozen",
        """
        model = models.resnet50(weights="DEFAULT")
        for param in model.parameters():
            param.requires_grad = False
        model.fc = nn.Linear(2048, 10)
        optimizer = optim.Adam(filter(lambda p: p.requires_grad, model.parameters()), lr=1e-3)  # FC201
        for param in model.layer4.parameters():
            param.requires_grad = True
        """,
    ),
    case(
        "unfrozen at an epoch",
        """
        model = models.resnet18(pretrained=True)
        for p in model.parameters(): p.requires_grad = False
        model.fc = nn.Linear(512, 2)
        optimizer = SGD(model.fc.parameters(), lr=0.01, momentum=0.9)  # FC201
        criterion = nn.CrossEntropyLoss()
        for epoch in range(20):
            if epoch == 5:
                for p in model.parameters():
                    p.requires_grad = True
            model.train()
            for images, labels in train_loader:
                images, labels = images.to(device), labels.to(device)
                outputs = model(images)
                loss = criterion(outputs, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        """,
        "",
    ),
    case(
        "in functions",
        """
        def freeze(m):
            for p in m.parameters():
                p.requires_grad_(False)

        def unfreeze(m):
            for p in m.parameters():
                p.requires_grad_(True)

        def build():
            model = models.vgg16(weights="IMAGENET1K_V1")
            freeze(model.features)
            return model

        def main():
            model = build()
            optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)  # FC201
            for epoch in range(30):
                if epoch >= 10:
                    unfreeze(model.features)
                for x, y in loader:
                    optimizer.zero_grad()
                    F.cross_entropy(model(x), y).backward()
                    optimizer.step()

        if __name__ == "__main__":
            main()
        """,
        "",
    ),
    case(
        "behind DataParallel",
        """
        model = models.resnet18(weights="DEFAULT")
        for p in model.parameters():
            p.requires_grad = False
        model.fc = nn.Linear(512, 2)
        model = nn.DataParallel(model).cuda()
        optimizer = Adam(filter(lambda p: p.requires_grad, model.parameters()))  # FC201
        for p in model.module.layer4.parameters():
            p.requires_grad = True
        """,
    ),
    case(
        "a class of the file's own",
        """
        class Net(nn.Module):
            def __init__(self, classes):
                super().__init__()
                self.backbone = models.resnet34(weights="DEFAULT")
                self.backbone.fc = nn.Identity()
                self.head = nn.Linear(512, classes)
                self.freeze_backbone()

            def freeze_backbone(self):
                for p in self.backbone.parameters():
                    p.requires_grad = False

            def unfreeze_backbone(self):
                for p in self.backbone.parameters():
                    p.requires_grad = True

            def forward(self, x):
                return self.head(self.backbone(x))

        model = Net(7).to("cuda")
        optimizer = optim.AdamW(filter(lambda p: p.requires_grad, model.parameters()), lr=3e-4)  # FC201
        for epoch in range(10):
            if epoch == 3:
                model.unfreeze_backbone()
            for x, y in loader:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
        """,
        "",
    ),
    case(
        "a trainer of the file's own",
        """
        class Trainer:
            def __init__(self, classes):
                self.model = models.resnet18(weights="DEFAULT")
                self.model.requires_grad_(False)
                self.model.fc = nn.Linear(512, classes)
                self.optimizer = optim.SGD(self.model.fc.parameters(), lr=0.1)  # FC201

            def unfreeze(self):
                self.model.requires_grad_(True)

            def fit(self, loader, epochs):
                for epoch in range(epochs):
                    if epoch == epochs // 2:
                        self.unfreeze()
                    for x, y in loader:
                        self.optimizer.zero_grad()
                        F.cross_entropy(self.model(x), y).backward()
                        self.optimizer.step()

        Trainer(10).fit(loader, 20)
        """,
        "",
    ),
    case(
        "handed to a function elsewhere",
        """
        from engine import train
        model = models.resnet18(weights="DEFAULT")
        for p in model.parameters():
            p.requires_grad = False
        for p in model.layer4.parameters():
            p.requires_grad = True
        optimizer = optim.Adam([p for p in model.parameters() if p.requires_grad])  # FC201
        model.fc = nn.Linear(512, 2)
        train(model, loader, optimizer)
        """,
        "",
    ),
    case(
        "returned",
        """
        def get_model_and_optimizer(lr):
            model = models.resnet18(weights="DEFAULT")
            for p in model.parameters():
                p.requires_grad = False
            model.fc = nn.Linear(512, 2)
            optimizer = optim.Adam(filter(lambda p: p.requires_grad, model.parameters()), lr=lr)  # FC201
            for p in model.layer4.parameters():
                p.requires_grad = True
            return model, optimizer
        """,
        "",
    ),
    case(
        "unfrozen, and not handed over",
        """
        model = models.resnet18(weights="DEFAULT")
        for name, p in model.named_parameters():
            p.requires_grad = name.startswith("layer4") or name.startswith("fc")
        optimizer = optim.Adam(model.fc.parameters(), lr=1e-3)  # FC201
        """,
    ),
    case(
        "a stage left out of the groups",
        """
        model = models.resnet18(weights="DEFAULT")
        for p in model.parameters():
            p.requires_grad = False
        for part in (model.layer3, model.layer4, model.fc):
            for p in part.parameters():
                p.requires_grad = True
        optimizer = optim.Adam([  # FC201
            {"params": model.layer4.parameters(), "lr": 1e-4},
            {"params": model.fc.parameters(), "lr": 1e-3},
        ])
        """,
    ),
    case(
        "nothing frozen, the head alone (a warning)",
        """
        model = models.resnet18(weights="DEFAULT")
        model.fc = nn.Linear(512, 3)
        optimizer = optim.Adam(model.fc.parameters(), lr=1e-3)  # FC201
        """,
    ),
    case(
        "head after the optimizer",
        """
        model = models.densenet121(weights="DEFAULT")
        optimizer = optim.Adam(model.parameters(), lr=1e-4)  # FC201
        model.classifier = nn.Linear(1024, 5)
        """,
    ),
    case(
        "scaled gradients",
        """
        model = models.resnet18(weights="DEFAULT")
        model.requires_grad_(False)
        model.fc = nn.Linear(512, 3)
        optimizer = optim.Adam(filter(lambda p: p.requires_grad, model.parameters()), lr=1e-3)  # FC201
        scaler = torch.cuda.amp.GradScaler()
        for epoch in range(10):
            if epoch > 4:
                model.requires_grad_(True)
            for x, y in loader:
                with torch.cuda.amp.autocast():
                    loss = F.cross_entropy(model(x), y)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
        """,
        "",
    ),
    case(
        "stage by stage, behind a switch, by one helper",
        """
        def set_trainable(m, flag):
            for p in m.parameters():
                p.requires_grad = flag

        model = models.resnet50(weights="DEFAULT")
        model.fc = nn.Linear(model.fc.in_features, 37)
        set_trainable(model, False)
        set_trainable(model.fc, True)
        schedule = {3: model.layer4, 6: model.layer3}
        optimizer = AdamW((p for p in model.parameters() if p.requires_grad), lr=3e-4)  # FC201
        for epoch in range(args.epochs):
            if args.gradual and epoch in schedule:
                set_trainable(schedule[epoch], True)
            for x, y in loader:
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
                optimizer.zero_grad()
        """,
        "",
    ),
    case(
        "an encoder in a list of stages",
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                base = models.resnet34(weights="DEFAULT")
                self.encoder = nn.ModuleList([nn.Sequential(base.conv1, base.bn1), base.layer1])
                self.head = nn.Conv2d(64, 1, 1)

            def forward(self, x):
                for stage in self.encoder:
                    x = stage(x)
                return self.head(x)

        def run_epoch(model, loader, optimizer=None):
            model.train(optimizer is not None)
            for batch in loader:
                with torch.set_grad_enabled(optimizer is not None):
                    loss = F.binary_cross_entropy_with_logits(model(batch["x"]), batch["y"])
                if optimizer is not None:
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()

        model = Net()
        for p in model.encoder.parameters():
            p.requires_grad = False
        optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)  # FC201
        for epoch in range(30):
            if epoch == 5:
                for p in model.encoder.parameters():
                    p.requires_grad = True
            run_epoch(model, train_loader, optimizer)
            run_epoch(model, val_loader)
        """,
        "",
    ),
]

HEALTHY = [
    case(
        "rebuilt at the unfreeze",
        """
        model = models.resnet18(weights="DEFAULT")
        model.requires_grad_(False)
        model.fc = nn.Linear(512, 3)
        optimizer = optim.Adam(filter(lambda p: p.requires_grad, model.parameters()), lr=1e-3)
        for epoch in range(10):
            if epoch == 5:
                model.requires_grad_(True)
                optimizer = optim.Adam(model.parameters(), lr=1e-5)
            for x, y in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
        """,
        "",
    ),
    case(
        "added at the unfreeze",
        """
        model = models.resnet18(weights="DEFAULT")
        model.requires_grad_(False)
        model.fc = nn.Linear(512, 3)
        optimizer = optim.Adam(model.fc.parameters(), lr=1e-3)
        for epoch in range(10):
            if epoch == 5:
                for p in model.layer4.parameters():
                    p.requires_grad = True
                optimizer.add_param_group({"params": model.layer4.parameters(), "lr": 1e-5})
            for x, y in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
        """,
        "",
    ),
    case(
        "it holds everything from the start",
        """
        model = models.resnet18(weights="DEFAULT")
        model.requires_grad_(False)
        model.fc = nn.Linear(512, 3)
        optimizer = optim.Adam(model.parameters(), lr=1e-3)
        for epoch in range(10):
            if epoch == 5:
                model.requires_grad_(True)
            for x, y in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
        """,
        "",
    ),
    case(
        "one optimizer for each part",
        """
        class Encoder(nn.Module):
            def __init__(self):
                super().__init__()
                resnet = models.resnet101(weights="DEFAULT")
                self.resnet = nn.Sequential(*list(resnet.children())[:-2])
                self.fine_tune(True)

            def forward(self, x):
                return self.resnet(x)

            def fine_tune(self, on):
                for p in self.resnet.parameters():
                    p.requires_grad = False
                for c in list(self.resnet.children())[5:]:
                    for p in c.parameters():
                        p.requires_grad = on

        class Decoder(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(2048, 100)

            def forward(self, x):
                return self.linear(x.mean((2, 3)))

        encoder, decoder = Encoder(), Decoder()
        encoder_optimizer = Adam(filter(lambda p: p.requires_grad, encoder.parameters()), lr=1e-4)
        decoder_optimizer = Adam(filter(lambda p: p.requires_grad, decoder.parameters()), lr=4e-4)
        for epoch in range(10):
            for x, y in loader:
                loss = F.cross_entropy(decoder(encoder(x)), y)
                encoder_optimizer.zero_grad()
                decoder_optimizer.zero_grad()
                loss.backward()
                encoder_optimizer.step()
                decoder_optimizer.step()
        """,
        "",
    ),
    case(
        "a linear probe under no_grad",
        """
        backbone = models.resnet18(weights="DEFAULT")
        backbone.fc = nn.Identity()
        backbone.eval()
        head = nn.Linear(512, 5)
        optimizer = optim.SGD(head.parameters(), lr=0.1)
        for x, y in loader:
            with torch.no_grad():
                features = backbone(x)
            optimizer.zero_grad()
            F.cross_entropy(head(features), y).backward()
            optimizer.step()
        """,
        "",
    ),
    case(
        "a linear probe in one module",
        """
        class Probe(nn.Module):
            def __init__(self):
                super().__init__()
                self.backbone = models.resnet18(weights="DEFAULT")
                self.head = nn.Linear(1000, 5)

            def forward(self, x):
                with torch.no_grad():
                    features = self.backbone(x)
                return self.head(features)

        model = Probe()
        optimizer = optim.SGD(model.head.parameters(), lr=0.1)
        """,
    ),
    case(
        "a detached backbone",
        """
        class Probe(nn.Module):
            def __init__(self):
                super().__init__()
                self.backbone = models.resnet18(weights="DEFAULT")
                self.head = nn.Linear(1000, 5)

            def forward(self, x):
                return self.head(self.backbone(x).detach())

        model = Probe()
        optimizer = optim.SGD(model.head.parameters(), lr=0.1)
        """,
    ),
    case(
        "a teacher and a moving average",
        """
        model = models.resnet18(num_classes=10)
        teacher = models.resnet50(weights="DEFAULT").eval()
        ema = copy.deepcopy(model)
        for p in ema.parameters():
            p.requires_grad_(False)
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        for x, y in loader:
            with torch.no_grad():
                soft = teacher(x)
            optimizer.zero_grad()
            out = model(x)
            loss = F.cross_entropy(out, y) + F.kl_div(out.log_softmax(1), soft.softmax(1))
            loss.backward()
            optimizer.step()
            for a, p in zip(ema.parameters(), model.parameters()):
                a.data.lerp_(p.data, 0.01)
        """,
        "",
    ),
    case(
        "momentum encoder",
        """
        class MoCo(nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder_q = models.resnet18(num_classes=128)
                self.encoder_k = models.resnet18(num_classes=128)
                for q, k in zip(self.encoder_q.parameters(), self.encoder_k.parameters()):
                    k.data.copy_(q.data)
                    k.requires_grad = False

            def forward(self, a, b):
                q = self.encoder_q(a)
                with torch.no_grad():
                    k = self.encoder_k(b)
                return q @ k.T

        model = MoCo()
        optimizer = SGD(model.encoder_q.parameters(), 0.03)
        for a, b in loader:
            loss = F.cross_entropy(model(a, b), torch.arange(len(a)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        """,
        "",
    ),
    case(
        "GAN that toggles",
        """
        def set_requires_grad(nets, on):
            for net in nets if isinstance(nets, list) else [nets]:
                for p in net.parameters():
                    p.requires_grad = on

        netG, netD = nn.Sequential(nn.Linear(8, 8)), nn.Sequential(nn.Linear(8, 1))
        optimizer_G = Adam(netG.parameters(), lr=2e-4, betas=(0.5, 0.999))
        optimizer_D = Adam(netD.parameters(), lr=2e-4, betas=(0.5, 0.999))
        for epoch in range(10):
            for real in loader:
                fake = netG(torch.randn(4, 8))
                set_requires_grad(netD, True)
                optimizer_D.zero_grad()
                (netD(fake.detach()).mean() - netD(real).mean()).backward()
                optimizer_D.step()
                set_requires_grad([netD], False)
                optimizer_G.zero_grad()
                (-netD(fake).mean()).backward()
                optimizer_G.step()
        """,
        "",
    ),
    case(
        "a module that is never called",
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = models.resnet18(num_classes=64)
                self.projector = nn.Linear(64, 64)
                self.head = nn.Linear(64, 3)

            def forward(self, x):
                return self.head(self.body(x))

        model = Net()
        model.body.requires_grad_(False)
        optimizer = SGD(model.head.parameters(), lr=0.1)
        """,
    ),
    case(
        "two phases, each with its optimizer",
        """
        def fit(model, optimizer, epochs):
            for epoch in range(epochs):
                for x, y in loader:
                    optimizer.zero_grad()
                    F.cross_entropy(model(x), y).backward()
                    optimizer.step()

        model = models.resnet18(weights="DEFAULT")
        for p in model.parameters():
            p.requires_grad = False
        model.fc = nn.Linear(512, 2)
        fit(model, Adam(model.fc.parameters(), lr=1e-3), 5)
        for p in model.parameters():
            p.requires_grad = True
        fit(model, Adam(model.parameters(), lr=1e-5), 5)
        """,
        "",
    ),
    case(
        "an option decides about both",
        """
        model = models.resnet18(weights="DEFAULT")
        model.fc = nn.Linear(512, 2)
        if args.freeze:
            for name, p in model.named_parameters():
                if "fc" not in name:
                    p.requires_grad = False
        params = [p for p in model.parameters() if p.requires_grad]
        optimizer = Adam(params, lr=1e-3)
        """,
    ),
    case(
        "the old head inside the new one",
        """
        model = models.resnet18(weights="DEFAULT")
        optimizer = Adam(model.parameters(), lr=1e-3)
        model.fc = nn.Sequential(nn.Dropout(0.5), model.fc)
        """,
    ),
    case(
        "groups that somebody else makes",
        """
        from utils import param_groups
        model = models.resnet18(weights="DEFAULT")
        model.requires_grad_(False)
        model.fc = nn.Linear(512, 2)
        optimizer = AdamW(param_groups(model, 0.05), lr=1e-3)
        model.layer4.requires_grad_(True)
        """,
    ),
    case(
        "a second optimizer that somebody else makes",
        """
        from utils import make_optimizer
        model = models.resnet18(weights="DEFAULT")
        model.requires_grad_(False)
        model.fc = nn.Linear(512, 2)
        model.layer4.requires_grad_(True)
        slow = make_optimizer(model.layer4.parameters(), lr=1e-5)
        optimizer = AdamW(model.fc.parameters(), lr=1e-3)
        """,
    ),
    case(
        "wrapped, moved and halved",
        """
        model = models.resnet18(weights="DEFAULT")
        optimizer = SGD(model.parameters(), lr=0.1)
        model = model.to("cuda").half()
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        model = nn.parallel.DistributedDataParallel(model, device_ids=[0])
        model = torch.compile(model)
        """,
    ),
    case(
        "a new model with a new optimizer",
        """
        model = models.resnet18(num_classes=2)
        optimizer = SGD(model.parameters(), lr=0.1)
        for fold in range(5):
            model = models.resnet18(num_classes=2)
            optimizer = SGD(model.parameters(), lr=0.1)
            for x, y in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
        """,
        "",
    ),
    case(
        "the best weights, kept and loaded",
        """
        model = models.resnet18(weights="DEFAULT")
        optimizer = SGD(model.parameters(), lr=0.1)
        best = copy.deepcopy(model)
        for epoch in range(10):
            for x, y in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
            best = copy.deepcopy(model)
        model = best
        model(x)
        """,
        "",
    ),
    case(
        "gradients carried over to the shared model",
        """
        def make():
            return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))

        shared = make()
        optimizer = SGD(shared.parameters(), lr=0.1)
        local = make()
        local.load_state_dict(shared.state_dict())
        for x, y in loader:
            F.cross_entropy(local(x), y).backward()
            for p, q in zip(local.parameters(), shared.parameters()):
                q._grad = p.grad
            optimizer.step()
        """,
        "",
    ),
    case(
        "an image is optimised",
        """
        vgg = models.vgg19(weights="DEFAULT").features.eval()
        for p in vgg.parameters():
            p.requires_grad_(False)
        image = torch.rand(1, 3, 64, 64).requires_grad_(True)
        optimizer = optim.LBFGS([image])
        for step in range(100):
            def closure():
                optimizer.zero_grad()
                loss = F.mse_loss(vgg(image), target)
                loss.backward()
                return loss
            optimizer.step(closure)
        """,
        "",
    ),
    case(
        "frozen in mid-run, with gradients that are cleared",
        """
        model = models.resnet18(num_classes=3)
        optimizer = AdamW(model.fc.parameters(), lr=0.1)
        optimizer = AdamW(model.parameters(), lr=0.1)
        for epoch in range(10):
            if epoch == 5:
                for p in model.layer1.parameters():
                    p.requires_grad = False
                optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
            for x, y in loader:
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
        """,
        "",
    ),
    case(
        "an optimizer inside another one",
        """
        class SAM(torch.optim.Optimizer):
            def __init__(self, params, base_optimizer, rho=0.05, **kwargs):
                super().__init__(params, dict(rho=rho, **kwargs))
                self.base_optimizer = base_optimizer(self.param_groups, **kwargs)
                self.param_groups = self.base_optimizer.param_groups

            def step(self):
                self.base_optimizer.step()

        model = models.resnet18(num_classes=3)
        optimizer = SAM(model.parameters(), SGD, lr=0.1)
        """,
    ),
    case(
        "a task has an optimizer of its own",
        """
        model = models.resnet18(num_classes=3)
        for task in tasks:
            optimizer = Adam(model.parameters(), lr=1e-3)
            for epoch in range(10):
                for x, y in task:
                    optimizer.zero_grad()
                    F.cross_entropy(model(x), y).backward()
                    optimizer.step()
        """,
        "",
    ),
    case(
        "an extra key that is used",
        """
        model = models.resnet18(num_classes=3)
        optimizer = SGD([
            {"params": model.layer4.parameters(), "lr_mult": 0.1},
            {"params": model.fc.parameters(), "lr_mult": 1.0},
        ], lr=0.1)
        model.conv1.requires_grad_(False)
        model.bn1.requires_grad_(False)
        for layer in (model.layer1, model.layer2, model.layer3):
            layer.requires_grad_(False)
        for epoch in range(10):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * 0.9 ** epoch * group["lr_mult"]
            for x, y in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
        """,
        "",
    ),
    case(
        "an encoder that is fine-tuned on request",
        """
        fine_tune = False
        encoder = models.resnet18(weights="DEFAULT")
        decoder = nn.Linear(1000, 5)
        for p in encoder.parameters():
            p.requires_grad = fine_tune
        decoder_optimizer = Adam(filter(lambda p: p.requires_grad, decoder.parameters()), lr=4e-4)
        encoder_optimizer = Adam(encoder.parameters(), lr=1e-4) if fine_tune else None
        for x, y in loader:
            loss = F.cross_entropy(decoder(encoder(x)), y)
            decoder_optimizer.zero_grad()
            if encoder_optimizer is not None:
                encoder_optimizer.zero_grad()
            loss.backward()
            decoder_optimizer.step()
            if encoder_optimizer is not None:
                encoder_optimizer.step()
        """,
        "",
    ),
    case(
        "gradients of copies, averaged",
        """
        net = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 1))
        meta = Adam(net.parameters(), lr=1e-3)
        for step in range(1000):
            fast = copy.deepcopy(net)
            inner = SGD(fast.parameters(), lr=0.01)
            for x, y in loader:
                inner.zero_grad()
                F.mse_loss(fast(x), y).backward()
                inner.step()
            for p, q in zip(net.parameters(), fast.parameters()):
                p.grad = p.data - q.data
            meta.step()
        """,
        "",
    ),
    case(
        "a trainer that sets up again for its second stage",
        """
        class Trainer:
            def __init__(self, model):
                self.model = model
                self.setup(1)

            def setup(self, stage):
                for p in self.model.features.parameters():
                    p.requires_grad = stage == 2
                params = self.model.parameters() if stage == 2 else self.model.classifier.parameters()
                self.optimizer = AdamW(params, lr=1e-3 if stage == 1 else 1e-5)

            def fit(self, loader):
                for epoch in range(20):
                    if epoch == 3:
                        self.setup(2)
                    for x, y in loader:
                        self.optimizer.zero_grad()
                        F.cross_entropy(self.model(x), y).backward()
                        self.optimizer.step()

        Trainer(models.mobilenet_v2(weights="DEFAULT")).fit(loader)
        """,
        "",
    ),
    case(
        "cleared by way of another container",
        """
        first, second = nn.Linear(4, 4), nn.Linear(4, 4)
        parts, same = nn.ModuleList([first, second]), nn.ModuleList([first, second])
        optimizer = SGD(parts.parameters(), lr=0.1, momentum=0.9)
        for epoch in range(4):
            if epoch == 2:
                first.requires_grad_(False)
            for x, y in loader:
                F.cross_entropy(second(first(x)), y).backward()
                optimizer.step()
                same.zero_grad()
        """,
        "",
    ),
    case(
        "groups by keys that are not known",
        """
        model = models.vit_b_16()
        groups = {}
        for name, param in model.named_parameters():
            decay = param.ndim > 1 and "pos_embedding" not in name and not skips(name)
            groups.setdefault((name.startswith("heads"), decay), []).append(param)
        optimizer = AdamW([
            {"params": params, "lr": 1e-3 if head else 1e-5} for (head, _), params in groups.items()
        ])
        """,
    ),
    case(
        "groups by depth, filled one by one",
        """
        model = models.vit_b_16()
        model.conv_proj.requires_grad_(False)
        groups = {"layer_0": {"params": [], "lr": 1e-5}, "layer_1": {"params": [], "lr": 1e-4}}
        for name, param in model.named_parameters():
            if param.requires_grad:
                groups["layer_%d" % depth_of(name)]["params"].append(param)
        optimizer = AdamW(list(groups.values()))
        """,
    ),
    case(
        "lists by a number that is not known",
        """
        model = models.resnet18(weights="DEFAULT")
        model.conv1.requires_grad_(False)
        slow, fast = [], []
        for name, param in model.named_parameters():
            [slow, fast][is_new(name)].append(param)
        lists = [[], []]
        for param in model.parameters():
            lists[choose(param)].append(param)
        optimizer = AdamW([{"params": lists[0], "lr": 1e-5}, {"params": lists[1]}])
        """,
    ),
]

OTHERS = [
    case(
        "FC202: one head for another",
        """
        model = models.resnet18(weights="DEFAULT")
        model.requires_grad_(False)
        optimizer = Adam(model.fc.parameters(), lr=1e-3)  # FC202
        model.fc = nn.Linear(512, 3)
        """,
    ),
    case(
        "FC202: made again",
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(4, 2)

            def forward(self, x):
                return self.fc(x)

        model = Net()
        optimizer = Adam(model.parameters(), lr=1e-3)  # FC202
        model = Net().to("cuda")
        """,
    ),
    case(
        "FC202: sharded afterwards",
        """
        from torch.distributed.fsdp import fully_shard
        model = models.vit_b_16()
        optimizer = AdamW(model.parameters(), lr=1e-3)  # FC202
        fully_shard(model)
        """,
    ),
    case(
        "FC203: everything frozen, then a head",
        """
        model = models.mobilenet_v2(weights="DEFAULT")
        for p in model.parameters():
            p.requires_grad = False
        optimizer = SGD(model.parameters(), lr=1e-3)  # FC203
        model.classifier[1] = nn.Linear(1280, 3)
        """,
    ),
    case(
        "FC204: a generator that was counted",
        """
        model = models.resnet18(weights="DEFAULT")
        head = model.fc.parameters()
        print(sum(p.numel() for p in head))
        rest = (p for n, p in model.named_parameters() if "fc" not in n)
        optimizer = SGD([{"params": rest}, {"params": head, "lr": 0.1}], lr=1e-3)  # FC204
        """,
    ),
    case(
        "FC204: clipping in the second batch",
        """
        model = models.resnet18(weights="DEFAULT")
        params = filter(lambda p: p.requires_grad, model.parameters())
        optimizer = SGD(params, lr=1e-3)
        for epoch in range(3):
            for x, y in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                nn.utils.clip_grad_norm_(params, 1.0)  # FC204
                optimizer.step()
        """,
        "",
    ),
    case(
        "FC205: in two",
        """
        model = models.resnet18(weights="DEFAULT")
        optimizer = SGD(model.parameters(), lr=1e-3)
        fc_optimizer = SGD(model.fc.parameters(), lr=1e-2)  # FC205
        for x, y in loader:
            optimizer.zero_grad(); fc_optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step(); fc_optimizer.step()
        """,
        "",
    ),
    case(
        "FC205: twice in a list",
        """
        model = models.resnet18(weights="DEFAULT")
        params = list(model.parameters()) + list(model.fc.parameters())
        optimizer = SGD(params, lr=1e-3)  # FC205
        """,
    ),
    case(
        "FC206: nobody clears",
        """
        model = models.resnet18(num_classes=3)
        optimizer = AdamW(model.parameters(), lr=1e-3)
        for epoch in range(10):
            if epoch == 3:
                for p in model.layer1.parameters():
                    p.requires_grad = False  # FC206
            for x, y in loader:
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
        """,
        "",
    ),
    case(
        "FC206: cleared to zeros",
        """
        model = models.resnet18(num_classes=3)
        optimizer = SGD(model.parameters(), lr=1e-3, momentum=0.9)
        for epoch in range(10):
            if epoch == 3:
                model.layer1.requires_grad_(False)  # FC206
            for x, y in loader:
                optimizer.zero_grad(set_to_none=False)
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
        """,
        "",
    ),
    case(
        "FC207: misspelled",
        """
        model = models.resnet18(num_classes=3)
        optimizer = AdamW([{"params": model.parameters(), "weight_deacy": 0.1}], lr=1e-3)  # FC207
        """,
    ),
    case(
        "FC207: set later",
        """
        model = models.resnet18(num_classes=3)
        optimizer = AdamW(model.parameters(), lr=1e-3)
        for group in optimizer.param_groups:
            group["learning_rate"] = 1e-5  # FC207
        """,
    ),
    case(
        "FC208: every epoch",
        """
        def train(epoch):
            optimizer = optim.Adam(model.parameters(), lr=1e-3)  # FC208
            for x, y in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()

        model = models.resnet18(num_classes=3)
        for epoch in range(1, 11):
            train(epoch)
        """,
        "",
    ),
    case(
        "FC212: all are handed over",
        """
        model = models.resnet18(weights="DEFAULT")
        for p in model.parameters():
            p.requires_grad = False
        model.fc = nn.Linear(512, 2)
        optimizer = SGD(model.parameters(), lr=1e-3)  # FC212
        """,
    ),
]


@pytest.mark.parametrize("code", [*MISSING, *OTHERS])
def test_found(code: str):
    assert found(code) == marked(code)


@pytest.mark.parametrize("code", HEALTHY)
def test_healthy(code: str):
    severe = [each for each in found(code, strict=True) if each[1] != "FC212"]
    assert severe == []


def test_frozen_for_an_epoch_in_every_fold():
    """The loops inside of later folds are cut short: what is frozen in all that is seen of
    them need not stay so."""
    body = """
    for fold in range(5):
        model = models.resnet18(weights="DEFAULT")
        optimizer = Adam(model.parameters(), lr=1e-4)
        for epoch in range(8):
            for name, p in model.named_parameters():
                if "fc" not in name:
                    p.requires_grad = epoch >= 1
            for x, y in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
    """
    assert found(TOP + textwrap.dedent(body)) == []
