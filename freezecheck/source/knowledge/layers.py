"""The layers of torch.nn, and single layers of other libraries: what each holds.

One line a layer: its name, the arguments of its constructor, and its own parameters;
`bias:bias` is there only if the argument `bias` is true. What takes more than a line
(recurrent layers, attention, transformers) is a function in `composites.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from freezecheck.source.knowledge import composites
from freezecheck.source.knowledge.architectures import Node
from freezecheck.source.knowledge.signature import Signature

_CONV = "kernel_size stride=1 padding=0 dilation=1 groups=1 bias=True padding_mode='zeros'"
_CONV_TRANSPOSE = "kernel_size stride=1 padding=0 output_padding=0 groups=1 bias=True dilation=1 padding_mode='zeros'"
_BATCH = "eps=1e-5 momentum=0.1 affine=True track_running_stats=True * bias=True"
_INSTANCE = "eps=1e-5 momentum=0.1 affine=False track_running_stats=False * bias=True"
_LAYER = "normalized_shape eps=1e-5 elementwise_affine=True bias=True"
_CELL = "input_size hidden_size bias=True"
_RECURRENT = "input_size hidden_size num_layers=1 bias=True batch_first=False dropout=0.0 bidirectional=False"
_TRANSFORMER = (
    "dim_feedforward=2048 dropout=0.1 activation='relu' layer_norm_eps=1e-5"
    " batch_first=False norm_first=False bias=True"
)
_AFFINE = "weight:affine bias:affine,bias"
_CELL_PARAMS = "weight_ih weight_hh bias_ih:bias bias_hh:bias"

# Name below torch.nn; `#` stands for 1d, 2d and 3d: (arguments, parameters).
_TORCH: dict[str, tuple[str, str]] = {
    "Identity": ("*args **", ""),
    "Linear": ("in_features out_features bias=True", "weight bias:bias"),
    "LazyLinear": ("out_features bias=True", "weight bias:bias"),
    "Bilinear": ("in1_features in2_features out_features bias=True", "weight bias:bias"),
    "Conv#": (f"in_channels out_channels {_CONV}", "weight bias:bias"),
    "LazyConv#": (f"out_channels {_CONV}", "weight bias:bias"),
    "ConvTranspose#": (f"in_channels out_channels {_CONV_TRANSPOSE}", "weight bias:bias"),
    "LazyConvTranspose#": (f"out_channels {_CONV_TRANSPOSE}", "weight bias:bias"),
    "Embedding": (
        "num_embeddings embedding_dim padding_idx=None max_norm=None norm_type=2.0"
        " scale_grad_by_freq=False sparse=False",
        "weight",
    ),
    "EmbeddingBag": (
        "num_embeddings embedding_dim max_norm=None norm_type=2.0 scale_grad_by_freq=False"
        " mode='mean' sparse=False _weight=None include_last_offset=False padding_idx=None",
        "weight",
    ),
    "BatchNorm#": (f"num_features {_BATCH}", _AFFINE),
    "LazyBatchNorm#": (_BATCH, _AFFINE),
    "SyncBatchNorm": (
        f"num_features {_BATCH.replace('*', 'process_group=None *')}",
        _AFFINE,
    ),
    "InstanceNorm#": (f"num_features {_INSTANCE}", _AFFINE),
    "LazyInstanceNorm#": (_BATCH, _AFFINE),
    "GroupNorm": ("num_groups num_channels eps=1e-5 affine=True * bias=True", _AFFINE),
    "LayerNorm": (_LAYER, "weight:elementwise_affine bias:elementwise_affine,bias"),
    "RMSNorm": ("normalized_shape eps=None elementwise_affine=True", "weight:elementwise_affine"),
    "LocalResponseNorm": ("size alpha=1e-4 beta=0.75 k=1.0", ""),
    "PReLU": ("num_parameters=1 init=0.25", "weight"),
    "Dropout": ("p=0.5 inplace=False", ""),
    "Dropout#": ("p=0.5 inplace=False", ""),
    "AlphaDropout": ("p=0.5 inplace=False", ""),
    "FeatureAlphaDropout": ("p=0.5 inplace=False", ""),
    "RNNCell": (f"{_CELL} nonlinearity='tanh'", _CELL_PARAMS),
    "LSTMCell": (_CELL, _CELL_PARAMS),
    "GRUCell": (_CELL, _CELL_PARAMS),
    "RNN": (f"{_RECURRENT} * nonlinearity='tanh'", ""),
    "LSTM": (f"{_RECURRENT} proj_size=0", ""),
    "GRU": (_RECURRENT, ""),
    "MultiheadAttention": (
        "embed_dim num_heads dropout=0.0 bias=True add_bias_kv=False add_zero_attn=False"
        " kdim=None vdim=None batch_first=False",
        "",
    ),
    "Transformer": (
        "d_model=512 nhead=8 num_encoder_layers=6 num_decoder_layers=6 dim_feedforward=2048"
        " dropout=0.1 activation='relu' custom_encoder=None custom_decoder=None"
        " layer_norm_eps=1e-5 batch_first=False norm_first=False bias=True",
        "",
    ),
    "TransformerEncoderLayer": (f"d_model nhead {_TRANSFORMER}", ""),
    "TransformerDecoderLayer": (f"d_model nhead {_TRANSFORMER}", ""),
    "TransformerEncoder": (
        "encoder_layer num_layers norm=None enable_nested_tensor=True mask_check=True",
        "",
    ),
    "TransformerDecoder": ("decoder_layer num_layers norm=None", ""),
    "Sequential": ("*args", ""),
    "ModuleList": ("modules=None", ""),
    "ModuleDict": ("modules=None", ""),
    "DataParallel": ("module device_ids=None output_device=None dim=0", ""),
}
# Layers without a parameter, all of whose arguments are of no interest here.
_PLAIN = """
    AdaptiveAvgPool# AdaptiveMaxPool# AvgPool# MaxPool# MaxUnpool# LPPool# FractionalMaxPool2d
    FractionalMaxPool3d CELU ELU GELU GLU Hardshrink Hardsigmoid Hardswish Hardtanh LeakyReLU
    LogSigmoid Mish ReLU ReLU6 SELU SiLU Sigmoid Softplus Softshrink Softsign Tanh Tanhshrink
    Threshold Softmin Softmax Softmax2d LogSoftmax RReLU ChannelShuffle PixelShuffle
    PixelUnshuffle CircularPad# ConstantPad# ReflectionPad# ReplicationPad# ZeroPad#
    CrossMapLRN2d CosineSimilarity PairwiseDistance Flatten Unflatten Fold Unfold Upsample
    UpsamplingBilinear2d UpsamplingNearest2d
    BCELoss BCEWithLogitsLoss CTCLoss CosineEmbeddingLoss CrossEntropyLoss GaussianNLLLoss
    HingeEmbeddingLoss HuberLoss KLDivLoss L1Loss MSELoss MarginRankingLoss
    MultiLabelMarginLoss MultiLabelSoftMarginLoss MultiMarginLoss NLLLoss PoissonNLLLoss
    SmoothL1Loss SoftMarginLoss TripletMarginLoss TripletMarginWithDistanceLoss
