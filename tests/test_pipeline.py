"""The headless run: a bad parameter file is refused before anything starts, and nothing is done twice or left stale."""

import copy
import json
import re
import subprocess
import sys

import nbformat
import pytest
from shipped import shipped

from fmnist_utils import _environment, pipeline, runs

TINY = "train_size: 1000\nepochs: 2\nfilters: [4, 8]\nconvs_per_block: [1, 1]\ndense_units: 8\n"


def parameter_file(folder, text):
    path = folder / "tiny.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def call_main(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["pipeline", *map(str, words)])
    pipeline.main()


# ---------------------------------------------------------------------------------------------- parameter files


def test_shipped_parameter_files():
    """They are valid and name their run."""
    for path in shipped("params/*.yaml"):
        assert pipeline.read_parameters(path)["run_name"] == path.stem


def test_run_name_default(tmp_path, monkeypatch):
    """It is the file's name; "~" is the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    parameter_file(tmp_path, TINY)
    assert pipeline.read_parameters("~/tiny.yaml")["run_name"] == "tiny"


@pytest.mark.parametrize(("file", "run_name"), [("_mine.yaml", "mine"), ("ümlaut.yaml", "mlaut"), ("ü.yaml", "run")])
def test_run_name_of_a_file_whose_name_is_none(tmp_path, file, run_name):
    (tmp_path / file).write_text(TINY, encoding="utf-8")
    assert pipeline.read_parameters(tmp_path / file)["run_name"] == run_name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 5", "no notebook has a parameter epoch. There are: .*epochs"),
        ("skip_easy: 0.6", "no notebook has a parameter skip_easy. .* every epoch shows all images. There are: "),
        ("learning_rate: 1e-3", r"learning_rate = '1e-3' \(str\).*write 1.0e-3"),
        ("epochs: 0", "epochs = 0 .*allowed is int, 1 to 10000"),
        ("run_name: ../outside", "run_name = '../outside'"),
        ("filters: [32, 64]", "filters = .*32, 64.* and convs_per_block = .*: allowed are lists of one length"),
        ("- 5", "must hold lines such as"),
        ("epochs: [5", "cannot read the parameter file"),
        (None, r"cannot read the parameter file nowhere\.yaml"),
    ],
)
def test_bad_parameter_file(tmp_path, text, message):
    """It is refused with one clear line."""
    path = "nowhere.yaml" if text is None else parameter_file(tmp_path, text)
    with pytest.raises(ValueError, match=message) as caught:
        pipeline.read_parameters(path)
    assert "\n" not in str(caught.value)


def test_extra_parameters(tmp_path):
    """A sweep's own notebook may have more names than ours: they are allowed, and not checked."""
    path = parameter_file(tmp_path, "epochs: 5\ntemperature: hot")
    assert pipeline.read_parameters(path, extra=["temperature"])["temperature"] == "hot"
    with pytest.raises(ValueError, match="no notebook has a parameter temperature"):
        pipeline.read_parameters(path)


def test_unwritable_runs_folder(tmp_path, monkeypatch):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"file.*name another folder with --runs-dir"):
        call_main(monkeypatch, parameter_file(tmp_path, TINY), "--runs-dir", in_the_way)


# ---------------------------------------------------------------------------------------------- what runs again


def other_parameters(done, folder):
    done.metadata.papermill.parameters = {"seed": 1}


def other_notebook(done, folder):
    done.cells[0].source = "x = 2"


def other_code(done, folder):
    done.metadata.fmnist_utils = "another hash"


def failed(done, folder):
    done.metadata.papermill.exception = True


def killed(done, folder):
    done.metadata.papermill.end_time = None


def no_result(done, folder):
    (folder / runs.METRICS).unlink()


