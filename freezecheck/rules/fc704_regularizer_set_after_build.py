from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Note, Severity
from freezecheck.program import ATTRIBUTE, FIT, REBUILD, World
from freezecheck.rule import Rule

_REGULARIZERS = ("kernel_regularizer", "bias_regularizer", "beta_regularizer", "gamma_regularizer")


class RegularizerSetAfterBuild(Rule):
    """Keras: a regularizer is given to layers that are built already.

    ## What it does

    Finds `layer.kernel_regularizer = ...` on layers of a built model that is trained without
    having been made anew from its configuration.

    ## Why it matters

    A layer hands its regularizer to its weights when they are made. Set later, the
    attribute is there, shows up in `get_config()`, and adds nothing to the loss: the model
    trains without weight decay.

    ## Bad

    ```python source
    import keras
    from keras import layers

    base = keras.applications.VGG16(include_top=False, weights="imagenet")
    for layer in base.layers:
        if hasattr(layer, "kernel_regularizer"):
            layer.kernel_regularizer = keras.regularizers.l2(1e-4)  # <- FC704
    inputs = keras.Input(shape=(224, 224, 3))
    x = layers.GlobalAveragePooling2D()(base(inputs, training=False))
    model = keras.Model(inputs, layers.Dense(5, activation="softmax")(x))
    model.compile(optimizer=keras.optimizers.Adam(1e-5), loss="sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=3)
    ```

    ## Good

    ```python source
    import keras
    from keras import layers

    base = keras.applications.VGG16(include_top=False, weights="imagenet")
    for layer in base.layers:
        if hasattr(layer, "kernel_regularizer"):
            layer.kernel_regularizer = keras.regularizers.l2(1e-4)
    base.save_weights("base.weights.h5")
    base = keras.models.model_from_json(base.to_json())
    base.load_weights("base.weights.h5")
    inputs = keras.Input(shape=(224, 224, 3))
    x = layers.GlobalAveragePooling2D()(base(inputs, training=False))
    model = keras.Model(inputs, layers.Dense(5, activation="softmax")(x))
    model.compile(optimizer=keras.optimizers.Adam(1e-5), loss="sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=3)
    ```

    ## How it is found

    In a text: the attribute is set on layers of a model, and a model that holds these is
    fitted, with no `model_from_json`, `from_config`, `clone_model`, `load_model` or `add_loss`
    anywhere behind it.

    ## Limits

    Layers that a program defines itself may look at the attribute in each call.

    ## References

    - [Keras: layer weight regularizers](https://keras.io/api/layers/regularizers/)
    """

    code = "FC704"
    name = "regularizer-set-after-build"
    severity = Severity.ERROR

    def in_source(self, world: World) -> Iterator[Finding]:
        told = set()
        for event in world.of(ATTRIBUTE):
            name, layer = event.data.get("attribute"), event.subject
            if name not in _REGULARIZERS or event.data.get("part") is None or event.value is None:
                continue
            fit = next((f for f in world.since(event, FIT) if layer in f.subject.inside()), None)
            if fit is None or event.site in told or any(world.since(event, REBUILD)):
                continue
            told.add(event.site)
            yield self.finding(
                f"{name} is set on layers of {layer.shown} that are built already: nothing is added"
                " to the loss, and their weights are not regularized.",
                site=event.site,
                symbol=name,
                notes=[Note(f"{fit.subject.shown} is trained here", fit.site)],
                fix="make the model anew: save its weights, keras.models.model_from_json("
                f"{layer.shown}.to_json()), load them again",
                subject=fit.subject.shown,
            )
