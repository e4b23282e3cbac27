"""A run folder: written whole or not at all, complete in one step, and never a mixture, wherever it is interrupted."""

import errno
import functools
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

from fmnist_utils import _environment, _files, _run_folder, runs
from fmnist_utils.evaluation import load_model
from fmnist_utils.model import build_model

PARAMS = {"run_name": "tiny", "runs_dir": "runs", "seed": 3, "learning_rate": 0.001, "filters": [4]}
FILES = {"params.yaml", "model.keras", "history.csv", "validation.npz", "environment.json", "metrics.json"}
TEST_FILES = ("test.npz", "test_metrics.json")


class Stopped(BaseException):
    """Stands for a kill: no `except Exception` or `except OSError` may hold it."""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The folder of all runs, one for each test."""
    monkeypatch.setenv("FMNIST_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.delenv("FMNIST_DEFAULT_RUN", raising=False)
    return tmp_path / "runs"


@functools.cache
def tiny_model(generation):
    model = build_model(filters=(4,), convs_per_block=(1,), dense_units=0)
    model.set_weights([np.full_like(weights, generation) for weights in model.get_weights()])
    model.compile("adam", "categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    return model


def finish(run, generation=1):
    """Finish `run` with a model and figures that all carry the number `generation`."""
    columns = ["loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds"]
    history = pd.DataFrame({name: [generation, 0.25] for name in columns}, index=pd.Index([1, 2], name="epoch"))
    runs.finish(
        run, model=tiny_model(generation), history=history, valid_index=np.arange(5), y_valid=np.arange(5),
        y_prob=np.full((5, 10), generation, "float32"), metrics={"generation": generation},
    )  # fmt: skip


def make(name, generation=1):
    run = runs.start({**PARAMS, "run_name": name})
    finish(run, generation)
    return run


def let_go(run):
    run.lock.release(force=True)  # what the end of its process does


def interrupted():
    """Start a run, let it write a checkpoint, and let it go."""
    run = runs.start(PARAMS)
    (run.work_dir / "checkpoint.npz").write_bytes(b"epoch 1")
    let_go(run)
    return run.work_dir / "checkpoint.npz"


def generation_of(run):
    """Return the one generation that all files of a run are of."""
    with np.load(run.folder / "validation.npz") as arrays:
        found = {int(arrays["probability"][0, 0])}
    found |= {runs.read_metrics(run)["generation"], int(runs.read_history(run).loss[1])}
    found |= {int(weights.flat[0]) for weights in load_model(run.folder / "model.keras").get_weights()}
    assert len(found) == 1, f"files of several trainings are mixed: {found}"
    return found.pop()


def names_in(folder):
    return {path.name for path in folder.iterdir()} - {".lock"}


def stop_at(monkeypatch, k):
    """Let the k-th step that changes a folder stop the process, as it were."""
    count = itertools.count(1)

    def step(real, *args, **kwargs):
        if next(count) == k:
            raise Stopped
        return real(*args, **kwargs)

    for module, name in ((os, "replace"), (os, "unlink"), (os, "rmdir"), (shutil, "copyfile")):
        monkeypatch.setattr(module, name, functools.partial(step, getattr(module, name)))


# ---------------------------------------------------------------------------------------------- writing files


def test_atomic_write_success(tmp_path):
    """The file replaces the old one at the end, and nothing is left beside it."""
    (tmp_path / "a.txt").write_text("old", encoding="utf-8")
    with _files.atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "old"
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "new"
    assert names_in(tmp_path) == {"a.txt"}


@pytest.mark.parametrize("failure", [ValueError, OSError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["body", "replace"])
def test_atomic_write_failure(tmp_path, monkeypatch, failure, place):
    """The old file stays, and nothing is left beside it."""

    def fail(*_):
        raise failure

    (tmp_path / "a.txt").write_text("old", encoding="utf-8")
    with monkeypatch.context() as patched, pytest.raises(failure):
        if place == "replace":
            patched.setattr(os, "replace", fail)
        with _files.atomic_write(tmp_path / "a.txt") as temporary:
            temporary.write_text("half of the n", encoding="utf-8")
            if place == "body":
                fail()
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "old"
    assert names_in(tmp_path) == {"a.txt"}


# ---------------------------------------------------------------------------------------------- start and finish


def test_finished_run(home):
    """It has all files and its parameters, and its lock is free."""
    run = runs.start(PARAMS)
    assert not runs.is_complete(run.folder)
    finish(run)
    assert runs.is_complete(home / "tiny")
    assert names_in(home / "tiny") == FILES
    kept = {name: value for name, value in PARAMS.items() if name != "runs_dir"}
    assert _files.read_yaml(home / "tiny" / "params.yaml") == runs.find("tiny").params == kept
    index, y, y_prob = runs.read_predictions(run)
    assert (index.shape, y.shape, y_prob.shape) == ((5,), (5,), (5, 10))
    with FileLock(home / "tiny" / ".lock", timeout=0):
        assert generation_of(runs.find("tiny")) == 1


def test_finish_metrics_last(monkeypatch):
    moved, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (moved.append(target), replace(source, target)))
    run = make("tiny")
    published = [path.name for path in moved if path.parent == run.folder]
    assert sorted(published) == sorted(FILES)
    assert published[-1] == "metrics.json"


def test_finish_model_without_optimizer():
    run = make("tiny")
    with zipfile.ZipFile(run.folder / "model.keras") as archive:
        config, weights = json.loads(archive.read("config.json")), archive.read("model.weights.h5")
    assert "optimizer" not in json.dumps(config)
    with h5py.File(io.BytesIO(weights)) as file:
        assert "layers" in file
        assert "optimizer" not in file


def test_start_removed_parameter():
    """A run of a version with another parameter is refused, and the parameter explained."""
    let_go(runs.start({**PARAMS, "skip_easy": 0.6}))
    with pytest.raises(runs.RunError, match=r"skip_easy: 0\.6 there, None now\)\. skip_easy is no parameter any more"):
        runs.start(PARAMS)


@pytest.mark.parametrize("complete", [True, False])
def test_start_other_parameters(complete):
    """They are refused with what changed, and the run stays."""
    run = runs.start(PARAMS)
    finish(run) if complete else let_go(run)
    changed = r"\(learning_rate: 0\.001 there, 0\.01 now; epochs: None there, 5 now\)"
    with pytest.raises(runs.RunError, match=changed) as error:
        runs.start({**PARAMS, "learning_rate": 0.01, "epochs": 5})
    assert "Choose another run_name, or delete its folder" in str(error.value)
    with FileLock(run.folder / ".lock", timeout=0):
        assert runs.is_complete(run.folder) == complete
    finish(runs.start(PARAMS), 2)
    assert generation_of(runs.find("tiny")) == 2


def test_start_unfinished_training(capsys):
    """It goes on, without a word, until it is finished; then one begins afresh."""
    checkpoint = interrupted()
    run = runs.start(PARAMS)
    run = runs.start(PARAMS)  # a cell may be run twice
    assert checkpoint.read_bytes() == b"epoch 1" and capsys.readouterr().out == ""
    finish(run)
    runs.start(PARAMS)
    assert not checkpoint.exists()


@pytest.mark.parametrize("module", ["training.py", "augmentation.py", "_checkpoint.py", "plots.py", "lesson.py"])
def test_start_unfinished_training_of_other_code(module, edit_package, capsys):
    """Where the code that trains has changed it starts afresh and says so; other code does not matter."""
    checkpoint = interrupted()
    edit_package(module)
    runs.start(PARAMS)
    trains = module not in ("plots.py", "lesson.py")
    assert checkpoint.exists() != trains
    assert ("the code that trains has changed" in capsys.readouterr().out) == trains


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"code_hash": null}'])
def test_start_unfinished_training_of_unknown_code(text):
    checkpoint = interrupted()
    (checkpoint.parent / "environment.json").write_text(text, encoding="utf-8")
    runs.start(PARAMS)
    assert not checkpoint.exists()


def test_start_complete_run():
    """It stays until the new one is finished, and only then loses its test results."""
    run = make("tiny")
    for name in TEST_FILES:
        (run.folder / name).write_text("of the old model", encoding="utf-8")
    run = runs.start(PARAMS)
    assert generation_of(runs.find("tiny")) == 1
    assert names_in(run.folder) >= set(TEST_FILES)
    finish(run, 2)
    assert generation_of(runs.find("tiny")) == 2
    assert names_in(run.folder) == FILES


@pytest.mark.parametrize("reader", ["find", "start"])
def test_finish_stopped_at_any_step(reader, home, monkeypatch):
    """The folder holds the old run or becomes the new one, for every reader."""
    code = _environment.code_hash()
    monkeypatch.setattr(runs, "environment", lambda: {"code_hash": code})
    old = make("tiny").folder
    for name in TEST_FILES:
        (old / name).write_text("of the old model", encoding="utf-8")
    found, trouble = [], []
    for k in itertools.count(1):
        monkeypatch.setenv("FMNIST_RUNS_DIR", str(home / str(k)))
        shutil.copytree(old, home / str(k) / "tiny")
        run = runs.start(PARAMS)
        (run.work_dir / "checkpoint.npz").touch()
        try:
            with monkeypatch.context() as patched:
                stop_at(patched, k)
                finish(run, 2)
            break
        except Stopped:
            all_written = (run.work_dir / "ready").exists()
        let_go(run)
        try:
            if runs.is_complete(run.folder):
                generation_of(run)  # or another reader meets a mixture now
            if reader == "start":
                let_go(runs.start(PARAMS))
            found.append(generation_of(run if reader == "start" else runs.find("tiny")))
            is_new = found[-1] == 2
            assert is_new or not all_written
            assert is_new == names_in(run.folder).isdisjoint(TEST_FILES)
            kept = (run.work_dir / "checkpoint.npz").exists()
            assert is_new != kept, "a new training would go on from the finished one"
        except (OSError, RuntimeError, AssertionError) as error:
            trouble.append(f"step {k}: {error!r}")
    assert not trouble, "\n".join(trouble)
    assert set(found) == {1, 2}
    assert found == sorted(found)


def test_start_locked(home, hold_lock):
    """A writer that lives, in another process, is an error; a killed one is not."""
    writer = hold_lock(make("tiny").folder / ".lock")
    with pytest.raises(runs.RunError, match=r"another process is writing the run 'tiny' now.*choose another run_name"):
        runs.start(PARAMS)
    assert generation_of(runs.find("tiny")) == 1
    writer.kill()
    writer.wait()
    finish(runs.start(PARAMS), 2)
    assert generation_of(runs.find("tiny")) == 2


def no_room(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("module", "name"), [(os, "fsync"), (os, "replace"), (np, "savez_compressed")])
def test_finish_full_disk(module, name, monkeypatch):
    """The error says what to do, and the training is kept."""
    checkpoint = interrupted()
    run = runs.start(PARAMS)
    with monkeypatch.context() as patched, pytest.raises(runs.RunError, match="No space left on device") as error:
        patched.setattr(module, name, no_room)
        finish(run)
    assert "make room, then run again with the same run_name" in str(error.value)
    assert checkpoint.read_bytes() == b"epoch 1"
    assert not [path for path in run.work_dir.iterdir() if path.name.startswith(".")]
    finish(run)
    assert names_in(run.folder) == FILES


def test_start_full_disk(home, monkeypatch):
    """The error says what to do, and the lock is free."""
    with monkeypatch.context() as patched, pytest.raises(runs.RunError, match=r"No space left on device.*make room"):
        patched.setattr(os, "fsync", no_room)
        runs.start(PARAMS)
    with FileLock(home / "tiny" / ".lock", timeout=0):
        assert not runs.is_complete(home / "tiny")


@pytest.mark.parametrize("begin", [lambda: runs.start(PARAMS), lambda: runs.find("reference")], ids=["start", "find"])
def test_runs_folder_unwritable(begin, home):
    """One line names the folder and FMNIST_RUNS_DIR, to a writer and to 04, which copies the reference run."""
    home.write_text("a file, no folder", encoding="utf-8")
    with pytest.raises(runs.RunError, match=r"cannot write the run folder .*FMNIST_RUNS_DIR, or make room\.$"):
        begin()


# ---------------------------------------------------------------------------------------------- find and read


def test_find_missing(home):
    """The error has the command that makes the run, and the runs that there are."""
    make("second")
    make("first")
    let_go(runs.start({**PARAMS, "run_name": "half"}))
    for name, state in {"gone": "is not there", "half": "is not complete: its training was interrupted"}.items():
        with pytest.raises(runs.RunError, match=rf"'{name}' {state} \(complete runs: first, second\)") as error:
            runs.find(name)
        assert f"papermill notebooks/03_training.ipynb out.ipynb -r run_name {name}\n" in str(error.value)
    assert not (home / "gone").exists()


def test_find_default(home, monkeypatch):
    """The newest complete run, or the one that the environment names."""
    for name, changed in {"older": 20, "newest": 30, "oldest": 10}.items():
        make(name)
        os.utime(home / name / "metrics.json", (changed, changed))
    let_go(runs.start({**PARAMS, "run_name": "half"}))
    assert runs.find().name == "newest"
    monkeypatch.setenv("FMNIST_DEFAULT_RUN", "oldest")
    assert runs.find().name == "oldest"
    assert runs.find("older").name == "older"


def test_find_in_another_folder(home):
    make("tiny")
    elsewhere = home.rename(home.parent / "elsewhere")
    assert runs.find("tiny", str(elsewhere)).folder == runs.find(runs_dir=str(elsewhere)).folder == elsewhere / "tiny"


@pytest.fixture
def reference(home, monkeypatch):
    """A reference run in a folder without write bits, as in a teacher's shared copy."""
    folder = make("reference", 7).folder.rename(home.parent / "reference")
    (folder / "test.npz").write_bytes(b"shipped")
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    monkeypatch.setattr(runs, "REFERENCE", folder)
    monkeypatch.setattr(_run_folder, "REFERENCE", folder)
    return folder


