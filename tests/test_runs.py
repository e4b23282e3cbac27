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


# ---------------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize("path", sorted((runs.ROOT / "params").glob("*.yaml")), ids=lambda path: path.name)
def test_committed_parameter_files_are_allowed_and_come_back_in_their_order(path):
    values = yaml.safe_load(path.read_text())
    assert list(parameters.check_parameters(values).items()) == list(values.items())


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 0), ("seed", 2**31 - 1), ("train_size", 0), ("train_size", 100), ("validation_fraction", 0.01),
     ("learning_rate", 1.0), ("dropout", 0.0), ("filters", [1, 2, 3, 2048]), ("run_name", "a.b_c-1"),
     ("runs_dir", "/elsewhere"), ("batch_norm", False), ("max_shift", 0), ("max_shift", 8), ("weight_decay", 0.0),
     ("weight_decay", 1.0), ("downsampling", "max"), ("downsampling", "average"), ("downsampling", "stride"),
     ("augment", "flip_shift_erase"), ("examples", 20)],
)  # fmt: skip
def test_allowed_values_pass_unchanged_up_to_the_limits(name, value):
    assert parameters.check_parameters({name: value}) == {name: value}


def test_a_whole_number_serves_as_a_float_and_becomes_one():
    checked = parameters.check_parameters({"learning_rate": 1, "dropout": 0})
    assert repr(checked) == "{'learning_rate': 1.0, 'dropout': 0.0}"


def test_names_that_are_no_parameters_are_left_out_and_the_order_is_kept():
    values = {"seed": 1, "np": np, "epochs": 2, "_": object(), "augment": "none", "batch_size": 8}
    assert list(parameters.check_parameters(values)) == ["seed", "epochs", "augment", "batch_size"]


NO_PATH, ONE_TO_2048 = "and no path", "a list of whole numbers, 1 to 2048, one per block"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [("run_name", name, NO_PATH) for name in ("../x", "a/b", "a\\b", "", "..", ".work", "x\n", "x" * 101, "é", 7)]
    + [("filters", value, ONE_TO_2048) for value in ([], [0], [2049], [True], [8.0], ["8"], [[8]], (8,), 8, None)]
    + [("seed", value, "int, 0 to 2147483647") for value in (True, 1.0, "1", None, -1, 2**31)]
    + [("learning_rate", value, "float, more than 0, at most 1") for value in (0.0, 1.5, float("nan"), True, "fast")]
    + [("early_stopping", value, "bool, true or false") for value in (1, 0, "true", None)]
    + [("train_size", 99, "0 (all) or at least 100"), ("train_size", -100, "0 (all) or at least 100"),
       ("validation_fraction", 0.0, "0.01 to 0.9"), ("validation_fraction", 0.95, "0.01 to 0.9"),
       ("epochs", 0, "1 to 10000"), ("batch_size", 1, "2 to 10000"), ("patience", 0, "1 to 10000 epochs"),
       ("kernel_size", 12, "1 to 11 pixels"), ("dropout", 1.0, "0 to less than 1"), ("dense_units", -1, "0 (no hidden"),
       ("label_smoothing", -0.1, "0 to less than 1"), ("max_shift", -1, "0 to 8 pixels"), ("max_shift", 9, "0 to 8"),
       ("max_shift", 1.0, "int, 0 to 8"), ("weight_decay", -0.1, "0 (none) to 1"), ("weight_decay", 1.1, "(none) to 1"),
       ("downsampling", "mean", "one of max, average, stride"),
       ("precision", "float16", "one of auto"), ("convs_per_block", [11], "1 to 10, one per block"),
       ("runs_dir", "", "a folder"), ("examples", 21, "1 to 20 pictures"),
       ("schedule", "linear", "one of one_cycle, cosine, constant"), ("pooling_head", "mean", "one of average, max, f"),
       ("augment", "Flip", "one of none, flip, flip_shift, flip_shift_erase")],
)  # fmt: skip
def test_a_bad_value_is_refused_by_name_and_value_with_what_is_allowed(name, value, allowed):
    with pytest.raises(ValueError) as error:
        parameters.check_parameters({"epochs": 5, name: value})
    assert str(error.value).startswith(f"{name} = {value!r} ({type(value).__name__}): allowed is ")
    assert allowed in str(error.value)


