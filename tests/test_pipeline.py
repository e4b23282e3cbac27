"""The headless run: a bad parameter file is refused before anything starts, and nothing is done twice or left stale.

Made-up notebooks of a few cells stand in for 01 to 04, which nbval and `make run` execute.
"""

import copy
import re
import sys

import nbformat
import pytest

from fmnist_utils import pipeline, runs

HEAD = 'run_name: str = "x"  # name\nruns_dir: str = "runs"  # folder\nepochs: int = 5  # epochs'
WRITES = f"""import json, pathlib
folder = pathlib.Path(runs_dir) / run_name
for name in {[runs.METRICS, runs.TEST_METRICS]!r}:
    (folder / name).write_text(json.dumps(dict(val_accuracy=0.9, best_epoch=1, train_seconds=1, images_per_second=1,
        seed=0, model_parameters=1, test_accuracy=0.9, test_accuracy_low=0.8, test_accuracy_high=1)))
(folder / "params.yaml").write_text(f"run_name: tiny\\nepochs: {{epochs}}")
print("epoch 1/1 loss 0.5")
print("secret")
"""


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """A function that puts notebooks, by name and code, in place of ours; it returns a parameter file for them."""

    def make(**codes):
        for name, code in codes.items():
            head = nbformat.v4.new_code_cell(HEAD, metadata={"tags": ["parameters"]})
            notebook = nbformat.v4.new_notebook(cells=[head, nbformat.v4.new_code_cell(code)])
            notebook.metadata.kernelspec = {"name": "not here", "display_name": "My env", "language": "python"}
            nbformat.write(notebook, tmp_path / f"{name}.ipynb")
        monkeypatch.setattr(pipeline, "FOLDER", tmp_path)
        monkeypatch.setattr(pipeline, "NOTEBOOKS", tuple(codes))
        (tmp_path / "tiny.yaml").write_text(f"epochs: 1\nruns_dir: {tmp_path / 'runs'}\n", encoding="utf-8")
        return tmp_path / "tiny.yaml"

    return make


@pytest.mark.parametrize(("file", "run_name"), [("tiny.yaml", "tiny"), ("_ümlaut.yaml", "mlaut"), ("ü.yaml", "run")])
def test_run_name_comes_from_the_file(tmp_path, file, run_name):
    (tmp_path / file).write_text("epochs: 2\n", encoding="utf-8")
    assert pipeline.read_parameters(tmp_path / file)["run_name"] == run_name