@pytest.mark.parametrize(
    ("change", "reason"),
    [(lambda done, folder: None, ""), (other_parameters, "since its parameters have changed"),
     (other_notebook, "since the notebook has changed"), (other_code, "since the package's code has changed"),
     (failed, "since it did not come to its end"), (killed, "since it did not come to its end"),
     (no_result, "since metrics.json is not there")],
)  # fmt: skip
def test_why_to_run(change, reason, tmp_path, monkeypatch):
    source = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")])
    nbformat.write(source, tmp_path / f"{pipeline.TRAINING}.ipynb")
    monkeypatch.setattr(pipeline, "FOLDER", tmp_path)
    (tmp_path / runs.METRICS).touch()
    done = copy.deepcopy(source)
    done.metadata["papermill"] = {"end_time": "then", "exception": None, "parameters": {}}
    done.metadata["fmnist_utils"] = _environment.code_hash()
    change(done, tmp_path)
    output = tmp_path / "out.ipynb"
    nbformat.write(done, output)
    assert pipeline.why_to_run(pipeline.TRAINING, {}, output, tmp_path) == reason


def test_why_to_run_cut_short(tmp_path):
    """A kill left half a notebook."""
    (tmp_path / "out.ipynb").write_text('{"cells": [', encoding="utf-8")
    assert "no whole notebook" in pipeline.why_to_run("01_a", {}, tmp_path / "out.ipynb", tmp_path)


# ---------------------------------------------------------------------------------------------- kernels


