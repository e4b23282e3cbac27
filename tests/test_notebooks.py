"""The contracts of the committed notebooks: parameters, order, outputs, and nothing of the machine that ran them."""

import ast
import json
import re
import subprocess
import sys

import nbformat
import papermill
import pytest
import yaml

from fmnist_utils import comparison, parameters, pipeline, runs

PATHS = sorted((runs.ROOT / "notebooks").glob("*.ipynb"))
SOLUTIONS = sorted((runs.ROOT / "notebooks" / "solutions").glob("*.ipynb"))
BANNED = r"\b(?:easily|just|simply|obviously|of course)\b"


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


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def output_texts(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            yield cell.id, output.get("text", "")
            for kind, content in output.get("data", {}).items():
                if not kind.startswith("image/png"):
                    yield cell.id, content if isinstance(content, str) else json.dumps(content)


def test_there_are_seven_notebooks_and_exercises_to_each():
    names = {path.stem for path in PATHS}
    assert names == {*pipeline.NOTEBOOKS, "05_comparing_runs", "06_look_inside", "07_beyond_accuracy"}
    assert {path.stem for path in SOLUTIONS} == names | {"find_the_leak"}


def test_ruff_finds_nothing_in_package_tests_and_notebooks():
    pytest.importorskip("ruff", reason="ruff is not installed: requirements-dev.txt")
    for words in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *words, "--no-cache", str(runs.ROOT)]
        found = subprocess.run(command, capture_output=True, text=True)
        assert found.returncode == 0, found.stdout + found.stderr


def test_every_code_cell_is_stored_executed_in_order(stored):
    counts = [cell.execution_count for cell in code_cells(stored)]
    assert counts == list(range(1, len(counts) + 1)), "nbval skips a cell without a count in silence: `make notebooks`"


def test_there_is_one_parameters_cell_and_papermill_reads_all_of_it(path, notebook):
    (cell,) = tagged(notebook, "parameters")
    lines = cell.source.splitlines()
    seen = papermill.inspect_notebook(path)
    assert len(seen) == len(lines)
    for line, (name, facts) in zip(lines, seen.items(), strict=True):
        assert re.fullmatch(rf"{name}: (str|int|float|bool|list) = [^=#]+  # [^=]+", line), line
        assert facts["inferred_type_name"] == line.split(":")[1].split("=")[0].strip() and facts["help"]


def test_the_committed_defaults_are_valid_and_equal_the_quick_parameters(path, notebook):
    quick = yaml.safe_load((runs.ROOT / "params" / "quick.yaml").read_text())
    defaults = {name: ast.literal_eval(facts["default"]) for name, facts in papermill.inspect_notebook(path).items()}
    if not defaults.get("run_name", "-"):
        del defaults["run_name"]  # empty: the newest run
    assert parameters.check_parameters(defaults) == defaults, "a parameter has no rule in runs.py"
    assert {name: quick[name] for name in defaults if name in quick} == {
        n: v for n, v in defaults.items() if n in quick
    }


def test_the_cell_after_the_parameters_validates_them(notebook):
    cells = code_cells(notebook)
    after = cells[cells.index(tagged(notebook, "parameters")[0]) + 1]
    assert "parameters.check_parameters(" in after.source


def test_no_output_holds_a_path_a_time_a_warning_or_an_error(stored):
    forbidden = {
        "an absolute path": r"(?<![\w.])/(?:home|root|tmp|usr|work|mnt|Users|opt|var)/|[A-Z]:\\\\",
        "a time": r"\b\d+(?:\.\d+)? ?(?:s|ms|seconds|minutes)\b|\b\d+:\d\d\b|\b20\d\d-\d\d-\d\d",
        "a warning": r"(?i)warning",
        "an object's address": r"0x[0-9a-f]{6,}",
    }
    ignored = {cell.id for cell in tagged(stored, "nbval-ignore-output")}
    for cell_id, text in output_texts(stored):
        for what, pattern in forbidden.items():
            if what == "a time" and cell_id in ignored:
                continue
            assert not re.search(pattern, text), f"cell {cell_id}: {what} in {text[:200]!r}"
    for cell in code_cells(stored):
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr", f"cell {cell.id}"


