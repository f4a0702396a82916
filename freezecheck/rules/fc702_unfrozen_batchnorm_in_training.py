from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from freezecheck import keras
from freezecheck.finding import Finding, Note, Severity
from freezecheck.program import World
from freezecheck.rule import Rule
from freezecheck.source.knowledge.keras import LAYERS

_ENOUGH = 10  # layers of such a network have a BatchNorm among them


class UnfrozenBatchnormInTraining(Rule):
    """Keras: unfreezing the base switches its BatchNorm layers to training mode.

    ## What it does

    Finds a pretrained base with BatchNorm that is frozen at first, is part of the model
    without `training=False`, and is then unfrozen and trained.

    ## Why it matters

    A frozen BatchNorm layer of Keras runs in inference mode, on its running statistics.
    Unfrozen, it goes over to the statistics of each batch and begins to overwrite its own. The
    features that the head was trained on change from one step to the next, and the first
    phase is lost. With `base(x, training=False)` the layers stay in inference mode, whatever
    `trainable` says.

    ## Bad

    ```python source
    import keras
    from keras import layers

    base = keras.applications.ResNet50(include_top=False, weights="imagenet")
    base.trainable = False
    inputs = keras.Input(shape=(224, 224, 3))
    x = base(inputs)  # <- FC702
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(5, activation="softmax")(x))
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=3)
    base.trainable = True
    model.compile(optimizer=keras.optimizers.Adam(1e-5), loss="sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=3)
    ```

    ## Good

    ```python source
    import keras
    from keras import layers

    base = keras.applications.ResNet50(include_top=False, weights="imagenet")
    base.trainable = False
    inputs = keras.Input(shape=(224, 224, 3))
    x = base(inputs, training=False)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(5, activation="softmax")(x))
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=3)
    base.trainable = True
    model.compile(optimizer=keras.optimizers.Adam(1e-5), loss="sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=3)
    ```

    BatchNorm layers left frozen, and a base without any:

    ```python source
    import keras
    from keras import layers

    for base in (keras.applications.ResNet50(include_top=False), keras.applications.VGG16(include_top=False)):
        base.trainable = False
        x = layers.GlobalAveragePooling2D()(base.output)
        model = keras.Model(base.input, layers.Dense(5, activation="softmax")(x))
        model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="sparse_categorical_crossentropy")
        model.fit(images, labels, epochs=3)
        base.trainable = True
        for layer in base.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.trainable = False
        model.compile(optimizer=keras.optimizers.Adam(1e-5), loss="sparse_categorical_crossentropy")
        model.fit(images, labels, epochs=3)
    ```

    ## How it is found

    In a text: the base comes from `keras.applications` and has BatchNorm, a `fit` with it
    frozen comes before the line that unfreezes all of it, and a `compile` and a `fit` behind.
    If some of its layers are frozen again, it is reported only where enough of them are left
    that one is a BatchNorm for certain.

    ## Limits

    Training BatchNorm on purpose, with large batches of similar data, looks the same.

    ## References

    - [Keras: Transfer learning & fine-tuning](https://keras.io/guides/transfer_learning/)
    """

    code = "FC702"
    name = "unfrozen-batchnorm-in-training"
    severity = Severity.WARNING

    def in_source(self, world: World) -> Iterator[Finding]:
        for thaw in keras.thaws(world):
            base, event = thaw.base, thaw.event
            if not base.batchnorm or event.data["part"] is not None or not _left(world, thaw):
                continue
            made = [c for c in keras.calls(world, thaw.model) if c[0] is base]
            if not made or any(said is not None for _, _, said in made):
                continue
            place = next((site for _, site, _ in made if site is not None), event.site)
            place = place if thaw.model.type == "Model" else event.site
            yield self.finding(
                f"{base.shown} ({base.type}) is in {thaw.model.shown} without training=False: now that"
                " it is unfrozen, its BatchNorm layers run on the statistics of each batch and"
                " overwrite their own.",
                site=place,
                symbol=base.shown,
                notes=[Note("unfrozen here", event.site), Note("trained here", thaw.fit.site)],
                fix=f"call it as {base.shown}(x, training=False), or leave its BatchNormalization"
                " layers frozen",
                subject=thaw.model.shown,
            )


def _left(world: World, thaw: Any) -> bool:
    """A BatchNorm layer of the base is surely not frozen again."""
    for event in keras.trainable(world, thaw.base):
        if not thaw.event.index < event.index < thaw.second.index or event.value is True:
            continue
        start, stop = event.data["part"] or (None, None)
        if event.value is None or start is not None or not isinstance(stop, int):
            return False
        if stop > (LAYERS.get(thaw.base.type, 0) if stop > 0 else 0) - _ENOUGH:
            return False
    return True