@pytest.fixture
def own_notebook(tmp_path, monkeypatch):
    """A function that makes a notebook of one cell the only one, with the name of a kernel that is not here."""

    def make(code):
        head = 'run_name: str = "x"  # name\nruns_dir: str = "runs"  # folder'
        cells = [nbformat.v4.new_code_cell(head, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(code)]
        notebook = nbformat.v4.new_notebook(cells=cells)
        notebook.metadata.kernelspec = {"name": "myenv", "display_name": "My env", "language": "python"}
        nbformat.write(notebook, tmp_path / "01_own.ipynb")
        monkeypatch.setattr(pipeline, "FOLDER", tmp_path)
        monkeypatch.setattr(pipeline, "NOTEBOOKS", ("01_own",))
        return parameter_file(tmp_path, "run_name: own\n")

    return make


@pytest.mark.parametrize(
    ("code", "message"),
    [("raise ValueError('as asked')", r"failed in cell \[3\]: ValueError: as asked\n.*under notebooks/"),
     ("import os\nos.kill(os.getpid(), 9)", "kernel died: .*Finished epochs are kept: the same command goes on")],
    ids=["raises", "killed"],
)  # fmt: skip
def test_failing_notebook(code, message, own_notebook, monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match=message):
        call_main(monkeypatch, own_notebook(code), "--runs-dir", tmp_path / "runs")


def test_kernel_that_does_not_come_up(own_notebook, monkeypatch, tmp_path):
    """The reason ends the command, without a traceback."""

    def start(*_, **__):
        raise RuntimeError("Kernel didn't respond in 60 seconds")

    monkeypatch.setattr(pipeline.papermill, "execute_notebook", start)
    with pytest.raises(SystemExit, match="Kernel didn't respond"):
        call_main(monkeypatch, own_notebook("1"), "--runs-dir", tmp_path / "runs")


def test_notebook_of_another_kernel(own_notebook, monkeypatch, tmp_path):
    """It runs on this Python, and draws its pictures whatever the caller's backend."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    path = own_notebook("import sys\nimport matplotlib.pyplot as plt\nprint(sys.executable)\nplt.plot([1]);")
    folder = pipeline.run_all(pipeline.read_parameters(path), tmp_path / "runs")
    outputs = nbformat.read(folder / "notebooks" / "01_own.ipynb", as_version=4).cells[-1].outputs
    assert outputs[0].text.strip() == sys.executable
    assert "image/png" in outputs[-1].data


# ---------------------------------------------------------------------------------------------- a tiny run


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory, odd_environment):
    """The parameter file, the runs folder and the shown text of a run with two seconds of training."""
    folder = tmp_path_factory.mktemp("tiny run")
    path = parameter_file(folder, TINY)
    command = [sys.executable, "-m", "fmnist_utils.pipeline", path, "--runs-dir", folder / "runs"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=odd_environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return path, folder / "runs", done.stdout + done.stderr


def test_tiny_run_shown(tiny_run):
    assert re.search(r"test accuracy +\d+\.\d\d%, 95 % interval \d+\.\d\d% to \d+\.\d\d%", tiny_run[2])
    assert len(re.findall(r"epoch  [12]/2 ", tiny_run[2])) == 2


def test_tiny_run_folder(tiny_run):
    """The contract of a run folder."""
    folder = tiny_run[1] / "tiny"
    assert {p.name for p in folder.iterdir() if not p.name.startswith(".")} >= {
        runs.PARAMS, runs.METRICS, runs.MODEL, runs.HISTORY, runs.VALIDATION, runs.ENVIRONMENT,
        runs.TEST, runs.TEST_METRICS, "notebooks", "figures", "report.html",
    }  # fmt: skip
    assert runs.read_metrics(runs.Run(folder, {})).keys() >= {
        "val_accuracy", "val_loss", "best_epoch", "epochs_run", "train_seconds", "images_per_second",
        "model_parameters", "seed",
    }  # fmt: skip
    assert (folder / "figures" / "confusion_matrix.png").stat().st_size > 10_000


def test_tiny_run_notebooks_quiet(tiny_run):
    for notebook in pipeline.NOTEBOOKS:
        executed = nbformat.read(tiny_run[1] / "tiny" / "notebooks" / f"{notebook}.ipynb", as_version=4)
        assert "stderr" not in [out.get("name") for cell in executed.cells for out in cell.get("outputs", [])], notebook


def test_tiny_run_report(tiny_run):
    """It opens without a network and has the pictures, though the caller's MPLBACKEND was Agg."""
    page = (tiny_run[1] / "tiny" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<script|<link[^>]+href=|<img[^>]+src=\"http|@import", page)
    assert page.count("data:image/png;base64,") >= 15


def test_tiny_run_again(tiny_run, monkeypatch, capsys):
    """Nothing is done twice."""
    path, home, _ = tiny_run
    stamps = {p: p.stat().st_mtime_ns for p in home.rglob("*.ipynb")}
    call_main(monkeypatch, path, "--runs-dir", home)
    out = capsys.readouterr().out
    assert out.count("complete, made by the same notebook, parameters and code: skipped") == 4
    assert f"To run it again, delete {home / 'tiny'} or choose another run_name." in out
    assert {p: p.stat().st_mtime_ns for p in home.rglob("*.ipynb")} == stamps


@pytest.mark.parametrize(
    ("module", "again"),
    [
        ("training.py", [1, 2, 3, 4]), ("_training_copy.py", [1, 2, 3, 4]), ("plots.py", [1, 2, 4]), ("sweep.py", []),
        ("fmnist.mplstyle", [1, 2, 4]),
    ],
)  # fmt: skip
def test_tiny_run_of_other_code(module, again, tiny_run, edit_package, monkeypatch, capsys):
    """Only what depends on an edited module runs again, and the reason is told."""
    path, home, _ = tiny_run
    monkeypatch.setattr(pipeline, "execute", lambda *_: None)
    edit_package(module)
    call_main(monkeypatch, path, "--runs-dir", home)
    told = re.findall(r"\[(\d)/4\] \S+: runs again, since the package's code has changed", capsys.readouterr().out)
    assert [int(number) for number in told] == again


@pytest.mark.slow
def test_tiny_run_other_parameters(tiny_run, monkeypatch, tmp_path):
    """Under the same name they are refused, and the finished run stays."""
    home = tiny_run[1]
    before = (home / "tiny" / runs.METRICS).read_bytes()
    with pytest.raises(SystemExit, match="seed: 0 there, 1 now"):
        call_main(monkeypatch, parameter_file(tmp_path, TINY + "seed: 1\n"), "--runs-dir", home)
    assert (home / "tiny" / runs.METRICS).read_bytes() == before
    assert json.loads(before)["seed"] == 0


def test_terminal_hears_of_a_training_that_fails(capsys):
    lines = pipeline._EpochLines()
    lines.write("the loss is not a number in epoch 2: training ends\nsomething else\nepoch 1/6 loss 0.9\n")
    shown = capsys.readouterr().out
    assert "the loss is not a number in epoch 2" in shown and "epoch 1/6" in shown and "something" not in shown
