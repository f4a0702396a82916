"""The report: its numbers are those of the models, its words are stable, its story readable."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

import freezecheck
from freezecheck.finding import Finding, Fix, Note, Severity, Site
from freezecheck.live.capture import capture
from freezecheck.moves import predict
from freezecheck.report import frames, source, text
from freezecheck.report.line import clean, plain
from freezecheck.report.result import Ran, Report, Stood
from freezecheck.report.stages import MANY, collapse, rows
from freezecheck.report.table import figure, label, movement, table, title
from freezecheck.snapshot import Snapshot

GOLDEN = Path(__file__).parent / "golden"
TRAIN = "train.py"


@pytest.fixture
def golden(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """`golden(name, text)`: the text is what the file in tests/golden holds."""
    monkeypatch.chdir(GOLDEN)

    def compare(name: str, printed: str) -> None:
        if request.config.getoption("--update-golden"):
            (GOLDEN / name).write_text(printed + "\n", encoding="utf-8")
        assert printed + "\n" == (GOLDEN / name).read_text(encoding="utf-8")

    return compare


def frozen_resnet() -> tuple[nn.Module, torch.optim.Optimizer]:
    """ResNet-18 with layer4 and a new head trainable, the head alone in the optimizer."""
    model = torchvision.models.resnet18(num_classes=5)
    for name, param in model.named_parameters():
        param.requires_grad = name.startswith(("layer4.", "fc."))
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=4e-4, weight_decay=0.01)
    nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
    return model, optimizer


MISSING = Finding(
    code="FC201",
    name="trainable-not-in-optimizer",
    severity=Severity.ERROR,
    message="15 trainable tensors (8,393,728 parameters) of model are in no optimizer:"
    " layer4.0.conv1.weight, layer4.0.bn1.weight and 13 more. They get gradients and never move.",
    site=Site(TRAIN, 16),
    symbol="layer4.0.conv1.weight",
    notes=(
        Note("layer4.0.conv1.weight and 14 more frozen here", Site(TRAIN, 9)),
        Note("optimizer is built here, from the 2 parameters that were trainable", Site(TRAIN, 16)),
        Note("layer4.0.conv1.weight and 14 more unfrozen here", Site(TRAIN, 21)),
        Note("optimizer takes its first step here", Site(TRAIN, 27)),
    ),
    fix=Fix(
        "build the optimizer after everything is unfrozen and in its place,"
        " or add them with add_param_group()"
    ),
)
BATCHNORM = Finding(
    code="FC401",
    name="frozen-batchnorm-in-train-mode",
    severity=Severity.WARNING,
    message="15 BatchNorm layers are frozen and in train mode: bn1, layer1.0.bn1 and 13 more.",
    site=Site(TRAIN, 23),
    symbol="bn1",
    notes=(Note("frozen here", Site("gone.py", 7)), Note("put in train mode by the framework")),
)
STATE = Finding("FC212", "frozen-parameters-in-optimizer", Severity.INFO, "Worth knowing.")


def broken() -> Report:
    model, optimizer = frozen_resnet()
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=100)
    now = capture({"model": model}, {"optimizer": optimizer}, {"scheduler": scheduler})
    now.optimizers[0].site = Site(TRAIN, 16)
    now.schedulers[0].site = Site(TRAIN, 19)
    ran = Ran("python train.py --lr 4e-4", "inspected", 3.21, (None,))
    return Report((MISSING, BATCHNORM, STATE), now, (), ran)


def test_broken_report(golden):
    report = broken()
    golden("broken.txt", str(report))
    golden("broken.120.txt", text.render(report, 120))
    golden("broken.json", json.dumps(report.to_dict(), indent=2, allow_nan=False))
    assert repr(report) == str(report)


def test_clean_report_of_two_models(golden):
    torch.manual_seed(0)
    parts = nn.Linear(8, 8), nn.Dropout(0.1), nn.Linear(8, 8)
    generator = nn.Sequential(*parts)
    critic = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)).eval()
    opt_g = torch.optim.Adam(generator.parameters())
    opt_d = torch.optim.RMSprop(
        [{"params": critic[:2].parameters()}, {"params": critic[3].parameters(), "lr": 2.5e-4}]
    )
    critic(generator(torch.randn(4, 8))).sum().backward()
    now = capture({"generator": generator, "critic": critic}, {"opt_g": opt_g, "opt_d": opt_d})
    golden("gan.txt", str(Report((), now)))


def test_report_without_optimizer_says_so(golden):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    printed = str(
        freezecheck.Report((), capture({"model": model}, {}), ("no optimizer was given",))
    )
    assert "next step" not in printed
    assert "lr" not in printed.split()
    golden("no_optimizer.txt", printed)


def test_processes_that_differ_are_shown_one_by_one(golden):
    def rank(frozen: bool) -> Snapshot:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        model[0].weight.requires_grad = not frozen
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.randn(2, 4)).sum().backward()
        return capture({"model": model}, {"optimizer": optimizer})

    ran = Ran("torchrun --nproc-per-node 3 train.py", "inspected", 8.0, (0, 1, 2))
    report = Report((), rank(False), (), ran, (rank(True), rank(False)))
    golden("ranks.txt", str(report))
    data = report.to_dict()
    assert [m["rank"] for m in data["models"]] == [0, 1, 2]
    assert [m["stages"][0]["groups"][0]["optimizer"] for m in data["models"]] == [0, 1, 2]
    alike = Report((), rank(False), (), ran, (rank(False), rank(False)))
    assert str(alike).count("model (Sequential)") == 1
    assert "in 3 processes (ranks 0, 1, 2)" in " ".join(str(alike).split())


# -- numbers ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v3_small", "squeezenet1_0"])
def test_rows_add_up_to_the_model(name):
    model = torchvision.models.get_model(name, weights=None, num_classes=3)
    params = list(model.parameters())
    for param in params[: len(params) // 2]:
        param.requires_grad = False
    for index, module in enumerate(model.modules()):
        module.training = index % 3 > 0
    groups = [{"params": params[::2]}, {"params": params[1::2], "lr": 1e-4}]
    now = capture({"model": model}, {"optimizer": torch.optim.SGD(groups, lr=0.1)})
    for shown in (rows(now, 0), collapse(rows(now, 0))):
        assert sum(r.tensors for r in shown) == len(params)
        assert sum(r.parameters for r in shown) == sum(p.numel() for p in params)
        trainable = [p for p in params if p.requires_grad]
        assert sum(r.trainable_tensors for r in shown) == len(trainable)
        assert sum(r.trainable_parameters for r in shown) == sum(p.numel() for p in trainable)
        layers = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        for mode in ("train", "eval"):
            real = sum(m.training == (mode == "train") for m in layers)
            assert sum(r.batchnorm[mode] for r in shown) == real
        assert all(r.moving + r.unknown + sum(r.still.values()) == r.tensors for r in shown)


def test_what_the_table_says_moves_is_what_moves():
    model, optimizer = frozen_resnet()
    optimizer.add_param_group({"params": list(model.layer4[0].parameters()), "lr": 0.0})
    optimizer.add_param_group({"params": list(model.layer4[1].parameters()), "lr": 1e-4})
    optimizer.add_param_group({"params": list(model.layer3.parameters())})
    now = capture({"model": model}, {"optimizer": optimizer})
    said = {stage.name: row for row in rows(now, 0) for stage in row.stages}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    for stage, row in said.items():
        prefixes = tuple(f"{path}." for path in row.stages[0].paths)
        moved = [
            not torch.equal(p, before[name])
            for name, p in model.named_parameters()
            if name.startswith(prefixes)
        ]
        assert (sum(moved), len(moved)) == (row.moving, row.tensors), stage
    words = {stage: movement(now, row) for stage, row in said.items()}
    assert words["layer3"] == "0 of 15: frozen"
    assert words["layer4"] == "6 of 15 (9 rate 0)"
    assert words["fc"] == "all 2"


def test_before_a_backward_nothing_moves_yet():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    now = capture({"model": model}, {"optimizer": torch.optim.SGD(model.parameters(), lr=0.1)})
    assert [movement(now, row) for row in rows(now, 0)] == ["0 of 2: frozen", "no gradient yet"]


def test_frozen_tensors_that_move_stand_out():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    model[0].requires_grad_(False)
    model[1].weight.requires_grad_(False)
    now = capture({"model": model}, {"optimizer": optimizer})
    assert [movement(now, row) for row in rows(now, 0)] == [
        "all 2, though frozen",
        "all 2, though frozen",
    ]
    assert all(m.moves for m in predict(now))


def test_an_unknown_optimizer_is_no_promise():
    class Mine(torch.optim.SGD):
        def step(self, closure=None):
            return None

    model = nn.Linear(4, 2)
    model(torch.randn(2, 4)).sum().backward()
    now = capture({"model": model}, {"optimizer": Mine(model.parameters(), lr=0.1)})
    assert [movement(now, row) for row in rows(now, 0)] == ["cannot say"]


def test_an_optimizer_that_was_replaced_counts_for_nothing():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    old = torch.optim.SGD(model.parameters(), lr=0.7)
    new = torch.optim.SGD(model[2].parameters(), lr=0.1)
    model(torch.randn(2, 4)).sum().backward()
    now = capture({"model": model}, {"old": old, "new": new})
    now.optimizers[0].idle = True
    first, last = rows(now, 0)
    assert movement(now, first) == "0 of 2: old optimizer"
    assert (movement(now, last), last.rates(now)) == ("all 2", [0.1])
    headings, _ = table(now, 0, 80)
    assert headings == ["stage", "params", "lr", "next step moves"]
    assert [o["replaced"] for o in Report((), now).to_dict()["optimizers"]] == [True, False]
    assert "old (SGD): 4 tensors (30 parameters), replaced by a later one" in str(Report((), now))


def test_an_optimizer_whose_turn_has_not_come_counts():
    """As in a GAN that steps one of its two every fifth batch."""
    generator, critic = nn.Linear(4, 4), nn.Linear(4, 1)
    opt_g = torch.optim.SGD(generator.parameters(), lr=0.7)
    opt_c = torch.optim.SGD(critic.parameters(), lr=0.1)
    critic(generator(torch.randn(2, 4))).sum().backward()
    now = capture({"generator": generator, "critic": critic}, {"opt_g": opt_g, "opt_c": opt_c})
    now.optimizers[0].idle = True
    (row,) = rows(now, 0)
    assert (movement(now, row), row.rates(now)) == ("all 2", [0.7])
    assert plain(table(now, 0, 80)[1]).split()[-4:] == ["opt_g", "0.7", "all", "2"]
    assert "opt_g (SGD): 2 tensors (20 parameters), not stepped yet" in str(Report((), now))


def test_alike_layers_are_one_row():
    layer = nn.TransformerEncoderLayer(16, 2, 16, batch_first=True)
    model = nn.Module()
    model.embed = nn.Embedding(10, 16)
    model.encoder = nn.TransformerEncoder(layer, 12)
    model.head = nn.Linear(16, 2)
    now = capture({"model": model}, {"opt": torch.optim.Adam(model.parameters())})
    shown = collapse(rows(now, 0))
    assert [label(row) for row in shown] == ["stem (embed)", "encoder.layers.0 ... 11", "head"]
    model.encoder.layers[5].requires_grad_(False)
    model.encoder.layers[6].self_attn.train(False)
    now = capture({"model": model}, {"opt": torch.optim.Adam(model.parameters())})
    assert [label(row) for row in collapse(rows(now, 0))][1:4] == [
        "encoder.layers.0 ... 4",
        "encoder.layers.5",
        "encoder.layers.6 ... 11",
    ]


def test_a_long_table_joins_what_is_treated_alike():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = nn.Module()
            for i in range(20):
                block = nn.Sequential(nn.Linear(4, i + 1), nn.BatchNorm1d(i + 1))
                self.tower.add_module(f"block{i}", block if i % 2 else block[0])

    model = Wide()
    model.tower.block9.eval()
    model.tower.block15.requires_grad_(False)
    now = capture({"model": model}, {"opt": torch.optim.SGD(model.parameters(), lr=0.1)})
    assert len(rows(now, 0)) > MANY
    shown = collapse(rows(now, 0))
    assert [dict(row.batchnorm) for row in shown[1:-1]] == [
        {"train": 4},
        {"eval": 1},
        {"train": 2},
        {"train": 1},
        {"train": 1},
    ]
    assert label(shown[1]) == "tower.block1 ... 8"


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    "name", ["resnet18", "vgg11_bn", "densenet121", "mobilenet_v3_small", "googlenet"]
)
def test_tables_fit(name, width):
    options = {"init_weights": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, weights=None, **options)
    params = list(model.parameters())
    for param in params[: len(params) // 2]:
        param.requires_grad = False
    groups = [{"params": params[:-2]}, {"params": params[-2:], "lr": 2.5e-4}]
    optimizer = torch.optim.SGD(groups, lr=1e-4, momentum=0.9, weight_decay=1e-4)
    now = capture({"model": model}, {"optimizer": optimizer})
    for each in (*title(now, 0, width), *table(now, 0, width)[1]):
        assert len(plain([each])) <= width


def test_a_long_title_and_long_labels_are_cut():
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.region_proposal_network_with_anchors = nn.ModuleDict(
                {f"convolutional_tower_number_{i}": nn.Linear(i + 1, 2) for i in range(4)}
            )

    now = capture({"a_detector_for_all_seasons": torch.compile(Detector(), backend="eager")}, {})
    first, second = title(now, 0, 80)
    assert plain([first]) == "a_detector_for_all_seasons (Detector in OptimizedModule):"
    assert plain([second]) == "  28 parameters, all trainable, in train mode"
    cut = plain(table(now, 0, 30)[1]).splitlines()
    assert cut[1].startswith("stem")
    assert cut[2].startswith("..")
    assert all(len(row) <= 30 for row in cut)


def test_a_model_without_parameters():
    printed = str(Report((), capture({"model": nn.ReLU()}, {})))
    assert printed.startswith("model (ReLU): no parameters, in train mode")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0.0, "0"),
        (0.1, "0.1"),
        (0.01, "0.01"),
        (1e-3, "1e-3"),
        (5e-5, "5e-5"),
        (2.5e-4, "2.5e-4"),
        (0.0123, "0.0123"),
        (1.0, "1"),
        (30.0, "30"),
        (1e-12, "1e-12"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
    ],
)
def test_rates_as_people_write_them(number, words):
    assert figure(number) == words


# -- stories ------------------------------------------------------------------


def story(finding: Finding, width: int = 80) -> str:
    return plain(frames.render(finding, width))


def finding(*notes: Note, site: Site | None = None, symbol: str | None = None) -> Finding:
    return Finding("FC201", "name", Severity.ERROR, "message", site, symbol, notes)


@pytest.fixture
def script(tmp_path, monkeypatch):
    """`script(text or bytes)` is a file called s.py in the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(content: str | bytes) -> str:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "s.py").write_bytes(data)
        return "s.py"

    return write


