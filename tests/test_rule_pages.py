"""Every rule page is complete, and its Bad and Good examples are true."""

from __future__ import annotations

import ast
import importlib.util
import pkgutil

import pytest
from recording import probed, record

from freezecheck import catalogue, rules
from freezecheck.check import check, check_source
from freezecheck.rule import SECTIONS, Example, Rule
from freezecheck.source.analysis import analyze

RULES = catalogue.load()
EXAMPLES = [example for rule in RULES for example in rule.examples()]


def test_every_rule_file_is_in_the_catalogue():
    assert [m.name for m in pkgutil.iter_modules(rules.__path__)] == sorted(catalogue.MODULES)


def test_codes_and_names_are_unique():
    assert len({r.code for r in RULES}) == len({r.name for r in RULES}) == len(RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.code)
def test_page_is_complete(rule: Rule):
    assert tuple(rule.sections()) == SECTIONS
    assert all(rule.sections().values())
    assert rule.summary().endswith(".")
    kinds = {example.good for example in rule.examples()}
    assert kinds == {True, False}, "a page needs a Bad and a Good example"
    assert all(e.expected or e.gaps for e in rule.examples() if not e.good)
    module = f"{rule.code.lower()}_{rule.name.replace('-', '_')}"
    assert type(rule).__module__.endswith(module)
    known = {r.code for r in RULES}
    assert set(rule.explains) <= known - {rule.code}


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_example(example: Example):
    """Run to its end, Bad fires on exactly the marked lines, with no other rule; Good is silent.
    To stop at the first step may show less, and never anything else."""
    options = dict(o.partition("=")[::2] for o in example.options)
    if "source" in options:
        pytest.skip("for the source half")
    if "ranks" in options:
        pytest.skip("for several processes: see test_ranks.py")
    needs = options.get("needs")
    if needs and importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    filename = f"{example}.py"
    if "probe" in options:
        findings = probed(example.code, filename)
        assert [(f.site and f.site.line, f.code) for f in findings] == example.expected
        return
    # The made-up weights of other pages' models make no sense, nor do their losses.
    run = record(example.code, filename, steps=None, tripwires=example.rule.startswith("FC6"))
    findings = run.findings()
    found = sorted((f.site.line if f.site else 0, f.code) for f in findings)
    assert found == sorted(example.expected), [str(f.message) for f in findings]
    assert not set(found) & set(example.gaps), "a known gap is closed: unmark it"
    assert all(f.site is None or f.site.path == filename for f in findings)
    for phase in run.phases[:1]:
        early = check(RULES, timeline=run.timeline.until(phase.events), phases=[phase])
        lines = {(f.site.line if f.site else 0, f.code) for f in early}
        assert lines <= set(found), [str(f.message) for f in early]


BY_CODE = {rule.code: rule for rule in RULES}


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_example_in_the_source_half(example: Example):
    """The text alone tells the same, as far as the rules have a source half."""
    if "live" in example.options:
        pytest.skip("the text alone does not tell")
    if example.rule == "FC003":
        pytest.skip("it cannot be parsed")
    findings = check_source(RULES, analyze(ast.parse(example.code), "example.py").worlds)
    found = sorted((f.site.line if f.site else 0, f.code) for f in findings if f.certain)
    expected = [e for e in example.expected if type(BY_CODE[e[1]]).in_source is not Rule.in_source]
    assert found == sorted(expected), [f"{f.site}: {f.code} {f.message}" for f in findings]
    assert not set(found) & set(example.gaps), "a known gap is closed: unmark it"