"""
_ELSEWHERE: dict[str, tuple[str, str]] = {
    "torch.nn.parallel.DistributedDataParallel": ("module device_ids=None **", ""),
    "torchvision.ops.FrozenBatchNorm2d": ("num_features eps=1e-5", ""),
    "torchvision.ops.StochasticDepth": ("p mode", ""),
    "torchvision.ops.DropBlock2d": ("p block_size inplace=False eps=1e-6", ""),
    "torchvision.ops.DropBlock3d": ("p block_size inplace=False eps=1e-6", ""),
    "timm.layers.DropPath": ("drop_prob=0.0 scale_by_keep=True", ""),
    "timm.layers.DropBlock2d": ("drop_prob=0.1 **", ""),
    "timm.layers.PatchDropout": ("prob=0.5 num_prefix_tokens=1 ordered=False", ""),
    "timm.layers.LayerNorm": ("num_channels eps=1e-6 affine=True **", "weight:affine bias:affine"),
    "timm.layers.LayerNorm2d": (
        "num_channels eps=1e-6 affine=True **",
        "weight:affine bias:affine",
    ),
    "timm.layers.GroupNorm": (
        "num_channels num_groups=32 eps=1e-5 affine=True **",
        "weight:affine bias:affine",
    ),
    "timm.layers.RmsNorm": ("channels eps=1e-6 affine=True **", "weight:affine"),
    "timm.layers.RmsNorm2d": ("channels eps=1e-6 affine=True **", "weight:affine"),
}
# What its name must hold -> kind of norm; the first that does.
_NORMS = {
    "FrozenBatchNorm": "frozen",
    "BatchNorm": "batch",
    "InstanceNorm": "instance",
    "GroupNorm": "group",
    "LayerNorm": "layer",
    "RMSNorm": "rms",
    "RmsNorm": "rms",
}
# The argument that holds the probability of dropping something.
_CHANCES = {
    "StochasticDepth": "p",
    "DropBlock2d": "p",
    "DropBlock3d": "p",
    "DropPath": "drop_prob",
    "PatchDropout": "prob",
    "RNN": "dropout",
    "LSTM": "dropout",
    "GRU": "dropout",
    "MultiheadAttention": "dropout",
}
# Arguments that are modules and become children: name of the child.
_GIVEN = {
    "TransformerEncoder": {"norm": "norm"},
    "TransformerDecoder": {"norm": "norm"},
    "Transformer": {"custom_encoder": "encoder", "custom_decoder": "decoder"},
    "DataParallel": {"module": "module"},
    "DistributedDataParallel": {"module": "module"},
}
# Child made of copies of an argument: (argument, argument that says how many).
_COPIES = {
    "TransformerEncoder": {"layers": ("encoder_layer", "num_layers")},
    "TransformerDecoder": {"layers": ("decoder_layer", "num_layers")},
}


class Layer:
    """A class of layers.

    `arguments` is its constructor's signature (None: they do not matter). `params` are
    its own parameters; one in `optional` is there only if all of the arguments named
    are true. `chance` is the argument that holds its dropout probability. `given` are
    arguments that become children, `copies` children that are made of copies of one.
    """

    __slots__ = (
        "arguments",
        "chance",
        "container",
        "copies",
        "given",
        "norm",
        "optional",
        "params",
        "type",
    )

    def __init__(self, type: str, signature: str | None, params: str) -> None:
        short = type.rpartition(".")[2]
        self.type = type
        self.arguments = Signature(signature) if signature is not None else None
        conditions = [p.partition(":")[::2] for p in params.split()]
        self.params = tuple(name for name, _ in conditions)
        self.optional = {name: tuple(c.split(",")) for name, c in conditions if c}
        self.norm = next((kind for part, kind in _NORMS.items() if part in short), None)
        self.container = short if short in ("Sequential", "ModuleList", "ModuleDict") else ""
        self.chance = _CHANCES.get(short) or ("p" if "Dropout" in short else "")
        if type == "timm.layers.DropBlock2d":
            self.chance = "drop_prob"
        self.given: Mapping[str, str] = _GIVEN.get(short, {})
        self.copies: Mapping[str, tuple[str, str]] = _COPIES.get(short, {})

    @property
    def dropout(self) -> bool:
        """Whether it may drop something at random in train mode."""
        return bool(self.chance)

    def node(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Node | None:
        """The module that a call makes; None where that depends on what is not known.

        A None among the arguments is one that is not known. What comes in with other
        modules (`given`, `copies`, the contents of a container) is not in it.
        """
        if self.arguments is None:
            return Node(self.type)
        bound = self.arguments.bind(args, kwargs or {})
        if bound is None:
            return None
        options = {**self.arguments.defaults, **bound}
        short = self.type.rpartition(".")[2]
        inner = composites.parts(short, options)
        if inner is None:
            return None
        params, children = inner
        for name in self.params:
            there = [options[o] for o in self.optional.get(name, ()) if o in options]
            if any(value is not None and not value for value in there):
                continue
            if any(value is None for value in there):
                return None
            params += (name,)
        chance = options.get(self.chance, 0.0) if self.chance else 0.0
        return Node(
            self.type,
            params,
            children,
            norm=self.norm,
            dropout=chance is None or chance != 0,
            sequence=self.container,
            options=bound,
        )


def find(name: str) -> Layer | None:
    """The layer of a dotted name: `torch.nn.Linear`, `torch.nn.modules.linear.Linear`."""
    return _made(canonical(name))


def names() -> list[str]:
    """Every layer of the table."""
    return list(_table())


_CONTAINERS = ("Sequential", "ModuleList", "ModuleDict")  # that others derive theirs from


def canonical(name: str) -> str:
    """A class's dotted name as people import it."""
    package, _, short = name.rpartition(".")
    if short in _CONTAINERS and package.startswith(("mmengine.model", "mmcv.runner")):
        return f"torch.nn.{short}"
    for inner, outer in (
        ("torch.nn.modules", "torch.nn"),
        ("torchvision.ops", "torchvision.ops"),
        ("timm.layers", "timm.layers"),
        ("timm.models.layers", "timm.layers"),
        ("torch.nn.parallel.data_parallel", "torch.nn"),
        ("torch.nn.parallel", "torch.nn.parallel"),
    ):
        if package == inner or package.startswith(inner + "."):
            found = f"{outer}.{short}"
            return "torch.nn.DataParallel" if found == "torch.nn.parallel.DataParallel" else found
    return name


@cache
def _made(name: str) -> Layer | None:
    entry = _table().get(name)
    return Layer(name, *entry) if entry is not None else None


@cache
def _table() -> dict[str, tuple[str | None, str]]:
    table: dict[str, tuple[str | None, str]] = {}
    for short, entry in [*_TORCH.items(), *((name, (None, "")) for name in _PLAIN.split())]:
        for size in ("1d", "2d", "3d") if "#" in short else ("",):
            table[f"torch.nn.{short.replace('#', size)}"] = entry
    table.update(_ELSEWHERE)
    return table
