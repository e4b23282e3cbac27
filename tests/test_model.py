"""The network has the parts that were asked for, in the right order, and costs what it is said to cost."""

import numpy as np
import pytest

from fmnist_utils._tensorflow import tf
from fmnist_utils.model import build_model, layer_costs

SMALL = {"filters": (4, 8), "convs_per_block": (1, 2), "dense_units": 16, "dropout": 0.1}


def kinds(model):
    return [type(layer).__name__ for layer in model.layers]


def test_maps_images_to_probabilities():
    y_prob = build_model(**SMALL)(np.random.default_rng(0).random((5, 28, 28, 1), dtype="float32")).numpy()
    assert y_prob.shape == (5, 10)
    np.testing.assert_allclose(y_prob.sum(axis=1), 1, atol=1e-5)


def test_a_block_is_convolution_pooling_norm_relu_dropout():
    block = ["Conv2D", "MaxPooling2D", "BatchNormalization", "ReLU"]
    assert kinds(build_model(**SMALL)) == [
        "InputLayer",
        *block,
        "SpatialDropout2D",
        *block,
        "Conv2D",
        "BatchNormalization",
        "ReLU",
        "SpatialDropout2D",
        "GlobalAveragePooling2D",
        "Dense",
        "BatchNormalization",
        "ReLU",
        "Dense",
    ]


@pytest.mark.parametrize(
    ("change", "kind", "count"),
    [
        ({"batch_norm": False}, "BatchNormalization", 0),
        ({"dropout": 0.0}, "SpatialDropout2D", 0),
        ({"dense_units": 0}, "Dense", 1),
        ({"pooling_head": "flatten"}, "Flatten", 1),
        ({"pooling_head": "max"}, "GlobalMaxPooling2D", 1),
        ({"filters": (4, 8, 8), "convs_per_block": (1, 1, 1)}, "MaxPooling2D", 3),
        ({"downsampling": "stride"}, "MaxPooling2D", 0),
    ],
)
def test_each_part_can_be_taken_away_or_changed(change, kind, count):
    assert kinds(build_model(**{**SMALL, **change})).count(kind) == count


def test_width_kernel_and_dense_units_are_used():
    model = build_model(filters=(5,), convs_per_block=(1,), kernel_size=7, dense_units=9)
    assert model.get_layer("block1_conv1").kernel.shape == (7, 7, 1, 5)
    assert model.get_layer("dense").kernel.shape == (5, 9)


@pytest.mark.parametrize(
    ("downsampling", "kinds_of_it", "strides"),
    [("max", ["MaxPooling2D"] * 2, 1), ("average", ["AveragePooling2D"] * 2, 1), ("stride", [], 2)],
)
def test_each_way_of_downsampling_halves_height_and_width_once_a_block(downsampling, kinds_of_it, strides):
    model = build_model(**SMALL, downsampling=downsampling)
    assert [kind for kind in kinds(model) if "Pooling2D" in kind and "Global" not in kind] == kinds_of_it
    names = [layer.name for layer in model.layers if "pool" in layer.name]
    assert names == ["block1_pool", "block2_pool"][: len(kinds_of_it)]
    convs = {name: model.get_layer(name) for name in ("block1_conv1", "block2_conv1", "block2_conv2")}
    assert [conv.strides[0] for conv in convs.values()] == [strides, strides, 1]
    assert model.get_layer("block1_conv1_relu").output.shape == (None, 14, 14, 4)
    assert model.get_layer("block2_conv2_relu").output.shape == (None, 7, 7, 8)
    assert model.count_params() == build_model(**SMALL).count_params()


def test_the_convolution_with_stride_is_counted_at_the_pixels_that_it_computes():
    costs = layer_costs(build_model(filters=(4, 8), convs_per_block=(1, 1), downsampling="stride"))
    assert costs.loc["block1_conv1", "multiply_adds"] == 3 * 3 * 1 * 4 * 14 * 14
    assert costs.loc["block2_conv1", "multiply_adds"] == 3 * 3 * 4 * 8 * 7 * 7


def test_dropout_rate_is_used_and_acts_in_training_only():
    model = build_model(**{**SMALL, "dropout": 0.5})
    assert model.get_layer("block1_dropout").rate == 0.5
    x = np.random.default_rng(0).random((8, 28, 28, 1), dtype="float32")
    np.testing.assert_array_equal(model(x, training=False), model(x, training=False))


def test_batch_norm_learns_its_averages_within_a_short_training():
    """A tenth of each batch: after 50 steps an average has forgotten its start, which Keras's own 0.99 has not."""
    norms = [layer for layer in build_model(**SMALL).layers if isinstance(layer, tf.keras.layers.BatchNormalization)]
    assert norms and {layer.momentum for layer in norms} == {0.9}
    batch = 5 + np.zeros((8, *norms[0].output.shape[1:]), "float32")
    for _ in range(50):
        norms[0](batch, training=True)
    np.testing.assert_allclose(norms[0].moving_mean, 5, rtol=0.01)


def test_a_bias_stands_only_where_no_normalisation_follows():
    assert not build_model(**SMALL).get_layer("block1_conv1").use_bias
    assert build_model(**{**SMALL, "batch_norm": False}).get_layer("block1_conv1").use_bias


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"filters": (4,)}, r"filters = \(4,\) and convs_per_block = \(1, 2\)"),
        ({"pooling_head": "mean"}, "pooling_head = 'mean': allowed are average, max, flatten"),
        ({"downsampling": "mean"}, "downsampling = 'mean': allowed are max, average, stride"),
    ],
)
def test_refuses_what_makes_no_network(wrong, told):
    with pytest.raises(ValueError, match=told):
        build_model(**{**SMALL, **wrong})


def test_costs_agree_with_a_count_by_hand():
    costs = layer_costs(build_model(filters=(4, 8), convs_per_block=(1, 1), dense_units=16))
    assert costs.loc["block2_conv1", "parameters"] == 3 * 3 * 4 * 8
    assert costs.loc["block2_conv1", "multiply_adds"] == 3 * 3 * 4 * 8 * 14 * 14
    assert costs.loc["probabilities", "parameters"] == 16 * 10 + 10
    assert costs.loc["probabilities", "multiply_adds"] == 16 * 10
    assert costs.loc["block1_pool", "output"] == "14 × 14 × 4"


@pytest.mark.parametrize("head", ["average", "flatten"])
def test_costs_leave_no_parameter_out(head):
    model = build_model(**SMALL, pooling_head=head)
    assert layer_costs(model)["parameters"].sum() == model.count_params()


def test_the_saved_network_needs_built_in_layers_only(tmp_path):
    model = build_model(**SMALL)
    model.save(tmp_path / "model.keras")
    x = np.zeros((2, 28, 28, 1), dtype="float32")
    again = tf.keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(again(x), model(x))
