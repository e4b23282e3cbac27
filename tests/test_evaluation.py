"""evaluation counts what scikit-learn counts, in the data set's order, and loads no model file that is not ours."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from fmnist_utils import evaluation
from fmnist_utils._tensorflow import tf
from fmnist_utils.data import CLASS_NAMES, one_hot
from fmnist_utils.model import build_model

keras = tf.keras
Y = np.array([0, 0, 0, 1, 1, 2])  # true classes of the hand-made example
Y_PRED = np.array([0, 0, 1, 1, 2, 2])  # classes 3 to 9 are never predicted


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_of_newcombe_1998_table_1(correct, n, low, high):
    interval = evaluation.wilson_interval(np.int64(correct), n)
    assert interval == pytest.approx((low, high), abs=5e-5)
    assert [type(bound) for bound in interval] == [float, float]


@pytest.mark.filterwarnings("error")
def test_per_class_scores_with_classes_never_predicted():
    scores = evaluation.per_class_scores(Y, Y_PRED)
    assert tuple(scores.index) == CLASS_NAMES
    assert_allclose(scores["precision"], [1, 1 / 2, 1 / 2] + [0] * 7)
    assert_allclose(scores["recall"], [2 / 3, 1 / 2, 1] + [0] * 7)
    assert_allclose(scores["f1"], [4 / 5, 1 / 2, 2 / 3] + [0] * 7)
    assert_array_equal(scores["images"], [3, 2, 1] + [0] * 7)


def test_confusion_matrix_has_true_classes_in_rows():
    wanted = np.zeros((10, 10), int)
    wanted[0, :2], wanted[1, 1:3], wanted[2, 2] = [2, 1], [1, 1], 1
    assert_array_equal(evaluation.confusion_matrix(Y, Y_PRED), wanted)


@pytest.mark.filterwarnings("error")
def test_test_summary_of_float32_rows_that_do_not_add_up_to_1():
    random = np.random.default_rng(0)
    y = random.integers(0, 10, 500).astype("uint8")
    y_prob = random.dirichlet(np.ones(10), 500).astype("float32")
    y_prob[:100] = np.maximum(one_hot(y[:100]) * 0.91, 0.01)
    assert (y_prob.astype("float64").sum(axis=1) != 1).any()
    correct = int((y_prob.argmax(axis=1) == y).sum())
    low, high = evaluation.wilson_interval(correct, 500)
    summary = evaluation.test_summary(y, y_prob)
    assert json.loads(json.dumps(summary)) == summary
    classes, loss = summary.pop("classes"), summary.pop("test_loss")
    assert summary == {
        "test_accuracy": correct / 500, "test_accuracy_low": low, "test_accuracy_high": high, "test_images": 500
    }  # fmt: skip
    assert loss == pytest.approx(-np.log(y_prob[np.arange(500), y]).mean(), rel=1e-6)
    scores = evaluation.per_class_scores(y, y_prob.argmax(axis=1))
    assert tuple(classes) == CLASS_NAMES and classes["Bag"] == pytest.approx(scores.loc["Bag"].to_dict(), abs=1e-6)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A small network and the file that holds it."""
    path = tmp_path_factory.mktemp("good") / "model.keras"
    model = build_model(filters=(4,), convs_per_block=(1,), dense_units=0, dropout=0.5)
    model.save(path)
    return model, path


def flat_classifier(shape=(28, 28, 1), classes=10, middle=()):
    layers = [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(classes, "softmax"), *middle]
    return keras.Sequential(layers)


