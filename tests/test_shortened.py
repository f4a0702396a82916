"""Passes through loaders, cut to a few batches: what is fetched, how long they say they are."""

from __future__ import annotations

import multiprocessing

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)

from freezecheck.live import shortened
from freezecheck.live.patches import Patches

K = 3


class Counting(Dataset):
    """Counts the items that are fetched, in whichever process."""

    def __init__(self, length: int = 100) -> None:
        self.length = length
        self.fetched = multiprocessing.Value("i", 0)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        with self.fetched.get_lock():
            self.fetched.value += 1
        return torch.tensor(index)


class Stream(IterableDataset):
    """Counts too; has no length."""

    def __init__(self) -> None:
        self.fetched = multiprocessing.Value("i", 0)

    def __iter__(self):
        for index in range(100):
            with self.fetched.get_lock():
                self.fetched.value += 1
            yield torch.tensor(index)


@pytest.fixture
def notes():
    """What is told while loaders are cut to K batches."""
    told: list[tuple[str, str]] = []
    patches = Patches()
    shortened.install(patches, K, lambda *words: told.append(words))
    yield told
    patches.undo()


def step(times: int = 1, optimizer=None) -> None:
    parameter = torch.nn.Parameter(torch.ones(()))
    parameter.grad = torch.ones(())
    optimizer = optimizer or torch.optim.SGD([parameter], lr=0.1)
    for _ in range(times):
        optimizer.step()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shuffle": True},
        {"num_workers": 2},
        {"num_workers": 2, "persistent_workers": True},
        {"num_workers": 1, "prefetch_factor": 7},
    ],
)
def test_nothing_that_nobody_gets_is_fetched(notes, options):
    data = Counting()
    loader = DataLoader(data, batch_size=4, **options)
    assert len(loader) == K
    for epoch in range(1, 5):
        batches = list(loader)
        assert [len(batch) for batch in batches] == [4] * K
        assert data.fetched.value == epoch * K * 4


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_is_cut_too(notes, workers):
    data = Stream()
    loader = DataLoader(data, batch_size=4, num_workers=workers)
    with pytest.raises(TypeError):
        len(loader)
    for epoch in range(1, 4):
        assert len(list(loader)) == K
        assert data.fetched.value == epoch * K * 4


def test_what_was_shorter_stays_as_it_was(notes):
    loader = DataLoader(Counting(5), batch_size=4)
    assert len(loader) == len(iter(loader)) == len(list(loader)) == 2
    assert list(DataLoader([], batch_size=4)) == []


def test_samplers_of_every_kind(notes):
    data = Counting(40)
    by_batches = BatchSampler(RandomSampler(data), 4, drop_last=True)
    spread = DistributedSampler(data, num_replicas=2, rank=1)
    for options in (
        {"batch_sampler": by_batches},
        {"sampler": spread, "batch_size": 4},
        {"sampler": SequentialSampler(data), "batch_size": None},
    ):
        loader = DataLoader(data, **options)
        assert len(loader) == len(list(loader)) == len(list(loader)) == K
    assert len(by_batches) == 10  # the user's own object is as it was


def test_a_loader_left_in_the_middle_begins_anew(notes):
    loader = DataLoader(Counting(), batch_size=4)
    for _ in range(3):
        next(iter(loader))
    assert len(list(loader)) == K


def test_two_passes_at_a_time_do_not_share_their_batches(notes):
    loader = DataLoader(Counting(), batch_size=4)
    assert len(list(zip(loader, loader))) == K


