"""Run folders and parameters: where a training writes, what it was asked for, and what 04 and 05 read.

A run lives in runs/NAME. While it trains, everything is in runs/NAME/.work; when it is done, the files move up and
metrics.json comes last: a run that has it is complete. What is written is written beside its place and then renamed,
so that no reader ever meets half a file.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import zipfile
import zlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from filelock import FileLock, Timeout

ROOT = Path(__file__).resolve().parents[1]  # the project, wherever the kernel was started
REFERENCE = ROOT / "reference"  # a small run that ships with the project, so that 04 can be opened at once

PARAMS, METRICS, MODEL, HISTORY = "params.yaml", "metrics.json", "model.keras", "history.csv"
VALIDATION, ENVIRONMENT, CHECKPOINT = "validation.npz", "environment.json", "checkpoint.npz"
TEST, TEST_METRICS = "test.npz", "test_metrics.json"
_PUBLISHED = (PARAMS, MODEL, HISTORY, VALIDATION, ENVIRONMENT, METRICS)  # metrics last: it makes a run complete
_READY = "ready"  # in .work: everything is written and only has to move up

SCHEDULES = ("one_cycle", "cosine", "constant")
AUGMENTATIONS = ("none", "flip", "flip_shift", "flip_shift_erase")
PRECISIONS = ("auto", "float32", "mixed_bfloat16")
DOWNSAMPLINGS = ("max", "average", "stride")
POOLING_HEADS = ("average", "max", "flatten")


REMOVED = {"skip_easy": "skip_easy is no parameter any more, since every epoch shows all images"}


class RunError(RuntimeError):
    """A run folder is not in the state that was asked for; the message says what to do."""


# ---------------------------------------------------------------------------------------------- parameters


def _between(low, high):
    return lambda value: low <= value <= high


def _all_between(low, high):
    return lambda values: len(values) > 0 and all(type(v) is int and low <= v <= high for v in values)


def _name(value):
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value) is not None


def _name_or_none(value):
    return value == "" or _name(value)


# name: (type, test, what is allowed). One place for what every notebook's parameters may be.
RULES = {
    "run_name": (str, _name, "1 to 100 letters, digits, '.', '_' or '-', and no path"),
    "runs_dir": (str, bool, "a folder; a relative one counts from the project's own folder"),
    "seed": (int, _between(0, 2**31 - 1), "0 to 2147483647"),
    "split_seed": (int, _between(0, 2**31 - 1), "0 to 2147483647"),
    "train_size": (int, lambda v: v == 0 or v >= 100, "0 (all) or at least 100"),
    "validation_fraction": (float, _between(0.01, 0.9), "0.01 to 0.9"),
    "epochs": (int, _between(1, 10_000), "1 to 10000"),
    "batch_size": (int, _between(2, 10_000), "2 to 10000"),
    "learning_rate": (float, lambda v: 0 < v <= 1, "more than 0, at most 1"),
    "weight_decay": (float, _between(0, 1), "0 (none) to 1"),
    "schedule": (str, SCHEDULES.__contains__, "one of " + ", ".join(SCHEDULES)),
    "early_stopping": (bool, lambda v: True, "true or false"),
    "patience": (int, _between(1, 10_000), "1 to 10000 epochs"),
    "filters": (list, _all_between(1, 2048), "a list of whole numbers, 1 to 2048, one per block"),
    "convs_per_block": (list, _all_between(1, 10), "a list of whole numbers, 1 to 10, one per block"),
    "kernel_size": (int, _between(1, 11), "1 to 11 pixels"),
    "dropout": (float, lambda v: 0 <= v < 1, "0 to less than 1"),
    "dense_units": (int, _between(0, 8192), "0 (no hidden layer) to 8192"),
    "batch_norm": (bool, lambda v: True, "true or false"),
    "downsampling": (str, DOWNSAMPLINGS.__contains__, "one of " + ", ".join(DOWNSAMPLINGS)),
    "pooling_head": (str, POOLING_HEADS.__contains__, "one of " + ", ".join(POOLING_HEADS)),
    "label_smoothing": (float, lambda v: 0 <= v < 1, "0 to less than 1"),
    "augment": (str, AUGMENTATIONS.__contains__, "one of " + ", ".join(AUGMENTATIONS)),
    "max_shift": (int, _between(0, 8), "0 to 8 pixels"),
    "precision": (str, PRECISIONS.__contains__, "one of " + ", ".join(PRECISIONS)),
    "examples": (int, _between(1, 20), "1 to 20 pictures"),
    "photo_path": (str, bool, "a picture file; a relative path counts from the project's own folder"),
    "baseline": (str, lambda v: True, "a setting such as 'dropout = 0', or '' for the base"),
    "run_a": (str, _name_or_none, "a run's name, or '' for the choice that the notebook makes"),
    "run_b": (str, _name_or_none, "a run's name, or '' for the choice that the notebook makes"),
    "compare_on": (str, ("validation", "test").__contains__, "validation or test"),
}


def check_parameters(values):
    """Check the notebook parameters among `values` and return them as a dict.

    values: a mapping such as a parameter file's content or a notebook's globals(); names that are not parameters are
    left out. A whole number serves where a float is wanted. Raises ValueError that names the parameter, the value
    and what is allowed.
    """
    params = {}
    for name in RULES.keys() & values.keys():
        kind, test, allowed = RULES[name]
        value = values[name]
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind or not test(value):
            given = f"{name} = {value!r} ({type(value).__name__})"
            raise ValueError(f"{given}: allowed is {kind.__name__}, {allowed}{_hint(kind, value)}")
        params[name] = value
    _check_combinations(params)
    return {name: params[name] for name in values if name in params}


def _hint(kind, value):
    if kind is float and isinstance(value, str) and re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", value):
        mantissa, exponent = re.split("[eE]", value)
        return f". YAML reads {value} as text: write {mantissa}.0e{int(exponent):+d}"
    if kind is list and isinstance(value, str):
        return f". papermill's -p gives text: write -y '{{NAME: {value}}}' or use a parameter file with -f"
    return ""


def removed_hint(names):
    """Return a sentence for each of the names that was a parameter in an earlier version, "" for none."""
    return "".join(f"{REMOVED[name]}. " for name in names if name in REMOVED)


def _check_combinations(params):
    blocks = params.get("filters", [])
    convs = params.get("convs_per_block", blocks)
    if blocks and len(blocks) != len(convs):
        raise ValueError(f"filters = {blocks} and convs_per_block = {convs}: allowed are lists of one length")
    if len(blocks) > 4:
        raise ValueError(f"filters = {blocks}: allowed are at most 4 blocks, since each halves the 28 pixels")


# ---------------------------------------------------------------------------------------------- writing files


@contextmanager
def written_whole(path):
    """Yield a temporary path beside `path`; rename it there when the body succeeds, remove it when it fails."""
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
    """Write `content` as indented JSON, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def write_npz(path, **arrays):
    """Write named arrays as a compressed .npz, whole or not at all."""
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


