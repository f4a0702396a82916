"""Under which conditions a line runs, as the source tells."""

from __future__ import annotations

import linecache
import sys
from typing import Any

import pytest

from freezecheck.live import frames, guards

SCRIPT = """\
def here(flag, other=None):
    plain()
    if flag:
        under()
    else:
        otherwise()
    for part in range(1):
        if other:
            continue
        after()
    try:
        plain2()
        raise ValueError
    except ValueError:
        failed()
    match flag:
        case True:
            matched()
def outer():
    if True:
        here(True)
        here(False)
"""
# The conditions on the way, as the lines of what they are written in.
WAYS = {
    "plain": [[], [], [20], [20]],
    "under": [[3], [3, 20]],
    "otherwise": [[3], [3, 20]],
    "after": [[8], [8], [8, 20], [8, 20]],
    "plain2": [[], [], [20], [20]],
    "failed": [[14], [14], [14, 20], [14, 20]],
    "matched": [[17], [17, 20]],
}


@pytest.fixture
def seen() -> dict[str, list[list[int]]]:
    found: dict[str, list[list[int]]] = {}
    reader = guards.Guards()
    name = "guarded.py"
    linecache.cache[name] = (len(SCRIPT), None, SCRIPT.splitlines(True), name)
    frames.is_users.cache_clear()

    def note(word: str) -> None:
        frame = sys._getframe(2)
        ways = [w.split(":") for w in reader.choices(frame) if w.startswith(name)]
        found.setdefault(word, []).append(sorted(int(line) for _, line, _ in ways))

    def told(word: str) -> Any:
        return lambda: note(word)

    space: dict[str, Any] = {word: told(word) for word in WAYS}
    exec(compile(SCRIPT, name, "exec"), space)
    space["here"](True)
    space["here"](False)
    space["outer"]()
    return found


def test_conditions_around_a_line_and_before_it(seen: dict[str, list[list[int]]]):
    assert seen == WAYS