@pytest.mark.parametrize(
    ("text", "message"),
    [("epoch: 5", "no notebook has a parameter epoch. There are: .*epochs"), ("- 5", "must hold lines such as"),
     ("learning_rate: 1e-3", r"learning_rate = '1e-3' \(str\).*1\.0e-3"), ("run_name: ../outside", "run_name = '../"),
     ("epochs: 0", "epochs = 0 .*allowed is int, 1 to 10000"), ("epochs: [5", "cannot read .*bad.yaml"),
     ("seed: 1\nepochs: 2\nseed: 3", r"bad.yaml: line 3, seed: this key appears twice"),
     ("seed: 010", "bad.yaml: line 1, seed: 010: allowed are decimal"), ("epochs: 1:30", "epochs: 1:30: allowed"),
     ("filters: [[8], [010]]", "filters: 010: allowed"), ("dropout: 1:0.5", "dropout: 1:0.5: allowed"),
     ("photo_path: params", "photo_path = 'params': there is no such"), ("photo_path: 5", "photo_path = 5"),
     ("photo_path: none.png", "photo_path = 'none.png': there is no such file"),
     ("train_size: 50000", "train_size = 50000: allowed are 48000, or 47990 at most"),
     ("filters: [32, 64]", "filters = .*convs_per_block = .*: allowed are lists of"), (None, "cannot read .*bad")],
)  # fmt: skip
def test_bad_parameter_file_is_refused_in_one_line(tmp_path, text, message):
    if text is not None:
        (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        pipeline.read_parameters(tmp_path / "bad.yaml")
    assert "\n" not in str(caught.value)


def test_names_of_a_sweeps_own_notebook_are_allowed_and_not_checked(tmp_path):
    (tmp_path / "own.yaml").write_text("epochs: 5\ntemperature: hot", encoding="utf-8")
    assert pipeline.read_parameters(tmp_path / "own.yaml", extra=["temperature"])["temperature"] == "hot"


HARMED = "environment.json has changed"


def change(key, value):
    return lambda done, folder: done.metadata.papermill.update({key: value})


@pytest.mark.parametrize(
    ("harm", "reason"),
    [(lambda done, folder: None, ""), (change("parameters", {"runs_dir": "elsewhere"}), ""),
     (change("parameters", {"photo_path": "old.png"}), "its parameters have changed"),
     (change("exception", True), "it did not come to its end"),
     (change("end_time", None), "it did not come to its end"),
     (lambda done, folder: done.cells[0].update(source="x = 2"), "the notebook has changed"),
     (lambda done, folder: done.cells[0].update(source="x = 1  # said"), ""),
     (lambda done, folder: done.metadata.pop("fmnist_utils"), "the package's code, or TensorFlow, has changed"),
     (lambda done, folder: (folder / "photo").write_text("new"), "the photo has changed"),
     (lambda done, folder: (folder / runs.ENVIRONMENT).write_text("b"), HARMED),
     (lambda done, folder: (folder / runs.MODEL).unlink(), "model.keras has changed"),
     (lambda done, folder: (folder / runs.HISTORY).unlink(), "history.csv has changed"),
     (lambda done, folder: (folder / runs.ENVIRONMENT).unlink(), HARMED)],
)  # fmt: skip
def test_why_to_run(harm, reason, tmp_path, monkeypatch):
    """What is kept, results and all, is by the same parameters, code and photo; another notebook's results are not."""
    head = nbformat.v4.new_code_cell(
        f"photo_path: str = {str(tmp_path / 'photo')!r}", metadata={"tags": ["parameters"]}
    )
    source = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1"), head])
    nbformat.write(source, tmp_path / f"{pipeline.TRAINING}.ipynb")
    monkeypatch.setattr(pipeline, "FOLDER", tmp_path)
    for name in (runs.ENVIRONMENT, runs.MODEL, runs.HISTORY, "photo"):
        (tmp_path / name).write_text("a")
    done = copy.deepcopy(source)
    done.metadata["papermill"] = {"end_time": "then", "exception": None, "parameters": {}}
    done.metadata["fmnist_utils"] = pipeline._hashes(pipeline.TRAINING, {}, tmp_path)
    harm(done, tmp_path)
    (tmp_path / "notebooks").mkdir()
    nbformat.write(done, output := tmp_path / "notebooks" / f"{pipeline.TRAINING}.ipynb")
    assert pipeline.why_to_run(pipeline.TRAINING, {}, tmp_path) == reason
    output.write_text('{"cells": [', encoding="utf-8")  # a kill left half a notebook
    assert "no whole notebook" in pipeline.why_to_run(pipeline.TRAINING, {}, tmp_path)


@pytest.mark.parametrize(
    ("code", "message"),
    [("raise ValueError('as asked')", r"failed in cell \[3\]: ValueError: as asked\n.*under notebooks/"),
     ("import os\nos.kill(os.getpid(), 9)", "Finished epochs are kept: the same command goes on")],
)  # fmt: skip
def test_failing_notebook_ends_in_a_clear_line(code, message, made_up):
    with pytest.raises(SystemExit, match=message):
        pipeline.main([str(made_up(own=code))])


def test_unwritable_runs_folder(made_up):
    path = made_up(own="1")
    path.write_text(f"runs_dir: {path}")
    with pytest.raises(SystemExit, match=r"tiny.yaml"):
        pipeline.main([str(path)])


def test_a_run_is_shown_reported_and_not_done_twice(made_up, monkeypatch, capsys, tmp_path):
    """In a kernel of this Python whatever the notebook names, with pictures whatever the caller's backend."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    draws = "import sys, matplotlib.pyplot as plt\nprint(sys.executable, epochs)\nplt.plot([1]);"
    path, home = made_up(**{"01_draws": draws, pipeline.TRAINING: WRITES}), tmp_path / "runs"
    pipeline.main([str(path)])
    shown = capsys.readouterr().out
    assert "test accuracy         90.00%, 95 % interval 80.00% to 100.00%" in shown
    assert "epoch 1/1" in shown and "secret" not in shown
    outputs = nbformat.read(home / "tiny" / "notebooks" / "01_draws.ipynb", as_version=4).cells[-1].outputs
    assert outputs[0].text.split() == [sys.executable, "1"] and "image/png" in outputs[-1].data
    page = (home / "tiny" / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page and not re.search(r"<script|<link[^>]+href=|<img[^>]+src=\"http", page)

    stamps = {file: file.stat().st_mtime_ns for file in home.rglob("*.ipynb")}
    pipeline.main([str(path)])
    assert capsys.readouterr().out.count("made by the same notebook, parameters and code: skipped") == 2
    path.write_text(path.read_text().replace("epochs: 1", "epochs: 2"))
    with pytest.raises(SystemExit, match=r"tiny has other parameters \(epochs: 1 there, 2 now\)"):
        pipeline.main([str(path)])
    assert {file: file.stat().st_mtime_ns for file in home.rglob("*.ipynb")} == stamps


def test_code_that_a_notebook_depends_on(edit_package, tmp_path):
    """01 depends on all but the headless tools, 03 on what trains."""
    changed, before = {}, [pipeline._hashes(name, {}, tmp_path) for name in pipeline.NOTEBOOKS[::2]]
    for module in ("sweep.py", "plots.py", "fmnist.mplstyle", "training.py"):
        edit_package(module)
        now = [pipeline._hashes(name, {}, tmp_path) for name in pipeline.NOTEBOOKS[::2]]
        changed[module], before = [old != new for old, new in zip(before, now, strict=True)], now
    assert list(changed.values()) == [[False, False], [True, False], [True, False], [True, True]]
