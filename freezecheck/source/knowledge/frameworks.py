"""Classes of libraries whose objects are followed, and where what they do is written down.

An object of such a class keeps the arguments that it was made with as attributes; what its
methods do is in the module of `freezecheck.source` that `HOMES` gives.
"""

from __future__ import annotations

from functools import cache

from freezecheck.source.knowledge.signature import Signature

# Top-level package: the module that knows it. It is loaded where a file imports the package.
HOMES: dict[str, str] = {
    "accelerate": "accelerate",
    "fastai": "fastai",
    "keras": "keras",
    "lightning": "lightning",
    "lightning_fabric": "lightning",
    "peft": "peft",
    "pytorch_lightning": "lightning",
    "tensorflow": "keras",
    "tf_keras": "keras",
    "timm": "timm",
    "transformers": "huggingface",
}

# Packages that show the same classes under another name.
_SAME = {"pytorch_lightning": "lightning", "lightning_fabric": "lightning"}

_FINETUNING = (
    "unfreeze_backbone_at_epoch=10 lambda_func=None backbone_initial_ratio_lr=0.1"
    " backbone_initial_lr=None should_align=True initial_denom_lr=10.0 train_bn=True"
    " verbose=False rounding=12"
)
_TRAINER = (
    "model=None args=None data_collator=None train_dataset=None eval_dataset=None"
    " processing_class=None model_init=None compute_loss_func=None compute_metrics=None"
    " callbacks=None optimizers=(None,None) **"
)
_PROMPT = "task_type=None peft_type=None modules_to_save=None **"
_ADAPTER = f"target_modules=None {_PROMPT}"

# Class, as people import it: the arguments of its constructor.
OBJECTS: dict[str, str] = {
    "torch.amp.GradScaler": "device=None **",
    "accelerate.Accelerator": "**",
    "lightning.Fabric": "**",
    "lightning.Trainer": "* callbacks=None max_epochs=None **",
    "lightning.pytorch.callbacks.BackboneFinetuning": _FINETUNING,
    "lightning.pytorch.callbacks.BaseFinetuning": "",
    "lightning.pytorch.callbacks.Callback": "",
    "transformers.Trainer": _TRAINER,
    "transformers.Seq2SeqTrainer": _TRAINER,
    "transformers.TrainerCallback": "",
    "transformers.TrainingArguments": "output_dir=None * learning_rate=5e-5 weight_decay=0.0 **",
    "transformers.Seq2SeqTrainingArguments": (
        "output_dir=None * learning_rate=5e-5 weight_decay=0.0 **"
    ),
    "peft.LoraConfig": f"* {_ADAPTER}",
    "peft.AdaLoraConfig": f"* {_ADAPTER}",
    "peft.IA3Config": f"* {_ADAPTER}",
    "peft.LoHaConfig": f"* {_ADAPTER}",
    "peft.LoKrConfig": f"* {_ADAPTER}",
    "peft.OFTConfig": f"* {_ADAPTER}",
    "peft.VeraConfig": f"* {_ADAPTER}",
    "peft.PromptTuningConfig": f"* {_PROMPT}",
    "peft.PromptEncoderConfig": f"* {_PROMPT}",
    "peft.PrefixTuningConfig": f"* {_PROMPT}",
}

# The modules that PEFT adds for a configuration: how their paths end, before the adapter's name.
ADAPTERS: dict[str, tuple[str, ...]] = {
    "peft.LoraConfig": ("lora_A", "lora_B"),
    "peft.AdaLoraConfig": ("lora_A", "lora_B", "lora_E"),
    "peft.IA3Config": ("ia3_l",),
    "peft.LoHaConfig": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    "peft.LoKrConfig": ("lokr_w1", "lokr_w2"),
    "peft.OFTConfig": ("oft_R",),
    "peft.VeraConfig": ("vera_lambda_b", "vera_lambda_d"),
    "peft.PromptTuningConfig": ("prompt_encoder",),
    "peft.PromptEncoderConfig": ("prompt_encoder",),
    "peft.PrefixTuningConfig": ("prompt_encoder",),
}

# Task: the modules that PEFT keeps trainable beside its adapters.
HEADS: dict[str, tuple[str, ...]] = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}

# Unknown values of these names are taken for such objects.
NAMED = {
    "accelerator": "accelerate.Accelerator",
    "fabric": "lightning.Fabric",
    "scaler": "torch.amp.GradScaler",
    "grad_scaler": "torch.amp.GradScaler",
}


def home(package: str) -> str | None:
    """The module of `freezecheck.source` that knows a top-level package."""
    return HOMES.get(package)


@cache
def _index() -> dict[tuple[str, str], str]:
    return {(name.partition(".")[0], name.rpartition(".")[2]): name for name in OBJECTS}


def find(name: str) -> str | None:
    """The class of a dotted name, wherever in its package it is imported from."""
    top = name.partition(".")[0]
    return _index().get((_SAME.get(top, top), name.rpartition(".")[2]))


@cache
def arguments(name: str) -> Signature:
    """What the constructor of a class in the table takes."""
    return Signature(OBJECTS[name])
