"""Keras: layers, models, what they are called on, and `compile` and `fit`.

A world of its own: its models are no `Module`s, and no rule about PyTorch sees them.
"""

from __future__ import annotations

from typing import Any

from freezecheck import program
from freezecheck.source import calls, conditions, iteration
from freezecheck.source.calls import Call
from freezecheck.source.knowledge import keras
from freezecheck.source.machine import Machine
from freezecheck.source.values import Dict, Foreign, List, Method, Unknown


class Layer(Foreign):
    """A layer or a model.

    `type` is its class (`MobileNetV2`). `layers` are those that it was made of. `whole` is
    set for a stand-in for some of its layers, of which `span` are the known limits.
    """

    __slots__ = (
        "batchnorm", "include_top", "label", "layers", "pretrained", "site", "span",
        "type", "whole",
    )  # fmt: skip

    def __init__(self, type: str, site: Any) -> None:
        self.type = type
        self.site = site
        self.label = ""
        self.layers: tuple[Layer, ...] = ()
        self.pretrained = False
        self.batchnorm = False
        self.include_top: Any = None
        self.whole: Layer | None = None
        self.span: tuple[Any, Any] = (None, None)

    @property
    def shown(self) -> str:
        """What a message calls it."""
        return self.label or self.type

    def named(self, name: str) -> None:
        self.label = self.label or name

    def load(self, m: Machine, name: str, node: Any) -> Any:
        """`layer.trainable`, `model.layers`, `base.output`."""
        if name == "layers":
            known = self.type == "Sequential" and self.layers
            return List(self.layers) if known else Layers(self)
        if name in ("input", "inputs", "output", "outputs"):
            end = name.rstrip("s")
            return Symbol(((self, None, None),) if end == "output" else (), self, end)
        if name == "optimizer":
            m.event(program.ATTRIBUTE, node, self, attribute=name)  # its rate may be set
        if name in ("trainable", "name", "built", "optimizer", "weights", "trainable_weights"):
            return Unknown(f"<{id(self)}>.{name}")
        return Method(self, name)

    def store(self, m: Machine, target: Any, name: str, value: Any) -> None:
        """`layer.trainable = False`."""
        if name == "trainable":
            held = conditions.formula(value)
            value = held if isinstance(held, bool) else None
        m.event(
            program.ATTRIBUTE, target, self.whole or self,
            value=value, attribute=name, part=self.span if self.whole is not None else None,
        )  # fmt: skip

    def call(self, m: Machine, given: Call) -> Any:
        """`layer(x)`."""
        said = given.keywords.get("training")
        said = "unknown" if given.open or isinstance(said, Unknown) else said
        layers = _joined(given).layers
        m.event(program.BUILT, given.node, self, value="call", repeats=None, calls=layers)
        return Symbol((*layers, (self, m.site(given.node), said)))

    def inside(self) -> list[Layer]:
        """It and every layer that it is made of."""
        return [self, *(each for layer in self.layers for each in layer.inside())]

    def __repr__(self) -> str:
        return f"{self.shown}<{self.type}>"


class Symbol(Foreign):
    """A symbolic tensor. `layers` are those that it came out of, with the place of each call
    and what was said of `training`. `of`: it is the output, or an input, of that model."""

    __slots__ = ("end", "layers", "of")

    def __init__(
        self, layers: tuple[Any, ...] = (), of: Layer | None = None, end: str = ""
    ) -> None:
        self.layers = layers
        self.of = of
        self.end = end

    def sliced(self, parts: list[Any]) -> Any:
        return self


class Layers(List, Foreign):
    """`base.layers`: a stand-in for some of them."""

    __slots__ = ("whole",)

    def __init__(self, whole: Layer, span: tuple[Any, Any] = (None, None)) -> None:
        super().__init__([_some(whole, span)], open=True)
        self.whole = whole

    def sliced(self, parts: list[Any]) -> Any:
        return Layers(self.whole, (parts[0], parts[1]))


class Rate(Foreign):
    """An optimizer: its class and its rate."""

    __slots__ = ("type", "value")

    def __init__(self, type: str, value: Any) -> None:
        self.type = type
        self.value = value

    def load(self, m: Machine, name: str, node: Any) -> Any:
        if name in ("lr", "learning_rate"):
            self.value = None  # it may be assigned to
        return Unknown(f"<{id(self)}>.{name}")

    def store(self, m: Machine, target: Any, name: str, value: Any) -> None:
        self.value = None


_FITS = ("fit", "fit_generator", "train_on_batch")
_REBUILT = ("model_from_json", "model_from_config", "clone_model", "from_config", "load_model")