@pytest.mark.parametrize(
    ("filters", "convs", "allowed"),
    [([8, 16], [1], "lists of one length"), ([8], [1, 1], "lists of one length"), ([8] * 5, [1] * 5, "at most 4")],
)
def test_blocks_that_do_not_fit_together_are_refused_with_both_lists(filters, convs, allowed):
    with pytest.raises(ValueError, match=re.escape(f"filters = {filters}")) as error:
        parameters.check_parameters({"filters": filters, "convs_per_block": convs})
    assert allowed in str(error.value)


@pytest.mark.parametrize(("text", "number"), [("1e-3", 0.001), ("5E-4", 0.0005), ("1e0", 1.0), ("1e+0", 1.0)])
def test_a_number_that_yaml_reads_as_text_is_shown_in_a_form_that_yaml_reads_as_a_number(text, number):
    assert yaml.safe_load(text) == text
    with pytest.raises(ValueError, match=rf"YAML reads {re.escape(text)} as text: write \S+$") as error:
        parameters.check_parameters({"learning_rate": text})
    assert yaml.safe_load(str(error.value).split("write ")[1]) == number


def test_text_for_a_list_points_to_papermills_y_and_f():
    with pytest.raises(ValueError, match=r"^filters = ") as error:
        parameters.check_parameters({"filters": "[8, 16]"})
    assert re.search(r"write -y '\{\w+: \[8, 16\]\}' .*-f$", str(error.value))


# ---------------------------------------------------------------------------------------------- writing files


def test_a_written_file_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with _files.atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "a.txt").read_text() == "old"
    assert (tmp_path / "a.txt").read_text() == "new"
    assert names_in(tmp_path) == {"a.txt"}


@pytest.mark.parametrize("failure", [ValueError, OSError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["body", "replace"])
def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path, monkeypatch, failure, place):
    def fail(*_):
        raise failure

    (tmp_path / "a.txt").write_text("old")
    with monkeypatch.context() as patched, pytest.raises(failure):
        if place == "replace":
            patched.setattr(os, "replace", fail)
        with _files.atomic_write(tmp_path / "a.txt") as temporary:
            temporary.write_text("half of the n")
            if place == "body":
                fail()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names_in(tmp_path) == {"a.txt"}


# ---------------------------------------------------------------------------------------------- start and finish


def test_a_finished_run_has_all_files_and_its_parameters_and_frees_its_lock(home):
    run = runs.start(PARAMS)
    assert not runs.is_complete(run.folder)
    finish(run)
    assert runs.is_complete(home / "tiny")
    assert names_in(home / "tiny") == FILES
    kept = {name: value for name, value in PARAMS.items() if name != "runs_dir"}
    assert yaml.safe_load((home / "tiny" / "params.yaml").read_text()) == runs.find("tiny").params == kept
    with np.load(home / "tiny" / "validation.npz") as arrays:
        assert {name: arrays[name].shape for name in arrays} == {"index": (5,), "label": (5,), "probability": (5, 10)}
    with FileLock(home / "tiny" / ".lock", timeout=0):
        assert generation_of(runs.find("tiny")) == 1


def test_metrics_json_is_the_last_file_to_come(monkeypatch):
    moved, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (moved.append(target), replace(source, target)))
    run = make("tiny")
    published = [path.name for path in moved if path.parent == run.folder]
    assert sorted(published) == sorted(FILES)
    assert published[-1] == "metrics.json"


def test_the_stored_model_carries_weights_but_no_optimizer():
    run = make("tiny")
    with zipfile.ZipFile(run.folder / "model.keras") as archive:
        config, weights = json.loads(archive.read("config.json")), archive.read("model.weights.h5")
    assert "optimizer" not in json.dumps(config)
    with h5py.File(io.BytesIO(weights)) as file:
        assert "layers" in file
        assert "optimizer" not in file


def test_a_run_of_a_version_with_another_parameter_is_refused_and_the_parameter_explained():
    let_go(runs.start({**PARAMS, "skip_easy": 0.6}))
    with pytest.raises(runs.RunError, match=r"skip_easy: 0\.6 there, None now\)\. skip_easy is no parameter any more"):
        runs.start(PARAMS)


