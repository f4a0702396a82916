"""Losses and predictions of a run: what is told of them, and what is not."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import freezecheck
from freezecheck.plain import decode, encode
from freezecheck.trace import COLLAPSED, EXPLODED, NOT_FINITE, Pool, Trace

Step = Callable[[int], torch.Tensor]


def quiet(finding: freezecheck.Finding) -> None:
    pass


def codes(watch: freezecheck.Watch) -> list[str]:
    return [f.code for f in watch.findings if f.code.startswith("FC6")]


def told(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: Step, steps: int = 100
) -> list[str]:
    """What is found while `loss(step)` is trained on."""
    with freezecheck.watch(model, optimizer, on_finding=quiet) as watch:
        for step in range(steps):
            optimizer.zero_grad()
            loss(step).backward()
            optimizer.step()
    return codes(watch)


@pytest.fixture(autouse=True)
def _no_problem_of_ours(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert "freezecheck failed" not in caplog.text


def perceptron(out: int, inputs: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, out))


def separable(number: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples of four classes that a small network can tell apart."""
    x = torch.randn(number, 8)
    return x, x[:, :4].argmax(1)


# -- verdicts, from plain data ----------------------------------------------------

HEALTHY = Trace(step=100, seen=100, finite=100, start=1.6, recent=(0.2,) * 20, level=1.39, peak=1.6)
UNTRAINED = Pool(80, 256, 4, 1, share=1.0, z=0.1, spread=0.2, scale=1.0)
LEARNT = replace(UNTRAINED, share=0.95, z=9.0)


@pytest.mark.parametrize(
    ("trace", "verdict"),
    [
        (HEALTHY, ""),
        (replace(HEALTHY, finite=97, lost=3), NOT_FINITE),
        (replace(HEALTHY, finite=98, lost=2), ""),
        (replace(HEALTHY, recent=(2.5,) * 20), EXPLODED),
        (replace(HEALTHY, recent=(2.3,) * 20), ""),  # 1.5 times the start is 2.4
        (replace(HEALTHY, recent=(50.0,) * 9 + (0.2,) * 11, peak=50.0), ""),  # a spike
        (replace(HEALTHY, recent=(250.0,) * 20, seen=40), ""),  # early: it may settle
        (replace(HEALTHY, recent=(2.5,) * 20, level=None), ""),
        (replace(HEALTHY, recent=(9.0,) * 10 + (5.0,) * 10), ""),  # it settles
        (replace(HEALTHY, recent=(9.0,) * 10 + (6.0,) * 10), EXPLODED),
        (replace(HEALTHY, recent=(2.5,) * 19 + (-1.0,)), ""),
        (replace(HEALTHY, start=0.01, recent=(1.5,) * 20), ""),  # below ln 4 times 1.5
        # A share alone, even without information, is what an untrained head has.
        (replace(HEALTHY, recent=(1.4,) * 20, width=0.2, pools=(UNTRAINED,) * 2), ""),
        (replace(HEALTHY, width=0.2, informed=True, pools=(LEARNT,) * 2), ""),
        (replace(HEALTHY, peak=9.0, pools=(UNTRAINED,) * 2), COLLAPSED),
        (replace(HEALTHY, peak=9.0, pools=(UNTRAINED,)), ""),
        (replace(HEALTHY, peak=9.0, pools=(UNTRAINED, LEARNT)), ""),
        (replace(HEALTHY, peak=9.0, pools=(replace(UNTRAINED, share=0.8),) * 2), ""),
        (replace(HEALTHY, width=50.0, pools=(UNTRAINED,) * 2), COLLAPSED),
        (replace(HEALTHY, pools=(replace(UNTRAINED, share=0.3, spread=0.0),) * 2), COLLAPSED),
        (
            replace(HEALTHY, informed=True, best=0.1, width=0.2, pools=(UNTRAINED,) * 2),
            COLLAPSED,
        ),
        (replace(HEALTHY, informed=True, best=0.19, width=0.2, pools=(UNTRAINED,) * 2), ""),
    ],
)
def test_verdicts(trace, verdict):
    assert trace.verdict == verdict


def test_a_trace_survives_json():
    trace = replace(HEALTHY, peak=math.inf, pools=(UNTRAINED, LEARNT))
    assert decode(Trace, json.loads(json.dumps(encode(trace), allow_nan=False))) == trace


