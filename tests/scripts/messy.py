"""Does everything that a script may do when it is stopped: none of it may happen."""

import atexit
import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch
from torch import nn

out = Path(sys.argv[1])
out.mkdir(exist_ok=True)
stepped = threading.Event()


def background():
    while True:
        if stepped.is_set():
            (out / "thread after the step").touch()
        (out / "thread").write_text(str(time.time()))
        time.sleep(0.001)


def busy():
    while True:
        if stepped.is_set():
            (out / "busy thread after the step").touch()


def main():
    atexit.register((out / "atexit").touch)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCONT):
        signal.signal(number, lambda n, f: (out / f"signal {n}").touch())
    threading.Thread(target=background, daemon=True).start()
    threading.Thread(target=busy).start()
    model = nn.Linear(8, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    try:
        while True:
            try:
                loss = nn.functional.cross_entropy(model(torch.randn(4, 8)), torch.zeros(4).long())
                loss.backward()
                optimizer.step()
                stepped.set()
                (out / "line after the step").touch()
            except:  # noqa: E722
                (out / "except").touch()
                torch.save(model.state_dict(), out / "checkpoint")
    finally:
        (out / "finally").touch()


class Last:
    def __del__(self):
        os.close(os.open(out / "del", os.O_CREAT))


last = Last()
main()
