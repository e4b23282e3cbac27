"""What a trained network is judged by, and which model files are accepted."""

import io
import json
import zipfile
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


# ---------------------------------------------------------------------------------------------- figures


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_wilson_interval_has_the_values_of_newcombe_1998_table_1(correct, n, low, high):
    interval = evaluation.wilson_interval(np.int64(correct), n)
    assert interval == pytest.approx((low, high), abs=5e-5)
    assert [type(bound) for bound in interval] == [float, float]


@pytest.mark.filterwarnings("error")
def test_scores_by_class_are_right_in_the_data_sets_order_and_0_for_a_class_never_predicted():
    scores = evaluation.per_class_scores(Y, Y_PRED)
    assert tuple(scores.index) == CLASS_NAMES
    assert_allclose(scores["precision"], [1, 1 / 2, 1 / 2] + [0] * 7)
    assert_allclose(scores["recall"], [2 / 3, 1 / 2, 1] + [0] * 7)
    assert_allclose(scores["f1"], [4 / 5, 1 / 2, 2 / 3] + [0] * 7)
    assert_array_equal(scores["images"], [3, 2, 1] + [0] * 7)


def test_the_rows_of_the_confusion_matrix_are_the_true_classes():
    wanted = np.zeros((10, 10), int)
    wanted[0, :2], wanted[1, 1:3], wanted[2, 2] = [2, 1], [1, 1], 1
    assert_array_equal(evaluation.confusion_matrix(Y, Y_PRED), wanted)


def mistakes(entries):
    matrix = np.diag(np.arange(10, 20))
    for (true, taken), images in entries.items():
        matrix[true, taken] = images
    return matrix


def test_mistakes_come_most_frequent_first_with_their_share_of_the_true_class():
    frame = evaluation.most_confused(mistakes({(6, 0): 15, (2, 4): 3, (9, 7): 20, (0, 6): 3}), count=3)
    assert frame.to_numpy().tolist() == [
        ["Ankle boot", "Sneaker", 20, 20 / 39],
        ["Shirt", "T-shirt/top", 15, 15 / 31],
        ["T-shirt/top", "Shirt", 3, 3 / 13],
    ]
    assert list(frame.columns) == ["true class", "taken for", "images", "share of the class"]


@pytest.mark.parametrize("entries", [{}, {(1, 3): 1}, {(1, 3): 1, (3, 1): 2}])
def test_mistakes_that_never_happened_are_left_out(entries):
    frame = evaluation.most_confused(mistakes(entries), count=5)
    assert len(frame) == len(entries)
    assert list(frame.columns) == ["true class", "taken for", "images", "share of the class"]


