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

# Plain words come first wherever they can: a search for one is many times as fast as
# the search for a pattern.
_LIBRARIES = (
    b"torch", b"keras", b"tensorflow", b"lightning", b"timm", b"transformers", b"accelerate",
    b"peft", b"fastai", b"diffusers",
)  # fmt: skip

# A flag, under its right name or a misspelt one: enough by itself, since a helper
# module need not import the library whose models it is given.
_FLAG = re.compile(rb"requ?ires?_?d?_?grads?")
_FREEZE = (b"freez", b".trainable", b"frozen")

# What trains: an optimizer, a step, a framework's own loop.
_TRAINING = (
    b"optim.", b"optimizer", b"SGD(", b"Adam", b"backward(", b".step(", b"Trainer(", b".fit(",
    b"fit_one_cycle(", b"Learner(", b".compile(", b"assign=",
)  # fmt: skip

# What a rule may speak about although nothing is trained in the same file: (a word that
# must be there, a pattern).
_ALONE = tuple(
    (word, re.compile(pattern, re.MULTILINE))
    for word, pattern in (
        # statements without effect, attributes that nothing reads
        # (a line of a notebook ends in a quote, or in an escaped line feed before it)
        (b".eval", rb"\.eval[ \t\r]*(?:[\"#]|\\n|$)"),
        (b".train", rb"\.train[ \t\r]*(?:[\"#]|\\n|$)"),
        (b".out_", rb"(?<!self)\.out_(?:features|channels)\s*=[^=]"),
        (b".track_running_stats", rb"\.track_running_stats\s*=[^=]"),
        (b"def train(", rb"self\.train\s*="),
        (b"def eval(", rb"self\.eval\s*="),
        # the result of `from_pretrained` dropped, embeddings that come frozen
        (
            b".from_pretrained(",
            rb"^\s*\"?\s*self\.[\w.]+\.from_pretrained\(|Embedding\w*\.from_pretrained\(",
        ),
        # modules in plain lists and dicts, parameters that are none
        (b"nn.", rb"self\.\w+\s*=\s*[\[{(][^\]\n]{0,40}(?:\bnn\.)?[A-Z]\w*\("),
        (b"Parameter(", rb"Parameter\([^\n]*\)\.(?:cuda|to|half|float|double|clone)\("),
        # a check for one kind of BatchNorm, before a change of mode
        (b"eval()", rb"isinstance\([^)]*BatchNorm"),
        # Keras, which compiles its models
        (b".compile(", rb"keras|tensorflow"),
        # a softmax before a loss that has its own
        (b"oftmax", rb"(?:entropy|ntropyLoss\(\)|criterion|loss\w*)\([^\n]*(?:softmax|prob)"),
    )
)
_EMPTY = re.compile(rb"self\.(\w+)\s*=\s*(?:\[\]|\{\}|list\(\)|dict\(\))")

_COMMENT = re.compile(rb"freezecheck:|noqa\s*:[^\n]*\bFC\d", re.IGNORECASE)


def matters(data: bytes) -> bool:
    """Whether a rule could find something in a file of these bytes."""
    if data.startswith(_WIDE):
        data = data.replace(b"\0", b"")
    if any(word in data for word in _FREEZE):
        return True
    if b"_grad" in data and _FLAG.search(data):
        return True
    if any(word in data for word in _LIBRARIES) and _trains(data):
        return True
    return speaks(data)


def _trains(data: bytes) -> bool:
    if any(word in data for word in _TRAINING):
        return True
    if any(word in data and pattern.search(data) for word, pattern in _ALONE):
        return True
    return b"nn." in data and any(
        b"self.%b.append(" % name in data or b"self.%b[" % name in data
        for name in _EMPTY.findall(data)
    )


def speaks(data: bytes) -> bool:
    """Whether a comment in it may be one that suppresses findings of ours."""
    return (b"freezecheck" in data or b"oqa" in data or b"OQA" in data) and bool(
        _COMMENT.search(data)
    )
