"""What the FC1 and FC2 rules find in the later phases of a run, and what they leave alone."""

from __future__ import annotations

import re
import textwrap

import pytest
from recording import Recording, record

from freezecheck.finding import Finding

START = """\
import torch
from torch import nn
model = nn.Sequential()
model.stem = nn.Linear(8, 16)
model.body = nn.Sequential(nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
model.head = nn.Linear(16, 4)
x, y = torch.randn(16, 8), torch.arange(16) % 4
def train(optimizer, steps=6, **options):
    for _ in range(steps):
        optimizer.zero_grad(**options)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
"""
PROBE = """
model.stem.requires_grad_(False)
model.body.requires_grad_(False)
optimizer = torch.optim.AdamW(model.head.parameters(), lr=1e-3){mark}
"""
PROBE, MARKED = PROBE.format(mark=""), PROBE.format(mark="  # <- FC201")


def run(body: str, batches: int | None = None) -> tuple[Recording, list[Finding]]:
    """The run of a script to its end, in which the marked lines, and no others, are found."""
    code = START + textwrap.dedent(body)
    seen = record(code, "train.py", None, batches)
    found = seen.findings(["FC1", "FC2"])
    lines = code.splitlines()
    marks = [(n, m) for n, line in enumerate(lines, 1) for m in re.findall(r"# <- (FC\d+)", line)]
    told = sorted((f.site.line if f.site else 0, f.code) for f in found)
    assert told == sorted(marks), [f"{f.site} {f.code} {f.message}" for f in found]
    return seen, found


def test_the_story_of_an_unfreeze_is_complete():
    seen, (finding,) = run(
        MARKED
        + """
for epoch in range(4):
    if epoch == 2:
        for p in model.body.parameters():
            p.requires_grad = True
    train(optimizer)
"""
    )
    assert [str(phase) for phase in seen.phases] == ["steps 1-12", "steps 13-24"]
    assert finding.step == 13
    assert [(note.message, note.site.line) for note in finding.notes if note.site] == [
        ("frozen here: body.1.weight, body.1.bias", 15),
        ("optimizer is built here", 16),
        ("optimizer takes its first step here", 12),
        ("unfrozen here: body.1.weight, body.1.bias", 21),
    ]