@pytest.mark.filterwarnings("error")
def test_a_summary_is_right_and_json_and_needs_no_float32_row_to_add_up_to_exactly_1():
    random = np.random.default_rng(0)
    y = random.integers(0, 10, 500).astype("uint8")
    y_prob = random.dirichlet(np.ones(10), 500).astype("float32")
    assert (y_prob.astype("float64").sum(axis=1) != 1).any()
    y_prob[:100] = np.maximum(one_hot(y[:100]) * 0.91, 0.01)
    summary = evaluation.test_summary(y, y_prob)
    assert json.loads(json.dumps(summary)) == summary
    correct = int((y_prob.argmax(axis=1) == y).sum())
    interval = evaluation.wilson_interval(correct, 500)
    assert summary["test_accuracy"] == correct / 500 > 0.2
    assert (summary["test_accuracy_low"], summary["test_accuracy_high"]) == interval
    assert summary["test_loss"] == pytest.approx(-np.log(y_prob[np.arange(500), y]).mean(), rel=1e-6)
    assert summary["test_images"] == 500
    assert tuple(summary["classes"]) == CLASS_NAMES
    scores = evaluation.per_class_scores(y, y_prob.argmax(axis=1))
    assert summary["classes"]["Bag"] == pytest.approx(scores.loc["Bag"].to_dict(), abs=1e-6)
    assert summary.keys() == {
        "test_accuracy", "test_accuracy_low", "test_accuracy_high", "test_loss", "test_images", "classes"
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- model files


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A small network and the file that holds it."""
    path = tmp_path_factory.mktemp("good") / "model.keras"
    model = build_model(filters=(4,), convs_per_block=(1,), dense_units=0)
    model.save(path)
    return model, path


def flat_classifier(shape=(28, 28, 1), classes=10, middle=()):
    layers = [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(classes, "softmax"), *middle]
    return keras.Sequential(layers)


def two_inputs():
    first, second = keras.Input((28, 28, 1)), keras.Input((28, 28, 1))
    together = keras.layers.Flatten()(keras.layers.Add()([first, second]))
    return keras.Model([first, second], keras.layers.Dense(10)(together))


def test_a_good_file_gives_the_same_predictions_after_reloading_and_can_be_evaluated(good):
    model, path = good
    x = np.random.default_rng(0).random((12, 28, 28, 1), dtype="float32")
    y = np.arange(12) % 10
    loaded = evaluation.load_model(path)
    y_prob = evaluation.predict(model, x)
    assert (y_prob.shape, y_prob.dtype) == ((12, 10), np.float32)
    assert_array_equal(evaluation.predict(loaded, x), y_prob)
    loss, accuracy = loaded.evaluate(x, one_hot(y), verbose=0)
    summary = evaluation.test_summary(y, y_prob)
    assert (loss, accuracy) == pytest.approx((summary["test_loss"], summary["test_accuracy"]), rel=1e-5)


def test_a_missing_file_is_an_error_that_says_to_train_first(tmp_path):
    with pytest.raises(evaluation.ModelFileError, match=r"no model file model\.keras in .*Train the run first"):
        evaluation.load_model(tmp_path / "model.keras")


def foreign_zip():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("config.json", "{}")
    return file.getvalue()


def flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]


DAMAGES = {
    "empty": lambda data: b"",
    "first byte": lambda data: data[:1],
    "first half": lambda data: data[: len(data) // 2],
    "without its end": lambda data: data[:-100],
    "all but a byte": lambda data: data[:-1],
    "a byte flipped": flipped,
    "random bytes": lambda data: np.random.default_rng(0).bytes(len(data)),
    "a zip of another kind": lambda data: foreign_zip(),
    "a page of text": lambda data: b"<html>404</html>",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_or_foreign_file_is_an_error_that_says_to_train_again(good, tmp_path, damage):
    path = tmp_path / "model.keras"
    path.write_bytes(damage(good[1].read_bytes()))
    with pytest.raises(evaluation.ModelFileError, match=r"model\.keras is damaged .*delete its folder, then run 03"):
        evaluation.load_model(path)


@pytest.mark.parametrize(
    ("build", "shape"),
    [(lambda: flat_classifier(classes=7), r"to \(None, 7\)"), (two_inputs, r"\[\(None, 28, 28, 1\), \("),
     (lambda: flat_classifier((32, 32, 3)), r"\(None, 32, 32, 3\)")],
    ids=["7 classes", "two inputs", "colour images"],
)  # fmt: skip
def test_a_model_of_other_shapes_is_an_error_with_both_shapes_and_what_to_do(tmp_path, build, shape):
    build().save(tmp_path / "model.keras")
    with pytest.raises(evaluation.ModelFileError, match=shape) as error:
        evaluation.load_model(tmp_path / "model.keras")
    assert "wanted is (None, 28, 28, 1) to (None, 10)" in str(error.value)
    assert "run 03" in str(error.value)


@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built")
def test_a_model_without_shapes_is_an_error_that_says_what_to_do(tmp_path):
    keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(10)]).save(tmp_path / "model.keras")
    with pytest.raises(evaluation.ModelFileError, match="run 03"):
        evaluation.load_model(tmp_path / "model.keras")


def test_a_lambda_in_a_file_is_refused_and_its_code_is_never_executed(tmp_path):
    mark, path = str(tmp_path / "executed"), tmp_path / "model.keras"
    harmful = keras.layers.Lambda(lambda x: (open(mark, "w").close(), x)[1])
    flat_classifier(middle=[harmful]).save(path)
    Path(mark).unlink()
    with pytest.raises(evaluation.ModelFileError, match=r"Lambda.*run 03"):
        evaluation.load_model(path)
    assert not Path(mark).exists()
    keras.models.load_model(path, safe_mode=False)
    assert Path(mark).exists(), "the file harms nobody, so this test shows nothing"


# ------------------------------------------------------------------------------------------------ calibration


def judged(confidence, right):
    """Probabilities of two classes, class 0 chosen with the given confidence; y says whether that is right."""
    confidence = np.asarray(confidence, dtype=float)
    return np.where(right, 0, 1), np.stack([confidence, 1 - confidence], axis=1)


def test_calibration_counts_by_hand_in_bins_and_1_belongs_to_the_last():
    table = evaluation.calibration_table(*judged([0.62, 0.66, 0.95, 1.0], [True, False, True, True]))
    assert list(table.index) == [0.6, 0.9] and list(table["images"]) == [2, 2]
    np.testing.assert_allclose(table["confidence"], [0.64, 0.975])
    np.testing.assert_allclose(table["accuracy"], [0.5, 1.0])
    # distances 0.14 and 0.025, half of the images each
    assert evaluation.expected_calibration_error(table) == pytest.approx(0.0825)


def test_the_calibration_error_weighs_bins_by_their_images():
    table = evaluation.calibration_table(*judged([0.6] * 9 + [1.0], [True] * 9 + [True]))
    assert evaluation.expected_calibration_error(table) == pytest.approx(0.9 * 0.4)


def test_a_temperature_is_that_of_the_scores_and_changes_no_answer():
    scores = np.random.default_rng(0).normal(size=(50, 10))
    y_prob = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    halved = np.exp(scores / 2) / np.exp(scores / 2).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(evaluation.apply_temperature(y_prob, 2.0), halved, rtol=1e-6)
    assert (evaluation.apply_temperature(y_prob, 0.3).max(axis=1) > y_prob.max(axis=1)).all()
    for temperature in (0.1, 1.0, 7.0):
        changed = evaluation.apply_temperature(y_prob.astype("float32"), temperature)
        np.testing.assert_allclose(changed.sum(axis=1), 1)
        np.testing.assert_array_equal(changed.argmax(axis=1), y_prob.argmax(axis=1))
    assert np.isfinite(evaluation.apply_temperature(np.eye(10), 0.05)).all(), "a probability of 0 has a logarithm"


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_fitted_temperature_undoes_the_one_that_was_put_in(temperature):
    random = np.random.default_rng(0)
    scores = random.normal(scale=2, size=(20_000, 5))
    y_prob = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    y = (y_prob.cumsum(axis=1) > random.random((len(y_prob), 1))).argmax(axis=1)  # drawn by these probabilities
    bent = evaluation.apply_temperature(y_prob, 1 / temperature)
    assert evaluation.fit_temperature(y, bent) == pytest.approx(temperature, rel=0.03)
