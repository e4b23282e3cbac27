"""The package's layers, the hash of its code, and that a model file from a stranger runs nothing."""

import re
import sys
from graphlib import TopologicalSorter

import pytest

from fmnist_utils import _environment, runs


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


def test_code_hash_sees_code_alone(monkeypatch):
    texts = ["def f(a):\n  return 0", '"""Said."""\ndef f(a):  # said\n    """Said."""\n    return (0)\n']
    texts += [f"def f(a):\n  return {value}" for value in ("1", "False", "''", "None", "a", "0 or f(a)")]
    hashes = [
        monkeypatch.setitem(_environment.SOURCES, "a.py", text) or _environment.code_hash(["a.py"]) for text in texts
    ]
    assert hashes[0] == hashes[1] and len(set(hashes)) == len(texts) - 1


CELLS = ["import numpy as np", "epochs: int = 3  # epochs\nsize: int = 1", "# Parameters\nepochs = 5",
         "x, late = np.zeros(3), 1", "y = [k for k in x]", "late = x + late",
         "np.sum(x)\nfit = lambda: (x, y, epochs)"]  # fmt: skip
TIMED = "get_ipython().run_cell_magic('time', '', 'y = [k for k in x]\\n')"
LOOKS = "print(x); np.sum(x[:2]); x.shape; x.mean(); z: int = 3; np.hist(x); late = np.unique(y)"
HARMS = "x /= 2; x[0] = 1; x.y = 1; y.sort(); x = y; add(x); np.random.shuffle(x[:2]); import y; y: int = 3; del y[0]"


@pytest.mark.parametrize(
    ("cells", "same"),
    [([*CELLS, *CELLS], True), (["", *CELLS[:6], "late = 2", CELLS[0], *CELLS[3:]], True),
     ([*CELLS[:2], *CELLS[3:]], True), ([CELLS[0], "epochs: int = 9\nsize: int = 2", *CELLS[2:]], True),
     ([*CELLS[:-1], "np.sum(x)  # said\nfit = lambda: (x, y, epochs)"], True),
     ([*CELLS[:4], "%pip install this", "half [", "return 5", "a = {[1]: 2}", "await b", TIMED, *CELLS[5:]], True)]
    + [([*CELLS[:-1], look, CELLS[-1]], True) for look in LOOKS.split("; ")]
    + [([*CELLS[:-1], harm, CELLS[-1]], False) for harm in (*HARMS.split("; "), "if y:\n  y.append(1)", "np.sum = max")]
    + [([*CELLS[:4], TIMED.replace("in x", "in np.ones(3)"), *CELLS[5:]], False),
       ([*CELLS[:-1], "x = 2 * x", "x = 2 * x", CELLS[-1]], False), ([*CELLS[:-1], "fit = lambda: (x, y)"], False)],
)  # fmt: skip
def test_code_hash_sees_the_cells_that_the_last_one_rests_on(cells, same, monkeypatch, tmp_path):
    """Rerun, commented or looked at, they are the same; given or changed otherwise, they are not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules["__main__"], "In", CELLS, raising=False)
    assert (_environment.code_hash() == _environment.code_hash(cells=cells)) == same
    assert _environment.code_hash() != _environment.code_hash(cells=())


def test_code_hash_sees_versions_and_imported_modules_beside_the_notebook(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "net", None)
    hashes = [_environment.code_hash()]
    for name in ("other", "net"):
        (tmp_path / f"{name}.py").write_text("x = 1", encoding="utf-8")
        hashes.append(_environment.code_hash())
    monkeypatch.setattr(_environment, "version", lambda package: str(package == "tensorflow"))
    assert len({*hashes, _environment.code_hash()}) == 3 and hashes[0] == hashes[1]


@pytest.mark.parametrize("late", [CELLS[1], "# Parameters of mine\nepochs = 4", "epochs: int = 4", "epochs = 4"])
def test_parameters_changed_after_their_use_are_refused(late):
    use = "steps = 10 * epochs"
    assert _environment.code_hash(cells=[*CELLS[:3], use, "fit(steps)"])
    with pytest.raises(ValueError, match="after its use: run again from its cell on"):
        _environment.code_hash(cells=[*CELLS[:3], use, late, "fit(steps, epochs)"])
