"""Run folders: where a training writes, and what 04 and 05 read.

A run lives in runs/NAME. It is complete when metrics.json is there, which 03 writes last:

    params.yaml        the parameters that it was started with
    model.keras        the trained network, built-in Keras layers only
    history.csv        a row per epoch: loss, accuracy, val_loss, val_accuracy, learning_rate, seconds
    validation.npz     index, label and probability of each validation image
    environment.json   versions, processor, threads, commit, hash of the code and checksum of the data, time of its end
    metrics.json       val_accuracy, val_loss, best_epoch, epochs_run, train_seconds, images_per_second, ...
    figures/           learning curves by 03; confusion matrix and galleries by 04
    test.npz           by 04: label and probability of each test image
    test_metrics.json  by 04: test_accuracy with its 95 % interval, test_loss
    notebooks/, report.html   by the headless pipeline: the executed notebooks, and all of them as one page
    .work/             while it trains: the checkpoint, and files that are not whole yet
    .lock              so that one process at a time writes
"""

import filecmp
import json
import os
import shutil
import sys
import zlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from filelock import FileLock, Timeout

from fmnist_utils._environment import code_hash, declared_parameters, environment

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "reference"  # a small run that ships with the project, so that 04 can be opened at once
PARAMS, METRICS, MODEL, HISTORY = "params.yaml", "metrics.json", "model.keras", "history.csv"
VALIDATION, ENVIRONMENT = "validation.npz", "environment.json"
RESULTS = PARAMS, MODEL, HISTORY, VALIDATION, ENVIRONMENT, METRICS  # metrics last: it makes a run complete
TEST, TEST_METRICS = "test.npz", "test_metrics.json"
UTF8 = "utf-8"  # said at every read and write: Windows and old terminals have other defaults


class RunError(RuntimeError):
    """A run folder is not in the state that was asked for; the message says what to do."""


@dataclass
class Run:
    """A run folder and its parameters; while it is being written, its environment and the lock that is held."""

    folder: Path
    params: dict
    environment: dict = field(default_factory=dict, repr=False)
    lock: FileLock | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def work_dir(self) -> Path:
        return self.folder / ".work"


def project_path(path) -> Path:
    """Resolve a path relative to the project root; "~" is the home folder, an absolute path stays."""
    return ROOT / Path(path).expanduser()


def runs_folder(runs_dir: str = "runs") -> Path:
    """Return a folder of runs, see `project_path`; the variable FMNIST_RUNS_DIR stands for the project's own, runs/."""
    first, *rest = Path(runs_dir).parts or [""]
    return project_path(Path(os.environ.get("FMNIST_RUNS_DIR") or first if first == "runs" else first, *rest))


def is_complete(folder) -> bool:
    """Tell whether the run in `folder` is complete: True if metrics.json exists."""
    return (Path(folder) / METRICS).is_file()


def start(params: dict, *arrays) -> Run:
    """Open the run of checked `params` and of the `arrays` that `fit` gets for writing; hold its lock until `finish`.

    An unfinished training is there to go on from, see `training.Checkpoint`; a complete run stays until `finish`.
    Raises ValueError: a parameter was changed; RunError: the run has others, another process writes it, or nobody can.
    """
    folder = runs_folder(params["runs_dir"]) / params["run_name"]
    notebook = vars(sys.modules["__main__"])
    if changed := [n for n in declared_parameters(notebook.get("In", ()))[0] if notebook.get(n) != params.get(n)]:
        raise ValueError(f"{', '.join(changed)}: changed since they were checked: run again from their cell on")
    new = {name: value for name, value in params.items() if name != "runs_dir"}
    data = reduce(lambda value, array: zlib.crc32(np.ascontiguousarray(array), value), arrays, 0)
    run = Run(folder, new, environment() | {"data": data})
    if run.name == REFERENCE.name:
        raise RunError(f"the run {run.name!r} is the one that ships with the project. Choose another run_name.")
    with _trouble_told(folder):
        run.work_dir.mkdir(parents=True, exist_ok=True)
        run.lock = FileLock(folder / ".lock", timeout=0, is_singleton=True)
        with run.lock:
            refuse_another(folder, new)
            _write_yaml(folder / PARAMS, new)
            run.lock.acquire()  # a second time: it outlives this block, which an error leaves unlocked
    return run