def test_reference_copied(home, reference, monkeypatch):
    """Once, where there is no other run; the copy can be written, and a later run is newer."""
    shipped = {path.name: path.read_bytes() for path in reference.iterdir()}
    run = runs.find()
    assert (run.folder, generation_of(run)) == (home / "reference", 7)
    assert all(path.stat().st_mode & 0o200 for path in (run.folder, *run.folder.iterdir()))
    (run.folder / "test.npz").write_bytes(b"evaluated")
    assert (runs.find().folder / "test.npz").read_bytes() == b"evaluated"
    assert {path.name: path.read_bytes() for path in reference.iterdir()} == shipped
    make("other")
    assert runs.find().name == "other"
    monkeypatch.setenv("FMNIST_DEFAULT_RUN", "reference")
    assert runs.find().name == "reference"


def test_reference_copy_stopped_at_any_step(home, reference, monkeypatch):
    """It is made whole the next time."""
    for k in range(1, 2 * len(FILES) + 1):
        monkeypatch.setenv("FMNIST_RUNS_DIR", str(home / str(k)))
        with monkeypatch.context() as patched, pytest.raises(Stopped):
            stop_at(patched, k)
            runs.find("reference")
        assert generation_of(runs.find("reference")) == 7, f"stopped at step {k}"


