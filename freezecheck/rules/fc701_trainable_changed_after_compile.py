from __future__ import annotations

from collections.abc import Iterator

from freezecheck import keras
from freezecheck.finding import Finding, Note, Severity
from freezecheck.program import ATTRIBUTE, COMPILE, FIT, Event, World
from freezecheck.rule import Rule


class TrainableChangedAfterCompile(Rule):
    """Keras: `trainable` is changed after `compile`, which is not called again.

    ## What it does

    Finds layers that are frozen or unfrozen between `model.compile(...)` and `model.fit(...)`.

    ## Why it matters

    `compile` fixes what is trained: Keras documents that a change of `trainable` counts once
    `compile` has been called again. The second phase of a fine-tuning then goes on
    training the head alone, for as many epochs as it is given, and says nothing.

    ## Bad

    ```python source
    import keras
    from keras import layers

    base = keras.applications.MobileNetV2(include_top=False, weights="imagenet")
    base.trainable = False
    inputs = keras.Input(shape=(96, 96, 3))
    x = layers.GlobalAveragePooling2D()(base(inputs, training=False))
    model = keras.Model(inputs, layers.Dense(5, activation="softmax")(x))
    model.compile(optimizer=keras.optimizers.Adam(1e-5), loss="sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=3)
    base.trainable = True  # <- FC701
    model.fit(images, labels, epochs=3)
    ```

    Frozen too late:

    ```python source
    from tensorflow.keras.applications import VGG16
    from tensorflow.keras.layers import Dense, Flatten
    from tensorflow.keras.models import Sequential

    base = VGG16(include_top=False, weights="imagenet", input_shape=(96, 96, 3))
    model = Sequential([base, Flatten(), Dense(5, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    for layer in base.layers:
        layer.trainable = False  # <- FC701
    model.fit(images, labels, epochs=3)
    ```

    ## Good

    ```python source
    import keras
    from keras import layers

    base = keras.applications.MobileNetV2(include_top=False, weights="imagenet")
    base.trainable = False
    inputs = keras.Input(shape=(96, 96, 3))
    x = layers.GlobalAveragePooling2D()(base(inputs, training=False))
    model = keras.Model(inputs, layers.Dense(5, activation="softmax")(x))
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=3)
    base.trainable = True
    model.compile(optimizer=keras.optimizers.Adam(1e-5), loss="sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=3)
    ```

    A discriminator that is frozen for the combined model, which is compiled then:

    ```python source
    import keras
    from keras import layers

    generator = keras.Sequential([layers.Dense(64)])
    discriminator = keras.Sequential([layers.Dense(1, activation="sigmoid")])
    discriminator.compile("adam", "binary_crossentropy")
    discriminator.trainable = False
    noise = keras.Input(shape=(16,))
    combined = keras.Model(noise, discriminator(generator(noise)))
    combined.compile("adam", "binary_crossentropy")
    discriminator.fit(images, labels)
    combined.fit(noises, labels)
    ```

    ## How it is found

    In a text: the model was compiled, `trainable` of it or of a part of it is set to what it
    was not, and the model is fitted without a `compile` of any model in between.

    ## Limits

    Calls of `train_on_batch`, by which adversarial networks are trained, are passed over.

    ## References

    - [Keras: Transfer learning & fine-tuning](https://keras.io/guides/transfer_learning/)
    - [keras-team/keras#6405](https://github.com/keras-team/keras/issues/6405)
    """

    code = "FC701"
    name = "trainable-changed-after-compile"
    severity = Severity.ERROR

    def in_source(self, world: World) -> Iterator[Finding]:
        told = set()
        for fit in world.of(FIT):
            model, compiled = fit.subject, keras.compiled(world, fit)
            if compiled is None or fit.value == "train_on_batch":
                continue
            inside = model.inside() if keras.is_known(world, model) else []
            for event in world.since(compiled, ATTRIBUTE):
                if event.index > fit.index or event.site in told or event.subject not in inside:
                    continue
                if any(e.index < fit.index for e in world.since(event, COMPILE)):
                    continue
                if _changes(world, event):
                    told.add(event.site)
                    yield self._judge(event, compiled, fit)

    def _judge(self, event: Event, compiled: Event, fit: Event) -> Finding:
        layer, model = event.subject.shown, fit.subject.shown
        part = f"layers of {layer}" if event.data["part"] is not None else layer
        what, then = ("unfrozen", "stays frozen") if event.value else ("frozen", "goes on training")
        return self.finding(
            f"{part} is {what} after {model} was compiled, and {model} is fitted without another"
            f" compile: it {then}.",
            site=event.site,
            symbol=layer,
            notes=[Note(f"{model} is compiled here", compiled.site), Note("fitted here", fit.site)],
            fix=f"call {model}.compile(...) again after this line",
            subject=model,
        )


def _changes(world: World, event: Event) -> bool:
    """It sets `trainable` to what it surely was not."""
    if event.data["attribute"] != "trainable" or not isinstance(event.value, bool):
        return False
    before = [e for e in keras.trainable(world, event.subject) if e.index < event.index]
    values = {e.value for e in before}
    if not any(e.data["part"] is None for e in before):
        values.add(True)  # what layers are made with
    return event.value not in values and None not in values
