"""The models of transformers, built on the meta device from configurations."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import zoo
from torch import nn

TYPES = """
    albert audio-spectrogram-transformer bart beit bert big_bird bigbird_pegasus blenderbot bloom
    camembert canine clip codegen convbert convnext convnextv2 ctrl cvt data2vec-text deberta
    deberta-v2 deit dinov2 distilbert donut-swin dpt electra ernie esm falcon flaubert fnet
    focalnet funnel gemma gemma2 gpt2 gpt_bigcode gpt_neo gpt_neox gptj hubert ibert imagegpt
    layoutlm layoutlmv3 led levit lilt llama longformer longt5 luke m2m_100 marian mbart
    megatron-bert mistral mobilebert mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2 mpnet mpt mt5
    mvp nezha nystromformer opt pegasus phi phi3 plbart poolformer prophetnet pvt qwen2 reformer
    regnet rembert resnet roberta roc_bert roformer segformer sew siglip speech_to_text splinter
    squeezebert stablelm starcoder2 swiftformer swin swinv2 switch_transformers t5 timesformer
    unispeech unispeech-sat van videomae vit vit_mae wav2vec2 wav2vec2-conformer wavlm whisper
    xglm xlm xlm-roberta xlm-roberta-xl xlnet yolos yoso
""".split()
# Auto class: its table in `modeling_auto`.
AUTO = {
    "AutoModel": "MODEL_MAPPING_NAMES",
    "AutoModelForPreTraining": "MODEL_FOR_PRETRAINING_MAPPING_NAMES",
    **{
        f"AutoModelFor{name}": f"MODEL_FOR_{table}_MAPPING_NAMES"
        for name, table in {
            "AudioClassification": "AUDIO_CLASSIFICATION",
            "AudioFrameClassification": "AUDIO_FRAME_CLASSIFICATION",
            "CausalLM": "CAUSAL_LM",
            "CTC": "CTC",
            "DepthEstimation": "DEPTH_ESTIMATION",
            "ImageClassification": "IMAGE_CLASSIFICATION",
            "MaskedImageModeling": "MASKED_IMAGE_MODELING",
            "MaskedLM": "MASKED_LM",
            "MultipleChoice": "MULTIPLE_CHOICE",
            "NextSentencePrediction": "NEXT_SENTENCE_PREDICTION",
            "ObjectDetection": "OBJECT_DETECTION",
            "QuestionAnswering": "QUESTION_ANSWERING",
            "SemanticSegmentation": "SEMANTIC_SEGMENTATION",
            "Seq2SeqLM": "SEQ_TO_SEQ_CAUSAL_LM",
            "SequenceClassification": "SEQUENCE_CLASSIFICATION",
            "SpeechSeq2Seq": "SPEECH_SEQ_2_SEQ",
            "TokenClassification": "TOKEN_CLASSIFICATION",
            "VideoClassification": "VIDEO_CLASSIFICATION",
        }.items()
    },
}
# Configurations of well-known checkpoints: type, and what is not its default.
CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-base": ("bert", {}),
    "bert-large": ("bert", {"num_hidden_layers": 24}),
    "bert-6": ("bert", {"num_hidden_layers": 6}),
    "distilbert-base": ("distilbert", {}),
    "roberta-base": ("roberta", {}),
    "roberta-large": ("roberta", {"num_hidden_layers": 24}),
    "distilroberta-base": ("roberta", {"num_hidden_layers": 6}),
    "xlm-roberta-base": ("xlm-roberta", {}),
    "xlm-roberta-large": ("xlm-roberta", {"num_hidden_layers": 24}),
    "gpt2": ("gpt2", {}),
    "gpt2-medium": ("gpt2", {"n_layer": 24}),
    "gpt2-large": ("gpt2", {"n_layer": 36}),
    "gpt2-xl": ("gpt2", {"n_layer": 48}),
    "distilgpt2": ("gpt2", {"n_layer": 6}),
    "t5-small": ("t5", {}),
    "t5-base": ("t5", {"num_layers": 12, "num_decoder_layers": 12}),
    "t5-large": ("t5", {"num_layers": 24, "num_decoder_layers": 24}),
    "bart-base": ("bart", {"encoder_layers": 6, "decoder_layers": 6}),
    "bart-large": ("bart", {}),
    "vit-base": ("vit", {}),
    "vit-large": ("vit", {"num_hidden_layers": 24}),
    "swin-tiny": ("swin", {}),
    "convnext-tiny": ("convnext", {}),
    "resnet-50": ("resnet", {}),
    "wav2vec2-base": ("wav2vec2", {}),
}
_NAMES = """
    bert-base: bert-base-uncased bert-base-cased bert-base-multilingual-cased
      bert-base-multilingual-uncased bert-base-chinese bert-base-german-cased
      google-bert/bert-base-uncased google-bert/bert-base-cased
      google-bert/bert-base-multilingual-cased google-bert/bert-base-multilingual-uncased
      google-bert/bert-base-chinese
    bert-large: bert-large-uncased bert-large-cased google-bert/bert-large-uncased
      google-bert/bert-large-cased
    bert-6: sentence-transformers/all-MiniLM-L6-v2
    distilbert-base: distilbert-base-uncased distilbert-base-cased
      distilbert-base-multilingual-cased distilbert-base-uncased-finetuned-sst-2-english
      distilbert/distilbert-base-uncased distilbert/distilbert-base-cased
      distilbert/distilbert-base-multilingual-cased
      distilbert/distilbert-base-uncased-finetuned-sst-2-english
    roberta-base: roberta-base FacebookAI/roberta-base
    roberta-large: roberta-large FacebookAI/roberta-large
    distilroberta-base: distilroberta-base distilbert/distilroberta-base
    xlm-roberta-base: xlm-roberta-base FacebookAI/xlm-roberta-base
    xlm-roberta-large: xlm-roberta-large FacebookAI/xlm-roberta-large
    gpt2: gpt2 openai-community/gpt2
    gpt2-medium: gpt2-medium openai-community/gpt2-medium
    gpt2-large: gpt2-large openai-community/gpt2-large
    gpt2-xl: gpt2-xl openai-community/gpt2-xl
    distilgpt2: distilgpt2 distilbert/distilgpt2
    t5-small: t5-small google-t5/t5-small
    t5-base: t5-base google-t5/t5-base
    t5-large: t5-large google-t5/t5-large
    bart-base: facebook/bart-base
    bart-large: facebook/bart-large
    vit-base: google/vit-base-patch16-224 google/vit-base-patch16-224-in21k
      google/vit-base-patch16-384 google/vit-base-patch32-384
    vit-large: google/vit-large-patch16-224 google/vit-large-patch16-224-in21k
    swin-tiny: microsoft/swin-tiny-patch4-window7-224
    convnext-tiny: facebook/convnext-tiny-224
    resnet-50: microsoft/resnet-50
    wav2vec2-base: facebook/wav2vec2-base