@contextmanager
def reading(path):
    """Turn whatever a damaged or foreign file of a run makes its reader raise into a RunError that names the file."""
    try:
        yield
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        EOFError,
        yaml.YAMLError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(
            f"{path.name} of the run {path.parent.name!r} is damaged ({reason}). Delete the run's folder and train it "
            "again."
        ) from error


# ---------------------------------------------------------------------------------------------- run folders


@dataclass
class Run:
    """A run folder. `work` is where an unfinished training writes; `params` is what it was asked for."""

    folder: Path
    params: dict
    lock: FileLock | None = field(default=None, repr=False)

    @property
    def name(self):
        return self.folder.name

    @property
    def work(self):
        return self.folder / ".work"

    @property
    def shown(self):
        """The folder as a learner should see it: relative to the project where it lies there."""
        return self.folder.relative_to(ROOT) if self.folder.is_relative_to(ROOT) else self.folder.name


def runs_folder(runs_dir="runs"):
    """Return the folder of all runs, counted from the project's folder; FMNIST_RUNS_DIR replaces the default one."""
    return ROOT / ((os.environ.get("FMNIST_RUNS_DIR") or runs_dir) if str(runs_dir) == "runs" else runs_dir)


def is_complete(folder):
    """Tell whether the run in `folder` is complete, which is: its metrics.json is there."""
    return (Path(folder) / METRICS).is_file()


