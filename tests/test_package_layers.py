"""The package's three layers: notebooks use the visible modules, these the machinery, and none of them the tools."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions

import nbformat
import pytest
from shipped import ROOT, shipped

from fmnist_utils import _environment

MODULES = {path.stem: path for path in shipped("fmnist_utils/*.py") if path.stem != "__init__"}
HEADLESS = {"pipeline", "sweep", "_sweep_file", "_sweep_worker", "_recipe"}
VISIBLE = {name for name in MODULES if not name.startswith("_")} - HEADLESS
NOTEBOOKS = [*shipped("notebooks/*.ipynb"), *shipped("notebooks/solutions/*.ipynb")]
CODE = [path for folder in ("fmnist_utils", "tools", "benchmarks", "tests") for path in shipped(f"{folder}/*.py")]


def imported_by(source, everywhere=True):
    """Return the package's modules that a text of Python imports, in functions too or at module level alone."""
    tree = ast.parse(source)
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("fmnist_utils.")}
        if isinstance(node, ast.ImportFrom) and node.module == "fmnist_utils":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fmnist_utils."):
            found.add(node.module.split(".")[1])
    return found


IMPORTS = {name: imported_by(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def closure(names):
    """Return the modules that `names` need, themselves included."""
    reached, todo = set(), set(names)
    while todo:
        reached |= todo
        todo = set().union(*(IMPORTS[name] for name in todo)) - reached
    return reached


def test_imports_are_found():
    """Or the tests below would show nothing."""
    assert "_files" in IMPORTS["runs"] and "_training_copy" in IMPORTS["runs"]  # the latter within a function
    assert len(VISIBLE) >= 10 and len(NOTEBOOKS) >= 14


def test_each_module_has_a_line_in_the_guide():
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+?) \|", guide, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(MODULES), "CONTRIBUTING.md lists each module once"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_notebook_imports(path):
    """A notebook imports the visible modules only."""
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    lines = "\n".join(line for cell in cells for line in cell.splitlines() if not line.startswith(("%", "!")))
    assert imported_by(lines) <= VISIBLE | {"_tensorflow"}, (
        "move what it needs into a visible module, or into the notebook"
    )


@pytest.mark.parametrize("name", sorted(set(MODULES) - HEADLESS))
def test_module_needs_no_tool(name):
    """Neither directly nor by way of others."""
    assert not closure([name]) & HEADLESS, (
        "a notebook would wait for dask and papermill: move what it needs down a layer"
    )


def distributions(name):
    """Return what a module imports from outside, by the names under which it is installed."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    return {INSTALLED[module] for module in found - set(sys.stdlib_module_names) - {"fmnist_utils"}}


INSTALLED = {module: names[0].lower().replace("_", "-") for module, names in packages_distributions().items()}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_are_declared(name):
    """A plain `pip install` brings what the notebooks' modules import, the extra "headless" the tools' as well."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = project["dependencies"] + (project["optional-dependencies"]["headless"] if name in HEADLESS else [])
    known = {re.match(r"[\w-]+", line)[0] for line in declared}
    if name in HEADLESS:
        known |= {"dask", "nbformat", "nbclient"}  # parts of distributed and papermill
    assert distributions(name) <= known


def test_no_circle():
    at_module_level = {
        name: imported_by(path.read_text(encoding="utf-8"), everywhere=False) & MODULES.keys()
        for name, path in MODULES.items()
    }
    TopologicalSorter(at_module_level).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("name", ["data", "parameters", "lesson", "runs", "pipeline", "sweep"])
def test_import_without_tensorflow(name):
    """Who only fetches, checks parameters, answers a question, finds a run or hands runs out does not wait for it."""
    code = f"import sys, fmnist_utils.{name}; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_code_hash_covers_training():
    """All that a training needs is in the hash that tells stale results, but what changes no weight."""
    no_weight = {"_download", "_files", "_run_folder", "_environment", "_progress", "parameters"}
    needed = closure(["training", "augmentation", "model", "data"]) - no_weight
    assert needed == {name.removesuffix(".py") for name in _environment.TRAINING_MODULES}


def in_locale_encoding(tree):
    """Yield the lines of calls that read or write text in the encoding of whoever runs them."""
    for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
        name, owner = getattr(call.func, "attr", ""), getattr(getattr(call.func, "value", None), "id", "")
        if isinstance(call.func, ast.Name) and call.func.id == "open":
            name = "open"
        words = {word.arg: word.value for word in call.keywords}
        modes = [str(arg.value) for arg in [*call.args, words.get("mode")] if isinstance(arg, ast.Constant)]
        binary = name == "open" and any("b" in mode for mode in modes[-1:])
        if binary or owner in ("_files", "Image", "os", "tarfile"):
            continue
        text = name in ("read_text", "write_text", "open") or "text" in words or "universal_newlines" in words
        process = name in ("run", "Popen", "check_output")
        if text and "encoding" not in words and (process or "text" not in words):
            yield call.lineno


@pytest.mark.parametrize("path", CODE, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_text_is_utf8(path):
    """An 8-bit code page, as on Windows, must not decide: say encoding="utf-8", for a subprocess in place of text."""
    lines = list(in_locale_encoding(ast.parse(path.read_text(encoding="utf-8"))))
    assert not lines, f"{path.relative_to(ROOT)}: no encoding in the lines {lines}"


def test_headless_modules_are_left_out_of_what_notebooks_depend_on():
    from fmnist_utils import pipeline

    assert {name.removesuffix(".py") for name in pipeline.HEADLESS} == HEADLESS, "name a new tool in both"
