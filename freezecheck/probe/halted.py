"""Models on several devices, in which a pass was broken off halfway."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def halted(modules: Iterable[Any]) -> None:
    """Let DistributedDataParallel and FSDP2 forget the forward or backward that they are in; in
    between two steps there is none. In versions of torch that have no way to do so, sharded
    parameters are no longer gathered, and DDP refuses a step after a halted backward."""
    for module in modules:
        kinds = {kind.__name__ for kind in type(module).__mro__}
        if "FSDPModule" in kinds:
            if not hasattr(module, "reset_iter_state"):
                module.reshard()
            elif module._get_fsdp_state()._is_root:
                module.reset_iter_state()
        elif "DistributedDataParallel" in kinds and hasattr(module.reducer, "_reset_state"):
            module.reducer._reset_state()