@pytest.mark.parametrize("complete", [True, False])
def test_other_parameters_are_refused_with_what_changed_and_the_run_stays(complete):
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


def test_an_unfinished_training_goes_on_and_a_complete_one_begins_afresh():
    run = runs.start(PARAMS)
    (run.work_dir / "checkpoint.npz").write_bytes(b"epoch 1")
    let_go(run)
    run = runs.start(PARAMS)
    assert (run.work_dir / "checkpoint.npz").read_bytes() == b"epoch 1"
    run = runs.start(PARAMS)  # a cell may be run twice
    finish(run)
    assert not (runs.start(PARAMS).work / "checkpoint.npz").exists()


def test_a_complete_run_stays_until_the_new_one_is_finished_and_then_loses_its_test_results():
    run = make("tiny")
    for name in TEST_FILES:
        (run.folder / name).write_text("of the old model")
    run = runs.start(PARAMS)
    assert generation_of(runs.find("tiny")) == 1
    assert names_in(run.folder) >= set(TEST_FILES)
    finish(run, 2)
    assert generation_of(runs.find("tiny")) == 2
    assert names_in(run.folder) == FILES


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
            assert is_new != (run.work_dir / "checkpoint.npz").exists(), "a new training would go on from the finished one"
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
    (run.work_dir / "checkpoint.npz").write_bytes(b"epoch 1")
    with monkeypatch.context() as patched, pytest.raises(runs.RunError, match="No space left on device") as error:
        patched.setattr(module, name, no_room)
        finish(run)
    assert "make room, then run again with the same run_name" in str(error.value)
    assert (run.work_dir / "checkpoint.npz").read_bytes() == b"epoch 1"
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
        assert f"papermill notebooks/03_training.ipynb out.ipynb -p run_name {name}\n" in str(error.value)
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
    _files.write_json(run.folder / "test_metrics.json", {"test_accuracy": 0.5})
    assert runs.read_metrics(run) == {"generation": 1}


@pytest.mark.parametrize("git", [True, False])
def test_the_environment_tells_versions_and_hardware_and_no_path_of_the_machine(git, monkeypatch):
    if not git:
        monkeypatch.setenv("PATH", "")
    found = _environment.environment()
    versions = {"python", "tensorflow", "keras", "numpy", "scikit-learn", "fmnist-utils"}
    others = {"system", "cpu", "cores", "threads", "gpus", "code_hash", "commit", "uncommitted_changes"}
    assert found.keys() == versions | others
    assert [name for name in versions if not re.match(r"\d+\.\d+", found[name] or "")] == []
    assert found["threads"] >= 1 and found["code_hash"] == _environment.code_hash()
    assert not re.search(r"(?<!\w)/\w|\w:\\\\", json.dumps(found))


def git(folder, *words):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True)


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:200], zeroed, lambda data: b"no archive"])
def test_damaged_predictions_are_named_with_what_to_do(tmp_path, damage):
    run = runs.Run(tmp_path / "run", {})
    run.folder.mkdir()
    y_prob = np.random.default_rng(0).random((50, 10), dtype="float32")
    path = run.folder / runs.VALIDATION
    _files.write_npz(path, index=np.arange(50), label=np.zeros(50, int), probability=y_prob)
    index, y, read = runs.read_predictions(run)
    assert list(index) == list(range(50)) and not y.any() and np.array_equal(read, y_prob)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(runs.RunError, match=r"validation\.npz of the run 'run' is damaged .*train it again"):
        runs.read_predictions(run)


def test_a_run_that_was_not_judged_is_told_to_be_judged(tmp_path):
    run = runs.Run(tmp_path / "run", {})
    with pytest.raises(runs.RunError, match="has not been judged yet: run 04_evaluation"):
        runs.read_predictions(run, runs.TEST)
    run.folder.mkdir()
    _files.write_npz(run.folder / runs.TEST, label=np.array([3, 1]), probability=np.eye(2))
    index, y, _ = runs.read_predictions(run, runs.TEST)
    assert list(index) == [0, 1] and list(y) == [3, 1]
