"""Comments that suppress findings, and those that are good for nothing."""

from __future__ import annotations

import pytest

from freezecheck import catalogue, lint, suppress
from freezecheck.finding import Finding, Severity, Site
from freezecheck.rules.fc001_unused_suppression import UnusedSuppression
from freezecheck.rules.fc002_unknown_code_in_suppression import UnknownCodeInSuppression
from freezecheck.source.read import read
from freezecheck.text import Text

NAMES = {
    "unused-suppression": "FC001",
    "unknown-code-in-suppression": "FC002",
    "trainable-not-in-optimizer": "FC201",
    "unknown-group-key": "FC207",
    "frozen-batchnorm-in-train-mode": "FC401",
    "tied-parameter-frozen": "FC111",
}
ABLE = set(NAMES.values()) - {"FC111"}  # which needs the objects


def finding(code: str, line: int, path: str = "a.py") -> Finding:
    return Finding(code, "a-name", Severity.ERROR, "Wrong.", Site(path, line))


def suppressed(text: str, *findings: tuple[str, int], asked: set[str] = ABLE):
    """(What is left, what is said about the comments) of findings as (code, line)."""
    source = read("a.py", text.encode())
    assert source.tree is not None
    comments = {"a.py": suppress.comments(source)}
    looked = suppress.Looked(NAMES, ABLE, lambda path: asked)
    kept = suppress.apply([finding(*f) for f in findings], comments, looked)
    about = Text("a.py")
    about.comments = comments["a.py"]
    own = [
        f for rule in (UnusedSuppression(), UnknownCodeInSuppression()) for f in rule.in_text(about)
    ]
    own = suppress.apply_to_own(own, comments, looked)
    said = [f"{f.code}:{f.site.line} {f.symbol or ''}".strip() for f in own]
    return [f"{f.code}:{f.site.line}" for f in kept], said


@pytest.mark.parametrize(
    "comment",
    [
        "freezecheck: ignore[FC201]",
        "freezecheck:ignore[fc201]",
        "freezecheck: ignore [ FC201 ]",
        "freezecheck: ignore[FC2]",
        "freezecheck: ignore[trainable-not-in-optimizer]",
        "freezecheck: ignore",
        "freezecheck: ignore  - since the head is trained elsewhere",
        "why this is so  # freezecheck: ignore[FC201]",
        "noqa: FC201",
        "NOQA:FC201",
        "noqa: E501, FC201",
        "noqa:E501 FC201",
        "noqa",
        "noqa  # freezecheck is wrong here",
        "type: ignore # noqa: FC201 - explained",
    ],
)
def test_a_comment_that_suppresses(comment):
    assert suppressed(f"x = 1  # {comment}", ("FC201", 1)) == ([], [])


@pytest.mark.parametrize(
    "comment",
    [
        "freezecheck: ignore[]",
        "freezecheck: ignored",
        "freezecheck: ignore-files",
        "freezecheck",
        "noqa: E501",
        "noqanda",
        "nothing",
    ],
)
def test_a_comment_that_does_not(comment):
    assert suppressed(f"x = 1  # {comment}", ("FC201", 1)) == (["FC201:1"], [])


@pytest.mark.parametrize(
    "text",
    [
        's = "# freezecheck: ignore[FC201]"',
        's = """\n# noqa\n"""',
        'f"# noqa: {1}"',
        "'''\n# freezecheck: ignore-file\n'''",
    ],
)
def test_strings_are_no_comments(text):
    lines = text.count("\n") + 1
    assert suppressed(text, ("FC201", lines))[0] == [f"FC201:{lines}"]


def test_a_comment_between_strings_is_one():
    assert suppressed('s = ("a"  # noqa: FC201\n     "b")', ("FC201", 1)) == ([], [])


@pytest.mark.parametrize("line", range(1, 5))
def test_any_line_of_the_statement_will_do(line):
    lines = ["opt = SGD(", "    model.parameters(),", "    lr=1,", ")", "x = 2"]
    lines[line - 1] += "  # freezecheck: ignore[FC201]"
    assert suppressed("\n".join(lines), ("FC201", 1), ("FC201", 5)) == (["FC201:5"], [])


def test_the_head_of_a_block_is_not_the_block():
    text = "for p in (  # noqa: FC201\n    a,\n):\n    p = 1\n    q = 2\n"
    assert suppressed(text, ("FC201", 3), ("FC201", 4))[0] == ["FC201:4"]
    text = "@f(\n    1)\ndef g():  # noqa: FC201\n    x = 1\n"
    assert suppressed(text, ("FC201", 1), ("FC201", 4))[0] == ["FC201:4"]
    text = "with a:  # noqa: FC201\n    x = 1\n"
    assert suppressed(text, ("FC201", 2))[0] == ["FC201:2"]


