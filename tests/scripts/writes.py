"""Writes wherever a script can, sees what it wrote, and ends with the status it is given.

    python writes.py STATUS PLACE...

Each PLACE is a folder with a file `there` in it, but the last, which is empty.
"""

import os
import shutil
import sys
from pathlib import Path

import torch

status, *places = sys.argv[1:]
for place in map(Path, places):
    (place / "new").write_text("new")
    (place / "deep" / "er").mkdir(parents=True)
    torch.save({"w": torch.ones(3)}, place / "deep" / "er" / "best.pt")
    assert torch.load(place / "deep" / "er" / "best.pt")["w"].sum() == 3
    assert (place / "new").read_text() == "new"
    os.rename(place / "new", place / "renamed")
    shutil.copy(place / "renamed", place / "copy")
for place in map(Path, places[:-1]):
    assert (place / "there").read_text() == "the user's"
    (place / "there").write_text("overwritten")
    assert (place / "there").read_text() == "overwritten"
    (place / "there").unlink()
    assert not (place / "there").exists()
Path("/dev/shm/" + os.environ["FREEZECHECK_TEST"]).write_text("shared")
data = torch.utils.data.TensorDataset(torch.ones(8, 2))
for _ in torch.utils.data.DataLoader(data, num_workers=2):  # through shared memory and /tmp
    pass
torch.ones(1).share_memory_()
assert os.path.exists("/dev/null")
assert os.path.exists(f"/proc/{os.getpid()}/status")
print("wrote everywhere", file=sys.stderr)
sys.exit(int(status))
