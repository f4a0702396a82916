"""PEFT: adapters in a model whose own parameters are frozen.

Where in the model the adapters sit does not matter to anybody here: they are children of
the model itself, under the names that end their paths.
"""

from __future__ import annotations

from typing import Any

from freezecheck import program
from freezecheck.program import Module
from freezecheck.source import assumed, attributes, calls, huggingface, iteration, structure
from freezecheck.source.calls import Call, effect
from freezecheck.source.knowledge.frameworks import ADAPTERS, HEADS
from freezecheck.source.machine import Machine
from freezecheck.source.values import Library, Object, Unknown
from freezecheck.source.wrappers import copied

_OWN = frozenset(
    "print_trainable_parameters get_nb_trainable_parameters save_pretrained push_to_hub"
    " create_or_update_model_card get_base_model merge_and_unload unload merge_adapter"
    " unmerge_adapter set_adapter add_adapter load_adapter delete_adapter disable_adapter"
    " enable_adapter_layers disable_adapter_layers active_adapter peft_config".split()
)


@effect(
    "peft.get_peft_model",
    "peft.PeftModel",
    "peft.PeftModelForSequenceClassification",
    "peft.PeftModelForTokenClassification",
    "peft.PeftModelForQuestionAnswering",
    "peft.PeftModelForCausalLM",
    "peft.PeftModelForSeq2SeqLM",
    "peft.PeftModelForFeatureExtraction",
)
def adapted(m: Machine, given: Call) -> Any:
    """`get_peft_model(model, config)`: the model itself is changed, and comes in a wrapper."""
    inner = assumed.as_module(m, given.get(0, "model"), given.node)
    if inner is None:
        return Unknown(m.spot(given.node))
    config = given.get(1, "peft_config")
    known = isinstance(config, Object) and not config.open
    options = config.attributes if known else {}
    name = given.get(2, "adapter_name", "default")
    kinds = ADAPTERS.get(config.type, ("<adapters>",)) if known else ("<adapters>",)
    saved = _saved(m, options, given.node) if known else None
    return _wrap(m, inner, kinds, name, True, saved, options, given)


@effect("peft.PeftModel.from_pretrained")
def loaded(m: Machine, given: Call) -> Any:
    """Adapters from a checkpoint: frozen, unless asked to be trainable."""
    inner = assumed.as_module(m, given.get(0, "model"), given.node)
    return Unknown(m.spot(given.node)) if inner is None else _load(m, inner, given)


def _load(m: Machine, inner: Module, given: Call) -> Module:
    flag = given.get(3, "is_trainable", False)
    flag = flag if isinstance(flag, bool) and not given.open else None
    saved: list[str] | None = [] if flag is False else None
    return _wrap(m, inner, ("<adapters>",), "default", flag, saved, {}, given)


def auto(m: Machine, name: str, given: Call) -> Any:
    """`AutoPeftModelForCausalLM.from_pretrained(...)`: a model with adapters."""
    parts = name.split(".")
    if len(parts) < 3 or parts[-1] != "from_pretrained" or not parts[-2].startswith("AutoPeft"):
        return NotImplemented
    kind = parts[-2].replace("AutoPeftModel", "AutoModel")
    return _load(m, huggingface.make(m, kind, True, None, given), given)


calls.PATTERNS.insert(0, auto)


@effect("peft.prepare_model_for_kbit_training", "peft.prepare_model_for_int8_training")
def prepared(m: Machine, given: Call) -> Any:
    """It freezes all that is there, adapters as well."""
    inner = assumed.as_module(m, given.get(0, "model"), given.node)
    if inner is not None:
        m.write_flag(given.node, list(inner.parameters()), False, via="peft")
    return inner


