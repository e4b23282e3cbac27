"""Files from strangers harm nobody: models, parameter files and arrays that would run code or climb out are refused."""

import io
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from shipped import ROOT, shipped

from fmnist_utils import _sweep_file, comparison, evaluation, pipeline, runs

HARM = "!!python/object/apply:os.mkdir [{}]"


class Harmful:
    """Makes a folder as soon as it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.fixture
def mark(tmp_path):
    """A path that exists only if harmful code ran."""
    yield tmp_path / "harmed"
    assert not (tmp_path / "harmed").exists()


@pytest.fixture
def run_folder(tmp_path):
    """A folder "run" of which only metrics.json is there."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / runs.METRICS).write_text("{}", encoding="utf-8")
    return tmp_path / "run"


def test_harmful_yaml_does_harm(tmp_path):
    """Or the tests below would show nothing."""
    yaml.unsafe_load(HARM.format(tmp_path / "harmed"))
    assert (tmp_path / "harmed").is_dir()


@pytest.mark.parametrize("read", [pipeline.read_parameters, _sweep_file.read_sweep], ids=["parameters", "sweep"])
def test_object_tag_in_a_file(read, tmp_path, mark):
    path = tmp_path / "file.yaml"
    path.write_text(f"notebook: {HARM.format(mark)}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"cannot read the .* file") as error:
        read(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "read",
    [lambda home: comparison.read_runs(home), lambda home: runs.find("run", home)],
    ids=["comparison", "find"],
)
def test_object_tag_in_a_run(read, run_folder, mark):
    (run_folder / runs.PARAMS).write_text(f"seed: {HARM.format(mark)}", encoding="utf-8")
    with pytest.raises(runs.RunError, match=r"params\.yaml .*damaged"):
        read(run_folder.parent)


def test_pickle_in_predictions(run_folder, mark):
    label = np.array([Harmful(mark)], dtype=object)
    np.savez(run_folder / runs.VALIDATION, label=label, index=[0], probability=[[1.0]])
    with pytest.raises(runs.RunError, match=r"validation\.npz .*damaged"):
        comparison.load_correctness(run_folder.parent, ["run"])


@pytest.mark.parametrize("name", ["../climbed.txt", "/climbed.txt", "assets/../../climbed.txt"])
@pytest.mark.filterwarnings("ignore:Skipping invalid path during archive extraction")
def test_model_file_that_climbs_out(name, tmp_path):
    """Nothing is written outside; Keras may leave such a part alone."""
    bad, content = tmp_path / "model.keras", io.BytesIO((runs.REFERENCE / runs.MODEL).read_bytes())
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr(name, "harm")
    bad.write_bytes(content.getvalue())
    before = set(tmp_path.rglob("*")) | set(tmp_path.parent.iterdir())
    try:
        evaluation.load_model(bad)
    except evaluation.ModelFileError as error:
        assert "damaged or was not written by this project" in str(error)
    assert set(tmp_path.rglob("*")) | set(tmp_path.parent.iterdir()) == before
    assert not Path("/climbed.txt").exists()


def test_model_file_with_a_class_of_its_own(tmp_path):
    """It is refused, and nothing is imported."""
    good, bad = zipfile.ZipFile(runs.REFERENCE / runs.MODEL), tmp_path / "model.keras"
    layer = '"module": "keras.layers", "class_name": "ReLU"'
    with zipfile.ZipFile(bad, "w") as archive:
        for part in good.namelist():
            content = good.read(part)
            if part == "config.json":
                config = content.decode().replace(layer, '"module": "os", "class_name": "mkdir"', 1)
                assert '"module": "os"' in config
                content = config.encode()
            archive.writestr(part, content)
    with pytest.raises(evaluation.ModelFileError, match="run 03"):
        evaluation.load_model(bad)


def test_jupyterlab_keeps_its_token():
    """No command of the project starts it without."""
    files = [ROOT / "Makefile", ROOT / "README.md", *shipped("tools/*.py"), ROOT / ".ci/run"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    assert "jupyter" in text
    assert not re.search(r"(?:token|password)\s*=\s*(?:''|\"\"|\s|$)|disable_check_xsrf|allow_origin", text)