def test_steps_down_a_file_are_one_frame(script):
    path = script("a = 1\nb = 2\nc = 3\nd = 4\n")
    notes = Note("first", Site(path, 1)), Note("then", Site(path, 2)), Note("last", Site(path, 4))
    assert story(finding(*notes, site=Site(path, 2))).rstrip() == (
        "  --> s.py:2\n"
        "  1 | a = 1\n"
        "    | - first\n"
        "  2 | b = 2\n"
        "    | ^ then\n"
        " ...\n"
        "  4 | d = 4\n"
        "    | - last"
    )


def test_a_step_back_starts_a_new_frame(script):
    path = script("a = 1\nb = 2\n")
    notes = (
        Note("first", Site(path, 2)),
        Note("then", Site(path, 1)),
        Note("there", Site("x.py", 9)),
    )
    printed = story(finding(*notes))
    assert [row for row in printed.splitlines() if "-->" in row] == [
        "  --> s.py:2",
        "  --> s.py:1",
        "  --> x.py:9",
    ]
    assert printed.index("first") < printed.index("then") < printed.index("there")


def test_the_place_of_a_finding_without_notes(script):
    path = script("a = 1\nb = 2\n")
    assert "  2 | b = 2\n    | ^ fc.weight" in story(
        finding(site=Site(path, 2), symbol="fc.weight")
    )
    assert "^ here" in story(finding(site=Site(path, 2)))
    early = story(finding(Note("later", Site(path, 2)), site=Site(path, 1)))
    assert early.index("^ here") < early.index("later")


