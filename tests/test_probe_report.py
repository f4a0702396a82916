"""What people look at after a probe: text, JSON, figure and page say what the warm-up showed."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

import freezecheck
from freezecheck.finding import Finding, Fix, Severity, Site
from freezecheck.plain import encode
from freezecheck.probe.panels import panels
from freezecheck.probe.report import ProbeReport
from freezecheck.report import html
from freezecheck.report import probe as text
from freezecheck.report.line import clean, plain
from freezecheck.report.spark import bars, sparkline
from freezecheck.report.streams import Stream
from freezecheck.report.terminal import display
from freezecheck.trace import COLLAPSED, NOT_FINITE, Pool, Trace
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
    Critical(0, "stem", 1e-4, certified=3e-3, safe=1.0, tried=1.0, suggested=1e-4),
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


@pytest.mark.parametrize(
    ("tripped", "last", "words"),
    [
        (12, 0.5, "the loss leapt at step 12, and came down"),
        (12, 1.2, "the loss leapt at step 12, and is high at the end"),
        (None, 0.5, "the loss stayed high for long, and came down"),
    ],
)
def test_why_rates_are_near_the_edge(tripped: int | None, last: float, words: str):
    losses = (1.0,) * 50 + (last,) * 10
    warmup = Warmup(CLASSES, 8, 10, (0.1,), losses, (1.0,) * 60, None, NEAR, "", tripped)
    assert str(made(warmup)).startswith(f"near the edge: {words}\n")


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


numbers = st.floats(width=32) | st.sampled_from([0.0, math.nan, math.inf, 1.0, 1e-3])
rates = st.floats(0, 1e6)
share = st.floats(0, 1)
names = st.text(max_size=40)
looks = st.none() | st.builds(Look, numbers, st.none() | share)
some_rate = st.none() | rates


@st.composite
def any_warmup(draw: st.DrawFn) -> Warmup:
    steps = draw(st.integers(0, 70))
    course = st.lists(numbers, min_size=steps, max_size=steps).map(tuple)
    classes = draw(st.integers(1, 8))
    row = st.lists(share, min_size=classes + 1, max_size=classes + 1).map(tuple)
    predicted = st.lists(row, min_size=steps, max_size=steps).map(tuple)
    shares = st.builds(Shares, st.just(tuple(range(10**6, 10**6 + classes))), predicted, row)
    critical = st.builds(
        Critical, st.just(0), names, rates, some_rate, some_rate, some_rate, some_rate, some_rate
    )
    return Warmup(
        CLASSES,
        draw(st.integers(0, 9999)),
        10,
        tuple(draw(st.lists(rates, max_size=30))),
        draw(course),
        draw(course),
        draw(st.none() | numbers),
        draw(st.sampled_from([SAFE, NEAR, UNSAFE, INCONCLUSIVE])),
        draw(st.sampled_from(["", NOT_FINITE, COLLAPSED])),
        draw(st.none() | st.integers(1, max(steps, 1))),
        layers=tuple(draw(st.lists(st.builds(Layer, names, st.booleans(), st.booleans(), numbers), max_size=30))),
        samples=draw(st.integers(0, 256)),
        start=draw(looks),
        train=draw(looks),
        eval=draw(looks),
        settled=draw(looks),
        features=draw(st.none() | st.builds(Features, numbers, share, share)),
        shares=draw(st.none() | shares),
        critical=tuple(draw(st.lists(critical, max_size=20))),
    )  # fmt: skip


@given(any_warmup(), st.sampled_from([60, 80, 120]))
@settings(max_examples=60, deadline=None)
def test_whatever_a_warmup_shows_can_be_told(warmup: Warmup, width: int):
    report = made(warmup)
    printed = text.render(report, width)
    assert printed.splitlines()[0].startswith(f"{warmup.zone}: ")
    assert text.render(through_json(report), width) == printed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Glyph")  # letters that no font has
@given(any_warmup())
@settings(max_examples=3, deadline=None, phases=[Phase.generate])
def test_whatever_a_warmup_shows_can_be_drawn(warmup: Warmup):
    outline = Outline(html.page(made(warmup), "title"))
    assert outline.open == []
    made(warmup).plot().savefig(io.BytesIO(), format="png", dpi=20)


# -- while it goes ------------------------------------------------------------------------------


def test_a_display_while_it_goes(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("FORCE_COLOR", "1")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with display(terminal, color=False) as told:
        told("importing [torch]")
        told(Progress("warm-up", 3, 60, (4.0, 2.0, 1.0), (0.1, 0.9)))
        told(Progress("[half] the rates", 3, 30, (4.0, math.nan)))
    terminal.flush()
    printed = terminal.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert "warm-up, step 3 of 60" in printed or "[half] the rates, step 3 of 30" in printed
    assert max(len(row) for row in printed.replace("\r", "\n").split("\n")) < 120


# -- pictures -----------------------------------------------------------------------------------

PANELS = {
    "exploding": [
        "Loss by step",
        "Predicted classes by step",
        "Drift of BatchNorm statistics",
        "Rates and critical rates",
    ],
    "sparse": ["Loss by step"],
    "empty": [],
}


@pytest.mark.parametrize("name", REPORTS)
def test_panels_without_data_are_left_out(name: str):
    figure = REPORTS[name]().plot()
    assert [axes.get_title(loc="left") for axes in figure.axes] == PANELS[name]
    figure.savefig(io.BytesIO(), format="png", dpi=40)


def test_what_is_drawn_is_what_was_measured(real: ProbeReport):
    losses, classes, batchnorm = real.plot().axes
    warmup = real.warmup
    lines = {line.get_label(): list(line.get_ydata()) for line in losses.get_lines()}
    finite = [loss if math.isfinite(loss) else math.nan for loss in warmup.losses]
    assert lines["loss"] == pytest.approx(finite, nan_ok=True)
    assert lines["initial weights"] == pytest.approx(list(warmup.initial))
    assert lines["without information"][0] == warmup.level
    assert ("leap" in lines) == (warmup.tripped is not None)
    assert (losses.get_yscale() == "log") == (max(finite) > 20 * min(finite))
    assert warmup.shares is not None
    bars = [patch.get_height() for patch in classes.patches]
    assert bars == pytest.approx(warmup.shares.labels[:4])
    (bar,) = batchnorm.patches
    assert bar.get_x() + bar.get_width() == pytest.approx(warmup.layers[0].drift)


def test_critical_rates_are_where_they_are():
    axes = exploding().plot().axes[-1]
    placed = {
        line.get_label(): list(zip(line.get_xdata(), line.get_ydata())) for line in axes.get_lines()
    }
    assert placed["configured"] == [(1e-4, 0), (0.02, 1), (0.5, 2)]
    assert placed["diverges"] == [(0.03, 1), (0.12, 2)]
    assert placed["no limit up to"] == [(1.0, 0)]
    assert placed["suggested"] == [(1e-4, 0), (3e-3, 1), (0.012, 2)]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [of.name for of in CRITICAL]


def test_nothing_of_matplotlib_is_changed_and_nothing_of_the_users_counts():
    """In a process of its own, which needs neither torch nor pyplot."""
    script = """
