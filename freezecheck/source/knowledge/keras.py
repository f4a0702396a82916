"""Keras: models that come with weights, and optimizers' own rates."""

from __future__ import annotations

# Families of `keras.applications` with BatchNorm layers, by how their names begin.
BATCHNORM = (
    "ResNet", "MobileNet", "Inception", "Xception", "DenseNet", "EfficientNet", "NASNet", "RegNet",
)  # fmt: skip

# At least so many layers has the model without its top.
LAYERS = {
    "MobileNet": 85, "MobileNetV2": 150, "InceptionV3": 300, "InceptionResNetV2": 770,
    "Xception": 130, "ResNet50": 170, "ResNet50V2": 185, "ResNet101": 340, "ResNet152": 510,
    "DenseNet121": 420, "DenseNet169": 590, "DenseNet201": 700, "EfficientNetB0": 230,
}  # fmt: skip

# Optimizer: the rate that it has if none is given.
RATES = {
    "SGD": 0.01, "RMSprop": 0.001, "Adam": 0.001, "AdamW": 0.001, "Adadelta": 0.001,
    "Adagrad": 0.001, "Adamax": 0.001, "Nadam": 0.001, "Ftrl": 0.001, "Lion": 0.001,
}  # fmt: skip
_BY_NAME = {name.lower(): name for name in RATES}


def rate(name: str) -> float | None:
    """The rate of an optimizer that is given by its name: `compile(optimizer="adam")`."""
    return RATES.get(_BY_NAME.get(name.lower(), ""))


def suffix(name: str) -> str | None:
    """What a dotted name is below `keras`; None if it is not Keras's."""
    parts = name.split(".")
    if parts[0] in ("keras", "tf_keras"):
        return ".".join(parts[1:])
    if parts[0] == "tensorflow" and "keras" in parts:
        return ".".join(parts[parts.index("keras") + 1 :])
    return None
