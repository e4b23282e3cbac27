"""The contracts of the stored notebooks: parameters, order, outputs, ids, style; the exercises made from solutions."""

import ast
import json
import re

import make_exercises  # tools/, see conftest.py
import nbformat
import papermill
import pytest
import yaml

from fmnist_utils import _environment, parameters, pipeline, runs

PATHS = sorted(pipeline.FOLDER.glob("[0-9][0-9]_*[a-z].ipynb"))
SOLUTIONS = sorted(make_exercises.SOLUTIONS.glob("*[a-z].ipynb"))
STORED = {f"{path.parent.name}/{path.stem}": nbformat.read(path, as_version=4) for path in PATHS + SOLUTIONS}
COMPUTING = {"03_training": 120}  # seconds on 2 CPU cores, of the others 20
FORBIDDEN = {
    "an absolute path": r"(?<![\w.])/(?:home|root|tmp|usr|work|mnt|Users|opt|var)/|[A-Z]:\\\\",
    "a time": r"\b\d+(?:\.\d+)? ?(?:s|ms|seconds|minutes)\b|\b\d+:\d\d\b|\b20\d\d-\d\d-\d\d",
    "a warning": r"(?i)warning",
    "an object's address": r"0x[0-9a-f]{6,}",
}
BANNED = r"\b(?:easily|just|simply|obviously|of course)\b"
PARTS = ("**You will learn**", "**Needs**", "**Produces**", "**Time**", "## Takeaways")


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return STORED[f"notebooks/{path.stem}"]


@pytest.fixture(params=STORED, ids=str)
def stored(request):
    """A notebook or its solutions: what holds for all that is stored executed."""
    return STORED[request.param]


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def names_in(cells, context=ast.Load):
    nodes = [node for cell in cells for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name)]
    return {node.id for node in nodes if isinstance(node.ctx, context)}


def lines_of(cell):
    return [line for line in cell.source.splitlines() if line.strip()]


def has_figure(cell):
    return any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))


def minutes(path, notebook):
    """Return the minutes for reading (180 words each), running and looking (25 s a cell, 40 s a figure), computing."""
    words = sum(len(cell.source.split()) for cell in notebook.cells if cell.cell_type == "markdown")
    cells, figures = code_cells(notebook), sum(has_figure(cell) for cell in notebook.cells)
    return words / 180 + (25 * len(cells) + 40 * figures + COMPUTING.get(path.stem, 20)) / 60


# ---------------------------------------------------------------------------------------------------- parameters


def test_parameters_are_what_papermill_reads_checked_next_and_used(path, notebook):
    (cell,) = tagged(notebook, "parameters")
    seen = papermill.inspect_notebook(path)
    for line, (name, facts) in zip(cell.source.splitlines(), seen.items(), strict=True):  # one a line
        assert re.fullmatch(rf"{name}: (str|int|float|bool|list) = [^=#]+  # [^=]+", line) and facts["help"]
    defaults = {name: value for name, value in pipeline.defaults(path).items() if name != "run_name" or value}
    assert parameters.check_parameters(defaults) == defaults, "add a row to parameters.PARAMETERS"
    after = code_cells(notebook)[code_cells(notebook).index(cell) + 1 :]
    assert "parameters.check_parameters(" in after[0].source
    together = {"run_name", "runs_dir"} if "runs.start(params, " in str(notebook) else set()
    assert seen.keys() - names_in(after) <= together, "use the parameter or take it out of the cell"


def test_parameters_have_one_default_in_all_notebooks_and_files():
    training = pipeline.defaults(pipeline.TRAINING)
    for path in PATHS:
        shared = pipeline.defaults(path)
        for name in shared.keys() & training.keys() - {"run_name", "runs_dir"}:
            assert shared[name] == training[name], f"{path.stem}: {name}"
    quick = yaml.safe_load((runs.ROOT / "params" / "quick.yaml").read_text(encoding="utf-8"))
    assert quick.items() <= training.items(), "quick.yaml holds nothing that differs from notebook 03"
    for file in (runs.ROOT / "params").glob("*.yaml"):
        assert pipeline.read_parameters(file)["run_name"] == file.stem


