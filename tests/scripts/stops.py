"""Stops, or hangs, at the place named first, before any optimizer step."""

import os
import sys
import time

place = sys.argv[1]


def stop(here):
    if place == here:
        how = sys.argv[2]
        if how == "raise":
            raise RuntimeError(f"the end came {here}")
        if how == "hang":
            time.sleep(1000)
        if how == "kill":
            os.kill(os.getpid(), 9)
        if how == "_exit":
            os._exit(0)
        sys.exit(0)


stop("before torch")
import torch  # noqa: E402

stop("before the optimizer")
model = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
stop("before backward")
model(torch.randn(3, 4)).sum().backward()
stop("before the step")
