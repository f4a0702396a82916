"""The hooks inside forward passes: which modules run and how, what losses are given, checkpoints.

They cost a little at every module, and compilers would trace them: compiled code runs eagerly
while they are in place.
"""

from __future__ import annotations

from typing import Any

from freezecheck.live import heard, values
from freezecheck.live.losses import spare_script
from freezecheck.live.patches import Patches
from freezecheck.live.record import Recorder
from freezecheck.live.traits import traits
from freezecheck.timeline import CHECKPOINT, LOSS

_LOSSES = (
    "cross_entropy",
    "nll_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "mse_loss",
)
_MOMENTUM = 0.1  # of a batch norm, where nothing else is said

# Names of autograd's nodes, without "Backward0".
_ACTIVATIONS = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}
_REARRANGES = frozenset(
    """Alias Clone Index Permute Reshape ReshapeAlias Select Slice Squeeze T ToCopy Transpose
    Unsqueeze UnsafeView View""".split()
)


def install(recorder: Recorder, patches: Patches) -> None:
    """Put them in place; `patches.undo()` takes them out."""
    torch = values.torch()
    _forwards(recorder, patches, torch)
    _losses(recorder, patches, torch)
    _checkpoints(recorder, patches)
    _compile(patches, torch)


def _forwards(recorder: Recorder, patches: Patches, torch: Any) -> None:
    """Which modules run, in which mode, with or without gradients."""
    dark = heard.Dark(recorder, torch)
    in_backward = getattr(torch._C, "_current_graph_task_id", lambda: -1)

    def seen(instance: Any, args: tuple[Any, ...]) -> None:
        if recorder.resting:
            return
        if torch.is_grad_enabled():
            recorder.modes[id(instance)] = instance.training
            if args and traits(type(instance)).norm == "batch":
                recorder.samples[id(instance)] = args[0].shape[0]
                if in_backward() != -1 and getattr(instance, "momentum", None) == _MOMENTUM:
                    recorder.recomputed.add(id(instance))
        elif recorder.dark.get(id(instance)) != recorder.steps:
            dark.ran(instance)

    handle = torch.nn.modules.module.register_module_forward_pre_hook(seen)
    patches.later(handle.remove)


def _losses(recorder: Recorder, patches: Patches, torch: Any) -> None:
    """The first call of each loss function that trains is looked at, then never again."""
    functional = torch.nn.functional
    originals = {name: getattr(functional, name) for name in _LOSSES}
    waiting = dict(originals)

    def listen(name: str) -> None:
        def called(original: Any, *args: Any, **kwargs: Any) -> Any:
            scores = args[0] if args else kwargs.get("input")
            known = name not in waiting or recorder.resting
            if not known and isinstance(scores, torch.Tensor) and scores.requires_grad:
                del waiting[name]
                recorder.note(LOSS, value=name, **_looks(scores, torch))
            return original(*args, **kwargs)

        patches.around(functional, name, called)

    for name in _LOSSES:
        listen(name)

    spare_script(patches, originals)


def _looks(scores: Any, torch: Any) -> dict[str, Any]:
    """What a loss function was given: raw scores, probabilities or their logarithms.

    `looks` is "probabilities" where every row is non-negative and sums to 1,
    "log-probabilities" where its exponentials do, "unit" where all entries lie
    in [0, 1], else "scores". Rows run along dimension 1 (the only one if 1-D). `made`
    names the activation whose output it is, and `high` is its largest entry.
    """
    facts: dict[str, Any] = {"shape": tuple(scores.shape), "looks": "scores", "made": _made(scores)}
    real = values.readable(scores)
    if real is None or not real.is_floating_point() or real.numel() == 0:
        return {**facts, "looks": None}
    tolerance = 1e-3 if real.dtype in (torch.float32, torch.float64) else 3e-2
    real = real.float()
    rows = 1 if real.dim() > 1 else 0
    several = real.shape[rows] > 1
    low, high = (float(end) for end in real.aminmax())
    facts["high"] = high

    def one(sums: Any) -> bool:
        return bool(((sums - 1).abs() < tolerance).all())

    if low >= 0 and high <= 1:
        facts["looks"] = "probabilities" if several and one(real.sum(rows)) else "unit"
    elif high <= 0 and several and one(real.exp().sum(rows)):
        facts["looks"] = "log-probabilities"
    return facts


def _made(tensor: Any) -> str | None:
    """The activation that made a tensor, past operations that only rearrange it."""
    node = tensor.grad_fn
    while node is not None:
        operation = type(node).__name__.partition("Backward")[0]
        if operation in _ACTIVATIONS:
            return _ACTIVATIONS[operation]
        if operation not in _REARRANGES or not node.next_functions:
            return None
        node = node.next_functions[0][0]
    return None


def _checkpoints(recorder: Recorder, patches: Patches) -> None:
    """Reentrant checkpoints that no gradient can pass."""
    import torch.utils.checkpoint as home

    torch = values.torch()

    def enter(original: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        # torch's own default is True, with a warning, where nothing is given.
        if kwargs.get("use_reentrant") is not False and torch.is_grad_enabled():
            tensors = [a for a in args if isinstance(a, torch.Tensor)]
            if tensors and not any(t.requires_grad for t in tensors):
                subject = _module_behind(function, torch.nn.Module)
                recorder.note(CHECKPOINT, subject, module=subject is not None)
        return original(function, *args, **kwargs)

    patches.around(home, "checkpoint", enter)


def _module_behind(function: Any, kind: type[Any]) -> Any | None:
    """The module that a checkpointed function runs: itself, a method's, a closure's only one."""
    function = getattr(function, "func", function)  # functools.partial
    owner = getattr(function, "__self__", function)
    if isinstance(owner, kind):
        return owner
    cells = getattr(function, "__closure__", None) or ()
    modules = [c.cell_contents for c in cells if isinstance(_content(c), kind)]
    return modules[0] if len(modules) == 1 else None


def _content(cell: Any) -> Any | None:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _compile(patches: Patches, torch: Any) -> None:
    """Compiled code runs eagerly while we listen: hooks and losses then behave as in eager.

    Only once something is compiled, since the compiler's import takes a second.
    """
    if not hasattr(torch.compiler, "set_stance"):  # torch < 2.6
        return

    def compiled(original: Any, *args: Any, **kwargs: Any) -> Any:
        torch.compiler.set_stance("force_eager")
        patches.later(lambda: torch.compiler.set_stance("default"))
        return original(*args, **kwargs)

    patches.around(torch, "compile", compiled)