def start(params):
    """Open the run that `params` describes for writing, and hold it until `finish`.

    params: checked parameters with run_name and runs_dir. An unfinished training of the same parameters is there to
    go on from; a complete run stays as it is until `finish`. Returns a Run. Raises RunError when the folder holds a
    run of other parameters, when another process is writing it, or when it cannot be written.
    """
    folder = runs_folder(params["runs_dir"]) / params["run_name"]
    kept = {name: value for name, value in params.items() if name != "runs_dir"}
    lock = _hold(folder)
    run = Run(folder, kept, lock)
    try:
        _publish(run)
        run.work.mkdir(exist_ok=True)  # publishing removes it
        _refuse_other_parameters(run)
        with written_whole(run.work / PARAMS) as temporary:
            temporary.write_text(yaml.safe_dump(kept, sort_keys=False))
    except OSError as error:
        lock.release()
        raise _cannot_write(folder, error) from error
    except BaseException:
        lock.release()
        raise
    return run


def _cannot_write(folder, error):
    return RunError(f"cannot write the run folder {folder}: {error}. Choose another runs_dir, or make room.")


def _hold(folder):
    try:
        (folder / ".work").mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0, is_singleton=True)
        lock.acquire()
    except Timeout as error:
        raise RunError(
            f"another process is writing the run {folder.name!r} now. Wait for it, stop it (a notebook's kernel keeps "
            "its run until it has finished or is shut down), or choose another run_name."
        ) from error
    except OSError as error:
        raise _cannot_write(folder, error) from error
    return lock


def _refuse_other_parameters(run):
    for path in (run.work / PARAMS, run.folder / PARAMS):
        if not path.exists():
            continue
        with reading(path):
            old = dict(yaml.safe_load(path.read_text()))
        if old != run.params:
            changed = [
                f"{n}: {old.get(n)!r} there, {run.params.get(n)!r} now"
                for n in {**old, **run.params}
                if old.get(n) != run.params.get(n)
            ]
            raise RunError(
                f"the run {run.name!r} was made with other parameters ({'; '.join(changed)}). {removed_hint(old)}"
                f"Choose another run_name, or delete its folder {run.shown}."
            )


def finish(run, *, model, history, valid_index, y_valid, y_prob, metrics):
    """Write what a training produced and make the run complete; a complete run of that name is replaced only now.

    model: Keras model, kept in float32 and without its optimizer. history: frame, a row an epoch, indexed by
    `epoch`. valid_index: (n,) positions among the 60,000 training images;
    y_valid: (n,) classes; y_prob: (n, 10) probabilities. metrics: JSON values. Raises RunError when the disk refuses.
    """
    from fmnist_utils._training_copy import plain_copy  # only here: a reader of runs need not wait for TensorFlow

    try:
        run.work.mkdir(exist_ok=True)
        with written_whole(run.work / MODEL) as temporary:
            plain_copy(model).save(temporary)
        with written_whole(run.work / HISTORY) as temporary:
            history.to_csv(temporary)
        write_npz(run.work / VALIDATION, index=valid_index, label=y_valid, probability=y_prob)
        write_json(run.work / ENVIRONMENT, environment())
        write_json(run.work / METRICS, metrics)
        (run.work / _READY).touch()
        _publish(run)
    except OSError as error:
        raise RunError(
            f"could not finish the run {run.name!r}: {error}. The training itself is kept: make room, then run again "
            "with the same run_name."
        ) from error
    if run.lock:
        run.lock.release(force=True)


def _publish(run):
    """Move a finished training up, or go on moving where an earlier process was stopped; else do nothing."""
    if not (run.work / _READY).exists():
        return
    if (run.work / METRICS).exists():  # nothing of an older run may seem to belong to the new one
        for name in (METRICS, TEST, TEST_METRICS):
            (run.folder / name).unlink(missing_ok=True)
    (run.work / CHECKPOINT).unlink(missing_ok=True)  # or a training afresh could go on from it
    for name in _PUBLISHED:
        with suppress(FileNotFoundError):  # moved already, before the interruption
            os.replace(run.work / name, run.folder / name)
    shutil.rmtree(run.work)


