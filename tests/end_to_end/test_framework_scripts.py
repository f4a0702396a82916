"""Unmodified scripts of each framework: a head first, more of the network later.

Each is run through in a few batches an epoch; its story is kept in `tests/golden/stories`. As it is, nothing is wrong with it; with its
flag, what is unfrozen later is not in the optimizer, and the step at which that begins is told.
"""

from __future__ import annotations

import pytest
import stories
from test_scripts import SCRIPTS, WARNINGS, inspect, needs

from freezecheck.finding import Severity
from freezecheck.lint import Settings, lint

pytestmark = [pytest.mark.slow, pytest.mark.frameworks]

# Script, package.
HEALTHY = [
    ("accelerate_unfreeze.py", "accelerate"),
    ("ignite_unfreeze.py", "ignite"),
    ("lightning_finetuning.py", "lightning"),
    ("lightning_two_optimizers.py", "lightning"),
    ("timm_finetune.py", "timm"),
    ("hf_gradual_unfreezing.py", "transformers"),
    ("fastai_fine_tune.py", "fastai"),
]

# Script, package, flag; symbol and first step of the one finding.
BROKEN = [
    ("accelerate_unfreeze.py", "accelerate", "--no-group", "layer3.conv1.weight", 7),
    ("ignite_unfreeze.py", "ignite", "--no-group", "layer3.conv1.weight", 7),
    ("lightning_two_optimizers.py", "lightning", "--no-group", "net.layer2.conv1.weight", 5),
    ("timm_finetune.py", "timm", "--late-unfreeze", "layer1.0.conv1.weight", None),
    (
        "hf_gradual_unfreezing.py",
        "transformers",
        "--freeze-first",
        "bert.encoder.layer.2.attention.self.query.weight",
        3,
    ),
    ("fastai_fine_tune.py", "fastai", "--no-head", "fc.weight", None),
]


def _marked(rows: list[tuple[object, ...]]) -> list[object]:
    return [
        pytest.param(script, *rest, marks=needs(str(package)), id=str(script))
        for script, package, *rest in rows
    ]


@pytest.mark.parametrize("script", _marked(HEALTHY))
def test_healthy(script: str, request: pytest.FixtureRequest):
    _, report = inspect("--fast-forward", "2", script)
    update = request.config.getoption("--update-golden")
    stories.compare(script.removesuffix(".py"), report, update=update)
    found = {(f["code"], f["line"]) for f in report["findings"] if f["severity"] in WARNINGS}
    # The text has the broken variant, too; the run itself adds nothing to what it says.
    linted = lint([str(SCRIPTS / script)], Settings()).at_least(Severity.WARNING)
    assert found <= {(f.code, f.site.line) for f in linted if f.site}
    assert report["run"]["ended"]


@pytest.mark.parametrize(("script", "flag", "symbol", "step"), _marked(BROKEN))
def test_broken(
    script: str, flag: str, symbol: str, step: int | None, request: pytest.FixtureRequest
):
    code, report = inspect("--fast-forward", "2", script, flag)
    update = request.config.getoption("--update-golden")
    name = script.removesuffix(".py") + flag.replace("--", "_").replace("-", "_")
    stories.compare(name, report, update=update)
    assert code == 1
    found = [f for f in report["findings"] if f["severity"] in WARNINGS]
    assert {f["code"] for f in found} == {"FC201"}
    assert (found[0]["symbol"], found[0].get("step")) == (symbol, step)


@needs("lightning")
def test_a_callback_that_forgets_the_optimizer():
    _, report = inspect("--fast-forward", "2", "lightning_finetuning.py", "--no-group")
    found = {f["code"]: f for f in report["findings"] if f["severity"] in WARNINGS}
    # Lightning's freeze() switches the running statistics off, which nothing switches on again.
    assert found.keys() == {"FC201", "FC407"}
    assert (found["FC201"]["symbol"], found["FC201"]["step"]) == ("backbone.0.0.weight", 5)
    lines = (SCRIPTS / "lightning_finetuning.py").read_text().splitlines()
    assert "self.freeze(" in lines[found["FC407"]["line"] - 1]


@needs("fastai")
def test_fastai_with_an_optimizer_of_torch():
    code, report = inspect("fastai_fine_tune.py", "--torch-optimizer")
    assert code == 0
    assert report["optimizers"][0]["type"] == "torch.optim.adamw.AdamW"
    assert [f["code"] for f in report["findings"]] == ["FC212", "FC506"]
