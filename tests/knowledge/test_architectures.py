"""The trees of `data/*.json` are what the libraries build."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest
from test_layers import class_name, modules, parameters

from freezecheck.source.knowledge import architectures
from freezecheck.source.knowledge.architectures import Node

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

import generate  # noqa: E402
import zoo  # noqa: E402
import zoo_transformers  # noqa: E402

SEQUENCES = (torch.nn.Sequential, torch.nn.ModuleList, torch.nn.ModuleDict)
TORCHVISION = zoo.torchvision_builders()


def same(node: Node, model: Any) -> None:
    """A tree has the modules, the parameters and the traits of a model, or is open there."""
    children = {n: c for n, c in model._modules.items() if c is not None}
    params = {n: p for n, p in model._parameters.items() if p is not None}
    if node.open:
        assert node.children.keys() <= children.keys()
        assert set(node.params) <= params.keys()
    else:
        # Modules without parameters may be missing where releases of a library differ.
        missing = {name: c for name, c in children.items() if name not in node.children}
        assert [name for name in children if name not in missing] == list(node.children)
        assert not [n for c in missing.values() for n, _ in c.named_parameters()]
        assert list(node.params) == list(params)
    assert set(node.frozen) == {n for n in node.params if not params[n].requires_grad}
    batchnorm = torch.nn.modules.batchnorm._BatchNorm
    assert isinstance(model, batchnorm) <= (node.norm == "batch")
    assert any(isinstance(m, batchnorm) for m in model.modules()) <= ("batch" in node.has_norm)
    assert (node.sequence != "") == isinstance(model, SEQUENCES)
    assert class_name(model).rpartition(".")[2] == node.type.rpartition(".")[2]
    for name, child in node.children.items():
        same(child, children[name])


def closed(node: Node) -> bool:
    return not node.open and all(closed(child) for child in node.children.values())


def found(builder: str, **kwargs: bool) -> Node:
    node = architectures.find(builder, **kwargs)
    assert node is not None, builder
    return node


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name: str) -> None:
    builder = TORCHVISION[name]
    dotted = f"torchvision.models.{name}"
    node, model = found(dotted, weights=False, backbone=False), zoo.torchvision_model(builder)
    same(node, model)
    assert closed(node)
    assert list(modules(node)) == [n for n, _ in model.named_modules(remove_duplicate=False)]
    assert parameters(node) == [n for n, _ in model.named_parameters(remove_duplicate=False)]
    assert node.tensors == len(parameters(node))
    if not name.startswith("quantization."):
        model = zoo.torchvision_model(builder, weights="DEFAULT")
        same(found(dotted, weights=True), model)
        for node in (found(dotted, weights=True), found(dotted, weights=False, backbone=False)):
            for number, path in enumerate(architectures.head(dotted)):
                # Auxiliary classifiers are not in every variant.
                assert node.at(path) is not None or number
    if zoo.takes(builder, "weights_backbone"):
        model = zoo.torchvision_model(builder, weights_backbone="DEFAULT")
        same(found(dotted, backbone=True), model)
        default = zoo.default(builder, "weights_backbone")
        same(found(dotted), zoo.torchvision_model(builder, weights_backbone=default))


@pytest.mark.parametrize("name", TORCHVISION)
def test_where_torchvision_writes_a_builder(name: str) -> None:
    builder = TORCHVISION[name]
    node = found(f"torchvision.models.{name}")
    assert architectures.find(f"{builder.__module__}.{builder.__name__}") is node
    listed = torchvision.models._api.get_model_builder
    quantized = name.startswith("quantization.")
    short = f"quantized_{builder.__name__}" if quantized else builder.__name__
    assert listed(short) is builder
    assert architectures.find(f"torchvision.models.{short}") is node


@pytest.mark.parametrize(
    "name",
    """alexnet convnext_tiny densenet121 efficientnet_b0 googlenet inception_v3 maxvit_t mnasnet0_5
    mobilenet_v2 mobilenet_v3_small regnet_y_400mf resnet18 shufflenet_v2_x0_5 squeezenet1_1
    swin_t swin_v2_t vgg11_bn vit_b_16 segmentation.fcn_resnet50
    segmentation.deeplabv3_mobilenet_v3_large""".split(),
)
def test_head_decides_what_comes_out(name: str) -> None:
    dotted = f"torchvision.models.{name}"
    model = zoo.torchvision_model(TORCHVISION[name]).eval()
    path = architectures.head(dotted)[0]
    parent, _, last = path.rpartition(".")
    old = model.get_submodule(path)
    assert dict(found(dotted).at(path).options) == sizes(old)  # type: ignore[union-attr]
    new = (
        torch.nn.Linear(old.in_features, 7)
        if isinstance(old, torch.nn.Linear)
        else torch.nn.Conv2d(old.in_channels, 7, old.kernel_size)
    )
    setattr(model.get_submodule(parent), last, new.to("meta"))
    size = 299 if name == "inception_v3" else 224
    with zoo.on_meta():
        out = model(torch.zeros(1, 3, size, size))
    assert (out["out"] if isinstance(out, dict) else out).shape[1] == 7


def sizes(layer: Any) -> dict[str, int]:
    kind = "features" if isinstance(layer, torch.nn.Linear) else "channels"
    return {f"{way}_{kind}": getattr(layer, f"{way}_{kind}") for way in ("in", "out")}


@pytest.mark.parametrize("name", zoo.torchvision_parts())
def test_parts_of_torchvision(name: str) -> None:
    same(found(f"torchvision.models.{name}"), zoo.torchvision_parts()[name])


def test_equal_subtrees_are_one_object() -> None:
    node = found("torchvision.models.resnet50")
    layer2 = node.children["layer2"].children
    assert layer2["1"] is layer2["2"]
    assert node is found("torchvision.models.resnet.resnet50")
    assert node.at("layer4.0.bn1") is not None
    assert node.at("layer4.9") is None
    assert node.at("") is node


def test_pretrained_detection_is_built_otherwise() -> None:
    name = "torchvision.models.detection.fasterrcnn_resnet50_fpn"
    fresh, trained = found(name, backbone=False), found(name)
    assert "batch" in fresh.has_norm
    assert "frozen" in trained.has_norm
    assert "batch" not in trained.has_norm
    frozen = [
        n for n in trained.children["backbone"].children["body"].children.items() if n[1].frozen
    ]
    assert [n for n, _ in frozen] == ["conv1"]


TIMM = """
    resnet18 resnet50 resnet26d resnext50_32x4d seresnet50 resnetv2_50 regnety_016 efficientnet_b0
    tf_efficientnetv2_s mobilenetv3_large_100 mobilenetv2_100 densenet121 vgg16_bn
    vit_tiny_patch16_224 vit_base_patch16_224 deit_tiny_distilled_patch16_224 deit3_small_patch16_224
    beit_base_patch16_224 swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 convnext_tiny
    convnextv2_tiny mixer_b16_224 maxvit_tiny_rw_224 coat_tiny coatnet_0_rw_224 xception41 inception_v3
    inception_v4 cait_xxs24_224 hrnet_w18 dla34 levit_128
    vit_small_patch14_dinov2 efficientformer_l1 edgenext_small ghostnet_100 mobilevit_s
