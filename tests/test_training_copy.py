"""training_copy computes what Keras's own steps compute; plain_copy leaves nothing of it in the model that is kept."""

import numpy as np
import pytest

from fmnist_utils import _training_copy
from fmnist_utils._tensorflow import tf
from fmnist_utils._training_copy import bfloat16_is_faster, plain_copy, training_copy
from fmnist_utils.model import build_model

SMALL = {"filters": (4,), "convs_per_block": (1,), "dense_units": 6}
GPU = [tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")]


def images(n, seed=0):
    random = np.random.default_rng(seed)
    return random.random((n, 28, 28, 1), dtype="float32"), np.eye(10, dtype="float32")[random.integers(0, 10, n)]


def network(**changes):
    """A small network whose weights and averages are none of their starting values."""
    model = build_model(**{**SMALL, **changes})
    random = np.random.default_rng(1)
    for layer in model.layers:
        if "norm" in layer.name:
            layer.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
        elif getattr(layer, "use_bias", False):
            layer.bias.assign(random.uniform(-0.1, 0.1, layer.bias.shape))
    return model


def compiled(model, rate=0.0, smoothing=0.1):
    """Compile with SGD of the rate 1 for its gradients: a step subtracts them from the weights."""
    loss = tf.keras.losses.CategoricalCrossentropy(label_smoothing=smoothing)
    model.compile(tf.keras.optimizers.SGD(rate), loss=loss, metrics=["accuracy"])
    return model


def train(model, x, y):
    """Do one step with all the images; return its loss and accuracy."""
    history = model.fit(x, y, batch_size=len(x), shuffle=False, verbose=0).history
    return history["loss"][0], history["accuracy"][0]


def assert_close(first, second, tolerance=1e-5):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def pair():
    """A network without batch normalisation and its copy, both compiled, and the weights that both start from."""
    model = compiled(network(batch_norm=False), 1.0)
    return model, compiled(training_copy(model, "float32"), 1.0), model.get_weights()


# ------------------------------------------------------------------------------------------- training steps


@pytest.mark.parametrize("n", [8, 7, 2, 1])
def test_step_equals_that_of_keras(pair, n):
    *models, start = pair
    ended = []
    for model in models:
        model.set_weights(start)
        scores = train(model, *images(n, seed=n))
        gradients = [before - after for before, after in zip(start, model.get_weights(), strict=True)]
        ended.append([*scores, *gradients])
    assert all(np.abs(gradient).max() > 1e-4 for gradient in ended[0][2:]), "each weight must have learned something"
    assert_close(*ended)


def test_epoch_with_a_short_last_batch_equals_that_of_keras(pair):
    *models, start = pair
    histories = []
    for model in models:
        model.set_weights(start)
        dataset = tf.data.Dataset.from_tensor_slices(images(21)).batch(8)
        histories.append(model.fit(dataset, epochs=2, shuffle=False, verbose=0).history)
        assert len(set(histories[-1]["loss"])) == 2
    assert histories[0].keys() == histories[1].keys()
    assert_close(histories[0].values(), histories[1].values(), 1e-4)


# ------------------------------------------------------------------------------------- batch normalisation


@pytest.mark.parametrize("layer", ["block1_conv1_norm", "dense_norm"])
def test_moving_averages_after_many_steps_equal_those_of_keras(layer):
    """The two halves are of the same images, so that the batch and either half have one mean and one variance."""
    model = compiled(network())
    copy = compiled(training_copy(model, "float32"))
    x, y = (np.concatenate([part, part]) for part in images(6))
    before = [np.array(weight) for weight in model.get_layer(layer).get_weights()[2:]]
    for _ in range(7):
        train(model, x, y)
        train(copy, x, y)
    after = [m.get_layer(layer).get_weights()[2:] for m in (model, copy)]
    assert all(np.abs(a - b).max() > 0.1 for a, b in zip(before, after[0], strict=True))
    assert_close(*after, 1e-4)


@pytest.mark.parametrize("shape", [(8, 5, 5, 3), (8, 3), (1, 3), (1, 1, 1, 3)])
def test_fused_batch_norm_equals_that_of_keras(shape):
    x = np.random.default_rng(0).normal(2, 3, shape).astype("float32")
    plain = tf.keras.layers.BatchNormalization(momentum=0.9, epsilon=0.01)
    fused = _training_copy._FusedBatchNormalization.from_config(plain.get_config())
    for layer in (plain, fused):
        layer.build(shape)
        layer.set_weights([np.array(values, "float32") for values in ([1, 2, 3], [3, 2, 1], [0, 1, 2], [1, 4, 9])])
    assert_close([plain(x, training=True)], [fused(x, training=True)], 1e-4)
    fused(x, training=True)  # twice a step
    assert_close(plain.get_weights(), fused.get_weights())
    assert_close([plain(x, training=False)], [fused(x, training=False)], 1e-4)
    assert_close(plain.get_weights(), fused.get_weights())


def test_batch_norm_of_each_half_by_its_own_images():
    model = network()
    copy = compiled(training_copy(model, "float32"), 1.0)
    x, y = images(8)
    losses = []
    for part in (slice(0, 4), slice(4, 8)):
        tape = tf.GradientTape()
        with tape:
            y_pred = model(x[part], training=True)
            loss = tf.reduce_mean(tf.keras.losses.categorical_crossentropy(y[part], y_pred, label_smoothing=0.1))
        losses.append((float(loss), tape.gradient(loss, model.trainable_variables)))
    start = [weight.numpy() for weight in copy.trainable_variables]
    loss = train(copy, x, y)[0]
    assert loss == pytest.approx((losses[0][0] + losses[1][0]) / 2, rel=1e-5)
    steps = [before - after.numpy() for before, after in zip(start, copy.trainable_variables, strict=True)]
    assert_close(steps, [(a + b) / 2 for a, b in zip(losses[0][1], losses[1][1], strict=True)], 1e-4)


# ---------------------------------------------------------------------------------- inference and copies


@pytest.mark.parametrize("n", [8, 7, 1])
def test_predict_and_evaluate_equal_those_of_the_network(n):
    model = compiled(network(dropout=0.5))
    copy = compiled(training_copy(model, "float32"))
    x, y = images(n)
    assert_close([copy.predict(x, verbose=0)], [model.predict(x, verbose=0)])
    for batch_size in (n, 3):
        scores = [m.evaluate(x, y, batch_size=batch_size, verbose=0) for m in (model, copy)]
        assert_close(*scores)
    assert_close(copy.get_weights(), model.get_weights(), 0)


def test_copy_shares_no_weights():
    model = network()
    before = model.get_weights()
    copy = compiled(training_copy(model, "float32"), 1.0)
    assert_close(copy.get_weights(), before, 0)
    train(copy, *images(8))
    assert_close(model.get_weights(), before, 0)


def test_plain_copy_of_a_trained_copy(tmp_path):
    model = network(dropout=0.2)
    trained = compiled(training_copy(model, "mixed_bfloat16"), 0.1)
    train(trained, *images(8))
    plain = plain_copy(trained)
    assert type(plain) is type(model) and [type(a) for a in plain.layers] == [type(a) for a in model.layers]
    assert all(type(layer).__module__.startswith("keras.src.layers") for layer in plain.layers)
    assert plain.get_config() == model.get_config() and not plain.compiled
    assert_close(plain.get_weights(), trained.get_weights(), 0)
    assert not np.array_equal(plain.get_weights()[0], model.get_weights()[0])
    plain.save(tmp_path / "model.keras")
    again = tf.keras.models.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
    x = images(5)[0]
    np.testing.assert_array_equal(again.predict(x, verbose=0), plain.predict(x, verbose=0))


def test_copy_without_a_gpu_is_the_fast_one():
    copy = training_copy(network(), "float32")
    norms = [layer for layer in copy.layers if isinstance(layer, tf.keras.layers.BatchNormalization)]
    assert [type(layer).__name__ for layer in norms] == ["_FusedBatchNormalization"] * 2
    assert isinstance(copy, _training_copy._TwoHalvesModel) and copy.name == "fashion_cnn"


def test_copy_with_a_gpu_is_of_plain_layers(monkeypatch):
    model = network()
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: GPU)
    copy = training_copy(model)
    assert type(copy) is type(model) and copy.get_config() == model.get_config()
    assert [type(layer) for layer in copy.layers] == [type(layer) for layer in model.layers]
    assert_close(copy.get_weights(), model.get_weights(), 0)


