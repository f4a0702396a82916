"""FC101 to FC103 and FC107 to FC111: flags that are none, names that miss, heads frozen along."""

from __future__ import annotations

import copy
import json
import pickle
import textwrap
from typing import Any

import pytest
import torch
import torchvision
from recording import Recording, record
from torch import nn
from torch.nn import functional as F
from weights import look_trained

from freezecheck.check import check
from freezecheck.finding import Finding, Severity
from freezecheck.live.capture import capture
from freezecheck.rules import (
    fc101_module_requires_grad_assignment,
    fc102_misspelled_requires_grad,
    fc103_requires_grad_method_overwritten,
    fc107_name_pattern_matches_nothing,
    fc108_name_pattern_too_wide,
    fc109_name_pattern_misses_norms,
    fc110_head_frozen_with_backbone,
    fc111_tied_parameter_frozen,
)
from freezecheck.snapshot import Snapshot
from freezecheck.timeline import PATTERN, STRAY, Timeline

RULES = (
    fc101_module_requires_grad_assignment.ModuleRequiresGradAssignment(),
    fc102_misspelled_requires_grad.MisspelledRequiresGrad(),
    fc103_requires_grad_method_overwritten.RequiresGradMethodOverwritten(),
    fc107_name_pattern_matches_nothing.NamePatternMatchesNothing(),
    fc108_name_pattern_too_wide.NamePatternTooWide(),
    fc109_name_pattern_misses_norms.NamePatternMissesNorms(),
    fc110_head_frozen_with_backbone.HeadFrozenWithBackbone(),
    fc111_tied_parameter_frozen.TiedParameterFrozen(),
)

SETUP = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self, blocks=3):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16))
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(blocks))
        self.norm = nn.LayerNorm(16)
        self.fc = nn.Linear(16, 4)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = x + layer(x).relu()
        return self.fc(self.norm(x))

def trained(model):
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model

def step(model, optimizer):
    F.cross_entropy(model(torch.randn(8, 8)), torch.arange(8) % 4).backward()
    optimizer.step()