def test_the_rank_test_has_the_size_that_it_claims():
    """Scores without information pass for informed in one case of twenty; drift hides nothing."""
    from freezecheck.live import ranking

    torch.manual_seed(0)

    def z(signal: float, classes: int, drift: float = 0.0) -> float:
        labels = [torch.randint(0, classes, (32,)) for _ in range(8)]
        scores = [torch.randn(32, classes) + signal * F.one_hot(y, classes) for y in labels]
        moved = [s + drift * torch.randn(classes) for s in scores]
        pool = ranking.pool(1, list(zip(moved, labels)), None, ranked=True)
        assert pool is not None
        assert pool.z is not None
        return pool.z

    for classes in (2, 5):
        chance = torch.tensor([z(0.0, classes) for _ in range(200)])
        assert abs(float(chance.mean())) < 0.25
        assert 0.8 < float(chance.std()) < 1.2
        assert z(1.0, classes, drift=100.0) > 5


# -- runs ---------------------------------------------------------------------------


@cache
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """The digits 5 to 9: images [samples, 1, 8, 8] and classes."""
    load = pytest.importorskip("sklearn.datasets").load_digits()
    images = torch.tensor(load.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(load.target) - 5
    return images[labels >= 0], labels[labels >= 0]


def convolutions() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 5),
    )


def ended(losses: list[float], model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> str:
    """What has become of a run, by its end alone."""
    metrics = pytest.importorskip("sklearn.metrics")
    last = losses[-30:]
    if not all(map(math.isfinite, last)):
        return "FC601"
    if sum(last) / len(last) > 1.5 * max(losses[0], math.log(5)):
        return "FC602"
    with torch.no_grad():
        scores = model(x).softmax(1)
    auc = metrics.roc_auc_score(y, scores, multi_class="ovr", labels=range(5))
    return "FC603" if auc < 0.6 else ""


@pytest.mark.parametrize("majority", [False, True], ids=["balanced", "majority"])
@pytest.mark.parametrize("frozen", [False, True], ids=["full", "head"])
@pytest.mark.parametrize(
    ("kind", "rates"), [("SGD", (0.01, 0.1, 3.0)), ("AdamW", (1e-3, 1e-2, 10.0))]
)
def test_what_is_told_is_what_becomes_of_the_run(kind, rates, frozen, majority):
    x, y = digits()
    if majority:  # nine in ten are of one class
        kept = torch.cat([torch.where(y == 0)[0], torch.where(y != 0)[0][:20]])
        x, y = x[kept], y[kept]
    outcomes = set()
    for rate in (*rates[:-1], rates[-1] * (100 if frozen else 1)):  # a linear model stands more
        torch.manual_seed(1)
        model = convolutions()
        for layer in model[:-1] if frozen else ():
            layer.requires_grad_(False)
        trained = [p for p in model.parameters() if p.requires_grad]
        more = {"momentum": 0.9} if kind == "SGD" else {}
        optimizer = getattr(torch.optim, kind)(trained, lr=rate, **more)
        losses: list[float] = []

        def loss(step: int, model=model, losses=losses) -> torch.Tensor:
            batch = torch.randint(0, len(y), (32,))
            made = F.cross_entropy(model(x[batch]), y[batch])
            losses.append(made.item())
            return made

        found = told(model, optimizer, loss, 140)
        truth = ended(losses, model, x, y)
        assert bool(found) == bool(truth), (rate, found, truth)
        outcomes.add(bool(truth))
    assert outcomes == {False, True}


def test_the_run_is_bit_for_bit_the_same():
    def result(tripwires: bool | None) -> list[torch.Tensor]:
        model = nn.Sequential(perceptron(16), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 4))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

        def loss(step: int) -> torch.Tensor:
            x, y = separable()
            return F.cross_entropy(model(x), y, label_smoothing=0.1)

        if tripwires is None:
            for step in range(45):
                optimizer.zero_grad()
                loss(step).backward()
                optimizer.step()
        else:
            with freezecheck.watch(model, optimizer, on_finding=quiet, tripwires=tripwires):
                for step in range(45):
                    optimizer.zero_grad()
                    loss(step).backward()
                    optimizer.step()
        return [*model.state_dict().values(), torch.get_rng_state()]

    plain = result(None)
    for tripwires in (True, False):
        assert all(torch.equal(a, b) for a, b in zip(plain, result(tripwires)))