""".split()


@pytest.mark.frameworks
@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str) -> None:
    pytest.importorskip("timm")
    model = zoo.timm_model(name)
    assert model is not None
    same(found(f"timm.{name}"), model)
    model = zoo.timm_model(name, num_classes=10)
    node = found(f"timm.{name}", classes=True)
    same(node, model)
    heads = architectures.head(f"timm.{name}")
    assert heads == zoo.timm_head(model)
    for path in heads:
        assert node.at(path) is not None
        assert "weight" in dict(model.get_submodule(path).named_parameters())
    bare = architectures.find(f"timm.{name}", classes=False)
    if bare is not None:
        same(bare, zoo.timm_model(name, num_classes=0))


@pytest.mark.frameworks
def test_timm_knows_the_names_of_its_models() -> None:
    pytest.importorskip("timm")
    known = {b.removeprefix("timm.") for b in architectures.builders() if b.startswith("timm.")}
    assert len(known) > 500
    assert set(TIMM) <= known
    assert len(known - set(zoo.timm_names())) < 20  # what newer releases drop


def test_names_of_timm() -> None:
    plain = found("timm.vit_base_patch16_224")
    assert found("timm.vit_base_patch16_224.augreg_in21k_ft_in1k") is plain
    assert found("timm.hf_hub:timm/vit_base_patch16_224.augreg_in21k_ft_in1k") is plain
    assert found("timm.models.vision_transformer.vit_base_patch16_224") is plain
    # Weights of self-supervised training come without a classifier.
    bare = found("timm.vit_base_patch16_224.dino")
    assert bare is found("timm.vit_base_patch16_224", classes=False)
    assert bare.children["head"].type == "torch.nn.Identity"
    assert found("timm.vit_base_patch16_224.dino", classes=True) is plain
    assert architectures.find("timm.create_model") is None


TRANSFORMERS = [
    ("BertModel", "bert"),
    ("BertForSequenceClassification", "bert"),
    ("DistilBertForSequenceClassification", "distilbert"),
    ("RobertaForTokenClassification", "roberta"),
    ("GPT2LMHeadModel", "gpt2"),
    ("T5ForConditionalGeneration", "t5"),
    ("BartForSequenceClassification", "bart"),
    ("ViTForImageClassification", "vit"),
    ("SwinForImageClassification", "swin"),
    ("ResNetForImageClassification", "resnet"),
    ("LlamaForCausalLM", "llama"),
    ("Wav2Vec2ForSequenceClassification", "wav2vec2"),
]


@pytest.mark.frameworks
@pytest.mark.parametrize(("name", "kind"), TRANSFORMERS)
def test_transformers(name: str, kind: str) -> None:
    pytest.importorskip("transformers")
    builder = f"transformers.{name}"
    model = zoo_transformers.built(name, kind)
    same(found(builder), model)
    assert architectures.base(builder) == zoo_transformers.base(model)
    assert architectures.head(builder) == zoo_transformers.heads(model)
    for paths in architectures.tied(builder):
        assert len({id(model.get_parameter(path)) for path in paths}) == 1
    # Of a checkpoint that nobody knows, what is said holds for more layers as well.
    depth = "n_layer" if kind == "gpt2" else "num_hidden_layers"
    other = {} if kind in ("swin", "resnet", "bart") else {depth: 2}
    same(found(f"{builder}:mine/model"), zoo_transformers.built(name, kind, **other))


@pytest.mark.frameworks
@pytest.mark.parametrize(
    ("name", "checkpoint", "built"),
    [
        (
            "AutoModelForSequenceClassification",
            "bert-base-uncased",
            "BertForSequenceClassification",
        ),
        ("BertForSequenceClassification", "bert-large-uncased", "BertForSequenceClassification"),
        ("AutoModel", "distilbert/distilbert-base-uncased", "DistilBertModel"),
        ("AutoModelForCausalLM", "gpt2-medium", "GPT2LMHeadModel"),
        ("AutoModelForSeq2SeqLM", "t5-base", "T5ForConditionalGeneration"),
        ("AutoModelForImageClassification", "microsoft/resnet-50", "ResNetForImageClassification"),
    ],
)
def test_checkpoints(name: str, checkpoint: str, built: str) -> None:
    pytest.importorskip("transformers")
    configuration = zoo_transformers.checkpoints()[checkpoint]
    kind, changes = zoo_transformers.CONFIGURATIONS[configuration]
    node = found(f"transformers.{name}:{checkpoint}")
    assert node.type.endswith(built)
    same(node, zoo_transformers.built(built, kind, **changes))


def test_unknown_checkpoints() -> None:
    assert architectures.find("transformers.AutoModel:mine/model") is None
    assert architectures.find("transformers.AutoModel") is None
    node = found("transformers.BertForSequenceClassification:mine/model")
    assert node.children["bert"].open
    assert node.children["bert"].has_norm == {"layer"}
    assert not node.children["bert"].children
    assert node.at("classifier") is not None
    assert found("transformers.DistilBertModel:bert-base-uncased").open  # of another class


def test_heads_of_auto_classes() -> None:
    names = architectures.transformers_head("transformers.AutoModelForSequenceClassification")
    assert {"classifier", "score", "classification_head"} <= set(names)
    assert "bert" not in names
    assert "lm_head" in architectures.transformers_head("AutoModelForCausalLM")
    assert architectures.transformers_head("AutoModel") == ()
    assert architectures.transformers_head("Nothing") == ()


def test_releases_that_differ_leave_a_node_open() -> None:
    leaf, norm = Node("Linear", ("weight", "bias")), Node("LayerNorm", ("weight",), norm="layer")
    old = Node("Net", (), {"a": leaf, "b": Node("List", (), {"0": leaf, "1": leaf}), "c": norm})
    new = Node("Net", (), {"a": leaf, "b": Node("List", (), {"0": leaf}), "d": norm, "c": norm})
    both = generate.common(new, old)
    assert both.open
    assert list(both.children) == ["a", "b", "c"]
    assert both.has_norm == {"layer"}
    assert both.children["b"].open
    assert not both.children["b"].children
    assert not both.children["a"].open
    assert generate.common(new, new) is new


def test_unknown_builders() -> None:
    for name in (
        "torchvision.models.nothing",
        "torchvision.models.resnet.ResNet",
        "torchvision",
        "mine.resnet18",
        "resnet18",
        "",
    ):
        assert architectures.find(name) is None
        assert architectures.head(name) == ()


def library_types(library: str) -> list[str]:
    rows = json.loads((zoo.DATA / f"{library}.json").read_text())["classes"]
    return sorted({row[0] for row in rows})


@pytest.mark.frameworks
@pytest.mark.parametrize("library", [p.stem for p in sorted(zoo.DATA.glob("*.json"))])
def test_classes_have_their_names_in_the_library(library: str) -> None:
    pytest.importorskip(library)
    for name in library_types(library):
        package, _, short = name.rpartition(".")
        if short.startswith("Parametrized"):  # made when it is built
            continue
        module: Any = import_module(package)
        assert isinstance(getattr(module, short), type), name


def test_files_are_read_when_a_builder_is_looked_up() -> None:
    script = """
import sys
from freezecheck.source.knowledge import architectures
assert architectures._library.cache_info().currsize == 0
architectures.find("torch.nn.Linear"); architectures.find("mine.resnet18")
assert architectures._library.cache_info().currsize == 0
assert architectures.find("torchvision.models.resnet18").tensors == 62
assert architectures._library.cache_info().currsize == 1
assert not {"torch", "torchvision", "numpy", "rich"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