import json, matplotlib, os, sys
from freezecheck.probe.report import ProbeReport
matplotlib.rcParams.update({"text.usetex": True, "figure.facecolor": "pink", "backend": "pdf"})
before = dict(matplotlib.rcParams)
with open(sys.argv[1]) as file:
    report = ProbeReport.from_dict(json.load(file))
with open(os.devnull, "wb") as file:
    report.plot().savefig(file, format="png")
report.to_html(os.devnull)
assert dict(matplotlib.rcParams) == before
assert not {"matplotlib.pyplot", "torch"} & sys.modules.keys()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(GOLDEN / "exploding.json")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_many_layers_are_not_all_drawn():
    layers = tuple(Layer(f"layers.{i}.bn", True, True, float(i)) for i in range(53))
    warmup = Warmup(CLASSES, 8, 10, (0.1,), (1.0,), (1.0,), None, SAFE, "", layers=layers)
    axes = made(warmup).plot().axes[-1]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        f"layers.{i}.bn" for i in range(37, 53)
    ]


def test_without_matplotlib_there_is_one_clear_line(monkeypatch, tmp_path: Path):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (sparse().plot, lambda: sparse().to_html(tmp_path / "report.html")):
        with pytest.raises(ImportError, match=r"pip install 'freezecheck\[plot\]'") as caught:
            draw()
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


# -- the page -----------------------------------------------------------------------------------


