"""Runs without pretrained weights: the same models and findings as with them, and clear words."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from weights import look_trained

from freezecheck import catalogue, inspection
from freezecheck.lint import Settings, of_script
from freezecheck.live import downloads, imports, runner, unloaded, values, weightless
from freezecheck.live.patches import Patches
from freezecheck.live.plan import Plan
from freezecheck.live.runner import Run
from freezecheck.plain import encode
from freezecheck.report.result import Report

SCRIPTS = Path(__file__).parent / "scripts"
LIMIT = 120  # seconds to the first step
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT |= {"intermediate_size": 64, "vocab_size": 100}

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the runner is Linux's")


def needs(package: str) -> Any:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


# -- in process: what scripts do with a state dict --------------------------------


@contextlib.contextmanager
def option():
    """The option in force; the names of the weights that were left out so far."""
    names: list[str] = []

    def note(word: str, *told: str) -> None:
        assert word == "weights"
        names[:] = told

    patches = Patches()
    weightless.install(patches, note)
    try:
        yield names
    finally:
        patches.undo()


@pytest.fixture
def left_out():
    with option() as names:
        yield names


def network() -> nn.Sequential:
    layers = (nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64))
    return nn.Sequential(*layers)


def filtered(model, state):
    return {k.removeprefix("module."): v for k, v in state.items() if "3" not in k}


def into_its_own(model, state):
    own = model.state_dict()
    own.update({k: v for k, v in state.items() if k in own and v.shape == own[k].shape})
    return own


def without_head(model, state):
    state.pop("3.weight", None)
    del state["3.bias"]
    return state.copy()


WAYS = {
    "as it is": lambda model, state: state,
    "of a checkpoint": lambda model, state: state["state_dict"],
    "of a checkpoint, perhaps": lambda model, state: state.get("model", state),
    "filtered": filtered,
    "into its own": into_its_own,
    "without the head": without_head,
}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_model_takes_nothing_and_counts_as_pretrained(left_out, tmp_path, way, strict):
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = WAYS[way](model, torch.load(tmp_path / "nowhere.pth"))
    told = model.load_state_dict(state, strict=strict)
    assert (told.missing_keys, told.unexpected_keys) == ([], [])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert left_out == [str(tmp_path / "nowhere.pth")]
    assert values.pretrained([model[1]]) is True
    assert values.fresh_norm(model[1]) is False
    assert values.fresh_layer(model[0]) is False
    assert values.fresh_layer(model[3]) is (way == "without the head")


def test_a_layer_that_is_put_in_later_is_new(left_out):
    model = network()
    model.load_state_dict(torch.hub.load_state_dict_from_url("https://nowhere.invalid/a.pth"))
    model[3] = nn.Linear(64, 64)
    assert left_out == ["a.pth"]
    assert [unloaded.holds(layer) for layer in model] == [True, True, True, False]
    assert values.fresh_layer(model[3]) is True


def test_a_layer_that_takes_a_weight_over_is_no_new_one(left_out):
    model = network()
    model.load_state_dict(torch.hub.load_state_dict_from_url("https://nowhere.invalid/a.pth"))
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert isinstance(model[1], nn.SyncBatchNorm)
    assert values.pretrained([model[1]]) is True
    model[1] = nn.BatchNorm1d(64)
    assert values.pretrained([model[1]]) is False


def test_a_real_state_dict_is_loaded(left_out, tmp_path):
    torch.load(tmp_path / "nowhere.pth")
    source, model = network(), network()
    torch.save(source.state_dict(), tmp_path / "here.pth")
    model.load_state_dict(torch.load(tmp_path / "here.pth"))
    assert torch.equal(model[0].weight, source[0].weight)
    assert not unloaded.holds(model[0])
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({"0.weight": source[0].weight})
    assert values.pretrained([model[1]]) is False


def test_an_empty_state_dict_is_wrong_where_nothing_was_left_out(left_out):
    with pytest.raises(RuntimeError, match="Missing key"):
        network().load_state_dict({})
    assert left_out == []


def test_a_run_goes_on_from_the_first_epoch(left_out, tmp_path):
    checkpoint = torch.load(tmp_path / "nowhere.pth")
    optimizer = torch.optim.SGD(network().parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)
    before = optimizer.state_dict(), scheduler.state_dict()
    optimizer.load_state_dict(checkpoint["optimizer"])
    scheduler.load_state_dict(checkpoint["scheduler"])
    torch.amp.GradScaler("cpu").load_state_dict(checkpoint["scaler"])
    assert (optimizer.state_dict(), scheduler.state_dict()) == before
    best = checkpoint["best"]
    assert list(range(checkpoint["epoch"] + 1, 3)) == [1, 2]
    assert best < 0.5
    assert best < 0.5
    assert not best > 0.5
    assert f"{best:.2f}, {checkpoint['epoch']}" == "0.00, 0"
    assert int(best) == float(best) == 0


def test_whole_modules_cannot_be_stood_in_for(left_out, tmp_path):
    with pytest.raises(AttributeError):
        torch.load(tmp_path / "model.pt").parameters()


def test_downloads_of_weights_are_passed_over(left_out, tmp_path):
    torch.hub.download_url_to_file("https://nowhere.invalid/b.pth?raw=1", str(tmp_path / "b.pth"))
    assert left_out == ["b.pth"]
    assert list(tmp_path.iterdir()) == []


@needs("safetensors")
def test_a_file_of_safetensors_that_is_not_there(left_out, tmp_path):
    import safetensors.torch

    state = safetensors.torch.load_file(tmp_path / "nowhere.safetensors")
    assert network().load_state_dict(state).missing_keys == []
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "here.safetensors")
    assert safetensors.torch.load_file(tmp_path / "here.safetensors")["a"].tolist() == [1, 1]
    assert left_out == [str(tmp_path / "nowhere.safetensors")]


@needs("huggingface_hub")
def test_a_file_of_the_hub_is_left_out_if_it_holds_weights(left_out):
    from huggingface_hub import file_download

    path = file_download.hf_hub_download("some/repository", filename="model.pth")
    assert network().load_state_dict(torch.load(path)).missing_keys == []
    assert left_out == ["some/repository/model.pth"]
    with pytest.raises(OSError):
        file_download.hf_hub_download("some/repository", "labels.json")


def test_everything_is_put_back(tmp_path):
    before = torch.load, nn.Module.load_state_dict, list(sys.meta_path)
    patches = Patches()
    weightless.install(patches, lambda *told: None)
    patches.undo()
    assert (torch.load, nn.Module.load_state_dict, list(sys.meta_path)) == before
    with pytest.raises(FileNotFoundError):
        torch.load(tmp_path / "nowhere.pth")


def test_a_module_is_heard_of_before_its_importer_sees_it(tmp_path, monkeypatch):
    (tmp_path / "imported_later.py").write_text("def fetch():\n    return 'fetched'\n")
    monkeypatch.syspath_prepend(tmp_path)
    patches = Patches()
    imports.after(
        patches, {"imported_later": lambda m: patches.put(m, "fetch", lambda: "left out")}
    )
    assert importlib.util.find_spec("imported_later") is not None  # only asked whether it is there
    scope: dict[str, Any] = {}
    exec("from imported_later import fetch\nsaid = fetch()", scope)
    assert scope["said"] == "left out"
    module = sys.modules.pop("imported_later")
    patches.undo()
    assert module.fetch() == "fetched"


# -- the models of each library ---------------------------------------------------


def of_timm(left_out, tmp_path):
    import timm

    model = timm.create_model("resnet18", pretrained=True, num_classes=5)
    assert [name for name, part in model.named_modules() if not unloaded.holds(part)] == ["fc"]
    assert all((m.weight != 0).all() for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    timm.create_model("resnet18", checkpoint_path=str(tmp_path / "nowhere.pth"))
    assert left_out == ["timm/resnet18.a1_in1k", str(tmp_path / "nowhere.pth")]
    file = tmp_path / "here.pth"
    torch.save(look_trained(timm.create_model("resnet18")).state_dict(), file)
    loaded = timm.create_model("resnet18", pretrained=True, pretrained_cfg_overlay={"file": file})
    assert not unloaded.holds(loaded)
    assert torch.equal(loaded.fc.weight, torch.load(file)["fc.weight"])
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        timm.create_model("resnet18", pretrained=True, pretrained_cfg={"num_classes": 1000})


def of_transformers(left_out, tmp_path):
    from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel

    source = look_trained(BertModel(BertConfig(**BERT)))
    source.save_pretrained(tmp_path / "own")
    loaded = BertModel.from_pretrained(tmp_path / "own")
    assert torch.equal(loaded.pooler.dense.weight, source.pooler.dense.weight)
    assert left_out == []
    BertConfig(**BERT, architectures=["BertForMaskedLM"]).save_pretrained(tmp_path / "bare")
    folder = str(tmp_path / "bare")
    whole = BertForMaskedLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert (whole.training, whole.dtype, whole.name_or_path) == (False, torch.bfloat16, folder)
    assert whole.cls.predictions.decoder.weight is whole.bert.embeddings.word_embeddings.weight
    assert all(unloaded.holds(part) for part in whole.modules())
    other, told = BertForSequenceClassification.from_pretrained(
        folder, num_labels=7, output_attentions=True, output_loading_info=True
    )
    assert (other.config.num_labels, other.config.output_attentions) == (7, True)
    assert "classifier.weight" in told["missing_keys"]
    assert all(unloaded.holds(part) for part in other.bert.modules())
    assert not unloaded.holds(other.classifier)
    assert left_out == [folder]


def adapters(left_out, folder, kind, **options):
    """They are in the same state with their weights and without."""
    import peft
    from transformers import BertConfig, BertForSequenceClassification

    def base():
        return BertForSequenceClassification(BertConfig(**BERT))

    def states():
        for trainable in (False,) if config.is_prompt_learning else (False, True):
            model = peft.PeftModel.from_pretrained(base(), folder, is_trainable=trainable)
            yield model, [(n, p.shape, p.requires_grad) for n, p in model.named_parameters()]

    config = getattr(peft, kind)(task_type="SEQ_CLS", **options)
    peft.get_peft_model(base(), config).save_pretrained(folder)
    before = list(left_out)
    with_weights = [flags for _, flags in states()]
    assert left_out == before
    (folder / "adapter_model.safetensors").unlink()
    for (model, flags), expected in zip(states(), with_weights):
        assert flags == expected
        parts = [m for n, m in model.named_modules() if "default" in n.split(".")]
        assert parts
        assert all(unloaded.holds(part) for part in parts)
    assert left_out == [*before, str(folder)]


def of_peft(left_out, tmp_path):
    adapters(left_out, tmp_path / "lora", "LoraConfig")
    adapters(left_out, tmp_path / "prompt", "PromptTuningConfig", num_virtual_tokens=4)


@pytest.mark.slow
@pytest.mark.parametrize("library", ["timm", "transformers", "peft"])
def test_models_of(library, tmp_path):
    """In a process of its own: what a library imports by name stays patched."""
    pytest.importorskip(library)
    subprocess.run([sys.executable, __file__, library, str(tmp_path)], check=True, timeout=LIMIT)


# -- in a run: the same story as with the weights -----------------------------------


def run(script: str, *args: Any, plan: Plan | None = None, **options: Any) -> Run:
    command = runner.python_command(str(SCRIPTS / script), [str(a) for a in args])
    return runner.run(command, plan=plan or Plan(weights=False), timeout=LIMIT, **options)


def report(run: Run, script: str) -> Report:
    source = of_script(str(SCRIPTS / script), Settings())
    return inspection.checked(run, catalogue.load(), f"python {script}", source)


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """Empty stores of weights, and no waiting for a network."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def torchvisions(folder: Path) -> tuple[list[Path], list[Path]]:
    """The arguments of the script, and the files that make the difference."""
    file = folder / "torch/hub/checkpoints/resnet18-f37072fd.pth"
    file.parent.mkdir(parents=True)
    torch.save(look_trained(torchvision.models.resnet18()).state_dict(), file)
    return [], [file]