def test_tripwires_can_be_left_out():
    model = perceptron(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e6)
    before = F.cross_entropy
    with freezecheck.watch(model, optimizer, on_finding=quiet, tripwires=False) as watch:
        assert F.cross_entropy is before
        for _ in range(25):
            optimizer.zero_grad()
            model(torch.randn(8, 8)).square().mean().backward()
            optimizer.step()
    assert codes(watch) == []
    assert F.cross_entropy is before


def test_they_are_told_within_the_step_and_can_stop_the_run():
    model = perceptron(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e6)
    steps: list[int] = []

    def train() -> None:
        for step in range(100):
            optimizer.zero_grad()
            model(torch.randn(8, 8)).square().mean().backward()
            optimizer.step()
            steps.append(step)

    watch = freezecheck.watch(model, optimizer, on_finding=quiet, stop_on="error")
    with pytest.raises(freezecheck.SetupError, match="FC601"), watch:
        train()
    assert len(steps) == 19


def test_a_short_run_is_judged_at_its_end():
    model = perceptron(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e6)
    x = torch.randn(8, 8)
    assert told(model, optimizer, lambda _: model(x).square().mean(), 12) == ["FC601"]


# -- kinds of training ----------------------------------------------------------------


def wild(
    loss: Step, model: nn.Module, healthy: float, steps: int = 100, rate: float = 5.0
) -> list[str]:
    """Nothing is told of a healthy run; what is told of one at a wild rate."""
    start = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters(), lr=healthy)
    assert told(model, optimizer, loss, steps) == []
    with torch.no_grad():
        for p, value in zip(model.parameters(), start):
            p.copy_(value)
    return told(model, torch.optim.Adam(model.parameters(), lr=rate), loss, steps)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label_smoothing": 0.1},
        {"weight": torch.tensor([1.0, 5.0, 1.0, 0.1])},
        {"reduction": "sum"},
        {"reduction": "none"},
        {"ignore_index": 3},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
def test_options_of_cross_entropy(options):
    model = perceptron(4)

    def loss(step: int) -> torch.Tensor:
        x, y = separable()
        made = F.cross_entropy(model(x), y, **options)
        return made.mean() if made.dim() else made

    assert wild(loss, model, 1e-2) == ["FC602"]


def test_probabilities_as_targets():
    model = perceptron(4)

    def loss(step: int) -> torch.Tensor:
        x, y = separable()
        return F.cross_entropy(model(x), 0.9 * F.one_hot(y, 4) + 0.025)

    assert wild(loss, model, 1e-2) == ["FC602"]


def test_segmentation():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 1))

    def loss(step: int) -> torch.Tensor:
        x = torch.randn(4, 3, 16, 16)
        y = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
        y[:, 0] = 255
        return F.cross_entropy(model(x), y, ignore_index=255)

    assert wild(loss, model, 1e-2) == ["FC602"]


@pytest.mark.parametrize("words", [50, 5000])
def test_language_models(words):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(words, 8), nn.Linear(8, words))

    def loss(step: int) -> torch.Tensor:
        tokens = torch.randint(0, 20, (4, 40))
        logits = model(tokens)[:, :-1]
        targets = tokens[:, 1:].clone()
        targets[:, :5] = -100
        return nn.CrossEntropyLoss()(logits.flatten(0, 1), targets.flatten())

    optimizer = torch.optim.Adam(model.parameters(), lr=5.0)
    assert told(model, optimizer, loss, 70) == ["FC602"]


def test_yes_or_no():
    model = perceptron(1)

    def loss(step: int) -> torch.Tensor:
        x, _ = separable()
        y = (x[:, :1] > 1.2).float()  # one in nine
        return F.binary_cross_entropy_with_logits(model(x), y, pos_weight=torch.tensor(8.0))

    assert wild(loss, model, 1e-2) == ["FC602"]


