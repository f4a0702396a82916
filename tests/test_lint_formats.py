"""What `freezecheck lint` prints, format by format: readable, stable, and valid."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freezecheck.finding import Edit, Finding, Fix, Note, Severity, Site
from freezecheck.report import findings as report
from freezecheck.report import github, sarif, source
from freezecheck.report.linted import Linted
from freezecheck.report.streams import Stream

HERE = Path(__file__).parent
GOLDEN = HERE / "golden" / "lint"
TRAIN = "train.py"

MISSING = Finding(
    code="FC201",
    name="trainable-not-in-optimizer",
    severity=Severity.ERROR,
    message="15 trainable tensors of model are in no optimizer: layer4.0.conv1.weight,"
    " layer4.0.bn1.weight and 13 more. They get gradients and never move.",
    site=Site(TRAIN, 10, 13, 13, 2),
    symbol="layer4.0.conv1.weight",
    notes=(
        Note("frozen here", Site(TRAIN, 8, 5, 8, 32)),
        Note("optimizer is built here", Site(TRAIN, 10, 13, 13, 2)),
        Note("unfrozen here", Site(TRAIN, 16, 5, 16, 31)),
        Note("optimizer is stepped here", Site(TRAIN, 21, 5, 21, 21)),
        Note("what was there in between is not known"),
    ),
    fix=Fix("build the optimizer after everything is unfrozen, or use add_param_group()"),
)
MODULE = Finding(
    code="FC101",
    name="module-requires-grad-assignment",
    severity=Severity.ERROR,
    message="requires_grad = True was set on a module: model.layer4. A module has no such flag,"
    " so nothing happened.",
    site=Site(TRAIN, 14, 1, 14, 34),
    symbol="model.layer4",
    fix=Fix(
        "call .requires_grad_(True) on the module",
        (Edit(Site(TRAIN, 14, 1, 14, 34), "model.layer4.requires_grad_(True)"),),
        safe=True,
    ),
)
STATEMENT = Finding(
    code="FC105",
    name="statement-without-effect",
    severity=Severity.WARNING,
    message="model.eval is named and not called.",
    site=Site("cells.ipynb[cell 2]", 3, 1, 3, 11),
    notes=(Note("model is built here", Site("cells.ipynb[cell 2]", 2, 9, 2, 38)),),
    fix=Fix("call it", (Edit(Site("cells.ipynb[cell 2]", 3, 11, 3, 11), "()"),), safe=True),
)
UNUSED = Finding(
    code="FC001",
    name="unused-suppression",
    severity=Severity.INFO,
    message="no finding here: 100% of «this, that: and more»",
    site=Site("sub folder/ünï[1].py", 2, 3),
    certain=False,
)
LINTED = Linted(
    (MODULE, MISSING, STATEMENT, UNUSED), files=1203, skipped=1000, calls=3, unfinished=("big.py",)
)
NOTHING = Linted(files=1)


def shown(linted: Linted, format: str, *, quiet: bool = False, statistics: bool = False) -> str:
    file = io.StringIO()
    report.show(linted, format, Stream(file), quiet=quiet, statistics=statistics)
    return file.getvalue()


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.chdir(GOLDEN)


def hold(request: pytest.FixtureRequest, name: str, printed: str) -> None:
    """It is what the file in tests/golden/lint holds."""
    if request.config.getoption("--update-golden"):
        (GOLDEN / name).write_text(printed, encoding="utf-8")
    assert printed == (GOLDEN / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("format", report.FORMATS)
def test_format(request: pytest.FixtureRequest, format: str):
    printed = shown(LINTED, format)
    if format == "sarif":
        printed = without_pages(printed)
    ending = {"json": "json", "sarif": "sarif"}.get(format, "txt")
    hold(request, f"{format}.{ending}", printed)


def without_pages(printed: str) -> str:
    """A log that stays the same when a rule's page, or our version, changes."""
    log = json.loads(printed)
    driver = log["runs"][0]["tool"]["driver"]
    driver["version"] = driver["semanticVersion"] = "0"
    driver["rules"] = [{"id": rule["id"]} for rule in driver["rules"]]
    return json.dumps(log, indent=2) + "\n"


def test_statistics(request: pytest.FixtureRequest):
    many = Linted((STATEMENT, STATEMENT, *LINTED.findings), files=2)
    hold(request, "statistics.txt", shown(many, "text", statistics=True))
    assert shown(many, "concise", statistics=True) == shown(many, "text", statistics=True)
    for format in ("json", "sarif", "github"):
        assert shown(many, format, statistics=True) == shown(many, format)


