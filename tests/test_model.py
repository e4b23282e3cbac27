"""build_model builds the parts that were asked for, in their order; layer_costs counts what they cost."""

import numpy as np
import pytest

from fmnist_utils.model import build_model, layer_costs

SMALL = {"filters": (4, 8), "convs_per_block": (1, 2), "dense_units": 16, "dropout": 0.1}


def small_model(**changes):
    return build_model(**{**SMALL, **changes})


def kinds(model):
    return [type(layer).__name__ for layer in model.layers]


def test_layers_in_their_order():
    model, norm = small_model(), ["BatchNormalization", "ReLU"]
    first_conv, drop = ["Conv2D", "MaxPooling2D", *norm], ["SpatialDropout2D"]
    blocks = [*first_conv, *drop, *first_conv, "Conv2D", *norm, *drop]
    assert kinds(model) == ["InputLayer", *blocks, "GlobalAveragePooling2D", "Dense", *norm, "Dense"]
    y_prob = model(np.random.default_rng(0).random((5, 28, 28, 1), dtype="float32")).numpy()
    np.testing.assert_allclose(y_prob.sum(axis=1), np.ones(5), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "kind", "count"),
    [({"batch_norm": False}, "BatchNormalization", 0), ({"dropout": 0.0}, "SpatialDropout2D", 0),
     ({"dense_units": 0}, "Dense", 1), ({"pooling_head": "flatten"}, "Flatten", 1),
     ({"pooling_head": "max"}, "GlobalMaxPooling2D", 1), ({"downsampling": "average"}, "AveragePooling2D", 2),
     ({"downsampling": "stride"}, "MaxPooling2D", 0),
     ({"filters": (4, 8, 8), "convs_per_block": (1, 1, 1)}, "MaxPooling2D", 3)],
)  # fmt: skip
def test_part_taken_away_or_exchanged(change, kind, count):
    model = small_model(**change)
    assert kinds(model).count(kind) == count
    assert model.get_layer("block1_conv1").use_bias == ("batch_norm" in change), "only where no normalisation follows"


def test_sizes_as_given():
    model = build_model(filters=(5,), convs_per_block=(1,), kernel_size=7, dense_units=9, dropout=0.5)
    assert model.get_layer("block1_conv1").kernel.shape == (7, 7, 1, 5)
    assert model.get_layer("dense").kernel.shape == (5, 9) and model.get_layer("block1_dropout").rate == 0.5
    assert {layer.momentum for layer in model.layers if "norm" in layer.name} == {0.9}


@pytest.mark.parametrize(("downsampling", "stride"), [("max", 1), ("max_late", 1), ("average", 1), ("stride", 2)])
def test_downsampling_halves_each_block_once(downsampling, stride):
    model, sides = small_model(downsampling=downsampling), [14, 14 if downsampling == "max_late" else 7, 7]
    convs = [model.get_layer(name) for name in ("block1_conv1", "block2_conv1", "block2_conv2")]
    assert [conv.strides[0] for conv in convs] == [stride, stride, 1]
    assert [model.get_layer(f"{conv.name}_relu").output.shape[1] for conv in convs] == sides


@pytest.mark.parametrize(("downsampling", "pixels"), [("max", (28, 14)), ("stride", (14, 7))])
def test_layer_costs_counted_by_hand(downsampling, pixels):
    model = build_model(filters=(4, 8), convs_per_block=(1, 1), dense_units=16, downsampling=downsampling)
    costs = layer_costs(model)
    assert costs.loc["block1_conv1", "multiply_adds"] == 3 * 3 * 1 * 4 * pixels[0] ** 2
    assert costs.loc["block2_conv1"].tolist() == [f"{pixels[1]} × {pixels[1]} × 8", 288, 288 * pixels[1] ** 2]
    assert costs.loc["probabilities"].tolist() == ["10", 16 * 10 + 10, 16 * 10]
    assert costs["parameters"].sum() == model.count_params()