"""


def run(code: str) -> Recording:
    """A script that has `SETUP` before it; lines count from the first of `code`."""
    return record(SETUP.lstrip("\n") + textwrap.dedent(code).lstrip("\n"))


FIRST = SETUP.lstrip("\n").count("\n")


def found(recording: Recording) -> list[Finding]:
    """Findings of these rules, by way of JSON."""
    now = recording.snapshot
    past = json.loads(json.dumps(_plain(recording.timeline), allow_nan=False))
    snapshots = [Snapshot.from_dict(json.loads(json.dumps(now.to_dict())))] if now else []
    return check(RULES, timeline=_timeline(past), snapshots=snapshots)


def _plain(timeline: Timeline) -> Any:
    from freezecheck.plain import encode

    return encode(timeline)


def _timeline(data: Any) -> Timeline:
    from freezecheck.plain import decode

    return decode(Timeline, data)


def live(model: Any, *optimizers: Any) -> list[Finding]:
    """Findings about live objects, by way of JSON."""
    models = model if isinstance(model, dict) else {"model": model}
    now = capture(models, {f"optimizer{i}": o for i, o in enumerate(optimizers)})
    now = Snapshot.from_dict(json.loads(json.dumps(now.to_dict(), allow_nan=False)))
    return check(RULES, snapshots=[now])


def told(findings: list[Finding]) -> list[tuple[str, int]]:
    """Code and line, counted as in `run`."""
    return [(f.code, f.site.line - FIRST if f.site else 0) for f in findings]


def codes(findings: list[Finding]) -> list[str]:
    return [f.code for f in findings]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16))
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.norm = nn.LayerNorm(16)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = x + layer(x).relu()
        return self.fc(self.norm(x))


# -- FC101, FC102, FC103: attributes that are no flags --------------------------


@pytest.mark.parametrize(
    ("line", "code", "tensors"),
    [
        ("model.stem.requires_grad = False", "FC101", 4),
        ("model.requires_grad = False", "FC101", 14),
        ("for param in model.children(): param.requires_grad = False", "FC101", 14),
        ("for m in model.modules(): m.requires_grad = False", "FC101", 14),
        ("setattr(model.stem[0], 'requires_grad', False)", "FC101", 2),
        ("model.stem[0].weight.require_grad = False", "FC102", 1),
        ("for p in model.stem.parameters(): p.requires_grads = False", "FC102", 4),
        ("model.stem.require_grad = False", "FC102", 4),
        ("for p in model.parameters(): p.requires_grad_ = False", "FC103", 14),
        ("model.stem.requires_grad_ = False", "FC103", 4),
    ],
)
def test_a_freeze_that_is_none_is_found_at_its_line_and_the_weights_move(line, code, tensors):
    recording = run(
        f"""
        model = trained(Net())
        {line}
        before = model.stem[0].weight.detach().clone()
        step(model, torch.optim.SGD(model.parameters(), lr=1e-4))
        """
    )
    (finding,) = found(recording)
    assert told([finding]) == [(code, 2)]
    assert f"{tensors} tensor" in finding.message
    assert "trainable" in finding.message
    model, before = recording.namespace["model"], recording.namespace["before"]
    assert not torch.equal(model.stem[0].weight, before)


@pytest.mark.parametrize(
    "line",
    [
        "model.norm.requires_grad = True",
        "model.requires_grad = True",
        "for p in model.norm.parameters(): p.requires_gradient = True",
        "model.norm.requires_grad_ = True",
    ],
)
def test_an_unfreeze_that_is_none_is_found_and_the_weights_stay(line):
    recording = run(
        f"""
        model = trained(Net()).requires_grad_(False)
        model.fc = nn.Linear(16, 4)
        {line}
        before = model.norm.weight.clone()
        step(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1))
        """
    )
    (finding,) = found(recording)
    assert finding.site.line - FIRST == 3
    assert "frozen" in finding.message
    assert torch.equal(recording.namespace["model"].norm.weight, recording.namespace["before"])


def test_one_line_is_one_finding_and_two_lines_are_two():
    recording = run(
        """
        model = trained(Net())
        for stage in (model.stem, model.layers):
            stage.requires_grad = False
        model.norm.requires_grad = False
        step(model, torch.optim.SGD(model.parameters(), lr=1e-4))
        """
    )
    assert told(found(recording)) == [("FC101", 3), ("FC101", 4)]


def test_a_late_claim_names_the_new_line():
    recording = run(
        """
        model = trained(Net())
        model.stem.requires_grad = True
        model.stem.requires_grad = False
        step(model, torch.optim.SGD(model.parameters(), lr=1e-4))
        """
    )
    assert told(found(recording)) == [("FC101", 3)]


@pytest.mark.parametrize(
    "lines",
    [
        # made good by the real flags
        "model.stem.requires_grad = False\nmodel.stem.requires_grad_(False)",
        "model.requires_grad = False\nfor p in model.stem.parameters(): p.requires_grad = False",
        "model.stem.requires_grad = False\nmodel.requires_grad_(False)\nmodel.requires_grad_(True)",
        # so anyway
        "model.stem.requires_grad = True",
        "for p in model.parameters(): p.require_grad = True",
        # no flag at all
        "model.requires_grad = None",
        "model.stem.require_grad = 'stem'",
        # the real things
        "for p in model.stem.parameters(): p.requires_grad = False",
        "model.stem.requires_grad_(False)",
    ],
)
def test_claims_that_are_so_are_silent(lines):
    recording = run(
        "model = trained(Net())\n"
        + lines
        + "\nstep(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4))\n"
    )
    assert recording.reached_step
    assert not found(recording)


class Option(nn.Module):
    """As in perceptual losses: the constructor's option under this very name."""

    def __init__(self, requires_grad: bool = False) -> None:
        super().__init__()
        self.body = nn.Linear(8, 8)
        self.requires_grad = requires_grad
        for p in self.parameters():
            p.requires_grad = requires_grad


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 8)
        self.requires_grad = False


class Default(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 8)
        self.requires_grad = True


@pytest.mark.parametrize(
    ("module", "flag", "expected"),
    [
        (Option(False), None, []),
        (Option(True), None, []),
        (Option(True), False, []),  # frozen from outside, later on
        (Option(False), True, []),
        (Default(), False, []),
        (Default(), None, []),
        (Unused(), None, ["FC101"]),  # a constant claim that nothing bears out
        (Unused(), False, []),
    ],
)
def test_an_option_of_the_class_is_silent(module, flag, expected):
    if flag is not None:
        module.body.requires_grad_(flag)
    model = nn.Sequential(module, nn.Linear(8, 2))
    assert codes(live(model, torch.optim.SGD(model.parameters(), lr=0.1))) == expected


