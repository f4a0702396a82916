"""The models of libraries, built on the meta device: no weights, nothing downloaded."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

DATA = Path(__file__).parents[2] / "freezecheck" / "source" / "knowledge" / "data"

# Attributes of a detection model that are replaced as a whole.
_REPLACED = ("roi_heads.box_predictor", "roi_heads.mask_predictor", "head.classification_head")
# Heads of torchvision that take their place.
_PARTS: dict[str, tuple[Any, ...]] = {
    "detection.faster_rcnn.FastRCNNPredictor": (1024, 5),
    "detection.mask_rcnn.MaskRCNNPredictor": (256, 256, 5),
    "detection.keypoint_rcnn.KeypointRCNNPredictor": (512, 17),
    "segmentation.deeplabv3.DeepLabHead": (2048, 5),
    "segmentation.fcn.FCNHead": (2048, 5),
}
_TIMM = """
    beit cait coat convit convmixer convnext crossvit cspnet deit densenet dla dpn edgenext
    efficientformer efficientnet ghostnet hrnet inception_resnet_v2 inception_v3 inception_v4 levit
    maxxvit mlp_mixer mobilenetv3 mobilevit mvitv2 nasnet pit pnasnet pvt_v2 regnet res2net resnest resnet
    resnetv2 rexnet senet sknet swin_transformer swin_transformer_v2 tnt tresnet twins vgg
    vision_transformer vision_transformer_hybrid volo xception xception_aligned xcit
""".split()


@contextmanager
def on_meta() -> Iterator[None]:
    """Parameters without storage; weights that are asked for are taken as loaded."""
    from torchvision.models import regnet
    from torchvision.models._api import WeightsEnum

    with ExitStack() as stack:
        stack.enter_context(torch.device("meta"))
        # Rates that older releases read from a tensor.
        values = functools.partial(torch.linspace, device="cpu")
        stack.enter_context(mock.patch.object(torch, "linspace", values))
        stack.enter_context(mock.patch.object(WeightsEnum, "get_state_dict", return_value={}))
        stack.enter_context(mock.patch.object(nn.Module, "load_state_dict", return_value=None))
        sizes = regnet.BlockParams.from_init_params  # it computes with tensors

        def with_values(*args: Any, **kwargs: Any) -> Any:
            with torch.device("cpu"):
                return sizes(*args, **kwargs)

        stack.enter_context(mock.patch.object(regnet.BlockParams, "from_init_params", with_values))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


def torchvision_builders() -> dict[str, Callable[..., nn.Module]]:
    """Every builder by its name below `torchvision.models`."""
    from torchvision import models

    found = {}
    for name in models.list_models():
        builder = models.get_model_builder(name)
        group = builder.__module__.split(".")[2:-1]
        found[".".join((*group, builder.__name__))] = builder
    return found


def torchvision_parts() -> dict[str, nn.Module]:
    """Classes that take a head's place, whose parts do not depend on their arguments."""
    from torchvision import models

    with on_meta():
        return {name: get(models, name)(*arguments) for name, arguments in _PARTS.items()}


def get(found: Any, path: str) -> Any:
    for name in path.split("."):
        found = getattr(found, name)
    return found


def takes(builder: Callable[..., Any], name: str) -> bool:
    return name in inspect.signature(builder).parameters


def default(builder: Callable[..., Any], name: str) -> Any:
    parameter = inspect.signature(builder).parameters.get(name)
    return parameter.default if parameter is not None else None


def torchvision_model(builder: Callable[..., nn.Module], **kwargs: Any) -> nn.Module:
    """The model, without any weights but those that are asked for."""
    if takes(builder, "weights_backbone"):
        kwargs.setdefault("weights_backbone", None)
    with on_meta():
        return builder(**{"weights": None, **kwargs})


def torchvision_head(builder: Callable[..., nn.Module]) -> tuple[str, ...]:
    """Paths of what people replace for other classes, the main one first."""
    if not any(p in inspect.signature(builder).parameters for p in ("num_classes", "kwargs")):
        return ()
    if "optical_flow" in builder.__module__:
        return ()
    auxiliary = {"aux_loss": True} if takes(builder, "aux_loss") else {}
    few, many = (torchvision_model(builder, num_classes=n, **auxiliary) for n in (5, 91))
    paths = [
        next((whole for whole in _REPLACED if path.startswith(whole + ".")), path)
        for path in depending(few, many)
    ]
    if takes(builder, "num_keypoints"):
        paths.append("roi_heads.keypoint_predictor")
    # An auxiliary classifier comes after the one whose outputs count.
    return tuple(sorted(dict.fromkeys(paths), key=lambda path: path.lower().startswith("aux")))


def timm_names() -> list[str]:
    """The models of the families that are fine-tuned most, by the module they are in."""
    import timm

    found = [name for family in _TIMM for name in timm.list_models(module=family)]
    return sorted({name for name in found if not name.startswith("test_")})


def timm_model(name: str, **kwargs: Any) -> nn.Module | None:
    """What `timm.create_model` builds; None where that needs values."""
    import timm

    try:
        with on_meta():
            return timm.create_model(name, **kwargs)
    except (
        AssertionError,
        AttributeError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
    ):
        return None


def timm_head(model: nn.Module) -> tuple[str, ...]:
    """Paths of the classifier, as timm names it."""
    found = getattr(model, "default_cfg", {}).get("classifier") or ()
    return (found,) if isinstance(found, str) else tuple(found)


def timm_tags(name: str) -> dict[str, int]:
    """Its pretrained weights, by tag: how many classes they come with."""
    from timm.models import get_pretrained_cfg
    from timm.models._registry import _model_pretrained_cfgs as known

    found = {}
    for full in known:
        short, _, tag = full.partition(".")
        config = get_pretrained_cfg(full) if short == name and tag else None
        if config is not None:
            found[tag] = config.num_classes
    return found


def depending(one: nn.Module, other: nn.Module) -> list[str]:
    """Paths of the modules whose own parameters differ in shape between two models."""
    shapes = {name: p.shape for name, p in other.named_parameters()}
    return [n.rpartition(".")[0] for n, p in one.named_parameters() if p.shape != shapes[n]]