def test_constant_outputs_of_a_binary_classifier():
    """Units that are dead for every input leave the bias alone."""
    model = perceptron(1)
    with torch.no_grad():
        model[0].bias.fill_(-100.0)

    def loss(step: int) -> torch.Tensor:
        x, _ = separable()
        return F.binary_cross_entropy_with_logits(model(x).squeeze(1), (x[:, 0] > 0).float())

    assert told(model, torch.optim.SGD(model.parameters(), lr=0.1), loss, 70) == ["FC603"]


def test_several_labels_to_a_sample_are_no_classes():
    model = perceptron(6)
    with torch.no_grad():
        model[0].bias.fill_(-100.0)

    def loss(step: int) -> torch.Tensor:
        x, _ = separable()
        return F.binary_cross_entropy_with_logits(model(x), (x[:, :6] > 0).float())

    assert told(model, torch.optim.SGD(model.parameters(), lr=0.1), loss, 70) == []


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"])
def test_regression(name):
    model = perceptron(1)

    def loss(step: int) -> torch.Tensor:
        x, _ = separable()
        return getattr(F, name)(model(x), x.sum(1, keepdim=True))

    assert wild(loss, model, 1e-2, rate=1000.0) == ["FC602"]


def test_a_loss_written_by_hand_is_judged_only_where_it_is_no_number():
    model = perceptron(1)

    def loss(step: int) -> torch.Tensor:
        return (model(torch.randn(32, 8)) - 1).square().mean()

    assert wild(loss, model, 1e-2) == []


def test_gradients_that_are_accumulated():
    model = perceptron(4)

    def loss(step: int) -> torch.Tensor:
        for _ in range(3):
            x, y = separable(8)
            (F.cross_entropy(model(x), y) / 4).backward()
        x, y = separable(8)
        return F.cross_entropy(model(x), y) / 4

    assert wild(loss, model, 1e-2) == ["FC602"]


@pytest.mark.parametrize("healthy", [True, False])
def test_a_scaled_loss_is_judged_unscaled(healthy):
    model = perceptron(4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)  # overflows at first
    with freezecheck.watch(model, optimizer, on_finding=quiet) as watch:
        for step in range(40):
            x, y = separable()
            if not healthy and step >= 10:
                x = x * math.inf
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update(2.0**10 if step == 5 else None)
    assert codes(watch) == ([] if healthy else ["FC601"])


def test_adversaries_may_have_rising_losses():
    torch.manual_seed(0)
    maker, critic = perceptron(8), perceptron(1)
    both = nn.ModuleList([maker, critic])
    ours = torch.optim.Adam(maker.parameters(), lr=1e-5)
    theirs = torch.optim.Adam(critic.parameters(), lr=0.1)
    yes, no = torch.ones(32, 1), torch.zeros(32, 1)
    score = F.binary_cross_entropy_with_logits
    with freezecheck.watch(both, [ours, theirs], on_finding=quiet) as watch:
        for _ in range(120):
            theirs.zero_grad()
            made = maker(torch.randn(32, 8))
            real = score(critic(torch.randn(32, 8) + 3), yes)
            (real + score(critic(made.detach()), no)).backward()
            theirs.step()
            ours.zero_grad()
            loss = score(critic(made), yes)
            loss.backward()
            ours.step()
    assert loss.item() > 3  # what one optimizer's would be called an explosion
    assert codes(watch) == []


def test_two_optimizers_of_one_loss_are_one_training():
    model = perceptron(4)
    rates = {"lr": 5.0}
    first = torch.optim.Adam(model[0].parameters(), **rates)
    second = torch.optim.Adam(model[2].parameters(), **rates)
    with freezecheck.watch(model, [first, second], on_finding=quiet) as watch:
        for _ in range(70):
            x, y = separable()
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            first.step()
            second.step()
    assert codes(watch) == ["FC602"]


def test_lbfgs():
    model = perceptron(4)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    with freezecheck.watch(model, optimizer, on_finding=quiet) as watch:
        for step in range(25):
            x, y = separable()

            def closure(x=x, y=y, step=step) -> torch.Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y) * (math.nan if step > 20 else 1)
                loss.backward()
                return loss

            optimizer.step(closure)
    assert codes(watch) == ["FC601"]


