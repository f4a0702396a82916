"""Some fine-tunes of the probe's study, each probed and then run in full."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.probe_study.one import record
from benchmarks.probe_study.settings import Configuration, Setting

from freezecheck.warmup import INCONCLUSIVE, NEAR, SAFE, UNSAFE

HEAD = Setting("train", "head", "sgd", 8, "cosine", "balanced", False)
LAST = Setting("group", "last", "sgd", 8, "constant", "balanced", True)
WHOLE = Setting("frozen", "all", "adamw", 8, "constant", "majority", True)
VIT = Setting("vit", "all", "sgd", 32, "constant", "majority", True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where networks are kept once they are pretrained."""
    return tmp_path_factory.mktemp("pretrained")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "rate", "zone"),
    [
        (LAST, 0.02, SAFE),
        (LAST, 5.12, UNSAFE),
        (HEAD, 0.64, NEAR),  # the loss is far up, and comes down with the cosine
        (HEAD, 20.48, UNSAFE),
        (WHOLE, 0.0005, INCONCLUSIVE),  # nine in ten labels are one class: that is no collapse
        (WHOLE, 0.512, UNSAFE),
        (VIT, 0.512, UNSAFE),
    ],
)
def test_what_the_probe_says_comes_true(setting: Setting, rate: float, zone: str, folder: Path):
    found = record(Configuration(setting, rate, 0), folder)
    assert found["zone"] == zone
    errors = {"FC601", "FC602", "FC603"} & set(found["codes"])
    assert bool(errors) == (zone == UNSAFE)
    truth = found["truth"]
    assert (truth["exploded"] or truth["collapsed"]) == (zone == UNSAFE)