# ---------------------------------------------------------------------------------------------- precision


def test_bfloat16_predicts_nearly_the_same():
    x, _ = images(50)
    model = network(dropout=0.1)
    short = training_copy(model, "mixed_bfloat16")
    assert {weight.dtype for weight in short.weights} == {"float32"}
    computes = {layer.name: layer.compute_dtype for layer in short.layers}
    assert computes.pop("image") == computes.pop("probabilities") == "float32"
    assert set(computes.values()) == {"bfloat16"}
    difference = np.abs(short.predict(x, verbose=0) - model.predict(x, verbose=0)).max()
    assert 0 < difference < 0.05
    back = plain_copy(short)
    np.testing.assert_array_equal(back.predict(x, verbose=0), model.predict(x, verbose=0))
    assert back.get_config() == model.get_config()


def test_bfloat16_has_nearly_the_same_gradients():
    """Ten seeds gave steps within 4 % of the length and cosines from 0.965 where bfloat16 is emulated."""
    tf.keras.utils.set_random_seed(0)
    model = network()
    steps = []
    for precision in ("float32", "mixed_bfloat16"):
        copy = compiled(training_copy(model, precision), 1.0)
        train(copy, *images(9))
        pairs = zip(model.get_weights(), copy.get_weights(), strict=True)
        steps.append(np.concatenate([(before - after).ravel() for before, after in pairs]))
    exact, rounded = (np.linalg.norm(step) for step in steps)
    assert np.any(steps[0] != steps[1]), "nothing was computed in bfloat16"
    assert 0.9 < rounded / exact < 1.1 and steps[0] @ steps[1] > 0.9 * exact * rounded


@pytest.mark.parametrize(
    ("vendor", "flags", "gpus", "faster"),
    [
        ("AuthenticAMD", "fpu avx512f avx512_bf16 fsrm", [], True),
        ("GenuineIntel", "fpu avx512f avx512_bf16 amx_bf16", [], True),
        ("GenuineIntel", "fpu avx512f avx512_bf16 fsrm", [], False),
        ("AuthenticAMD", "fpu avx512f avx512_vnni", [], False),
        ("AuthenticAMD", "fpu avx512_bf16", GPU, False),
        ("", None, [], False),
    ],
)
def test_auto_precision_by_processor(tmp_path, monkeypatch, vendor, flags, gpus, faster):
    if flags:
        told = f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: {flags}\nbugs\t: avx512_bf16\n"
        (tmp_path / "cpuinfo").write_text(told, encoding="utf-8")
    monkeypatch.setattr(_training_copy, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: gpus)
    assert bfloat16_is_faster() is faster
    conv = training_copy(build_model(**SMALL)).get_layer("block1_conv1")
    assert conv.compute_dtype == ("bfloat16" if faster else "float32")