def test_a_collapse_in_the_course_of_training():
    """Trained, then at a wild rate: the features die."""
    model = perceptron(4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def loss(step: int) -> torch.Tensor:
        if step == 120:
            with torch.no_grad():
                model[0].bias.fill_(-100.0)
        x, y = separable()
        return F.cross_entropy(model(x), y)

    assert told(model, optimizer, loss, 200) == ["FC603"]


def test_an_untrained_head_in_a_long_warm_up_is_no_collapse():
    for seed in range(4):
        torch.manual_seed(seed)
        model = nn.Linear(8, 2)
        with torch.no_grad():
            model.bias[0] = 5.0  # it predicts nothing but class 0
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-6)

        def loss(step: int, model=model) -> torch.Tensor:
            return F.cross_entropy(model(torch.randn(32, 8)), (torch.rand(32) > 0.9).long())

        assert told(model, optimizer, loss, 120) == []


def test_other_models_are_none_of_its_business():
    model, other = perceptron(4), perceptron(4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    strange = torch.optim.Adam(other.parameters(), lr=5.0)

    def loss(step: int) -> torch.Tensor:
        x, y = separable()
        F.cross_entropy(other(x), y).backward()
        strange.step()
        return F.cross_entropy(model(x), y)

    assert told(model, optimizer, loss) == []


# -- at what cost -----------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """The names of all operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **kwargs or {})


WAIT = {"_local_scalar_dense", "nonzero", "bincount", "masked_select", "unique_dim", "_unique2"}


def test_nothing_is_read_within_a_window():
    """These operators make the host wait for a GPU; nothing else here does."""
    model = perceptron(4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=True)
    with freezecheck.watch(model, optimizer, on_finding=quiet):
        for step in range(45):
            x, y = separable(100)
            seen = Operations()
            with seen:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
            if step and (step + 1) % 20:
                assert not WAIT & set(seen.names), step
                assert not any(name.startswith("index") and "_put" in name for name in seen.names)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_step_waits_for_the_gpu():
    model = perceptron(4).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5.0)
    batches = [[t.cuda() for t in separable(100)] for _ in range(100)]
    with freezecheck.watch(model, optimizer, on_finding=quiet) as watch:
        for step, (x, y) in enumerate(batches):
            # The first step is captured, which reads a few values.
            torch.cuda.set_sync_debug_mode("error" if step else "default")
            try:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
    assert codes(watch) == ["FC602"]


def test_a_scripted_loss_is_torchs_own():
    model = perceptron(4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with freezecheck.watch(model, optimizer, on_finding=quiet):
        scripted = torch.jit.script(nn.CrossEntropyLoss())
        x, y = separable()
        scripted(model(x), y).backward()
        optimizer.step()
    assert torch.isfinite(scripted(model(x), y))


@pytest.mark.slow
def test_compiled_code_is_compiled_as_without_us():
    model = perceptron(4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    @torch.compile(backend=backend, fullgraph=True)
    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x), y)

    try:
        with freezecheck.watch(model, optimizer, on_finding=quiet):
            for _ in range(3):
                optimizer.zero_grad()
                loss(*separable()).backward()
                optimizer.step()
        assert len(graphs) == 1
        assert not [node for node in graphs[0].graph.nodes if "stack" in str(node.target)]
        loss(*separable())
    finally:
        torch._dynamo.reset()


def test_torch_func_is_left_alone():
    model = perceptron(4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    params = dict(model.named_parameters())

    def of(params: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(torch.func.functional_call(model, params, (x,)), y)

    def loss(step: int) -> torch.Tensor:
        x, y = separable()
        torch.func.grad(of)(params, x, y)
        return F.cross_entropy(model(x), y)

    assert told(model, optimizer, loss, 45) == []


# -- scripts -----------------------------------------------------------------------------

SCRIPT = """\
import torch
from torch.nn.functional import cross_entropy

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=5.0)
for step in range(90):
    x = torch.randn(32, 8)
    optimizer.zero_grad()
    cross_entropy(model(x), x[:, :4].argmax(1)).backward()
    optimizer.step()
print("finished")
"""


@pytest.mark.parametrize("words", [["watch"], ["inspect", "--steps", "80"]], ids=lambda w: w[0])
def test_of_a_script(tmp_path, words):
    (tmp_path / "train.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-m", "freezecheck", *words, "train.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 1, done.stderr
    assert "FC602" in done.stdout + done.stderr
    assert "train.py:10" in done.stdout + done.stderr
    assert ("finished" in done.stdout) == (words == ["watch"])
