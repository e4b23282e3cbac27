"""Files from strangers harm nobody: models, parameter files and arrays that would run code or climb out are refused."""

import io
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from fmnist_utils import comparison, evaluation, pipeline, runs, sweep

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


def test_the_harmful_yaml_would_do_harm(tmp_path):
    yaml.unsafe_load(HARM.format(tmp_path / "harmed"))
    assert (tmp_path / "harmed").is_dir()


@pytest.mark.parametrize("read", [pipeline.read_parameters, _sweep_file.read_sweep], ids=["parameters", "sweep"])
def test_object_tags_in_yaml_are_refused_in_one_line(read, tmp_path, mark):
    path = tmp_path / "file.yaml"
    path.write_text(f"notebook: {HARM.format(mark)}")
    with pytest.raises(ValueError, match=r"cannot read the .* file") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_object_tags_in_a_runs_parameters_are_refused(tmp_path, mark):
    run = tmp_path / "run"
    run.mkdir()
    (run / runs.METRICS).write_text("{}")
    (run / runs.PARAMS).write_text(f"seed: {HARM.format(mark)}")
    for read in (lambda: comparison.read_runs(tmp_path), lambda: runs.find("run", tmp_path)):
        with pytest.raises(runs.RunError, match=r"params\.yaml .*damaged"):
            read()


def test_a_pickle_in_the_predictions_is_never_loaded(tmp_path, mark):
    run = tmp_path / "run"
    run.mkdir()
    np.savez(run / runs.VALIDATION, label=np.array([Harmful(mark)], dtype=object), index=[0], probability=[[1.0]])
    with pytest.raises(runs.RunError, match=r"validation\.npz .*damaged"):
        comparison.load_correctness(tmp_path, ["run"])


@pytest.mark.parametrize("name", ["../climbed.txt", "/climbed.txt", "assets/../../climbed.txt"])
def test_a_model_file_whose_parts_climb_out_writes_nothing_outside(name, tmp_path):
    good = runs.REFERENCE / runs.MODEL
    bad = tmp_path / "model.keras"
    content = io.BytesIO(good.read_bytes())
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr(name, "harm")
    bad.write_bytes(content.getvalue())
    before = set(tmp_path.rglob("*")) | set(tmp_path.parent.iterdir())
    try:
        evaluation.load_model(bad)  # Keras may leave such a part alone
    except evaluation.ModelFileError as error:
        assert "damaged or was not written by this project" in str(error)
    assert set(tmp_path.rglob("*")) | set(tmp_path.parent.iterdir()) == before
    assert not Path("/climbed.txt").exists()


def test_a_model_of_a_class_of_its_own_is_refused_and_nothing_is_imported(tmp_path, mark):
    good = zipfile.ZipFile(runs.REFERENCE / runs.MODEL)
    bad = tmp_path / "model.keras"
    with zipfile.ZipFile(bad, "w") as archive:
        for part in good.namelist():
            content = good.read(part)
            if part == "config.json":
                config = content.decode().replace(
                    '"module": "keras.layers", "class_name": "ReLU"', '"module": "os", "class_name": "mkdir"', 1
                )
                assert '"module": "os"' in config
                content = config.encode()
            archive.writestr(part, content)
    with pytest.raises(evaluation.ModelFileError, match="run 03"):
        evaluation.load_model(bad)


def test_a_run_name_cannot_leave_the_runs_folder():
    for name in ("../up", "/etc", "a/b", "..", ""):
        with pytest.raises(ValueError, match="run_name"):
            parameters.check_parameters({"run_name": name})


def test_jupyterlab_is_never_started_without_its_token():
    files = [
        runs.ROOT / "Makefile",
        runs.ROOT / "README.md",
        *(runs.ROOT / "tools").glob("*.py"),
        runs.ROOT / ".ci/run",
    ]
    text = "\n".join(path.read_text() for path in files)
    assert "jupyter lab" in text
    assert not re.search(r"(?:token|password)\s*=\s*(?:''|\"\"|\s|$)|disable_check_xsrf|allow_origin", text)
