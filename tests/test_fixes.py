"""Fixes: applied whole or not at all, and nothing else changes by a byte."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from freezecheck import fixes
from freezecheck.finding import Edit, Finding, Fix, Severity, Site

PATH = "train.py"


def edit(line: int, column: int, end_line: int, end_column: int, content: str) -> Edit:
    return Edit(Site(PATH, line, column, end_line, end_column), content)


def finding(*edits: Edit, safe: bool = True, message: str = "mend it") -> Finding:
    fix = Fix(message, edits, safe=safe)
    return Finding("FC101", "some-rule", Severity.ERROR, "wrong", edits[0].site, fix=fix)


def fixed(text: str, *findings: Finding, unsafe: bool = False) -> str:
    return fixes.apply(findings, lambda path: text, unsafe=unsafe).texts.get(PATH, text)


def test_the_text_between_two_places_is_replaced():
    text = "a = 1\nmodel.layer4.requires_grad = True  # thaw\n"
    assert (
        fixed(text, finding(edit(2, 1, 2, 34, "model.layer4.requires_grad_(True)")))
        == "a = 1\nmodel.layer4.requires_grad_(True)  # thaw\n"
    )


def test_columns_are_characters():
    text = "é = 'ü'; p.require_grad = True\n"
    assert fixed(text, finding(edit(1, 12, 1, 24, "requires_grad"))) == (
        "é = 'ü'; p.requires_grad = True\n"
    )


def test_a_byte_order_mark_is_no_column():
    text = "\ufeffp.require_grad = True\n"
    assert fixed(text, finding(edit(1, 3, 1, 15, "requires_grad"))) == (
        "\ufeffp.requires_grad = True\n"
    )


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_new_lines_end_as_the_old_ones(newline: str):
    text = newline.join(["\tif x:", "\t\ty = 1", "\tz = 2"])
    changed = fixed(text, finding(edit(3, 2, 3, 7, "z = 3\n\tw = 4")))
    assert changed == newline.join(["\tif x:", "\t\ty = 1", "\tz = 3", "\tw = 4"])


def test_form_feeds_are_no_lines():
    text = "a = 1\n\x0cb = 2\nc = 3\x0b\n"
    assert fixed(text, finding(edit(3, 1, 3, 6, "c = 4"))) == "a = 1\n\x0cb = 2\nc = 4\x0b\n"


def test_unsafe_fixes_wait_to_be_asked_for():
    text = "model.eval\n"
    unsafe = finding(edit(1, 11, 1, 11, "()"), safe=False)
    result = fixes.apply([unsafe], lambda path: text, unsafe=False)
    assert (result.texts, result.applied, result.unsafe) == ({}, 0, 1)
    result = fixes.apply([unsafe], lambda path: text, unsafe=True)
    assert (result.texts, result.applied, result.unsafe) == ({PATH: "model.eval()\n"}, 1, 0)


def test_what_needs_a_particular_branch_is_not_fixed_safely():
    text = "model.eval\n"
    certain = finding(edit(1, 11, 1, 11, "()"))
    uncertain = dataclasses.replace(certain, certain=False)
    assert fixed(text, uncertain) == text
    assert fixed(text, uncertain, unsafe=True) == "model.eval()\n"
    assert fixed(text, uncertain, certain) == "model.eval()\n"


def test_of_fixes_that_overlap_the_first_is_applied_whole():
    text = "a = 1\nb = 2\nc = 3\n"
    first = finding(edit(2, 1, 2, 6, "b = 20"))
    second = finding(edit(1, 1, 1, 6, "a = 10"), edit(2, 5, 2, 6, "200"))
    third = finding(edit(3, 5, 3, 6, "30"))
    result = fixes.apply([first, second, third], lambda path: text, unsafe=False)
    assert result.texts == {PATH: "a = 1\nb = 20\nc = 30\n"}
    assert result.applied == 2


def test_a_fix_of_several_files_is_applied_whole():
    texts = {"a.py": "a = 1\n", "b.py": "b = 2\n"}
    first = Fix("x", (Edit(Site("b.py", 1, 5, 1, 6), "20"),), safe=True)
    both = Fix(
        "y",
        (Edit(Site("a.py", 1, 5, 1, 6), "10"), Edit(Site("b.py", 1, 1, 1, 6), "b = 200")),
        safe=True,
    )
    found = [Finding("FC101", "r", Severity.ERROR, "m", fix=fix) for fix in (first, both)]
    assert fixes.apply(found, texts.__getitem__, unsafe=False).texts == {"b.py": "b = 20\n"}
    assert fixes.apply(found[1:], texts.__getitem__, unsafe=False).texts == {
        "a.py": "a = 10\n",
        "b.py": "b = 200\n",
    }


def test_an_edit_that_two_fixes_share_is_made_once():
    text = "x = BatchNorm2d\ny = BatchNorm2d\n"
    need = edit(1, 1, 1, 1, "from torch import nn\n")
    found = (
        finding(need, edit(1, 5, 1, 16, "nn.X"), message="first"),
        finding(need, edit(2, 5, 2, 16, "nn.X"), message="second"),
    )
    assert fixed(text, *found) == "from torch import nn\nx = nn.X\ny = nn.X\n"


def test_two_insertions_at_one_place_are_not_both_made():
    text = "a = 1\n"
    found = finding(edit(1, 1, 1, 1, "b = 1\n")), finding(edit(1, 1, 1, 1, "c = 1\n"))
    assert fixed(text, *found) == "b = 1\na = 1\n"


@pytest.mark.parametrize(
    "wrong",
    [
        edit(9, 1, 9, 2, "x"),
        edit(1, 9, 1, 10, "x"),
        edit(1, 3, 1, 1, "x"),
        edit(0, 1, 1, 1, "x"),
        edit(1, 1, 1, 6, "a = = 1"),
    ],
    ids=["no such line", "no such column", "backwards", "line 0", "no Python afterwards"],
)
def test_an_edit_that_cannot_be_right_is_not_made(wrong: Edit):
    text = "a = 1\n"
    result = fixes.apply([finding(wrong)], lambda path: text, unsafe=True)
    assert (result.texts, result.applied) == ({}, 0)


def test_a_text_that_is_no_python_may_still_be_mended():
    text = "%matplotlib inline\nmodel.eval\n"
    assert fixed(text, finding(edit(2, 11, 2, 11, "()"))) == "%matplotlib inline\nmodel.eval()\n"


# Any text, cut at any places: what is not replaced is kept, whatever it is.
TEXTS = st.text(alphabet=st.sampled_from("ab é\t\f\v\u2028\x85()='\n\r#\\"), max_size=60)


def place(text: str, at: int) -> tuple[int, int]:
    """Line and column, as Python counts them."""
    before = text[:at].replace("\r\n", "\n").replace("\r", "\n")
    return before.count("\n") + 1, len(before) - before.rfind("\n")


@given(TEXTS, st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=4))
@example("a\r\nb\r\n", [(3, 4)])
@example("a\n\n", [(3, 3)])
@example("(", [(1, 1)])
def test_what_is_outside_the_edits_is_kept(text: str, cuts: list[tuple[int, int]]):
    spans = sorted((min(c), max(c)) for c in cuts if max(c) <= len(text))
    inside_pair = {i + 1 for i in range(len(text) - 1) if text[i : i + 2] == "\r\n"}
    spans = [s for s in spans if not inside_pair & set(s)]
    kept: list[tuple[int, int]] = []
    for span in spans:
        if not kept or (span[0] >= kept[-1][1] and span != kept[-1]):
            kept.append(span)
    was_python = fixes._is_python(text)
    findings = [
        finding(edit(*place(text, a), *place(text, b), f"<{i}>"), message=f"fix {i}")
        for i, (a, b) in enumerate(kept)
    ]
    expected, last = "", 0
    for i, (a, b) in enumerate(kept):
        expected += text[last:a] + f"<{i}>"
        last = b
    expected += text[last:]
    result = fixes.apply(findings, lambda path: text, unsafe=False)
    if was_python:  # "<0>" makes most texts something else, and then nothing is done
        assert fixes._is_python(result.texts.get(PATH, text))
    else:
        assert result.texts.get(PATH, text) == expected
        assert result.applied == len(kept)


@given(TEXTS, TEXTS)
def test_a_diff_is_what_patch_reads(text: str, other: str):
    rows = fixes.diff(PATH, text, other).split("\n")
    old = [row[1:] for row in rows[2:] if row[:1] in ("-", " ")]
    new = [row[1:] for row in rows[2:] if row[:1] in ("+", " ")]
    assert text == other or len(rows) > 3
    assert all(row in text.split("\n") for row in old)
    assert all(row in other.split("\n") for row in new)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a\nb\nc\n", "a\nB\nc\n"),
        ("a\r\nb\r\n", "a\r\nB\r\n"),
        ("a\nb", "a\nB"),
        ("a\nb", "a\nb\n"),
        ("a\x0c\n\u2028b\rc\n", "a\x0c\n\u2028b\rC\n"),
        ("x\n" * 30 + "end\n", "start\n" + "x\n" * 30),
    ],
)
def test_git_applies_a_diff(tmp_path, old: str, new: str):
    (tmp_path / PATH).write_bytes(old.encode())
    subprocess.run(
        ["git", "apply", "-p0", "--whitespace=nowarn", "-"],
        input=fixes.diff(PATH, old, new).encode(),
        cwd=tmp_path,
        check=True,
    )
    assert (tmp_path / PATH).read_bytes() == new.encode()


def test_equal_texts_have_no_diff():
    assert fixes.diff(PATH, "a\n", "a\n") == ""
