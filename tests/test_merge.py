"""Source findings and live findings become one story; neither says what the other disproves."""

from __future__ import annotations

from freezecheck.finding import Edit, Finding, Fix, Note, Severity, Site
from freezecheck.merge import merge


def at(line: int, end: int | None = None) -> Site:
    return Site("train.py", line, 1, end)


def finding(code="FC201", line: int | None = 10, *notes: int, symbol=None, **more) -> Finding:
    """A finding with a note at each of some lines."""
    return Finding(
        code=code,
        name="a-name",
        severity=more.pop("severity", Severity.ERROR),
        message=more.pop("message", "Wrong."),
        site=None if line is None else at(line),
        symbol=symbol,
        notes=tuple(Note(f"{more.get('who', '')}{n}", at(n)) for n in notes),
        fix=more.pop("fix", None),
    )


def lines(merged: list[Finding]) -> list[tuple[str, int | None]]:
    return [(f.code, f.site.line if f.site else None) for f in merged]


def test_one_line_is_one_defect():
    (one,) = merge([finding(message="By the text.")], [finding(message="Measured.")])
    assert one.message == "Measured."


def test_one_thing_is_one_defect_wherever_it_is():
    (one,) = merge([finding(line=3, symbol="fc")], [finding(line=None, symbol="fc")])
    assert one.site == at(3)


def test_other_codes_lines_and_files_are_others():
    assert len(merge([finding("FC202")], [finding()])) == 2
    assert len(merge([finding(line=11)], [finding()])) == 2
    elsewhere = Finding("FC201", "a", Severity.ERROR, "x", Site("other.py", 10))
    assert len(merge([elsewhere], [finding()])) == 2
    assert len(merge([finding(symbol="a", line=1)], [finding(symbol="b")])) == 2


def test_a_statement_of_several_lines():
    text = Finding("FC201", "a", Severity.ERROR, "x", at(8, end=12))
    assert lines(merge([text], [finding(line=10)])) == [("FC201", 10)]


def test_the_same_file_by_another_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = Finding("FC201", "a", Severity.ERROR, "x", Site(str(tmp_path / "train.py"), 10))
    assert len(merge([text], [finding()])) == 1


def test_notes_are_woven_in_order_each_line_once():
    (one,) = merge(
        [finding("FC201", 10, 2, 5, 10, 30)], [finding("FC201", 10, 5, 10, 40, who="live ")]
    )
    assert [note.message for note in one.notes] == ["2", "live 5", "live 10", "30", "live 40"]


def test_edits_come_from_the_text_and_the_worse_severity_counts():
    edit = Fix("write this", (Edit(at(10), "x"),), safe=True)
    (one,) = merge(
        [finding(fix=edit, severity=Severity.ERROR)],
        [finding(fix=Fix("do that"), severity=Severity.WARNING)],
    )
    assert (one.fix, one.severity) == (edit, Severity.ERROR)
    (one,) = merge([finding(fix=Fix("in the text"))], [finding(fix=Fix("live"))])
    assert one.fix == Fix("live")


def test_a_run_that_was_at_every_place_disproves():
    text = finding("FC201", 10, 5, 20)
    places = [at(5), at(10), at(20)]
    assert merge([text], [], judged={"FC201"}, visited=places) == []


def test_a_run_that_was_not_everywhere_disproves_nothing():
    text = finding("FC201", 10, 5, 40)  # 40: an unfreeze in epoch 10
    assert merge([text], [], judged={"FC201"}, visited=[at(5), at(10), at(20)]) == [text]


def test_a_run_says_nothing_where_no_rule_looked():
    text = finding("FC105", 10)
    assert merge([text], [], judged={"FC201"}, visited=[at(10)]) == [text]
    assert merge([text], [], visited=[at(10)]) == [text], "no step was reached"


def test_live_findings_stay_and_the_order_is_that_of_severity():
    merged = merge(
        [finding("FC105", 3, severity=Severity.WARNING)], [finding("FC401", 9), finding("FC101", 2)]
    )
    assert lines(merged) == [("FC101", 2), ("FC401", 9), ("FC105", 3)]
