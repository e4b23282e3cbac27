"""evaluation counts what scikit-learn counts, in the data set's order, and loads no model file that is not ours."""

import json
from unittest.mock import Mock

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from fmnist_utils import evaluation
from fmnist_utils._tensorflow import tf
from fmnist_utils.data import CLASS_NAMES, one_hot
from fmnist_utils.model import build_model

keras, layers = tf.keras, tf.keras.layers


def test_logits_are_refused():
    with pytest.raises(ValueError, match="let softmax be its last layer"):
        evaluation.predict(Mock(predict=lambda x, **_: x), np.array([[3.4, -1, 0]]))
    assert evaluation.predict(None, np.zeros((0, 28, 28, 1))).shape == (0, 10), "of no images"


@pytest.mark.filterwarnings("error")
def test_per_class_scores_with_classes_never_predicted():
    y, y_pred = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 2, 2])
    scores = evaluation.per_class_scores(y, y_pred)
    assert tuple(scores.index) == CLASS_NAMES and not scores[3:].to_numpy().any()
    wanted = [[1, 2 / 3, 4 / 5, 3], [1 / 2, 1 / 2, 1 / 2, 2], [1 / 2, 1, 2 / 3, 1]]
    assert_allclose(scores[["precision", "recall", "f1", "images"]][:3], wanted)


@pytest.mark.filterwarnings("error")
def test_test_summary():
    random = np.random.default_rng(0)
    y, y_prob = random.integers(0, 10, 500).astype("uint8"), random.dirichlet(np.ones(10), 500).astype("float32")
    correct = int((y_prob.argmax(axis=1) == y).sum())
    summary = evaluation.test_summary(y, y_prob)
    assert json.loads(json.dumps(summary)) == summary
    classes = summary.pop("classes")
    assert summary["test_accuracy"] == correct / 500 and summary["test_images"] == 500
    told = evaluation.test_summary(np.arange(263) >= 81, np.eye(10)[np.zeros(263, int)])
    assert list(told.values())[1:3] == pytest.approx([0.2553, 0.3662], abs=5e-5), "Newcombe 1998, table 1"
    scores = evaluation.per_class_scores(y, y_prob.argmax(axis=1))
    assert tuple(classes) == CLASS_NAMES and classes["Bag"] == pytest.approx(scores.loc["Bag"].to_dict(), abs=1e-6)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "model.keras"
    model = build_model(filters=(4,), convs_per_block=(1,), dense_units=0, dropout=0.5)
    model.save(path)
    return model, path


def flat_classifier(shape=(28, 28, 1), classes=10, last=()):
    return keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(classes, "softmax"), *last])


def test_load_model_of_a_good_file(good):
    """It predicts as the model that was saved, and `evaluate` gives what follows from the predictions."""
    model, path = good
    x, y = np.random.default_rng(0).random((12, 28, 28, 1), dtype="float32"), np.arange(12) % 10
    loaded, y_prob = evaluation.load_model(path), evaluation.predict(model, x)
    assert (y_prob.shape, y_prob.dtype) == ((12, 10), np.float32)
    assert_array_equal(evaluation.predict(loaded, x), y_prob)
    wanted = [-np.log(y_prob[np.arange(12), y]).mean(), evaluation.test_summary(y, y_prob)["test_accuracy"]]
    assert loaded.evaluate(x, one_hot(y), verbose=0) == pytest.approx(wanted, rel=1e-5)


def test_load_model_of_no_file_a_damaged_or_a_foreign_one(good, tmp_path):
    content, path = good[1].read_bytes(), tmp_path / "model.keras"
    half = content[: len(content) // 2]
    for damaged in (None, b"", half, half + b"\x00\xff" + content[len(half) + 2 :], b"<html>404</html>"):
        if damaged is not None:
            path.write_bytes(damaged)
        with pytest.raises(RuntimeError, match=r"cannot use .*model\.keras .*Delete the run's folder"):
            evaluation.load_model(path)
    for options, shape in (({"classes": 7}, r"to \(None, 7\)"), ({"shape": (32, 32, 3)}, r"\(None, 32, 32, 3\)")):
        flat_classifier(**options).save(path)
        with pytest.raises(RuntimeError, match=rf"{shape}.*expected is \(None, 28, 28, 1\) to \(None, 10\)"):
            evaluation.load_model(path)


def test_load_model_with_code_in_it_executes_nothing(tmp_path):
    mark, path = str(tmp_path / "executed"), tmp_path / "model.keras"
    harmful = layers.Lambda(lambda x: (open(mark, "w", encoding="utf-8").close(), x)[1])
    flat_classifier(last=[harmful]).save(path)
    (tmp_path / "executed").unlink()  # building it executed it
    with pytest.raises(RuntimeError, match="Lambda"):
        evaluation.load_model(path)
    assert not (tmp_path / "executed").exists()


def test_calibration_table_counted_by_hand():
    confidence = np.array([0.62, 0.66, 0.95, 1.0, 0.97, 1.0])
    told = np.array([0, 1, 0, 0, 0, 0]), np.stack([confidence, 1 - confidence], axis=1)
    table = evaluation.calibration_table(*told)
    assert list(table.index) == [0.6, 0.9] and list(table["images"]) == [2, 4]
    assert_allclose(table[["confidence", "accuracy"]], [[0.64, 0.5], [0.98, 1]])
