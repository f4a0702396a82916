"""What `freezecheck inspect SCRIPT` costs beside the script itself, up to the first step.

    python tests/benchmarks/run_overhead.py [REPEATS]

The plain script is a copy that kills itself right after its first `optimizer.step()`.
Both are run in turns; the fastest of each counts.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPTS = Path(__file__).parent.parent / "end_to_end" / "scripts"
NAMES = ("plain_loop.py", "torchvision_workers.py", "gan.py", "hf_trainer.py")
LAST_STEP = {"gan.py": "opt_g.step()"}
KILL = "__import__('os').kill(__import__('os').getpid(), 9)"


def killed_copy(script: Path, folder: Path) -> Path:
    """The script, killing itself after its first step."""
    text = script.read_text(encoding="utf-8")
    copy = folder / script.name
    if script.name == "hf_trainer.py":
        callback = (
            "from transformers import TrainerCallback\n"
            "class Kill(TrainerCallback):\n"
            f"    def on_optimizer_step(self, *args, **kwargs): {KILL}\n"
        )
        text = callback + text.replace("train_dataset=", "callbacks=[Kill()], train_dataset=")
    else:
        step = LAST_STEP.get(script.name, "optimizer.step()")
        assert step in text
        text = text.replace(step, f"{step}; {KILL}", 1)
    copy.write_text(text, encoding="utf-8")
    return copy


def seconds(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return time.perf_counter() - start


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"{'script':24} {'plain':>8} {'inspect':>8} {'ratio':>7} {'extra':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            copy = killed_copy(SCRIPTS / name, Path(folder))
            plain, inspected = [], []
            for _ in range(repeats):
                plain.append(seconds(sys.executable, str(copy)))
                inspected.append(
                    seconds(sys.executable, "-m", "freezecheck", "inspect", str(SCRIPTS / name))
                )
            a, b = min(plain), min(inspected)
            print(f"{name:24} {a:6.2f} s {b:6.2f} s {b / a:6.2f}x {b - a:6.2f} s")


if __name__ == "__main__":
    main()
