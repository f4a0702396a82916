from __future__ import annotations

from collections.abc import Iterator

from freezecheck import keras
from freezecheck.finding import Finding, Note, Severity
from freezecheck.program import ATTRIBUTE, World
from freezecheck.rule import Rule

_GENTLE = {"SGD": 1e-3}  # rates up to these leave a pretrained base where it is
_OTHERS = 1e-4


class KerasRateNotLoweredAfterUnfreeze(Rule):
    """Keras: the base is unfrozen, and the second phase trains at the first one's rate.

    ## What it does

    Finds a second `compile` for a base that was unfrozen whose learning rate is not lower
    than that of the phase in which the base was frozen.

    ## Why it matters

    A new head wants a high rate, a pretrained base a rate ten to a hundred times lower. At
    the head's rate the first epoch of the second phase overwrites what the base brought.

    ## Bad

    ```python source
    import keras
    from keras import layers

    base = keras.applications.VGG16(include_top=False, weights="imagenet")
    base.trainable = False
    inputs = keras.Input(shape=(224, 224, 3))
    x = layers.GlobalAveragePooling2D()(base(inputs, training=False))
    model = keras.Model(inputs, layers.Dense(5, activation="softmax")(x))
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=3)
    base.trainable = True
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy")  # <- FC703
    model.fit(images, labels, epochs=3)
    ```

    ## Good

    ```python source
    import keras
    from keras import layers

    base = keras.applications.VGG16(include_top=False, weights="imagenet")
    base.trainable = False
    inputs = keras.Input(shape=(224, 224, 3))
    x = layers.GlobalAveragePooling2D()(base(inputs, training=False))
    model = keras.Model(inputs, layers.Dense(5, activation="softmax")(x))
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=3)
    base.trainable = True
    model.compile(optimizer=keras.optimizers.Adam(1e-5), loss="sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=3)
    ```

    ## How it is found

    In a text: the rates of both phases are known, or those that an optimizer named by a
    string has by itself, and the second is not lower. Rates that are gentle anyway (1e-4,
    of SGD 1e-3), schedules, and an optimizer whose rate is set later make it silent.

    ## Limits

    Rates that a callback sets are not known, and where there is a `LearningRateScheduler`
    nothing is reported.

    ## References

    - [Keras: Transfer learning & fine-tuning](https://keras.io/guides/transfer_learning/)
    """

    code = "FC703"
    name = "keras-rate-not-lowered-after-unfreeze"
    severity = Severity.WARNING

    def in_source(self, world: World) -> Iterator[Finding]:
        set_later = ("LearningRateScheduler", "optimizer")
        if any(e.data.get("attribute") in set_later for e in world.of(ATTRIBUTE)):
            return
        for thaw in keras.thaws(world):
            first, second = thaw.first.value, thaw.second.value
            kind = thaw.second.data["optimizer"]
            if not isinstance(first, (int, float)) or not isinstance(second, (int, float)):
                continue
            if second < first or second <= _GENTLE.get(kind, _OTHERS):
                continue
            base, model = thaw.base.shown, thaw.model.shown
            yield self.finding(
                f"{model} is trained at {second:g} after {base} was unfrozen, not lower than the"
                f" {first:g} at which its head was trained: that overwrites what {base} brought.",
                site=thaw.second.site,
                symbol=model,
                notes=[
                    Note("the rate of the first phase", thaw.first.site),
                    Note("unfrozen here", thaw.event.site),
                    Note("trained here", thaw.fit.site),
                ],
                fix=f"compile with a rate 10 to 100 times lower, such as {first / 100:g}",
                subject=model,
            )