def refuse_another(folder, params: dict):
    """Raise RunError where `folder` holds a run of other parameters than `params`."""
    params = yaml.safe_load(yaml.safe_dump(params))  # a tuple comes back as a list
    old = read_yaml(folder / PARAMS) if (folder / PARAMS).exists() else params
    if changed := [name for name in {**old, **params} if old.get(name) != params.get(name)]:
        told = "; ".join(f"{name}: {old.get(name)!r} there, {params.get(name)!r} now" for name in changed)
        raise RunError(f"{folder} has other parameters ({told}). Choose another run_name, or delete it")


def finish(run: Run, *, model, history: pd.DataFrame, valid_index, y_valid, y_prob, metrics: dict):
    """Write what a training produced and make the run complete; a complete run of that name is replaced only now.

    `model`: kept as `plain_copy`; `history`: a row per epoch, indexed by `epoch`; `valid_index`, `y_valid` (n,) and
    `y_prob` (n, 10): positions, classes and probabilities of the validation images; `metrics`: see
    `training.training_summary`. Raises ValueError or RunError where a parameter or the folder was changed since.
    """
    from fmnist_utils._training_copy import plain_copy  # only here: a reader of runs need not wait for TensorFlow

    code_hash()  # ValueError where a parameter was changed after the training
    work = run.work_dir
    with _trouble_told(run.folder):
        refuse_another(run.folder, run.params)  # somebody may have deleted it, and begun another there
        run.lock.acquire()  # again: a cell may be run twice
        work.mkdir(parents=True, exist_ok=True)
        _write_yaml(work / PARAMS, run.params)
        with atomic_write(work / MODEL) as temporary:
            plain_copy(model).save(temporary)
        with atomic_write(work / HISTORY) as temporary:
            history.to_csv(temporary)
        write_npz(work / VALIDATION, index=valid_index, label=y_valid, probability=y_prob)
        run.environment["finished"] = datetime.now(UTC).isoformat()
        write_json(work / ENVIRONMENT, run.environment)
        write_json(work / METRICS, metrics)
        if is_complete(run.folder):  # nothing of an older run may seem to belong to the new one
            shutil.rmtree(run.folder / "figures", ignore_errors=True)
        for name in (METRICS, TEST, TEST_METRICS):
            (run.folder / name).unlink(missing_ok=True)
        for name in RESULTS:
            os.replace(work / name, run.folder / name)
        shutil.rmtree(work)  # the checkpoint last: stopped before, the same training goes on from it
    run.lock.release(force=True)


@contextmanager
def _trouble_told(folder):
    """Turn what keeps a run folder from being written into a RunError that says what to do."""
    try:
        yield
    except OSError as error:
        told = f"cannot write {folder}: {error}. Make room, or choose another folder: runs_dir, or FMNIST_RUNS_DIR"
        if isinstance(error, Timeout):
            told = f"another kernel or process writes the run {folder.name!r}: shut it down, or choose another run_name"
        raise RunError(told) from error


def save_evaluation(run: Run, y: np.ndarray, y_prob: np.ndarray, summary: dict):
    """Add to a complete run what 04 measured: test.npz, of `y` (n,) and `y_prob` (n, 10), and test_metrics.json.

    Raises ValueError or RunError where that may be of another network: a parameter was changed, or the run made anew.
    """
    code_hash()
    if finished(run.folder) != run.environment["finished"]:
        raise RunError(f"the run {run.name!r} was trained again since it was opened. Run this notebook from its top.")
    with _trouble_told(run.folder):
        write_npz(run.folder / TEST, label=y, probability=y_prob)
        write_json(run.folder / TEST_METRICS, summary)