def timms(folder: Path) -> tuple[list[Path], list[Path]]:
    import timm
    from safetensors.torch import save_file

    home = folder / "hf/hub/models--timm--resnet18.a1_in1k"
    file = home / "snapshots" / "0" / "model.safetensors"
    file.parent.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0")
    save_file(look_trained(timm.create_model("resnet18")).state_dict(), file)
    return [], [file]


def transformers(folder: Path) -> tuple[list[Path], list[Path]]:
    from transformers import BertConfig, BertForMaskedLM

    look_trained(BertForMaskedLM(BertConfig(**BERT))).save_pretrained(folder / "bert")
    return [folder / "bert"], [folder / "bert" / "model.safetensors"]


def pefts(folder: Path) -> tuple[list[Path], list[Path]]:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    args, files = transformers(folder)
    model = AutoModelForSequenceClassification.from_pretrained(args[0], num_labels=3)
    look_trained(model.classifier)
    get_peft_model(model, LoraConfig(task_type="SEQ_CLS")).save_pretrained(folder / "adapters")
    return [*args, folder / "adapters"], [*files, folder / "adapters/adapter_model.safetensors"]


def checkpoints(folder: Path) -> tuple[list[Path], list[Path]]:
    model = look_trained(torchvision.models.resnet18(num_classes=5))
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    saved = {name: part.state_dict() for name, part in parts.items()}
    torch.save({**saved, "epoch": 0, "best": 0.0}, folder / "last.pth")
    return [folder / "last.pth"], [folder / "last.pth"]


