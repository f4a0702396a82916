"""Why a script ended: weights, or other files of a model, that could not be had.

Told from the error that ended it, and from the functions of the libraries that it
passed through: each library, and each way to be offline, has its own class of error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

_SUFFIXES = (".pth", ".pt", ".pth.tar", ".pt.tar", ".ckpt", ".safetensors", ".bin")
# Functions that fetch and load weights, of torch, timm, transformers and peft.
_WEIGHTS = {
    "load_state_dict_from_url",
    "load_pretrained",
    "_get_resolved_checkpoint_files",
    "load_peft_weights",
}
# Functions that fetch code, configurations, vocabularies.
_OTHERS = {"_get_cache_or_reload", "cached_file", "cached_files", "hf_hub_download"}


def is_weights(path: str) -> bool:
    """The name is that of a file of weights."""
    return path.lower().endswith(_SUFFIXES)


def tell(note: Callable[..., None], error: BaseException | None = None) -> None:
    """`note("unavailable", kind, text)` if that is what ended a script.

    `error` is what ended it; without it, what Python has printed by now for that reason.
    """
    error = error or getattr(sys, "last_value", None)
    found = None if error is None else unavailable(error)
    if found is not None:
        note("unavailable", *found)


def unavailable(error: BaseException) -> tuple[str, str] | None:
    """("weights", "file" or "other", what the error says); None: it is about something else."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # Of a process that another one started, there is the text of its error alone.
    text = lines[-1 if any(line.startswith("Traceback (most") for line in lines) else 0]
    chain = list(_chain(error))
    functions = {name for each in chain for name in _functions(each)}
    functions |= {line.rpartition(", in ")[2] for line in lines if line.startswith("  File ")}
    if functions & _WEIGHTS:
        return "weights", text
    for each in chain:
        name = getattr(each, "filename", None)
        if isinstance(each, FileNotFoundError) and isinstance(name, str) and is_weights(name):
            return "file", name
    if functions & _OTHERS and any(isinstance(each, OSError) for each in chain):
        return "other", text
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that led to it, the last one first."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def _functions(error: BaseException) -> Iterator[str]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame.f_code.co_name
        trace = trace.tb_next
