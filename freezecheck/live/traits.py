"""What a class of module is: norm, dropout, layer with a size, ... asked once per class."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

# nn.Module's own bookkeeping, which every instance carries in its __dict__.
OWN = frozenset(
    """training _parameters _buffers _non_persistent_buffers_set _backward_pre_hooks
    _backward_hooks _is_full_backward_hook _forward_hooks _forward_hooks_with_kwargs
    _forward_hooks_always_called _forward_pre_hooks _forward_pre_hooks_with_kwargs
    _state_dict_hooks _state_dict_pre_hooks _load_state_dict_pre_hooks
    _load_state_dict_post_hooks _modules _compiled_call_impl""".split()
)

# Class name -> attribute that holds the wrapped module. By name, because the
# classes live in optional or private modules of torch and change their homes.
WRAPPERS = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "OptimizedModule": "_orig_mod",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
    "OffloadWrapper": "_checkpoint_wrapped_module",
    "DeepSpeedEngine": "module",
}

_NORM_BASES = {
    "_BatchNorm": "batch",
    "_InstanceNorm": "instance",
    "LayerNorm": "layer",
    "RMSNorm": "layer",
    "GroupNorm": "group",
}
_NORM_SUFFIXES = ("LayerNorm", "RMSNorm")  # transformers brings its own
_DROPOUT_BASES = ("_DropoutNd", "StochasticDepth", "DropPath")
_SIZES = {"Linear": "out_features", "Conv1d": "out_channels", "Conv2d": "out_channels"}


# What classifiers call the child that makes their outputs.
HEADS = frozenset(("classifier", "fc", "head", "heads", "last_linear"))


class Traits(NamedTuple):
    """What one module class is, as far as capturing it is concerned."""

    norm: str = ""  # kind of norm, see `snapshot.Norm.kind`
    dropout: bool = False
    size: str = ""  # attribute that names the output size, for torch's own layers
    wrapper: bool = False  # DDP and the like: looked through
    package: str = ""  # the class's root package
    simple: bool = False  # torch's own leaf layer: holds no containers of its own
    trains: bool = False  # overrides train()


def _look_at(kind: type[Any]) -> Traits:
    names = [base.__name__ for base in kind.__mro__]
    norm = next((_NORM_BASES[name] for name in names if name in _NORM_BASES), "")
    if not norm and kind.__name__.endswith(_NORM_SUFFIXES):
        norm = "layer"
    home = kind.__module__
    own = home.startswith("torch.nn.modules.") and not home.endswith(".container")
    return Traits(
        norm=norm,
        dropout=any(name in _DROPOUT_BASES for name in names),
        size=_SIZES.get(kind.__name__, "") if own else "",
        wrapper=kind.__name__ in WRAPPERS,
        package=home.partition(".")[0],
        simple=own,
        trains=_train_owner(kind) not in ("Module", ""),
    )


traits: Callable[[Any], Traits] = cache(_look_at)
"""The traits of a module class."""


def _train_owner(kind: type[Any]) -> str:
    return next((base.__name__ for base in kind.__mro__ if "train" in base.__dict__), "")


def qualified(kind: type[Any]) -> str:
    """`torch.optim.adamw.AdamW`."""
    return f"{kind.__module__}.{kind.__qualname__}"
