"""Evaluating a trained network: load it safely, predict, and count with scikit-learn."""

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn import metrics

from fmnist_utils._tensorflow import capture_stderr, tf
from fmnist_utils.data import CLASS_NAMES, IMAGE_SHAPE


def load_model(path):
    """Load a run's model.keras for `evaluate`; RuntimeError unless it maps (n, 28, 28, 1) images to 10 classes."""
    try:
        with capture_stderr():
            model = tf.keras.models.load_model(path, compile=False, safe_mode=True)
        shapes = model.input_shape, model.output_shape
        if shapes != ((None, *IMAGE_SHAPE), (None, len(CLASS_NAMES))):
            raise ValueError(f"it maps {shapes[0]} to {shapes[1]}; expected is (None, 28, 28, 1) to (None, 10)")
    except Exception as error:  # whatever a missing, broken or foreign file makes Keras, zip or HDF5 raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise RuntimeError(f"cannot use {path} ({reason}). Delete the run's folder, then train it by 03.") from error
    model.compile(loss="categorical_crossentropy", metrics=["accuracy"])
    return model


def predict(model, x: np.ndarray) -> np.ndarray:
    """Return the model's probabilities, (n, 10) float32, for x: (n, 28, 28, 1) in [0, 1]; ValueError for logits."""
    y_prob = model.predict(x, batch_size=1000, verbose=0) if len(x) else np.empty((0, len(CLASS_NAMES)), "float32")
    if not np.allclose(y_prob.sum(axis=1), 1, atol=0.01):
        raise ValueError("it gives no probabilities: let softmax be its last layer, or train at a lower learning_rate")
    return y_prob


def test_summary(y: np.ndarray, y_prob: np.ndarray) -> dict:
    """Summarise `y` (n,) and `y_prob` (n, 10) as JSON values, with Wilson's 95 % interval (doi:10.2307/2276774)."""
    y_pred = y_prob.argmax(axis=1)
    low, high = binomtest(int((y_pred == y).sum()), len(y)).proportion_ci(0.95, method="wilson")
    return {
        "test_accuracy": float(metrics.accuracy_score(y, y_pred)),
        "test_accuracy_low": low,
        "test_accuracy_high": high,
        "test_images": len(y),
        "classes": per_class_scores(y, y_pred).round(6).to_dict(orient="index"),
    }


def per_class_scores(y: np.ndarray, y_pred: np.ndarray) -> pd.DataFrame:
    """Return precision, recall, f1 and images, a row per class; a class that was never predicted has precision 0."""
    scores = metrics.precision_recall_fscore_support(y, y_pred, labels=range(len(CLASS_NAMES)), zero_division=0)
    columns = dict(zip(("precision", "recall", "f1", "images"), scores, strict=True))
    return pd.DataFrame(columns, index=pd.Index(CLASS_NAMES, name="class"))


def calibration_table(y: np.ndarray, y_prob: np.ndarray) -> pd.DataFrame:
    """Return mean confidence (the highest of `y_prob`, (n, k)), accuracy and images, a row per tenth that has some."""
    confidence, correct = y_prob.max(axis=1), y_prob.argmax(axis=1) == y
    index = pd.Index(np.minimum((confidence * 10).astype(int), 9) / 10, name="from")  # 1.0 belongs to the last one
    frame = pd.DataFrame({"confidence": confidence, "accuracy": correct, "images": 1}, index)
    return frame.groupby("from").agg({"confidence": "mean", "accuracy": "mean", "images": "sum"})
