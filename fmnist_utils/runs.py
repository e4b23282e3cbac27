"""Run folders: where a training writes, and what 04 and 05 read.

A run lives in runs/NAME. It is complete when metrics.json is there, which 03 writes last:

    params.yaml        the parameters that it was started with
    model.keras        the trained network, built-in Keras layers only
    history.csv        a row an epoch: loss, accuracy, val_loss, val_accuracy, learning_rate, seconds
    validation.npz     index, label and probability of each validation image
    environment.json   versions, processor, threads, commit, hash of the code that trains
    metrics.json       val_accuracy, val_loss, best_epoch, epochs_run, train_seconds, images_per_second, ...
    figures/           learning curves by 03; confusion matrix, scores of each class and galleries by 04
    test.npz           by 04: label and probability of each test image
    test_metrics.json  by 04: test_accuracy with its 95 % interval, test_loss
    notebooks/, report.html   by the headless pipeline: the executed notebooks, and all of them as one page
    .work/             while it trains: the checkpoint, and files that are not whole yet
    .lock              so that one process at a time writes
"""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from fmnist_utils._environment import environment
from fmnist_utils._files import (
    UTF8,
    RunError,
    atomic_write,
    read_yaml,
    run_file_errors,
    write_json,
    write_npz,
    write_text,
)
from fmnist_utils._run_folder import (
    CHECKPOINT,
    COMMIT_MARKER,
    ENVIRONMENT,
    HISTORY,
    INSTALLED_ALONE,
    METRICS,
    MODEL,
    PARAMS,
    REFERENCE,
    ROOT,
    TEST,
    TEST_METRICS,
    VALIDATION,
    Run,
    acquire_lock,
    cannot_write,
    commit,
    copy_reference,
    drop_checkpoint_of_other_code,
    newest,
    project_path,
    refuse_other_parameters,
)  # fmt: skip

__all__ = [
    "CHECKPOINT", "ENVIRONMENT", "HISTORY", "METRICS", "MODEL", "PARAMS", "REFERENCE", "ROOT", "TEST", "TEST_METRICS",
    "VALIDATION", "Run", "RunError", "find", "finish", "is_complete", "project_path", "read_history",
    "read_metrics", "read_predictions", "runs_folder", "save_evaluation", "start",
]  # fmt: skip


def runs_folder(runs_dir: str = "runs") -> Path:
    """Return the folder of all runs, counted from the project's folder.

    Args:
        runs_dir: "~" is the home folder. The environment variable FMNIST_RUNS_DIR replaces the default.
    """
    if str(runs_dir) == "runs":
        runs_dir = os.environ.get("FMNIST_RUNS_DIR") or runs_dir
    return project_path(runs_dir)


def is_complete(folder: Path) -> bool:
    """Tell whether the run in `folder` is complete, which is: its metrics.json is there."""
    return (Path(folder) / METRICS).is_file()


def start(params: dict) -> Run:
    """Open the run that `params` describes for writing, and hold it until `finish`.

    An unfinished training of the same parameters and the same code is there to go on from; under changed code it is
    dropped, with a message. A complete run stays as it is until `finish`.

    Args:
        params: Checked parameters with run_name and runs_dir.

    Raises:
        RunError: The folder holds a run of other parameters, another process is writing it, or it cannot be written.
    """
    folder = runs_folder(params["runs_dir"]) / params["run_name"]
    kept = {name: value for name, value in params.items() if name != "runs_dir"}
    run = Run(folder, kept, acquire_lock(folder))
    if INSTALLED_ALONE and folder.is_relative_to(ROOT):
        print(f"the run goes into {folder}, in the working directory, since the package lies in no project folder")
    try:
        commit(run)
        run.work_dir.mkdir(exist_ok=True)  # committing removes it
        refuse_other_parameters(run)
        drop_checkpoint_of_other_code(run)
        write_text(run.work_dir / PARAMS, yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))
        write_json(run.work_dir / ENVIRONMENT, environment())
    except OSError as error:
        run.lock.release()
        raise cannot_write(folder, error) from error
    except BaseException:
        run.lock.release()
        raise
    return run


