"""Which files are worth parsing, told from their bytes.

Most files of a project have nothing to do with training, and parsing costs fifty times
as much as a search for some words. A file is passed over only if no rule could find
anything in it: rules speak about flags, modes, optimizers and the like, and no program
gets at these without one of the words below.
"""

from __future__ import annotations

import codecs
import re

# Encodings that Python itself does not accept for source; the words are looked for all the same.
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

_LIBRARY = re.compile(
    rb"torch|keras|tensorflow|lightning|timm|transformers|accelerate|peft|fastai|diffusers"
)

# A flag, under its right name or a misspelt one: enough by itself, since a helper
# module need not import the library whose models it is given.
_FLAG = re.compile(rb"requ?ires?_?d?_?grads?|freez|\.trainable", re.IGNORECASE)

_DEED = re.compile(
    rb"optim|backward|\.eval\b|\.train\b|\.step\(|parameters\(|state_dict|from_pretrained"
    rb"|pretrained|weights|checkpoint|BatchNorm|softmax|CrossEntropy|Trainer|compile|out_features"
    rb"|\.fit\(|DataParallel|Learner|Module\b"
)

_COMMENT = re.compile(rb"freezecheck:|noqa\s*:[^\n]*\bFC\d", re.IGNORECASE)


def matters(data: bytes) -> bool:
    """Whether a rule could find something in a file of these bytes."""
    if data.startswith(_WIDE):
        data = data.replace(b"\0", b"")
    return bool(
        _FLAG.search(data)
        or (_LIBRARY.search(data) and _DEED.search(data))
        or _COMMENT.search(data)
    )


def speaks(data: bytes) -> bool:
    """Whether a comment in it may be one that suppresses findings of ours."""
    return bool(_COMMENT.search(data))
