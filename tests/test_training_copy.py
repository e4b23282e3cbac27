"""training_copy computes what Keras's own steps compute; plain_copy leaves nothing of it in the model that is kept."""

import os

import numpy as np
import pytest

from fmnist_utils import _training_copy
from fmnist_utils._tensorflow import tf
from fmnist_utils._training_copy import bfloat16_is_faster, plain_copy, training_copy
from fmnist_utils.model import build_model

NEEDS_16_BITS = pytest.mark.skipif("ONEDNN_MAX_CPU_ISA" in os.environ, reason="held back, oneDNN cannot convolve them")
GPU = [tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")]


def images(n, seed=0):
    random = np.random.default_rng(seed)
    return random.random((n, 28, 28, 1), dtype="float32"), np.eye(10, dtype="float32")[random.integers(0, 10, n)]


def network(**changes):
    """A small network whose weights and averages are none of their starting values."""
    tf.keras.utils.set_random_seed(0)
    model, random = build_model((4,), (1,), dense_units=6, **changes), np.random.default_rng(1)
    for layer in model.layers:
        if "norm" in layer.name:
            layer.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
        elif getattr(layer, "use_bias", False):
            layer.bias.assign(random.uniform(-0.1, 0.1, layer.bias.shape))
    return model


def compiled(model, rate=1.0):
    """Compile with SGD, without a graph to build; the rate 1 subtracts the gradients from the weights."""
    loss = tf.keras.losses.CategoricalCrossentropy(label_smoothing=0.1)
    model.compile(tf.keras.optimizers.SGD(rate), loss=loss, metrics=["accuracy"], run_eagerly=True)
    return model


def steps(model, x, y, batch_size=None):
    """Do an epoch; return its loss and accuracy, and by how much each weight that learns has changed."""
    before = [weight.numpy() for weight in model.trainable_variables]
    scores = model.fit(x, y, batch_size=batch_size or len(x), shuffle=False, verbose=0).history
    changes = [old - weight.numpy() for old, weight in zip(before, model.trainable_variables, strict=True)]
    return [scores["loss"][0], scores["accuracy"][0], *changes]


def assert_close(first, second, tolerance=1e-5):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("n", "batch_size"), [(8, 8), (7, 7), (2, 2), (1, 1), (21, 8)])
def test_steps_equal_those_of_keras(n, batch_size):
    """Without batch normalisation, which each half has on its own."""
    model = network(batch_norm=False)
    copy, rate = training_copy(model, "float32"), 1.0 if n == batch_size else 0.1
    expected = steps(compiled(model, rate), *images(n, seed=n), batch_size)
    assert all(np.abs(change).max() > 1e-4 for change in expected[2:]), "each weight must have learned something"
    assert_close(steps(compiled(copy, rate), *images(n, seed=n), batch_size), expected, 1e-4)


def test_batch_norm_of_each_half_by_its_own_images():
    model, (x, y), losses = network(), images(8), []
    for half in (slice(0, 4), slice(4, 8)):
        with tf.GradientTape() as tape:
            y_pred = model(x[half], training=True)
            loss = tf.reduce_mean(tf.keras.losses.categorical_crossentropy(y[half], y_pred, label_smoothing=0.1))
        losses.append([loss, *tape.gradient(loss, model.trainable_variables)])
    loss, _, *gradients = steps(compiled(training_copy(model, "float32")), x, y)
    assert_close([loss, *gradients], [(a + b) / 2 for a, b in zip(*losses, strict=True)], 1e-4)


def test_moving_averages_after_many_steps_equal_those_of_keras():
    """The two halves are of the same images, so that the batch and either half have one mean and one variance."""
    model, (x, y) = network(), (np.concatenate([part, part]) for part in images(6))
    models, before = (compiled(training_copy(model, "float32"), 0.0), compiled(model, 0.0)), model.get_weights()
    for each in models * 3:
        steps(each, x, y)
    after = [each.get_weights() for each in models]
    assert_close(*after, 1e-4)
    assert sum(np.abs(a - b).max() > 0.1 for a, b in zip(before, after[0], strict=True)) == 4


@pytest.mark.parametrize("shape", [(8, 5, 5, 3), (8, 3), (1, 3), (1, 1, 1, 3)])
def test_fused_batch_norm_equals_that_of_keras(shape):
    x = np.random.default_rng(0).normal(2, 3, shape).astype("float32")
    plain = tf.keras.layers.BatchNormalization(momentum=0.9, epsilon=0.01)
    fused = _training_copy._FusedBatchNormalization.from_config(plain.get_config())
    for layer in (plain, fused):
        layer.build(shape)
        layer.set_weights([np.array(values, "float32") for values in ([1, 2, 3], [3, 2, 1], [0, 1, 2], [1, 4, 9])])
    for training in (True, False):
        assert_close([plain(x, training=training)], [fused(x, training=training)], 1e-4)
        fused(x, training=training)  # twice a step
        assert_close(plain.get_weights(), fused.get_weights())