def finish(run, *, model, history, valid_index, y_valid, y_prob, metrics):
    """Write what a training produced and make the run complete; a complete run of that name is replaced only now.

    Args:
        run (Run): From `start`.
        model (keras.Model): Kept in float32, as built-in Keras layers, without its optimizer.
        history (pandas.DataFrame): A row an epoch, indexed by `epoch`.
        valid_index: (n,) positions of the validation images among the 60,000 training images.
        y_valid: (n,) their classes, 0 to 9.
        y_prob: (n, 10) the network's probabilities for them.
        metrics (dict): JSON values, see `training.training_summary`.

    Raises:
        RunError: The disk refuses.
    """
    from fmnist_utils._training_copy import plain_copy  # only here: a reader of runs need not wait for TensorFlow

    try:
        run.work_dir.mkdir(exist_ok=True)
        with atomic_write(run.work_dir / MODEL) as temporary:
            plain_copy(model).save(temporary)
        with atomic_write(run.work_dir / HISTORY) as temporary:
            history.to_csv(temporary)
        write_npz(run.work_dir / VALIDATION, index=valid_index, label=y_valid, probability=y_prob)
        write_json(run.work_dir / METRICS, metrics)
        (run.work_dir / COMMIT_MARKER).touch()
        commit(run)
    except OSError as error:
        raise RunError(
            f"could not finish the run {run.name!r}: {error}. The training itself is kept: make room, then run again "
            "with the same run_name."
        ) from error
    if run.lock:
        run.lock.release(force=True)


def save_evaluation(run: Run, y: np.ndarray, y_prob: np.ndarray, summary: dict):
    """Add a run's evaluation on the test images to its folder: test.npz and test_metrics.json.

    Args:
        run: A complete run.
        y: (n,) true classes.
        y_prob: (n, 10) probabilities.
        summary: From `evaluation.test_summary`.
    """
    write_npz(run.folder / TEST, label=y, probability=y_prob)
    write_json(run.folder / TEST_METRICS, summary)


def find(run_name: str = "", runs_dir: str = "runs") -> Run:
    """Return a complete run to evaluate: the named one, or the newest, or else the reference run.

    The reference run ships with the project; it is copied into the runs folder first, so that results go there.

    Args:
        run_name: Its name; "" for the newest (or FMNIST_DEFAULT_RUN, where that is set).
        runs_dir: The folder of all runs, see `runs_folder`.

    Raises:
        RunError: The run is not there or not complete; the message has the command to make it.
    """
    parent = runs_folder(runs_dir)
    name = run_name or os.environ.get("FMNIST_DEFAULT_RUN", "") or newest(parent)
    folder = parent / name
    if name == REFERENCE.name and not is_complete(folder):
        copy_reference(folder)
    if (folder / ".work" / COMMIT_MARKER).exists():  # stopped between the training and the last rename
        lock = acquire_lock(folder)
        try:
            commit(Run(folder, {}))
        finally:
            lock.release()
    if not is_complete(folder):
        known = ", ".join(sorted(path.parent.name for path in parent.glob(f"*/{METRICS}"))) or "none yet"
        state = "is not complete: its training was interrupted" if folder.exists() else "is not there"
        raise RunError(
            f"the run {name!r} {state} (complete runs: {known}). Make it with\n"
            f"  papermill notebooks/03_training.ipynb out.ipynb -r run_name {name}\n"
            f"or `make run`, or run 03_training.ipynb with that run_name."
        )
    with run_file_errors(folder / PARAMS):
        return Run(folder, dict(read_yaml(folder / PARAMS)))


def read_history(run: Run) -> pd.DataFrame:
    """Return the run's history.csv.

    Args:
        run: A complete run.

    Returns:
        A row an epoch, counted from 1: loss, accuracy, val_loss, val_accuracy, learning_rate, seconds.

    Raises:
        RunError: The file is damaged.
    """
    with run_file_errors(run.folder / HISTORY):
        return pd.read_csv(run.folder / HISTORY, index_col="epoch", encoding=UTF8)


def read_predictions(run: Run, name: str = VALIDATION) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read what the run predicted.

    Args:
        run: A complete run.
        name: `VALIDATION`, or `TEST` once notebook 04 has evaluated the run.

    Returns:
        index (n,), positions among the training (or the test) images; y (n,), true classes; y_prob (n, 10) float32.

    Raises:
        RunError: The file is damaged, or notebook 04 has not evaluated the run yet.
    """
    path = run.folder / name
    if name == TEST:
        _refuse_unevaluated(run, name)
    with run_file_errors(path), np.load(path) as arrays:
        index = arrays["index"] if "index" in arrays else np.arange(len(arrays["label"]))
        return index, arrays["label"], arrays["probability"]


def _refuse_unevaluated(run, name):
    if not (run.folder / name).exists():
        raise RunError(
            f"the run {run.name!r} has not been evaluated yet: run 04_evaluation_and_visualization.ipynb on it."
        )


def read_metrics(run: Run, name: str = METRICS) -> dict:
    """Return one of the run's JSON files as a dict.

    Args:
        run: A complete run.
        name: `METRICS`, `ENVIRONMENT`, or `TEST_METRICS` once notebook 04 has evaluated the run.

    Raises:
        RunError: The file is damaged, or notebook 04 has not evaluated the run yet.
    """
    if name == TEST_METRICS:
        _refuse_unevaluated(run, name)
    with run_file_errors(run.folder / name):
        return json.loads((run.folder / name).read_text(encoding=UTF8))
