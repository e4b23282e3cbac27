"""The headless run: bad parameter files are refused before anything starts, and what is complete is not run again."""

import json
import re
import subprocess
import sys

import nbformat
import pytest

from fmnist_utils import pipeline, runs

TINY = "train_size: 1000\nepochs: 2\nfilters: [4, 8]\nconvs_per_block: [1, 1]\ndense_units: 8\n"


def parameter_file(tmp_path, text):
    path = tmp_path / "tiny.yaml"
    path.write_text(text)
    return path


def run_pipeline(*words):
    return subprocess.run(
        [sys.executable, "-m", "fmnist_utils.pipeline", *map(str, words)], capture_output=True, text=True
    )


def test_the_committed_parameter_files_are_valid_and_name_their_run():
    for path in sorted((runs.ROOT / "params").glob("*.yaml")):
        assert pipeline.read_parameters(path)["run_name"] == path.stem


def test_run_name_defaults_to_the_file_name(tmp_path):
    assert pipeline.read_parameters(parameter_file(tmp_path, TINY))["run_name"] == "tiny"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 5", "no notebook has a parameter epoch. There are: .*epochs"),
        ("skip_easy: 0.6", "no notebook has a parameter skip_easy. .* every epoch shows all images. There are: "),
        ("learning_rate: 1e-3", r"learning_rate = '1e-3' \(str\).*write 1.0e-3"),
        ("epochs: 0", "epochs = 0 .*allowed is int, 1 to 10000"),
        ("run_name: ../outside", "run_name = '../outside'"),
        ("- 5", "must hold lines such as"),
        ("epochs: [5", "cannot read the parameter file"),
        ("filters: !!python/object/apply:os.getcwd []", "cannot read the parameter file"),
    ],
)
def test_a_bad_parameter_file_is_refused_with_one_clear_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        pipeline.read_parameters(parameter_file(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_missing_parameter_file_is_named():
    with pytest.raises(ValueError, match=r"cannot read the parameter file nowhere\.yaml"):
        pipeline.read_parameters("nowhere.yaml")


def test_a_runs_folder_that_cannot_be_made_is_named_with_what_to_do(tmp_path, monkeypatch):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    monkeypatch.setattr(sys, "argv", ["pipeline", str(parameter_file(tmp_path, TINY)), "--runs-dir", str(in_the_way)])
    with pytest.raises(SystemExit, match=r"file.*name another folder with --runs-dir"):
        pipeline.main()


def test_a_tiny_run_from_end_to_end_and_then_again(tmp_path, monkeypatch, capsys):
    """Two seconds of training: this looks at the plumbing, not at accuracy."""
    path = parameter_file(tmp_path, TINY)
    first = run_pipeline(path, "--runs-dir", tmp_path / "runs")
    assert first.returncode == 0, first.stderr[-3000:]
    folder = tmp_path / "runs" / "tiny"
    assert re.search(r"test accuracy +\d+\.\d\d%, 95 % interval \d+\.\d\d% to \d+\.\d\d%", first.stdout)
    assert len(re.findall(r"epoch  [12]/2 ", first.stdout + first.stderr)) == 2

    # the contract of a run folder
    assert {p.name for p in folder.iterdir() if not p.name.startswith(".")} >= {
        runs.PARAMS, runs.METRICS, runs.MODEL, runs.HISTORY, runs.VALIDATION, runs.ENVIRONMENT,
        runs.TEST, runs.TEST_METRICS, "notebooks", "figures", "report.html",
    }  # fmt: skip
    metrics = json.loads((folder / runs.METRICS).read_text())
    assert metrics.keys() >= {
        "val_accuracy", "val_loss", "best_epoch", "epochs_run", "train_seconds", "images_per_second",
        "model_parameters", "seed",
    }  # fmt: skip
    assert (folder / "figures" / "confusion_matrix.png").stat().st_size > 10_000
    for notebook in pipeline.NOTEBOOKS:
        executed = nbformat.read(folder / "notebooks" / f"{notebook}.ipynb", as_version=4)
        streams = [o.get("name") for cell in executed.cells for o in cell.get("outputs", [])]
        assert "stderr" not in streams, notebook

    # the report opens without a network
    page = (folder / "report.html").read_text()
    assert not re.search(r"<script|<link[^>]+href=|<img[^>]+src=\"http|@import", page)
    assert page.count("data:image/png;base64,") >= 15

    # nothing is done twice
    stamps = {p: p.stat().st_mtime_ns for p in folder.rglob("*.ipynb")}
    monkeypatch.setattr(sys, "argv", ["pipeline", str(path), "--runs-dir", str(tmp_path / "runs")])
    pipeline.main()
    assert capsys.readouterr().out.count("complete, skipped") == 4
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.ipynb")} == stamps

    # other parameters under the same name are refused, and the finished run stays
    parameter_file(tmp_path, TINY + "seed: 1\n")
    with pytest.raises(SystemExit, match="seed: 0 there, 1 now"):
        pipeline.main()
    assert json.loads((folder / runs.METRICS).read_text()) == metrics


def test_a_changed_notebook_or_an_unfinished_one_is_not_taken_for_done(tmp_path, monkeypatch):
    source = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")])
    (tmp_path / "01_a.ipynb").write_text(nbformat.writes(source))
    monkeypatch.setattr(pipeline, "FOLDER", tmp_path)
    done = nbformat.from_dict(source)
    done.metadata["papermill"] = {"end_time": "then", "exception": None, "parameters": {}}
    output = tmp_path / "out.ipynb"

    def is_done(notebook):
        output.write_text(nbformat.writes(notebook))
        return pipeline.why_to_run("01_a", {}, output, tmp_path)

    assert is_done(done)
    assert not pipeline.why_to_run("01_a", {"seed": 1}, output, tmp_path)
    for change in ({"exception": True}, {"end_time": None}):
        changed = nbformat.from_dict(done)
        changed.metadata["papermill"].update(change)
        assert not is_done(changed)
    edited = nbformat.from_dict(json.loads(json.dumps(done)))
    edited.cells[0].source = "x = 2"
    assert not is_done(edited)
    output.write_text(nbformat.writes(done)[:100])
    assert not pipeline.why_to_run("01_a", {}, output, tmp_path)