def test_strays_without_a_recording():
    model = Net()
    model.layers.requires_grad = False
    for p in model.norm.parameters():
        p.requires_grads = False
    model.fc.requires_grad_ = False
    findings = live(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert sorted(codes(findings)) == ["FC101", "FC102", "FC103"]
    assert all(f.site is None for f in findings)
    assert {f.symbol for f in findings} == {"layers", "norm.weight", "fc"}
    model.layers[0].requires_grad_(False)  # some of it is as claimed: not said without a recording
    findings = live(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert sorted(codes(findings)) == ["FC102", "FC103"]


def test_several_models_are_named():
    models = {"encoder": Net(), "decoder": Net()}
    models["decoder"].requires_grad = False
    (finding,) = live(models, torch.optim.SGD([*models["encoder"].parameters()], lr=0.1))
    assert finding.symbol == "decoder"
    assert finding.subject == ("decoder",)


def test_listening_changes_nothing():
    """Reads, deletes, copies and scripting of modules work as without a recorder."""

    def attributes(kind: type) -> dict[str, Any]:
        return {name: value for name, value in vars(kind).items() if not name.startswith("__")}

    before = {kind: attributes(kind) for kind in (nn.Module, nn.Parameter)}
    recording = run(
        """
        import copy, pickle
        model = trained(Net())
        assert not hasattr(model, "requires_grad") and not hasattr(model.fc.weight, "require_grad")
        for thing in (model.stem, model.fc.weight):
            thing.require_grad = 3
            assert thing.require_grad == 3 and thing.__dict__["require_grad"] == 3
            assert pickle.loads(pickle.dumps(thing)).require_grad == 3
            del thing.require_grad
            assert not hasattr(thing, "require_grad")
            try:
                del thing.require_grad
            except AttributeError:
                pass
            else:
                raise AssertionError
            try:
                thing.require_grad
            except AttributeError as error:
                assert str(error) == f"'{type(thing).__name__}' object has no attribute 'require_grad'"
        class Own(nn.Module):
            @property
            def requires_grad(self):
                return "own"
        assert Own().requires_grad == "own"
        class Named(nn.Module):
            def __init__(self):
                super().__init__()
                self.requires_grad = nn.Parameter(torch.zeros(1))
        assert Named().requires_grad.shape == (1,) and len(list(Named().parameters())) == 1
        assert model.stem.requires_grad_(False) is model.stem
        assert nn.Module.requires_grad_(model.stem, True) is model.stem
        assert copy.deepcopy(model).fc.weight.requires_grad_(False).requires_grad is False
        torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)))
        step(model, torch.optim.SGD(model.parameters(), lr=1e-4))
        """
    )
    assert recording.reached_step
    assert not found(recording)
    for kind, expected in before.items():
        assert attributes(kind) == expected


def test_a_module_with_the_attribute_survives_pickle_and_copy():
    model = Net()
    model.stem.requires_grad = False
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert codes(live(other, torch.optim.SGD(other.parameters(), lr=0.1))) == ["FC101"]


def test_stray_events_tell_what_was_set_where():
    recording = run(
        """
        model = Net()
        for m in (model, model.stem):
            m.require_grad = False
        model.fc.bias.requires_grad_ = 0
        step(model, torch.optim.SGD(model.parameters(), lr=1e-4))
        """
    )
    events = [(e.names, e.value, e.data["attribute"]) for e in recording.timeline.of(STRAY)]
    assert events == [(("", "stem"), False, "require_grad"), (("fc.bias",), 0, "requires_grad_")]


# -- FC107: nothing matches -----------------------------------------------------

FREEZE = "step(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4))"


def flags(test: str, before: str = "") -> Recording:
    """A loop that freezes by `test` on line 3 or after."""
    return run(
        f"model = trained(Net())\n{before or 'pass'}\n"
        f"for name, p in model.named_parameters():\n    if {test}:\n        p.requires_grad = False\n{FREEZE}\n"
    )


@pytest.mark.parametrize(
    ("test", "hint"),
    [
        ("'laers' in name", "Did you mean 'layers'?"),
        ("name.startswith('Stem')", "Did you mean 'stem'?"),
        ("'classifier' in name", "begin with stem, layers, norm, fc"),
        ("name == 'stem.weight'", "begin with"),
        ("name in ('encoder.weight', 'encoder.bias')", "begin with"),
        ("any(key in name for key in ['resblock', 'classifier'])", "begin with"),
        ("name.endswith('.kernel') or name.startswith('conv')", "begin with"),
        ("p.dim() > 1 and 'resblock' in name", "begin with"),
        ("'layers' in name and 'attention' in name", "begin with"),
    ],
)
def test_a_test_that_no_name_passes_is_found(test, hint):
    (finding,) = found(flags(test))
    assert told([finding]) == [("FC107", 4)]
    assert finding.severity == Severity.ERROR
    assert "None of the 14 parameters of model passes" in finding.message
    assert "nothing is frozen" in finding.message
    assert hint in finding.message


@pytest.mark.parametrize(
    "test",
    [
        "'stem' in name",
        "'stem' in name or 'classifier' in name",
        "any(key in name for key in ['classifier', 'stem'])",
        "name.startswith(('encoder', 'stem'))",
        "'classifier' not in name and 'stem' in name",
        "'bn' in name or 'bias' in name",
        # of unknown parts nothing is said
        "'classifier' in name or p.numel() < 100",
        "name.split('.')[0] == 'classifier'",
        "hash(name) % 2 and p.dim() > 7",
        # a word for a kind of tensor, which a helper for any network may ask for
        "'gamma' in name",
    ],
)
def test_tests_that_choose_or_are_not_understood_are_silent(test):
    assert "FC107" not in codes(found(flags(test)))


def test_a_test_that_matches_nothing_under_a_not_freezes_all():
    recording = run(
        """
        model = trained(Net())
        for name, p in model.named_parameters():
            if "classifier" not in name:
                p.requires_grad = False
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        try:
            step(model, optimizer)
        except RuntimeError:
            pass
        """
    )
    assert not recording.reached_step  # the loss has no gradient, and the script fails
    (finding,) = found(recording)
    assert told([finding]) == [("FC107", 3)]
    assert "so all of them are frozen" in finding.message
    codes_of_all = codes(recording.findings())
    assert "FC120" not in codes_of_all  # its consequence
    assert "FC107" in codes_of_all


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [("nn.DataParallel(model)", "'module.'"), ("torch.compile(model)", "'_orig_mod.'")],
)
def test_a_wrapper_prefix_is_named(wrap, prefix):
    recording = flags("name.startswith('stem')", f"model = {wrap}")
    (finding,) = found(recording)
    assert finding.code == "FC107"
    assert prefix in finding.message


def test_children_of_a_wrapped_model():
    recording = run(
        """
        model = nn.DataParallel(trained(Net()))
        for name, child in model.named_children():
            if name in ["stem", "layers"]:
                child.requires_grad_(False)
        step(model, torch.optim.SGD(model.parameters(), lr=1e-4))
        """
    )
    (finding,) = found(recording)
    assert told([finding]) == [("FC107", 3)]
    assert "DataParallel" in finding.message


@pytest.mark.parametrize(
    "lines",
    [
        # a chain for several architectures
        """
        for name, p in model.named_parameters():
            if "classifier" in name:
                p.requires_grad = True
            elif "fc" in name:
                p.requires_grad = True
            else:
                p.requires_grad = False
        """,
        # printing, counting, collecting names
        """
        for name, p in model.named_parameters():
            if "classifier" in name:
                print(name, p.requires_grad)
        total = sum(p.numel() for n, p in model.named_parameters() if "classifier" in n)
        heads = [n for n, p in model.named_parameters() if "classifier" in n]
        """,
        # initialisation and averaging
        """
        shadow = {}
        for name, p in model.named_parameters():
            if "lstm" in name:
                nn.init.zeros_(p)
            elif "ema" in name:
                shadow[name] = p.detach().clone()
        """,
        # a helper that matches for one of the words it is called with
        """
        def unfreeze(word):
            for name, p in model.named_parameters():
                if word in name:
                    p.requires_grad = True
        for word in ("classifier", "fc"):
            unfreeze(word)
        """,
        # a word each, one after the other
        """
        for word in ("classifier", "fc"):
            for name, p in model.named_parameters():
                if word in name:
                    p.requires_grad = True
        """,
        # a whole freeze, and a new head after it
        """
        for name, p in model.named_parameters():
            if "classifier" not in name:
                p.requires_grad = False
        model.fc = nn.Linear(16, 4)
        """,
        """
        for name, p in model.named_parameters():
            if "classifier" in name:
                continue
            p.requires_grad = False
        model.norm.requires_grad_(True)
        """,
        # a whole part of the model
        """
        for part in (model.stem, model.layers):
            for name, p in part.named_parameters():
                if "fc" not in name:
                    p.requires_grad = False
        """,
        # a guard against what other models have
        """
        everything = [p for n, p in model.named_parameters() if "teacher" not in n]
        """,
        # the name is changed before it is tested
        """
        for name, p in nn.DataParallel(model).named_parameters():
            name = name.removeprefix("module.")
            if name.startswith("stem"):
                p.requires_grad = False
        """,
        # the word is found out inside the loop
        """
        word = "classifier"
        for name, p in model.named_parameters():
            word = name.partition(".")[0]
            if word in name:
                p.requires_grad = True
        """,
    ],
)
def test_healthy_loops(lines):
    recording = run("model = trained(Net())\n" + textwrap.dedent(lines) + FREEZE + "\n")
    assert recording.reached_step
    assert not found(recording)


def test_groups_by_a_name_that_is_not_there_are_a_warning_told_once():
    recording = run(
        """
        model = trained(Net())
        head = [p for n, p in model.named_parameters() if n.startswith("classifier")]
        rest = [p for n, p in model.named_parameters() if not n.startswith("classifier")]
        step(model, torch.optim.SGD([{"params": rest}, {"params": head, "lr": 1e-3}], lr=1e-4))
        """
    )
    (finding,) = found(recording)
    assert told([finding]) == [("FC107", 2)]
    assert finding.severity == Severity.WARNING
    assert "nothing is chosen" in finding.message


def test_the_usual_list_without_decay_is_silent_where_there_is_no_bias():
    recording = run(
        """
        class Bare(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Linear(8, 16, bias=False)
                self.head = nn.Linear(16, 4, bias=False)
            def forward(self, x):
                return self.head(self.body(x))
        model = Bare()
        pairs = list(model.named_parameters())
        no_decay = ["bias", "LayerNorm.weight", "pos_embed"]
        groups = [
            {"params": [p for n, p in pairs if not any(k in n for k in no_decay)]},
            {"params": [p for n, p in pairs if any(k in n for k in no_decay)], "weight_decay": 0.0},
        ]
        step(model, torch.optim.AdamW(groups, lr=1e-4))
        """
    )
    assert recording.reached_step
    assert len(list(recording.timeline.of(PATTERN))) == 2  # they were read, list and all
    assert not found(recording)


def test_the_line_that_called_the_helper_is_told():
    recording = run(
        """
        def freeze(model, words=("stem",)):
            for name, p in model.named_parameters():
                if any(word in name for word in words):
                    p.requires_grad = False
        model = trained(Net())
        freeze(model)
        freeze(model, ["encoder"])
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        step(model, optimizer)
        """
    )
    (finding,) = found(recording)
    assert told([finding]) == [("FC107", 3)]
    assert [(n.message, n.site.line - FIRST) for n in finding.notes] == [("called from here", 7)]


def test_a_model_that_is_not_trained_is_left_out():
    recording = run(
        """
        model, teacher = trained(Net()), trained(Net())
        for name, p in teacher.named_parameters():
            if "classifier" in name:
                p.requires_grad = False
        step(model, torch.optim.SGD(model.parameters(), lr=1e-4))
        """
    )
    assert recording.reached_step
    assert not found(recording)


# -- FC108: too much matches ----------------------------------------------------


@pytest.mark.parametrize(
    ("test", "hit"),
    [
        ("'layers.1' in name", "layers.10, layers.11 are hit too"),
        ("name.startswith('layers.1')", "layers.10, layers.11 are hit too"),
        ("any(k in name for k in ('stem', 'layers.0', 'layers.1'))", "layers.10, layers.11"),
        ("any(f'layers.{i}' in name for i in range(3))", "layers.10, layers.11"),
        ("any(f'layers.{i}' in name for i in [1, 10])", "layers.11 is hit too"),
    ],
)
def test_a_number_that_goes_on_is_found(test, hit):
    recording = flags(test, "model = trained(Net(12))")
    (finding,) = found(recording)
    assert told([finding]) == [("FC108", 4)]
    assert "not only the 2 of layers.1" in finding.message
    assert hit in finding.message
    assert "'layers.1.'" in finding.fix.message
    frozen = {n for n, p in recording.namespace["model"].named_parameters() if not p.requires_grad}
    assert "layers.11.weight" in frozen


@pytest.mark.parametrize(
    "test",
    [
        "'layers.1.' in name",
        "'layers.1' in name and 'layers.10' not in name and 'layers.11' not in name",
        "any(f'layers.{i}' in name for i in range(12))",
        "any(k in name for k in ('layers.1', 'layers.10', 'layers.11'))",
        "'layers.11' in name",
        "'fc' in name",
    ],
)
def test_numbers_that_are_whole_or_wanted_are_silent(test):
    assert not found(flags(test, "model = trained(Net(12))"))


def test_a_number_that_was_put_right_later_is_silent():
    recording = run(
        """
        model = trained(Net(12))
        for name, p in model.named_parameters():
            if "layers.1" in name:
                p.requires_grad = False
        for layer in (model.layers[10], model.layers[11]):
            layer.requires_grad_(True)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        step(model, optimizer)
        """
    )
    assert not found(recording)


def test_a_rate_for_each_layer_by_a_number_without_a_dot():
    """torch then refuses the groups (a parameter in two of them), and the script ends there."""
    recording = run(
        """
        model = trained(Net(12))
        spare = torch.optim.SGD(model.parameters(), lr=0.1)
        groups = []
        for i in range(12):
            layer = [p for n, p in model.named_parameters() if f"layers.{i}" in n]
            groups.append({"params": layer, "lr": 1e-3 * 0.9**i})
        try:
            torch.optim.AdamW(groups)
        except ValueError as error:
            message = str(error)
        """
    )
    assert "more than one parameter group" in recording.namespace["message"]
    assert told(found(recording)) == [("FC108", 5)]


SQUEEZED = """
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Linear(16, 16)
        self.fc1 = nn.Linear(16, 4)
        self.fc2 = nn.Linear(4, 16)
    def forward(self, x):
        return x + self.conv(x) * self.fc2(self.fc1(x).relu()).sigmoid()
class Squeezed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1, self.layer2, self.layer3 = Block(), Block(), Block()
        self.HEAD = nn.Linear(16, 4)
    def forward(self, x):
        return self.HEAD(self.layer3(self.layer2(self.layer1(x.repeat(1, 2)))))
"""


@pytest.mark.parametrize(
    ("head", "expected"), [("fc", "not only the 2 that it names"), ("classifier", "The head is")]
)
def test_the_head_s_name_inside_the_backbone(head, expected):
    recording = run(
        SQUEEZED.replace("HEAD", head)
        + f"""
model = trained(Squeezed())
model.{head} = nn.Linear(16, 4)
for name, p in model.named_parameters():
    p.requires_grad = "fc" in name
step(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2))
"""
    )
    (finding,) = found(recording)  # and not FC110 as well
    assert finding.code == "FC108"
    assert expected in finding.message
    assert "layer1.fc1" in finding.message


def test_layers_that_bear_the_name_at_the_top_are_meant():
    recording = run(
        """
        class LeNet(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv1, self.conv2 = nn.Linear(8, 8), nn.Linear(8, 8)
                self.fc1, self.fc2, self.fc3 = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
            def forward(self, x):
                return self.fc3(self.fc2(self.fc1(self.conv2(self.conv1(x)))))
        model = trained(LeNet())
        for name, p in model.named_parameters():
            p.requires_grad = "fc" in name
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        step(model, optimizer)
        """
    )
    assert not found(recording)


def test_efficientnet_s_squeeze_excitations_are_called_fc():
    recording = record(
        """
import torch, torchvision
from torch import nn
model = torchvision.models.efficientnet_b0(weights="DEFAULT")
model.classifier[1] = nn.Linear(1280, 5)
for name, p in model.named_parameters():
    p.requires_grad = "fc" in name
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
model.eval()
nn.functional.cross_entropy(model(torch.randn(2, 3, 32, 32)), torch.arange(2)).backward()
optimizer.step()
"""
    )
    (finding,) = found(recording)
    assert finding.code == "FC108"
    assert "matches 64 parameters" in finding.message
    assert "classifier.1" in finding.message


# -- FC109: norm layers that are called otherwise -------------------------------

RESNET = """
import torch, torchvision
from torch import nn
model = torchvision.models.resnet18(weights="DEFAULT")
"""
RESNET_STEP = """
nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
optimizer.step()
"""
NAMED = "for name, p in model.named_parameters():\n    if 'bn' in name:\n        p.requires_grad = False\n"
ALL = "optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)"


def test_the_shortcuts_of_resnet_are_missed():
    recording = record(RESNET + NAMED + ALL + RESNET_STEP)
    (finding,) = found(recording)
    assert finding.code == "FC109"
    assert "'bn' matches 34 of the 40 BatchNorm2d tensors" in finding.message
    assert "6 that it misses stay trainable" in finding.message
    model = recording.namespace["model"]
    assert model.layer2[0].downsample[1].weight.requires_grad


@pytest.mark.parametrize(
    "lines",
    [
        NAMED.replace("'bn' in name", "'bn' in name or 'downsample.1' in name"),
        NAMED + NAMED.replace("'bn' in name", "'downsample.1' in name"),
        NAMED + "model.layer2.requires_grad_(False)\n"
        "for s in (model.layer3, model.layer4): s[0].downsample.requires_grad_(False)\n",
        NAMED.replace("'bn' in name", "'bn1' in name"),
        NAMED.replace("'bn' in name", "'bn' in name or p.dim() == 1"),
        NAMED.replace(
            "if 'bn' in name:\n        p.requires_grad = False", "if 'bn' in name: print(name)"
        ),
        "for name, m in model.named_modules():\n    if 'bn' in name:\n        m.eval()\nmodel.eval()\n",
        "decay = [p for n, p in model.named_parameters() if 'bn' not in n]\n"
        "spared = [p for n, p in model.named_parameters() if 'bn' in n]\n"
        "unused = [{'params': decay}, {'params': spared}]\n",
    ],
)
def test_norms_that_are_thought_of_are_silent(lines):
    recording = record(RESNET + lines + ALL + RESNET_STEP)
    assert recording.reached_step
    assert not found(recording)


def test_norms_that_decay_although_a_group_spares_them():
    recording = record(
        RESNET
        + """
keep = ["bias", "bn"]
groups = [
    {"params": [p for n, p in model.named_parameters() if not any(k in n for k in keep)]},
    {"params": [p for n, p in model.named_parameters() if any(k in n for k in keep)], "weight_decay": 0},
]
optimizer = torch.optim.SGD(groups, lr=1e-4, weight_decay=0.05)
"""
        + RESNET_STEP
    )
    (finding,) = found(recording)
    assert finding.code == "FC109"
    assert "3 that it misses get weight decay 0.05" in finding.message


def hugging_face(build: str, groups: str) -> Recording:
    pytest.importorskip("transformers")
    return record(
        f"""
import torch, transformers
{build}
no_decay = ["bias", "LayerNorm.weight"]
groups = {groups}
optimizer = torch.optim.AdamW(groups, lr=1e-4)
model.train()
model(**batch).loss.backward()
optimizer.step()
"""
    )


GROUPS = """[
    {"params": [p for n, p in model.named_parameters() if not any(k in n for k in no_decay)], "weight_decay": 0.01},
    {"params": [p for n, p in model.named_parameters() if any(k in n for k in no_decay)], "weight_decay": 0.0},
]"""
SMALL = "hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64"
T5 = """
config = transformers.T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=2, vocab_size=100, decoder_start_token_id=0)
model = transformers.T5ForConditionalGeneration(config)
tokens = torch.arange(8).reshape(2, 4)
batch = {"input_ids": tokens, "labels": tokens}
"""
BERT = f"""
config = transformers.BertConfig({SMALL}, vocab_size=100)
model = transformers.BertForSequenceClassification(config)
batch = {{"input_ids": torch.arange(8).reshape(2, 4), "labels": torch.tensor([0, 1])}}
"""


@pytest.mark.frameworks
def test_t5_has_no_layernorm_by_that_name():
    recording = hugging_face(T5, GROUPS)
    (finding,) = found(recording)
    assert finding.code == "FC109"
    assert "matches none of the 12 T5LayerNorm tensors" in finding.message
    assert "12 that it misses get weight decay 0.01" in finding.message


@pytest.mark.frameworks
def test_bert_has():
    recording = hugging_face(BERT, GROUPS)
    assert recording.reached_step
    assert not found(recording)


@pytest.mark.frameworks
def test_the_tenth_layer_of_bert():
    pytest.importorskip("transformers")
    recording = record(
        f"""
import torch, transformers
{BERT.replace("num_hidden_layers=2", "num_hidden_layers=12")}
for name, p in model.named_parameters():
    if "embeddings" in name or "layer.0" in name or "layer.1" in name:
        p.requires_grad = False
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
model.train()
model(**batch).loss.backward()
optimizer.step()
"""
    )
    (finding,) = found(recording)
    assert finding.code == "FC108"
    assert "matches 48 parameters, not only the 16 of bert.encoder.layer.1" in finding.message


# -- FC110: the new head frozen along -------------------------------------------


def resnet(head: bool = True) -> nn.Module:
    model = look_trained(torchvision.models.resnet18())
    if head:
        model.fc = nn.Linear(512, 5)
    return model


def sgd(*models: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for m in models for p in m.parameters()], lr=0.01)


