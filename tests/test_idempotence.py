"""Any cell can be run twice and any section again: every value stays as it was, and nothing else changes.

Loop variables are left out, and the seconds that a training took.
"""

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
from shipped import shipped

from fmnist_utils import runs
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


class Notebook:
    """A notebook's code cells, run one by one in a namespace of their own."""

    def __init__(self, path):
        cells = nbformat.read(path, as_version=4).cells
        self.code = [cell for cell in cells if cell.cell_type == "code"]
        self.sections, section = [], []
        for cell in cells:
            if cell.cell_type == "markdown" and cell.source.startswith("## "):
                self.sections.append(section := [])
            elif cell.cell_type == "code":
                section.append(cell)
        self.left_out = loop_variables(self.code)
        self.shell = InteractiveShell()
        self.given = set(self.shell.user_ns)

    def run(self, cell):
        with capture_output():
            result = self.shell.run_cell(cell.source)
        matplotlib.pyplot.close("all")
        if result.error_before_exec or result.error_in_exec:
            raise AssertionError(f"cell {cell.id}") from (result.error_before_exec or result.error_in_exec)
        if "parameters" in cell.metadata.get("tags", []):
            known = {name: value for name, value in SMALL.items() if name in self.shell.user_ns}
            self.shell.user_ns |= known if "epochs" in known else {}

    def state(self):
        names = [name for name in self.shell.user_ns if name[0] != "_" and name not in self.given | self.left_out]
        return {name: fingerprint(self.shell.user_ns[name]) for name in names}


def changed(before, after):
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


@pytest.fixture
def folder(monkeypatch):
    monkeypatch.chdir(runs.ROOT / "notebooks")
    monkeypatch.setattr(matplotlib.pyplot, "show", lambda *args, **kwargs: None)
    before = set(os.listdir())
    yield
    assert set(os.listdir()) == before, "a notebook wrote beside itself"


@pytest.mark.parametrize("path", shipped("notebooks/*.ipynb"), ids=lambda path: path.stem)
def test_cells_twice_and_sections_again(path, folder):
    """Nothing that a notebook holds changes."""
    notebook = Notebook(path)
    for cell in notebook.code:
        notebook.run(cell)
        once = notebook.state()
        notebook.run(cell)
        assert not changed(once, notebook.state()), f"cell {cell.id} run twice"
    assert len(notebook.state()) > 10
    at_the_end = notebook.state()
    for section in filter(None, notebook.sections):
        for cell in section:
            notebook.run(cell)
        assert not changed(at_the_end, notebook.state()), f"the section from cell {section[0].id} on, run again"
