"""The package's layers, the hash of its code, and that a model file from a stranger runs nothing."""

import re
import sys
from graphlib import TopologicalSorter

import pytest

from fmnist_utils import _environment, evaluation, runs
from fmnist_utils._tensorflow import tf


def imported_by(path):  # which of the other modules, within functions too
    found = re.findall(r'^[ "]*from fmnist_utils(?:\.(\w+)| import ([\w, ]+))', path.read_text("utf-8"), re.MULTILINE)
    return {name.strip() for one, several in found for name in (one or several).split(",")} - {path.stem}


def test_layers():
    """No circle; figures, data and model know nothing of runs; what a training needs is in the code hash."""
    imports, needed = {path.stem: imported_by(path) for path in _environment.PACKAGE.glob("*.py")}, {}
    for name in TopologicalSorter(imports).static_order():
        needed[name] = {name}.union(*(needed[other] for other in imports[name]))
    assert needed["plots"] == {"plots"} and "runs" not in needed["data"] | needed["model"]
    trains = needed["training"] | needed["augmentation"] | needed["model"]
    assert {f"{name}.py" for name in trains - {"runs", "_environment"}} == set(_environment.TRAINING_MODULES)
    hidden = {name for path in runs.ROOT.glob("notebooks/**/*.ipynb") for name in imported_by(path) if name[0] == "_"}
    assert hidden <= {"_tensorflow"}, "move what a notebook needs into a visible module, or into the notebook"


def test_code_hash_sees_code_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(_environment, "PACKAGE", tmp_path)
    texts = ["def f(a):\n  return 0", '"""Said."""\ndef f(a):  # said\n    """Said."""\n    return (0)\n']
    texts += [f"def f(a):\n  return {value}" for value in ("1", "False", "''", "None", "a", "0 or f(a)")]
    hashes = [(tmp_path / "a.py").write_text(text, "utf-8") and _environment.code_hash(["a.py"]) for text in texts]
    assert hashes[0] == hashes[1] and len(set(hashes)) == len(texts) - 1


CELLS = ["import numpy as np", "# Parameters\nepochs = 5", "epochs: int = 3  # epochs\nsize: int = 1",
         "x, late = np.zeros(3), 1", "y = [k for k in x]", "late = x + late",
         "np.sum(x)\nfit = lambda: (x, y, epochs)"]  # fmt: skip


@pytest.mark.parametrize(
    ("cells", "same"),
    [(["", *CELLS[:6], "late = 2", "print(x)", "np.sum(x[:2])", "x.shape", CELLS[0], *CELLS[3:]], True),
     ([CELLS[0], *CELLS[2:]], True), ([*CELLS[:2], "epochs: int = 9\nsize: int = 2", *CELLS[3:]], True),
     ([*CELLS[:-1], "np.sum(x)  # said\nfit = lambda: (x, y, epochs)"], True),
     ([*CELLS[:4], "%pip install this", "half [", *CELLS[4:]], True)]
    + [([*CELLS[:-1], harm, CELLS[-1]], False) for harm in ("x /= 2", "x[0] = 1", "x.y = 1", "y.sort()", "x = y",
                                                             "np.random.shuffle(x)", "import y", "y: int = 3")]
    + [([*CELLS[:3], "x, late = np.ones(3), 1", *CELLS[4:]], False), ([*CELLS[:-1], "fit = lambda: (x, y)"], False)],
)  # fmt: skip
def test_code_hash_sees_the_cells_that_the_last_one_rests_on(cells, same, monkeypatch):
    """Rerun, commented or looked at, they are the same; given or changed otherwise, they are not."""
    monkeypatch.setattr(sys.modules["__main__"], "In", CELLS, raising=False)
    assert (_environment.code_hash() == _environment.code_hash(cells=cells)) == same
    assert _environment.code_hash() != _environment.code_hash(cells=())


def test_model_file_with_a_lambda_layer_is_refused(tmp_path):
    tf.keras.Sequential([tf.keras.Input((28, 28, 1)), tf.keras.layers.Lambda(lambda x: x)]).save(tmp_path / "a.keras")
    with pytest.raises(RuntimeError, match="Lambda"):
        evaluation.load_model(tmp_path / "a.keras")