@pytest.mark.parametrize("started_in", [".", "notebooks", "/"])
def test_runs_folder(started_in, monkeypatch, tmp_path):
    """It does not depend on where the kernel was started, and "~" is the home folder."""
    monkeypatch.chdir(runs.ROOT / started_in)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert runs.runs_folder() == tmp_path / "runs"  # FMNIST_RUNS_DIR is another default, and only a default
    assert runs.runs_folder("deep/er") == runs.ROOT / "deep" / "er"
    assert runs.runs_folder(str(tmp_path)) == runs.runs_folder(tmp_path) == tmp_path
    assert runs.runs_folder("~/mine") == tmp_path / "mine"
    monkeypatch.setenv("FMNIST_RUNS_DIR", "~/all")
    assert runs.runs_folder() == tmp_path / "all"
    monkeypatch.setenv("FMNIST_RUNS_DIR", "")
    assert runs.runs_folder() == runs.ROOT / "runs"


ALONE = """
from fmnist_utils import _run_folder, runs
runs.environment = dict
run = runs.start({"run_name": "mine", "runs_dir": "runs"})
try:
    runs.find("reference")
except runs.RunError as error:
    print(error)
"""


def test_package_without_project(tmp_path, monkeypatch):
    """Where only the package is installed, runs go where the user is, and that is said; there is no reference run."""
    shutil.copytree(_environment.PACKAGE, tmp_path / "site" / "fmnist_utils")
    (tmp_path / "here").mkdir()
    monkeypatch.delenv("FMNIST_RUNS_DIR")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    done = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=tmp_path / "here", capture_output=True, encoding="utf-8", check=True
    )
    assert f"the run goes into {tmp_path / 'here' / 'runs' / 'mine'}" in done.stdout
    assert "the run 'reference' is not there (complete runs: none yet)" in done.stdout
    assert (tmp_path / "here" / "runs" / "mine" / ".work" / "params.yaml").is_file()


