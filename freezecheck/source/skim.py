"""Which files are worth parsing, told from their bytes.

Most files of a project have nothing to do with training, and parsing one costs a hundred times
as much as a search for some words. A file is passed over only if no rule could find
anything in it. Rules speak about flags, optimizers, modes and heads, and no program gets at
these without one of the signs below. It need not import the library whose models it is
given, so flags and freezing are enough by themselves.
"""

from __future__ import annotations

import codecs
import re

# Encodings that Python itself does not accept for source; the signs are looked for all the same.
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

_LIBRARIES = tuple(
    b"torch transformers keras tensorflow lightning timm accelerate peft fastai".split()
)

# A sign is a word that is looked for first, which is much faster, and what it must be part of.
# The patterns are compiled when they are first needed; for one file, few are.
Signs = tuple[tuple[bytes, bytes], ...]

# Flags, under their right name or a misspelt one, and whatever is called freezing.
_STRONG: Signs = (
    (
        b"_g",
        rb"\.(?:require[sd]?|requiers|reqires|requries|requres|requre|needs)_g(?:ra|ar)d\w*"
        rb"\s*(?:[&|]?=|\()",
    ),
    (b"setattr", rb"[\"']requires_grad"),
    (b"Variable(", rb"Variable\(.*requires_grad"),
    (b"reez", rb"[fF]reez\w*\s*[(=]"),
)

_HEAD = (  # `model.fc = nn.Linear(...)`, but not a module's own part
    rb"\n[ \t]*(?!self\.\w+[ \t]*=)\w[\w.]*\.\w+[ \t]*=[ \t]*(?:\w+\.)*(?:Linear|Sequential)\("
)
_KERAS = rb"\.compile\(|\bModel\(|\.trainable|regularizer"

# What counts only where a library is named.
_WEAK: Signs = (
    (b"ptim", rb"[oO]ptimizer|\boptim\.|torch\.optim|import optim"),
    (b"Adam", rb"Adam\w*\("),
    (
        b".",
        rb"\.(?:(?:backward|step|fit)\(|(?:eval|train)[ \t]*(?:#.*)?\r?\n|(?:eval|train)\s*="
        rb"|(?<!self\.)(?:out_features|track_running_stats)\s*=)",
    ),
    (b"rainer", rb"\bTrainer[(.]"),
    (b"earner(", rb""),
    (b"training_step", rb""),
    (b"use_reentrant", rb""),
    (b"DataParallel(", rb""),
    (b"peft", rb"get_peft_model|PeftModel"),
    (b"BatchNorm", rb"BatchNorm(?s:.{0,300}?)\.(?:eval|train)\("),
    (b".from_pretrained(", rb"(?:mb|vec|word|lookup|table)\w*\.from_pretrained\("),
    (b"torchvision", _HEAD),
    (b"create_model", _HEAD),
    (b"torch.hub", _HEAD),
    # Modules in a list or a dict
    (b"Module)", rb"self\.\w+\s*=\s*[\[{]\s*(?:[\"']?\w+[\"']?\s*:\s*)?(?:\w+\.)*[A-Z]\w*\("),
    (b"= []", rb"self\.(\w+)[^=\n]*= \[\](?s:.*?)self\.\1\.(?:append|extend)\("),
    (b"oftmax", rb"(?:cross_entropy|nll_loss|LLLoss|EntropyLoss)\(.*oftmax"),
    (b"keras", _KERAS),
    (b"tensorflow", _KERAS),
)

_COMMENT = rb"(?i)freezecheck:|noqa\s*:[^\n]*\bFC\d"


def matters(data: bytes) -> bool:
    """Whether a rule could find something in a file of these bytes."""
    if data.startswith(_WIDE):
        data = data.replace(b"\0", b"")
    return (
        _shows(_STRONG, data)
        or (any(word in data for word in _LIBRARIES) and _shows(_WEAK, data))
        or speaks(data)
    )


def speaks(data: bytes) -> bool:
    """Whether a comment in it may be one that suppresses findings of ours."""
    return (b"freezecheck" in data or b"FC" in data) and bool(re.search(_COMMENT, data))


def _shows(signs: Signs, data: bytes) -> bool:
    return any(word in data and re.search(pattern, data) for word, pattern in signs)
