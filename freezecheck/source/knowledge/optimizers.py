"""Optimizers, learning-rate schedulers, and the functions of libraries that make them.

One line each: the arguments of its constructor with their defaults. A default of
`lr` is what a group gets that names no rate of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from freezecheck.source.knowledge.signature import Signature

_ADAM = "lr=1e-3 betas=(0.9,0.999) eps=1e-8"
_FLAGS = "foreach=None maximize=False capturable=False differentiable=False"
_OWN = "caution=False corrected_weight_decay=False"

OPTIMIZERS: dict[str, str] = {
    "torch.optim.Adadelta": (
        "params lr=1.0 rho=0.9 eps=1e-6 weight_decay=0"
        " foreach=None * capturable=False maximize=False differentiable=False"
    ),
    "torch.optim.Adafactor": (
        "params lr=1e-2 beta2_decay=-0.8 eps=(None,1e-3) d=1.0 weight_decay=0.0"
        " * foreach=None maximize=False"
    ),
    "torch.optim.Adagrad": (
        "params lr=1e-2 lr_decay=0 weight_decay=0 initial_accumulator_value=0 eps=1e-10"
        " foreach=None * maximize=False differentiable=False fused=None"
    ),
    "torch.optim.Adam": (
        f"params {_ADAM} weight_decay=0 amsgrad=False * {_FLAGS} fused=None decoupled_weight_decay=False"
    ),
    "torch.optim.AdamW": (f"params {_ADAM} weight_decay=1e-2 amsgrad=False * {_FLAGS} fused=None"),
    "torch.optim.Adamax": (
        "params lr=2e-3 betas=(0.9,0.999) eps=1e-8 weight_decay=0 foreach=None"
        " * maximize=False differentiable=False capturable=False"
    ),
    "torch.optim.ASGD": (
        "params lr=1e-2 lambd=1e-4 alpha=0.75 t0=1e6 weight_decay=0"
        " foreach=None maximize=False differentiable=False capturable=False"
    ),
    "torch.optim.LBFGS": (
        "params lr=1 max_iter=20 max_eval=None tolerance_grad=1e-7 tolerance_change=1e-9"
        " history_size=100 line_search_fn=None * maximize=False"
    ),
    "torch.optim.Muon": (
        "params lr=1e-3 weight_decay=0.1 momentum=0.95 nesterov=True"
        " ns_coefficients=(3.4445,-4.775,2.0315) eps=1e-7 ns_steps=5 adjust_lr_fn=None"
    ),
    "torch.optim.NAdam": (
        "params lr=2e-3 betas=(0.9,0.999) eps=1e-8 weight_decay=0 momentum_decay=4e-3"
        f" decoupled_weight_decay=False * {_FLAGS}"
    ),
    "torch.optim.RAdam": f"params {_ADAM} weight_decay=0 decoupled_weight_decay=False * {_FLAGS}",
    "torch.optim.RMSprop": (
        "params lr=1e-2 alpha=0.99 eps=1e-8 weight_decay=0 momentum=0 centered=False"
        " capturable=False foreach=None maximize=False differentiable=False"
    ),
    "torch.optim.Rprop": f"params lr=1e-2 etas=(0.5,1.2) step_sizes=(1e-6,50) * {_FLAGS}",
    "torch.optim.SGD": (
        "params lr=1e-3 momentum=0 dampening=0 weight_decay=0 nesterov=False"
        " * maximize=False foreach=None differentiable=False fused=None"
    ),
    "torch.optim.SparseAdam": f"params {_ADAM} maximize=False",
    "timm.optim.AdaBelief": (
        "params lr=1e-3 betas=(0.9,0.999) eps=1e-16 weight_decay=0 amsgrad=False"
        " decoupled_decay=True fixed_decay=False rectify=True degenerated_to_sgd=True"
    ),
    "timm.optim.Adafactor": (
        "params lr=None eps=1e-30 eps_scale=1e-3 clip_threshold=1.0 decay_rate=-0.8 betas=None"
        " weight_decay=0.0 scale_parameter=True warmup_init=False min_dim_size_to_factor=16"
        " caution=False"
    ),
    "timm.optim.AdafactorBigVision": (
        "params lr=1.0 min_dim_size_to_factor=16 decay_rate=0.8 decay_offset=0 beta2_cap=0.999"
        " momentum=0.9 **"
    ),
    "timm.optim.Adahessian": (
        "params lr=0.1 betas=(0.9,0.999) eps=1e-8 weight_decay=0.0 hessian_power=1.0"
        " update_each=1 n_samples=1 avg_conv_kernel=False"
    ),
    "timm.optim.AdamP": f"params {_ADAM} weight_decay=0 delta=0.1 wd_ratio=0.1 nesterov=False **",
    "timm.optim.AdamWLegacy": f"params {_ADAM} weight_decay=1e-2 amsgrad=False {_OWN} **",
    "timm.optim.Adan": (
        "params lr=1e-3 betas=(0.98,0.92,0.99) eps=1e-8 weight_decay=0.0 no_prox=False **"
    ),
    "timm.optim.Adopt": "params lr=1e-3 betas=(0.9,0.9999) eps=1e-6 clip_exp=0.333 weight_decay=0.0 **",
    "timm.optim.LaProp": "params lr=4e-4 betas=(0.9,0.999) eps=1e-15 weight_decay=0.0 **",
    "timm.optim.Lamb": (
        "params lr=1e-3 bias_correction=True betas=(0.9,0.999) eps=1e-6 weight_decay=0.01"
        " grad_averaging=True max_grad_norm=1.0 trust_clip=False always_adapt=False **"
    ),
    "timm.optim.Lars": (
        "params lr=1.0 momentum=0 dampening=0 weight_decay=0 nesterov=False trust_coeff=1e-3"
        " eps=1e-8 trust_clip=False always_adapt=False **"
    ),
    "timm.optim.Lion": "params lr=1e-4 betas=(0.9,0.99) weight_decay=0.0 **",
    "timm.optim.MADGRAD": "params lr=1e-2 momentum=0.9 weight_decay=0 eps=1e-6 decoupled_decay=False",
    "timm.optim.Mars": (
        "params lr=3e-3 betas=(0.9,0.99) eps=1e-8 weight_decay=0.0 gamma=0.025 mars_type='adamw' **"
    ),
    "timm.optim.NAdamLegacy": (
        "params lr=2e-3 betas=(0.9,0.999) eps=1e-8 weight_decay=0 schedule_decay=4e-3"
    ),
    "timm.optim.NAdamW": f"params {_ADAM} weight_decay=1e-2 **",
    "timm.optim.NvNovoGrad": "params lr=1e-3 betas=(0.95,0.98) eps=1e-8 weight_decay=0 **",
    "timm.optim.RAdamLegacy": f"params {_ADAM} weight_decay=0",
    "timm.optim.RMSpropTF": (
        "params lr=1e-2 alpha=0.9 eps=1e-10 weight_decay=0 momentum=0.0 centered=False **"
    ),
    "timm.optim.SGDP": (
        "params lr momentum=0 dampening=0 weight_decay=0 nesterov=False eps=1e-8 delta=0.1 wd_ratio=0.1 **"
    ),
    "timm.optim.SGDW": "params lr=1e-3 momentum=0.0 dampening=0.0 weight_decay=0.0 nesterov=False **",
    "transformers.Adafactor": (
        "params lr=None eps=(1e-30,1e-3) clip_threshold=1.0 decay_rate=-0.8 beta1=None"
        " weight_decay=0.0 scale_parameter=True relative_step=True warmup_init=False"
    ),
    # Left the library, still in many scripts.
    "transformers.AdamW": (
        "params lr=1e-3 betas=(0.9,0.999) eps=1e-6 weight_decay=0.0 correct_bias=True"
        " no_deprecation_warning=False"
    ),
}

_EIGHT_BIT = "amsgrad=False optim_bits=32 args=None min_8bit_size=4096 percentile_clipping=100 **"
_FUSED = (
    "params lr=1e-3 bias_correction=True betas=(0.9,0.999) eps=1e-8 adam_w_mode=True"
    " weight_decay=0.0 amsgrad=False **"
)
# Libraries that are rarely installed where scripts are checked.
for _prefix in ("", "Paged"):
    for _bits in ("", "8bit", "32bit"):
        for _name, _decay in (("Adam", "0"), ("AdamW", "1e-2")):
            OPTIMIZERS[f"bitsandbytes.optim.{_prefix}{_name}{_bits}"] = (
                f"params {_ADAM} weight_decay={_decay} {_EIGHT_BIT}"
            )
        OPTIMIZERS[f"bitsandbytes.optim.{_prefix}Lion{_bits}"] = (
            "params lr=1e-4 betas=(0.9,0.99) weight_decay=0 **"
        )
OPTIMIZERS |= {
    "bitsandbytes.optim.SGD": ("params lr momentum=0 dampening=0 weight_decay=0 nesterov=False **"),
    "bitsandbytes.optim.SGD8bit": (
        "params lr momentum=0 dampening=0 weight_decay=0 nesterov=False **"
    ),
    "bitsandbytes.optim.RMSprop": "params lr=1e-2 alpha=0.99 eps=1e-8 weight_decay=0 momentum=0 **",
    "bitsandbytes.optim.LAMB": "params lr=1e-3 bias_correction=True betas=(0.9,0.999) eps=1e-8 **",
    "apex.optimizers.FusedAdam": _FUSED,
    "apex.optimizers.FusedSGD": (
        "params lr momentum=0 dampening=0 weight_decay=0 nesterov=False **"
    ),
    "apex.optimizers.FusedLAMB": (
        "params lr=1e-3 bias_correction=True betas=(0.9,0.999) eps=1e-6 weight_decay=0.01 **"
    ),
    "deepspeed.ops.adam.FusedAdam": _FUSED,
    "deepspeed.ops.adam.DeepSpeedCPUAdam": "model_params lr=1e-3 **",
    "lion_pytorch.Lion": "params lr=1e-4 betas=(0.9,0.99) weight_decay=0.0 **",
    "prodigyopt.Prodigy": "params lr=1.0 betas=(0.9,0.999) **",
    "schedulefree.AdamWScheduleFree": "params lr=2.5e-3 betas=(0.9,0.999) eps=1e-8 **",
    "schedulefree.SGDScheduleFree": "params lr=1.0 momentum=0.9 **",
}

# Name: (arguments, those that take one value per group, those that are written into
# every group in place of the group's own rate).
SCHEDULERS: dict[str, tuple[str, str, str]] = {
    "torch.optim.lr_scheduler.ChainedScheduler": ("schedulers optimizer=None", "", ""),
    "torch.optim.lr_scheduler.ConstantLR": (
        "optimizer factor=0.3333333333333333 total_iters=5 last_epoch=-1",
        "",
        "",
    ),
    "torch.optim.lr_scheduler.CosineAnnealingLR": (
        "optimizer T_max eta_min=0.0 last_epoch=-1",
        "",
        "",
    ),
    "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts": (
        "optimizer T_0 T_mult=1 eta_min=0.0 last_epoch=-1",
        "",
        "",
    ),
    "torch.optim.lr_scheduler.CyclicLR": (
        "optimizer base_lr max_lr step_size_up=2000 step_size_down=None mode='triangular' gamma=1.0"
        " scale_fn=None scale_mode='cycle' cycle_momentum=True base_momentum=0.8 max_momentum=0.9"
        " last_epoch=-1",
        "base_lr max_lr base_momentum max_momentum",
        "base_lr max_lr",
    ),
    "torch.optim.lr_scheduler.ExponentialLR": ("optimizer gamma last_epoch=-1", "", ""),
    "torch.optim.lr_scheduler.LambdaLR": ("optimizer lr_lambda last_epoch=-1", "lr_lambda", ""),
    "torch.optim.lr_scheduler.LinearLR": (
        "optimizer start_factor=0.3333333333333333 end_factor=1.0 total_iters=5 last_epoch=-1",
        "",
        "",
    ),
    "torch.optim.lr_scheduler.MultiStepLR": (
        "optimizer milestones gamma=0.1 last_epoch=-1",
        "",
        "",
    ),
    "torch.optim.lr_scheduler.MultiplicativeLR": (
        "optimizer lr_lambda last_epoch=-1",
        "lr_lambda",
        "",
    ),
    "torch.optim.lr_scheduler.OneCycleLR": (
        "optimizer max_lr total_steps=None epochs=None steps_per_epoch=None pct_start=0.3"
        " anneal_strategy='cos' cycle_momentum=True base_momentum=0.85 max_momentum=0.95"
        " div_factor=25.0 final_div_factor=1e4 three_phase=False last_epoch=-1",
        "max_lr base_momentum max_momentum",
        "max_lr",
    ),
    "torch.optim.lr_scheduler.PolynomialLR": (
        "optimizer total_iters=5 power=1.0 last_epoch=-1",
        "",
        "",
    ),
    "torch.optim.lr_scheduler.ReduceLROnPlateau": (
        "optimizer mode='min' factor=0.1 patience=10 threshold=1e-4 threshold_mode='rel'"
        " cooldown=0 min_lr=0 eps=1e-8",
        "min_lr",
        "",
    ),
    "torch.optim.lr_scheduler.SequentialLR": (
        "optimizer schedulers milestones last_epoch=-1",
        "",
        "",
    ),
    "torch.optim.lr_scheduler.StepLR": ("optimizer step_size gamma=0.1 last_epoch=-1", "", ""),
    "torch.optim.swa_utils.SWALR": (
        "optimizer swa_lr anneal_epochs=10 anneal_strategy='cos' last_epoch=-1",
        "swa_lr",
        "swa_lr",
    ),
    "transformers.get_constant_schedule": ("optimizer last_epoch=-1", "", ""),
    "transformers.get_constant_schedule_with_warmup": (
        "optimizer num_warmup_steps last_epoch=-1",
        "",
        "",
    ),
    "transformers.get_cosine_schedule_with_warmup": (
        "optimizer num_warmup_steps num_training_steps num_cycles=0.5 last_epoch=-1",
        "",
        "",
    ),
    "transformers.get_cosine_with_hard_restarts_schedule_with_warmup": (
        "optimizer num_warmup_steps num_training_steps num_cycles=1 last_epoch=-1",
        "",
        "",
    ),
    "transformers.get_inverse_sqrt_schedule": (
        "optimizer num_warmup_steps timescale=None last_epoch=-1",
        "",
        "",
    ),
    "transformers.get_linear_schedule_with_warmup": (
        "optimizer num_warmup_steps num_training_steps last_epoch=-1",
        "",
        "",
    ),
    "transformers.get_polynomial_decay_schedule_with_warmup": (
        "optimizer num_warmup_steps num_training_steps lr_end=1e-7 power=1.0 last_epoch=-1",
        "",
        "",
    ),
    "transformers.get_scheduler": (
        "name optimizer num_warmup_steps=None num_training_steps=None scheduler_specific_kwargs=None",
        "",
        "",
    ),
    "transformers.optimization.AdafactorSchedule": ("optimizer initial_lr=0.0", "", ""),
    "transformers.optimization.get_wsd_schedule": (
        "optimizer num_warmup_steps num_decay_steps **",
        "",
        "",
    ),
    "timm.scheduler.CosineLRScheduler": ("optimizer t_initial lr_min=0.0 **", "", ""),
    "timm.scheduler.MultiStepLRScheduler": ("optimizer decay_t decay_rate=1.0 **", "", ""),
    "timm.scheduler.PlateauLRScheduler": ("optimizer decay_rate=0.1 patience_t=10 **", "", ""),
    "timm.scheduler.PolyLRScheduler": ("optimizer t_initial power=0.5 lr_min=0.0 **", "", ""),
    "timm.scheduler.StepLRScheduler": ("optimizer decay_t decay_rate=1.0 **", "", ""),
    "timm.scheduler.TanhLRScheduler": ("optimizer t_initial lb=-7.0 ub=3.0 lr_min=0.0 **", "", ""),
    # Returns the scheduler and the number of epochs.
    "timm.scheduler.create_scheduler": ("args optimizer updates_per_epoch=0", "", ""),
    "timm.scheduler.create_scheduler_v2": ("optimizer sched='cosine' num_epochs=300 **", "", ""),
}

# Functions that make an optimizer, or groups for one, from a model or its parameters.
# Given a model, those with `weight_decay` leave out what is frozen and put biases and
# norms in a group without decay.
FACTORIES: dict[str, str] = {
    "timm.optim.create_optimizer": "args model filter_bias_and_bn=True",
    "timm.optim.create_optimizer_v2": (
        "model_or_params opt='sgd' lr=None weight_decay=0.0 momentum=0.9 foreach=None"
        " filter_bias_and_bn=True **"
    ),
    "timm.optim.param_groups_weight_decay": "model weight_decay=1e-5 **",
    "timm.optim.param_groups_layer_decay": "model weight_decay=0.05 **",
}

# Options of groups that the constructor does not take.
_MORE_KEYS = {"torch.optim.AdamW": ("decoupled_weight_decay",)}


class Optimizer:
    """A class of optimizers.

    `lr` is the rate of a group that names none (None: it must be given, or the
    optimizer finds it itself). `keys` are the options that a group may have; None
    where they are not all known.
    """

    __slots__ = ("arguments", "keys", "lr", "type")

    def __init__(self, type: str, signature: str) -> None:
        self.type = type
        self.arguments = Signature(signature)
        self.lr: float | None = self.arguments.defaults.get("lr")
        keys = (*self.arguments.names, *_MORE_KEYS.get(type, ()))
        self.keys = None if self.arguments.open else frozenset(keys)


class Scheduler:
    """A class of learning-rate schedulers, or a function that makes one.

    `per_group` are the arguments that may be a list with one value for each group;
    `overwrites` those that replace the rate that a group was given.
    """

    __slots__ = ("arguments", "overwrites", "per_group", "type")

    def __init__(self, type: str, signature: str, per_group: str, overwrites: str) -> None:
        self.type = type
        self.arguments = Signature(signature)
        self.per_group = tuple(per_group.split())
        self.overwrites = tuple(overwrites.split())


@cache
def find(name: str) -> Optimizer | None:
    """The optimizer of a dotted name: `torch.optim.AdamW`, `torch.optim.adamw.AdamW`."""
    name = _canonical(name, OPTIMIZERS)
    return Optimizer(name, OPTIMIZERS[name]) if name in OPTIMIZERS else None


@cache
def find_scheduler(name: str) -> Scheduler | None:
    """The scheduler of a dotted name: `torch.optim.lr_scheduler.StepLR`."""
    name = _canonical(name, SCHEDULERS)
    return Scheduler(name, *SCHEDULERS[name]) if name in SCHEDULERS else None


@cache
def find_factory(name: str) -> Signature | None:
    """The arguments of a function that makes an optimizer or groups for one."""
    name = _canonical(name, FACTORIES)
    return Signature(FACTORIES[name]) if name in FACTORIES else None


# Libraries show their classes where they are written, too.
_PACKAGES = (
    ("torch.optim.lr_scheduler", "torch.optim.lr_scheduler"),
    ("torch.optim.swa_utils", "torch.optim.swa_utils"),
    ("torch.optim", "torch.optim"),
    ("timm.optim", "timm.optim"),
    ("timm.optim", "torch.optim"),  # it shows torch's as well
    ("timm.scheduler", "timm.scheduler"),
    ("transformers", "transformers"),
    ("transformers", "transformers.optimization"),
    ("bitsandbytes.optim", "bitsandbytes.optim"),
    ("apex.optimizers", "apex.optimizers"),
    ("deepspeed.ops.adam", "deepspeed.ops.adam"),
    ("lion_pytorch", "lion_pytorch"),
)


def _canonical(name: str, table: Mapping[str, object]) -> str:
    package, _, short = name.rpartition(".")
    for inner, outer in _PACKAGES:
        if (package == inner or package.startswith(inner + ".")) and f"{outer}.{short}" in table:
            return f"{outer}.{short}"
    return name
