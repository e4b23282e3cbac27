"""The network: blocks of convolution, max pooling, batch normalisation and dropout, then a small classifier."""

import math

import pandas as pd

from fmnist_utils._tensorflow import tf
from fmnist_utils.data import CLASS_NAMES, IMAGE_SHAPE

layers = tf.keras.layers
POOLINGS = {"max": layers.MaxPool2D, "max_late": layers.MaxPool2D, "average": layers.AvgPool2D, "stride": None}
HEADS = {"average": layers.GlobalAveragePooling2D, "max": layers.GlobalMaxPooling2D, "flatten": layers.Flatten}


def build_model(
    filters=(32, 64, 128),
    convs_per_block=(1, 1, 2),
    kernel_size=3,
    dropout=0.0,
    dense_units=128,
    batch_norm=True,
    pooling_head="average",
    downsampling="max",
):
    """Build the convolutional network, uncompiled: (n, 28, 28, 1) in [0, 1] in, (n, 10) probabilities out.

    Pooling comes after a block's first convolution, so that the rest has a quarter of the work (Jordan 2024,
    arXiv:2404.00498), by "max_late" after its last. Dropout drops whole maps (Tompson et al. 2015, arXiv:1411.4280).
    """
    x = inputs = tf.keras.Input(IMAGE_SHAPE, name="image")
    for block, (width, convs) in enumerate(zip(filters, convs_per_block, strict=True), start=1):
        for conv in range(1, convs + 1):
            name = f"block{block}_conv{conv}"
            strides = 2 if conv == 1 and downsampling == "stride" else 1
            options = {"use_bias": not batch_norm, "kernel_initializer": "he_normal", "name": name}
            x = layers.Conv2D(width, kernel_size, strides, padding="same", **options)(x)
            if conv == (convs if downsampling == "max_late" else 1) and downsampling != "stride":
                x = POOLINGS[downsampling](2, name=f"block{block}_pool")(x)
            x = _norm_relu(x, batch_norm, name)
        if dropout:
            x = layers.SpatialDropout2D(dropout, name=f"block{block}_dropout")(x)
    x = HEADS[pooling_head](name="head")(x)
    if dense_units:
        x = layers.Dense(dense_units, use_bias=not batch_norm, kernel_initializer="he_normal", name="dense")(x)
        x = _norm_relu(x, batch_norm, "dense")
    outputs = layers.Dense(len(CLASS_NAMES), activation="softmax", name="probabilities")(x)
    return tf.keras.Model(inputs, outputs, name="fashion_cnn")


def _norm_relu(x, batch_norm, name):
    if batch_norm:  # momentum 0.9: a short training has too few steps for the default's slow average
        x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def layer_costs(model) -> pd.DataFrame:
    """Return output, parameters, multiply_adds for one image (of convolutions and dense layers), a row per layer."""
    rows = []
    for layer in model.layers:
        shape = tuple(layer.output.shape[1:])
        work = math.prod(layer.kernel.shape) * math.prod(shape[:-1]) if hasattr(layer, "kernel") else 0
        if layer.count_params() or "pool" in layer.name or layer.name == "head":
            rows.append((layer.name, " × ".join(map(str, shape)), layer.count_params(), work))
    return pd.DataFrame(rows, columns=["layer", "output", "parameters", "multiply_adds"]).set_index("layer")