def find(run_name: str = "", runs_dir: str = "runs") -> Run:
    """Return a complete run to evaluate: the named one, or (for "") the one that was finished last, else the reference.

    The reference run ships with the project; it is copied into the runs folder first, so that results go there. The
    environment variable FMNIST_DEFAULT_RUN replaces "". Raises RunError, with the command that makes the run.
    """
    parent = runs_folder(runs_dir)
    known = {path.parent.name: finished(path.parent) for path in sorted(parent.glob(f"[!.]*/{METRICS}"))}
    name = run_name or os.environ.get("FMNIST_DEFAULT_RUN") or max(known, key=known.get, default=REFERENCE.name)
    folder = parent / name
    if name == REFERENCE.name:
        _copy_reference(folder)
    if not is_complete(folder):
        state = "is not complete: its training was interrupted" if folder.exists() else "is not there"
        raise RunError(
            f"the run {name!r} {state} (complete runs: {', '.join(known) or 'none yet'}). Make it with\n"
            f"  papermill notebooks/03_training.ipynb out.ipynb -r run_name {name} -r runs_dir {runs_dir}\n"
            f"or `make run`, or run 03_training.ipynb with that run_name."
        )
    return Run(folder, read_yaml(folder / PARAMS), {"finished": finished(folder)})


def finished(folder) -> str:
    """Return when a run was finished by its own word, as text that sorts; the reference run is older than any other."""
    with suppress(OSError, ValueError, AttributeError):
        if folder.name != REFERENCE.name:
            return str(json.loads((folder / ENVIRONMENT).read_text(encoding=UTF8)).get("finished", "0"))
    return ""


def _copy_reference(folder):
    """Copy the reference run, unless `folder` is a copy; not its modes, which a teacher may have set to read-only."""
    if filecmp.cmpfiles(folder, REFERENCE, RESULTS, shallow=False)[0] == list(RESULTS):
        return
    with _trouble_told(folder):
        for path in sorted(REFERENCE.rglob("*.*"), key=lambda path: path.name == METRICS):  # metrics last
            target = folder / path.relative_to(REFERENCE)
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(target) as temporary:
                shutil.copyfile(path, temporary)


def read_history(run: Run) -> pd.DataFrame:
    """Return history.csv, a row per epoch, counted from 1: loss, accuracy, val_loss, val_accuracy and more."""
    with damage_told(run.folder / HISTORY) as path:
        return pd.read_csv(path, index_col="epoch", encoding=UTF8)


def read_predictions(run: Run, name: str = VALIDATION) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return index, class (n,) and probability (n, 10) of the `VALIDATION` images, or of `TEST` once 04 has run."""
    with damage_told(run.folder / name) as path, np.load(path) as arrays:
        index = arrays["index"] if "index" in arrays else np.arange(len(arrays["label"]))
        found = index, arrays["label"], arrays["probability"]
    if not len(index):
        raise RunError(f"the run {run.name!r} has no validation images: it was trained with validation_fraction = 0.")
    return found


def read_metrics(run: Run, name: str = METRICS) -> dict:
    """Return `METRICS`, `ENVIRONMENT`, or `TEST_METRICS` once notebook 04 has evaluated the run."""
    with damage_told(run.folder / name) as path:
        return {**json.loads(path.read_text(encoding=UTF8))}


def read_yaml(path) -> dict:
    """Return the params.yaml of a run."""
    with damage_told(path):
        return {**yaml.safe_load(path.read_text(encoding=UTF8))}


@contextmanager
def damage_told(path):
    """Turn whatever a missing, damaged or foreign file makes its reader raise into a RunError that names it."""
    try:
        yield path
    except Exception as error:
        if path.name in (TEST, TEST_METRICS) and not path.exists():
            todo = "has not been evaluated yet: run 04_evaluation_and_visualization.ipynb on it."
        else:
            reason = " ".join(str(error).split())[:200]
            todo = f"has a damaged or foreign {path.name} ({reason}). Delete {path.parent} and train it again."
        name = path.parents[path.parent.name == ".work"].name
        raise RunError(f"the run {name!r} {todo}") from error


@contextmanager
def atomic_write(path):
    """Write a file whole or not at all: yield a path beside `path`, renamed when the body succeeds, else removed."""
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        with temporary.open("r+b") as file:  # Windows syncs only what is open for writing
            os.fsync(file.fileno())  # or a power cut could leave a renamed, empty file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path, content):
    """Write `content` as indented JSON."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding=UTF8)


def _write_yaml(path, content):
    with atomic_write(path) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding=UTF8)


def write_npz(path, **arrays):
    """Write named arrays as a compressed .npz."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
