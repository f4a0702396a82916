"""Files of tensors under `--fake`: a file gets a ticket for what stays in memory.

A script may save its first weights and load them again before it trains. Fake tensors
have nothing to write: `torch.save` writes a ticket, for which `torch.load` gives back
what was saved, wherever the file has been moved or copied to; safetensors writes
zeros, as a hole that takes no room. To be installed after `diverted`, which keeps all of
it from the user's own files. Large files that are there are not read.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

from freezecheck.live import imports
from freezecheck.live.patches import Patches
from freezecheck.live.values import torch

_SMALL = 2**26  # bytes up to which a file is read for real
_TICKET = "freezecheck: what was saved here is in memory, as number"

# Names that the format gives to types.
_TYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


def install(patches: Patches, is_fake: Callable[[Any], bool]) -> None:
    """Have fake tensors saved and loaded."""
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    kept: list[Any] = []

    def save(original: Any, obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
        kept.append(copy.deepcopy(obj))
        original({_TICKET: len(kept) - 1}, f)

    def load(original: Any, f: Any, *args: Any, **kwargs: Any) -> Any:
        if args or "map_location" in kwargs:
            args, kwargs["map_location"] = args[1:], "cpu"
        if _is_large(f):
            return original(f, *args, **kwargs)  # the mode leaves the tensors on the disk
        with unset_fake_temporarily():
            found = original(f, *args, **kwargs)
        if isinstance(found, dict) and found.keys() == {_TICKET}:
            return copy.deepcopy(kept[found[_TICKET]])
        return found

    def safetensors(module: ModuleType) -> None:
        def save_file(
            original: Any, tensors: Any, filename: Any, metadata: Any = None, **kwargs: Any
        ) -> None:
            if any(is_fake(tensor) for tensor in tensors.values()):
                _write_hole(tensors, filename, metadata)
            else:
                original(tensors, filename, metadata, **kwargs)

        patches.around(module, "save_file", save_file)

    def pointer(original: Any, self: Any) -> int:
        """Tensors are told to share memory by it, which those with none at all do not."""
        return int(self._cdata if self.device.type == "meta" else original(self))

    patches.around(torch(), "save", save)
    patches.around(torch(), "load", load)
    patches.around(torch().UntypedStorage, "data_ptr", pointer)
    imports.after(patches, {"safetensors.torch": safetensors})


def _is_large(file: Any) -> bool:
    """A path to more than one would read to look at a setup."""
    if not isinstance(file, (str, os.PathLike)):
        return False
    try:
        return os.stat(file).st_size > _SMALL
    except OSError:
        return False


def _write_hole(tensors: dict[str, Any], path: Any, metadata: Any) -> None:
    """A file in the safetensors format with nothing but zeros, which no disk has to keep."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        kind = _TYPES[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