def built(m: Machine, name: str, given: Call) -> Any:
    """A call of something of Keras's."""
    rest = keras.suffix(name)
    if rest is None:
        if any(isinstance(v, Symbol) for v in given.all()) and name.startswith("tensorflow"):
            return _joined(given)
        return NotImplemented
    short = rest.rpartition(".")[2]
    if short in _REBUILT:
        m.event(program.REBUILD, given.node, None, value=short)
        return Layer(short, m.site(given.node))
    if rest.startswith("applications.") and short[:1].isupper():
        return _application(m, short, given)
    if short == "LearningRateScheduler":
        m.event(program.ATTRIBUTE, given.node, None, attribute=short)
    if short == "Input" or rest == "layers.InputLayer":
        return Symbol()
    if rest.startswith("optimizers.") and short[:1].isupper() and "schedules" not in rest:
        return _optimizer(short, given)
    if short == "Model":
        return _model(m, given)
    if short == "Sequential":
        return _sequential(m, given)
    if rest.startswith("layers.") and short[:1].isupper():
        return Layer(short, m.site(given.node))
    if any(isinstance(v, Symbol) for v in given.all()):
        return _joined(given)
    return Unknown(m.spot(given.node))


calls.PATTERNS.insert(0, built)


def _application(m: Machine, short: str, given: Call) -> Layer:
    made = Layer(short, m.site(given.node))
    weights = given.get(1, "weights", "imagenet")
    made.pretrained = weights is not None and not isinstance(weights, Unknown)
    made.include_top = given.get(0, "include_top", True)
    made.batchnorm = short.startswith(keras.BATCHNORM)
    return made


def _optimizer(short: str, given: Call) -> Rate:
    value = given.get(0, "learning_rate", given.keywords.get("lr", keras.RATES.get(short)))
    known = isinstance(value, (int, float)) and not given.open
    return Rate(short, value if known else None)


def _symbols(value: Any) -> list[Symbol]:
    if isinstance(value, Symbol):
        return [value]
    parts: Any = value if isinstance(value, tuple) else getattr(value, "items", ())
    if isinstance(value, Dict):
        parts = value.items.values()
    return [s for part in parts for s in _symbols(part)] if not callable(parts) else []


def _joined(given: Call) -> Symbol:
    found = [s for value in given.all() for s in _symbols(value)]
    return Symbol(tuple(dict.fromkeys(x for s in found for x in s.layers)))


def _model(m: Machine, given: Call) -> Layer:
    made = Layer("Model", m.site(given.node))
    inputs, outputs = given.get(0, "inputs"), given.get(1, "outputs")
    out = [*_symbols(outputs), *_symbols(given.keywords.get("output"))]
    made.layers = tuple(dict.fromkeys(layer for s in out for layer, _, _ in s.layers))
    whole = out[0].of if len(out) == 1 and out[0].end == "output" else None
    into = _symbols(inputs) or _symbols(given.keywords.get("input"))
    same = whole is not None and any(s.of is whole and s.end == "input" for s in into)
    m.event(
        program.BUILT, given.node, made, value="Model", repeats=whole if same else None,
        calls=tuple(dict.fromkeys(c for s in out for c in s.layers)),
    )  # fmt: skip
    return made


def _sequential(m: Machine, given: Call) -> Layer:
    made = Layer("Sequential", m.site(given.node))
    found, _ = iteration.items(m, given.get(0, "layers"), given.node)
    event = m.event(program.BUILT, given.node, made, value="Sequential", repeats=None, calls=())
    for each in found:
        _add(made, each, event)
    return made


def _add(model: Layer, layer: Any, event: Any) -> None:
    if isinstance(layer, Layer):
        model.layers = (*model.layers, layer)
        event.data["calls"] = (*event.data["calls"], (layer, event.site, None))


def _some(whole: Layer, span: tuple[Any, Any] = (None, None)) -> Layer:
    part = Layer("Layer", whole.site)
    part.whole = whole.whole or whole
    part.label, part.span = f"layers of {part.whole.shown}", span
    part.pretrained = part.whole.pretrained
    return part


def method(m: Machine, owner: Any, name: str, given: Call) -> Any:
    """Methods of layers and models."""
    if isinstance(owner, Symbol):
        return Symbol(owner.layers)
    if not isinstance(owner, Layer):
        return NotImplemented
    if name == "compile":
        optimizer = given.get(0, "optimizer", "rmsprop")
        if isinstance(optimizer, str):
            optimizer = Rate(optimizer, keras.rate(optimizer))
        known = isinstance(optimizer, Rate) and not given.open
        m.event(
            program.COMPILE, given.node, owner, value=optimizer.value if known else None,
            optimizer=optimizer.type if known else "",
        )  # fmt: skip
    elif name in _FITS:
        m.event(program.FIT, given.node, owner, value=name)
    elif name == "add":
        event = next(e for e in m.world.of(program.BUILT, owner))
        _add(owner, given.get(0, "layer"), event)
    elif name == "get_layer":
        return _some(owner)
    elif name in _REBUILT or name in ("add_loss", "from_config", "load_weights"):
        m.event(program.REBUILD, given.node, owner, value=name)
    elif name == "set_weights" or "freez" in name:
        m.event(program.ESCAPE, given.node, owner, value=name)
    return Unknown(m.spot(given.node))


calls.METHODS.insert(0, method)