def test_read_history_and_metrics():
    run = make("tiny")
    history = runs.read_history(run)
    assert (history.index.name, list(history.index)) == ("epoch", [1, 2])
    assert list(history.columns) == ["loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds"]
    assert list(history.val_loss) == [1, 0.25]
    assert runs.read_metrics(run) == {"generation": 1}


def test_evaluation_saved(tmp_path):
    """Before, the reader is told to evaluate; afterwards, predictions and numbers are read as they were saved."""
    run = make("tiny")
    with pytest.raises(runs.RunError, match="has not been evaluated yet: run 04_evaluation"):
        runs.read_predictions(run, runs.TEST)
    with pytest.raises(runs.RunError, match="has not been evaluated yet: run 04_evaluation"):
        runs.read_metrics(run, runs.TEST_METRICS)
    runs.save_evaluation(run, np.array([3, 1]), np.eye(2), {"test_accuracy": 0.5})
    index, y, y_prob = runs.read_predictions(run, runs.TEST)
    assert list(index) == [0, 1] and list(y) == [3, 1] and np.array_equal(y_prob, np.eye(2))
    assert runs.read_metrics(run, runs.TEST_METRICS) == {"test_accuracy": 0.5}


def test_evaluation_of_an_older_training_goes(home):
    run = make("tiny")
    runs.save_evaluation(run, np.array([3, 1]), np.eye(2), {"test_accuracy": 0.5})
    (run.folder / "figures").mkdir()
    (run.folder / "figures" / "confusion_matrix.png").touch()
    let_go(run)
    make("tiny", generation=2)
    left = [name for name in (runs.TEST, runs.TEST_METRICS, "figures") if (run.folder / name).exists()]
    assert left == [] and runs.read_metrics(run) == {"generation": 2}


