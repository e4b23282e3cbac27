"""Judging a trained network: load it safely, predict, and count with scikit-learn."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, precision_recall_fscore_support

from fmnist_utils._tensorflow import stderr_set_aside, tf
from fmnist_utils.data import CLASS_NAMES, IMAGE_SHAPE

CLASSES = range(len(CLASS_NAMES))


class ModelFileError(RuntimeError):
    """A model file cannot be used; the message says why and what to do."""


def load_model(path):
    """Load a model.keras that a run wrote, compiled for `evaluate` with categorical cross-entropy and accuracy.

    Nothing in the file is executed (Keras's safe_mode) and only built-in layers are accepted. Raises ModelFileError
    when the file is missing, damaged, or not a classifier of (n, 28, 28, 1) images into 10 classes.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"there is no model file {path.name} in {path.parent}. Train the run first.")
    try:
        with stderr_set_aside():
            model = tf.keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # whatever a broken or foreign file makes Keras, zip or HDF5 raise
        reason = " ".join(str(error).split())[:200]
        raise ModelFileError(
            f"{path.name} is damaged or was not written by this project ({type(error).__name__}: {reason}). "
            "Train the run again: delete its folder, then run 03."
        ) from error
    shapes = [getattr(model, name, None) for name in ("input_shape", "output_shape")]  # a model may have none yet
    if shapes != [(None, *IMAGE_SHAPE), (None, len(CLASS_NAMES))]:
        raise ModelFileError(
            f"{path.name} maps {shapes[0]} to {shapes[1]}: wanted is (None, 28, 28, 1) to (None, 10). "
            "Train the run again: delete its folder, then run 03."
        )
    model.compile(loss="categorical_crossentropy", metrics=["accuracy"])
    return model


def predict(model, x):
    """Return the model's probabilities, (n, 10) float32, for x: (n, 28, 28, 1) float32 in [0, 1]."""
    return model.predict(x, batch_size=1000, verbose=0)


def wilson_interval(correct, n):
    """Return the 95 % interval (low, high) of a share of `correct` out of `n`.

    The Wilson score interval (Wilson 1927, doi:10.2307/2276774), by scipy.stats.binomtest. It tells how far the share
    could be off because only n images were asked; it does not cover how training varies from seed to seed.
    """
    interval = binomtest(int(correct), int(n)).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def summarize(y, y_prob):
    """Judge predictions on test images.

    y: (n,) true classes. y_prob: (n, 10) probabilities. Returns a dict of JSON values: test_accuracy with its 95 %
    Wilson interval, test_loss (mean negative log probability of the true class), and precision, recall and F1 by class.
    """
    y_pred = y_prob.argmax(axis=1)
    low, high = wilson_interval((y_pred == y).sum(), len(y))
    exact = y_prob.astype("float64")  # float32 rows add up to 1 only within rounding, and scikit-learn warns
    return {
        "test_accuracy": float(accuracy_score(y, y_pred)),
        "test_accuracy_low": low,
        "test_accuracy_high": high,
        "test_loss": float(log_loss(y, exact / exact.sum(axis=1, keepdims=True), labels=list(CLASSES))),
        "test_images": len(y),
        "classes": per_class(y, y_pred).round(6).to_dict(orient="index"),
    }


def per_class(y, y_pred):
    """Return a frame, a row a class in the data set's order: precision, recall, f1, images.

    y, y_pred: (n,) true and predicted classes. A class that was never predicted has precision 0.
    """
    precision, recall, f1, images = precision_recall_fscore_support(y, y_pred, labels=CLASSES, zero_division=0)
    columns = {"precision": precision, "recall": recall, "f1": f1, "images": images}
    return pd.DataFrame(columns, index=pd.Index(CLASS_NAMES, name="class"))


def confusion(y, y_pred):
    """Return the confusion matrix, (10, 10) int: row the true class, column the predicted one."""
    return confusion_matrix(y, y_pred, labels=CLASSES)


def most_confused(matrix, count=5):
    """Return a frame of the `count` most frequent mistakes: true class, taken for, images, share of the true class.

    matrix: (10, 10) confusion matrix, rows true. Mistakes that never happened are left out.
    """
    wrong = matrix * (1 - np.eye(len(matrix), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    rows = [
        (
            CLASS_NAMES[true],
            CLASS_NAMES[taken],
            int(wrong[true, taken]),
            wrong[true, taken] / matrix[true].sum(),
        )
        for true, taken in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[true, taken]
    ]
    return pd.DataFrame(rows, columns=["true class", "taken for", "images", "share of the class"])


def calibration(y, y_prob, bins=10):
    """Compare how sure the answers are with how often they are right, in bins of equal width.

    y: (n,) true classes. y_prob: (n, k) probabilities. Returns a frame, a row a bin that holds images, indexed by the
    bin's lower edge: confidence (mean of the highest probability), accuracy, images.
    """
    sure, right = y_prob.max(axis=1), y_prob.argmax(axis=1) == y
    bin_of = np.minimum((sure * bins).astype(int), bins - 1)  # 1.0 belongs to the last one
    frame = pd.DataFrame({"confidence": sure, "accuracy": right, "images": 1})
    return frame.groupby(pd.Index(bin_of / bins, name="from")).agg(
        confidence=("confidence", "mean"), accuracy=("accuracy", "mean"), images=("images", "sum")
    )


def expected_calibration_error(table):
    """Return the mean distance of confidence and accuracy, 0..1, each bin with the share of its images.

    table: frame from `calibration`. After Naeini et al. 2015, doi:10.1609/aaai.v29i1.9602.
    """
    distance = (table["confidence"] - table["accuracy"]).abs()
    return float((distance * table["images"]).sum() / table["images"].sum())


def with_temperature(y_prob, temperature):
    """Return softmax(log(y_prob) / temperature), (n, k): below 1 surer, above 1 less sure, the answers unchanged."""
    scores = np.log(np.maximum(y_prob.astype("float64"), 1e-12)) / temperature
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def fit_temperature(y, y_prob):
    """Return the temperature, 0.05 to 20, of the lowest mean −log probability of the true class.

    y: (n,) true classes of images that did not train. y_prob: (n, k) probabilities. Guo et al. 2017, arXiv:1706.04599.
    """

    def loss(logarithm):
        true = with_temperature(y_prob, np.exp(logarithm))[np.arange(len(y)), y]
        return -np.log(np.maximum(true, 1e-12)).mean()

    return float(np.exp(minimize_scalar(loss, bounds=np.log([0.05, 20]), method="bounded").x))