def test_notes_on_one_line_are_said_together(script):
    path = script("a = 1\n")
    printed = story(finding(Note("one", Site(path, 1)), Note("two", Site(path, 1))))
    assert printed.count("a = 1") == 1
    assert "    | - one\n    |   two" in printed


def test_a_statement_is_shown_whole(script):
    path = script("opt = build(\n    model,\n    lr=1,\n)\nfor x in y:\n    pass\n    pass\n")
    printed = story(finding(Note("built", Site(path, 1)), Note("read", Site(path, 3))))
    assert printed.splitlines()[1:7] == [
        "  1 | opt = build(",
        "  2 |     model,",
        "  3 |     lr=1,",
        "  4 | )",
        "    | - built",
        "    |     - read",
    ]
    block = story(finding(Note("loop", Site(path, 5))))
    assert "for x in y:" in block
    assert "pass" not in block


def test_columns_are_marked(script):
    path = script("\tx = model.fc(y)\n" + "z" * 70 + " + 1\n")
    printed = story(finding(site=Site(path, 1, 6, 1, 14), symbol="fc"))
    assert "  1 |     x = model.fc(y)\n    |         ^^^^^^^^ fc" in printed
    wide = story(finding(Note("words", Site(path, 2, 1, 2, 71)), site=Site(path, 2, 1, 2, 71)))
    assert "    | " + "^" * 70 + "\n    |  words" in wide