class Endless(DataLoader):
    """As timm's MultiEpochsDataLoader: one iterator of torch's for all epochs."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        object.__setattr__(self, "batch_sampler", Repeated(self.batch_sampler))
        self.iterator = super().__iter__()

    def __len__(self) -> int:
        return len(self.batch_sampler.sampler)

    def __iter__(self):
        for _ in range(len(self)):
            yield next(self.iterator)


class Repeated:
    def __init__(self, sampler) -> None:
        self.sampler = sampler

    def __iter__(self):
        while True:
            yield from self.sampler


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_with_one_iterator_for_all_epochs(notes, workers):
    class Mine(Endless):
        """Made after the patch, as the classes of scripts are."""

    for kind in (Endless, Mine):
        loader = kind(Counting(), batch_size=4, num_workers=workers)
        assert len(loader) == K
        firsts = [[int(batch[0]) for batch in loader] for _ in range(4)]
        assert firsts == [[0, 4, 8], [12, 16, 20], [24, 28, 32], [36, 40, 44]]


def test_loaders_with_a_loop_of_their_own_come_to_its_end(notes):
    ends = []

    class Doubled(DataLoader):
        def __iter__(self):
            for batch in super().__iter__():
                yield batch * 2
            ends.append(True)

    data = Counting()
    loader = Doubled(data, batch_size=4)
    for epoch in range(1, 4):
        assert len(list(loader)) == len(loader) == K
        assert data.fetched.value == epoch * K * 4
        assert len(ends) == epoch


def test_loaders_that_make_their_own_batches(notes):
    class Own(DataLoader):
        def __len__(self):
            return 50

        def __iter__(self):
            return iter(range(50))

    loader = Own(Counting())
    assert len(loader) == K
    assert list(loader) == list(loader) == [0, 1, 2]


def test_loaders_that_are_hardly_loaders(notes):
    class Odd(DataLoader):
        def __init__(self):  # without torch's own
            self.batches = range(50)

        def __eq__(self, other):
            return False

        def __len__(self):
            return len(self.batches)

        def __iter__(self):
            return iter(self.batches)

    loader = Odd()
    assert list(loader) == list(loader) == [0, 1, 2]
    assert len(loader) == K


def test_accelerate(notes):
    data_loader = pytest.importorskip("accelerate.data_loader")
    data = Counting()
    for dispatch in (False, True):
        loader = data_loader.prepare_data_loader(
            DataLoader(data, batch_size=4),
            device=torch.device("cpu"),
            put_on_device=True,
            dispatch_batches=dispatch,
        )
        assert type(loader).__name__ == ("DataLoaderDispatcher" if dispatch else "DataLoaderShard")
        for _ in range(2):
            data.fetched.value = 0
            assert len(list(loader)) == len(loader) == K
            assert data.fetched.value == K * 4
        assert loader.iteration == 2  # it came to its own end
        assert len(list(data_loader.skip_first_batches(loader, 1))) in (K - 1, K)


@pytest.mark.parametrize("workers", [0, 2])
def test_torchdata(notes, workers):
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    data = Counting()
    loader = stateful.StatefulDataLoader(data, batch_size=4, num_workers=workers)
    for epoch in range(1, 4):
        assert len(list(loader)) == len(loader) == K
        assert data.fetched.value == epoch * K * 4


def test_everything_is_put_back():
    before = {name: vars(DataLoader).get(name) for name in ("__iter__", "__len__")}
    patches = Patches()
    shortened.install(patches, K, lambda *words: None)
    patches.undo()
    assert {name: vars(DataLoader).get(name) for name in before} == before
    assert "__init_subclass__" not in vars(DataLoader)
    loader = DataLoader(Counting(), batch_size=4)
    assert len(loader) == len(list(loader)) == 25
    assert shortened.epoch() is None


# -- epochs --------------------------------------------------------------------


def test_the_epoch_is_that_of_the_loader_that_trains(notes):
    train, valid = DataLoader(Counting()), DataLoader(Counting())
    assert shortened.epoch() is None
    list(train)  # a look at the data
    seen = []
    for _ in range(4):
        for _ in train:
            step()
            seen.append(shortened.epoch())
        for _ in range(2):
            list(valid)
    assert seen == [2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5]
    assert notes == [("epoch", "2"), ("epoch", "3"), ("epoch", "4"), ("epoch", "5")]


def test_a_loader_built_anew_for_each_epoch_goes_on_counting(notes):
    data, other = Counting(), Counting()
    for _ in range(3):
        for _ in DataLoader(data):
            step()
        for _ in DataLoader(other):
            pass
    assert shortened.epoch() == 3


def test_loaders_of_one_data_set_at_one_place_are_told_apart(notes):
    data = Counting()
    train, valid = DataLoader(data), DataLoader(data)
    for _ in range(3):
        for loader, trains in ((train, True), (valid, False)):
            for _ in loader:
                step(int(trains))
    assert shortened.epoch() == 3


def test_the_loader_with_most_steps_counts(notes):
    warm, train = DataLoader(Counting()), DataLoader(Counting())
    for _ in range(2):
        for _ in warm:
            step()
    for _ in range(5):
        for _ in train:
            step()
    assert shortened.epoch() == 5


# -- what cannot be cut ----------------------------------------------------------


def test_training_without_a_loader_is_told(notes):
    step(K)
    assert notes == []
    step(5)
    ((word, text),) = notes
    assert (word, text) == ("uncut", "the batches come from no DataLoader: nothing was cut")


def test_epochs_too_short_for_a_step_are_told(notes):
    loader = DataLoader(Counting())
    for _ in range(4):
        list(loader)
    ((word, text),) = notes
    assert word == "short"
    assert text.startswith("epochs of 3 batches led to no optimizer step")


def test_a_look_at_the_data_is_no_short_epoch(notes):
    loader = DataLoader(Counting())
    list(loader)
    for _ in range(3):
        for _ in loader:
            step()
    assert [word for word, _ in notes] == ["epoch"] * 3


# -- frameworks -----------------------------------------------------------------------


def test_transformers_trainer_counts_its_steps_by_the_cut_loader(notes, tmp_path):
    transformers = pytest.importorskip("transformers")

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(4, 2)

        def forward(self, x, labels):
            logits = self.fc(x)
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    rows = [{"x": torch.randn(4), "labels": i % 2} for i in range(64)]
    trainer = transformers.Trainer(
        Net(),
        transformers.TrainingArguments(
            str(tmp_path),
            num_train_epochs=5,
            per_device_train_batch_size=4,
            report_to=[],
            eval_strategy="epoch",
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=rows,
        eval_dataset=rows,
    )
    trainer.train()
    assert trainer.state.max_steps == trainer.state.global_step == 5 * K
    assert shortened.epoch() == 5


@pytest.mark.parametrize("every", [1.0, 10])
def test_lightning_counts_its_batches_by_the_cut_loader(notes, tmp_path, every):
    lightning = pytest.importorskip("lightning")

    class Lit(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(4, 2)
            self.validated = 0

        def training_step(self, batch, _):
            return self.fc(batch[0]).square().mean()

        def validation_step(self, batch, _):
            self.validated += 1

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    data = TensorDataset(torch.randn(64, 4))
    model = Lit()
    trainer = lightning.Trainer(
        max_epochs=4,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        val_check_interval=every,  # 10 of 16 batches; Lightning refuses 10 of 3
        default_root_dir=tmp_path,
    )
    trainer.fit(model, DataLoader(data, batch_size=4), DataLoader(data, batch_size=4))
    assert trainer.global_step == 4 * K
    assert model.validated == 4 * K
    assert shortened.epoch() == 4
