"""What `freezecheck inspect --fast-forward 2` of a 12-epoch script takes beside the whole script.

    python tests/benchmarks/fast_forward.py [BATCHES]

The script fine-tunes torchvision's resnet18 on random 64 x 64 images, BATCHES (default 100) of 8 an
epoch, and unfreezes it at the tenth. CPU time is that of all processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPT = """\
import torch, torchvision
from torch.utils.data import DataLoader, TensorDataset
data = TensorDataset(torch.randn({batches} * 8, 3, 64, 64), torch.randint(0, 5, ({batches} * 8,)))
train, valid = DataLoader(data, batch_size=8, shuffle=True), DataLoader(data, batch_size=8)
model = torchvision.models.resnet18()
model.requires_grad_(False)
model.fc = torch.nn.Linear(512, 5)
optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-3)
for epoch in range(12):
    if epoch == 10:
        model.layer4.requires_grad_(True)
    model.train()
    for x, y in train:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        for x, y in valid:
            model(x)
    torch.save(model.state_dict(), "last.pt")
"""


def cost(folder: str, *command: str) -> tuple[float, float]:
    """Wall and CPU seconds of a command and all that it starts."""
    before, start = os.times(), time.perf_counter()
    subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    wall, after = time.perf_counter() - start, os.times()
    used = after.children_user - before.children_user + after.children_system
    return wall, used - before.children_system


def main() -> None:
    batches = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "train.py").write_text(SCRIPT.format(batches=batches), encoding="utf-8")
        whole = cost(folder, sys.executable, "train.py")
        print(f"whole script, 12 x {batches} batches: {whole[0]:.1f} s, {whole[1]:.1f} s of CPU")
        for options in (["--fast-forward", "2"], ["--sandbox", "--fast-forward", "2"]):
            command = [sys.executable, "-m", "freezecheck", "inspect", *options, "train.py"]
            wall, cpu = cost(folder, *command)
            print(f"{' '.join(options):26} {wall:.1f} s, {cpu:.1f} s of CPU", end="")
            print(f": {wall / whole[0]:.3f} and {cpu / whole[1]:.3f} of it")


if __name__ == "__main__":
    main()