def test_quiet_leaves_the_findings_alone():
    assert shown(NOTHING, "text", quiet=True) == shown(NOTHING, "concise", quiet=True) == ""
    assert shown(LINTED, "text").startswith(shown(LINTED, "text", quiet=True))
    assert len(shown(LINTED, "concise", quiet=True).splitlines()) == 4


def test_nothing_found():
    assert shown(NOTHING, "text") == "no findings; 1 file\n"
    assert json.loads(shown(NOTHING, "json"))["findings"] == []
    assert "results" in json.loads(shown(NOTHING, "sarif"))["runs"][0]


def test_a_terminal_gets_colours_and_nothing_wider_than_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "72")
    for format in ("text", "concise"):
        printed = shown(LINTED, format)
        assert "\x1b[" in printed
        bare = re.sub(r"\x1b\[[0-9;]*m", "", printed)
        assert format != "text" or max(map(len, bare.splitlines())) <= 72
    commands = [row for row in shown(LINTED, "github").splitlines() if row.startswith("::")]
    assert len(commands) == 4
    assert "\x1b" not in "".join(commands)


def test_standard_input_is_quoted_and_not_the_file_of_that_name(monkeypatch):
    monkeypatch.setattr(source, "_given", {})
    source.given(TRAIN, ("\n" * 13 + "é = model.layer4\r\n").encode())
    assert "  14 | é = model.layer4" in shown(Linted((MODULE,)), "text")
    source.given("cells.ipynb", (GOLDEN / "cells.ipynb").read_bytes().replace(b"eval", b"train"))
    assert "  3 | model.train" in shown(Linted((STATEMENT,)), "text")


def test_every_json_key_is_documented():
    documented = (HERE.parent / "docs" / "json.md").read_text(encoding="utf-8")
    data = json.loads(shown(LINTED, "json"))
    keys = {*data, *data["findings"][0], *data["statistics"][0], *data["findings"][1]["notes"][0]}
    assert not {key for key in keys if f"`{key}`" not in documented}


def test_a_finding_without_a_place_is_shown_by_every_format():
    placeless = Linted((Finding("FC999", "no-place", Severity.ERROR, "somewhere"),), files=1)
    for format in report.FORMATS:
        assert "FC999" in shown(placeless, format)


@pytest.mark.parametrize("format", report.FORMATS)
def test_every_format_prints_one_encoding(format: str):
    """What a message or a path holds steers no terminal and starts no line of its own."""
    nasty = Finding(
        "FC101",
        "some-rule",
        Severity.ERROR,
        "a\x1b[31m\n::error::b\r\nc \udcff",
        Site("x\x1b[0m\ny.py", 1),
        fix=Fix("d\n::error::e"),
        notes=(Note("f\n::error::g", Site("x\n::y.py", 3)),),
    )
    buffer = io.BytesIO()
    file = io.TextIOWrapper(buffer, encoding="ascii")
    report.show(Linted((nasty,), files=1), format, Stream(file), quiet=True, statistics=False)
    printed = buffer.getvalue().decode()
    assert "\x1b" not in printed
    assert format not in ("github", "concise") or printed.count("\n") == 1


# GitHub


def parsed(command: str) -> tuple[str, dict[str, str], str]:
    """A workflow command as the runner of GitHub Actions reads it."""
    match = re.fullmatch(r"::(\w+) (.*?)::(.*)", command)
    assert match is not None
    properties = dict(part.split("=", 1) for part in match[2].split(","))
    for escape, character in (
        ("%3A", ":"),
        ("%2C", ","),
        ("%0D", "\r"),
        ("%0A", "\n"),
        ("%25", "%"),
    ):
        properties = {key: value.replace(escape, character) for key, value in properties.items()}
    message = match[3].replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%")
    return match[1], properties, message


@given(st.text(), st.text(min_size=1))
def test_a_workflow_command_says_what_the_finding_says(message: str, path: str):
    clean = re.sub(r"[\x00-\x1f\x7f-\x9f]", "", message)
    site = Site(re.sub(r"[\x00-\x1f\x7f-\x9f\[]", "", path), 3, 2, 3, 9)
    (line,) = github.lines([Finding("FC101", "name", Severity.WARNING, clean, site)])
    level, properties, said = parsed("".join(part for part, _ in line))
    assert (level, said) == ("warning", clean)
    assert properties == {
        "file": site.path,
        "line": "3",
        "endLine": "3",
        "col": "2",
        "endColumn": "9",
        "title": "FC101 name",
    }


# SARIF


@pytest.fixture(scope="module")
def validate():
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((HERE / "sarif" / "sarif-schema-2.1.0.json").read_text(encoding="utf-8"))
    return jsonschema.Draft7Validator(schema, format_checker=jsonschema.FormatChecker()).validate


