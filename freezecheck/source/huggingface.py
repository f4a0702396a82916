"""Transformers: models from checkpoints and from configurations."""

from __future__ import annotations

import re
from typing import Any

from freezecheck.program import Module
from freezecheck.source import assumed, attributes, calls, structure, trainer  # noqa: F401
from freezecheck.source.calls import Call
from freezecheck.source.knowledge import architectures
from freezecheck.source.machine import Machine
from freezecheck.source.making import is_module_class
from freezecheck.source.values import Class, Unknown

_MODEL = re.compile(r"(Model|For[A-Z]\w*|Encoder|Decoder|LMHead)$")
_OTHER = re.compile(r"Tokenizer|Processor|Config|Extractor|Output|Callback|Trainer|Pipeline")
# The head of these is not in the checkpoint of a model that was only pretrained.
_CLASSIFIES = re.compile(r"For(Sequence|Token)Classification$|ForMultipleChoice$|ForQuestion")
_QUANTIZED = ("quantization_config", "load_in_8bit", "load_in_4bit")

# What the attribute of the base model is called. Where the class is not known, two of
# these names, or one and `base_model`, are taken for the same.
_BASES = frozenset(
    "bert roberta distilbert electra albert deberta camembert xlm_roberta longformer mpnet"
    " transformer model vit swin beit deit convnext wav2vec2 hubert wavlm base_model".split()
)


def built(m: Machine, name: str, given: Call) -> Any:
    """`AutoModel.from_pretrained(...)`, `AutoModel.from_config(...)`, `BertModel(config)`."""
    top, _, rest = name.partition(".")
    if top != "transformers":
        return NotImplemented
    owner, _, short = rest.rpartition(".")
    if short in ("from_pretrained", "from_config", "_from_config"):
        kind = owner.rpartition(".")[2]
    else:
        kind, short = short, "config"
    if not _MODEL.search(kind) or _OTHER.search(kind):
        return NotImplemented
    checkpoint = given.get(0, "pretrained_model_name_or_path")
    return make(m, kind, short == "from_pretrained", checkpoint, given)


def make(m: Machine, kind: str, pretrained: bool, checkpoint: Any, given: Call) -> Module:
    """A model of a class of the library. One from a checkpoint is in eval mode."""
    named = checkpoint if isinstance(checkpoint, str) and pretrained else ""
    known = isinstance(checkpoint, str) and not given.open and "config" not in given.keywords
    builder = f"transformers.{kind}"
    node = None
    if pretrained and (known or not kind.startswith("Auto")):
        node = architectures.find(f"{builder}:{named}")
    made = m.new_module(builder, given.node)
    made.pretrained, made.born = pretrained, not pretrained
    if node is None:
        heads = architectures.transformers_head(kind) if kind.startswith("Auto") else ()
        made.options["heads"] = (*heads, "classifier", "score")
        structure.open_up(m, made)
    else:
        structure.grow(m, made, node)
        structure.unfold(m, made)
        base = made.children.get(architectures.base(f"{builder}:{named}"))
        if base is not None:
            made.attributes["base_model"] = base
        made.options["heads"] = architectures.head(f"{builder}:{named}")
        fresh = False if named and _is_known(builder, named) else None
        for name in architectures.head(f"{builder}:{named}"):
            if name in made.children and _CLASSIFIES.search(kind):
                made.children[name].pretrained = fresh
    if any(key in given.keywords for key in _QUANTIZED):
        for param in made.parameters():
            param.born = param.trainable = None
    return made


def _is_known(builder: str, checkpoint: str) -> bool:
    """A checkpoint that has a base model alone, as far as the library's own tables say."""
    return architectures.find(f"transformers.AutoModel:{checkpoint}") is not None


calls.PATTERNS.insert(0, built)


def of_class(m: Machine, owner: Any, name: str, given: Call) -> Any:
    """`MyModel.from_pretrained(...)`, where the file defines the class."""
    if not isinstance(owner, Class) or name not in ("from_pretrained", "from_config"):
        return NotImplemented
    if not is_module_class(owner) or not any("transformers" in n for n in owner.libraries()):
        return NotImplemented
    config = given.keywords.get("config", Unknown("config"))
    made = calls.make(m, owner, Call(given.node, [config]))
    if isinstance(made, Module) and name == "from_pretrained":
        made.born = False
        for each in made.walk():
            each.born, each.modes = False, []
            each.pretrained = None  # what is in the checkpoint is not known
    return made


def of_model(m: Machine, owner: Any, name: str, given: Call) -> Any:
    """What models of the library have beside what a module has."""
    if not isinstance(owner, Module) or not owner.type.startswith(("transformers.", "peft.")):
        return NotImplemented
    if name in _QUIET:
        return Unknown(m.spot(given.node))
    if name == "freeze_base_model":
        base = read(m, owner, "base_model")
        inner = assumed.as_module(m, base, given.node)
        if inner is not None:
            m.write_flag(given.node, list(inner.parameters()), False)
            return None
    return NotImplemented


_QUIET = frozenset(
    "gradient_checkpointing_enable gradient_checkpointing_disable enable_input_require_grads"
    " activation_checkpointing_enable save_pretrained push_to_hub generate tie_weights"
    " num_parameters get_nb_trainable_parameters print_trainable_parameters get_memory_footprint"
    " add_model_tags can_generate floating_point_ops estimate_tokens".split()
)
calls.METHODS[:0] = [of_class, of_model]


def read(m: Machine, owner: Module, name: str) -> Any:
    """`model.base_model`, and the other name of the same."""
    if name not in _BASES or not owner.open or not owner.type.startswith("transformers."):
        return NotImplemented
    held = owner.attributes.get("<base>")
    if held is None:
        held = owner.attributes["<base>"] = structure.carve(m, owner, name)
    return held


attributes.READERS.append(read)