def test_training_uses_each_parameter_where_it_trains_and_seeds_before_it_builds():
    training = STORED[f"notebooks/{pipeline.TRAINING}"]
    cells = {cell.id: cell for cell in code_cells(training)}
    trains = [cells[name] for name in ("prepare", "schedule", "open-run", "train-fit")]
    unused = pipeline.defaults(pipeline.TRAINING).keys() - names_in(trains) - {"run_name", "runs_dir"}
    assert not unused, "a cell beside the training uses it, the training does not"
    tree = ast.parse(cells["train-fit"].source)
    assert ast.unparse(tree.body[0]) == "tf.keras.utils.set_random_seed(seed)", "run twice, it gives two networks"
    given = [k for k in ast.walk(tree) if isinstance(k, ast.keyword) and k.arg in pipeline.defaults(pipeline.TRAINING)]
    for keyword in given:
        used = {node.id for node in ast.walk(keyword.value) if isinstance(node, ast.Name)}
        assert used == {keyword.arg}, f"pass {keyword.arg} on, not {ast.unparse(keyword.value)}"
    assert "validation_data=(x_valid, y_valid)" in cells["train-fit"].source, "no output of the training is compared"
    stop = ast.unparse(ast.parse(cells["open-run"].source))
    assert "EarlyStopping(monitor='val_loss' if len(x_valid)" in stop and "restore_best_weights=early_stopping" in stop
    assert "plots.plot_learning_curves(curves, best_epoch)" in cells["curves"].source, "its figure is not compared"
    assert not [name for name in names_in(code_cells(training), ast.Store) if "test" in name], "no test image in 03"


def test_training_run_twice_in_one_kernel_is_one_code_and_that_of_the_reference_run(monkeypatch):
    reference = runs.read_metrics(runs.Run(runs.REFERENCE, {}), runs.ENVIRONMENT)
    monkeypatch.setattr(_environment, "version", reference.get)  # here another TensorFlow may be installed
    cells = [cell.source for cell in code_cells(STORED[f"notebooks/{pipeline.TRAINING}"])]
    once = cells[: 1 + next(i for i, cell in enumerate(cells) if "runs.start(" in cell)]
    codes = {_environment.code_hash(cells=some) for some in (once, [*cells, *once], [*cells, *cells, *once[2:]])}
    assert codes == {reference["code_hash"]}


def test_reference_run_is_complete_and_small():
    names = {path.name for path in runs.REFERENCE.iterdir()}
    wanted = {runs.PARAMS, runs.METRICS, runs.MODEL, runs.HISTORY, runs.VALIDATION, runs.ENVIRONMENT}
    assert names == wanted | {runs.TEST, runs.TEST_METRICS, "figures"}
    assert sum(path.stat().st_size for path in runs.REFERENCE.rglob("*.*")) < 6_000_000


# ---------------------------------------------------------------------------------------------------- how stored


def test_cells_are_stored_executed_in_order_without_a_machines_traces(stored):
    counts = [cell.execution_count for cell in code_cells(stored)]
    assert counts == list(range(1, len(counts) + 1)), "nbval skips a cell without a count in silence: `make notebooks`"
    assert set(stored.metadata) == {"kernelspec", "language_info"} and stored.metadata.kernelspec.name == "python3"
    assert stored.metadata.language_info.file_extension == ".py", "else `nbconvert --to script` writes .txt"
    for cell in stored.cells:
        assert set(cell.metadata) <= {"tags", "slideshow"}, f"store cell {cell.id} by `make notebooks`"
        for output in cell.get("outputs", []):
            assert output.output_type != "error" and output.get("name") != "stderr", f"mend cell {cell.id}"
            data = {kind: part for kind, part in output.get("data", {}).items() if not kind.startswith("image/png")}
            text = output.get("text", "") + json.dumps(data, ensure_ascii=False)
            for what, pattern in FORBIDDEN.items():
                assert not re.search(pattern, text), f"cell {cell.id} prints {what}: {text[:200]!r}"