def _saved(m: Machine, options: dict[str, Any], node: Any) -> list[str] | None:
    """The names of the modules that stay trainable; None where they are not known."""
    task, given = options.get("task_type"), options.get("modules_to_save")
    if isinstance(task, Library):
        task = task.name.rpartition(".")[2]
    if not (task is None or isinstance(task, str)) or isinstance(given, Unknown):
        return None
    found, complete = iteration.items(m, given, node) if given is not None else ([], True)
    if not complete or not all(isinstance(each, str) for each in found):
        return None
    return [*found, *HEADS.get((task or "").upper(), ())]


def _wrap(
    m: Machine,
    inner: Module,
    kinds: tuple[str, ...],
    name: Any,
    trainable: bool | None,
    saved: list[str] | None,
    options: dict[str, Any],
    given: Call,
) -> Module:
    structure.unfold(m, inner)
    m.write_flag(given.node, list(inner.parameters()), False, via="peft")
    if saved is None or options.get("bias", "none") != "none":
        m.write_flag(given.node, list(inner.parameters()), None, via="peft")
    for kind in kinds:
        label = f"{kind}.{name}" if isinstance(name, str) and kind[0] != "<" else kind
        adapter = structure.adopt(m, inner, label, "peft.Adapter")
        adapter.open, adapter.pretrained = True, None if trainable is None else not trainable
        adapter.born, adapter.modes = inner.born, list(inner.modes)
        param = m.new_param(adapter, "")
        param.born = param.trainable = trainable
    for path in saved or ():
        _save(m, inner, path, trainable, given)
    tuner = m.new_module("peft.Tuner", given.node)
    made = m.new_module("peft.PeftModel", given.node)
    made.wrapper = tuner.wrapper = "PeftModel"
    made.pretrained = tuner.pretrained = inner.pretrained
    made.label, made.options = inner.label, {"target_modules": options.get("target_modules")}
    for outer, child, under in ((tuner, inner, "model"), (made, tuner, "base_model")):
        outer.children[under] = child
        outer.born, outer.modes = inner.born, list(inner.modes)
        if child.parent is None:
            child.parent, child.name = outer, under
    m.event(program.WRAP, given.node, inner, value="PeftModel", wrapper=made)
    return made


def _save(m: Machine, inner: Module, name: str, trainable: bool | None, given: Call) -> None:
    """`modules_to_save`: a trainable copy of a module beside the module itself."""
    found = [
        (path, each)
        for path, each in iteration.modules(m, inner)
        if path.endswith(name) and each.parent is not None and each.type != "peft.Adapter"
    ]
    if not found and inner.open and name in inner.options.get("heads", ()):
        found = [(name, structure.carve(m, inner, name))]
    for _, old in found:
        parent = old.parent
        if parent is None or parent.type == "peft.ModulesToSaveWrapper":
            continue
        pair = structure.adopt(m, parent, old.name, "peft.ModulesToSaveWrapper")
        twin = copied(m, old, given.node)
        m.write_flag(given.node, list(twin.parameters()), trainable, via="peft")
        for key, child in (("original_module", old), ("modules_to_save.default", twin)):
            pair.children[key] = child
            child.parent, child.name = pair, key


def read(m: Machine, owner: Module, name: str) -> Any:
    """A wrapper shows what its model has."""
    if owner.type not in ("peft.PeftModel", "peft.Tuner", "peft.ModulesToSaveWrapper"):
        return NotImplemented
    if name in _OWN:
        return NotImplemented
    inner = list(owner.children.values())[-1]
    return attributes.load(m, inner, name, None)


attributes.READERS.insert(0, read)


def method(m: Machine, owner: Any, name: str, given: Call) -> Any:
    """Methods that only a model with adapters has."""
    if not isinstance(owner, Module) or owner.type != "peft.PeftModel" or name not in _OWN:
        return NotImplemented
    inner = owner.children["base_model"].children["model"]
    if name == "get_base_model":
        return inner
    if name in ("merge_and_unload", "unload"):
        calls.escape(m, inner, given.node, name)
        return inner
    if name.endswith(("adapter", "adapter_layers")) and name != "disable_adapter":
        calls.escape(m, owner, given.node, name)
    return Unknown(m.spot(given.node))


calls.METHODS.insert(0, method)