@pytest.mark.parametrize(
    "content",
    [
        "a = 'é'\n".encode("latin-1"),
        b"\xff\xfe\x00broken",
        b"def (:\n",
        b"# coding: no-such-codec\na = 1\n",
        b"a = 1\r\nb = 2\r\n",
        b"\x0ca = 1\n",
        b"",
        b"a = '\x1b[31m'\n",
    ],
)
def test_any_file_can_be_shown(script, content):
    path = script(content)
    printed = story(finding(Note("said", Site(path, 1)), Note("beyond", Site(path, 99))))
    assert "said" in printed
    assert "beyond" in printed
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", printed)


@pytest.mark.parametrize("path", ["gone.py", ".", "a\0b.py", ""])
def test_a_file_that_cannot_be_read(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    assert "    | - said" in story(finding(Note("said", Site(path, 1))))


def test_a_file_that_changed_is_read_again(script):
    path = script("a = 1\n")
    assert source.lines(path)[0] == "a = 1"
    script("b = 2\nc = 3\n")
    import os

    os.utime(path, ns=(1, 1))
    assert source.lines(path)[:2] == ("b = 2", "c = 3")


def test_long_words_and_lines_stay_within_a_terminal(script):
    path = script("x = " + "1 + " * 60 + "1\n")
    says = finding(Note("word " * 40, Site(path, 1)), site=Site(path, 1))
    assert all(len(row) <= 60 for row in plain(frames.render(says, 60, 60)).splitlines())
    assert "1 + 1" in story(says).splitlines()[1][-6:]


def test_control_sequences_are_taken_out():
    assert clean("\x1b[1;31mred\x1b[0m\tand\x07 \x9bplain") == "red and plain"


# -- runs that reached no step ------------------------------------------------


def test_a_run_that_hung(golden):
    ran = Ran(
        "python train.py",
        "timeout",
        600.2,
        problem="The command was stopped after 600 s before its first backward().",
        error_output="Epoch 1\n\x1b[31mwaiting\x1b[0m",
        stood=(Stood(Site(TRAIN, 24), "main", 1),),
    )
    report = Report((), Snapshot(), (), ran)
    golden("hung.txt", plain(text.trouble(ran, 80)) + "\n---\n" + str(report))
    assert report.to_dict()["run"]["stood_at"] == [
        {"path": TRAIN, "line": 24, "function": "main", "rank": 1}
    ]


@pytest.mark.parametrize("outcome", ["ended", "crashed", "timeout", "not started", "failed"])
def test_a_run_without_a_step_is_never_called_clean(outcome):
    printed = str(Report((), Snapshot(), (), Ran("python t.py", outcome, 1.0)))
    assert printed.startswith("no findings in what was seen\n")
    assert "before its first optimizer step" in " ".join(printed.split())


# -- JSON ---------------------------------------------------------------------


def keys(data: object) -> set[str]:
    if isinstance(data, list):
        return {key for item in data for key in keys(item)}
    if not isinstance(data, dict):
        return set()
    return {
        key for name, item in data.items() for key in ({name} | keys(item)) if name != "stays"
    } | ({"stays"} & data.keys())


def test_every_key_is_documented():
    report = broken()
    pages = (GOLDEN.parent.parent / "docs" / "json.md").read_text(encoding="utf-8")
    data = report.to_dict()
    data["run"]["stood_at"] = [{"path": None, "line": None, "function": "", "rank": 0}]
    assert {key for key in keys(data) if f"`{key}`" not in pages} == set()


def test_findings_come_back_from_json():
    data = json.loads(json.dumps(broken().to_dict(), allow_nan=False))
    assert [Finding.from_dict(f) for f in data["findings"]] == [MISSING, BATCHNORM, STATE]
    assert data["summary"] == {"error": 1, "warning": 1, "info": 1}


def test_rates_that_are_no_numbers():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["lr"] = float("nan")
    data = Report((), capture({"model": model}, {"optimizer": optimizer})).to_dict()
    assert json.loads(json.dumps(data, allow_nan=False))["optimizers"][0]["groups"][0]["lr"] is None


# -- what printing costs ------------------------------------------------------


def test_plain_text_needs_neither_rich_nor_torch():
    code = (
        "import sys; from freezecheck.report.result import Report, Ran\n"
        "from freezecheck.snapshot import Snapshot\n"
        "r = Report((), Snapshot(), (), Ran('python t.py', 'ended', 1.0)); str(r); r.to_dict()\n"
        "print(sorted({'rich', 'torch', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