def test_cells_have_short_ids_and_known_tags(stored):
    ids = [cell.id for cell in stored.cells]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-z][a-z0-9-]{2,30}", name) for name in ids)
    tags = {tag for cell in stored.cells for tag in cell.metadata.get("tags", [])}
    assert tags <= {"parameters", "nbval-ignore-output", "solution"}
    assert not re.search(r"#\s*(?:NBVAL|PYTEST_VALIDATE)", "\n".join(cell.source for cell in code_cells(stored)))


def test_uncompared_outputs_are_those_of_cells_that_train_or_read_what_was_trained():
    ignored = {f"{name[:12]}: {cell.id}" for name in STORED for cell in tagged(STORED[name], "nbval-ignore-output")}
    assert ignored == UNCOMPARED, "compare the output, or add the cell here if it varies from machine to machine"


# ---------------------------------------------------------------------------------------------------- how written


def test_cells_are_short_and_explained_and_the_file_is_light(path, notebook):
    assert path.stat().st_size < 1_000_000, "draw fewer or smaller figures"
    lines = sorted(len(lines_of(cell)) for cell in code_cells(notebook) if cell not in tagged(notebook, "parameters"))
    assert lines[-1] <= 20 and lines[len(lines) // 2] <= 6 and lines[int(0.9 * len(lines))] <= 12
    assert "ccccc" not in "".join(cell.cell_type[0] for cell in notebook.cells), "a word between four code cells"


def test_text_has_its_parts_and_figures_are_told_in_words(path, notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert not [part for part in PARTS if part not in text], f"each notebook has {', '.join(PARTS)}"
    assert not (found := re.search(BANNED, text, re.IGNORECASE)), f"take out: {found}"
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1
    for place, cell in enumerate(notebook.cells):
        if has_figure(cell):
            following = next(after for after in notebook.cells[place:] if after.cell_type == "markdown")
            assert following.source.startswith("**In words.**"), f"tell the figure of cell {cell.id} in words"


def test_title_states_the_computed_minutes_and_the_path_fits_90(path, notebook):
    stated = int(re.search(r"\*\*Time\*\* (\d+) minutes", notebook.cells[0].source)[1])
    assert abs(stated - minutes(path, notebook)) < 1, f"{minutes(path, notebook):.1f} minutes by words, cells, figures"
    teaching, readme = ((runs.ROOT / name).read_text(encoding="utf-8") for name in ("TEACHING.md", "README.md"))
    number = path.stem[:2]
    assert re.search(rf"^\| {number} [^|]+\| {stated} \|", teaching, re.MULTILINE), "TEACHING.md has other minutes"
    assert re.search(rf"\[{number}\][^|]+\| {stated} \|", readme), "README.md has other minutes"
    assert sum(minutes(other, STORED[f"notebooks/{other.stem}"]) for other in PATHS[:4]) < 90


# ---------------------------------------------------------------------------------------------------- exercises


def test_each_notebook_has_exercises_made_from_its_solutions():
    assert {path.stem for path in SOLUTIONS} == {path.stem for path in PATHS} | {"find_the_leak"}
    for path in SOLUTIONS:
        made = (make_exercises.EXERCISES / path.name).read_text(encoding="utf-8")
        assert made == make_exercises.exercise(path), "run `make notebooks`"
        assert '"solution"' not in made


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_exercise_has_an_answer_cell_a_solution_and_a_check(path):
    cells = STORED[f"solutions/{path.stem}"].cells
    ids = [cell.id for cell in cells]
    for name in [name for name in ids if name.endswith("-solution")]:
        stem = name.removesuffix("-solution")
        assert "..." in cells[ids.index(f"{stem}-answer")].source, f"leave {stem} to be written"
        check = cells[ids.index(f"{stem}-check")]
        assert "right" in str(check.outputs), f"the solution of {stem} does not pass its check"


UNCOMPARED = {
    "notebooks/03: train-fit", "notebooks/03: curves", "notebooks/03: curves-final", "notebooks/03: write",
    "notebooks/08: scaling",
    "solutions/03: overfit-solution",
}  # fmt: skip
