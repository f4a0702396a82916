"""`--no-weights`: models are built as always, and the weights for them are left out.

What a library keeps in its own store (a URL, a model of a hub) is neither fetched
nor loaded. A file of the user's own is loaded where there is one, and left out where
there is none. In place of a state dict the script gets a `LeftOut`; modules take
nothing from it and count as pretrained from then on (`unloaded`). What the libraries
do besides loading is done by their own code: shapes, flags and modes are the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from types import ModuleType
from typing import Any

from freezecheck.live import imports, unloaded, values
from freezecheck.live.downloads import is_weights
from freezecheck.live.patches import Patches

_NOWHERE = os.path.join(os.sep, "left out", "")  # where files are that are not there
# What `from_pretrained` of transformers takes for itself, though it is also the
# name of an attribute that a configuration may have.
_NOT_OF_THE_CONFIG = ("dtype", "torch_dtype", "quantization_config", "generation_config", "tp_plan")


def install(patches: Patches, note: Callable[..., None]) -> None:
    """Leave out weights from now on. `note("weights", *names)` tells which ones so far."""
    kept = _Store(note)
    _torch(patches, kept)
    imports.after(
        patches,
        {
            "safetensors.torch": lambda module: _safetensors(patches, kept, module),
            "huggingface_hub.file_download": lambda module: _hub(patches, kept, module),
            "timm.models._builder": lambda module: _timm(patches, kept, module),
            "timm.models._helpers": lambda module: _timm_file(patches, kept, module),
            "transformers.modeling_utils": lambda module: _transformers(patches, kept, module),
            "peft.utils.save_and_load": lambda module: _peft(patches, kept, module),
        },
    )


class LeftOut(dict[Any, Any]):
    """In place of a checkpoint: a dict with nothing in it, and with another one at every key.

    As a number, such as the epoch to go on from, it is 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dropped: set[str] = set()  # keys that were taken out before it was loaded

    def __missing__(self, key: Any) -> LeftOut:
        return LeftOut()

    def get(self, key: Any, default: Any = None) -> Any:
        """Another one, where the caller has no better idea."""
        return LeftOut() if default is None else default

    def pop(self, key: Any, *default: Any) -> Any:
        """Take out what is not there."""
        self.dropped.add(str(key))
        return LeftOut()

    def __delitem__(self, key: Any) -> None:
        if key in self:
            super().__delitem__(key)
        self.dropped.add(str(key))

    def copy(self) -> LeftOut:
        """Another one, of which the same was taken out."""
        other = LeftOut()
        other.update(self)
        other.dropped |= self.dropped
        return other

    def __index__(self) -> int:
        return 0

    def __float__(self) -> float:
        return 0.0

    def __add__(self, other: Any) -> Any:
        return other

    __radd__ = __add__

    def __lt__(self, other: Any) -> Any:
        return other > 0

    def __gt__(self, other: Any) -> Any:
        return other < 0

    def __format__(self, how: str) -> str:
        return format(0.0, how) if how else "0"


class _Store:
    """What was left out in this process."""

    def __init__(self, note: Callable[..., None]) -> None:
        self.names: list[str] = []
        self._note = note
        note("weights")

    def add(self, name: Any) -> LeftOut:
        """Something more, by the name under which the script or its library asked for it."""
        name = os.fspath(name).removeprefix(_NOWHERE)
        if name not in self.names:
            self.names.append(name)
            self._note("weights", *self.names)
        return LeftOut()

    def unless_there(self, load: Callable[[], Any], path: Any) -> Any:
        """The user's own file, or what stands for it where it does not exist."""
        try:
            return load()
        except FileNotFoundError:
            if not isinstance(path, (str, os.PathLike)) or os.path.exists(path):
                raise
            return self.add(path)


def _pass_for_loaded(model: Any, but: Collection[str] = ()) -> None:
    """It counts as pretrained, and lets gradients through as if it were: a norm layer at the end
    of a residual branch often begins at a weight of 0, which it leaves for ever in training."""
    unloaded.add(model, but)
    for module in model.modules():
        weight = module._parameters.get("weight")
        if weight is not None and weight.dim() == 1 and values.is_zero(weight):
            weight.data.fill_(1)


