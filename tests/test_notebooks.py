"""The contracts of the stored notebooks: parameters, order, outputs, ids, tags, and the exercises made from solutions.

Rules of style are in test_notebook_style.py.
"""

import ast
import json
import re

import nbformat
import papermill
import pytest
import yaml
from shipped import shipped

from fmnist_utils import comparison, parameters, pipeline, runs

FOLDER = runs.ROOT / "notebooks"
PATHS = shipped("notebooks/*.ipynb")
SOLUTIONS = shipped("notebooks/solutions/*.ipynb")
FORBIDDEN = {
    "an absolute path": r"(?<![\w.])/(?:home|root|tmp|usr|work|mnt|Users|opt|var)/|[A-Z]:\\\\",
    "a time": r"\b\d+(?:\.\d+)? ?(?:s|ms|seconds|minutes)\b|\b\d+:\d\d\b|\b20\d\d-\d\d-\d\d",
    "a warning": r"(?i)warning",
    "an object's address": r"0x[0-9a-f]{6,}",
}


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture(params=PATHS + SOLUTIONS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def stored(request):
    """A notebook or its solutions: what holds for all that is stored executed."""
    return nbformat.read(request.param, as_version=4)


@pytest.fixture(scope="module")
def training():
    return nbformat.read(FOLDER / f"{pipeline.TRAINING}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def cell_of(notebook, name):
    (cell,) = [cell for cell in notebook.cells if cell.id == name]
    return cell


def nodes(cells, kind):
    return [node for cell in cells for node in ast.walk(ast.parse(cell.source)) if isinstance(node, kind)]


def declared(notebook):
    return {line.split(":")[0] for line in tagged(notebook, "parameters")[0].source.splitlines()}


# --------------------------------------------------------------------------------------------- parameters


def test_parameters_cell_is_one_that_papermill_reads_whole(path, notebook):
    (cell,) = tagged(notebook, "parameters")
    lines, seen = cell.source.splitlines(), papermill.inspect_notebook(path)
    assert len(seen) == len(lines), "one parameter a line"
    for line, (name, facts) in zip(lines, seen.items(), strict=True):
        form = rf"{name}: (str|int|float|bool|list) = [^=#]+  # [^=]+"
        assert re.fullmatch(form, line), f"write `name: type = default  # help`, not {line!r}"
        assert facts["inferred_type_name"] == line.split(":")[1].split("=")[0].strip() and facts["help"]


def test_parameters_defaults_are_allowed(path):
    defaults = pipeline.defaults(path)
    if not defaults.get("run_name", "-"):
        del defaults["run_name"]  # empty: the newest run
    checked = parameters.check_parameters(defaults)
    assert checked == defaults, f"add a row to parameters.PARAMETERS for {defaults.keys() - checked.keys()}"


def test_parameters_are_checked_by_the_next_cell(notebook):
    cells = code_cells(notebook)
    following = cells[cells.index(tagged(notebook, "parameters")[0]) + 1]
    assert "parameters.check_parameters(" in following.source, "check them right after the parameters cell"


def test_parameters_are_all_used(notebook):
    cells = code_cells(notebook)
    after = cells[cells.index(tagged(notebook, "parameters")[0]) + 1 :]
    used = {node.id for node in nodes(after, ast.Name) if isinstance(node.ctx, ast.Load)}
    together = {"run_name", "runs_dir"} if "runs.start(params)" in str(notebook) else set()
    assert declared(notebook) - used <= together, "use the parameter or take it out of the cell"


def test_parameters_of_two_notebooks_have_one_default():
    defaults = [pipeline.defaults(path) for path in PATHS]
    for name in {"seed", "split_seed", "validation_fraction", "filters", "convs_per_block", "kernel_size", "dropout"}:
        assert len({str(found[name]) for found in defaults if name in found}) == 1, f"give {name} one default"


def test_quick_parameters_are_the_defaults_of_03():
    quick = yaml.safe_load((runs.ROOT / "params" / "quick.yaml").read_text(encoding="utf-8"))
    defaults = pipeline.defaults(pipeline.TRAINING)
    assert quick.items() <= defaults.items(), "params/quick.yaml holds nothing that differs from notebook 03"


@pytest.mark.parametrize("file", shipped("params/*.yaml"), ids=lambda file: file.stem)
def test_parameter_file_holds_only_what_differs_from_03(file):
    values, defaults = yaml.safe_load(file.read_text(encoding="utf-8")), pipeline.defaults(pipeline.TRAINING)
    same = {name for name, value in values.items() if name != "run_name" and defaults.get(name) == value}
    assert not same, f"take {same} out: they are notebook 03's defaults"
    assert pipeline.read_parameters(file)["run_name"] == file.stem


# ------------------------------------------------------------------------------------------------ outputs


def test_code_cells_are_stored_executed_in_order(stored):
    counts = [cell.execution_count for cell in code_cells(stored)]
    assert counts == list(range(1, len(counts) + 1)), "nbval skips a cell without a count in silence: `make notebooks`"


def test_outputs_hold_nothing_that_varies(stored):
    ignored = {cell.id for cell in tagged(stored, "nbval-ignore-output")}
    for cell in code_cells(stored):
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr", f"mend cell {cell.id}"
            data = {kind: part for kind, part in output.get("data", {}).items() if not kind.startswith("image/png")}
            text = output.get("text", "") + json.dumps(data, ensure_ascii=False)
            for what, pattern in FORBIDDEN.items():
                if what != "a time" or cell.id not in ignored:
                    assert not re.search(pattern, text), f"cell {cell.id} prints {what}: {text[:200]!r}"


def test_metadata_holds_no_traces_of_a_machine(stored):
    assert set(stored.metadata) == {"kernelspec", "language_info"}, "store it by `make notebooks`"
    assert stored.metadata.kernelspec.name == "python3" and set(stored.metadata.language_info) == {"name"}
    for cell in stored.cells:
        assert set(cell.metadata) <= {"tags", "slideshow"}, f"store cell {cell.id} by `make notebooks`"


def test_cell_ids_are_short_names(stored):
    ids = [cell.id for cell in stored.cells]
    wrong = [name for name in ids if not re.fullmatch(r"[a-z][a-z0-9-]{2,30}", name)]
    assert not wrong and len(set(ids)) == len(ids), "name each cell once, by 3 to 31 letters, digits or '-'"


def test_tags_are_known_and_no_comment_skips_a_cell(stored):
    tags = {tag for cell in stored.cells for tag in cell.metadata.get("tags", [])}
    assert tags <= {"parameters", "nbval-ignore-output", "solution"}
    assert not re.search(r"#\s*(?:NBVAL|PYTEST_VALIDATE)", "\n".join(cell.source for cell in code_cells(stored)))


def test_uncompared_outputs_are_those_of_training_and_of_t_sne():
    notebooks = [nbformat.read(path, as_version=4) for path in PATHS + SOLUTIONS]
    ignored = {cell.id for notebook in notebooks for cell in tagged(notebook, "nbval-ignore-output")}
    trained = {"train-fit", "curves", "curves-numbers", "keep", "write", "overfit-solution"}
    small = {"dense-shift", "scaling", "reasons-average", "reasons-modes"}  # trainings of a few seconds
    known = trained | small | {"tsne"}
    assert ignored == known, "compare the output, or add the cell here if it varies from machine to machine"


def test_uncompared_output_is_followed_by_an_assertion(notebook):
    cells = code_cells(notebook)
    for cell in tagged(notebook, "nbval-ignore-output"):
        following = cells[cells.index(cell) + 1 : cells.index(cell) + 4]
        assert any("assert " in after.source for after in following), f"assert what must hold after cell {cell.id}"


def test_file_is_light(path):
    assert path.stat().st_size < 1_000_000, "draw fewer or smaller figures"


# ------------------------------------------------------------------------------------------------ training


def test_training_seeds_before_it_builds(training):
    first = ast.parse(cell_of(training, "train-fit").source).body[0]
    assert ast.unparse(first) == "tf.keras.utils.set_random_seed(seed)", "or the cell run twice gives two networks"


def test_training_stops_by_the_validation_loss_and_restores_its_weights(training):
    """In a run whose last epoch is the best in both losses, no number would tell."""
    (call,) = nodes([cell_of(training, "stop")], ast.Call)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    assert ast.unparse(call.args[0]) == "'val_loss'"
    assert keywords == {"patience": "patience_used", "restore_best_weights": "early_stopping"}


def test_training_passes_each_parameter_on_under_its_own_name(training):
    names = declared(training)
    given = [keyword for keyword in nodes([cell_of(training, "train-fit")], ast.keyword) if keyword.arg in names]
    assert len(given) >= 8
    for keyword in given:
        used = {node.id for node in ast.walk(keyword.value) if isinstance(node, ast.Name)}
        assert used == {keyword.arg}, f"pass {keyword.arg} on, not {ast.unparse(keyword.value)}"


def test_training_uses_each_parameter_where_it_trains(training):
    """In these four cells: that a lesson's cell uses it, too, is not enough."""
    cells = [cell_of(training, name) for name in ("prepare", "schedule", "stop", "train-fit")]
    unused = declared(training) - {node.id for node in nodes(cells, ast.Name)}
    assert unused <= {"run_name", "runs_dir"}, "give the training the parameter or take it out of the cell"


def test_training_gives_the_test_images_no_name(training):
    assert not [node.id for node in nodes(code_cells(training), ast.Name) if "test" in node.id]


def test_training_promises_an_accuracy_that_chance_does_not_miss(training):
    """At least six standard deviations of the ablation's base, whose seeds are the evidence, below their mean."""
    table = comparison.read_runs(runs.ROOT / "sweeps" / "results" / "ablation")
    base = table.loc[table["configuration"] == comparison.BASE, "val_accuracy"]
    promised = float(re.search(r"\"val_accuracy\"\] > ([\d.]+)", cell_of(training, "curves-check").source)[1])
    assert len(base) >= 4 and promised < base.mean() - 6 * base.std()


def test_reference_run_is_complete_and_small():
    names = {path.name for path in runs.REFERENCE.iterdir()}
    wanted = {runs.PARAMS, runs.METRICS, runs.MODEL, runs.HISTORY, runs.VALIDATION, runs.ENVIRONMENT}
    assert names == wanted | {runs.TEST, runs.TEST_METRICS, "figures"}
    assert sum(path.stat().st_size for path in runs.REFERENCE.iterdir()) < 6_000_000


# ----------------------------------------------------------------------------------------------- exercises


def test_solutions_belong_to_the_notebooks():
    assert {path.stem for path in SOLUTIONS} == {path.stem for path in PATHS} | {"find_the_leak"}
    assert {path.name for path in shipped("notebooks/exercises/*.ipynb")} == {path.name for path in SOLUTIONS}


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_exercises_are_the_solutions_without_the_solutions(path, monkeypatch):
    monkeypatch.syspath_prepend(runs.ROOT / "tools")
    import make_exercises

    made = (make_exercises.EXERCISES / path.name).read_text(encoding="utf-8")
    assert made == make_exercises.exercise(path), "run `make notebooks`"
    assert '"solution"' not in made


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_exercise_has_an_answer_cell_a_solution_and_a_check(path):
    cells = nbformat.read(path, as_version=4).cells
    ids = [cell.id for cell in cells]
    solved = [place for place, cell in enumerate(cells) if "solution" in cell.metadata.get("tags", [])]
    solutions = [place for place in solved if not ids[place].endswith("-words")]  # of a figure of the solution
    assert len(solutions) >= (1 if path.stem == "find_the_leak" else 3)
    for place in solutions:
        stem = ids[place].removesuffix("-solution")
        assert ids[place - 1] == f"{stem}-answer" and "..." in cells[place - 1].source, f"leave {stem} to be written"
        check = cells[ids.index(f"{stem}-check", place)]
        assert "right" in check.outputs[0].text, f"the solution of {stem} does not pass its check"
        assert re.search(r"\"(write|build|train) ", check.source) or "lesson.check_answer(" in check.source
