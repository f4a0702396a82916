from __future__ import annotations

from collections.abc import Iterator

from freezecheck import keras
from freezecheck.finding import Finding, Note, Severity
from freezecheck.program import BUILT, FIT, World
from freezecheck.rule import Rule


class HeadDropped(Rule):
    """Keras: the model that is trained ends where the base ends, without the head.

    ## What it does

    Finds a model made as `Model(base.input, base.output)` and trained, while a head was built
    upon the base.

    ## Why it matters

    The head is a few more layers on `base.output`; a model has it only if its output is what
    comes out of the head. Without it the loss is taken over feature maps. If their number
    fits the labels it trains, and classifies nothing.

    ## Bad

    ```python source
    import keras
    from keras import layers

    base = keras.applications.MobileNetV2(include_top=False, weights="imagenet", pooling="avg")
    x = layers.Dropout(0.2)(base.output)
    outputs = layers.Dense(5, activation="softmax")(x)
    model = keras.Model(base.input, base.output)  # <- FC705
    model.compile(optimizer=keras.optimizers.Adam(1e-5), loss="sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=3)
    ```

    ## Good

    ```python source
    import keras
    from keras import layers

    base = keras.applications.MobileNetV2(include_top=False, weights="imagenet", pooling="avg")
    x = layers.Dropout(0.2)(base.output)
    outputs = layers.Dense(5, activation="softmax")(x)
    model = keras.Model(base.input, outputs)
    model.compile(optimizer=keras.optimizers.Adam(1e-5), loss="sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=3)
    features = keras.Model(base.input, base.output)
    embedded = features.predict(images)
    ```

    ## How it is found

    In a text: `input` and `output` of one and the same model without its top are made a model
    which is compiled and fitted, and a `Dense` layer was called on that output before.

    ## Limits

    A head that is built by a function that is not seen is not known.

    ## References

    - [Keras: the Functional API](https://keras.io/guides/functional_api/)
    """

    code = "FC705"
    name = "head-dropped"
    severity = Severity.ERROR

    def in_source(self, world: World) -> Iterator[Finding]:
        for event in world.of(BUILT):
            base = event.data["repeats"]
            if base is None or base.include_top is not False:
                continue
            head = [
                e
                for e in world.of(BUILT)
                if e.index < event.index
                and e.value == "call"
                and e.subject.type == "Dense"
                and any(layer is base and site is None for layer, site, _ in e.data["calls"])
            ]
            fit = next(world.since(event, FIT, event.subject), None)
            if not head or fit is None or keras.compiled(world, fit) is None:
                continue
            model = event.subject.shown
            yield self.finding(
                f"{model} ends with the output of {base.shown}: the head that was built on it is not"
                " in the model that is trained.",
                site=event.site,
                symbol=model,
                notes=[
                    Note("the head is built here", head[-1].site),
                    Note("trained here", fit.site),
                ],
                fix=f"make {model} from {base.shown}.input and the output of the head",
                subject=model,
            )