BAD = {
    "one stage is added and the next one forgotten": MARKED
    + """
train(optimizer)
model.body.requires_grad_(True)
optimizer.add_param_group({"params": model.body.parameters(), "lr": 1e-4})
train(optimizer)
model.stem.requires_grad_(True)
train(optimizer)
""",
    "stage after stage is forgotten, which is one defect": MARKED
    + """
for part in (model.body, model.stem):
    train(optimizer)
    part.requires_grad_(True)
train(optimizer)
""",
    "stages rest and come back one after the other, by one line": """
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
train(optimizer)
model.stem.requires_grad_(False)
model.body.requires_grad_(False)
for part in (model.body, model.stem):
    train(optimizer)
    part.requires_grad_(True)  # <- FC209
train(optimizer)
""",
    "rebuilt before the unfreeze": PROBE
    + """
train(optimizer)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])  # <- FC201
for p in model.body.parameters():
    p.requires_grad = True
train(optimizer)
""",
    "rebuilt from a list of the beginning": """
model.stem.requires_grad_(False)
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.SGD(trained, lr=0.1)
train(optimizer)
model.stem.requires_grad_(True)
optimizer = torch.optim.SGD(trained, lr=0.01)  # <- FC201
train(optimizer)
""",
    "a step function that gets its own optimizer": PROBE
    + """
def finetune(model):
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)  # <- FC201
    for p in model.parameters():
        p.requires_grad = True
    train(optimizer)
train(optimizer)
finetune(model)
""",
    "the head is swapped in mid-run": """
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # <- FC201
train(optimizer)
model.head = nn.Linear(16, 4)
train(optimizer)
""",
    "weights are assigned in mid-run": """
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # <- FC202
train(optimizer)
best = {name: value.clone() for name, value in model.state_dict().items()}
train(optimizer)
model.load_state_dict(best, assign=True)
train(optimizer)
""",
    "the wrong half is in the second optimizer": """
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
train(optimizer)
model.stem.requires_grad_(False)
model.body.requires_grad_(False)
rest = [p for name, p in model.named_parameters() if not name.startswith("head")]
optimizer = torch.optim.SGD(rest, lr=0.1)  # <- FC203
train(optimizer)
""",
    "the generator is used up at the unfreeze": PROBE
    + """
train(optimizer)
model.body.requires_grad_(True)
trained = (p for p in model.body.parameters() if p.requires_grad)
print(sum(p.numel() for p in trained))
groups = [{"params": trained, "lr": 0.01}, {"params": model.head.parameters()}]
optimizer = torch.optim.SGD(groups, lr=0.1)  # <- FC204
train(optimizer)
""",
    "a second optimizer takes what the first one has": """
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
train(optimizer)
second = torch.optim.SGD(model.body.parameters(), lr=0.1)  # <- FC205
for _ in range(6):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    second.step()
""",
    "moments carry on": """
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
train(optimizer)
model.stem.requires_grad_(False)  # <- FC206
train(optimizer, set_to_none=False)
""",
    "decay carries on": """
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
train(optimizer)
model.stem.requires_grad_(False)  # <- FC206
train(optimizer, set_to_none=False)
""",
    "a gradient is left": """
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
train(optimizer)
model.stem.requires_grad_(False)  # <- FC206
for _ in range(6):
    model.body.zero_grad()
    model.head.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
""",
    "momentum of long ago": """
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
train(optimizer)
model.stem.requires_grad_(False)
train(optimizer)
model.stem.requires_grad_(True)  # <- FC209
train(optimizer)
""",
    "state loaded in another order": """
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
train(optimizer)
state = optimizer.state_dict()
optimizer = torch.optim.SGD(reversed(list(model.parameters())), lr=0.1, momentum=0.9)
optimizer.load_state_dict(state)  # <- FC210
try:
    train(optimizer)
except RuntimeError as error:
    print(error)
""",
    "the rate of the second phase is that of the first": """
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
train(optimizer)
tuned = torch.optim.AdamW(model.parameters(), lr=1e-5)
tuned.load_state_dict(optimizer.state_dict())  # <- FC211
train(tuned)
""",
    "a rate set by hand and a checkpoint of the weights' file": """
import copy
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
checkpoint = copy.deepcopy(optimizer.state_dict())
for group in optimizer.param_groups:
    group["lr"] = 1e-5
optimizer.load_state_dict(checkpoint)  # <- FC211
train(optimizer)
""",
    "the new head of the second phase is frozen": """
model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU())
model.layers = nn.Sequential(*(nn.Linear(16, 16) for _ in range(4)))
model.head = nn.Linear(16, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
train(optimizer)
model.head = nn.Linear(16, 4)
for p in model.parameters():
    p.requires_grad = False  # <- FC110
model.layers[3].requires_grad_(True)
optimizer = torch.optim.SGD(model.layers[3].parameters(), lr=0.1)
model.eval()
train(optimizer)
""",
    "the embeddings are frozen later, and the head with them": """
class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(20, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.lm_head = nn.Linear(8, 20, bias=False)
        self.lm_head.weight = self.wte.weight
    def forward(self, tokens):
        features = self.wte(tokens)
        for block in self.blocks:
            features = features + block(features).relu()
        return self.lm_head(features)
model, x = Tiny(), y
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
train(optimizer)
model.wte.requires_grad_(False)  # <- FC111
train(optimizer)
""",
    "the freeze of a part is undone for all": """
for p in model.stem.parameters():
    p.requires_grad = False
model.head = nn.Linear(16, 4)
for p in model.parameters():
    p.requires_grad = True  # <- FC106
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
train(optimizer)
""",
    "an option freezes and the next line undoes it": """
freeze = True
def build(freeze):
    if freeze:
        model.stem.requires_grad_(False)
    model.requires_grad_(True)  # <- FC106
    return torch.optim.SGD(model.parameters(), lr=0.1)
train(build(freeze))
""",
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_bad(body: str):
    run(body)


GOOD = {
    "a head without bias is trained, and then rests": """
model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU())
model.layers = nn.Sequential(*(nn.Linear(16, 16) for _ in range(4)))
model.head = nn.Linear(16, 4, bias=False)
nn.init.uniform_(model[1].weight, 0.5, 1.5)
for name, p in model.named_parameters():
    p.requires_grad = name.startswith("head")
optimizer = torch.optim.SGD(model.head.parameters(), lr=1e-4)
model.eval()
train(optimizer, 2)
model.zero_grad()
model.head.requires_grad_(False)
model.layers[3].requires_grad_(True)
optimizer = torch.optim.SGD(model.layers[3].parameters(), lr=1e-4)
train(optimizer, 2)
""",
    "an optimizer and its schedule are rebuilt": PROBE
    + """
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
for epoch in range(4):
    if epoch == 2:
        model.body.requires_grad_(True)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    train(optimizer)
    scheduler.step()
""",
    "a group is added": PROBE
    + """
train(optimizer)
model.body.requires_grad_(True)
optimizer.add_param_group({"params": model.body.parameters(), "lr": 1e-4})
train(optimizer)
""",
    "the optimizer holds all from the start": """
model.stem.requires_grad_(False)
model.body.requires_grad_(False)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
train(optimizer)
model.body.requires_grad_(True)
train(optimizer)
model.stem.requires_grad_(True)
train(optimizer)
""",
    "a stage rests for good, and plain SGD keeps nothing of it": """
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
train(optimizer)
model.stem.requires_grad_(False)
train(optimizer)
""",
    "a stage rests for a while without state": """
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for epoch in range(3):
    if epoch == 1:
        for p in model.stem.parameters():
            p.requires_grad = False
            optimizer.state.pop(p, None)
    if epoch == 2:
        model.stem.requires_grad_(True)
    train(optimizer)
""",
    "parts take turns": """
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for i in range(12):
    model.stem.requires_grad_(i % 2 == 0)
    model.body.requires_grad_(i % 2 == 1)
    train(optimizer, 1)
""",
    "each half of a GAN rests while the other one steps": """
critic = nn.Linear(4, 1)
ours = torch.optim.Adam(model.parameters(), lr=1e-3)
theirs = torch.optim.Adam(critic.parameters(), lr=1e-3)
for _ in range(8):
    critic.requires_grad_(True)
    theirs.zero_grad()
    (critic(model(x).detach()).mean() - critic(torch.randn(16, 4)).mean()).backward()
    theirs.step()
    critic.requires_grad_(False)
    ours.zero_grad()
    (-critic(model(x)).mean()).backward()
    ours.step()
""",
    "the rate goes on where the schedule was": """
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
train(optimizer)
scheduler.step()
state = optimizer.state_dict()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
optimizer.load_state_dict(state)
train(optimizer)
""",
    "a resume takes the rates of its checkpoint": """
import io
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
kept = io.BytesIO()
torch.save(optimizer.state_dict(), kept)
kept.seek(0)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
scheduler = torch.optim.lr_scheduler.LinearLR(optimizer)
optimizer.load_state_dict(torch.load(kept))
train(optimizer)
""",
    "the best state comes back": """
import copy
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
train(optimizer)
best = optimizer.state_dict()
for group in optimizer.param_groups:
    group["lr"] = 1e-3
train(optimizer)
optimizer.load_state_dict(best)
train(optimizer)
""",
    "rates are set after the state is loaded": """
old = torch.optim.AdamW(model.parameters(), lr=1e-2)
train(old)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
optimizer.load_state_dict(old.state_dict())
for group in optimizer.param_groups:
    group["lr"] = 1e-5
del old
train(optimizer)
""",
    "a choice unfreezes all": """
full = True
model.stem.requires_grad_(False)
model.head = nn.Linear(16, 4)
if full:
    for p in model.parameters():
        p.requires_grad = True
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
train(optimizer)
""",
    "a choice unfreezes all, in a function that may return before": """
def unfreeze(model, full=True):
    if not full:
        return
    for p in model.parameters():
        p.requires_grad = True
model.stem.requires_grad_(False)
unfreeze(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
train(optimizer)
""",
    "a reset, and then what is chosen": """
for p in model.parameters():
    p.requires_grad = False
for p in model.parameters():
    p.requires_grad = True
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
train(optimizer)
""",
    "features were looked at in between": """
model.stem.requires_grad_(False)
features = model.stem(x)
model.requires_grad_(True)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
train(optimizer)
""",
    "an average that is trained by nobody": """
import copy
average = copy.deepcopy(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(3):
    if epoch == 1:
        model.head.requires_grad_(False)
    train(optimizer)
    with torch.no_grad():
        for mine, theirs in zip(average.parameters(), model.parameters()):
            mine.lerp_(theirs, 0.1)
""",
    "a fresh optimizer for each fold's model": """
for fold in range(4):
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train(optimizer)
""",
}


@pytest.mark.parametrize("body", GOOD.values(), ids=GOOD)
def test_good(body: str):
    run(body)


LOADER = """
from torch.utils.data import DataLoader, TensorDataset
loader = DataLoader(TensorDataset(x, y), batch_size=4)
def epoch(optimizer):
    for images, labels in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
"""
EACH_EPOCH = {
    "Adam": """
for _ in range(4):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)  # <- FC208
    epoch(optimizer)
""",
    "plain SGD has nothing to lose": """
for _ in range(4):
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    epoch(optimizer)
""",
    "a rate for each epoch": """
for lr in (1e-3, 1e-4, 1e-5, 1e-6):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    epoch(optimizer)
""",
    "rounds of several epochs": """
for _ in range(4):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    epoch(optimizer)
    epoch(optimizer)
""",
    "folds": """
for _ in range(4):
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    epoch(optimizer)
""",
    "weights that come back": """
first = {name: value.clone() for name, value in model.state_dict().items()}
for _ in range(4):
    model.load_state_dict(first)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    epoch(optimizer)
""",
    "a stage for each": """
model.requires_grad_(False)
for part in (model.head, model.body, model.stem):
    part.requires_grad_(True)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-3)
    epoch(optimizer)
""",
}


@pytest.mark.parametrize("body", EACH_EPOCH.values(), ids=EACH_EPOCH)
def test_an_optimizer_for_each_epoch(body: str):
    run(LOADER + body, batches=100)