@pytest.mark.parametrize("linted", [LINTED, NOTHING], ids=["findings", "none"])
def test_sarif_follows_the_schema(validate, linted: Linted):
    validate(json.loads(shown(linted, "sarif")))


SITES = st.builds(
    Site,
    st.text(min_size=1, alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.integers(1, 9),
    st.integers(1, 9),
    st.none() | st.integers(9, 12),
    st.none() | st.integers(10, 12),
)
EDITS = st.builds(Edit, SITES, st.text())
FINDINGS = st.builds(
    Finding,
    st.sampled_from(["FC101", "FC201", "FC001", "FC999"]),
    st.just("name"),
    st.sampled_from(Severity),
    st.text(),
    st.none() | SITES,
    st.none() | st.text(),
    st.lists(st.builds(Note, st.text(), st.none() | SITES), max_size=3).map(tuple),
    st.none() | st.builds(Fix, st.text(), st.lists(EDITS, max_size=2).map(tuple), st.booleans()),
)


@given(st.lists(FINDINGS, max_size=3))
def test_any_findings_make_valid_sarif(validate, findings: list[Finding]):
    log = sarif.log(Linted(tuple(findings), files=1))
    validate(log)
    run = log["runs"][0]
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]


def test_sarif_tells_the_whole_story():
    run = sarif.log(LINTED)["runs"][0]
    module, missing, cell, unused = run["results"]
    rules = {rule["id"]: rule for rule in run["tool"]["driver"]["rules"]}
    assert "## Why it matters" in rules["FC201"]["help"]["markdown"]
    assert [r["level"] for r in run["results"]] == ["error", "error", "warning", "note"]

    told = [note["message"]["text"] for note in missing["relatedLocations"]]
    assert told == [note.message for note in MISSING.notes]
    (flow,) = missing["codeFlows"]
    steps = flow["threadFlows"][0]["locations"]
    lines = [s["location"]["physicalLocation"]["region"]["startLine"] for s in steps]
    assert lines == [8, 10, 16, 21]

    (fix,) = module["fixes"]
    (change,) = fix["artifactChanges"]
    assert change["artifactLocation"]["uri"] == TRAIN
    assert change["replacements"][0] == {
        "deletedRegion": {"startLine": 14, "startColumn": 1, "endLine": 14, "endColumn": 34},
        "insertedContent": {"text": "model.layer4.requires_grad_(True)"},
    }
    assert "fixes" not in missing

    place = cell["locations"][0]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "cells.ipynb"
    assert place["logicalLocations"][0]["fullyQualifiedName"] == "cells.ipynb[cell 2]:3"
    assert cell["message"]["text"].startswith("cells.ipynb[cell 2]:3: model.eval")
    uri = unused["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri == "sub%20folder/%C3%BCn%C3%AF%5B1%5D.py"


def test_places_outside_the_working_directory_are_whole(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (str(tmp_path / "a b.py"), "../" + tmp_path.name + "/a b.py"):
        finding = Finding("FC101", "name", Severity.ERROR, "wrong", Site(path, 1))
        result = sarif.log(Linted((finding,)))["runs"][0]["results"][0]
        place = result["locations"][0]["physicalLocation"]["artifactLocation"]
        assert place == {"uri": (tmp_path / "a b.py").as_uri()}


def test_a_fingerprint_outlives_a_line_that_moves(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def marks(text: str, *lines: int) -> list[str]:
        Path("t.py").write_text(text)
        findings = tuple(
            Finding("FC101", "name", Severity.ERROR, f"on line {n}", Site("t.py", n)) for n in lines
        )
        results = sarif.log(Linted(findings))["runs"][0]["results"]
        return [r["partialFingerprints"]["lineAndSymbol/v1"] for r in results]

    before = marks("x = 1\ny.flag = 2\ny.flag = 2\n", 2, 3)
    after = marks("# new\n\nx = 1\n  y.flag = 2\ny.flag = 2\n", 4, 5)
    assert before == after
    assert len(set(before)) == 2


def test_a_pipe_needs_neither_rich_nor_torch():
    code = (
        "import sys\n"
        "from freezecheck.finding import Finding, Severity, Site\n"
        "from freezecheck.report.findings import FORMATS, show\n"
        "from freezecheck.report.linted import Linted\n"
        "from freezecheck.report.streams import Stream\n"
        "found = Finding('FC101', 'n', Severity.ERROR, 'm', Site('train.py', 8))\n"
        "for format in FORMATS:\n"
        "    show(Linted((found,), 1), format, Stream(sys.stdout), quiet=False, statistics=False)\n"
        "bad = {'rich', 'torch', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported: {bad}' if bad else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
