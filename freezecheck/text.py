"""A file as a text: whether it could be read, and the comments in it that speak to us.

Plain data, like a `World`; rules about the text itself read it (`Rule.in_text`).
"""

from __future__ import annotations

from freezecheck.finding import Site


class Problem:
    """Why a file, or a cell of a notebook, could not be read, and where."""

    __slots__ = ("message", "site")

    def __init__(self, message: str, site: Site) -> None:
        self.message = message
        self.site = site


class Comment:
    """A comment that suppresses findings.

    `codes` are what it names: codes, beginnings of codes, names of rules; empty for
    all rules. `lines` are those of the statement that it is in, `whole_file` widens
    it to every line. `foreign` comments are `noqa`, which other linters use too.
    `unused` are the codes that suppressed nothing (`("",)` for a comment without codes),
    known only once everything has been checked; `unknown` pairs the ones that no rule has
    with the nearest one that a rule has ("" if none is near).
    """

    __slots__ = ("codes", "foreign", "lines", "site", "unknown", "unused", "whole_file")

    def __init__(
        self,
        site: Site,
        codes: tuple[str, ...] = (),
        *,
        lines: range = range(0),
        whole_file: bool = False,
        foreign: bool = False,
    ) -> None:
        self.site = site
        self.codes = codes
        self.lines = lines
        self.whole_file = whole_file
        self.foreign = foreign
        self.unused: tuple[str, ...] = ()
        self.unknown: tuple[tuple[str, str], ...] = ()


class Text:
    """What rules about the text of one file look at."""

    __slots__ = ("comments", "path", "problems")

    def __init__(self, path: str) -> None:
        self.path = path
        self.problems: list[Problem] = []
        self.comments: list[Comment] = []