def test_the_whole_file():
    text = "# freezecheck: ignore-file[FC201]\nx = 1\ny = 2"
    assert suppressed(text, ("FC201", 3), ("FC207", 2)) == (["FC207:2"], [])
    assert suppressed("x = 1\n# freezecheck: ignore-file", ("FC201", 1), ("FC207", 1)) == ([], [])


def test_several_codes_and_several_comments():
    text = "x = 1  # freezecheck: ignore[FC201, FC207]"
    assert suppressed(text, ("FC201", 1), ("FC207", 1)) == ([], [])
    assert suppressed(text, ("FC201", 1)) == ([], ["FC001:1 FC207"])
    text = "x = 1  # noqa: FC201  # freezecheck: ignore[FC201]"
    assert suppressed(text, ("FC201", 1)) == ([], []), "both are used"


@pytest.mark.parametrize(
    ("comment", "said"),
    [
        ("freezecheck: ignore[FC201]", ["FC001:1 FC201"]),
        ("freezecheck: ignore[FC2]", ["FC001:1 FC2"]),
        ("freezecheck: ignore[FC201,FC401]", ["FC001:1 FC201, FC401"]),
        ("freezecheck: ignore[unknown-group-key]", ["FC001:1 unknown-group-key"]),
        ("freezecheck: ignore", ["FC001:1"]),
        ("freezecheck: ignore-file[FC4]", ["FC001:1 FC4"]),
        ("freezecheck: ignore-file", ["FC001:1"]),
        ("noqa: E501,FC201", ["FC001:1 FC201"]),
        ("noqa: E501", []),
        ("noqa", []),
        ("freezecheck: ignore[FC111]", []),  # which linting cannot find
        ("freezecheck: ignore[FC201, FC001]", []),  # for what only inspect finds
        ("freezecheck: ignore[FC299]", ["FC002:1 FC299"]),
        ("freezecheck: ignore[E501]", ["FC002:1 E501"]),
        ("freezecheck: ignore[FC201, trainable]", ["FC001:1 FC201", "FC002:1 trainable"]),
        ("noqa: FC999, ABC1", ["FC002:1 FC999"]),
        ("noqa: FC999  # freezecheck: ignore[FC401, FC002]", ["FC001:1 FC401"]),
        ("noqa: FC201  # freezecheck: ignore-file[unused-suppression]", []),
        ("noqa: FC201  # freezecheck: ignore", ["FC001:1 FC201", "FC001:1"]),
    ],
)
def test_comments_that_are_good_for_nothing(comment, said):
    assert suppressed(f"x = 1  # {comment}") == ([], said)


def test_of_a_rule_that_was_not_looked_for_nothing_can_be_said():
    asked = {"FC201"}
    assert suppressed("x = 1  # freezecheck: ignore[FC401]", asked=asked) == ([], [])
    assert suppressed("x = 1  # freezecheck: ignore", asked=asked) == ([], [])
    assert suppressed("x = 1  # freezecheck: ignore[FC2]", asked=asked) == ([], [])
    assert suppressed("x = 1  # freezecheck: ignore[FC201]", asked=asked)[1] == ["FC001:1 FC201"]


def test_the_nearest_code_is_named():
    source = read("a.py", b"x = 1  # freezecheck: ignore[FC20l]")
    comments = suppress.comments(source)
    suppress.apply([], {"a.py": comments}, suppress.Looked(NAMES, ABLE, lambda path: ABLE))
    assert comments[0].unknown == (("FC20l", "FC201"),)
    assert comments[0].site == Site("a.py", 1, 8, 1, 36)


def test_only_text_with_the_words_is_taken_apart(monkeypatch):
    monkeypatch.setattr(suppress.tokenize, "generate_tokens", None)
    assert suppress.comments(read("a.py", b"x = 1  # no qa")) == []


@pytest.mark.parametrize(
    "example",
    [e for c in ("FC001", "FC002", "FC003") for e in catalogue.find(c).examples()],
    ids=str,
)
def test_the_pages_of_rules_about_texts(example):
    """Their examples, linted for real."""
    settings = lint.Settings(texts={"a.py": example.code.encode()})
    found = [(f.site.line, f.code) for f in lint.lint(["a.py"], settings).findings]
    assert found == example.expected