def find(run_name="", runs_dir="runs"):
    """Return a complete Run to judge: the named one, or the newest, or else the reference run.

    The reference run ships with the project; it is copied into the runs folder first, so that results go there.
    Raises RunError, with the command to make it, when a named run is not there or is not complete.
    """
    home = runs_folder(runs_dir)
    name = run_name or os.environ.get("FMNIST_DEFAULT_RUN", "") or _newest(home)
    folder = home / name
    if name == REFERENCE.name and not is_complete(folder):
        shutil.copytree(REFERENCE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(METRICS))
        with written_whole(folder / METRICS) as temporary:  # last: it makes the run complete
            shutil.copy2(REFERENCE / METRICS, temporary)  # with its time, or it would seem the newest run
    if (folder / ".work" / _READY).exists():  # stopped between the training and the last rename
        lock = _hold(folder)
        try:
            _publish(Run(folder, {}))
        finally:
            lock.release()
    if not is_complete(folder):
        known = ", ".join(sorted(path.parent.name for path in home.glob(f"*/{METRICS}"))) or "none yet"
        state = "is not complete: its training was interrupted" if folder.exists() else "is not there"
        raise RunError(
            f"the run {name!r} {state} (complete runs: {known}). Make it with\n"
            f"  papermill notebooks/03_training.ipynb out.ipynb -p run_name {name}\n"
            f"or `make run`, or run 03_training.ipynb with that run_name."
        )
    with reading(folder / PARAMS):
        return Run(folder, dict(yaml.safe_load((folder / PARAMS).read_text())))


def _newest(home):
    complete = sorted(home.glob(f"*/{METRICS}"), key=lambda path: path.stat().st_mtime)
    return complete[-1].parent.name if complete else REFERENCE.name


def read_history(run):
    """Return the run's history.csv as a frame: a row an epoch, with loss, accuracy, val_loss, val_accuracy."""
    with reading(run.folder / HISTORY):
        return pd.read_csv(run.folder / HISTORY, index_col="epoch")


def read_predictions(run, name=VALIDATION):
    """Return what the run answered: (index, y, y_prob) of its validation images, or with name=TEST of the test images.

    index: (n,) places in the training images, or in the test images. y: (n,) true classes. y_prob: (n, 10) float32.
    Raises RunError, when the file is damaged or when notebook 04 has not judged the run yet.
    """
    path = run.folder / name
    if name == TEST and not path.exists():
        raise RunError(
            f"the run {run.name!r} has not been judged yet: run 04_evaluation_and_visualization.ipynb on it."
        )
    with reading(path), np.load(path) as kept:
        index = kept["index"] if "index" in kept else np.arange(len(kept["label"]))
        return index, kept["label"], kept["probability"]


def read_metrics(run, name=METRICS):
    """Return the run's metrics.json (or another JSON file of its) as a dict."""
    with reading(run.folder / name):
        return json.loads((run.folder / name).read_text())


def environment():
    """Return what a result depends on besides the code: versions, hardware, threads, and the commit."""
    from fmnist_utils._tensorflow import tf  # only here: a reader of run folders need not wait for TensorFlow

    packages = ("tensorflow", "keras", "numpy", "scikit-learn", "fmnist-utils")
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": _threads("INTRA") * _threads("INTER"),
        "gpus": [
            tf.config.experimental.get_device_details(g).get("device_name", "GPU")
            for g in tf.config.list_physical_devices("GPU")
        ],
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def _threads(kind):
    return int(os.environ.get(f"TF_NUM_{kind}OP_THREADS", 0)) or os.cpu_count()


def _version(package):
    with suppress(PackageNotFoundError):
        return version(package)


def _cpu():
    with suppress(OSError, KeyError):
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
        said = {key.strip(): value.strip() for key, _, value in reversed(lines)}
        return f"{said['model name']} (family {said['cpu family']}, model {said['model']})"
    return platform.processor()


def _git(*words):
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(
            ["git", "-C", ROOT, *words], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
