"""What a function of the user's returned, judged: the end of `freezecheck inspect train.py::build`.

Runs in the process that has called the function, which is thrown away afterwards. Where the
function brought batches and a loss, one real forward and backward is made, so that there are
gradients to judge by. No optimizer steps, and no mode is changed: what the user's loop does about
modes is not known here.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any, NoReturn

from freezecheck.live import child, naming, roots
from freezecheck.live.batch import TARGETS, to
from freezecheck.live.optimizers import unwrap as unwrap_optimizer
from freezecheck.live.record import Recorder
from freezecheck.live.returned import Returned, sort
from freezecheck.live.schedulers import unwrap as unwrap_scheduler
from freezecheck.live.still import park, told
from freezecheck.live.tree import unwrap
from freezecheck.snapshot import Snapshot, summarise


class NotTried(Exception):
    """Why no forward and backward was made, in words."""


def judge(returned: Any, function: Any, name: str) -> str:
    """Report on what the function returned, and hold still; or say in one line why not."""
    things = sort(returned, function)
    if things.models:
        _report(things, name)
    return _unusable(things, returned, name)


def _report(things: Returned, name: str) -> NoReturn:
    """Write the report of this process, and hold still."""
    assert child.running is not None  # torch is there, so recording began
    folder, recorder, note = child.running
    until, remarks = "call", []
    if not things.optimizers:
        remarks.append(f"`{name}` returned no optimizer: nothing about optimizers was checked")
    if things.others:
        remarks.append(f"not looked at: {summarise(list(things.others), 4)}")
    try:
        _backward(things)
        until = "backward"
    except NotTried as reason:
        remarks.append(f"judged without gradients: {reason}")
    try:
        snapshot = _capture(things, recorder, forward=until == "backward", remarks=remarks)
        child.write(folder, recorder, stepped=True, snapshot=snapshot)
    except Exception as error:  # our own mistake
        note("failed", told(error))
        park(folder)
    note("until", until)
    note("remarks", json.dumps(remarks))
    note("report")
    park(folder)


def _unusable(things: Returned, returned: Any, name: str) -> str:
    """It returned no model."""
    what = "nothing" if returned is None else f"a {type(returned).__name__}"
    parts = [*things.optimizers, *things.schedulers, *things.others]
    if isinstance(returned, (list, tuple, dict)) and parts:
        what += f" of {summarise(parts, 4)}"
    return (
        f"`{name}` returned {what}, with no model in it: it has to return the model and the"
        " optimizer, as a tuple or a dict"
    )


# -- one forward and backward ----------------------------------------------------


def _backward(things: Returned) -> None:
    """The gradients of one batch, as a training step would have them; NotTried with the reason."""
    networks = [m for m in _trained(things).values() if m is not things.loss]
    missing = [
        w for w, thing in (("loader", things.loader), ("loss", things.loss)) if thing is None
    ]
    if missing == ["loader", "loss"]:
        raise NotTried("no loader and no loss were returned")
    if things.loader is None:
        raise NotTried("no loader was returned")
    if len(networks) != 1:
        raise NotTried("several models are trained, and which one takes a batch is not known")
    (model,) = networks
    before = [p for m in things.models.values() for p in m.parameters() if p.grad is None]
    try:
        device = next(model.parameters()).device
        batch = to(next(iter(things.loader), None), device)
        _loss(model, things.loss, batch).backward()
    except NotTried:
        raise
    except Exception as error:
        for parameter in before:  # half of a backward would tell a wrong story
            parameter.grad = None
        told = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
        raise NotTried(f"a forward and backward on one batch raised {told[:200]}") from None


def _loss(model: Any, loss: Any, batch: Any) -> Any:
    """The loss of a batch: a pair of inputs and targets, or a dict of them."""
    if batch is None:
        raise NotTried("the loader has no batch")
    if isinstance(batch, Mapping):
        found = _own_loss(model, loss, dict(batch))
        if found is not None:
            return found
    elif loss is None:
        raise NotTried("no loss was returned")
    elif isinstance(batch, (list, tuple)) and len(batch) > 1:
        *inputs, targets = batch
        return loss(model(*inputs), targets)
    raise NotTried(f"a batch is a {type(batch).__name__}, and how the model takes it is not known")


def _own_loss(model: Any, loss: Any, batch: dict[str, Any]) -> Any:
    """Of a dict: the loss that the model itself returns, or that of the targets in it."""
    accepted = _accepts(model, batch)
    if loss is None:
        output = model(**accepted)
        own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if own is None:
            raise NotTried("no loss was returned, neither by the function nor by the model")
        return own
    key = next((key for key in TARGETS if key in batch), None)
    if key is None:
        return None
    targets = batch[key]
    accepted.pop(key, None)
    output = model(**accepted)
    return loss(getattr(output, "logits", output), targets)


def _accepts(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """The entries of a batch that the model's forward has a parameter for."""
    parameters = inspect.signature(unwrap(model)[0].forward).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(batch)
    return {key: value for key, value in batch.items() if key in parameters}


# -- the setup as plain data -------------------------------------------------------


def _capture(
    things: Returned, recorder: Recorder, *, forward: bool, remarks: list[str]
) -> Snapshot:
    """The setup that was returned, and the lines where its parts were made."""
    models = _trained(things)
    aside = [label for label in things.models if label not in models]
    if aside:
        remarks.append(f"not looked at, since in no optimizer: {summarise(aside, 4)}")
    # Wrapped ones (accelerate's) are not those that the record saw being built.
    optimizers = {label: unwrap_optimizer(o) for label, o in things.optimizers.items()}
    schedulers = {label: unwrap_scheduler(s) for label, s in things.schedulers.items()}
    return naming.capture_returned(recorder, models, optimizers, schedulers, forward=forward)


def _trained(things: Returned) -> dict[str, Any]:
    """The models that the setup is about: as in a run, those that an optimizer holds something
    of, or that got a gradient; all of them where there are none such. A model that was not
    returned but is alive and in an optimizer is one of them, too."""
    optimizers = things.optimizers.values()
    held = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
    chosen = {
        label: model
        for label, model in things.models.items()
        if any(id(p) in held or p.grad is not None for p in model.parameters())
    }
    chosen = chosen or dict(things.models)
    owned = {id(p) for m in chosen.values() for p in m.parameters()}
    for root in roots.live_roots() if held - owned else ():
        if any(id(p) in held - owned for p in root.parameters()):
            chosen.setdefault(type(root).__name__, root)
    return chosen