def test_predict_and_evaluate_equal_those_of_the_network():
    model, (x, y) = compiled(network(dropout=0.5)), images(7)
    copy = compiled(training_copy(model, "float32"))
    assert_close([copy.predict(x, verbose=0)], [model.predict(x, verbose=0)])
    assert_close(*[each.evaluate(x, y, batch_size=3, verbose=0) for each in (model, copy)])
    assert_close(copy.get_weights(), model.get_weights(), 0)


@NEEDS_16_BITS
def test_plain_copy_of_a_trained_copy():
    """It has what was learned, the network's own layers and precision; the network that was copied has nothing."""
    model = network(dropout=0.2)
    before, trained = model.get_weights(), compiled(training_copy(model, "mixed_bfloat16"), 0.1)
    steps(trained, *images(8))
    plain = plain_copy(trained)
    assert type(plain) is type(model) and [type(a) for a in plain.layers] == [type(a) for a in model.layers]
    assert plain.get_config() == model.get_config() and not plain.compiled
    assert_close(plain.get_weights(), trained.get_weights(), 0)
    assert_close(model.get_weights(), before, 0)
    assert not np.array_equal(plain.get_weights()[0], before[0])


@NEEDS_16_BITS
def test_bfloat16_has_nearly_the_same_predictions_and_gradients():
    """Ten seeds gave steps within 4 % of the length and cosines from 0.965 where bfloat16 is emulated."""
    model, found = network(), []
    for precision in ("float32", "mixed_bfloat16"):
        copy = compiled(training_copy(model, precision))
        y_prob = copy.predict(images(50)[0], verbose=0)
        found.append((y_prob, np.concatenate([change.ravel() for change in steps(copy, *images(9))[2:]])))
    computes = {layer.name: layer.compute_dtype for layer in copy.layers}
    assert computes.pop("image") == computes.pop("probabilities") == "float32"
    assert set(computes.values()) == {"bfloat16"} and {weight.dtype for weight in copy.weights} == {"float32"}
    (exact_prob, exact), (rounded_prob, rounded) = found
    assert 0 < np.abs(exact_prob - rounded_prob).max() < 0.05
    assert 0.9 < np.linalg.norm(rounded) / np.linalg.norm(exact) < 1.1
    assert exact @ rounded > 0.9 * np.linalg.norm(exact) * np.linalg.norm(rounded)


@pytest.mark.parametrize(
    ("vendor", "flags", "gpus", "limits", "faster"),
    [("AuthenticAMD", "fpu avx512f avx512_bf16 fsrm", [], {}, True),
     ("AuthenticAMD", "fpu avx512_bf16", [], {"ONEDNN_MAX_CPU_ISA": "AVX2"}, False),
     ("AuthenticAMD", "fpu avx512_bf16", [], {"TF_ENABLE_ONEDNN_OPTS": "0"}, False),
     ("GenuineIntel", "avx512_bf16 amx_bf16", [], {}, True), ("GenuineIntel", "avx512f avx512_bf16", [], {}, False),
     ("AuthenticAMD", "fpu avx512_vnni", [], {}, False), ("AuthenticAMD", "fpu avx512_bf16", GPU, {}, False),
     ("", None, [], {}, False)],
)  # fmt: skip
def test_auto_precision_by_processor(tmp_path, monkeypatch, vendor, flags, gpus, limits, faster):
    told = f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: {flags}\nbugs\t: avx512_bf16\n"
    (tmp_path / ("cpuinfo" if flags else "none")).write_text(told, encoding="utf-8")
    monkeypatch.setattr(_training_copy, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: gpus)
    for name, usual in {"TF_ENABLE_ONEDNN_OPTS": "1", "ONEDNN_MAX_CPU_ISA": "ALL"}.items():
        monkeypatch.setenv(name, limits.get(name, usual))
    assert bfloat16_is_faster() is faster
    copy = training_copy(network())
    assert copy.get_layer("block1_conv1").compute_dtype == ("bfloat16" if faster else "float32")
    assert isinstance(copy, _training_copy._TwoHalvesModel) != bool(gpus), "with a GPU the step is Keras's own"
    assert not gpus or copy.get_config() == network().get_config()


def test_copies_of_a_sequential_network():
    model = tf.keras.Sequential([tf.keras.Input((28, 28, 1)), tf.keras.layers.Flatten(), tf.keras.layers.Dense(10)])
    assert np.array_equal(training_copy(model, "float32").get_weights()[0], model.get_weights()[0])
    assert plain_copy(model)(images(2)[0]).shape == (2, 10)