"""  # Some need a tokenizer's file, or compute with values while they are built.
_CANNOT = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip


def checkpoints() -> dict[str, str]:
    """Name on the hub: name of its configuration."""
    found, configuration = {}, ""
    for word in _NAMES.split():
        if word.endswith(":"):
            configuration = word[:-1]
        else:
            found[word] = configuration
    return found


def classes() -> dict[str, dict[str, str]]:
    """The class that each auto class takes, by type of model."""
    import transformers
    from transformers.models.auto import modeling_auto

    found: dict[str, dict[str, str]] = defaultdict(dict)
    for auto, table in AUTO.items():
        names = getattr(modeling_auto, table)
        for kind in TYPES:
            name = names.get(kind)
            name = name if isinstance(name, str) or name is None else name[0]
            if name is not None and hasattr(transformers, name):
                found[auto][kind] = name
    return dict(found)


def built(name: str, kind: str, **options: Any) -> nn.Module | None:
    """A model of a class from the configuration of a type; None where it cannot be had."""
    import transformers
    from transformers import AutoConfig

    transformers.logging.set_verbosity_error()
    try:
        config = AutoConfig.for_model(kind, **options)
        with zoo.on_meta():
            return getattr(transformers, name)(config)
    except _CANNOT:
        return None


def base(model: nn.Module) -> str:
    """The attribute that holds the model below a head; "" for a model without one."""
    prefix = getattr(model, "base_model_prefix", "")
    return prefix if prefix in dict(model.named_children()) else ""


def heads(model: nn.Module) -> tuple[str, ...]:
    """What lies beside the base model and has parameters."""
    if not base(model):
        return ()
    return tuple(
        name
        for name, child in model.named_children()
        if name != base(model) and next(child.parameters(), None) is not None
    )


def tied(model: nn.Module) -> list[list[str]]:
    """Paths of one and the same parameter, where it has several."""
    places: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        places[id(parameter)].append(name)
    return [names for names in places.values() if len(names) > 1]