def test_load_model_of_a_good_file(good):
    """It predicts as the model that was saved, and `evaluate` gives what `test_summary` counts."""
    model, path = good
    x, y = np.random.default_rng(0).random((12, 28, 28, 1), dtype="float32"), np.arange(12) % 10
    loaded = evaluation.load_model(path)
    y_prob = evaluation.predict(model, x)
    assert (y_prob.shape, y_prob.dtype) == ((12, 10), np.float32)
    assert_array_equal(evaluation.predict(loaded, x), y_prob)
    summary = evaluation.test_summary(y, y_prob)
    wanted = summary["test_loss"], summary["test_accuracy"]
    assert loaded.evaluate(x, one_hot(y), verbose=0) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[: len(content) // 2] + b"\x00\xff" + content[len(content) // 2 + 2 :],
        lambda content: b"<html>404</html>",
    ],
    ids=["empty", "first half", "two bytes changed", "a page of text"],
)
def test_load_model_of_a_damaged_or_foreign_file(good, tmp_path, damage):
    path = tmp_path / "model.keras"
    path.write_bytes(damage(good[1].read_bytes()))
    for file in (path, tmp_path / "missing" / "model.keras"):
        with pytest.raises(evaluation.ModelFileError, match=r"cannot use .*model\.keras .*Delete the run's folder"):
            evaluation.load_model(file)


@pytest.mark.parametrize(
    ("options", "shape"), [({"classes": 7}, r"to \(None, 7\)"), ({"shape": (32, 32, 3)}, r"\(None, 32, 32, 3\)")]
)
def test_load_model_of_other_shapes(tmp_path, options, shape):
    flat_classifier(**options).save(tmp_path / "model.keras")
    with pytest.raises(evaluation.ModelFileError, match=rf"{shape}.*wanted is \(None, 28, 28, 1\) to \(None, 10\)"):
        evaluation.load_model(tmp_path / "model.keras")


def test_load_model_with_code_in_it_executes_nothing(tmp_path):
    mark, path = str(tmp_path / "executed"), tmp_path / "model.keras"
    harmful = keras.layers.Lambda(lambda x: (open(mark, "w", encoding="utf-8").close(), x)[1])
    flat_classifier(middle=[harmful]).save(path)
    Path(mark).unlink()
    with pytest.raises(evaluation.ModelFileError, match="Lambda"):
        evaluation.load_model(path)
    assert not Path(mark).exists()
    keras.models.load_model(path, safe_mode=False)
    assert Path(mark).exists(), "the file harms nobody, so this test shows nothing"


def two_classes(confidence, right):
    """Return y, y_prob of two classes, class 0 chosen with the given confidence, rightly or not."""
    confidence = np.asarray(confidence, dtype=float)
    return np.where(right, 0, 1), np.stack([confidence, 1 - confidence], axis=1)


def softmax(scores):
    return np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)


def test_calibration_table_counted_by_hand():
    told = two_classes([0.62, 0.66, 0.95, 1.0], [True, False, True, True])
    table = evaluation.calibration_table(*told)
    assert list(table.index) == [0.6, 0.9] and list(table["images"]) == [2, 2], "1.0 belongs to the last bin"
    assert_allclose(table["confidence"], [0.64, 0.975])
    assert_allclose(table["accuracy"], [0.5, 1.0])
    assert list(evaluation.calibration_table(*told, bins=2).index) == [0.5]


def test_expected_calibration_error_weighs_bins_by_their_images():
    table = evaluation.calibration_table(*two_classes([0.6] * 9 + [1.0], [True] * 10))
    assert evaluation.expected_calibration_error(table) == pytest.approx(0.9 * 0.4)


def test_apply_temperature_divides_the_logits():
    scores = np.random.default_rng(0).normal(size=(50, 10))
    assert_allclose(evaluation.apply_temperature(softmax(scores), 2.0), softmax(scores / 2), rtol=1e-6)
    assert np.isfinite(evaluation.apply_temperature(np.eye(10), 0.05)).all(), "a probability of 0"


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_fit_temperature_undoes_the_one_that_was_put_in(temperature):
    random = np.random.default_rng(0)
    y_prob = softmax(random.normal(scale=2, size=(20_000, 5)))
    y = (y_prob.cumsum(axis=1) > random.random((len(y_prob), 1))).argmax(axis=1)  # drawn by these probabilities
    bent = evaluation.apply_temperature(y_prob, 1 / temperature)
    assert evaluation.fit_temperature(y, bent) == pytest.approx(temperature, rel=0.03)