def test_the_metadata_holds_no_traces_of_a_machine(stored):
    assert set(stored.metadata) == {"kernelspec", "language_info"}
    assert stored.metadata.kernelspec.name == "python3" and set(stored.metadata.language_info) == {"name"}
    for cell in stored.cells:
        assert set(cell.metadata) <= {"tags", "slideshow"}, cell.id


def test_a_cell_whose_output_is_not_compared_is_followed_by_one_that_asserts(notebook):
    cells = code_cells(notebook)
    for cell in tagged(notebook, "nbval-ignore-output"):
        following = cells[cells.index(cell) + 1 : cells.index(cell) + 3]
        assert any("assert " in after.source for after in following), f"cell {cell.id}"


def test_the_training_cell_seeds_before_it_builds():
    """Or running it twice would give two networks, which test_idempotence sees too, but late."""
    training = nbformat.read(next(path for path in PATHS if path.name.startswith("03")), as_version=4)
    (fit,) = [cell for cell in training.cells if cell.id == "train-fit"]
    assert ast.unparse(ast.parse(fit.source).body[0]) == "tf.keras.utils.set_random_seed(seed)"


def test_early_stopping_watches_the_validation_loss_and_restores_its_weights():
    """In a run whose last epoch is the best in both losses, no number would tell."""
    training = nbformat.read(next(path for path in PATHS if path.name.startswith("03")), as_version=4)
    (stop,) = [cell for cell in training.cells if cell.id == "stop"]
    (call,) = [node for node in ast.walk(ast.parse(stop.source)) if isinstance(node, ast.Call)]
    assert ast.unparse(call.args[0]) == "'val_loss'"
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    assert keywords == {"patience": "patience_used", "restore_best_weights": "early_stopping"}


def test_only_what_training_prints_goes_uncompared():
    ignored = {
        c.id for path in PATHS + SOLUTIONS for c in tagged(nbformat.read(path, as_version=4), "nbval-ignore-output")
    }
    wanted = {"train-fit", "curves-numbers", "keep", "reasons-average", "reasons-modes", "write", "overfit-solution"}
    assert ignored == wanted | {"dense-shift", "scaling"}


def test_nothing_is_skipped_by_the_notebook_tests(stored):
    tags = {tag for cell in stored.cells for tag in cell.metadata.get("tags", [])}
    assert tags <= {"parameters", "nbval-ignore-output", "solution"}
    assert not re.search(r"#\s*(?:NBVAL|PYTEST_VALIDATE)", "\n".join(cell.source for cell in code_cells(stored)))


def test_the_file_is_light(path):
    assert path.stat().st_size < 1_000_000


def test_cell_ids_are_short_names(stored):
    ids = [cell.id for cell in stored.cells]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-z][a-z0-9-]{2,30}", name) for name in ids)


