"""What `freezecheck inspect --fake` takes for setups that no small machine could hold.

    python tests/benchmarks/fake_memory.py

Each script of `tests/scripts/large_*.py`, to its first step: seconds, CPU seconds and the
resident memory of its largest process at the most, beside what the setup itself would hold,
and beside a Python that only imports the script's libraries.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parent.parent / "scripts"
IMPORTS = {
    "large_lora.py": "import torch, peft; from transformers import LlamaForCausalLM, Trainer",
    "large_loop.py": "import torch; from transformers import LlamaForCausalLM",
}


def measured(*command: str) -> tuple[float, float, float, str]:
    """Seconds, CPU seconds, peak resident GiB of the largest process, and standard output."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, cwd=folder)
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
        seconds = time.perf_counter() - start
        out.seek(0)
        text = out.read().decode()
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20, text


def main() -> None:
    """Print one row for each script."""
    print("script           seconds  CPU s  peak GiB  imports GiB  would hold GiB")
    for name, imports in IMPORTS.items():
        _, _, floor, _ = measured(sys.executable, "-c", imports)
        seconds, cpu, peak, text = measured(
            *(sys.executable, "-m", "freezecheck", "inspect", "--fake"),
            *("--output-format", "json", str(SCRIPTS / name)),
        )
        report: dict[str, Any] = json.loads(text)
        assert report["run"]["outcome"] == "inspected", report["run"]
        held = sum(report["memory"].values()) / 2**30
        print(f"{name:15}  {seconds:7.1f}  {cpu:5.1f}  {peak:8.2f}  {floor:11.2f}  {held:14.1f}")


if __name__ == "__main__":
    main()