DAMAGED = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[: len(content) // 2],
    "zeroed": lambda content: content[:100] + bytes(200) + content[300:],
    "not UTF-8": lambda content: b"\xff" + content,
}


@pytest.mark.parametrize(
    ("name", "damage"),
    [("validation.npz", damage) for damage in ("empty", "cut short", "zeroed")]
    + [("metrics.json", "cut short"), ("history.csv", "empty"), ("history.csv", "not UTF-8")],
)
def test_read_damaged_file(name, damage):
    """It is named, with what to do."""
    run, rng = make("tiny"), np.random.default_rng(0)
    _files.write_npz(
        run.folder / runs.VALIDATION, index=np.arange(50), label=rng.random(50), probability=rng.random(50)
    )
    read = {"validation.npz": runs.read_predictions, "metrics.json": runs.read_metrics}.get(name, runs.read_history)
    read(run)
    path = run.folder / name
    path.write_bytes(DAMAGED[damage](path.read_bytes()))
    with pytest.raises(runs.RunError, match=rf"{re.escape(name)} of the run 'tiny' is damaged .*train it again"):
        read(run)


# ---------------------------------------------------------------------------------------------- the environment


def test_environment():
    """Versions, hardware, threads and code, and no path of the machine."""
    found = _environment.environment()
    versions = {"python", "tensorflow", "keras", "numpy", "scikit-learn", "fmnist-utils"}
    others = {"system", "cpu", "cores", "threads", "gpus", "code_hash", "commit", "uncommitted_changes"}
    assert found.keys() == versions | others
    assert [name for name in versions if not re.match(r"\d+\.\d+", found[name] or "")] == []
    assert found["threads"] >= 1 and found["code_hash"] == _environment.code_hash()
    assert not re.search(r"(?<!\w)/\w|\w:\\\\", json.dumps(found))


@pytest.mark.parametrize(("within", "beside", "threads"), [("3", "2", 6), ("0", "2", 5), ("3", "0", 5)])
def test_environment_counts_threads_as_tensorflow_does(monkeypatch, within, beside, threads):
    """0 asks TensorFlow for as many as there are cores."""
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", within)
    monkeypatch.setenv("TF_NUM_INTEROP_THREADS", beside)
    monkeypatch.setattr(_environment, "cores", lambda: 5)
    assert _environment.environment()["threads"] == threads


def git(folder, *words):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True)


@pytest.mark.parametrize("place", ["own repository", "foreign repository", "no repository", "no git"])
def test_environment_commit(place, tmp_path, monkeypatch):
    """Known in the repository that holds the package, unknown in another one around it and where there is none."""
    package = tmp_path / "project" / "fmnist_utils"
    package.mkdir(parents=True)
    (package / "_environment.py").write_text("", encoding="utf-8")
    monkeypatch.setattr(_environment, "PACKAGE", package)
    if place != "no repository":
        git(tmp_path, "init")
        (tmp_path / "other.txt").touch()
        git(tmp_path, "add", "other.txt" if place == "foreign repository" else ".")
        git(tmp_path, "commit", "-m", "all")
    if place == "no git":
        monkeypatch.setenv("PATH", "")
    commit, changed = _environment._commit().values()
    if place != "own repository":
        assert (commit, changed) == (None, None)
        return
    assert re.fullmatch("[0-9a-f]{40}", commit) and changed is False
    (package / "_environment.py").write_text("# an edit", encoding="utf-8")
    assert _environment._commit() == {"commit": commit, "uncommitted_changes": True}
