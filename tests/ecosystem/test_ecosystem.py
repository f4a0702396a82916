"""The linter on real code: the installed sources of the libraries themselves.

Every finding on them has been read, and those that are left are true: `findings.json`
says why. A new one is either a false alarm, to be mended, or is read and added. What each
rule finds and how long it takes is printed with `-s`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import time
from collections import Counter
from pathlib import Path

import pytest

from freezecheck.lint import Settings, lint

LIBRARIES = ("torchvision", "timm", "accelerate", "peft", "lightning", "transformers", "torch")
KNOWN = json.loads((Path(__file__).parent / "findings.json").read_text())


def sources(library: str) -> tuple[Path, list[str]]:
    """The folder of an installed library, and its Python files."""
    found = importlib.util.find_spec(library)
    if found is None or found.origin is None:
        pytest.skip(f"{library} is not installed")
    home = Path(found.origin).parent
    return home, sorted(
        os.path.join(folder, name)
        for folder, _, names in os.walk(home)
        for name in names
        if name.endswith(".py")
    )


@pytest.mark.slow
@pytest.mark.frameworks
@pytest.mark.parametrize("library", LIBRARIES)
def test_library(library: str):
    home, files = sources(library)
    start = time.process_time()
    linted = lint(files, Settings())
    seconds = time.process_time() - start
    counts = Counter(finding.code for finding in linted.findings)
    print(
        f"\n{library}: {linted.files} files, {linted.files - linted.skipped} looked into,"
        f" {seconds:.1f} s, {linted.calls} calls not understood,"
        f" {len(linted.unfinished)} out of budget; {dict(counts)}"
    )
    broken = [
        f"{f.site}: {f.message}" for f in linted.findings if "freezecheck itself" in f.message
    ]
    assert not broken
    known = KNOWN.get(library, {})
    if importlib.metadata.version(library) != known.get("version"):
        pytest.skip(f"findings were read on {library} {known.get('version')}")
    found = {
        f"{os.path.relpath(f.site.path, home)}:{f.site.line} {f.code}"
        for f in linted.findings
        if f.site
    }
    read = set(known["true"])
    assert not found - read, "findings that nobody has read"
    assert not read - found, "findings that are gone: take them off the list"