def test_a_new_head_frozen_with_the_rest():
    model = resnet().requires_grad_(False)
    model.layer4.requires_grad_(True)
    (finding,) = live(model, sgd(model))
    assert (finding.code, finding.symbol) == ("FC110", "fc")
    assert "2,565 parameters" in finding.message
    optimizer = sgd(model)
    before = model.fc.weight.clone()
    model.eval()
    F.cross_entropy(model(torch.randn(2, 3, 32, 32)), torch.arange(2)).backward()
    optimizer.step()
    assert torch.equal(model.fc.weight, before)


def test_a_new_head_frozen_and_nothing_else_trainable():
    model = resnet().requires_grad_(False)
    assert codes(live(model, sgd(model))) == ["FC110"]


def test_heads_that_are_frozen_on_purpose():
    trained_head = resnet(head=False).requires_grad_(False)
    trained_head.layer4.requires_grad_(True)
    assert not live(trained_head, sgd(trained_head))

    fixed = resnet()  # a fixed random classifier on a backbone that trains
    fixed.fc.requires_grad_(False)
    assert not live(fixed, sgd(fixed))

    scratch = torchvision.models.resnet18().requires_grad_(False)  # FC119's and FC120's business
    scratch.layer4.requires_grad_(True)
    assert not live(scratch, sgd(scratch))

    student, loss_network = resnet(), resnet().requires_grad_(False)
    assert not live({"student": student, "features": loss_network}, sgd(student))

    probe = resnet().requires_grad_(False)
    probe.fc.requires_grad_(True)
    assert not live(probe, sgd(probe.fc))


