"""Layers of torch.nn whose parameters depend on sizes, or that are made of other layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from freezecheck.source.knowledge.architectures import Node

Parts = tuple[tuple[str, ...], dict[str, Node]]


def parts(short: str, options: Mapping[str, Any]) -> Parts | None:
    """Own parameters and children of a layer; None where an option they need is not known.

    `short` is the class's name; of most layers this module says nothing, and that they
    have neither. `options` are the constructor's arguments, defaults included.
    """
    function = _COMPOSITES.get(short)
    return function(options) if function is not None else ((), {})


def _recurrent(options: Mapping[str, Any]) -> Parts | None:
    layers, bias, both = (options[k] for k in ("num_layers", "bias", "bidirectional"))
    projection = options.get("proj_size", 0)
    if not isinstance(layers, int) or bias is None or both is None or projection is None:
        return None
    kinds = ["weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if bias else ())]
    kinds += ["weight_hr"] if projection else []
    ends = ("", "_reverse") if both else ("",)
    return tuple(f"{k}_l{n}{end}" for n in range(layers) for end in ends for k in kinds), {}


def _attention(options: Mapping[str, Any]) -> Parts | None:
    bias, extra, size = options["bias"], options["add_bias_kv"], options.get("embed_dim")
    if bias is None or extra is None:
        return None
    sizes = {options[k] for k in ("kdim", "vdim")} - {None, size}
    if sizes and size is None:
        return None
    params = [f"{k}_proj_weight" for k in "qkv"] if sizes else ["in_proj_weight"]
    params += ["in_proj_bias"] if bias else []
    params += ["bias_k", "bias_v"] if extra else []
    return tuple(params), {
        "out_proj": _linear(bias, "torch.nn.modules.linear.NonDynamicallyQuantizableLinear")
    }


def _encoder_layer(options: Mapping[str, Any]) -> Parts | None:
    return _transformer_layer(options, ("self_attn",))


def _decoder_layer(options: Mapping[str, Any]) -> Parts | None:
    return _transformer_layer(options, ("self_attn", "multihead_attn"))


def _transformer_layer(options: Mapping[str, Any], attentions: tuple[str, ...]) -> Parts | None:
    bias, chance = options["bias"], options["dropout"]
    if bias is None:
        return None
    drops = chance is None or chance != 0
    size = options.get("d_model")
    attention = _attention(
        {"bias": bias, "add_bias_kv": False, "embed_dim": size, "kdim": None, "vdim": None}
    )
    assert attention is not None
    dropout = Node("torch.nn.Dropout", dropout=drops)
    norm = Node("torch.nn.LayerNorm", ("weight", "bias") if bias else ("weight",), norm="layer")
    children = {
        name: Node("torch.nn.MultiheadAttention", *attention, dropout=drops) for name in attentions
    }
    children |= {"linear1": _linear(bias), "dropout": dropout, "linear2": _linear(bias)}
    numbers = [str(n + 1) for n in range(len(attentions) + 1)]
    children |= {f"norm{n}": norm for n in numbers}
    children |= {f"dropout{n}": dropout for n in numbers}
    return (), children


def _transformer(options: Mapping[str, Any]) -> Parts | None:
    children = {}
    for name, layer, part in (
        ("encoder", "EncoderLayer", _encoder_layer),
        ("decoder", "DecoderLayer", _decoder_layer),
    ):
        number, inner = options[f"num_{name}_layers"], part(options)
        if not isinstance(number, int) or inner is None:
            return None
        one = Node(f"torch.nn.Transformer{layer}", *inner)
        params = ("weight", "bias") if options["bias"] else ("weight",)
        layers = Node(
            "torch.nn.ModuleList", (), {str(n): one for n in range(number)}, sequence="ModuleList"
        )
        children[name] = Node(
            f"torch.nn.Transformer{name.capitalize()}",
            (),
            {"layers": layers, "norm": Node("torch.nn.LayerNorm", params, norm="layer")},
        )
    return (), children


def _linear(bias: object, type: str = "torch.nn.Linear") -> Node:
    return Node(type, ("weight", "bias") if bias else ("weight",))


_COMPOSITES: dict[str, Callable[[Mapping[str, Any]], Parts | None]] = {
    "RNN": _recurrent,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "MultiheadAttention": _attention,
    "TransformerEncoderLayer": _encoder_layer,
    "TransformerDecoderLayer": _decoder_layer,
    "Transformer": _transformer,
}
