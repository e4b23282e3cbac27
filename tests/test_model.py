"""build_model builds the parts that were asked for, in their order; layer_costs counts what they cost."""

import numpy as np
import pytest

from fmnist_utils._tensorflow import tf
from fmnist_utils.model import build_model, layer_costs

SMALL = {"filters": (4, 8), "convs_per_block": (1, 2), "dense_units": 16, "dropout": 0.1}


def small_model(**changes):
    return build_model(**{**SMALL, **changes})


def kinds(model):
    return [type(layer).__name__ for layer in model.layers]


def test_output_is_probabilities():
    y_prob = small_model()(np.random.default_rng(0).random((5, 28, 28, 1), dtype="float32")).numpy()
    assert y_prob.shape == (5, 10)
    np.testing.assert_allclose(y_prob.sum(axis=1), 1, atol=1e-5)


def test_layers_in_their_order():
    norm = ["BatchNormalization", "ReLU"]
    first_conv, drop = ["Conv2D", "MaxPooling2D", *norm], ["SpatialDropout2D"]
    blocks = [*first_conv, *drop, *first_conv, "Conv2D", *norm, *drop]
    assert kinds(small_model()) == ["InputLayer", *blocks, "GlobalAveragePooling2D", "Dense", *norm, "Dense"]


@pytest.mark.parametrize(
    ("change", "kind", "count"),
    [
        ({"batch_norm": False}, "BatchNormalization", 0),
        ({"dropout": 0.0}, "SpatialDropout2D", 0),
        ({"dense_units": 0}, "Dense", 1),
        ({"pooling_head": "flatten"}, "Flatten", 1),
        ({"pooling_head": "max"}, "GlobalMaxPooling2D", 1),
        ({"filters": (4, 8, 8), "convs_per_block": (1, 1, 1)}, "MaxPooling2D", 3),
    ],
)
def test_part_taken_away_or_exchanged(change, kind, count):
    assert kinds(small_model(**change)).count(kind) == count


def test_sizes_as_given():
    model = build_model(filters=(5,), convs_per_block=(1,), kernel_size=7, dense_units=9, dropout=0.5)
    assert model.get_layer("block1_conv1").kernel.shape == (7, 7, 1, 5)
    assert model.get_layer("dense").kernel.shape == (5, 9)
    assert model.get_layer("block1_dropout").rate == 0.5


@pytest.mark.parametrize(
    ("downsampling", "pools", "stride"),
    [("max", ["MaxPooling2D"] * 2, 1), ("average", ["AveragePooling2D"] * 2, 1), ("stride", [], 2)],
)
def test_downsampling_halves_each_block_once(downsampling, pools, stride):
    model = small_model(downsampling=downsampling)
    assert [kind for kind in kinds(model) if "Pooling2D" in kind and "Global" not in kind] == pools
    convs = [model.get_layer(name) for name in ("block1_conv1", "block2_conv1", "block2_conv2")]
    assert [conv.strides[0] for conv in convs] == [stride, stride, 1]
    assert model.get_layer("block1_conv1_relu").output.shape == (None, 14, 14, 4)
    assert model.get_layer("block2_conv2_relu").output.shape == (None, 7, 7, 8)


def test_batch_norm_averages_after_a_short_training():
    """After 50 steps an average has forgotten its start, which with Keras's default of 0.99 it has not."""
    norms = [layer for layer in small_model().layers if isinstance(layer, tf.keras.layers.BatchNormalization)]
    assert norms and {layer.momentum for layer in norms} == {0.9}
    batch = 5 + np.zeros((8, *norms[0].output.shape[1:]), "float32")
    for _ in range(50):
        norms[0](batch, training=True)
    np.testing.assert_allclose(norms[0].moving_mean, 5, rtol=0.01)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_bias_only_where_no_normalisation_follows(batch_norm):
    assert small_model(batch_norm=batch_norm).get_layer("block1_conv1").use_bias is not batch_norm


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"filters": (4,)}, r"filters = \(4,\) and convs_per_block = \(1, 2\)"),
        ({"pooling_head": "mean"}, "pooling_head = 'mean': allowed are average, max, flatten"),
        ({"downsampling": "mean"}, "downsampling = 'mean': allowed are max, average, stride"),
    ],
)
def test_arguments_that_make_no_network(wrong, message):
    with pytest.raises(ValueError, match=message):
        small_model(**wrong)


@pytest.mark.parametrize(("downsampling", "pixels"), [("max", (28, 14)), ("stride", (14, 7))])
def test_layer_costs_counted_by_hand(downsampling, pixels):
    model = build_model(filters=(4, 8), convs_per_block=(1, 1), dense_units=16, downsampling=downsampling)
    costs = layer_costs(model)
    assert costs.loc["block1_conv1", "multiply_adds"] == 3 * 3 * 1 * 4 * pixels[0] ** 2
    assert costs.loc["block2_conv1"].tolist() == [f"{pixels[1]} × {pixels[1]} × 8", 288, 288 * pixels[1] ** 2]
    assert costs.loc["probabilities"].tolist() == ["10", 16 * 10 + 10, 16 * 10]
    assert downsampling == "stride" or costs.loc["block1_pool", "output"] == "14 × 14 × 4"


@pytest.mark.parametrize("head", ["average", "flatten"])
def test_layer_costs_leave_no_parameter_out(head):
    model = small_model(pooling_head=head)
    assert layer_costs(model)["parameters"].sum() == model.count_params()
