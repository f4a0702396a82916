"""A watched run: told at the step since which something is wrong, and otherwise as if alone."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import pytest
import torch
from torch import nn

import freezecheck
from freezecheck.live.patches import Patches


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)
    )


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int = 6,
    before: Callable[[int], None] = lambda step: None,
) -> None:
    for step in range(1, steps + 1):
        before(step)
        optimizer.zero_grad()
        x, y = torch.randn(16, 4), torch.randint(0, 3, (16,))
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def late_unfreeze() -> tuple[nn.Module, torch.optim.Optimizer, Callable[[int], None]]:
    """layer 0 is unfrozen before step 4, and in no optimizer."""
    model = network()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)

    def before(step: int) -> None:
        if step == 4:
            model[0].requires_grad_(True)

    return model, optimizer, before


def test_a_finding_is_told_at_the_step_since_which_it_is_so():
    model, optimizer, before = late_unfreeze()
    told: list[tuple[int, freezecheck.Finding]] = []
    at = [0]

    def note(step: int) -> None:
        at[0] = step
        before(step)

    watch = freezecheck.watch(
        model, optimizer, on_finding=lambda f: told.append((at[0], f)), ignore=["FC119"]
    )
    with watch:
        train(model, optimizer, before=note)
    assert [(step, f.code, f.step) for step, f in told] == [(4, "FC201", 4)]
    assert [f.code for f in watch.findings if f.severity > freezecheck.Severity.INFO] == ["FC201"]
    chapters = [(c.first, c.last) for c in watch.report.story]
    assert chapters == [(1, 3), (4, 6)]
    assert "in no optimizer" in str(watch.report)


def test_findings_as_warnings_log_lines_and_exceptions(caplog):
    model, optimizer, before = late_unfreeze()
    with (
        pytest.warns(freezecheck.SetupWarning, match=r"FC201 .* \(from step 4 on\)") as seen,
        freezecheck.watch(model, optimizer, ignore=["FC119"]),
    ):
        train(model, optimizer, before=before)
    assert [w.filename for w in seen] == [__file__]

    model, optimizer, before = late_unfreeze()
    with (
        caplog.at_level(logging.INFO, "freezecheck"),
        freezecheck.watch(model, optimizer, on_finding="log", ignore=["FC119"]),
    ):
        train(model, optimizer, before=before)
    (record,) = caplog.records
    assert "FC201" in record.getMessage()


def test_stop_on_ends_the_run_within_the_step():
    model, optimizer, before = late_unfreeze()
    steps: list[int] = []

    def note(step: int) -> None:
        steps.append(step)
        before(step)

    watch = freezecheck.watch(
        model, optimizer, on_finding=lambda f: None, stop_on="warning", ignore=["FC119"]
    )
    with pytest.raises(freezecheck.SetupError, match="FC201"), watch:
        train(model, optimizer, before=note)
    assert steps == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad])
def test_the_run_is_bit_for_bit_the_same(kind):
    def result(watched: bool) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        model = network()
        model[0].requires_grad_(False)
        optimizer = kind([p for p in model.parameters() if p.requires_grad], lr=0.1)

        def before(step: int) -> None:
            if step == 3:
                model[0].requires_grad_(True)
                optimizer.add_param_group({"params": model[0].parameters()})

        if watched:
            with freezecheck.watch(model, optimizer, on_finding=lambda f: None):
                train(model, optimizer, before=before)
        else:
            train(model, optimizer, before=before)
        return copy.deepcopy(model.state_dict()), torch.get_rng_state()

    (plain, random), (watched, random_too) = result(False), result(True)
    assert torch.equal(random, random_too)
    for name, tensor in plain.items():
        assert torch.equal(
            tensor.view(-1).view(torch.uint8), watched[name].view(-1).view(torch.uint8)
        )


def test_other_models_are_none_of_its_business():
    model, other = network(), nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with freezecheck.watch(model, optimizer, on_finding=lambda f: None) as watch:
        train(model, optimizer, 2)
        strange = torch.optim.SGD(other.parameters(), lr=0.1)
        other(torch.ones(1, 2)).sum().backward()
        strange.step()
        train(model, optimizer, 2)
    (phase,) = watch.report.phases
    assert (phase.first, phase.last) == (1, 4)
    assert [m.label for m in phase.snapshot.models] == ["model"]
    assert len(phase.snapshot.optimizers) == 1


def test_an_optimizer_that_is_built_later_is_watched_too():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with freezecheck.watch(model, optimizer, on_finding=lambda f: None) as watch:
        train(model, optimizer, 2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        train(model, optimizer, 2)
    assert [(p.first, p.last) for p in watch.report.phases] == [(1, 2), (3, 4)]


def test_every_looks_at_each_nth_step_only():
    model, optimizer, before = late_unfreeze()
    with freezecheck.watch(
        model, optimizer, every=5, on_finding=lambda f: None, ignore=["FC119"]
    ) as watch:
        train(model, optimizer, 8, before)
    assert [p.first for p in watch.report.phases] == [1, 5]


def test_nothing_is_left_behind():
    from torch.optim.optimizer import _global_optimizer_pre_hooks

    model, optimizer, _ = late_unfreeze()
    hooks = len(_global_optimizer_pre_hooks)
    before = (nn.Module.train, nn.Module.load_state_dict, torch.optim.Optimizer.add_param_group)
    watch = freezecheck.watch(model, optimizer)
    watch.start().start()
    assert nn.Module.train is not before[0]
    watch.stop()
    watch.stop()
    assert len(_global_optimizer_pre_hooks) == hooks
    after = (nn.Module.train, nn.Module.load_state_dict, torch.optim.Optimizer.add_param_group)
    assert after == before
    assert "requires_grad" not in vars(nn.Parameter)


def test_two_watches_may_end_in_any_order():
    models = [network(), network()]
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in models]
    first, second = (
        freezecheck.watch(m, o, on_finding=lambda f: None).start()
        for m, o in zip(models, optimizers)
    )
    train(models[0], optimizers[0], 2)
    first.stop()
    train(models[0], optimizers[0], 2)
    train(models[1], optimizers[1], 3)
    second.stop()
    assert [(p.first, p.last) for p in first.report.phases] == [(1, 2)]
    assert [(p.first, p.last) for p in second.report.phases] == [(1, 3)]
    models[0].train()


def test_a_mistake_of_ours_ends_the_watch_and_not_the_run(caplog):
    model, optimizer, _ = late_unfreeze()

    class Broken:
        code, name, explains = "FC201", "broken", ()

        def in_timeline(self, past):
            raise ZeroDivisionError

    watch = freezecheck.watch(model, optimizer)
    watch._rules = (Broken(),)
    with caplog.at_level(logging.WARNING, "freezecheck"), watch:
        train(model, optimizer)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"every": 0}, "every must be at least 1"),
        ({"on_finding": "shout"}, "on_finding must be"),
        ({"stop_on": "sometimes"}, "sometimes"),
        ({"select": ["FC999"]}, "FC999"),
    ],
)
def test_bad_options_are_named(options, text):
    model, optimizer, _ = late_unfreeze()
    with pytest.raises(ValueError, match=text):
        freezecheck.watch(model, optimizer, **options)


def test_things_that_are_no_model_are_named():
    with pytest.raises(TypeError, match="needs a model"):
        freezecheck.watch([], None)


def test_a_closure_and_accumulation_are_watched():
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(4, 4)).square().sum()
        loss.backward()
        return loss

    with freezecheck.watch(model, optimizer, on_finding=lambda f: None) as watch:
        for step in range(4):
            if step == 2:
                model[0].requires_grad_(False)
            optimizer.step(closure)
    assert [(p.first, p.last) for p in watch.report.phases] == [(1, 2), (3, 4)]
    assert watch.report.snapshot.optimizers[0].closure


def test_patches_undone_out_of_order_pass_calls_through():
    class Owner:
        @staticmethod
        def call() -> list[str]:
            return []

    def adding(word: str) -> Callable[..., list[str]]:
        return lambda original: [*original(), word]

    first, second = Patches(), Patches()
    first.around(Owner, "call", adding("first"))
    second.around(Owner, "call", adding("second"))
    assert Owner.call() == ["first", "second"]
    first.undo()
    assert Owner.call() == ["second"]
    second.undo()
    assert Owner.call() == []
