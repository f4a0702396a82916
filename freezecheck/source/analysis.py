"""A text, analysed: the ways through it, and what was not understood."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from freezecheck.program import World


@dataclass(slots=True)
class Analysis:
    """The worlds of one file.

    `calls` are the calls whose effect on a model or an optimizer is not known, as
    (line, text); `complete` is False where the step budget ran out before the end.
    """

    worlds: list[World] = field(default_factory=list)
    calls: list[tuple[int, str]] = field(default_factory=list)
    complete: bool = True


def analyze(
    tree: ast.Module,
    path: str,
    *,
    modules: dict[str, tuple[ast.Module, str]] | None = None,
    like: dict[str, str] | None = None,
) -> Analysis:
    """The worlds of a parsed file. Runs nothing, imports nothing, reads no file.

    `path` is what its sites say. `modules` are the files that its imports may be
    followed into, as dotted name -> (tree, path). `like` is the user's own knowledge:
    `my_lib.build_model` -> `torchvision.models.resnet50`.
    """
    return Analysis()