def test_bias_only_training_with_a_head():
    model = resnet()
    for name, p in model.named_parameters():
        p.requires_grad = name.endswith("bias")
    assert not live(model, sgd(model))


def test_one_half_of_a_gan_is_frozen_for_the_moment():
    recording = run(
        """
        generator, critic = Net(), trained(Net())
        critic.fc = nn.Linear(16, 1)
        first = torch.optim.SGD(critic.parameters(), lr=1e-2)
        second = torch.optim.SGD(generator.parameters(), lr=1e-2)
        generator.fc = generator.fc
        critic(torch.randn(8, 8)).mean().backward()
        first.step()
        critic.requires_grad_(False)
        critic(generator(torch.randn(8, 8)).repeat(1, 2)).mean().backward()
        second.step()
        """
    )
    assert recording.reached_step
    assert not found(recording)


def test_a_gan_s_half_before_any_step():
    generator, critic = Net(), look_trained(Net())
    critic.fc = nn.Linear(16, 1)
    critic.requires_grad_(False)
    setup = {"generator": generator, "critic": critic}
    assert not live(setup, sgd(generator), sgd(critic))


class Adapter(nn.Module):
    """A frozen linear layer with a small trainable one beside it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Linear(layer.in_features, 2, bias=False)
        self.up = nn.Linear(2, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.up(self.down(x))


def test_adapters_with_a_trained_frozen_head():
    model = look_trained(Net())
    with torch.no_grad():
        model.fc.weight.mul_(2)
    model.requires_grad_(False)
    model.layers = nn.ModuleList(Adapter(layer) for layer in model.layers)
    assert not live(model, sgd(model))
    model.fc = nn.Linear(16, 4).requires_grad_(False)
    assert codes(live(model, sgd(model))) == ["FC110"]


def test_the_story_of_a_frozen_head():
    recording = run(
        """
        model = trained(Net())
        model.fc = nn.Linear(16, 4)
        model.requires_grad_(False)
        model.norm.requires_grad_(True)
        step(model, torch.optim.SGD(model.parameters(), lr=1e-2))
        """
    )
    (finding,) = found(recording)
    assert told([finding]) == [("FC110", 3)]
    assert [n.site.line - FIRST for n in finding.notes][:3] == [2, 3, 5]


# -- FC111: one tensor, two names -----------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(50, 16)
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.norm = nn.LayerNorm(16)
        self.lm_head = nn.Linear(16, 50, bias=False)
        self.lm_head.weight = self.wte.weight


def test_frozen_embeddings_that_are_the_head_too():
    model = Tied()
    model.wte.requires_grad_(False)
    model.blocks[0].requires_grad_(False)
    (finding,) = live(model, sgd(model))
    assert (finding.code, finding.symbol) == ("FC111", "wte.weight")
    assert "wte.weight and lm_head.weight are one tensor (800 parameters)" in finding.message
    assert not model.lm_head.weight.requires_grad


def test_tied_tensors_that_are_trained_or_frozen_with_all():
    model = Tied()
    assert not live(model, sgd(model))
    model.requires_grad_(False)
    model.norm.requires_grad_(True)  # norms alone
    assert not live(model, sgd(model))
    for name, p in model.named_parameters():
        p.requires_grad = name.endswith("bias")
    assert not live(model, sgd(model))
    model = Tied().requires_grad_(False)
    model.blocks = nn.ModuleList(Adapter(layer) for layer in model.blocks)
    assert not live(model, sgd(model))
    model = Tied()
    model.lm_head.weight = nn.Parameter(model.wte.weight.detach().clone())
    model.wte.requires_grad_(False)
    assert not live(model, sgd(model))


@pytest.mark.frameworks
def test_gpt2():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=3,
        n_embd=32,
        n_head=2,
        vocab_size=100,
        n_positions=16,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = transformers.GPT2LMHeadModel(config)
    assert not live(model, sgd(model))
    model.transformer.wte.requires_grad_(False)
    (finding,) = live(model, sgd(model))
    assert finding.code == "FC111"
    assert "transformer.wte.weight and lm_head.weight" in finding.message
    model.requires_grad_(False)
    for block in model.transformer.h:
        block.ln_1.requires_grad_(True)
    assert not live(model, sgd(model))


# -- healthy setups -------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5"]
)
def test_models_from_scratch(name):
    model = torchvision.models.get_model(name)
    assert not live(model, torch.optim.AdamW(model.parameters()))
