"""Checkpoints kept aside: the script finds what it saved, and the user's files are untouched."""

from __future__ import annotations

import glob
import hashlib
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from freezecheck.live import diverted
from freezecheck.live.patches import Patches


@pytest.fixture
def notes(tmp_path, monkeypatch):
    """In a folder with a checkpoint and a text of the user's, which must stay as they are."""
    home = tmp_path / "project"
    home.mkdir()
    monkeypatch.chdir(home)
    torch.save({"w": "the user's"}, "old.pt")
    Path("notes.txt").write_text("the user's")
    before = tree(home)
    told: list[tuple[str, str]] = []
    patches = Patches()
    diverted.install(patches, str(tmp_path / "aside"), lambda *words: told.append(words))
    yield told
    patches.undo()
    after = tree(home)
    assert {path: after.get(path) for path in before} == before
    left = [path for path in after if path not in before and path.endswith((".pt", ".ckpt"))]
    assert left == []


def tree(folder: Path) -> dict[str, str]:
    """Every file below, with its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha1(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def untouched(notes):
    """Not a single file or folder may appear."""
    before = raw_names(".")
    yield notes
    assert raw_names(".") == before


def raw_names(folder: str) -> list[str]:
    """By a process of its own, which sees what is really there."""
    import subprocess

    return subprocess.check_output(["find", folder], text=True).split("\n")


def test_what_is_saved_is_loaded_from_where_it_was_meant_to_be(untouched):
    for path in ("best.pt", Path("last.pt"), os.path.abspath("deep.pth.tar")):
        assert not os.path.exists(path)
        torch.save({"w": torch.ones(2)}, path)
        assert torch.load(path)["w"].tolist() == [1, 1]
        assert os.path.exists(path)
        assert Path(path).is_file()
        assert os.path.getsize(path) > 100
        with open(path, "rb") as file:
            assert torch.load(file)["w"].tolist() == [1, 1]
        assert torch.load(path, mmap=True)["w"].tolist() == [1, 1]
    assert untouched == [("aside", "best.pt")]


def test_the_users_files_are_read_until_they_are_written(untouched):
    assert torch.load("old.pt") == {"w": "the user's"}
    torch.save({"w": "ours"}, "old.pt")
    assert torch.load("old.pt") == {"w": "ours"}


def test_old_ways_of_saving(untouched):
    torch.save([1], "legacy.pt", _use_new_zipfile_serialization=False)
    assert torch.load("legacy.pt") == [1]
    torch.save(obj=[2], f="named.pt")
    assert torch.load(f="named.pt") == [2]
    module = torch.jit.script(torch.nn.Linear(2, 1))
    torch.jit.save(module, "script.pt")
    assert torch.jit.load("script.pt")(torch.ones(1, 2)).shape == (1, 1)


def test_open_files_that_end_as_checkpoints_do(untouched):
    import numpy

    with open("model.pkl", "wb") as file:
        pickle.dump({"a": 1}, file)
    with open(file="state.pt", mode="wb") as file:
        torch.save([1], file)
    numpy.save("predictions.npy", numpy.arange(3))
    numpy.savez("more.npz", a=numpy.arange(2))
    assert pickle.loads(Path("model.pkl").read_bytes()) == {"a": 1}
    assert torch.load("state.pt") == [1]
    assert numpy.load("predictions.npy").tolist() == [0, 1, 2]
    assert numpy.load("more.npz")["a"].tolist() == [0, 1]
    assert numpy.load("predictions.npy", mmap_mode="r").tolist() == [0, 1, 2]


def test_other_files_are_written_as_ever(notes):
    Path("log.csv").write_text("loss\n1\n")
    os.makedirs("runs/1")
    with open("runs/1/results.json", "w") as file:
        file.write("{}")
    Path("runs/1/results.json").rename("runs/1/final.json")
    assert "./runs/1/final.json" in raw_names(".")
    shutil.rmtree("runs")
    os.remove("log.csv")
    assert not {"./runs", "./log.csv"} & set(raw_names("."))
    assert notes == []


def test_listings_show_both(untouched):
    torch.save(1, "a.pt")
    torch.save(1, "b.pt")
    every = ["a.pt", "b.pt", "old.pt"]
    assert sorted(glob.glob("*.pt")) == every
    assert sorted(glob.glob(os.path.abspath("*.pt"))) == [os.path.abspath(p) for p in every]
    assert sorted(str(p) for p in Path().glob("*.pt")) == every
    assert sorted(p.name for p in Path().iterdir()) == sorted([*every, "notes.txt"])
    assert sorted(os.listdir()) == sorted(os.listdir(".")) == sorted([*every, "notes.txt"])
    assert sorted(next(os.walk("."))[2]) == sorted([*every, "notes.txt"])
    with os.scandir(os.getcwd()) as found:
        paths = {entry.name: entry.path for entry in found if entry.is_file()}
    assert paths["a.pt"] == os.path.abspath("a.pt")
    assert os.listdir(b".") == [name.encode() for name in sorted([*every, "notes.txt"])]


def test_the_best_is_copied_renamed_linked_and_removed(untouched):
    torch.save("1", "checkpoint.pth.tar")
    shutil.copyfile("checkpoint.pth.tar", "model_best.pth.tar")
    shutil.copy2("checkpoint.pth.tar", "copy")
    assert torch.load("model_best.pth.tar") == torch.load("copy") == "1"
    torch.save("2", "tmp.pt")
    os.replace("tmp.pt", "last.pt")
    assert not os.path.exists("tmp.pt")
    os.link("last.pt", "linked.pt")
    os.symlink("last.pt", "soft.pt")
    assert torch.load("linked.pt") == torch.load("soft.pt") == "2"
    assert os.path.islink("soft.pt")
    shutil.move("last.pt", "moved.pt")
    assert torch.load("moved.pt") == "2"
    os.remove("moved.pt")
    Path("linked.pt").unlink()
    with pytest.raises(FileNotFoundError):
        os.remove("moved.pt")
    with pytest.raises(FileNotFoundError):
        torch.load("moved.pt")
    assert sorted(glob.glob("*.pt")) == ["old.pt", "soft.pt"]


def test_a_users_file_that_is_removed_is_gone_for_the_script_alone(untouched):
    os.remove("old.pt")
    assert not os.path.exists("old.pt")
    assert glob.glob("*.pt") == []
    with pytest.raises(FileNotFoundError):
        torch.load("old.pt")
    with pytest.raises(FileNotFoundError):
        os.unlink("old.pt")
    torch.save("ours", "old.pt")
    assert torch.load("old.pt") == "ours"
    assert os.listdir() == ["notes.txt", "old.pt"]


def test_a_users_file_that_is_replaced_stays(notes):
    Path("new.tmp").write_bytes(b"new")
    os.replace("new.tmp", "old.pt")
    assert Path("old.pt").read_bytes() == b"new"
    assert not os.path.exists("new.tmp")
    os.rename("old.pt", "older.pt")
    assert Path("older.pt").read_bytes() == b"new"
    assert glob.glob("*.pt") == ["older.pt"]
    assert "./new.tmp" not in raw_names(".")


def test_where_nothing_could_be_saved_nothing_can(untouched):
    with pytest.raises(RuntimeError, match="nowhere"):
        torch.save(1, "nowhere/best.pt")
    with pytest.raises(FileNotFoundError):
        Path("nowhere/model.pkl").write_bytes(b"")
    with pytest.raises(IsADirectoryError):
        os.remove(".")


def test_links_to_folders_lead_to_the_same_file(notes, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", "out")
    torch.save(1, "out/a.pt")
    assert torch.load(tmp_path / "elsewhere" / "a.pt") == 1
    assert os.path.exists(os.path.realpath("out/a.pt"))
    assert raw_names(str(tmp_path / "elsewhere")) == [str(tmp_path / "elsewhere"), ""]


def test_the_files_are_the_same_in_another_process(untouched, tmp_path):
    torch.save(1, "a.pt")
    other = Patches()
    diverted.install(other, str(tmp_path / "aside"), lambda *words: None)
    try:
        torch.save(2, "b.pt")
    finally:
        other.undo()
    assert torch.load("b.pt") == 2


def test_everything_is_put_back(tmp_path):
    import builtins
    import io

    names = ["stat", "open", "listdir", "scandir", "rename", "remove", "mkdir"]
    before = [getattr(os, name) for name in names]
    before += [open, io.open, torch.save, torch.load, shutil.rmtree]
    patches = Patches()
    diverted.install(patches, str(tmp_path), lambda *words: None)
    assert builtins.open is io.open is not before[len(names)]
    patches.undo()
    after = [getattr(os, name) for name in names]
    after += [open, io.open, torch.save, torch.load, shutil.rmtree]
    assert after == before


# -- libraries ------------------------------------------------------------------------


def test_safetensors(untouched):
    pytest.importorskip("safetensors")
    from safetensors.torch import load_file, load_model, save_file, save_model

    save_file({"w": torch.ones(2)}, "model.safetensors")
    assert load_file("model.safetensors")["w"].tolist() == [1, 1]
    layer = torch.nn.Linear(2, 1)
    save_model(layer, "layer.safetensors")
    load_model(torch.nn.Linear(2, 1), "layer.safetensors")


def test_a_model_and_its_tokenizer(untouched):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[UNK]": 0, "a": 1, "b": 2}
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]")
    config = transformers.BertConfig(
        vocab_size=3, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    model = transformers.BertForSequenceClassification(config)
    model.save_pretrained("out/final")
    tokenizer.save_pretrained("out/final")
    again = transformers.AutoModelForSequenceClassification.from_pretrained("out/final")
    assert torch.equal(again.classifier.weight, model.classifier.weight)
    assert transformers.AutoTokenizer.from_pretrained("out/final")("a b")["input_ids"]
    assert sorted(os.listdir("out/final"))[0] == "config.json"
    shutil.rmtree("out")
    assert not os.path.exists("out")


@pytest.mark.slow
def test_transformers_trainer_rotates_and_loads_its_best(notes):
    transformers = pytest.importorskip("transformers")

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(4, 2)

        def forward(self, x, labels):
            logits = self.fc(x)
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    os.makedirs("out/checkpoint-1")
    Path("out/checkpoint-1/pytorch_model.bin").write_text("the user's")
    rows = [{"x": torch.randn(4), "labels": i % 2} for i in range(8)]
    trainer = transformers.Trainer(
        Net(),
        transformers.TrainingArguments(
            "out",
            num_train_epochs=3,
            per_device_train_batch_size=4,
            report_to=[],
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=True,
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=rows,
        eval_dataset=rows,
    )
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert os.path.isdir(best)
    trainer.save_model("out/final")
    assert os.path.isfile("out/final/model.safetensors")
    assert not os.path.exists("out/checkpoint-1")  # as the Trainer would have it
    assert [name for name in raw_names("out") if name] == [
        "out",
        "out/checkpoint-1",
        "out/checkpoint-1/pytorch_model.bin",
    ]


@pytest.mark.slow
def test_lightning_saves_its_best_and_last(notes):
    lightning = pytest.importorskip("lightning")
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Lit(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(4, 2)

        def training_step(self, batch, _):
            loss = self.fc(batch[0]).square().mean()
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    data = torch.utils.data.TensorDataset(torch.randn(8, 4))
    saver = ModelCheckpoint("models", monitor="loss", save_top_k=2, save_last="link")
    trainer = lightning.Trainer(
        max_epochs=4,
        accelerator="cpu",
        logger=False,
        callbacks=[saver],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Lit(), torch.utils.data.DataLoader(data))
    assert sorted(p.suffix for p in Path("models").iterdir()) == [".ckpt"] * 3
    state = torch.load(saver.best_model_path, weights_only=False)
    assert "state_dict" in state
    Lit.load_from_checkpoint("models/last.ckpt")
    trainer.fit(Lit(), torch.utils.data.DataLoader(data), ckpt_path="models/last.ckpt")
    assert not [name for name in raw_names(".") if name.endswith(".ckpt")]


@pytest.mark.slow
def test_accelerate_saves_and_loads_its_state(untouched):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = accelerator.prepare(model, optimizer)
    accelerator.save_state("state")
    weight = model.weight.clone()
    with torch.no_grad():
        model.weight.zero_()
    accelerator.load_state("state")
    assert torch.equal(model.weight, weight)
    accelerator.save_model(model, "weights")
    assert os.path.isfile("weights/model.safetensors")
