"""Parameters, files that are written whole, and the life of a run folder, interruptions included."""

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
import yaml
from filelock import FileLock

from fmnist_utils import runs
from fmnist_utils.evaluation import load_model
from fmnist_utils.model import build_model

PARAMS = {"run_name": "tiny", "runs_dir": "runs", "seed": 3, "learning_rate": 0.001, "filters": [4]}
FILES = {"params.yaml", "model.keras", "history.csv", "validation.npz", "environment.json", "metrics.json"}
TEST_FILES = ("test.npz", "test_metrics.json")


class Stopped(BaseException):
    """Stands for a kill: no `except Exception` or `except OSError` may hold it."""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
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


@pytest.mark.parametrize("reader", ["find", "start"])
def test_a_finish_stopped_at_any_step_leaves_the_old_run_or_becomes_the_new_one(reader, home, monkeypatch):
    monkeypatch.setattr(runs, "environment", dict)
    old = make("tiny").folder
    for name in TEST_FILES:
        (old / name).write_text("of the old model")
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


HOLD = """
import sys, filelock
lock = filelock.FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_live_writer_in_another_process_is_an_error_and_a_killed_one_is_not(home):
    folder = make("tiny").folder
    command = [sys.executable, "-c", HOLD, folder / ".lock"]
    advice = r"another process is writing the run 'tiny' now.*choose another run_name"
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdout.readline() == "held\n"
            with pytest.raises(runs.RunError, match=advice):
                runs.start(PARAMS)
            assert generation_of(runs.find("tiny")) == 1
        finally:
            writer.kill()
            writer.wait()
        finish(runs.start(PARAMS), 2)
    assert generation_of(runs.find("tiny")) == 2


def no_room(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("module", "name"), [(os, "fsync"), (os, "replace"), (np, "savez_compressed")])
def test_a_full_disk_at_the_end_says_what_to_do_and_keeps_the_training(module, name, monkeypatch):
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


def test_a_full_disk_at_the_start_says_what_to_do_and_frees_the_lock(home, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(runs.RunError, match=r"No space left on device.*make room"):
        patched.setattr(os, "fsync", no_room)
        runs.start(PARAMS)
    with FileLock(home / "tiny" / ".lock", timeout=0):
        assert not runs.is_complete(home / "tiny")


def test_a_runs_folder_that_cannot_be_made_is_an_error_that_says_what_to_do(home):
    home.write_text("a file, no folder")
    with pytest.raises(runs.RunError, match=r"cannot write the run folder .*Choose another runs_dir"):
        runs.start(PARAMS)


# ---------------------------------------------------------------------------------------------- find and read


def test_a_missing_run_is_an_error_with_the_command_and_the_complete_runs(home):
    make("second")
    make("first")
    let_go(runs.start({**PARAMS, "run_name": "half"}))
    for name, state in {"gone": "is not there", "half": "is not complete: its training was interrupted"}.items():
        with pytest.raises(runs.RunError, match=rf"'{name}' {state} \(complete runs: first, second\)") as error:
            runs.find(name)
        assert f"papermill notebooks/03_training.ipynb out.ipynb -p run_name {name}\n" in str(error.value)
    assert not (home / "gone").exists()


def test_the_newest_complete_run_is_the_default_and_the_environment_may_name_another(home, monkeypatch):
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
    folder = make("reference", 7).folder.rename(home.parent / "reference")
    (folder / "test.npz").write_bytes(b"shipped")
    monkeypatch.setattr(runs, "REFERENCE", folder)
    return folder


def test_the_reference_run_is_copied_into_the_runs_folder_once_when_there_is_no_other(home, reference, monkeypatch):
    shipped = {path.name: path.read_bytes() for path in reference.iterdir()}
    run = runs.find()
    assert (run.folder, generation_of(run)) == (home / "reference", 7)
    (run.folder / "test.npz").write_bytes(b"judged")
    assert (runs.find().folder / "test.npz").read_bytes() == b"judged"
    assert {path.name: path.read_bytes() for path in reference.iterdir()} == shipped
    make("other")
    os.utime(home / "other" / "metrics.json", (0, 2**33))
    monkeypatch.setenv("FMNIST_DEFAULT_RUN", "reference")
    assert runs.find().name == "reference"


def test_a_copy_of_the_reference_stopped_at_any_file_is_made_whole_the_next_time(home, reference, monkeypatch):
    for k in range(1, len(FILES) + 1):
        monkeypatch.setenv("FMNIST_RUNS_DIR", str(home / str(k)))
        with monkeypatch.context() as patched, pytest.raises(Stopped):
            stop_at(patched, k)
            runs.find("reference")
        assert generation_of(runs.find("reference")) == 7, f"stopped at step {k}"


@pytest.mark.parametrize("started_in", [".", "notebooks", "/"])
def test_the_runs_folder_does_not_depend_on_where_the_kernel_was_started(started_in, monkeypatch, tmp_path):
    monkeypatch.chdir(runs.ROOT / started_in)
    assert runs.runs_folder() == tmp_path / "runs"  # FMNIST_RUNS_DIR is another default, and only a default
    assert runs.runs_folder("deep/er") == runs.ROOT / "deep" / "er"
    assert runs.runs_folder(str(tmp_path)) == runs.runs_folder(tmp_path) == tmp_path
    monkeypatch.setenv("FMNIST_RUNS_DIR", "")
    assert runs.runs_folder() == runs.ROOT / "runs"
    monkeypatch.delenv("FMNIST_RUNS_DIR")
    assert runs.runs_folder() == runs.ROOT / "runs"


def test_history_and_metrics_are_read_as_they_were_written():
    run = make("tiny")
    history = runs.read_history(run)
    assert (history.index.name, list(history.index)) == ("epoch", [1, 2])
    assert list(history.columns) == ["loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds"]
    assert list(history.val_loss) == [1, 0.25]
    _files.write_json(run.folder / "test_metrics.json", {"test_accuracy": 0.5})
    assert runs.read_metrics(run) == {"generation": 1}
    assert runs.read_metrics(run, "test_metrics.json") == {"test_accuracy": 0.5}


@pytest.mark.parametrize("git", [True, False])
def test_the_environment_tells_versions_and_hardware_and_no_path_of_the_machine(git, monkeypatch):
    if not git:
        monkeypatch.setenv("PATH", "")
    found = _environment.environment()
    versions = {"python", "tensorflow", "keras", "numpy", "scikit-learn", "fmnist-utils"}
    assert found.keys() == versions | {"system", "cpu", "cores", "threads", "gpus", "commit", "uncommitted_changes"}
    assert [name for name in versions if not re.match(r"\d+\.\d+", found[name] or "")] == []
    assert found["threads"] >= 1
    assert git or found["commit"] is None
    assert not re.search(r"(?<!\w)/\w|\w:\\\\", json.dumps(found))


def zeroed(data):
    return data[:100] + bytes(200) + data[300:]


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
