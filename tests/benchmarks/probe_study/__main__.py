"""`run`, `quiet` and `table`."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import torch

from .cases import cases
from .one import record
from .quiet import quiet, told
from .settings import configurations
from .tables import tables


def folder() -> Path:
    """Where results and pretrained networks are."""
    given = os.environ.get("PROBE_STUDY")
    return Path(given) if given else Path(tempfile.gettempdir()) / "probe-study"


def run(part: int = 0, of: int = 1) -> None:
    """Every `of`-th configuration that has no result yet, the results as they come."""
    here = folder()
    here.mkdir(parents=True, exist_ok=True)
    done = {
        json.loads(line)["key"] for path in here.glob("results-*.jsonl") for line in path.open()
    }
    with (here / f"results-{part}.jsonl").open("a") as out:
        for index, this in enumerate(configurations()):
            if index % of == part and this.key not in done:
                out.write(json.dumps(record(this, here)) + "\n")
                out.flush()


def main() -> None:
    torch.set_num_threads(1)
    command, *numbers = sys.argv[1:] or [""]
    if command == "run":
        run(*map(int, numbers))
    elif command == "quiet":
        quiet(folder(), *map(int, numbers))
    elif command == "table":
        print("\n".join(tables(cases(folder()))), told(folder()), sep="\n- ")
    else:
        sys.exit(f"run, quiet or table, not {command}")


if __name__ == "__main__":
    main()
