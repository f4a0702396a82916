"""fastai: a `Learner` freezes and trains by itself; its BatchNorm layers go on training.

Its optimizers are its own, and nothing else is said of its models.
"""

from __future__ import annotations

from typing import Any

from freezecheck import program
from freezecheck.program import Module
from freezecheck.source import calls
from freezecheck.source.calls import Call
from freezecheck.source.knowledge import architectures
from freezecheck.source.machine import Machine
from freezecheck.source.values import Library, Object, Unknown

_MAKERS = ("vision_learner", "cnn_learner", "unet_learner")
_FITS = ("fit", "fit_one_cycle", "fit_flat_cos", "fit_sgdr")


def learner(m: Machine, name: str, given: Call) -> Any:
    """`vision_learner(dls, resnet34)`: frozen from the start if it is pretrained."""
    top, short = name.partition(".")[0], name.rpartition(".")[2]
    if top != "fastai" or short not in (*_MAKERS, "Learner"):
        return NotImplemented
    made = Object("fastai.Learner", None, f"<Learner{m.spot(given.node)}>")
    arch, pretrained = given.get(1, "arch"), given.keywords.get("pretrained", True)
    made.attributes["<arch>"] = arch if isinstance(arch, Library) and short != "Learner" else None
    made.attributes["<frozen>"] = short != "Learner" and pretrained is True and not given.open
    made.attributes["<train_bn>"] = given.keywords.get("train_bn", True)
    model = given.get(1, "model")
    if short == "Learner" and isinstance(model, Module):
        calls.escape(m, model, given.node, short)
    return made


calls.PATTERNS.insert(0, learner)


def method(m: Machine, owner: Any, name: str, given: Call) -> Any:
    """What a `Learner` does."""
    if not isinstance(owner, Object) or owner.type != "fastai.Learner":
        return NotImplemented
    held = owner.attributes
    if name in ("freeze", "freeze_to"):
        held["<frozen>"] = True
    elif name == "unfreeze":
        held["<frozen>"] = False
    elif name in _FITS:
        _fit(m, owner, given)
    elif name == "fine_tune":
        held["<frozen>"] = True
        _fit(m, owner, given)
        held["<frozen>"] = False
    elif name in ("to_fp16", "to_fp32", "to_native_fp16", "add_cb", "load", "export"):
        return owner
    return Unknown(m.spot(given.node))


calls.METHODS.insert(0, method)


def _fit(m: Machine, owner: Object, given: Call) -> None:
    """Training with the body frozen, all but its BatchNorm layers."""
    held = owner.attributes
    arch = held["<arch>"]
    if held["<frozen>"] is not True or held["<train_bn>"] is not True or arch is None:
        return
    node = architectures.find(f"torchvision.models.{arch.name.rpartition('.')[2]}")
    if node is not None and "batch" in node.has_norm:
        name = arch.name.rpartition(".")[2]
        m.event(program.ATTRIBUTE, given.node, None, value=name, attribute="fastai.freeze")