def _base(url: str) -> str:
    return url.partition("?")[0].rstrip("/").rpartition("/")[2] or url


# -- torch, and what is built on its hub ----------------------------------------


def _torch(patches: Patches, kept: _Store) -> None:
    import torch.hub
    import torch.utils.model_zoo

    torch = values.torch()

    def load(original: Any, f: Any, *args: Any, **kwargs: Any) -> Any:
        return kept.unless_there(lambda: original(f, *args, **kwargs), f)

    def from_url(original: Any, url: str, *args: Any, **kwargs: Any) -> Any:
        return kept.add(_base(url))

    def download(original: Any, url: str, *args: Any, **kwargs: Any) -> Any:
        if is_weights(_base(url)):
            kept.add(_base(url))
            return None
        return original(url, *args, **kwargs)

    def load_model(original: Any, self: Any, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        dropped = _nothing(kept, self, state_dict)
        if dropped is None:
            return original(self, state_dict, *args, **kwargs)
        _pass_for_loaded(self, {name.rpartition(".")[0] for name in dropped})
        return _loaded()

    def load_other(original: Any, self: Any, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(state_dict, LeftOut):
            original(self, state_dict, *args, **kwargs)

    patches.around(torch, "load", load)
    patches.around(torch.hub, "load_state_dict_from_url", from_url)
    patches.put(torch.utils.model_zoo, "load_url", torch.hub.load_state_dict_from_url)
    patches.around(torch.hub, "download_url_to_file", download)
    patches.around(torch.nn.Module, "load_state_dict", load_model)
    schedulers = {k for k in vars(torch.optim.lr_scheduler).values() if isinstance(k, type)}
    for kind in (torch.optim.Optimizer, torch.amp.GradScaler, *schedulers):
        if "load_state_dict" in vars(kind):
            patches.around(kind, "load_state_dict", load_other)


def _nothing(kept: _Store, module: Any, state: Any) -> Iterable[str] | None:
    """What was taken out of a state dict that was left out; None: it is a real one.

    Scripts make a state dict of their own from the one that they were given: a filtered one,
    which is empty, or the model's own, updated.
    """
    if isinstance(state, LeftOut) and not state:
        return state.dropped
    if not kept.names or not hasattr(state, "items"):
        return None
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    same = own and all(k in own and _is_same(own[k], tensor) for k, tensor in state.items())
    return () if same else None


def _loaded() -> Any:
    """What a load returns in which everything fitted."""
    return values.torch().nn.modules.module._IncompatibleKeys([], [])


def _is_same(one: Any, other: Any) -> bool:
    return one is other or (
        hasattr(other, "data_ptr") and one.numel() > 0 and one.data_ptr() == other.data_ptr()
    )


def _safetensors(patches: Patches, kept: _Store, module: ModuleType) -> None:
    def load(original: Any, filename: Any, *args: Any, **kwargs: Any) -> Any:
        return kept.unless_there(lambda: original(filename, *args, **kwargs), filename)

    patches.around(module, "load_file", load)


def _hub(patches: Patches, kept: _Store, module: ModuleType) -> None:
    """A file of weights of the hub: its path, at which nothing is."""

    def download(original: Any, repo_id: str, filename: str, *args: Any, **kwargs: Any) -> Any:
        if not is_weights(filename):
            return original(repo_id, filename, *args, **kwargs)
        return os.path.join(_NOWHERE, repo_id, filename)

    patches.around(module, "hf_hub_download", download)


# -- timm -------------------------------------------------------------------------


def _timm(patches: Patches, kept: _Store, module: ModuleType) -> None:
    def load(original: Any, model: Any, *args: Any, **kwargs: Any) -> None:
        config = args[0] if args else kwargs.get("pretrained_cfg")
        config = config or getattr(model, "pretrained_cfg", None) or {}
        classes = args[1] if len(args) > 1 else kwargs.get("num_classes", 1000)
        own, url = config.get("file"), _base(config.get("url") or "")
        name = own or config.get("hf_hub_id") or url
        if config.get("state_dict") or not name or (own and os.path.exists(own)):
            original(model, *args, **kwargs)
            return
        kept.add(str(name))
        heads = config.get("classifier") or ()
        heads = (heads,) if isinstance(heads, str) else heads
        _pass_for_loaded(model, heads if classes != config.get("num_classes", classes) else ())

    patches.around(module, "load_pretrained", load)


def _timm_file(patches: Patches, kept: _Store, module: ModuleType) -> None:
    def load(original: Any, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
        return kept.unless_there(
            lambda: original(checkpoint_path, *args, **kwargs), checkpoint_path
        )

    patches.around(module, "load_state_dict", load)


# -- transformers and peft ----------------------------------------------------------


def _transformers(patches: Patches, kept: _Store, module: ModuleType) -> None:
    owner = module.PreTrainedModel
    original = vars(owner)["from_pretrained"].__func__
    configuration: Any = getattr(module, "PreTrainedConfig", None) or module.PretrainedConfig

    def from_pretrained(
        cls: Any,
        pretrained_model_name_or_path: Any,
        *args: Any,
        config: Any = None,
        **kwargs: Any,
    ) -> Any:
        name = pretrained_model_name_or_path
        if name is None or kwargs.get("state_dict") is not None or _is_own(name, **kwargs):
            return original(cls, name, *args, config=config, **kwargs)
        whole = not kwargs.get("ignore_mismatched_sizes")
        if not isinstance(config, configuration):
            own = {key: kwargs.pop(key) for key in _NOT_OF_THE_CONFIG if key in kwargs}
            config, kwargs = cls.config_class.from_pretrained(
                config or name, return_unused_kwargs=True, **kwargs
            )
            kwargs |= own
        kept.add(name)
        # The library's own way to build a model without files: all of it is then "missing".
        told = original(cls, None, *args, config=config, state_dict={}, **kwargs)
        model = told[0] if isinstance(told, tuple) else told
        model.config.name_or_path = model.name_or_path = os.fspath(name)
        made_for = getattr(config, "architectures", None) or [cls.__name__]
        # A head that the weights were not made for starts anew.
        _pass_for_loaded(model if whole and cls.__name__ in made_for else model.base_model)
        return told

    patches.put(owner, "from_pretrained", classmethod(from_pretrained))


def _is_own(name: Any, adapter_kwargs: Any = None, **options: Any) -> bool:
    """It has weights of the user's own, or adapters, without which it is another model."""
    adapters = "_adapter_model_path" in (adapter_kwargs or {})
    return adapters or _has_weights(name, options.get("subfolder") or "")


def _has_weights(name: Any, subfolder: str) -> bool:
    """A folder of the user's own, with weights in it."""
    folder = os.path.join(name, subfolder)
    if not os.path.isdir(folder):
        return False
    return any(
        name.endswith((".safetensors", ".gguf"))
        or (name.startswith(("pytorch_model", "adapter_model")) and name.endswith(".bin"))
        for name in os.listdir(folder)
    )


def _peft(patches: Patches, kept: _Store, module: ModuleType) -> None:
    def load(original: Any, model_id: Any, *args: Any, **kwargs: Any) -> Any:
        if _has_weights(model_id, kwargs.get("subfolder") or ""):
            return original(model_id, *args, **kwargs)
        return kept.add(model_id)

    def put(
        original: Any, model: Any, peft_model_state_dict: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if not isinstance(peft_model_state_dict, LeftOut):
            return original(model, peft_model_state_dict, *args, **kwargs)
        adapter = args[0] if args else kwargs.get("adapter_name", "default")
        for path, part in model.named_modules():
            if adapter in path.split("."):
                _pass_for_loaded(part)
        return _loaded()

    patches.around(module, "load_peft_weights", load)
    patches.around(module, "set_peft_model_state_dict", put)