class Outline(HTMLParser):
    """Elements with their attributes, and whether each was closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


EVIL = '<script>alert(1)</script> & "quoted" url(#a) #1f2328 $x_1$ \x1b[31m ü語'


def hostile() -> ProbeReport:
    """What the user named would like to be a program."""
    report = exploding()
    layers = (Layer(EVIL, True, True, 3.0),)
    critical = (replace(CRITICAL[1], name=EVIL),)
    warmup = replace(report.warmup, layers=layers, critical=critical)
    finding = Finding(
        "FC601", "non-finite-loss", Severity.ERROR, EVIL, Site(EVIL, 1), EVIL, fix=Fix(EVIL)
    )
    return made(warmup, finding, left_out=(EVIL,))


def test_a_page_is_whole_and_needs_nothing_else():
    for report in (probed(300.0), hostile(), empty()):
        written = html.page(report, EVIL)
        outline = Outline(written)
        assert outline.open == []
        names = [tag for tag, _ in outline.elements]
        assert "script" not in names
        assert names.count("svg") == len([*panels(report.warmup)])
        ids = [attrs["id"] for _, attrs in outline.elements if "id" in attrs]
        assert len(ids) == len(set(ids))
        assert {*references(outline)} <= {*ids}
        told = (report.zone, EVIL, *report.codes(), *report.left_out)
        assert all(clean(words) in outline.text for words in told)
    assert html.page(hostile(), EVIL) == html.page(hostile(), EVIL)  # nothing of the day


def references(outline: Outline) -> Iterator[str]:
    """What the page says is elsewhere in it."""
    for _, attrs in outline.elements:
        for name in ("href", "xlink:href", "src"):
            address = attrs.get(name) or "#"
            assert address.startswith("#")
            if len(address) > 1:
                yield address[1:]
        for name in ("aria-labelledby", "aria-describedby"):
            yield from (attrs.get(name) or "").split()
        for value in attrs.values():
            yield from re.findall(r"url\(#([^)]*)\)", value or "")


def test_pictures_have_the_page_s_colours():
    written = html.page(exploding(), "title")
    drawn = written[written.index("<svg") :]
    used = set(re.findall(r"var\(--(\w+)\)", drawn))
    assert used >= {"ink", "quiet", "grid", "accent", "good", "warn", "bad"}
    dark = written[written.index("prefers-color-scheme: dark") :]
    assert all(f"--{name}: #" in dark for name in used)


MEASURE = """
<iframe srcdoc="%s" style="width: %dpx; height: 900px; border: 0"></iframe>
<pre id="told"></pre>
<script>
onload = () => {
  const page = document.querySelector("iframe").contentDocument;
  const root = page.documentElement;
  const svgs = [...page.querySelectorAll("svg")];
  const texts = svgs.flatMap(svg => [...svg.querySelectorAll("text")].map(text => {
    const inner = text.getBoundingClientRect(), outer = svg.getBoundingClientRect();
    const out = Math.max(outer.left - inner.left, inner.right - outer.right, inner.bottom - outer.bottom);
    return {height: Math.min(inner.height, inner.width * 3), out, text: text.textContent};
  }));
  document.getElementById("told").textContent = JSON.stringify({
    inner: root.clientWidth, scroll: root.scrollWidth, texts, svgs: svgs.map(s => s.clientWidth),
  });
};
</script>
"""
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs a headless Chromium")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["exploding", "hostile"])
def test_nothing_is_cut_off_or_too_small(name: str, width: int, tmp_path: Path):
    report = {"exploding": exploding, "hostile": hostile}[name]()
    file = tmp_path / "measured.html"
    page = html.page(report, "A title_of_one_long_word/" + 30 * "train")
    file.write_text(MEASURE % (escape(page), width), encoding="utf-8")
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={tmp_path}",
         "--window-size=1400,1000", "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    told = re.search(r'<pre id="told">(.+?)</pre>', done.stdout)
    if told is None:
        pytest.skip(f"Chromium does not run here: {done.stderr[-300:]}")
    measured = json.loads(unescape(told[1]))
    assert measured["inner"] == width
    assert measured["scroll"] <= width
    assert len(measured["svgs"]) == 4
    assert min(measured["svgs"]) > 300
    assert all(text["height"] >= 11 for text in measured["texts"]), measured["texts"]
    assert all(text["out"] <= 1 for text in measured["texts"]), measured["texts"]


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
