"""What people look at after a probe: text, JSON, figure and page say what the warm-up showed."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import freezecheck
from freezecheck.finding import Finding, Fix, Severity, Site
from freezecheck.plain import encode
from freezecheck.probe.report import ProbeReport
from freezecheck.report import probe as text
from freezecheck.report.line import plain
from freezecheck.report.spark import bars, sparkline
from freezecheck.report.streams import Stream
from freezecheck.report.terminal import warmup_display
from freezecheck.trace import NOT_FINITE, Pool, Trace
from freezecheck.warmup import (
    CLASSES,
    INCONCLUSIVE,
    NEAR,
    NUMBERS,
    SAFE,
    UNSAFE,
    Critical,
    Features,
    Floor,
    Layer,
    Look,
    Progress,
    Shares,
    Warmup,
)

GOLDEN = Path(__file__).parent / "golden" / "probe"


@pytest.fixture
def golden(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """`golden(name, text)`: the text is what the file holds."""
    monkeypatch.chdir(GOLDEN.parent)

    def compare(name: str, printed: str) -> None:
        if request.config.getoption("--update-golden"):
            GOLDEN.mkdir(exist_ok=True)
            (GOLDEN / name).write_text(printed + "\n", encoding="utf-8")
        assert printed + "\n" == (GOLDEN / name).read_text(encoding="utf-8")

    return compare


def made(warmup: Warmup, *findings: Finding, left_out: tuple[str, ...] = ()) -> ProbeReport:
    """A report of a warm-up that never was."""
    pool = Pool(len(warmup.losses), 256, 3, 1, 0.97, z=-0.3, spread=1.5, scale=2.0)
    steps = len(warmup.losses)
    trace = Trace(steps, steps, recent=warmup.losses[-20:], pools=(pool,), warmup=warmup)
    return ProbeReport(findings, trace, left_out)


CRITICAL = (
    Critical(0, "stem", 1e-4, certified=3e-3, tried=1.0, suggested=1e-4),
    Critical(
        1, "layer1 ... layer3", 0.02, certified=5e-4, safe=0.01, diverges=0.03, suggested=3e-3
    ),
    Critical(
        2, "head (<fc> $a_1$)", 0.5, certified=2e-3, safe=0.04, diverges=0.12, suggested=0.012
    ),
)


def exploding() -> ProbeReport:
    """Everything that a report can hold, with numbers that are none."""
    losses = (1.7, 1.2, 0.9, 1.4, 8.0, 250.0, 3.1e4, 8e9, math.inf, math.nan)
    guesses = tuple(
        (0.3, max(0.6 - step / 10, 0.0), min(0.1 + step / 10, 0.7)) for step in range(10)
    )
    warmup = Warmup(
        CLASSES,
        32,
        10,
        (1e-4, 0.02, 0.5),
        losses,
        (1.62,) * 10,
        math.log(3),
        UNSAFE,
        NOT_FINITE,
        tripped=5,
        calm=0.1,
        layers=(
            Layer("stem.bn", True, False, 0.02),
            Layer("layer1.0.bn1", True, True, 4.5e6),
            Layer("layer1.0.bn2", True, True, math.nan),
            Layer("layer2.0.bn1", False, True, 0.0),
        ),
        samples=256,
        start=Look(1.62, 0.31),
        train=Look(math.nan, 0.33),
        eval=Look(math.inf, 0.33),
        settled=Look(4.5, 0.335),
        features=Features(0.83, 0.0, 0.41),
        floor=Floor(86, 0.912, 0.4, 0.33),
        shares=Shares((0, 7), guesses, (0.34, 0.33, 0.33)),
        critical=CRITICAL,
    )
    finding = Finding(
        "FC601",
        "non-finite-loss",
        Severity.ERROR,
        "The loss is NaN or infinite from step 9 of a warm-up on, at rates of up to 0.5.",
        Site("train.py", 23),
        "loss",
        fix=Fix("lower group 2 from 0.5 to about 0.05, where a warm-up raised no alarm"),
    )
    return made(warmup, finding, left_out=("gradients were not clipped, whatever the run does",))


def sparse() -> ProbeReport:
    """A regression, of which little is known."""
    losses = tuple(4.0 * 0.9**step for step in range(30))
    return made(
        Warmup(NUMBERS, 8, 10, (3e-3,), losses, (4.0,) * 30, None, SAFE, "", samples=40,
               start=Look(4.0), train=Look(0.2), eval=Look(0.19)),
    )  # fmt: skip


def empty() -> ProbeReport:
    """Not one step was taken."""
    return made(Warmup(CLASSES, 0, 10, (), (), (), None, INCONCLUSIVE, ""))


REPORTS = {"exploding": exploding, "sparse": sparse, "empty": empty}


def probed(lr: float) -> ProbeReport:
    """A real probe of a small network with BatchNorm."""
    torch.manual_seed(0)
    labels = torch.randint(4, (320,))
    inputs = torch.randn(320, 16) + 3 * nn.functional.one_hot(labels, 16)
    model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    groups = [{"params": model[:2].parameters(), "lr": lr / 10}, {"params": model[3].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9)
    batches = list(zip(inputs.split(32), labels.split(32)))
    return freezecheck.probe(model, optimizer, batches, nn.functional.cross_entropy)


@pytest.fixture(scope="module", params=[0.1, 300.0], ids=["safe", "unsafe"])
def real(request: pytest.FixtureRequest) -> ProbeReport:
    return probed(request.param)


# -- text ------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 120])
@pytest.mark.parametrize("name", REPORTS)
def test_text(name: str, width: int, golden):
    report = REPORTS[name]()
    printed = text.render(report, width)
    golden(f"{name}.{width}.txt", printed)
    assert all(len(row) <= width for row in printed.splitlines() if " | " not in row)
    assert printed.isascii()  # whatever terminal it is printed on
    assert str(report) == repr(report) == text.render(report)


def test_the_figures_are_those_of_the_probe(real: ProbeReport):
    printed, warmup = " ".join(str(real).split()), real.warmup
    assert printed.startswith(f"{real.zone}: ")
    assert warmup.rates == (pytest.approx(warmup.rates[1] / 10), warmup.rates[1])
    assert f"{len(warmup.losses)} steps of 32 samples, classification" in printed
    assert warmup.shares is not None
    (row,) = (row for row in str(real).splitlines() if row.startswith("predicted"))
    late = [sum(column) / 10 for column in zip(*warmup.shares.predicted[-10:])]
    said = [float(word.strip("<>%")) / 100 for word in row.split()[1:]]
    assert said == pytest.approx(late[:4], abs=0.0101)
    for finding in real.findings:
        assert finding.code in printed
    assert ("no findings" in printed) == (not real.findings)


def test_brief_text_is_the_findings_alone():
    report = exploding()
    brief = plain(text.layout(report, 80, brief=True))
    assert brief.startswith("error FC601")
    assert "class" not in brief
    assert text.layout(sparse(), 80, brief=True) == []


def test_zones_have_colours():
    colours = {}
    for zone in (SAFE, NEAR, UNSAFE, INCONCLUSIVE):
        warmup = Warmup(CLASSES, 8, 10, (0.1,), (1.0,) * 30, (1.0,) * 30, None, zone, "")
        ((words, mark), *_) = text.layout(made(warmup), 80)[0]
        assert words == zone
        colours[zone] = mark
    assert colours == {SAFE: "good", NEAR: "warning", UNSAFE: "error", INCONCLUSIVE: "quiet"}


def test_harm_to_what_was_pretrained_is_named():
    warmup = Warmup(CLASSES, 8, 10, (0.1,), (1.0,) * 30, (1.0,) * 30, None, SAFE, "")
    finding = Finding("FC605", "batchnorm-drift", Severity.WARNING, "They have drifted away.")
    assert str(made(warmup, finding)).startswith("near the edge: the loss falls, and what was")


def test_a_rate_beyond_its_limit_stands_out():
    marks = {plain([row]).split()[0]: row[0][1] for row in text.layout(exploding(), 100) if row}
    assert [marks[stage] for stage in ("stem", "layer1", "head")] == ["", "warning", "error"]


@pytest.mark.parametrize(("encoding", "drawn"), [("utf-8", True), ("latin-1", False)])
def test_bars_are_made_of_what_the_terminal_has(encoding: str, drawn: bool, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    written = io.BytesIO()
    terminal = io.TextIOWrapper(written, encoding=encoding)
    text.show(sparse(), Stream(terminal))
    printed = written.getvalue().decode(encoding)
    assert ("█" in printed) == drawn
    assert "\\u2588" not in printed
    assert "\x1b[" in printed


def test_a_pipe_gets_plain_text():
    written = io.StringIO()
    text.show(exploding(), Stream(written))
    assert written.getvalue() == str(exploding()) + "\n"


def test_courses_and_shares_as_bars():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8, blocks=True) == "▁▂▃▄▅▆▇█"
    assert sparkline([1, 10, 100], 8, blocks=True) == "▁▅█"  # a log scale
    assert sparkline([2, 2, math.nan, math.inf], 8, blocks=False) == "__xx"
    assert sparkline([7, 7, 1, 1], 2, blocks=False) == "#_"
    assert sparkline([math.nan], 3, blocks=True) == "x"
    assert sparkline([], 3, blocks=True) == ""
    assert len(sparkline(range(1000), 60, blocks=True)) == 60
    assert bars([0.0, 1.0, 0.5], blocks=True) == "▁█▅"
    assert len(bars([0.001] * 1000, blocks=True)) <= 40


# -- while it goes ------------------------------------------------------------------------------


def test_a_display_while_it_goes(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("FORCE_COLOR", "1")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with warmup_display(terminal, color=False) as told:
        told("importing [torch]")
        told(Progress("warm-up", 3, 60, (4.0, 2.0, 1.0), (0.1, 0.9)))
        told(Progress("[half] the rates", 3, 30, (4.0, math.nan)))
    terminal.flush()
    printed = terminal.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert "warm-up, step 3 of 60" in printed or "[half] the rates, step 3 of 30" in printed
    assert max(len(row) for row in printed.replace("\r", "\n").split("\n")) < 120


# -- JSON -------------------------------------------------------------------------------------


def through_json(report: ProbeReport) -> ProbeReport:
    return ProbeReport.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False)))


@pytest.mark.parametrize("name", REPORTS)
def test_made_up_reports_survive_json(name: str, golden):
    report = REPORTS[name]()
    golden(f"{name}.json", json.dumps(report.to_dict(), indent=2, allow_nan=False))
    again = through_json(report)
    assert again.findings == report.findings
    assert again.left_out == report.left_out
    assert encode(again.trace) == encode(report.trace)  # NaN is not equal to itself
    assert str(again) == str(report)


def test_real_reports_survive_json(real: ProbeReport):
    again = through_json(real)
    assert again.findings == real.findings
    assert again.to_dict() == real.to_dict()
    assert str(again) == str(real)
    assert (again.zone, again.ok, again.codes()) == (real.zone, real.ok, real.codes())


def test_every_key_is_there_and_described():
    page = (Path(__file__).parents[1] / "docs" / "json.md").read_text(encoding="utf-8")
    _, _, section = page.partition("# The object of probe")
    section = section.partition("\n# ")[0]
    full, bare = exploding().to_dict(), empty().to_dict()
    assert full.keys() == bare.keys()
    assert full["warmup"].keys() == bare["warmup"].keys()
    keys = {*full, *full["warmup"]}
    for record in ("start", "features", "floor", "shares"):
        keys |= full["warmup"][record].keys()
    for record in ("layers", "critical"):
        keys |= full["warmup"][record][0].keys()
    assert [key for key in sorted(keys) if f"`{key}`" not in section] == []
