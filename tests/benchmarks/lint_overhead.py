"""What `freezecheck lint` costs, as ratios within one run: `python tests/benchmarks/lint_overhead.py`.

1. One script of about 100 lines, against Python importing `ast`, `argparse` and `tokenize`
   (CPU time, smallest of several runs, in turn).
2. The installed sources of torchvision, timm and transformers, against `ruff check` without
   its cache (wall time), with the peak memory of the largest process.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "fixtures" / "digits" / "finetune_broken.py"
RUNS = 15


def cpu(command: list[str]) -> float:
    """CPU seconds of a command and of what it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def wall(command: list[str]) -> float:
    """Wall seconds of a command."""
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def one_script() -> None:
    """The start-up budget of a pre-commit hook."""
    bare = [sys.executable, "-I", "-c", "import ast, argparse, tokenize"]
    entry = "from freezecheck.cli import main; main()"
    lint = [sys.executable, "-I", "-c", entry, "lint", str(SCRIPT)]
    times = [(cpu(bare), cpu(lint)) for _ in range(RUNS)]
    base, ours = (min(column) for column in zip(*times))
    print(f"one script: bare {base * 1000:.0f} ms, lint {ours * 1000:.0f} ms, {ours / base:.2f}x")


def libraries() -> None:
    """A large tree."""
    specs = [importlib.util.find_spec(name) for name in ("torchvision", "timm", "transformers")]
    homes = [os.path.dirname(spec.origin) for spec in specs if spec and spec.origin]
    ruff = [sys.executable, "-m", "ruff", "check", "--no-cache", "--isolated", "-q", *homes]
    entry = "from freezecheck.cli import main; main()"
    ours = [sys.executable, "-I", "-c", entry, "lint", "-q", *homes]
    for command in (ruff, ours):
        wall(command)  # the disk's cache
    times = [(wall(ruff), wall(ours)) for _ in range(3)]
    base, lint = (min(column) for column in zip(*times))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(
        f"libraries: ruff {base:.1f} s, lint {lint:.1f} s, {lint / base:.2f}x; peak {peak:.0f} MB"
    )


if __name__ == "__main__":
    one_script()
    libraries()