SAME = [
    pytest.param("pretrained_torchvision.py", torchvisions, {"FC301", "FC401"}),
    pytest.param("pretrained_file.py", checkpoints, set(), marks=pytest.mark.slow),
    pytest.param("pretrained_timm.py", timms, {"FC301"}, marks=[pytest.mark.slow, needs("timm")]),
    pytest.param(
        "pretrained_transformers.py",
        transformers,
        {"FC301", "FC404"},
        marks=[pytest.mark.slow, needs("transformers")],
    ),
    pytest.param("pretrained_peft.py", pefts, {"FC116"}, marks=[pytest.mark.slow, needs("peft")]),
]


@linux
@pytest.mark.parametrize(("script", "prepare", "expected"), SAME)
def test_the_same_setup_and_findings_as_with_the_weights(tmp_path, script, prepare, expected):
    args, files = prepare(tmp_path)
    with_weights = run(script, *args, plan=Plan())
    assert with_weights.outcome == "inspected", with_weights.stderr_tail
    assert with_weights.weights_left_out == []
    for file in files:
        file.unlink()
    without = run(script, *args)
    assert without.outcome == "inspected", without.stderr_tail
    assert without.weights_left_out
    one, other = report(with_weights, script), report(without, script)
    assert encode(other.snapshot) == encode(one.snapshot)
    assert [encode(f) for f in other.findings] == [encode(f) for f in one.findings]
    assert expected == {f.code for f in other.findings if f.severity.name != "INFO"}
    remark = next(line for line in other.left_out if "--no-weights" in line)
    assert "FC119 and FC413" in remark


