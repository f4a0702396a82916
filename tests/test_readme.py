"""What the README shows is what the command prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMMAND = ("inspect", "fixtures/digits/finetune_broken.py")


def printed() -> str:
    """The report on the broken script, with its one varying figure fixed."""
    done = subprocess.run(
        [sys.executable, "-m", "freezecheck", *COMMAND],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1, done.stderr
    return _steady(done.stdout)


def _steady(text: str) -> str:
    # The time varies, and with its length where the last line is broken.
    return re.sub(r"\s+", " ", re.sub(r"in\s+[\d.]+\s+s;", "in 3.1 s;", text)).strip()


def test_the_readme_shows_the_real_output():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"```text\n(model .*?)```", readme, re.DOTALL)
    assert shown
    assert _steady(shown.group(1)) == printed()


def test_its_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), (page.name, link)


def test_its_commands_name_what_is_there():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    extras = set(re.findall(r"\.\[(\w+)\]", readme))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert extras == {"demo", "dev"}
    assert all(f"\n{extra} = [" in project for extra in extras)
    assert " ".join(COMMAND) in readme
