"""Any cell can be run twice: every value stays as it was (but loop variables, and the seconds that a training took)."""

import ast
import os

import joblib
import matplotlib
import nbformat
import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

from fmnist_utils import pipeline
from fmnist_utils._tensorflow import tf

pytestmark = pytest.mark.slow
SMALL = {"train_size": 500, "epochs": 2, "filters": [4, 8], "convs_per_block": [1, 1], "run_name": "twice"}
SECONDS = {"seconds", "train_seconds", "images_per_second"}


def fingerprint(value):
    """Return something that is equal for equal values, or the value's type where a value cannot be compared."""
    if isinstance(value, tf.keras.Model | tf.keras.layers.Layer):
        return [fingerprint(weight) for weight in value.get_weights()]
    if isinstance(value, pd.DataFrame):
        return joblib.hash(value.drop(columns=SECONDS & set(value.columns)))
    if tf.is_tensor(value) or isinstance(value, tf.Variable):
        value = value.numpy()
    if isinstance(value, pd.Series) or (isinstance(value, np.ndarray) and value.dtype != object):
        return joblib.hash(value)
    if isinstance(value, dict):
        return {name: fingerprint(content) for name, content in value.items() if name not in SECONDS}
    if isinstance(value, list | tuple):
        return [fingerprint(content) for content in value]
    return repr(value) if isinstance(value, str | bytes | int | float | type(None)) else type(value)


def loop_variables(cells):
    """Return the names that a `for` or a `with` gives, or its body."""
    loops = [
        node for cell in cells for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.For | ast.With)
    ]
    names = [node for loop in loops for node in ast.walk(loop) if isinstance(node, ast.Name)]
    return {name.id for name in names if isinstance(name.ctx, ast.Store)}


def values(shell, left_out):
    names = [name for name in shell.user_ns if name[0] != "_" and name not in left_out]
    return {name: fingerprint(shell.user_ns[name]) for name in names}


def run(shell, cell):
    with capture_output():
        result = shell.run_cell(cell.source)
    matplotlib.pyplot.close("all")
    if result.error_before_exec or result.error_in_exec:
        raise AssertionError(f"cell {cell.id}") from (result.error_before_exec or result.error_in_exec)
    if "parameters" in cell.metadata.get("tags", []) and "epochs" in shell.user_ns:
        shell.user_ns |= SMALL


@pytest.fixture
def folder(monkeypatch):
    monkeypatch.chdir(pipeline.FOLDER)
    monkeypatch.setattr(matplotlib.pyplot, "show", lambda *args, **kwargs: None)
    before = set(os.listdir())
    yield
    assert set(os.listdir()) == before, "a notebook wrote beside itself"


@pytest.mark.parametrize("path", sorted(pipeline.FOLDER.glob("[0-9][0-9]_*[a-z].ipynb")), ids=lambda path: path.stem)
def test_cells_run_twice_change_nothing(path, folder):
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    shell = InteractiveShell(config=Config(HistoryManager={"hist_file": ":memory:"}))
    left_out = loop_variables(code) | set(shell.user_ns)
    for cell in code:
        run(shell, cell)
        once = values(shell, left_out)
        run(shell, cell)
        again = values(shell, left_out)
        changed = sorted(name for name in once.keys() | again.keys() if once.get(name) != again.get(name))
        assert not changed, f"cell {cell.id} run twice changes {changed}"
    assert len(again) > 10