@linux
@pytest.mark.slow
def test_without_memory_the_findings_are_the_same():
    script = "pretrained_torchvision.py"
    found = report(run(script, plan=Plan(weights=False, fake=True)), script)
    warnings = {f.code for f in found.findings if f.severity.name != "INFO"}
    assert warnings == {"FC301", "FC401"}


@linux
@pytest.mark.slow
def test_a_checkpoint_of_the_run_itself_is_read_back(tmp_path):
    """What a run that is cut short keeps aside is there for it, and is no weights left out."""
    script = tmp_path / "phases.py"
    script.write_text(
        "import torch, torchvision\n"
        "model = torchvision.models.resnet18(weights='DEFAULT')\n"
        "model.requires_grad_(False)\n"
        "model.fc = torch.nn.Linear(512, 5)\n"
        "optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01)\n"
        "model.eval()\n"
        "for step in range(4):\n"
        "    if step == 2:\n"
        "        model.load_state_dict(torch.load('best.pth'))\n"
        "        model.layer4.requires_grad_(True)\n"
        "    optimizer.zero_grad()\n"
        "    model(torch.randn(2, 3, 32, 32)).sum().backward()\n"
        "    optimizer.step()\n"
        "    torch.save(model.state_dict(), 'best.pth')\n"
    )
    plan = Plan(steps=None, batches=2, weights=False)
    result = run(str(script), plan=plan)
    assert result.outcome == "inspected", result.hint
    assert result.weights_left_out == ["resnet18-f37072fd.pth"]
    assert "FC201" in {f.code for f in report(result, str(script)).findings}
    assert not (tmp_path / "best.pth").exists()


@linux
@pytest.mark.slow
def test_nothing_left_out_nothing_kept_back(tmp_path):
    script = tmp_path / "random.py"
    script.write_text(
        "import torch, torchvision\n"
        "model = torchvision.models.resnet18()\n"
        "model.requires_grad_(False)\n"
        "model.fc = torch.nn.Linear(512, 5)\n"
        "optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01)\n"
        "model.eval()\n"
        "model(torch.randn(2, 3, 32, 32)).sum().backward()\n"
        "optimizer.step()\n"
    )
    found = report(run(script), str(script))
    assert [f.code for f in found.findings] == ["FC119"]
    assert found.left_out == ()


