"""A run folder: complete in one step, never a mixture, wherever it is interrupted; and an error says what to do."""

import errno
import itertools
import os
import re
import shutil
import sys
from contextlib import suppress
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

from fmnist_utils import _environment, runs
from fmnist_utils._tensorflow import tf
from fmnist_utils.model import build_model

PARAMS = {"run_name": "tiny", "runs_dir": "runs", "seed": 3, "learning_rate": 0.001, "filters": [4]}
FILES = {".lock", "params.yaml", "model.keras", "history.csv", "validation.npz", "environment.json", "metrics.json"}
EVALUATION = {"test.npz", "test_metrics.json", "figures"}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "environment", lambda: {"threads": 2})
    monkeypatch.setenv("FMNIST_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.delenv("FMNIST_DEFAULT_RUN", raising=False)
    return tmp_path / "runs"


def finish(run, generation=1):
    """Finish `run` with files that all carry the number `generation`."""
    model = build_model(filters=(4,), convs_per_block=(1,), dense_units=0)
    model.set_weights([np.full_like(weights, generation) for weights in model.get_weights()])
    model.compile("adam", "categorical_crossentropy")
    files = {"history": pd.DataFrame({"loss": [generation]}, pd.Index([1], name="epoch")), "y_valid": range(5)}
    files |= {"valid_index": range(5, 10), "y_prob": np.full((5, 10), generation)}
    runs.finish(run, model=model, metrics={"generation": generation}, **files)
    return run


def evaluated(name="tiny", generation=1):
    run = finish(runs.start({**PARAMS, "run_name": name}), generation)
    runs.save_evaluation(run, np.array([3, 1]), np.eye(2), {"test_accuracy": 0.5})
    (run.folder / "figures").mkdir()
    return run


def generation_of(run):
    """Return the one generation that all files of a run are of."""
    model = tf.keras.models.load_model(run.folder / "model.keras")
    assert not model.compiled, "the model was kept with its optimizer"
    found = {runs.read_metrics(run)["generation"], *runs.read_history(run).loss, runs.read_predictions(run)[2][0, 0]}
    (generation,) = found | {weights.flat[0] for weights in model.get_weights()}
    return generation


def stop_at(monkeypatch, k):
    """Let the k-th step that changes a folder end the process, as it were: no `except Exception` may hold it."""
    count = itertools.count(1)
    for module, name in ((os, "replace"), (os, "unlink"), (os, "rmdir"), (shutil, "copyfile")):
        real = getattr(module, name)
        step = lambda *args, real=real, **words: real(*args, **words) if next(count) != k else sys.exit()  # noqa: E731
        monkeypatch.setattr(module, name, step)


def test_finished_run(home):
    (home / "tiny" / "figures").mkdir(parents=True)
    images = np.arange(4).reshape(2, 2)
    found = [runs.start(PARAMS, x.T, images).environment["data"] for x in (images, images.copy(), -images)]
    assert found[0] == found[1] != found[2]
    run = runs.start(PARAMS)
    assert not runs.is_complete(run.folder)
    assert set(os.listdir(finish(run).folder)) == FILES | {"figures"}
    assert set(os.listdir(finish(run).folder)) == FILES and not run.lock.is_locked and generation_of(run) == 1
    found = runs.find("tiny")
    assert found.params == {name: value for name, value in PARAMS.items() if name != "runs_dir"}
    assert [array.tolist() for array in runs.read_predictions(found)[:2]] == [[5, 6, 7, 8, 9], [0, 1, 2, 3, 4]]
    assert set(runs.read_metrics(found, runs.ENVIRONMENT)) == {"threads", "finished", "data"}
    runs.write_npz(run.folder / runs.VALIDATION, index=[], label=[], probability=np.empty((0, 10)))
    with pytest.raises(runs.RunError, match="'tiny' has no validation images"):
        runs.read_predictions(found)
    for read, name in ((runs.read_predictions, runs.TEST), (runs.read_metrics, runs.TEST_METRICS)):
        with pytest.raises(runs.RunError, match="has not been evaluated yet: run 04_evaluation"):
            read(found, name)
    runs.save_evaluation(run, np.array([3, 1]), np.eye(2), {"test_accuracy": 0.5})
    assert [array.tolist() for array in runs.read_predictions(run, runs.TEST)] == [[0, 1], [3, 1], [[1, 0], [0, 1]]]
    assert runs.read_metrics(run, runs.TEST_METRICS) == {"test_accuracy": 0.5}


def test_evaluation_of_another_network_is_refused(monkeypatch):
    """The run was trained again since 04 read it, or 04's run_name was changed and not all cells were run again."""
    evaluated()
    opened = runs.find("tiny")
    finish(runs.start(PARAMS), 2)
    with pytest.raises(runs.RunError, match="the run 'tiny' was trained again since it was opened"):
        runs.save_evaluation(opened, np.array([3, 1]), np.eye(2), {})
    cells = ['run_name: str = "a"', "run = find(run_name)", "y_prob = predict(run)", "save(run, y_prob)"]
    monkeypatch.setattr(sys.modules["__main__"], "In", [*cells[:3], 'run_name: str = "b"', cells[1], cells[3]], False)
    with pytest.raises(ValueError, match="after its use: run again from its cell on"):
        runs.save_evaluation(runs.find("tiny"), np.array([3, 1]), np.eye(2), {})
    with pytest.raises(ValueError, match="after its use: run again from its cell on"):
        finish(opened)
    assert not (opened.folder / runs.TEST).exists()


def test_start_parameters_changed_by_hand(monkeypatch):
    for name, value in (("In", ["seed: int = 3  # seed", "exec(settings)"]), ("seed", 4)):
        monkeypatch.setattr(sys.modules["__main__"], name, value, raising=False)
    with pytest.raises(ValueError, match=r"^seed: changed since they were checked: run again from their cell"):
        runs.start(PARAMS)


def test_folder_deleted_while_it_trains():
    run = runs.start(PARAMS)
    shutil.rmtree(run.folder)
    assert set(os.listdir(finish(run).folder)) >= FILES - {".lock"} and runs.find("tiny").params["seed"] == 3
    run = runs.start(PARAMS)
    shutil.rmtree(run.folder)
    finish(runs.start({**PARAMS, "seed": 4, "own": (2, 8)}), 2)
    with pytest.raises(runs.RunError, match=r"\(seed: 4 there, 3 now; own"):
        finish(run)
    assert generation_of(runs.find("tiny")) == 2


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize(("name", "value"), [("learning_rate", 0.01), ("epochs", 5)])
def test_start_other_parameters(complete, name, value):
    """They are refused with what changed, where their number is the same too; the run can be taken up."""
    run = evaluated() if complete else runs.start(PARAMS)
    with pytest.raises(runs.RunError, match=rf"\({name}: {PARAMS.get(name)} there, {value} now\)\. Choose another"):
        runs.start({**PARAMS, name: value})
    assert run.lock.is_locked != complete and runs.is_complete(run.folder) == complete
    finish(runs.start(PARAMS))


def test_finish_stopped_at_any_step(home, monkeypatch):
    """The folder holds the old run; then an unfinished one and all that its training goes on from; then the new one."""
    old, states = evaluated().folder, ["old"]
    for k in itertools.takewhile(lambda _: states[-1] != "done", itertools.count(1)):
        monkeypatch.setenv("FMNIST_RUNS_DIR", str(home / str(k)))
        run = runs.Run(shutil.copytree(old, home / str(k) / "tiny"), {})
        (runs.start(PARAMS).work_dir / "checkpoint.npz").touch()
        with monkeypatch.context() as patch, suppress(SystemExit):
            stop_at(patch, k)
            finish(runs.start(PARAMS), 2)
        states.append("unfinished")
        if runs.is_complete(run.folder):
            states[-1] = {1: "old", 2: "new"}[generation_of(run)] if run.work_dir.exists() else "done"
        assert states[-1] in ("new", "done") or (run.work_dir / "checkpoint.npz").exists(), "the training is lost"
        assert states[-1] in ("old", "unfinished") or not set(os.listdir(run.folder)) & EVALUATION, "of the old run"
        assert set(os.listdir(finish(runs.start(PARAMS), 2).folder)) == FILES
    assert [state for state, _ in itertools.groupby(states)] == ["old", "unfinished", "new", "done"]


@pytest.mark.parametrize("call", ["pathlib.Path.mkdir", "os.fsync", "os.replace", "numpy.savez_compressed"])
def test_full_disk(call, home, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(runs.RunError, match=r"full\. Make room, or .*FMNIST_RUNS_DIR"):
        patch.setattr(call, Mock(side_effect=OSError(errno.ENOSPC, "full")))
        finish(runs.start(PARAMS))
    assert set(os.listdir(finish(runs.start(PARAMS)).folder)) == FILES


def test_start_locked_until_the_writer_is_killed(hold_lock):
    writer = hold_lock(evaluated().folder / ".lock")
    with pytest.raises(
        runs.RunError, match=r"another kernel or process writes the run 'tiny': .*choose another run_name"
    ):
        runs.start(PARAMS)
    writer.kill(), writer.wait()
    finish(runs.start(PARAMS))


def test_find(home, monkeypatch):
    """The newest complete run, by its own word, or the one that was named; a damaged one does not stand in the way."""
    for name, finished in {"b": "2024-05", "newest": "2024-06", "a": "2023-07", "odd": None}.items():
        runs.write_json(evaluated(name).folder / runs.ENVIRONMENT, finished and {"finished": finished})
    runs.start({**PARAMS, "run_name": "half"})
    assert (runs.find().name, runs.find("b").name) == ("newest", "b")
    monkeypatch.setenv("FMNIST_DEFAULT_RUN", "a")
    assert runs.find().name == "a"
    for name, state in {"gone": "is not there", "half": "is not complete: its training was interrupted"}.items():
        told = rf"'{name}' {state} \(complete runs: a, b, newest, odd\).*\n.* -r run_name {name} -r runs_dir runs\n"
        with pytest.raises(runs.RunError, match=told):
            runs.find(name)
    elsewhere = home.rename(home.parent / "elsewhere")
    assert runs.find("b", str(elsewhere)).folder == elsewhere / "b"


def test_reference(home, monkeypatch):
    """Where there is no other run it is copied, read-only or not, whole wherever that is stopped, and renewed."""
    shipped = evaluated(generation=7).folder.rename(home.parent / "shipped")
    for path in (*shipped.iterdir(), shipped):
        path.chmod(0o555 if path.is_dir() else 0o444)
    monkeypatch.setattr(runs, "REFERENCE", shipped)
    for k in range(2, 25, 3):
        monkeypatch.setenv("FMNIST_RUNS_DIR", str(home / str(k)))
        with monkeypatch.context() as patch, suppress(SystemExit):
            stop_at(patch, k)
            runs.find()
        run = runs.find()
        assert generation_of(run) == 7, f"stopped at step {k}"
    assert all(path.stat().st_mode & 0o200 for path in (run.folder, *run.folder.iterdir()))
    runs.save_evaluation(run, np.array([3]), np.eye(1), {})
    assert len(runs.read_predictions(runs.find(), runs.TEST)[1]) == 1, "it was copied again"
    runs.write_json(shipped / "metrics.json", {})
    assert runs.read_metrics(runs.find()) == {} and len(runs.read_predictions(run, runs.TEST)[1]) == 2
    (shipped / "history.csv").write_text("epoch,loss\n1,8\n", encoding="utf-8")
    assert runs.read_history(runs.find()).loss[1] == 8
    with pytest.raises(runs.RunError, match="'shipped' is the one that ships with the project"):
        runs.start({**PARAMS, "run_name": "shipped"})
    evaluated("other")
    assert runs.find().name == "other"


def test_runs_folder(monkeypatch, tmp_path):
    """It does not depend on where the kernel was started; "~" is the home folder; FMNIST_RUNS_DIR is a default."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for default, given, folder in [("/a", "runs/b", "/a/b"), ("/a", "b", runs.ROOT / "b"),
                                   ("~/a", "runs", tmp_path / "a"),
                                   ("", "~/a", tmp_path / "a"), ("", "runs", runs.ROOT / "runs")]:  # fmt: skip
        monkeypatch.setenv("FMNIST_RUNS_DIR", default)
        assert str(runs.runs_folder(given)) == str(folder)


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:3], lambda b: b"\xff\xff" + b[90:], lambda b: b"[]"])
@pytest.mark.parametrize("name", ["validation.npz", "metrics.json", "history.csv", "params.yaml"])
def test_damaged_file(name, damage):
    path = evaluated().folder / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(runs.RunError, match=rf"'tiny' has a damaged or foreign {re.escape(name)} \(.*train it again"):
        run = runs.find("tiny")
        (runs.read_predictions(run), runs.read_metrics(run), runs.read_history(run))


@pytest.mark.parametrize(("within", "beside", "threads"), [("3", "2", 6), ("0", "2", 5), ("3", "auto", 5)])
def test_environment(monkeypatch, within, beside, threads):
    monkeypatch.setattr(os, "environ", {"TF_NUM_INTRAOP_THREADS": within, "TF_NUM_INTEROP_THREADS": beside})
    monkeypatch.setattr(_environment, "cores", lambda: 5)
    found = _environment.environment()
    assert found["threads"] == threads and found["code_hash"] == _environment.code_hash()
    assert all(re.match(r"\d+\.\d+", found[name]) for name in ("python", "keras", "numpy"))
    assert not re.search(r"(?<!\w)/\w|\w:\\\\", str(found))
