"""Rules of style of the notebooks: short cells, plain words, sections with minutes, figures told in words."""

import ast
import re

import nbformat
import pytest
from test_notebooks import PATHS, SOLUTIONS, code_cells, nodes, tagged

from fmnist_utils import pipeline

BANNED = r"\b(?:easily|just|simply|obviously|of course)\b"
VAGUE = {"df", "tmp", "res", "arr", "img", "imgs", "lbl", "preds", "acc", "hist", "cm", "foo"}
PARTS = ("**You will learn**", "**Needs**", "**Produces**", "**Time**", "## Takeaways", "## Exercises")


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def sections(notebook):
    """Return {heading: minutes} of the sections that have them."""
    heads = [cell.source.splitlines()[0] for cell in notebook.cells if cell.source.startswith("## ")]
    found = {head: re.fullmatch(r"## (.+) · (\d+) min", head) for head in heads}
    without = [head for head, match in found.items() if not match]
    assert without == ["## Takeaways", "## Exercises"], f"give each section its minutes, `## Name · 2 min`: {without}"
    return {match[1]: int(match[2]) for match in found.values() if match}


def test_code_cells_are_short(notebook):
    counted = [cell for cell in code_cells(notebook) if cell not in tagged(notebook, "parameters")]
    lines = sorted(len([line for line in cell.source.splitlines() if line.strip()]) for cell in counted)
    assert lines[-1] <= 20, "split the longest cell, or move what is no lesson into the package"
    assert lines[len(lines) // 2] <= 4 and lines[int(0.9 * len(lines))] <= 10, "shorten the cells: one idea a cell"


def test_code_cells_are_explained(notebook):
    kinds = "".join("c" if cell.cell_type == "code" else "m" for cell in notebook.cells)
    assert "ccc" not in kinds, "put a word between three code cells"
    assert 0.85 < kinds.count("m") / kinds.count("c") < 2.2, "keep about one text a code cell"


@pytest.mark.parametrize("path", PATHS + SOLUTIONS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_names_are_whole_words_in_lower_case(path):
    stored = code_cells(nbformat.read(path, as_version=4))
    given = {node.id for node in nodes(stored, ast.Name) if isinstance(node.ctx, ast.Store)}
    wrong = {name for name in given if not re.fullmatch(r"[a-z_][a-z0-9_]*", name)} | given & VAGUE
    assert not wrong, f"write out in lower case: {wrong}"


def test_text_has_its_parts_and_no_banned_words(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert not [part for part in PARTS if part not in text], f"each notebook has {', '.join(PARTS)}"
    assert not (found := re.search(BANNED, text, re.IGNORECASE)), f"take out: {found}"
    levels = [len(mark) for mark in re.findall(r"^(#+) ", text, re.MULTILINE)]
    assert levels[0] == 1 and levels.count(1) == 1 and max(levels) <= 3, "one title, and headings of levels 2 and 3"


def test_minutes_of_the_sections_add_up_to_those_of_the_title(notebook):
    title = int(re.search(r"\*\*Time\*\* (\d+) minutes", notebook.cells[0].source)[1])
    assert title == sum(sections(notebook).values()), "correct the title's or a section's minutes"


def test_first_four_notebooks_fit_90_minutes():
    first = [nbformat.read(path, as_version=4) for path in PATHS if path.stem in pipeline.NOTEBOOKS]
    assert len(first) == 4 and sum(sum(sections(notebook).values()) for notebook in first) <= 90


def test_figures_are_told_in_words_next_to_them(notebook):
    for cell, following in zip(notebook.cells, notebook.cells[1:], strict=False):
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            assert "**In words.**" in following.source, f"tell the figure of cell {cell.id} in words after it"


def test_predictions_are_asked_for_and_checked(notebook):
    ids = [cell.id for cell in notebook.cells]
    asked = [place for place, cell in enumerate(notebook.cells) if cell.source.startswith("**Predict.**")]
    assert asked and all(ids[place + 1].startswith("check-") for place in asked), "a self-check follows each question"
    (quiz,) = [cell for cell in notebook.cells if cell.id == "quiz"]
    assert quiz.source.count("<details><summary>") >= 4, "ask at least four questions in the quiz"


def test_cells_say_where_they_stand_on_a_slide(notebook):
    kinds = [cell.metadata["slideshow"]["slide_type"] for cell in notebook.cells]
    assert set(kinds) <= {"slide", "subslide", "fragment", "skip", "-"} and kinds[0] == "slide"
    for cell, kind in zip(notebook.cells, kinds, strict=True):
        heading = cell.cell_type == "markdown" and cell.source.startswith("#")
        assert (kind == "slide") == heading or cell.id == "exercises", f"cell {cell.id}: a heading begins a slide"