@linux
@pytest.mark.slow
def test_what_the_text_shows_is_not_contradicted(tmp_path):
    """One model is random on purpose of nobody; the weights of another one are left out."""
    script = tmp_path / "both.py"
    script.write_text(
        "import torch, torchvision\n"
        "teacher = torchvision.models.resnet18(weights='DEFAULT')\n"
        "model = torchvision.models.resnet18()\n"
        "for p in model.parameters():\n"
        "    p.requires_grad = False\n"
        "model.fc = torch.nn.Linear(512, 5)\n"
        "optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01)\n"
        "model.eval()\n"
        "model(torch.randn(2, 3, 32, 32)).sum().backward()\n"
        "optimizer.step()\n"
    )
    found = report(run(script), str(script))
    assert [f.code for f in found.findings] == ["FC119"]
    assert found.findings[0].site.line == 5
    assert any("resnet18-f37072fd.pth" in line for line in found.left_out)


# -- where weights cannot be had ------------------------------------------------------


def hint(script: str, *args: Any, **options: Any) -> str:
    result = run(script, *args, **options)
    assert result.outcome == "crashed"
    assert "\n" not in result.hint
    return result.hint


@linux
def test_a_failed_download_names_the_option():
    said = hint("pretrained_torchvision.py", plan=Plan(), show_output=True)
    assert "weights could not be loaded; --no-weights goes on without them" in said
    assert "urlopen error" in said


@linux
@pytest.mark.slow
def test_a_missing_checkpoint_names_the_option(tmp_path):
    said = hint("pretrained_file.py", tmp_path / "last.pth", plan=Plan())
    assert f"{tmp_path / 'last.pth'} is not there; --no-weights goes on without it." in said


@linux
@pytest.mark.slow
@needs("transformers")
def test_a_model_of_the_hub_whose_configuration_is_not_here():
    said = hint("pretrained_transformers.py", "google-bert/bert-base-uncased")
    assert "could not be fetched (--no-weights leaves out weights alone): " in said


@linux
@pytest.mark.slow
def test_a_script_that_wants_more_than_to_load_is_told_apart(tmp_path):
    script = tmp_path / "whole.py"
    script.write_text("import torch\nmodel = torch.load('model.pt')\nmodel.parameters()\n")
    assert "may want more of what --no-weights left out than to load it: model.pt." in hint(script)


def caught(function, *args):
    with pytest.raises(Exception) as caught:
        function(*args)
    return downloads.unavailable(caught.value)


def test_errors_about_other_things_are_not_about_weights(tmp_path):
    assert caught(torch.load, tmp_path / "x.pth") == ("file", str(tmp_path / "x.pth"))
    assert caught(open, tmp_path / "labels.csv") is None
    assert caught(torch.zeros(2).view, 3) is None

    def data():
        torchvision.datasets.MNIST(tmp_path, download=True)

    assert caught(data) is None


def fetch(rank: int) -> None:
    torch.hub.load_state_dict_from_url("https://nowhere.invalid/a.pth")


@pytest.mark.slow
def test_an_error_of_a_process_that_was_spawned():
    kind, text = caught(torch.multiprocessing.spawn, fetch)
    assert kind == "weights"
    assert "urlopen error" in text


def test_an_error_in_a_loop_of_causes_ends():
    one, other = ValueError("one"), KeyError("other")
    one.__cause__, other.__cause__ = other, one
    assert downloads.unavailable(one) is None


def test_the_option_on_the_command_line(tmp_path):
    script = str(SCRIPTS / "pretrained_torchvision.py")
    done = subprocess.run(
        [sys.executable, "-m", "freezecheck", "inspect", "--no-weights", script],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=os.environ,
    )
    assert done.returncode == 1
    said = " ".join(done.stdout.split())
    assert "weights were left out (--no-weights): resnet18-f37072fd.pth; FC119 and" in said
    assert done.stderr == ""


@linux
@pytest.mark.slow
def test_a_function_that_builds_without_weights_is_told_of_the_option(tmp_path):
    script = tmp_path / "build.py"
    script.write_text(
        "import torchvision\n\ndef build():\n    return torchvision.models.resnet18(weights='DEFAULT')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "freezecheck", "inspect", f"{script}::build"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 2
    assert "--no-weights goes on without them" in done.stderr
    assert "Traceback" not in done.stderr.splitlines()[0]


if __name__ == "__main__":
    models = {"timm": of_timm, "transformers": of_transformers, "peft": of_peft}
    with option() as so_far:
        models[sys.argv[1]](so_far, Path(sys.argv[2]))
