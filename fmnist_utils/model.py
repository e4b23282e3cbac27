"""The network: blocks of convolution, max pooling, batch normalisation and dropout, then a small classifier."""

import math
import re
from pathlib import Path

import pandas as pd

from fmnist_utils.data import CLASS_NAMES, IMAGE_SHAPE
from fmnist_utils.quiet import tf

layers = tf.keras.layers
CPUINFO = Path("/proc/cpuinfo")


def build_model(
    filters=(32, 64, 128),
    convs_per_block=(1, 1, 2),
    kernel_size=3,
    dropout=0.0,
    dense_units=128,
    batch_norm=True,
    pooling_head="average",
):
    """Build the convolutional network, not yet compiled. Each argument is a part that can be taken away.

    filters: feature maps of each block, a block per entry. convs_per_block: its number of convolutions. kernel_size:
    pixels. dropout: share of feature maps that each block drops while training, 0 for no dropout layer. dense_units:
    width of the hidden fully connected layer, 0 for none. batch_norm: with or without. pooling_head: "average"
    (global average pooling), "max" (global max pooling) or "flatten". Takes (n, 28, 28, 1) float32 in [0, 1], gives
    (n, 10) probabilities. Raises ValueError for lists of unequal length or an unknown pooling head.

    In each block the pooling comes right after the first convolution, so that everything after it works on a quarter
    of the pixels. Whole feature maps are dropped (Tompson et al. 2015, arXiv:1411.4280): neighbouring pixels tell
    nearly the same, and one random number a map is cheaper than one a pixel.
    """
    if len(filters) != len(convs_per_block):
        raise ValueError(
            f"filters = {filters} and convs_per_block = {convs_per_block}: give one entry per block in both"
        )
    x = inputs = tf.keras.Input(IMAGE_SHAPE, name="image")
    for block, (width, convs) in enumerate(zip(filters, convs_per_block, strict=True), start=1):
        for conv in range(1, convs + 1):
            name = f"block{block}_conv{conv}"
            x = layers.Conv2D(
                width,
                kernel_size,
                padding="same",
                use_bias=not batch_norm,
                kernel_initializer="he_normal",
                name=name,
            )(x)
            if conv == 1:
                x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
            x = _norm_relu(x, batch_norm, name)
        if dropout:
            x = layers.SpatialDropout2D(dropout, name=f"block{block}_dropout")(x)
    x = _pooling_head(pooling_head)(x)
    if dense_units:
        x = layers.Dense(dense_units, use_bias=not batch_norm, kernel_initializer="he_normal", name="dense")(x)
        x = _norm_relu(x, batch_norm, "dense")
    outputs = layers.Dense(len(CLASS_NAMES), activation="softmax", name="probabilities")(x)
    return tf.keras.Model(inputs, outputs, name="fashion_cnn")


def with_precision(model, precision):
    """Return a copy of the model, with its weights, whose layers compute in another precision.

    precision: "float32", "mixed_bfloat16" (activations in 16 bits, weights and softmax in 32; Kalamkar et al. 2019,
    arXiv:1905.12322) or "auto": mixed_bfloat16 where `bfloat16_is_faster`, otherwise float32. The copy is
    not compiled.
    """
    if precision == "auto":
        precision = "mixed_bfloat16" if bfloat16_is_faster() else "float32"

    def twin(layer):
        keep = "float32" if layer.name in ("image", "probabilities") else precision
        return type(layer).from_config({**layer.get_config(), "dtype": keep})

    copy = tf.keras.models.clone_model(model, clone_function=twin)
    copy.set_weights(model.get_weights())
    return copy


def bfloat16_is_faster():
    """Tell whether bfloat16 is faster than float32 on this computer; false on any but Linux, or with a GPU.

    It is where the processor multiplies such numbers at more than float32's rate: with AMX, or an AMD processor with
    AVX512_BF16. On an Intel processor with AVX512_BF16 alone a step took 1.4 times as long as in float32, and where
    every number has to be converted 14 times (benchmarks/README.md).
    """
    try:
        content = CPUINFO.read_text()
    except OSError:
        return False
    flags = set("".join(re.findall(r"^flags\s*:(.*)$", content, re.MULTILINE)[:1]).split())
    fast = "amx_bf16" in flags or ("avx512_bf16" in flags and "AuthenticAMD" in content)
    return fast and not tf.config.list_physical_devices("GPU")


def _norm_relu(x, batch_norm, name):
    if batch_norm:  # momentum 0.9: a short training has too few steps for the default's slow average
        x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def _pooling_head(kind):
    heads = {
        "average": layers.GlobalAveragePooling2D,
        "max": layers.GlobalMaxPooling2D,
        "flatten": layers.Flatten,
    }
    if kind not in heads:
        raise ValueError(f"pooling_head = {kind!r}: allowed are {', '.join(heads)}")
    return heads[kind](name="head")


def layer_costs(model):
    """Count what each layer stores and computes for one image.

    Returns a frame, a row a layer with weights or pooling: output shape, parameters, multiply-adds. A convolution
    multiplies each of its weights once per output pixel, a dense layer each once; pooling and normalisation count 0,
    being small beside them.
    """
    rows = []
    for layer in model.layers:
        shape = tuple(layer.output.shape[1:])
        if isinstance(layer, layers.Conv2D):
            multiply_adds = math.prod(layer.kernel.shape) * shape[0] * shape[1]
        elif isinstance(layer, layers.Dense):
            multiply_adds = math.prod(layer.kernel.shape)
        elif layer.count_params() or "pool" in layer.name or layer.name == "head":
            multiply_adds = 0
        else:
            continue
        rows.append((layer.name, " × ".join(map(str, shape)), layer.count_params(), multiply_adds))
    return pd.DataFrame(rows, columns=["layer", "output", "parameters", "multiply_adds"]).set_index("layer")