def test_cells_are_short_and_explained(notebook):
    (parameters,) = tagged(notebook, "parameters")
    counted = [cell for cell in code_cells(notebook) if cell is not parameters]
    body = sorted(len([line for line in cell.source.splitlines() if line.strip()]) for cell in counted)
    assert body[len(body) // 2] <= 4 and body[int(0.9 * len(body))] <= 10 and body[-1] <= 20
    kinds = "".join("c" if cell.cell_type == "code" else "m" for cell in notebook.cells)
    assert "ccc" not in kinds, "three code cells without a word between them"
    assert 0.85 < kinds.count("m") / kinds.count("c") < 2.2


def test_names_are_whole_words_in_lower_case(stored):
    given = {
        node.id
        for cell in code_cells(stored)
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    assert not [name for name in given if not re.fullmatch(r"[a-z_][a-z0-9_]*", name)]
    assert not given & {"df", "tmp", "res", "arr", "img", "imgs", "lbl", "preds", "acc", "hist", "cm", "foo"}


def test_no_more_than_15_percent_of_the_text_outputs_go_uncompared():
    told = {True: 0, False: 0}
    for path in PATHS + SOLUTIONS:
        for cell in code_cells(nbformat.read(path, as_version=4)):
            kinds = [set(output.get("data", {"text/plain": ""})) for output in cell.outputs]
            if any("text/plain" in kind and "image/png" not in kind for kind in kinds):
                told["nbval-ignore-output" in cell.metadata.get("tags", [])] += 1
    assert told[False] / (told[True] + told[False]) >= 0.85, told


def test_every_parameter_is_used(notebook):
    (cell,) = tagged(notebook, "parameters")
    cells = code_cells(notebook)
    used = {
        node.id
        for after in cells[cells.index(cell) + 1 :]
        for node in ast.walk(ast.parse(after.source))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    declared = {line.split(":")[0] for line in cell.source.splitlines()}
    # the run folder is opened with all parameters together
    assert declared - used <= ({"run_name", "runs_dir"} if "runs.start(params)" in str(notebook) else set())


def test_the_training_gets_each_parameter_under_its_own_name():
    training = nbformat.read(next(path for path in PATHS if path.name.startswith("03")), as_version=4)
    (parameters,) = tagged(training, "parameters")
    declared = {line.split(":")[0] for line in parameters.source.splitlines()}
    (fit,) = [cell for cell in training.cells if cell.id == "train-fit"]
    given = [node for node in ast.walk(ast.parse(fit.source)) if isinstance(node, ast.keyword) and node.arg in declared]
    assert len(given) >= 8
    for keyword in given:
        names = {node.id for node in ast.walk(keyword.value) if isinstance(node, ast.Name)}
        assert names == {keyword.arg}, ast.unparse(keyword)


def test_the_text_has_goals_takeaways_and_exercises_and_no_banned_words(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for wanted in ("**You will learn**", "**Needs**", "**Produces**", "**Time**", "## Takeaways", "## Exercises"):
        assert wanted in text
    assert not re.search(BANNED, text, re.IGNORECASE), re.search(BANNED, text, re.IGNORECASE)
    levels = [len(mark) for mark in re.findall(r"^(#+) ", text, re.MULTILINE)]
    assert levels[0] == 1 and levels.count(1) == 1 and max(levels) <= 3


def test_training_never_gives_the_test_images_a_name():
    training = nbformat.read(next(path for path in PATHS if path.name.startswith("03")), as_version=4)
    names = {
        node.id
        for cell in code_cells(training)
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Name)
    }
    assert not [name for name in names if "test" in name]


def test_the_accuracy_that_03_promises_is_far_below_what_chance_can_reach():
    """At least six standard deviations of the ablation's base, whose seeds are the evidence, below their mean."""
    table = comparison.read_runs(runs.ROOT / "sweeps" / "results" / "ablation")
    base = table.loc[table["setting"] == comparison.BASE, "val_accuracy"]
    mean, std, _, _ = comparison.t_confidence_interval(base)
    training = nbformat.read(next(path for path in PATHS if path.name.startswith("03")), as_version=4)
    (check,) = [cell.source for cell in training.cells if cell.id == "curves-check"]
    promised = float(re.search(r"\"val_accuracy\"\] > ([\d.]+)", check)[1])
    assert len(base) >= 4 and promised < mean - 6 * std


def test_the_reference_run_is_complete_and_small():
    names = {path.name for path in runs.REFERENCE.iterdir()}
    wanted = {runs.PARAMS, runs.METRICS, runs.MODEL, runs.HISTORY, runs.VALIDATION, runs.ENVIRONMENT}
    assert names == wanted | {runs.TEST, runs.TEST_METRICS, "figures"}
    assert sum(path.stat().st_size for path in runs.REFERENCE.iterdir()) < 6_000_000


# ------------------------------------------------------------------------------------------------------ lessons


def sections(notebook):
    """Return [(heading, minutes)] of the sections that have them."""
    heads = [cell.source.splitlines()[0] for cell in notebook.cells if cell.source.startswith("## ")]
    found = [re.fullmatch(r"## (.+) · (\d+) min", head) for head in heads]
    without = [head for head, match in zip(heads, found, strict=True) if not match]
    assert without == ["## Takeaways", "## Exercises"], without
    return [(match[1], int(match[2])) for match in found if match]


def test_the_minutes_of_the_sections_add_up_to_those_of_the_title(notebook):
    told = re.search(r"\*\*Time\*\* (\d+) minutes", notebook.cells[0].source)
    assert int(told[1]) == sum(minutes for _, minutes in sections(notebook))


def test_the_first_four_notebooks_fit_90_minutes():
    read = [nbformat.read(path, as_version=4) for path in PATHS if path.stem in pipeline.NOTEBOOKS]
    assert len(read) == 4 and sum(minutes for notebook in read for _, minutes in sections(notebook)) <= 90


def test_every_figure_is_told_in_words_next_to_it(notebook):
    cells = notebook.cells
    for place, cell in enumerate(cells):
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            after = "\n".join(following.source for following in cells[place + 1 : place + 2])
            assert "**In words.**" in after, f"cell {cell.id}"


def test_predictions_are_asked_for_and_checked(notebook):
    ids = [cell.id for cell in notebook.cells]
    asked = [place for place, cell in enumerate(notebook.cells) if cell.source.startswith("**Predict.**")]
    assert asked and all(ids[place + 1].startswith("check-") for place in asked)
    (quiz,) = [cell for cell in notebook.cells if cell.id == "quiz"]
    assert quiz.source.count("<details><summary>") >= 4


def test_every_cell_says_where_it_stands_on_a_slide(notebook):
    kinds = [cell.metadata["slideshow"]["slide_type"] for cell in notebook.cells]
    assert set(kinds) <= {"slide", "subslide", "fragment", "skip", "-"} and kinds[0] == "slide"
    for cell, kind in zip(notebook.cells, kinds, strict=True):
        heading = cell.cell_type == "markdown" and cell.source.startswith("#")
        assert (kind == "slide") == heading or cell.id == "exercises", cell.id


def slides(notebook):
    """Return the cells of each slide, as a list of lists."""
    found = []
    for cell in notebook.cells:
        kind = cell.metadata["slideshow"]["slide_type"]
        if kind in ("slide", "subslide"):
            found.append([])
        if kind != "skip":
            found[-1].append(cell)
    return found


def is_figure(cell):
    return any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))


def test_no_slide_is_one_sentence_alone(notebook):
    for cells in slides(notebook):
        text = " ".join(re.sub("(?m)^#.*", "", cell.source) for cell in cells if cell.cell_type == "markdown")
        sentences = re.findall(r"[.?!](?=\**(?:\s|$))", text)
        assert len(sentences) > 1 or any(cell.cell_type == "code" for cell in cells), cells[0].id


def test_a_figure_shares_its_slide_with_its_question_and_its_words(notebook):
    """The question is the nearest one before it in its section and after the last figure; else the nearest text."""
    cells = notebook.cells
    slide_of = {cell.id: number for number, on_it in enumerate(slides(notebook)) for cell in on_it}
    for place in (place for place, cell in enumerate(cells) if is_figure(cell)):
        texts = []
        for before in reversed(cells[:place]):
            if is_figure(before) or before.source.startswith("**In words.**"):
                break
            if before.cell_type == "markdown":
                texts.append(before)
            if before.source.startswith("#"):
                break
        question = next((text for text in texts if "?" in text.source), texts[0])
        here = slide_of[cells[place].id]
        assert slide_of.get(question.id) == here, f"{cells[place].id} is not on the slide of {question.id}"
        assert slide_of.get(cells[place + 1].id) == here, f"{cells[place].id} is not on the slide of its words"


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_the_exercises_are_the_solutions_without_the_solutions(path, monkeypatch):
    monkeypatch.syspath_prepend(runs.ROOT / "tools")
    import make_exercises

    made = make_exercises.EXERCISES / path.name
    assert made.read_text() == make_exercises.exercise(path), "run `make notebooks`"
    assert '"solution"' not in made.read_text() and {p.name for p in made.parent.glob("*.ipynb")} == {
        p.name for p in SOLUTIONS
    }


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_each_exercise_has_a_place_to_write_a_solution_and_a_check(path):
    cells = nbformat.read(path, as_version=4).cells
    ids = [cell.id for cell in cells]
    solved = [place for place, cell in enumerate(cells) if "solution" in cell.metadata.get("tags", [])]
    solved = [place for place in solved if cells[place].cell_type == "code"]  # not what a figure shows, in words
    assert len(solved) >= (1 if path.stem == "find_the_leak" else 3)
    for place in solved:
        stem = ids[place].removesuffix("-solution")
        assert ids[place - 1] == f"{stem}-answer" and "..." in cells[place - 1].source
        assert f"{stem}-check" in ids[place:]
        (check,) = [cell for cell in cells if cell.id == f"{stem}-check"]
        assert "right" in check.outputs[0].text
        assert re.search(r"\"(write|build|train) ", check.source) or "lesson.check_answer(" in check.source
