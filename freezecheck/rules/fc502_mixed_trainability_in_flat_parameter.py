from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Note, Severity, Site
from freezecheck.rule import Rule
from freezecheck.snapshot import Flat, Snapshot, count, millions
from freezecheck.timeline import FLAG, Timeline

_WORTH = 0.1  # share of frozen entries below which the waste is small


class MixedTrainabilityInFlatParameter(Rule):
    """FSDP joined frozen and trainable tensors into one flat parameter.

    ## What it does

    Finds units of `FullyShardedDataParallel` whose flat parameter holds frozen tensors
    beside trainable ones.

    ## Why it matters

    A flat parameter has one gradient for everything in it. The frozen tensors stay as
    they are, but the memory of a full gradient is kept, and reduced across ranks at every
    step, for them too: most of what freezing should have saved. With
    `use_orig_params=False` the same mixture is an error.

    ## Bad

    ```python
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    for layer in (model[0], model[2]):
        layer.requires_grad_(False)
    model = FSDP(model, use_orig_params=True, device_id=torch.device("cpu"))
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-3)  # <- FC502

    loss = nn.functional.cross_entropy(model(torch.randn(4, 8)), torch.tensor([0, 1, 1, 0]))
    loss.backward()
    optimizer.step()
    ```

    ## Good

    Wrap what is frozen and what trains as units of their own:

    ```python
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    body = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
    body.requires_grad_(False)
    cpu = torch.device("cpu")
    model = nn.Sequential(FSDP(body, use_orig_params=True, device_id=cpu), nn.Linear(8, 2))
    model = FSDP(model, use_orig_params=True, device_id=cpu)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-3)

    loss = nn.functional.cross_entropy(model(torch.randn(4, 8)), torch.tensor([0, 1, 1, 0]))
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    Each unit's flat parameter is asked for the flags of the tensors that it was made of.
    A unit is reported where a tenth of its entries or more is frozen.

    ## Limits

    FSDP2 (`fully_shard`) keeps tensors apart and has no such units.

    ## References

    - [torch.distributed.fsdp.FullyShardedDataParallel](https://docs.pytorch.org/docs/stable/fsdp.html), on `use_orig_params`
    """

    code = "FC502"
    name = "mixed-trainability-in-flat-parameter"
    severity = Severity.WARNING

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        if not now.flats:
            return
        for index, model in enumerate(now.models):
            mixed = [f for f in now.flats if f.model == index and _is_mixed(f)]
            if not mixed:
                continue
            numel, frozen = sum(f.numel for f in mixed), sum(f.frozen_numel for f in mixed)
            paths = ", ".join(f"{now.path(index, f.path) or model.label}" for f in mixed[:3])
            yield self.finding(
                f"{count(len(mixed), 'FSDP unit')} of {model.label} ({paths}) joined"
                f" {count(sum(f.frozen for f in mixed), 'frozen tensor')} with trainable ones: a"
                f" gradient of {millions(numel)} entries is kept and reduced where"
                f" {millions(numel - frozen)} would do.",
                site=_site(now),
                symbol=now.path(index, mixed[0].path) or model.label,
                notes=[
                    Note("frozen here", event.site)
                    for event in past.of(FLAG)
                    if event.value is False
                ][:3],
                fix="wrap frozen and trainable modules as units of their own, for instance with"
                " an auto_wrap_policy that looks at requires_grad",
                subject=model.label,
            )


def _is_mixed(flat: Flat) -> bool:
    return 0 < flat.frozen < flat.tensors and flat.frozen_numel >= _WORTH * flat.numel


def _site(now: Snapshot) -> Site | None:
    return next((o.site for o in now.optimizers if o.site and not o.idle), None)
