"""What README, CONTRIBUTING and TEACHING name exists: files, commands, parameters; README's numbers are measured."""

import json
import re
from importlib.util import find_spec

import pandas as pd
import pytest

from fmnist_utils import pipeline, sweep
from fmnist_utils.runs import ROOT

PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md", "TEACHING.md")}
README, RESULTS = PAGES["README.md"], ROOT / "benchmarks" / "results"
FOLDERS = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0].isalpha())
ROWS = {
    "`params/quick.yaml`": "trainings/quick", "`params/sprint.yaml`, by Muon": "trainings/sprint",
    "`params/full.yaml`": "trainings/full", "`params/record.yaml`": "trainings/record",
    "the same on all 60,000 images": "trainings/record_all", "a plain network of six convolutions": "trainings/plain",
    'Keras\'s "Simple MNIST convnet"': "trainings/keras_convnet",
    'TensorFlow\'s "Basic classification"': "trainings/tensorflow_basic",
}  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page):
    links = re.findall(r"\]\((?!http|#)([^)#]+)\)", PAGES[page])
    paths = re.findall(rf"(?<![\w/.-])(?:{FOLDERS})/[\w./*-]*[\w*/]", PAGES[page])
    missing = {name for name in links + paths if not name.startswith(("runs/", "build/")) and not any(ROOT.glob(name))}
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_a_page_names_exist(page):
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    code = "\n".join(re.findall(r"```bash.*?```|`[^`\n]+`", PAGES[page], re.DOTALL))
    assert set(re.findall(r"^`?make ([a-z-]+)", code, re.MULTILINE)) <= set(targets)
    assert all(map(find_spec, re.findall(r"python -m (fmnist_utils\.\w+)", code)))


def test_parameters_that_readme_gives_to_papermill_exist():
    for notebook, words in re.findall(r"^papermill notebooks/(\w+)\.ipynb out\.ipynb (.+)$", README, re.MULTILINE):
        assert {*re.findall(r"-[pry] '?\{?(\w+)", words)} <= pipeline.defaults(notebook).keys()


def test_sweep_file_that_readme_shows_is_valid(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (shown,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "shown.yaml").write_text(shown, encoding="utf-8")
    assert len(sweep.read_sweep(tmp_path / "shown.yaml")[2]) == 2 * 2 * 4 * 3


def test_results_are_those_of_the_files():
    for row, name in ROWS.items():
        files = RESULTS.glob(f"{name}-[0-9].json")
        own = pd.DataFrame([json.loads(path.read_text(encoding="utf-8")) for path in files])
        test, seconds = 100 * own["test_accuracy"], own["seconds"].str[-1].median()
        spread = f" ± {test.std():.2f}" if len(own) > 1 else ""
        told = f"{test.mean():.2f} %{spread} | {len(own)} | {own['model_parameters'][0]:,}"
        assert f"| {row} | {seconds:,.0f} s | {told} |" in README
    reference = json.loads((ROOT / "reference/test_metrics.json").read_text(encoding="utf-8"))
    accuracy, low, high = (f"{100 * reference[f'test_accuracy{end}']:.2f}" for end in ("", "_low", "_high"))
    assert f"accuracy {accuracy}%, 95 % interval {low}% to {high}%" in README and f"has {accuracy} %" in README


def test_photographs_are_counted_per_run():
    right = pd.read_csv(RESULTS / "photos.csv").groupby("model")["right"].mean().mul(100).map("{:.0f} %".format)
    shipped, record = right["reference"], right["record-0"]
    assert f"recognised {shipped}, `params/record.yaml` {record}" in README
    evaluation = (ROOT / "notebooks" / "04_evaluation_and_visualization.ipynb").read_text(encoding="utf-8")
    assert f"taken at home only {shipped} were" in evaluation
